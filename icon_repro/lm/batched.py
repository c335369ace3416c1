"""Mean answer NLL of many rows after one prefix, in batches that fit into memory.

In: a model, a shared prefix, encoded rows.  Out: (rows,) float64, nats per scored token.
The order of the batches depends on the rows' lengths and the token budget only; the prefix's keys and values are
computed once. When memory runs out the budget is halved and the rest packed anew.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icon_repro.engine.progress import Progress
from icon_repro.lm.budget import TokenBudget, in_batches
from icon_repro.lm.nll import answer_nll, make_prefix
from icon_repro.lm.tokens import Encoded, TokenError


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
