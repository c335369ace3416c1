"""Figures from stored numbers: lines with bands, points, bars, grids; each with a csv of exactly what it shows.

In: panels made of series.  Out: <name>.png (150 dpi), <name>.svg if asked for, and <name>.csv (panel, series, label, x,
y, low, high; of a grid a series is a row, a label a column, y the cell).
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


@dataclass(frozen=True)
class Grid:
    """A table of shares from 0 to 1 in shades of one colour, with the numbers written in; alone in its panel."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]  # a sequence a row


Series = Line | Scatter | Bars | Grid


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


def write_figure(folder: Path, name: str, title: str, panels: Sequence[Panel], *, svg: bool = False) -> None:
    """Write <name>.png and <name>.csv, and <name>.svg if asked for.

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
    _draw([folder / f"{name}.{suffix}" for suffix in ("png", *(["svg"] if svg else []))], title, panels)


def _rows(panel: int, series: Series) -> list[list[Any]]:
    """What a series shows, a line a point."""
    if isinstance(series, Grid):
        if len(series.values) != len(series.rows) or any(len(row) != len(series.columns) for row in series.values):
            raise FigureError(f"grid of {len(series.rows)} x {len(series.columns)} names: other numbers of values.")
        return [
            [panel, name, column, x, rounded(value), "", ""]
            for name, row in zip(series.rows, series.values, strict=True)
            for x, (column, value) in enumerate(zip(series.columns, row, strict=True))
        ]
    parts = {part: getattr(series, part, None) for part in ("labels", "x", "y", "low", "high")}
    lengths = {part: len(values) for part, values in parts.items() if values is not None}
    if len(set(lengths.values())) > 1 or ("low" in lengths) != ("high" in lengths):
        raise FigureError(f"series {series.name!r}: parts of different lengths {lengths}, or low without high.")
    columns = [parts["labels"] if parts["labels"] is not None else [""] * len(series.y)]
    for part in ("x", "y", "low", "high"):
        values = parts[part]
        columns.append([""] * len(series.y) if values is None else [rounded(value) for value in values])
    return [[panel, series.name, *cells] for cells in zip(*columns, strict=True)]


def _draw(paths: Sequence[Path], title: str, panels: Sequence[Panel]) -> None:
    import matplotlib  # slow to import, and only here
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "icon_repro"  # ids in an svg are random otherwise
        cells = max((len(s.rows) for panel in panels for s in panel.series if isinstance(s, Grid)), default=0)
        size = (6 if len(panels) == 1 else 4.6 * len(panels), 4) if not cells else (2.5 + 0.6 * cells, 2 + 0.5 * cells)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel)
        for path in paths:
            nothing = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
            figure.savefig(path, dpi=150, metadata=nothing)


def _draw_grid(axes: "Axes", panel: Panel, grid: Grid) -> None:
    axes.imshow(grid.values, cmap="cividis", vmin=0, vmax=1, aspect="auto")  # even in grey, and for the colour-blind
    for y, row in enumerate(grid.values):
        for x, value in enumerate(row):
            colour = "white" if value < 0.55 else "black"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(grid.columns)), list(grid.columns), rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(grid.rows)), list(grid.rows), fontsize=8)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    if len(panel.series) == 1 and isinstance(panel.series[0], Grid):
        _draw_grid(axes, panel, panel.series[0])
        return
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
        elif isinstance(series, Bars):
            width = 0.8 / len(panel.series)
            places = [x + width * (index - (len(panel.series) - 1) / 2) for x in series.x]
            axes.bar(places, series.y, width=width, color=colour, label=series.name)
            if series.low is not None and series.high is not None:
                axes.vlines(places, series.low, series.high, color="black", linewidth=1.2)
            axes.set_xticks(list(series.x), list(series.labels))
        else:
            raise FigureError("a grid stands alone in its panel.")
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
