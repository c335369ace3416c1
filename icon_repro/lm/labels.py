"""Turn rows into ids and labels for supervised tuning, and for gradients of single rows."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example
from icon_repro.lm.tokens import IGNORED, bos_ids, encode, has_unknown, mask_labels


def tokenise(
    rows: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prompt: Callable[[Example], str] = alpaca_prompt,
) -> tuple[list[dict[str, list[int]]], dict[str, list[str]]]:
    """input_ids and labels of each row: BOS + prompt + response + eos, loss on response and eos.

    Args:
        max_length: tokens; what is beyond is cut from the end.
        prompt: of a row; tuning's unless given.

    Returns:
        rows for the trainer; ids of the rows that were cut, of those dropped as no label was left, and of those with
        letters that the tokenizer doesn't know.
    """
    start, end = bos_ids(tokenizer), tokenizer.eos_token_id
    tokenised, notes = [], {"cut": list[str](), "dropped": list[str](), "unknown": list[str]()}
    for row in rows:
        item = encode(tokenizer, prompt(row), row.response, name=f"candidate {row.id}")
        ids = start + item.ids + ([end] if end is not None else [])
        labels = mask_labels(ids, len(start) + item.answer_start)
        if has_unknown(tokenizer, item.ids):
            notes["unknown"].append(row.id)
        if len(ids) > max_length:
            notes["cut"].append(row.id)
        if all(label == IGNORED for label in labels[:max_length]):
            notes["dropped"].append(row.id)
            continue
        tokenised.append({"input_ids": ids[:max_length], "labels": labels[:max_length]})
    return tokenised, notes
