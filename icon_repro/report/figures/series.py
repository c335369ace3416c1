"""Name the parts of a figure: curves, points, bars and grids in panels, with the numbers that they show.

In: nothing.  Out: dataclasses, which ``report.figures.draw`` writes and draws.
Known gap: none.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class FigureError(ValueError):
    """Series that can't be drawn."""


@dataclass(frozen=True)
class Curve:
    """A line through points, with a band if ``low`` and ``high`` are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marked: bool = True  # a marker at each point
    whiskers: bool = False  # ``low`` and ``high`` as an error bar at each point instead of a band
    faint: bool = False  # grey: what the others are compared with
    method: str = ""  # whose style it has; empty: that of its place


@dataclass(frozen=True)
class Scatter:
    """Points, each with its name in the csv, and an error bar if ``low`` and ``high`` are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] | None = None
    faint: bool = False  # small and grey: what the others lie on
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    named: bool = False  # ``labels`` stand beside the points
    method: str = ""  # whose style it has; empty: that of its place
    methods: Sequence[str] | None = None  # the same, of each point
    hollow: Sequence[bool] | None = None  # points that are drawn as outlines


@dataclass(frozen=True)
class Bars:
    """A bar for each label, with an error bar if ``low`` and ``high`` are given; x counts from 0."""

    name: str
    labels: Sequence[str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    methods: Sequence[str] | None = None  # whose style each bar has; None: all have that of the series' place

    @property
    def x(self) -> Sequence[float]:
        return range(len(self.labels))


@dataclass(frozen=True)
class Grid:
    """A table of shares from 0 to 1 in shades of one colour, with the numbers written in; alone in its panel."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]  # a sequence a row
    low: Sequence[Sequence[float]] | None = None  # what chance gives: cells between are hatched
    high: Sequence[Sequence[float]] | None = None


Series = Curve | Scatter | Bars | Grid


@dataclass(frozen=True)
class Panel:
    """One pair of axes; labels name the quantity and its unit."""

    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False  # powers of 2
    y_range: tuple[float, float] | None = None
    title: str = ""
    decades_x: bool = False  # a log axis in powers of 10
    ticks_x: Sequence[float] | None = None  # the only numbers at the axis
    ticks_y: Sequence[float] | None = None
    names_x: Sequence[str] | None = None  # what stands at 0, 1, 2.. of the axis
    y_as_left: bool = False  # its y axis is that of the panel to its left, if there is one, and isn't numbered again
    decades_y: bool = False
    stacked: bool = False  # bars lie, one after the other from 0, with their numbers written in
    legend: bool = True  # False: another panel has the same
    lying: bool = False  # places run down, values to the right: a forest of differences with their intervals
    wide_legend: bool = False  # beside the axes: for many series


def rounded(value: float) -> float:
    """Six significant digits: what a stored number keeps, so that other processors' last digits don't show."""
    return float(f"{value:.6g}")
