"""Figures from stored numbers: lines with bands, points, bars; each with a csv of exactly what it shows.

In: panels made of series.  Out: <name>.png (150 dpi) and <name>.csv (panel, series, label, x, y, low, high).
The same numbers give the same bytes: no dates or versions inside, no settings of the user's own matplotlib.
Known gap: another version of matplotlib or of its fonts draws other pixels; the csv stays the same.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): told apart with any common colour blindness. Shapes and dashes differ besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "^", "s", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))


class FigureError(ValueError):
    """Series that can't be drawn."""


@dataclass(frozen=True)
class Line:
    """A line through points, with a band if ``low`` and ``high`` are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marked: bool = True  # a marker at each point


@dataclass(frozen=True)
class Scatter:
    """Points, each with its name in the csv."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] | None = None


@dataclass(frozen=True)
class Bars:
    """A bar for each label, with an error bar if ``low`` and ``high`` are given; x counts from 0."""

    name: str
    labels: Sequence[str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    @property
    def x(self) -> Sequence[float]:
        return range(len(self.labels))


Series = Line | Scatter | Bars


@dataclass(frozen=True)
class Panel:
    """One pair of axes; labels name the quantity and its unit."""

    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    y_range: tuple[float, float] | None = None


def rounded(value: float) -> float:
    """Six significant digits: what a stored number keeps, so that other processors' last digits don't show."""
    return float(f"{value:.6g}")


def write_figure(folder: Path, name: str, title: str, panels: Sequence[Panel]) -> None:
    """Write <name>.png and <name>.csv.

    Raises:
        FigureError: nothing to draw, or a series whose parts differ in length.
    """
    if not panels or not all(panel.series for panel in panels):
        raise FigureError(f"figure {name!r}: needs panels with at least one series each.")
    lines = [
        line for number, panel in enumerate(panels, 1) for series in panel.series for line in _rows(number, series)
    ]
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["panel", "series", "label", "x", "y", "low", "high"], *lines])
    _draw(folder / f"{name}.png", title, panels)


def _rows(panel: int, series: Series) -> list[list[Any]]:
    """What a series shows, a line a point."""
    parts = {part: getattr(series, part, None) for part in ("labels", "x", "y", "low", "high")}
    lengths = {part: len(values) for part, values in parts.items() if values is not None}
    if len(set(lengths.values())) > 1 or ("low" in lengths) != ("high" in lengths):
        raise FigureError(f"series {series.name!r}: parts of different lengths {lengths}, or low without high.")
    columns = [parts["labels"] if parts["labels"] is not None else [""] * len(series.y)]
    for part in ("x", "y", "low", "high"):
        values = parts[part]
        columns.append([""] * len(series.y) if values is None else [rounded(value) for value in values])
    return [[panel, series.name, *cells] for cells in zip(*columns, strict=True)]


def _draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    import matplotlib  # slow to import, and only here
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(6 if len(panels) == 1 else 4.6 * len(panels), 4), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    for index, series in enumerate(panel.series):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        if isinstance(series, Line):
            dash = DASHES[index % len(DASHES)]
            shape = {"marker": marker, "markersize": 4} if series.marked else {}
            axes.plot(series.x, series.y, color=colour, linestyle=dash, label=series.name, **shape)  # type: ignore[arg-type]
            if series.low is not None and series.high is not None:
                axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)
        elif isinstance(series, Scatter):
            axes.scatter(
                series.x, series.y, s=14, color=colour, marker=marker, alpha=0.7, linewidths=0, label=series.name
            )
        else:
            width = 0.8 / len(panel.series)
            places = [x + width * (index - (len(panel.series) - 1) / 2) for x in series.x]
            axes.bar(places, series.y, width=width, color=colour, label=series.name)
            if series.low is not None and series.high is not None:
                axes.vlines(places, series.low, series.high, color="black", linewidth=1.2)
            axes.set_xticks(list(series.x), list(series.labels))
    if panel.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    if len(panel.series) > 1:
        axes.legend(fontsize=8, framealpha=0.8)
