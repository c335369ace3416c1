"""The meaningless context that a candidate is compared with.

Source: arXiv 2505.05327, figure 1: a random context of the candidate's length.
Differs: the released scripts match the number of characters, which makes 3.8 times as many tokens, and draw a new text
for every pair without a seed (D4, D5 in the README). Here: the same number of tokens, one seeded text a candidate.
"""

import hashlib
import random
import string

from transformers import PreTrainedTokenizerBase

from icon_repro.lm.tokens import text_ids

_ALPHABET = string.ascii_letters + string.digits + string.punctuation + " "


def noise_ids(tokenizer: PreTrainedTokenizerBase, length: int, seed: int, candidate_id: str) -> list[int]:
    """Exactly ``length`` token ids of random characters; the same for the same seed and candidate, in any order."""
    generator = random.Random(hashlib.sha256(f"{seed}:{candidate_id}".encode()).digest())
    ids: list[int] = []
    while len(ids) < length:
        text = "".join(generator.choices(_ALPHABET, k=8 * length))
        ids += text_ids(tokenizer, text)[0]
    return ids[:length]
