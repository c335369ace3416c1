"""Find runs of words that two texts have in common, by which data sets are compared.

In: texts.  Out: words (lower-cased runs of letters and digits) and all runs of so many of them. In scripts without
spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer) each sign is a word: a sentence would else be one.
``SHARED`` is what a step writes of a benchmark: {item: ids of the rows that share text with it}.
Known gap: none.
"""

import re

from icon_repro.data.rows import Example

SHARED = "shared.json"
Words = tuple[str, ...]
_SIGNS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[^\W_{_SIGNS}]+|(?!_)\w")


def words(text: str) -> Words:
    """The words of a text."""
    return tuple(_WORD.findall(text.lower()))


def row_words(row: Example) -> Words:
    """The words of a row's instruction, input and response, one after the other."""
    return words(f"{row.instruction} {row.input} {row.response}")


def runs(of: Words, length: int) -> set[Words]:
    """All runs of ``length`` consecutive words; none, if there are fewer."""
    return {of[i : i + length] for i in range(len(of) - length + 1)}
