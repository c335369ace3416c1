"""Figures of rows of results: points are those of the tables, shares and fronts those of obvious loops."""

from typing import Any

import pytest
from made_up_runs import result, row, solved, task, without

from icon_repro.report import verdicts
from icon_repro.report.figures.experiment_figures import (
    average,
    differences,
    flops,
    judged,
    methods_of,
    pareto,
    position,
    scale,
)
from icon_repro.report.figures.material import NotMade
from icon_repro.report.figures.series import Bars, Curve, Scatter
from icon_repro.report.judged import table as table_of_judged
from icon_repro.report.paper.paper_figures import PaperFigures
from icon_repro.report.runs import Contrasts, lines
from icon_repro.report.tables import table

PAPER = PaperFigures({"vicuna": [43, 18, 19]}, {"vicuna": 7800}, [(0.01, 42.91), (1.0, 37.95)])


def costs(selection: float, tuning: float) -> dict[str, Any]:
    return {"selection": {"tokens": 1, "flops": selection}, "tuning": {"tokens": 1, "flops": tuning}}


ROWS = [
    row("base", benchmarks={"arc": result(solved(0.3, 50, 0))}),
    row("full", 1.0, 0, {"arc": result(solved(0.5, 50, 0))}, **costs(0, 100.0)),
    *(row("icon", 0.05, s, {"arc": result(solved(0.6, 50, s))}, **costs(900, 5.0)) for s in (0, 1)),
    *(row("icon", 0.15, s, {"arc": result(solved(0.7, 50, s))}, **costs(900, 15.0)) for s in (0, 1)),
    row("random", 0.05, 0, {"arc": result(solved(0.4, 50, 0))}, **costs(0, 5.0)),
    row("random", 0.15, 0, {"arc": result(solved(0.45, 50, 0))}, **costs(0, 15.0)),
]


def comparison(win: int, tie: int, lose: int, **more: Any) -> dict[str, Any]:
    count = win + tie + lose
    values: dict[str, Any] = {"win": win, "tie": tie, "lose": lose, "judged": count, "prompts": count, "failed": 0}
    outcomes = "w" * win + "t" * tie + "l" * lose
    values |= {
        "step": "judge/x",
        "outcomes": {"ids": "abc", "parts": [{"name": "", "weight": 1.0, "values": outcomes}]},
    }
    values |= dict.fromkeys(["length_controlled_score", "longer_wins", "length_winners", "length_losers"])
    return {**values, "position_consistency": 0.75, "first_preferred": 0.6, "against": "full", **more}


JUDGED = [
    row("icon", 0.15, 0, judged={"vicuna": comparison(6, 2, 2)}),
    row("icon", 0.15, 1, judged={"vicuna": comparison(4, 0, 6)}),
    row("random", 0.15, 0, judged={"vicuna": comparison(1, 1, 2)}),
]


def test_differences_are_those_of_the_table_at_their_methods_name() -> None:
    rows = [*ROWS, row("longest", 0.15, 0, {"arc": result(solved(0.5, 50, 0))}), row("ifd", 0.15, 0)]
    rows[-1] = without(rows[-1], "arc", "not run yet")
    figure = differences(rows)
    (panel,) = figure.panels
    names = [f"icon {5 * (1 + 2 * one)} % − random" for one in range(2)]
    assert list(panel.names_x or []) == [*names, "longest 15 % − random", "icon 15 % − longest"]  # ifd has no result
    assert panel.lying and panel.x_label == "points; higher is better"
    header, cells = verdicts.table(verdicts.comparisons(rows))
    named = [dict(zip(header, line, strict=True)) for line in cells]
    printed = {(line["method"], line["fraction"], line["against"]): line for line in named}
    shown = {}
    for series in panel.series:
        assert isinstance(series, Scatter) and series.low and series.high and series.labels and series.hollow
        baseline = series.name.removeprefix("minus ")
        for place, label in enumerate(series.labels):
            assert list(panel.names_x or [])[round(series.x[place])] == f"{label.removesuffix(' *')} − {baseline}"
            method, percent, *_ = label.split()
            key = method, f"{float(percent) / 100:g}", baseline
            low, high = series.low[place], series.high[place]
            shown[key] = (f"{series.y[place]:+.2f}", f"[{low:+.2f}, {high:+.2f}]")
            survives = float(printed[key]["p (Holm)"].removeprefix("<")) < 0.05
            assert label.endswith(" *") == survives == (not series.hollow[place])
            assert series.methods and series.methods[place] == method
    given = {key: (line["difference"], line["95 % interval"]) for key, line in printed.items()}
    assert shown == {key: value for key, value in given.items() if value[0] != "missing"} and len(shown) == 4


def test_scale_points_are_those_of_the_table() -> None:
    header, cells = table(ROWS)
    printed = {(line[0], line[1]): line[header.index("average")] for line in cells}
    left, right = scale(ROWS, PaperFigures()).panels
    for series in left.series:
        assert isinstance(series, Curve)
        if series.low is None or series.high is None:
            assert series.name == "base (not tuned)" and f"{series.y[0]:.2f}" in printed["base", "-"]
            continue
        for x, y, low, high in zip(series.x, series.y, series.low, series.high, strict=True):
            own = f"± {(high - low) / 2:.2f}" if low > 0 and high < 100 else f"[{low:.2f}, {high:.2f}]"
            assert f"{y:.2f} {own}" == printed[series.name, f"{x / 100:g}"]
    assert [series.name for series in left.series] == [series.name for series in right.series]
    icon = next(series for series in right.series if series.name == "icon")
    assert list(icon.x) == [5, 15] and list(icon.y) == [905, 915]


def test_scale_has_the_papers_points_beside_ours() -> None:
    figure = scale(ROWS, PAPER)
    paper = next(series for series in figure.panels[0].series if series.name.startswith("paper"))
    assert list(paper.x) == [1, 100] and list(paper.y) == [42.91, 37.95] and "own benchmarks" in figure.caption


def test_pareto_line_goes_from_the_cheapest_to_what_is_better_beyond_the_interval() -> None:
    shares = {
        "random": (0.4, 5.0),
        "longest": (0.42, 6.0),
        "ifd": (0.6, 50.0),
        "rds": (0.61, 60.0),
        "icon": (0.8, 900.0),
    }
    rows = [
        row(method, 0.1, 0, {"arc": result(solved(share, 400, 0))}, **costs(cost, 1.0))
        for method, (share, cost) in reversed(shares.items())
    ]
    front, *others = pareto(rows).panels[0].series
    assert front.name.startswith("better for more") and not any(one.name == front.name for one in others)
    made = {line.method: line for line in lines(rows)}
    kept = ["random"]
    for method in shares:  # by cost; slow: each with the last that was kept
        difference = Contrasts(list(made.values())).of(made[method], made[kept[-1]], ["arc"])
        if method != "random" and difference is not None and difference.interval()[0] > 0:
            kept.append(method)
    assert kept[0] == "random" and kept[-1] == "icon" and "ifd" in kept
    corners = list(zip(front.x, front.y, strict=True))
    assert corners[::2] == [(shares[one][1] + 1, pytest.approx(100 * made[one].mean("arc"))) for one in kept]


def test_pareto_has_no_line_where_nothing_is_better_beyond_the_interval() -> None:
    rows = [
        row("random", 0.1, 0, {"arc": result(solved(0.5, 50, 0))}, **costs(0, 5.0)),
        row("icon", 0.1, 0, {"arc": result(solved(0.52, 50, 0))}, **costs(900, 5.0)),
    ]
    figure = pareto(rows)
    assert [series.name for series in figure.panels[0].series] == ["random", "icon"]
    assert "No one is better than the cheapest (random 10 %)" in figure.caption


def test_pareto_names_lines_without_known_cost() -> None:
    rows = [*ROWS, row("less", 0.05, 0, {"arc": result("01" * 25)}, selection=None)]
    assert "less 5 %" in pareto(rows).caption
    assert "left_out" not in pareto(ROWS).caption and "not shown" not in pareto(ROWS).caption


def test_judged_bars_are_shares_of_all_runs_and_the_papers() -> None:
    panel = judged(JUDGED, PAPER).panels[0]
    shares = {series.name: list(series.y) for series in panel.series if isinstance(series, Bars)}
    assert shares["win"] == pytest.approx([50, 25, 100 * 43 / 80])
    assert [sum(parts) for parts in zip(*shares.values(), strict=True)] == pytest.approx([100] * 3)
    labels = [label for series in panel.series[:1] if isinstance(series, Bars) for label in series.labels]
    header, cells, _ = table_of_judged(JUDGED)
    interval = [dict(zip(header, line, strict=True))["95 % interval"] for line in cells]
    assert labels[0].startswith("icon 15 %\nn 10 x 2 runs, score 1.10 [") and labels[2].endswith("\nn 80")
    for label, (low, high) in zip(labels, [map(float, one[1:-1].split(", ")) for one in interval], strict=False):
        assert label.endswith(f"[{low:.2f}, {high:.2f}]")
    assert panel.stacked and "50.0 % wins" in judged(JUDGED, PAPER).alt


def test_position_bars_have_wilson_intervals_around_the_share() -> None:
    same, first = position(JUDGED).panels[0].series
    assert isinstance(same, Bars) and same.low is not None and same.high is not None
    assert list(same.y) == pytest.approx([0.75, 0.75]) and list(first.y) == pytest.approx([0.6, 0.6])
    widths = [high - low for low, high in zip(same.low, same.high, strict=True)]
    assert all(low < 0.75 < high for low, high in zip(same.low, same.high, strict=True))
    assert widths[0] < widths[1]  # 20 prompts against 4


@pytest.mark.parametrize(
    "make, rows, reason",
    [
        (lambda rows: judged(rows, PAPER), ROWS, "no comparison by a judge"),
        (position, ROWS, "no comparison by a judge"),
        (
            position,
            [row("icon", 0.15, 0, judged={"v": comparison(1, 0, 0, position_consistency=None)})],
            "answers in an order",
        ),
        (lambda rows: scale(rows, PaperFigures()), ROWS[:2], "at 1 fraction"),
        (differences, ROWS[:4], "no method beside random"),
        (pareto, ROWS[:2], "costs of 1 lines"),
        (pareto, [row("base", tasks={"arc": task(higher=False)})], "higher is better"),
        (lambda rows: scale(rows, PaperFigures()), [], "higher is better"),
    ],
)
def test_figure_without_data_says_why_there_is_none(make: Any, rows: Any, reason: str) -> None:
    with pytest.raises(NotMade, match=reason):
        make(rows)


def test_average_of_unknown_error_is_a_point_and_flops_of_unknown_cost_none() -> None:
    from made_up_runs import number

    (line,) = lines([row("icon", 0.15, 0, {"f": number(0.3, None)}, tuning=None)])
    assert average(line, ["f"]) == (30.0, 30.0, 30.0)
    assert flops(line) is None


def test_a_method_has_one_style_in_every_figure_and_twelve_differ_in_colour_and_marker() -> None:
    from icon_repro.report.figures.styles import style, style_of

    methods = methods_of(ROWS)
    assert methods == ["base", "full", "icon", "random"]
    named = [
        series
        for figure in (scale(ROWS, PaperFigures()), pareto(ROWS))
        for panel in figure.panels
        for series in panel.series
        if series.name in ("full", "icon", "random")
    ]
    assert len(named) >= 8 and all(getattr(series, "method", None) == series.name for series in named)
    assert style_of("icon", methods, 7) == style(2) and style_of("else", methods, 7) == style(7)
    first = [style(place) for place in range(12)]
    for part in ("colour", "marker", "dash"):
        assert len({getattr(one, part) for one in first}) == 12
    every = [(one.colour, one.marker) for one in map(style, range(144))]
    assert len(set(every)) == 144
