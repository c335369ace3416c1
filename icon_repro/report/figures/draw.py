"""Draw figures from stored numbers: lines with bands, points, bars, grids; each with a csv of exactly what it shows.

In: panels made of series.  Out: <name>.png (150 dpi), <name>.svg if asked for, and <name>.csv (panel, series, label, x,
y, low, high; of a grid a series is a row, a label a column, y the cell).
The same numbers give the same bytes: no dates or versions inside, no settings of the user's own matplotlib.
Known gap: another version of matplotlib or of its fonts draws other pixels; the csv stays the same.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icon_repro.engine.records import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito (2008): told apart with any common colour blindness. Shapes and dashes differ besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">", "h", "p")  # beyond six series a colour comes twice
HATCHES = ("", "//", "..", "xx", "--", "++")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))

_ABREAST, _COLUMNS = 4, 3  # up to so many panels stand in one line; more of them in lines of three
_DPI = 150
_LEGIBLE = 0.07  # of the axis: the smallest part of a stacked bar that a number fits into
_DECADES_WITH_MORE = 500  # end over start of a log axis below which 2 and 5 stand between powers of 10
_BESIDE = 8  # series whose points stand apart in full
_LEVEL_LABELS = 30  # characters under bars before they are slanted


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
    wide_legend: bool = False  # beside the axes: for many series


def rounded(value: float) -> float:
    """Six significant digits: what a stored number keeps, so that other processors' last digits don't show."""
    return float(f"{value:.6g}")


def write_figure(folder: Path, name: str, title: str, panels: Sequence[Panel], *, svg: bool = False) -> None:
    """Write <name>.png and <name>.csv, and <name>.svg if asked for.

    Raises:
        FigureError: nothing to draw, or a series whose parts differ in length.
    """
    write_points(folder, name, panels)
    _draw([folder / f"{name}.{suffix}" for suffix in ("png", *(["svg"] if svg else []))], title, panels)


def write_described(folder: Path, figures: Sequence[tuple[str, str, str, Sequence[Panel]]]) -> None:
    """Write figures.json, the texts of figures in ``folder`` itself: name, title, what it shows, and its panels."""
    texts = [
        {"name": name, "title": title, "caption": shows, "alt": shows, "wide": len(panels) > 1}
        for name, title, shows, panels in figures
    ]
    write_json(folder / "figures.json", {"figures": texts, "not_made": []})


def write_points(folder: Path, name: str, panels: Sequence[Panel]) -> None:
    """Write <name>.csv alone: what the figure shows.

    Raises:
        FigureError: see ``write_figure``.
    """
    if not panels or not all(panel.series for panel in panels):
        raise FigureError(f"figure {name!r}: needs panels with at least one series each.")
    lines = [
        line for number, panel in enumerate(panels, 1) for series in panel.series for line in _rows(number, series)
    ]
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["panel", "series", "label", "x", "y", "low", "high"], *lines])


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
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "icon_repro"  # ids in an svg are random otherwise
        cells = max((len(s.rows) for panel in panels for s in panel.series if isinstance(s, Grid)), default=0)
        columns = len(panels) if len(panels) <= _ABREAST else _COLUMNS
        lines = -(-len(panels) // columns)
        size = (6.0 if len(panels) == 1 else 4.6 * columns, 4.0 * lines)
        if cells:
            size = (2.5 + 0.6 * cells, 2 + 0.5 * cells)
        elif stacked := max((_bars(panel) for panel in panels if panel.stacked), default=0):
            size = (max(6.5, size[0]), (1.6 + 0.42 * stacked) * lines)
        if any(panel.wide_legend for panel in panels):
            size = (size[0] + 2.2, size[1])
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        places = figure.subplots(lines, columns, squeeze=False).ravel()
        for place, (axes, panel) in enumerate(zip(places, panels, strict=False)):
            _draw_panel(axes, panel)
            axes.set_title(panel.title, fontsize=10)
            if panel.y_as_left and place % columns:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        if (layout := figure.get_layout_engine()) is not None:  # once for all files: it takes most of the time
            layout.execute(figure)
        figure.set_layout_engine("none")
        for path in paths:  # not by savefig, which draws a second time to lay out
            figure.dpi = _DPI
            if path.suffix == ".png":
                FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
            else:
                FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


def _bars(panel: Panel) -> int:
    return max(len(series.y) for series in panel.series if isinstance(series, Bars))


def _draw_stack(axes: "Axes", panel: Panel) -> None:
    """Lying bars, the first label on top."""
    starts = [0.0] * _bars(panel)
    for index, series in enumerate(panel.series):
        if not isinstance(series, Bars):
            raise FigureError("a stacked panel holds bars only.")
        look = {"color": COLOURS[index % len(COLOURS)], "hatch": HATCHES[index % len(HATCHES)], "edgecolor": "white"}
        axes.barh(list(series.x), series.y, left=starts, label=series.name, **look)  # type: ignore[arg-type]
        for place, (start, value) in enumerate(zip(starts, series.y, strict=True)):
            if value >= _LEGIBLE * max(1.0, panel.y_range[1] if panel.y_range else 1.0):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
                axes.text(start + value / 2, place, f"{value:.3g}", ha="center", va="center", fontsize=8, bbox=box)
            starts[place] += value
        axes.set_yticks(list(series.x), list(series.labels))
    axes.invert_yaxis()
    if panel.y_range is not None:
        axes.set_xlim(*panel.y_range)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.legend(fontsize=8, ncols=len(panel.series), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _draw_grid(axes: "Axes", panel: Panel, grid: Grid) -> None:
    edges = [[place - 0.5 for place in range(len(names) + 1)] for names in (grid.columns, grid.rows)]
    axes.pcolormesh(*edges, grid.values, cmap="cividis", vmin=0, vmax=1)  # even in grey, and for the colour-blind
    axes.invert_yaxis()  # the first row on top
    for y, row in enumerate(grid.values):
        for x, value in enumerate(row):
            colour = "white" if value < 0.55 else "black"
            text = axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
            text.set_in_layout(False)  # it lies within the axes
    axes.set_xticks(range(len(grid.columns)), list(grid.columns), rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(grid.rows)), list(grid.rows), fontsize=8)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    if len(panel.series) == 1 and isinstance(panel.series[0], Grid):
        _draw_grid(axes, panel, panel.series[0])
        return
    if panel.stacked:
        _draw_stack(axes, panel)
        return
    for index, series in enumerate(panel.series):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]
        if isinstance(series, Curve):
            dash = ":" if series.faint else DASHES[index % len(DASHES)]
            colour = "#777777" if series.faint else colour
            shape = {"marker": marker, "markersize": 4} if series.marked else {}
            x = _beside(series, panel) if series.whiskers else series.x
            axes.plot(x, series.y, color=colour, linestyle=dash, label=series.name, **shape)  # type: ignore[arg-type]
            if series.low is not None and series.high is not None:
                if series.whiskers:
                    axes.vlines(x, series.low, series.high, color=colour, linewidth=1.2)
                else:
                    axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)
        elif isinstance(series, Scatter):
            look: dict[str, Any] = {"s": 14, "color": colour, "marker": marker, "alpha": 0.7}
            if series.faint:
                look = {"s": 6, "color": "#bbbbbb", "marker": "o"}
            if series.low is not None and series.high is not None:
                axes.vlines(series.x, series.low, series.high, color=colour, linewidth=1)
                look |= {"s": 36, "alpha": 1}
            axes.scatter(series.x, series.y, linewidths=0, label=series.name, **look)
            for *place, label in zip(series.x, series.y, series.labels or [], strict=False) if series.named else ():
                axes.annotate(label, (place[0], place[1]), xytext=(5, 4), textcoords="offset points", fontsize=7)
        elif isinstance(series, Bars):
            bars = [other for other in panel.series if isinstance(other, Bars)]
            width = 0.8 / len(bars)
            places = [x + width * (bars.index(series) - (len(bars) - 1) / 2) for x in series.x]
            hatch = HATCHES[index % len(HATCHES)]
            edge = {"hatch": hatch, "edgecolor": "white"} if hatch else {}
            axes.bar(places, series.y, width=width, color=colour, label=series.name, **edge)  # type: ignore[arg-type]
            if series.low is not None and series.high is not None:
                axes.vlines(places, series.low, series.high, color="black", linewidth=1.2)
            slant = {"rotation": 45, "ha": "right"} if sum(map(len, series.labels)) > _LEVEL_LABELS else {}
            axes.set_xticks(list(series.x), list(series.labels), **slant)  # type: ignore[arg-type]
        else:
            raise FigureError("a grid stands alone in its panel.")
    if panel.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    if panel.decades_x:
        _decades(axes.xaxis, axes.set_xscale, axes.get_xlim)
    if panel.ticks_x is not None:
        axes.set_xticks(list(panel.ticks_x), [f"{tick:g}" for tick in panel.ticks_x])
        axes.minorticks_off()
    if panel.decades_y:
        _decades(axes.yaxis, axes.set_yscale, axes.get_ylim)
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    if panel.names_x is not None:
        axes.set_xticks(range(len(panel.names_x)), list(panel.names_x), rotation=45, ha="right", fontsize=8)
    if panel.ticks_y is not None:
        axes.set_yticks(list(panel.ticks_y))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    if len(panel.series) > 1 and panel.legend:
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if panel.wide_legend else {}
        axes.legend(fontsize=8, framealpha=0.8, **beside)


def _decades(axis: "Axis", scale: Callable[[str], None], limits: Callable[[], tuple[float, float]]) -> None:
    """A log axis whose numbers are plain: powers are typeset slowly."""
    from matplotlib.ticker import LogLocator, NullLocator

    scale("log")
    low, high = limits()
    few = low > 0 and high / low < _DECADES_WITH_MORE
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _beside(series: Curve, panel: Panel) -> list[float]:
    """The places of points, those that several series have a little apart: error bars would hide each other."""
    made = []
    for x in series.x:
        here = [other for other in panel.series if isinstance(other, Curve) and other.whiskers and x in other.x]
        step = (here.index(series) - (len(here) - 1) / 2) * min(1, _BESIDE / len(here))
        log = panel.log_x or panel.decades_x
        made.append(x * 1.025**step if log else x + 0.008 * (max(series.x) - min(series.x) or 1) * step)
    return made
