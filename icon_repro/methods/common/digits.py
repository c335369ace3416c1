"""Read a rating that a model gives as one digit: which tokens the digits are, and how likely each comes next.

In: a model with its tokenizer, token ids of texts that end where a digit is expected.  Out: (texts, digits) float64.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icon_repro.engine.progress import Progress
from icon_repro.lm.budget import TokenBudget, in_batches, padded, refuse_longer
from icon_repro.lm.load import positions_of
from icon_repro.lm.nll import logits_at
from icon_repro.lm.tokens import text_ids


class DigitError(ValueError):
    """The tokenizer has no single token for a digit."""


def digit_ids(tokenizer: PreTrainedTokenizerBase, digits: str) -> list[int]:
    """The token of each of ``digits`` as it stands alone, after a line break.

    A digit alone may take two tokens all the same: Llama 2's tokenizer puts a word start before every text.

    Raises:
        DigitError: a digit isn't one token of its own, or two digits have the same one.
    """
    before = text_ids(tokenizer, "\n")[0]
    tokens = [text_ids(tokenizer, f"\n{digit}")[0] for digit in digits]
    for digit, item in zip(digits, tokens, strict=True):
        if item[:-1] != before:
            raise DigitError(
                f"the tokenizer has no single token for the digit {digit!r} after a line break: a rating can't be read."
            )
    ids = [item[-1] for item in tokens]
    if len(set(ids)) < len(ids):
        raise DigitError(f"the tokenizer has one token for several of the digits {digits}: a rating can't be read.")
    return ids


@torch.inference_mode()
def digit_probabilities(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    digits: Sequence[int],
    budget: TokenBudget,
    progress: Progress,
) -> NDArray[np.float64]:
    """How likely each of ``digits`` is the token after each row.

    Args:
        rows: token ids; none may be empty.
        digits: token ids.

    Returns:
        (len(rows), len(digits)), shares of the whole vocabulary.

    Raises:
        TokenError: a row is longer than the model's positions.
    """
    refuse_longer("a question", max(map(len, rows), default=0), positions_of(model), "Lower max_length.")
    result = np.empty((len(rows), len(digits)))

    def work(batch: list[int]) -> None:
        ids, lengths = padded([rows[i] for i in batch], model.device)
        row = torch.arange(len(batch), device=model.device)
        logits = torch.cat(list(logits_at(model, row, lengths - 1, {"input_ids": ids, "use_cache": False})))
        result[batch] = logits.double().softmax(dim=-1)[:, list(digits)].cpu().numpy()
        progress.advance(len(batch), int(lengths.sum()))

    in_batches([len(row) for row in rows], budget, work)
    return result
