"""The meaningless context that a candidate is compared with.

Source: arXiv 2505.05327, figure 1: a random context of the candidate's length.
Differs: the released scripts match the number of characters, which makes 3.8 times as many tokens (D4, option
``noise_unit=characters``), and draw a new text for every pair without a seed (D5, option ``control=per_pair``).
Default: the same number of tokens, one seeded text a candidate.
"""

import hashlib
import random
import string

from transformers import PreTrainedTokenizerBase

from icon_repro.lm.tokens import text_ids

_ALPHABET = string.ascii_letters + string.digits + string.punctuation + " "


def _generator(seed: int, key: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{seed}:{key}".encode()).digest())


def noise_ids(tokenizer: PreTrainedTokenizerBase, length: int, seed: int, key: str) -> list[int]:
    """Exactly ``length`` token ids of random characters; the same for the same seed and key, in any order.

    Args:
        key: candidate id, or candidate and assessment id for a control of each pair.
    """
    generator, ids = _generator(seed, key), list[int]()
    while len(ids) < length:
        text = "".join(generator.choices(_ALPHABET, k=8 * length))
        ids += text_ids(tokenizer, text)[0]
    return ids[:length]


def noise_text(characters: int, seed: int, key: str) -> str:
    """``characters`` random characters; the same for the same seed and key."""
    return "".join(_generator(seed, key).choices(_ALPHABET, k=characters))
