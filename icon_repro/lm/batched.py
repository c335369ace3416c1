"""Mean answer NLL of many rows after one prefix, in batches that fit into memory.

In: a model, a shared prefix, encoded rows.  Out: (rows,) float64, nats per scored token.
The order of the batches depends on the rows' lengths and the token budget only; the prefix's keys and values are
computed once. When memory runs out the budget is halved and the rest packed anew.
Rows without a prefix that begin alike, as those of one template do, share the keys and values of their beginning.
"""

import os.path
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icon_repro.engine.progress import Progress
from icon_repro.lm.budget import TokenBudget, in_batches
from icon_repro.lm.nll import answer_nll, make_prefix
from icon_repro.lm.tokens import Encoded, TokenError


_KEY = 16  # first tokens by which rows that begin alike are found
_LEAST = 8  # rows in a group
_SHORT = 4  # tokens; a shorter beginning isn't worth a cache


def beginnings(rows: Sequence[Encoded | None]) -> list[tuple[list[int], list[int]]]:
    """Rows in groups that begin alike: (indices, ids that all of the group begin with, before any answer).

    Depends on ``rows`` only; rows that are None are in no group.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if row is not None:
            groups.setdefault(tuple(row.ids[:_KEY]), []).append(index)
    alike = [group for group in groups.values() if len(group) >= _LEAST]
    others = sorted(index for group in groups.values() if len(group) < _LEAST for index in group)
    made = []
    for group in [*alike, *([others] if others else [])]:
        members = [row for index in group if (row := rows[index]) is not None]
        common = os.path.commonprefix([row.ids[: row.answer_start] for row in members])
        made.append((group, common if len(common) >= _SHORT and len(group) >= _LEAST else []))
    return made


def mean_nll_alone(
    model: PreTrainedModel,
    pad: int,
    rows: Sequence[Encoded | None],
    budget: TokenBudget,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """``mean_nll`` of rows without a prefix; what rows have in common at their beginning is run once."""
    result = np.full(len(rows), np.nan)
    for group, common in beginnings(rows):
        members = [row for index in group if (row := rows[index]) is not None]
        left = [Encoded(row.ids[len(common) :], row.answer_start - len(common)) for row in members]
        result[group] = mean_nll(model, pad, common, left, budget, progress)
    if progress:
        progress.advance(sum(row is None for row in rows))
    return result


def mean_nll(
    model: PreTrainedModel,
    pad: int,
    prefix: Sequence[int],
    rows: Sequence[Encoded | None],
    budget: TokenBudget,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Mean NLL of each row's scored tokens after a shared prefix, whose keys and values are computed once.

    Args:
        pad: fills shorter rows; has no influence.
        prefix: ids before every row; may be empty.
        rows: None where no token is scored.

    Returns:
        (len(rows),) float64, nats per scored token; NaN where the row is None.

    Raises:
        TokenError: prefix and row are longer than the model's positions.
        OutOfMemoryError: a single row doesn't fit.
    """
    # The last token before the row goes with the row: it predicts the first answer token if the prompt is empty.
    shared, last = list(prefix[:-1]), list(prefix[-1:])
    present = {i: Encoded(last + r.ids, r.answer_start + len(last)) for i, r in enumerate(rows) if r is not None}
    result = np.full(len(rows), np.nan)
    if not present:
        return result
    longest = len(shared) + max(len(row.ids) for row in present.values())
    limit = getattr(model.config, "max_position_embeddings", longest)
    if longest > limit:
        raise TokenError(
            f"context and assessment row take {longest} tokens, the model has {limit} positions. Lower "
            "max_context_tokens, max_prompt_tokens or max_response_tokens of the method."
        )
    cache = make_prefix(model, shared)
    indices = list(present)

    def work(packed: list[int]) -> None:
        batch = [indices[k] for k in packed]
        sums, counts = answer_nll(model, [present[i] for i in batch], pad, cache)
        result[batch] = (sums / counts).numpy()
        if progress:
            progress.advance(len(batch), sum(len(present[i].ids) for i in batch))

    in_batches([len(present[i].ids) for i in indices], budget, work)
    if progress:
        progress.advance(len(rows) - len(present), len(shared))
    return result
