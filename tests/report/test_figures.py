"""Figures: the csv holds what is drawn, the png has its size and no dates, bad series are refused."""

import csv
import struct
from pathlib import Path

import pytest

from icon_repro.report.figures.draw import write_figure
from icon_repro.report.figures.panels import _beside
from icon_repro.report.figures.series import Bars, Curve, FigureError, Grid, Panel, Scatter, rounded

CURVE = Curve("curve", [8, 16], [0.5, 2 / 3], [0.4, 0.6], [0.6, 0.7])
BARS = [Bars("first", ["x", "y"], [1, 2], [0, 1], [2, 3]), Bars("second", ["x", "y"], [2, 1])]
PANELS = [
    Panel("rows", "share", [CURVE, Scatter("points", [8], [0.5])]),
    Panel("length (tokens)", "score", [Scatter("candidates", [1, 2, 4], [0, 1, 0], ["a", "b", "c"])], log_x=True),
    Panel("variant", "reliability", BARS),
]


def test_write_figure_csv_holds_every_point(tmp_path: Path) -> None:
    write_figure(tmp_path, "some", "Title", PANELS)
    with (tmp_path / "some.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["panel", "series", "label", "x", "y", "low", "high"],
        ["1", "curve", "", "8.0", "0.5", "0.4", "0.6"],
        ["1", "curve", "", "16.0", "0.666667", "0.6", "0.7"],
        ["1", "points", "", "8.0", "0.5", "", ""],
        ["2", "candidates", "a", "1.0", "0.0", "", ""],
        ["2", "candidates", "b", "2.0", "1.0", "", ""],
        ["2", "candidates", "c", "4.0", "0.0", "", ""],
        ["3", "first", "x", "0.0", "1.0", "0.0", "2.0"],
        ["3", "first", "y", "1.0", "2.0", "1.0", "3.0"],
        ["3", "second", "x", "0.0", "2.0", "", ""],
        ["3", "second", "y", "1.0", "1.0", "", ""],
    ]


def test_write_figure_png_has_size_and_no_metadata_and_repeats(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_figure(tmp_path, name, "Title", PANELS[:1])
    png = (tmp_path / "one.png").read_bytes()
    assert png == (tmp_path / "two.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == (900, 600)  # 6 x 4 in at 150 dpi
    assert not any(key in png for key in (b"tEXt", b"tIME", b"atplotlib"))


def test_write_figure_ignores_the_users_matplotlib_settings(tmp_path: Path) -> None:
    import matplotlib

    write_figure(tmp_path, "plain", "Title", PANELS[:1])
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        write_figure(tmp_path, "own", "Title", PANELS[:1])
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "own.png").read_bytes()


@pytest.mark.parametrize(
    "panels, message",
    [
        ([], "at least one series"),
        ([Panel("x", "y", [])], "at least one series"),
        ([Panel("x", "y", [Curve("bad", [1, 2], [1])])], "'bad'.*different lengths"),
        ([Panel("x", "y", [Curve("bad", [1], [1], low=[0])])], "low without high"),
        ([Panel("x", "y", [Scatter("bad", [1], [1], ["a", "b"])])], "different lengths"),
        ([Panel("x", "y", [Bars("bad", ["a"], [1, 2])])], "different lengths"),
    ],
)
def test_write_figure_bad_series_are_refused_before_anything_is_written(
    panels: list[Panel], message: str, tmp_path: Path
) -> None:
    with pytest.raises(FigureError, match=message):
        write_figure(tmp_path, "some", "Title", panels)
    assert not list(tmp_path.iterdir())


def test_rounded_keeps_six_digits() -> None:
    assert [rounded(x) for x in (1 / 3, 123456789.0, -0.0000123456789, 0)] == [0.333333, 123457000.0, -1.23457e-05, 0.0]


GRID = Grid(["a", "b"], ["c", "d", "e"], [[0, 0.5, 1], [0.25, 0.75, 2 / 3]])


def test_write_figure_grid_has_its_cells_in_csv_and_svg(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_figure(tmp_path, name, "Title", [Panel("is in", "share of", [GRID])], svg=True)
    with (tmp_path / "one.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1:3] == [["1", "a", "c", "0", "0.0", "", ""], ["1", "a", "d", "1", "0.5", "", ""]]
    assert rows[6] == ["1", "b", "e", "2", "0.666667", "", ""] and len(rows) == 7
    svg = (tmp_path / "one.svg").read_text()
    assert svg == (tmp_path / "two.svg").read_text() and "<dc:date>" not in svg and "<!-- 0.67 -->" in svg


@pytest.mark.parametrize(
    "series, message",
    [
        ([Grid(["a"], ["b", "c"], [[1]])], "other numbers of values"),
        ([GRID, GRID], "stands alone"),
        ([CURVE, GRID], "stands alone"),
    ],
)
def test_write_figure_grid_of_another_shape_or_beside_others_is_refused(
    tmp_path: Path, series: list[Grid | Curve], message: str
) -> None:
    with pytest.raises(FigureError, match=message):
        write_figure(tmp_path, "grid", "Title", [Panel("x", "y", series)])


def test_write_figure_of_more_than_four_panels_wraps_into_lines_of_three(tmp_path: Path) -> None:
    write_figure(tmp_path, "many", "Title", [Panel("x", "y", [CURVE], title=f"{i}") for i in range(5)])
    png = (tmp_path / "many.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == (2070, 1200)  # 3 x 4.6 in wide, 2 x 4 in high


def test_write_figure_stacked_bars_are_told_apart_without_colour(tmp_path: Path) -> None:
    bars = [Bars(name, ["a", "b"], [50, 30]) for name in ("win", "lose")]
    panels = [Panel("%", "", bars, stacked=True, y_range=(0, 100))]
    for name in ("one", "two"):
        write_figure(tmp_path, name, "Title", panels, svg=True)
    svg = (tmp_path / "one.svg").read_text()
    assert svg == (tmp_path / "two.svg").read_text() and "<pattern" in svg  # the hatch
    with pytest.raises(FigureError, match="bars only"):
        write_figure(tmp_path, "bad", "Title", [Panel("x", "y", [*bars, CURVE], stacked=True)])


def test_write_figure_points_of_series_at_one_place_stand_beside_each_other(tmp_path: Path) -> None:
    series = [Curve(name, [10, 100], [1, 2], [0, 1], [2, 3], whiskers=True) for name in ("a", "b")]
    panel = Panel("x", "y", series, decades_x=True)
    places = [_beside(one, panel) for one in series]
    assert places[0][0] < 10 < places[1][0] and places[0][1] < 100 < places[1][1]
    assert _beside(series[0], Panel("x", "y", series[:1], decades_x=True)) == [10, 100]
    write_figure(tmp_path, "some", "Title", [panel])
    assert "a,,10.0,1.0,0.0,2.0" in (tmp_path / "some.csv").read_text()  # the csv has the true place


def test_grid_keeps_what_chance_gives_in_its_csv_and_draws_it(tmp_path: Path) -> None:
    names, values = ["a", "b"], [[1.0, 0.2], [0.2, 1.0]]
    plain, marked = (Grid(names, names, values, *ends) for ends in ((), ([[0.1] * 2] * 2, [[0.3] * 2] * 2)))
    for name, grid in (("plain", plain), ("marked", marked)):
        write_figure(tmp_path, name, "T", [Panel("", "", [grid])])
    with (tmp_path / "marked.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[3:] for row in rows[:2]] == [["0", "1.0", "0.1", "0.3"], ["1", "0.2", "0.1", "0.3"]]
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "marked.png").read_bytes()


def test_forest_draws_outlines_and_full_marks_and_refuses_other_series(tmp_path: Path) -> None:
    ends = {"low": [-1.0, 0.5], "high": [1.0, 2.0], "methods": ["icon", "rds"]}
    for name, hollow in (("outlines", [True, True]), ("one", [True, False])):
        points = Scatter("minus random", [0, 1], [0.0, 1.0], ["icon", "rds"], hollow=hollow, **ends)
        panel = Panel("points", "", [points], names_x=["icon", "rds"], lying=True)
        write_figure(tmp_path, name, "T", [panel], methods=["random", "icon", "rds"])
    assert (tmp_path / "outlines.png").read_bytes() != (tmp_path / "one.png").read_bytes()
    with pytest.raises(FigureError, match="lying panel"):
        write_figure(tmp_path, "bad", "T", [Panel("", "", [CURVE], lying=True)])
