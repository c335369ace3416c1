"""Compute the mean answer NLL of many rows after one prefix, in batches that fit into memory.

In: a model, a shared prefix, encoded rows.  Out: (rows,) float64, nats per scored token.
The order of the batches depends on the rows' lengths and the token budget only; the prefix's keys and values are
computed once. When memory runs out the budget is halved and the rest packed anew.
Rows without a prefix that begin alike, as those of one template do, share the keys and values of their beginning.
"""

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icon_repro.engine.progress import Progress
from icon_repro.lm.budget import TokenBudget, in_batches, refuse_longer
from icon_repro.lm.load import positions_of
from icon_repro.lm.nll import answer_nll, make_prefix
from icon_repro.lm.tokens import Encoded

_KEY = 16  # first tokens by which rows that begin alike are found
_LEAST = 8  # rows in a group
_SHORT = 4  # tokens; a shorter beginning isn't worth a cache
_FILL = 0.85  # of the longest row in a batch, that the shortest has at least: padding costs what tokens cost


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
    grouped = []
    for group in [*alike, *([others] if others else [])]:
        members = [row for index in group if (row := rows[index]) is not None]
        columns = zip(*(row.ids[: row.answer_start] for row in members), strict=False)
        common = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
        grouped.append((group, common if len(common) >= _SHORT and len(group) >= _LEAST else []))
    return grouped


def bins(lengths: Sequence[int], fill: float) -> list[list[int]]:
    """Indices in groups, longest first, in each of which all lengths are at least ``fill`` of the longest."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[index] >= fill * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def mean_nll_alone(
    model: PreTrainedModel,
    pad: int,
    rows: Sequence[Encoded | None],
    budget: TokenBudget,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """``mean_nll`` of rows without a prefix, with little padding; what rows begin with in common is run once."""
    result = np.full(len(rows), np.nan)
    for group, common in beginnings(rows):
        members = [row for index in group if (row := rows[index]) is not None]
        left = [Encoded(row.ids[len(common) :], row.answer_start - len(common)) for row in members]
        result[group] = mean_nll(model, pad, common, left, budget, progress, fill=_FILL)
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
    *,
    fill: float = 0.0,
) -> NDArray[np.float64]:
    """Mean NLL of each row's scored tokens after a shared prefix, whose keys and values are computed once.

    Args:
        pad: fills shorter rows; has no influence.
        prefix: ids before every row; may be empty.
        rows: None where no token is scored.
        fill: length of the shortest row in a batch over that of the longest, at least.

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
    remedy = (
        "Lower max_length of the method (icon: max_context_tokens, max_prompt_tokens or max_response_tokens; nuggets: "
        "shot_tokens or anchor_tokens)."
    )
    refuse_longer("a row, with what stands before it,", longest, positions_of(model), remedy)
    cache = make_prefix(model, shared)
    indices = list(present)

    def work(part: list[int], packed: list[int]) -> None:
        batch = [indices[part[k]] for k in packed]
        sums, counts = answer_nll(model, [present[i] for i in batch], pad, cache)
        result[batch] = (sums / counts).numpy()
        if progress:
            progress.advance(len(batch), sum(len(present[i].ids) for i in batch))

    lengths = [len(row.ids) for row in present.values()]
    for part in bins(lengths, fill):
        in_batches([lengths[k] for k in part], budget, partial(work, part))
    if progress:
        progress.advance(len(rows) - len(present), len(shared))
    return result
