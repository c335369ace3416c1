"""Find runs of words that two texts have in common, by which data sets are compared.

In: texts.  Out: words (lower-cased runs of letters and digits) and all runs of so many of them.
``SHARED`` is what a step writes of a benchmark: {item: ids of the rows that share text with it}.
Known gap: none.
"""

import re

from icon_repro.data.rows import Example

SHARED = "shared.json"
Words = tuple[str, ...]
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> Words:
    """The words of a text."""
    return tuple(_WORD.findall(text.lower()))


def row_words(row: Example) -> Words:
    """The words of a row's instruction, input and response, one after the other."""
    return words(f"{row.instruction} {row.input} {row.response}")


def runs(of: Words, length: int) -> set[Words]:
    """All runs of ``length`` consecutive words; none, if there are fewer."""
    return {of[i : i + length] for i in range(len(of) - length + 1)}
