"""Draw figures from stored numbers: lines with bands, points, bars, grids; each with a csv of exactly what it shows.

In: panels made of series.  Out: <name>.png (150 dpi), <name>.svg if asked for, and <name>.csv (panel, series, label, x,
y, low, high; of a grid a series is a row, a label a column, y the cell).
The same numbers give the same bytes: no dates or versions inside, no settings of the user's own matplotlib.
Known gap: another version of matplotlib or of its fonts draws other pixels; the csv stays the same.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine.records import write_json
from icon_repro.report.figures.panels import bars_of, draw_panel
from icon_repro.report.figures.series import FigureError, Grid, Panel, Series, rounded

_ABREAST, _COLUMNS = 4, 3  # up to so many panels stand in one line; more of them in lines of three
_DPI = 150


def write_figure(
    folder: Path, name: str, title: str, panels: Sequence[Panel], *, svg: bool = False, methods: Sequence[str] = ()
) -> None:
    """Write <name>.png and <name>.csv, and <name>.svg if asked for.

    Args:
        methods: of the experiment, in the order that decides their styles: give all figures the same.

    Raises:
        FigureError: nothing to draw, or a series whose parts differ in length.
    """
    write_points(folder, name, panels)
    _draw([folder / f"{name}.{suffix}" for suffix in ("png", *(["svg"] if svg else []))], title, panels, methods)


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
            [panel, name, column, x, rounded(value), *_ends(series, y, x)]
            for y, (name, row) in enumerate(zip(series.rows, series.values, strict=True))
            for x, (column, value) in enumerate(zip(series.columns, row, strict=True))
        ]
    parts = {part: getattr(series, part, None) for part in ("labels", "x", "y", "low", "high")}
    lengths = {part: len(values) for part, values in parts.items() if values is not None}
    if len(set(lengths.values())) > 1 or ("low" in lengths) != ("high" in lengths):
        raise FigureError(f"series {series.name!r}: parts of different lengths {lengths}, or low without high.")
    labels = parts["labels"] if parts["labels"] is not None else [""] * len(series.y)
    columns = [[label.replace("\n", ", ") for label in labels]]
    for part in ("x", "y", "low", "high"):
        values = parts[part]
        columns.append([""] * len(series.y) if values is None else [rounded(value) for value in values])
    return [[panel, series.name, *cells] for cells in zip(*columns, strict=True)]


def _ends(grid: Grid, y: int, x: int) -> list[Any]:
    """What chance gives to a cell."""
    return ["" if ends is None else rounded(ends[y][x]) for ends in (grid.low, grid.high)]


def _size(panels: Sequence[Panel], columns: int, lines: int) -> tuple[float, float]:
    """Width and height of a figure, in inches."""
    size = (6.0 if len(panels) == 1 else 4.6 * columns, 4.0 * lines)
    if cells := max((len(s.rows) for panel in panels for s in panel.series if isinstance(s, Grid)), default=0):
        size = (2.5 + 0.6 * cells, 2 + 0.5 * cells)
    elif stacked := max((bars_of(panel) for panel in panels if panel.stacked), default=0):
        size = (max(7.5, size[0]), (1.6 + 0.5 * stacked) * lines)
    elif lying := max((len(panel.names_x or ()) for panel in panels if panel.lying), default=0):
        size = (3.4 + 3.2 * columns, (1.4 + 0.24 * lying) * lines)
    return (size[0] + 2.2, size[1]) if any(panel.wide_legend for panel in panels) else size


def _draw(paths: Sequence[Path], title: str, panels: Sequence[Panel], methods: Sequence[str]) -> None:
    import matplotlib  # slow to import, and only here
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "icon_repro"  # ids in an svg are random otherwise
        columns = len(panels) if len(panels) <= _ABREAST else _COLUMNS
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=_size(panels, columns, lines), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        places = figure.subplots(lines, columns, squeeze=False).ravel()
        for place, (axes, panel) in enumerate(zip(places, panels, strict=False)):
            draw_panel(axes, panel, methods)
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
