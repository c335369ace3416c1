"""Draw one panel with matplotlib: curves, points, bars, grids, and forests of differences.

In: a ``Panel``, matplotlib's axes, the methods whose styles it uses.  Out: what is drawn on the axes.
Known gap: none.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icon_repro.report.figures.series import Bars, Curve, FigureError, Grid, Panel, Scatter
from icon_repro.report.figures.styles import QUIET, Style, style, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_LEGIBLE = 0.07  # of the axis: the smallest part of a stacked bar that a number fits into
_DECADES_WITH_MORE = 500  # end over start of a log axis below which 2 and 5 stand between powers of 10
_BESIDE = 8  # series whose points stand apart in full
_STACKED = ("#3B78B0", "#BBBBBB", "#B5654A")  # parts of a whole, which are no methods
_LEVEL_LABELS = 30  # characters under bars before they are slanted


def bars_of(panel: Panel) -> int:
    """How many bars the longest series of a panel has."""
    return max(len(series.y) for series in panel.series if isinstance(series, Bars))


def _draw_stack(axes: "Axes", panel: Panel) -> None:
    """Lying bars, the first label on top."""
    starts = [0.0] * bars_of(panel)
    for index, series in enumerate(panel.series):
        if not isinstance(series, Bars):
            raise FigureError("a stacked panel holds bars only.")
        look = {"color": _STACKED[index % len(_STACKED)], "hatch": style(index).hatch, "edgecolor": "white"}
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
    if grid.low is not None and grid.high is not None:
        values = np.array(grid.values)
        chance = np.ma.masked_array(values, (values < np.array(grid.low)) | (values > np.array(grid.high)))
        axes.pcolor(*edges, chance, hatch="//", edgecolor="#ffffff55", facecolor="none", linewidth=0)
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


def draw_panel(axes: "Axes", panel: Panel, methods: Sequence[str]) -> None:
    """Draw a panel.

    Args:
        methods: of the experiment, in the order that decides their styles.
    """
    if len(panel.series) == 1 and isinstance(panel.series[0], Grid):
        _draw_grid(axes, panel, panel.series[0])
        return
    if panel.stacked:
        _draw_stack(axes, panel)
        return
    if panel.lying:
        _draw_forest(axes, panel, methods)
        return
    free = len(methods) if any(getattr(series, "method", "") for series in panel.series) else 0
    for index, series in enumerate(panel.series):
        if isinstance(series, Curve):
            _draw_curve(axes, panel, series, style_of(series.method, methods, free + index))
        elif isinstance(series, Scatter):
            _draw_scatter(axes, series, style_of(series.method, methods, free + index))
        elif isinstance(series, Bars):
            _draw_bars(axes, panel, series, index, methods)
        else:
            raise FigureError("a grid stands alone in its panel.")
    _finish(axes, panel)


def _draw_curve(axes: "Axes", panel: Panel, series: Curve, own: Style) -> None:
    colour, dash = (QUIET, ":") if series.faint else (own.colour, own.dash)
    shape = {"marker": own.marker, "markersize": 4} if series.marked else {}
    x = _beside(series, panel) if series.whiskers else series.x
    axes.plot(x, series.y, color=colour, linestyle=dash, label=series.name, **shape)  # type: ignore[arg-type]
    if series.low is not None and series.high is not None:
        if series.whiskers:
            axes.vlines(x, series.low, series.high, color=colour, linewidth=1.2)
        else:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)


def _draw_scatter(axes: "Axes", series: Scatter, own: Style) -> None:
    look: dict[str, Any] = {"s": 14, "color": own.colour, "marker": own.marker, "alpha": 0.7}
    if series.faint:
        look = {"s": 6, "color": "#bbbbbb", "marker": "o"}
    if series.low is not None and series.high is not None:
        axes.vlines(series.x, series.low, series.high, color=own.colour, linewidth=1)
        look |= {"s": 36, "alpha": 1}
    axes.scatter(series.x, series.y, linewidths=0, label=series.name, **look)
    for *place, label in zip(series.x, series.y, series.labels or [], strict=False) if series.named else ():
        axes.annotate(label, (place[0], place[1]), xytext=(5, 4), textcoords="offset points", fontsize=7)


def _draw_bars(axes: "Axes", panel: Panel, series: Bars, index: int, methods: Sequence[str]) -> None:
    bars = [other for other in panel.series if isinstance(other, Bars)]
    width = 0.8 / len(bars)
    places = [x + width * (bars.index(series) - (len(bars) - 1) / 2) for x in series.x]
    hatch = style(index).hatch
    edge = {"hatch": hatch, "edgecolor": "white"} if hatch else {}
    colours: Any = style(index).colour
    if series.methods is not None:
        colours = [style_of(method, methods, len(methods) + index).colour for method in series.methods]
    axes.bar(places, series.y, width=width, color=colours, label=series.name, **edge)  # type: ignore[arg-type]
    if series.low is not None and series.high is not None:
        axes.vlines(places, series.low, series.high, color="black", linewidth=1.2)
    slant = {"rotation": 45, "ha": "right"} if sum(map(len, series.labels)) > _LEVEL_LABELS else {}
    axes.set_xticks(list(series.x), list(series.labels), **slant)  # type: ignore[arg-type]


def _draw_forest(axes: "Axes", panel: Panel, methods: Sequence[str]) -> None:
    """Differences from the top down, each with its interval; outlines where ``hollow``."""
    axes.axvline(0, color=QUIET, linestyle=":", linewidth=1.2)
    for index, series in enumerate(panel.series):
        if not isinstance(series, Scatter) or series.low is None or series.high is None:
            raise FigureError("a lying panel holds points with intervals only.")
        for place in range(len(series.x)):
            method = series.methods[place] if series.methods is not None else series.method
            look_of_method = style_of(method, methods, len(methods) + index)
            hollow = series.hollow is not None and series.hollow[place]
            axes.hlines(
                series.x[place],
                series.low[place],
                series.high[place],
                look_of_method.colour,
                linewidth=1 if hollow else 2,
            )
            face = "white" if hollow else look_of_method.colour
            look: dict[str, Any] = {
                "s": 30,
                "marker": look_of_method.marker,
                "facecolors": face,
                "edgecolors": look_of_method.colour,
            }
            axes.scatter([series.y[place]], [series.x[place]], zorder=3, **look)
    names = list(panel.names_x or ())
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(panel.x_label)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)


def _finish(axes: "Axes", panel: Panel) -> None:
    """Scales, ticks, labels and legend."""
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
    places = []
    for x in series.x:
        here = [other for other in panel.series if isinstance(other, Curve) and other.whiskers and x in other.x]
        step = (here.index(series) - (len(here) - 1) / 2) * min(1, _BESIDE / len(here))
        log = panel.log_x or panel.decades_x
        places.append(x * 1.025**step if log else x + 0.008 * (max(series.x) - min(series.x) or 1) * step)
    return places
