"""Make the meaningless context that a candidate is compared with.

Source: arXiv 2505.05327, figure 1: a random context of the candidate's length.
Differs: the released scripts match the number of characters, which makes 3.8 times as many tokens (D4, option
``noise_unit=characters``), and draw a new text for every pair without a seed (D5, option ``control=per_pair``).
Default, ``bank``: seeded texts of a few lengths in tokens, scored once for all candidates; a candidate's control is
the mean perplexity over texts, interpolated at its length. It estimates what ``per_candidate`` (one seeded text for
each, of exactly its length) gives on average, without the noise of a single text.
"""

import hashlib
import random
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.lm.tokens import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALPHABET = string.ascii_letters + string.digits + string.punctuation + " "


def _generator(seed: int, key: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{seed}:{key}".encode()).digest())


def noise_ids(tokenizer: "PreTrainedTokenizerBase", length: int, seed: int, key: str) -> list[int]:
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


def bank_lengths(grid: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The lengths of ``grid`` that lie around those wanted: nothing is extrapolated within the grid."""
    lengths = sorted(set(grid))
    if not wanted:
        return []
    low = max((length for length in lengths if length <= min(wanted)), default=lengths[0])
    high = min((length for length in lengths if length >= max(wanted)), default=lengths[-1])
    return [length for length in lengths if low <= length <= high]


def bank_control(
    bank: NDArray[np.floating[Any]], lengths: Sequence[int] | NDArray[Any], wanted: Sequence[int] | NDArray[Any]
) -> NDArray[np.float64]:
    """Control of candidates from a bank: perplexity, mean over texts, linear in log(length) between lengths.

    Args:
        bank: (b, d, n) mean NLL of n assessment rows after d random texts of b lengths, nats per token.
        lengths: (b,) tokens, ascending.
        wanted: (c,) tokens of the candidates; outside of ``lengths`` the nearest end counts.

    Returns:
        (c, n) float64, nats per token: the log of the perplexity.
    """
    perplexity = np.exp(np.asarray(bank, np.float64)).mean(axis=1)
    place = np.interp(np.log(np.asarray(wanted)), np.log(np.asarray(lengths)), np.arange(len(lengths)))
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, len(lengths) - 1)
    share = (place - below)[:, None]
    return np.asarray(np.log((1 - share) * perplexity[below] + share * perplexity[above]))
