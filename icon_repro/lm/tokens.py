"""Make the token ids of prompt and answer. The one function that masks labels is here.

Layout: BOS (if the tokenizer adds one) + context + separator + prompt + answer; each text is tokenised on its own and
without special tokens, so that an answer has the same ids in every context.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a report reads scores without it: it takes seconds to import
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's index for positions without a loss


class TokenError(ValueError):
    """A text has no token to score or to score from."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its answer; ``ids[answer_start:]`` are the answer's."""

    ids: list[int]
    answer_start: int
    cut: int = 0  # tokens that limits removed

    @property
    def answer_tokens(self) -> int:
        return len(self.ids) - self.answer_start


def bos_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids that the tokenizer itself puts before a text: [BOS], or [] (Qwen2.5, SmolLM2)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []


def end_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids that the tokenizer itself puts after a text: mostly none, [EOS] where ``add_eos_token`` is set."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    return list(tokenizer("a")["input_ids"][len(bos_ids(tokenizer)) + len(bare) :])


def text_ids(
    tokenizer: "PreTrainedTokenizerBase", text: str, limit: int | None = None, *, control: bool = False
) -> tuple[list[int], int]:
    """Ids of ``text`` without special tokens, at most ``limit`` from the start; and how many were cut.

    Args:
        control: read "</s>" and the like as the tokens of that name, as in a chat template's text; in a text of a
            user they are letters as any others.
    """
    split = {} if control else {"split_special_tokens": True}
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False, **split)["input_ids"])
    return (ids, 0) if limit is None else (ids[:limit], max(len(ids) - limit, 0))


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> "re.Pattern[str] | None":
    """Finds the names of control tokens in a text, where they are letters; None if there are none."""
    named = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = sorted(named | set(tokenizer.all_special_tokens), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, names))) if names else None


def joint_ids(tokenizer: "PreTrainedTokenizerBase", before: str, answer: str) -> tuple[list[int], int]:
    """Ids of ``before + answer`` as one text, and where the answer starts: after as many as ``before`` has alone.

    How published scripts tokenise. Where the two texts meet, a token may hold letters of both; ``before`` has it.
    """
    return text_ids(tokenizer, before + answer)[0], len(text_ids(tokenizer, before)[0])


def readable(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> bool:
    """Whether ``ids`` hold any token besides the tokenizer's unknown one: else it can't read the text at all."""
    return any(i != tokenizer.unk_token_id for i in ids)


def has_unknown(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> bool:
    """Whether the tokenizer put its unknown token in the place of letters; never where that is the end token too."""
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.pad_token_id) and unknown in ids


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    answer: str,
    *,
    max_prompt_tokens: int | None = None,
    max_answer_tokens: int | None = None,
    name: str = "row",
) -> Encoded:
    """Ids of prompt + answer without BOS, as they follow any context.

    Raises:
        TokenError: the answer has no token; its mean NLL would be NaN.
    """
    prompt_ids, prompt_cut = text_ids(tokenizer, prompt, max_prompt_tokens)
    answer_ids, answer_cut = text_ids(tokenizer, answer, max_answer_tokens)
    if not answer_ids:
        raise TokenError(f"{name}: response {answer!r} has no tokens, so nothing can be scored. Drop the row.")
    return Encoded(prompt_ids + answer_ids, len(prompt_ids), prompt_cut + answer_cut)


def mask_labels(ids: Sequence[int], answer_start: int) -> list[int]:
    """Labels for a causal LM: the ids from ``answer_start`` on, IGNORED before; not shifted.

    The only place in the project that decides which tokens are scored.
    """
    return [IGNORED] * answer_start + list(ids[answer_start:])


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length: longest first, at most ``budget`` padded tokens each (or one row).

    Depends on its arguments only, so that a row always meets the same neighbours, wherever and whenever it's scored.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
