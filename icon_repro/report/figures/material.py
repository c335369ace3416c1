"""Hold what figures and samples of an experiment are made of besides its rows of results.

In: nothing.  Out: ``Material``, which ``icon_repro.report.presentation`` reads from the store; and ``Figure``, what is
drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Example, Score
from icon_repro.report.figures.series import Panel

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure with its texts."""

    name: str  # of its files
    title: str
    caption: str  # how to read it, and what isn't in it
    alt: str  # what it shows, for who doesn't see it
    panels: Sequence[Panel]


class NotMade(Exception):  # noqa: N818 (no error: the reason why there is no figure)
    """There is nothing to make this figure of; the message says why."""


@dataclass(frozen=True)
class Ranked:
    """One method's scores and what was selected by them; a method with several selection seeds has one of each."""

    method: str
    seed: int | None  # of the selection
    scores: Mapping[str, Score]  # by id
    selected: Mapping[float, Sequence[str]]  # by fraction
    random: bool = False  # the order is drawn

    @property
    def label(self) -> str:
        return self.method if self.seed is None else f"{self.method}-r{self.seed}"


@dataclass(frozen=True)
class Material:
    """Everything is joined by the rows' ids; ``absent`` says by figure why its data isn't there."""

    rows: Mapping[str, Example] = field(default_factory=dict)  # what every method ranks
    ranked: Sequence[Ranked] = ()
    ifd: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # method that computed it -> of all rows
    vectors: tuple[Sequence[str], NDArray[np.float32]] | None = None  # ids, (rows, width) embeddings
    contributions: Mapping[str, Values] = field(default_factory=dict)  # ICon method -> (candidates, assessment rows)
    absent: Mapping[str, str] = field(default_factory=dict)

    def methods(self) -> list[Ranked]:
        """The ranked, of a method with several selection seeds the first only."""
        return list({ranked.method: ranked for ranked in reversed(self.ranked)}.values())[::-1]
