"""Draw what an experiment's rows of results show.

Figures: differences from the controls, verdicts of a judge, scale, quality against cost, position bias.

In: ``ResultRow``s.  Out: ``Figure``s, or ``NotMade`` with the reason.
Intervals are those of the tables (``icon_repro.report.statistics``). Known gap: none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from icon_repro.report.cells import lower_unit
from icon_repro.report.estimates import ALPHA
from icon_repro.report.figures.material import Figure, NotMade
from icon_repro.report.figures.series import Bars, Curve, Panel, Scatter, Series
from icon_repro.report.intervals import share
from icon_repro.report.paper.paper_figures import PaperFigures
from icon_repro.report.rows import JudgedResult, ResultRow
from icon_repro.report.runs import Contrasts, Line, averaged, judged_sample, lines, sample
from icon_repro.report.statistics import bootstrap, mean
from icon_repro.report.verdicts import Comparison, adjusted, comparisons
from icon_repro.report.weighting import variants

_AS_IT_IS = ("base", "full")  # nothing is selected
_SHARES = ("win", "tie", "lose")
_COST = "FLOPs, selection and one tuning"
_COMPARED = 40  # pairs below each other
_NAMED = 40  # points that have their share beside them
Point = tuple[float, float, float]  # value, both ends of its interval; all three equal where the error is unknown


def makers(
    rows: Sequence[ResultRow], paper: PaperFigures, primary: Mapping[str, Any] | None = None
) -> dict[str, Callable[[], Figure]]:
    """Every figure that rows alone give, by name.

    Args:
        primary: the comparison that the experiment's config names beforehand.
    """
    return {
        "differences": partial(differences, rows, primary),
        "judged": partial(judged, rows, paper),
        "scale": partial(scale, rows, paper),
        "pareto": partial(pareto, rows),
        "position": partial(position, rows),
    }


def methods_of(rows: Sequence[ResultRow]) -> list[str]:
    """The experiment's methods in the order that decides their styles."""
    return list(dict.fromkeys(row.method for row in rows))


def differences(rows: Sequence[ResultRow], primary: Mapping[str, Any] | None = None) -> Figure:
    """Each method's difference from its controls, a panel a measure, a line a pair; held-out rows by tokens."""
    others = variants(rows)
    every = [one for one in adjusted(comparisons(rows), primary) if one.comparison.measure not in others]
    estimated = [(one, one.comparison.found) for one in every if one.comparison.found is not None]
    estimated = [(one, estimate) for one, estimate in estimated if math.isfinite(estimate.half_width())]
    if not estimated:
        raise NotMade("no method beside random or longest of the same size has results with an interval")
    pairs = list(dict.fromkeys(_pair(one.comparison) for one, _ in estimated))
    baselines = list(dict.fromkeys(one.comparison.baseline.method for one, _ in estimated))
    pairs = sorted(pairs, key=lambda pair: baselines.index(pair[1]))
    shown = pairs[:_COMPARED]
    names = [f"{method} − {baseline}" for method, baseline in shown]
    panels, held = list[Panel](), list[str]()
    for measure in dict.fromkeys(one.comparison.measure for one, _ in estimated):
        of_measure = [(one, estimate) for one, estimate in estimated if one.comparison.measure == measure]
        series = list[Series]()
        for baseline in baselines:
            part = [(one, e) for one, e in of_measure if _pair(one.comparison) in shown]
            part = [(one, e) for one, e in part if one.comparison.baseline.method == baseline]
            if not part:
                continue
            scale = part[0][0].comparison.scale
            survive = [one.p is not None and one.p < ALPHA for one, _ in part]
            ends = [e.interval() for _, e in part]
            series.append(
                Scatter(
                    f"minus {baseline}",
                    [shown.index(_pair(one.comparison)) for one, _ in part],
                    [scale * e.value for _, e in part],
                    [
                        f"{_pair(one.comparison)[0]}{' *' * surviving}"
                        for (one, _), surviving in zip(part, survive, strict=True)
                    ],
                    low=[scale * low for low, _ in ends],
                    high=[scale * high for _, high in ends],
                    methods=[one.comparison.method.method for one, _ in part],
                    hollow=[not surviving for surviving in survive],
                )
            )
            surviving = [
                f"{_pair(one.comparison)[0]} − {baseline}" for (one, _), k in zip(part, survive, strict=True) if k
            ]
            held += [f"{name} ({measure})" for name in surviving]
        unit = (
            "points; higher is better"
            if of_measure[0][0].comparison.scale == 100
            else _lower_unit(of_measure[0][0].comparison)
        )
        panels.append(Panel(unit, "", series, names_x=names, title=measure, lying=True, y_as_left=True))
    left = f" {len(pairs) - len(shown)} more pairs aren't shown." if len(pairs) > len(shown) else ""
    said = f"After correction hold: {', '.join(held)}." if held else "After correction none holds."
    return Figure(
        "differences",
        "Differences from the controls",
        "Difference of each method from the controls of the same size, with its 95 % interval over items (groups of "
        "them), selections and training seeds; each interval is that of one comparison alone. Filled: p below "
        f"{ALPHA} after Holm's correction for the number of comparisons of a measure (of the primary comparison: for "
        f"its own).{left}",
        f"Points with intervals of {sum(len(s.y) for panel in panels for s in panel.series if isinstance(s, Scatter))} "
        f"differences in {', '.join(panel.title for panel in panels)}. {said}",
        panels,
    )


def _pair(one: Comparison) -> tuple[str, str]:
    return _label(one.method), one.baseline.method


def _lower_unit(one: Comparison) -> str:
    return f"{lower_unit(one.method, one.measure)}; lower is better"


def judged(rows: Sequence[ResultRow], paper: PaperFigures) -> Figure:
    """Wins, ties and losses in percent of the judged prompts, a panel for each set of prompts; the paper's below."""
    sets = _judged_sets(rows)
    panels = []
    for name, found in sets.items():
        opponents = list(dict.fromkeys(one.against for _, cells in found for one in cells))
        several = len(opponents) > 1
        labels = [
            _label(line) + (f" against {cells[0].against}" if several else "") + f"\n{_score(line, name, cells)}"
            for line, cells in found
        ]
        shares = [_shares(cells) for _, cells in found]
        if name in paper.judged:
            counts = paper.judged[name]
            labels.append(f"paper: icon, {paper.selected[name]:,} rows, against full\nn {sum(counts):g}")
            shares.append([100 * count / sum(counts) for count in counts])
        series = [Bars(key, labels, [own[place] for own in shares]) for place, key in enumerate(_SHARES)]
        against = "/".join(opponents)
        panels.append(
            Panel(f"% of prompts, against {against}", "", series, stacked=True, y_range=(0, 100), title=f"{name}\n\n")
        )
    line, cells = next(iter(sets.values()))[0]
    win, tie, lose = _shares(cells)
    return Figure(
        "judged",
        "What the judge prefers",
        "Share of the judged prompts, over all runs of a line; a win is better in both orders, or better in one and "
        "equal in the other. n: judged prompts; failed ones are left out. Score: 1 + (wins - losses) / n, from 0 to 2, "
        "with its 95 % interval; 1 is even.",
        f"Stacked bars of wins, ties and losses of {len(next(iter(sets.values())))} lines on {', '.join(sets)}. "
        f"{_label(line)}: {win:.1f} % wins, {tie:.1f} % ties, {lose:.1f} % losses.",
        panels,
    )


def position(rows: Sequence[ResultRow]) -> Figure:
    """How often the judge prefers the same answer in both orders, and the one shown first."""
    panels, lowest = [], 1.0
    for name, found in _judged_sets(rows).items():
        known = [
            (line, cells)
            for line, cells in found
            if all(one.position_consistency is not None for one in cells)  # a judge that sees no order has none
        ]
        if not known:
            continue
        labels = [_label(line) for line, _ in known]
        same = [
            share(round(sum((one.position_consistency or 0.0) * one.judged for one in cells)), _judged(cells))
            for _, cells in known
        ]
        lowest = min([lowest, *(one.value for one in same)])
        both: list[Series] = [
            Bars(
                "same answer in both orders",
                labels,
                [one.value for one in same],
                [one.low for one in same],
                [one.high for one in same],
            )
        ]
        preferences = [[one.first_preferred for one in cells if one.first_preferred is not None] for _, cells in known]
        if all(preferences):
            both.append(
                Bars("the answer shown first (0.5: no bias)", labels, [fmean(values) for values in preferences])
            )
        panels.append(Panel("", "share of judged prompts", both, y_range=(0, 1.25), title=name))
    if not panels:
        raise NotMade("the judge doesn't see two answers in an order")
    return Figure(
        "position",
        "Position bias of the judge",
        "Left bars: share of prompts on which the judge prefers the same answer whichever is shown first, with its "
        "95 % interval (Wilson). Right bars: of single verdicts that aren't ties, the share for the answer shown "
        "first; 0.5 is no bias.",
        f"Bars of position consistency by line; the lowest is {lowest:.2f}.",
        panels,
    )


def scale(rows: Sequence[ResultRow], paper: PaperFigures) -> Figure:
    """Average of the benchmarks and FLOPs by the share of rows that is tuned on; the paper's average beside ours."""
    all_lines, names = lines(rows), _names(rows)
    sizes = {line.fraction for line in all_lines if line.fraction is not None and line.has(names)}
    if len(sizes) < 2:
        raise NotMade(f"results at {len(sizes)} fraction{'' if len(sizes) == 1 else 's'}; two are needed")
    low, high = (100 * end(f for f in sizes) for end in (min, max))
    left: list[Curve] = []
    right: list[Curve] = []  # the same series in the same order, for it has the legend of both
    base: list[Point] = []
    for method in dict.fromkeys(line.method for line in all_lines):
        of_method = sorted((line for line in all_lines if line.method == method and line.has(names)), key=_fraction)
        points = [average(line, names) for line in of_method]
        if method == "base":
            base = points
        elif of_method:
            x = [100 * _fraction(line) for line in of_method]
            value, below, above = (list(part) for part in zip(*points, strict=True))
            left.append(Curve(method, x, value, below, above, whiskers=True, method=method))
            costs = [(size, total) for size, line in zip(x, of_method, strict=True) if (total := flops(line))]
            right.append(Curve(method, [size for size, _ in costs], [total for _, total in costs], method=method))
    for untuned, *_ in base:
        left.append(Curve("base (not tuned)", [low, high], [untuned] * 2, marked=False, faint=True))
        right.append(Curve("base (not tuned)", [], [], marked=False, faint=True))
    if paper.scale:
        left.append(Curve("paper: icon", [100 * size for size, _ in paper.scale], [avg for _, avg in paper.scale]))
        right.append(Curve("paper: icon", [], []))
    beside = " The paper's numbers are of its own benchmarks and settings." if paper.scale else ""
    ticks = sorted(100 * size for size in sizes)
    size_label, shown = "rows tuned on (%)", ", ".join(curve.name for curve in left)
    panels = [
        Panel(size_label, "average of the benchmarks (%)", left, decades_x=True, ticks_x=ticks, legend=False),
        Panel(size_label, _COST, right, decades_x=True, decades_y=True, ticks_x=ticks, wide_legend=True),
    ]
    return Figure(
        "scale",
        "Quality and cost by the share of rows",
        "Left: average of the benchmarks with its 95 % interval; points of several methods at one share stand beside "
        "each other. Right: FLOPs of selection and of tuning one model together; a method without cost is left "
        f"out.{beside}",
        f"Lines of the average by the share of rows tuned on, {low:g} to {high:g} %, for {shown}.",
        panels,
    )


def pareto(rows: Sequence[ResultRow]) -> Figure:
    """Average of the benchmarks against the FLOPs of selection and tuning, with the line of the best for their cost."""
    names = _names(rows)
    known = [line for line in lines(rows) if line.has(names)]
    unknown = [_label(line) for line in known if flops(line) is None]
    paid = {id(line): total for line in known if (total := flops(line))}
    if len(paid) < 2:
        raise NotMade(f"the costs of {len(paid)} lines are known and above 0; two are needed")
    points = {id(line): average(line, names) for line in known}
    front = _front([line for line in known if id(line) in paid], paid, names)
    shares = {line.fraction for line in known if line.method not in _AS_IT_IS}
    named = len(shares) > 1 and len(known) <= _NAMED
    series = list[Series]()
    if len(front) > 1:
        corners = _steps([(paid[id(line)], points[id(line)][0]) for line in front])
        series.append(Curve("better for more, beyond its interval", *corners, marked=False))
    for method in dict.fromkeys(line.method for line in known):
        of_method = [line for line in known if line.method == method and id(line) in paid]
        if not of_method:
            continue
        value, low, high = (list(part) for part in zip(*(points[id(line)] for line in of_method), strict=True))
        labels = [f"{100 * _fraction(line):g} %" for line in of_method]
        costs = [paid[id(line)] for line in of_method]
        series.append(Scatter(method, costs, value, labels, low=low, high=high, named=named, method=method))
    ends = [min(paid.values()), max(paid.values())]
    for line in known:
        if line.method == "base":
            series.append(Curve("base (no cost)", ends, [points[id(line)][0]] * 2, marked=False, faint=True))
    stepped = (
        "The stepped line goes from the cheapest on to each that is better by more than the 95 % interval of their "
        f"paired difference: {', '.join(map(_label, front))}."
        if len(front) > 1
        else f"No one is better than the cheapest ({_label(front[0])}) by more than the 95 % interval of their paired "
        "difference, so there is no line of best for their cost."
    )
    left_out = f" Without known costs, so not shown: {', '.join(unknown)}." if unknown else ""
    return Figure(
        "pareto",
        "Quality against total cost",
        "Average of the benchmarks with its 95 % interval against the FLOPs of selection and of tuning one model; a "
        f"percentage is the share of rows tuned on, where there are several. {stepped}{left_out}",
        f"Points of {len(paid)} lines of results. {stepped}",
        [Panel(_COST, "average of the benchmarks (%)", series, decades_x=True, wide_legend=True)],
    )


def average(line: Line, names: Sequence[str]) -> Point:
    """The average of the benchmarks in percent with its interval."""
    its_sample = sample(line, names)
    if its_sample is None:
        value = 100 * fmean(line.mean(name) for name in names)
        return value, value, value
    estimate = mean(its_sample)
    low, high = estimate.interval()
    return 100 * estimate.value, 100 * low, 100 * high


def flops(line: Line) -> float | None:
    """Of selection and of tuning one model; None if one isn't known."""
    known = [(row.selection, row.tuning) for row in line.rows]
    costs = [one.flops + two.flops for one, two in known if one is not None and two is not None]
    return fmean(costs) if len(costs) == len(known) else None


def _names(rows: Sequence[ResultRow]) -> list[str]:
    names = averaged(rows)
    if not names:
        raise NotMade("no benchmark of which higher is better")
    return names


def _judged_sets(rows: Sequence[ResultRow]) -> dict[str, list[tuple[Line, list[JudgedResult]]]]:
    """By set of prompts the lines whose runs all have a comparison, with these."""
    by_set: dict[str, list[tuple[Line, list[JudgedResult]]]] = {}
    for line in lines(rows):
        for name in line.rows[0].judged:
            if all(name in row.judged for row in line.rows):
                by_set.setdefault(name, []).append((line, [row.judged[name] for row in line.rows]))
    if not by_set:
        raise NotMade("no comparison by a judge")
    return by_set


def _shares(cells: Sequence[JudgedResult]) -> list[float]:
    """Wins, ties and losses in percent of the judged prompts."""
    counts = [[one.win, one.tie, one.lose] for one in cells]
    return [100 * sum(column) / _judged(cells) for column in zip(*counts, strict=True)]


def _score(line: Line, name: str, cells: Sequence[JudgedResult]) -> str:
    """Judged prompts, and the winning score with its interval, as the table of comparisons has it."""
    outcomes = judged_sample(line, name)
    low, high = bootstrap(outcomes, np.random.default_rng(0))
    runs = f" x {len(cells)} runs" if len(cells) > 1 else ""
    return f"n {cells[0].judged}{runs}, score {mean(outcomes).value:.2f} [{low:.2f}, {high:.2f}]"


def _judged(cells: Sequence[JudgedResult]) -> int:
    return sum(one.judged for one in cells)


def _label(line: Line) -> str:
    if line.fraction is None or line.method in _AS_IT_IS:
        return line.method
    return f"{line.method} {100 * line.fraction:g} %"


def _fraction(line: Line) -> float:
    return 1.0 if line.fraction is None else line.fraction


def _front(found: Sequence[Line], paid: Mapping[int, float], names: Sequence[str]) -> list[Line]:
    """The cheapest line, and each costlier one that is better than the last by more than their difference's interval.

    Args:
        paid: costs by a line's identity; of two that cost the same, the better counts.
    """
    contrasts = Contrasts(found)
    ordered = sorted(found, key=lambda line: (paid[id(line)], -fmean(line.mean(name) for name in names)))
    front = ordered[:1]
    for line in ordered[1:]:
        better = contrasts.of(line, front[-1], names)
        if better is not None and better.interval()[0] > 0 and paid[id(line)] > paid[id(front[-1])]:
            front.append(line)
    return front


def _steps(front: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """A stepped line through the front."""
    x, y = [front[0][0]], [front[0][1]]
    for cost, quality in front[1:]:
        x += [cost, cost]
        y += [y[-1], quality]
    return x, y
