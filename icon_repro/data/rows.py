"""Define the rows that steps exchange: an example with its answer, and a method's score of it.

In / out: dataclasses, stored as JSON lines. Join rows by ``id``, never by position.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """An instruction with its answer: a candidate of the pool, or a row of the assessment set."""

    id: str
    instruction: str  # the whole prompt if ready
    input: str
    response: str
    group: str = ""
    ready: bool = False  # True: instruction is a finished prompt, no template is applied


@dataclass(frozen=True)
class Score:
    """One method's score of one example; higher is selected first."""

    id: str
    score: float
    parts: dict[str, float] = dataclasses.field(default_factory=dict)


def selected_count(fraction: float, rows: int) -> int:
    """How many of ``rows`` a fraction selects: rounded, at least one."""
    return max(1, round(fraction * rows))


def best_first(scores: Mapping[str, float]) -> list[str]:
    """Ids by score, highest first; ties go to the smaller id."""
    return sorted(scores, key=lambda identifier: (-scores[identifier], identifier))


def content_id(instruction: str, input: str, response: str) -> str:
    """16 hex digits of the sha256 of the JSON list of the three texts: the same row has the same id everywhere."""
    text = json.dumps([instruction, input, response], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def texts_of(row: Example) -> tuple[str, str, str]:
    """What makes two rows the same, whatever their ids: rows of two files may bear the same numbers."""
    return row.instruction, row.input, row.response


def stripped(row: Example) -> Example:
    """``row`` without spaces around its texts."""
    texts = {name: getattr(row, name).strip() for name in ("instruction", "input", "response")}
    return dataclasses.replace(row, **texts)
