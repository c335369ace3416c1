"""Draw what an experiment's rows of results show.

Figures: differences from the controls, verdicts of a judge, scale, quality against cost, position bias.

In: ``ResultRow``s.  Out: ``Figure``s, or ``NotMade`` with the reason.
Intervals are those of the tables (``icon_repro.report.statistics``). Known gap: none.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from icon_repro.report.figures.draw import Bars, Curve, Panel, Scatter, Series
from icon_repro.report.figures.material import Figure, NotMade
from icon_repro.report.intervals import share
from icon_repro.report.paper.paper_figures import PaperFigures
from icon_repro.report.rows import JudgedResult, ResultRow
from icon_repro.report.runs import Line, averaged, lines, sample
from icon_repro.report.statistics import mean
from icon_repro.report.verdicts import comparisons
from icon_repro.report.weighting import variants

_AS_IT_IS = ("base", "full")  # nothing is selected
_SHARES = ("win", "tie", "lose")
_COST = "FLOPs, selection and one tuning"
_COMPARED = 40  # methods and sizes side by side
_BESIDE = 0.24  # between the differences of a method from two controls
_NAMED = 40  # points that have their share beside them
Point = tuple[float, float, float]  # value, both ends of its interval; all three equal where the error is unknown


def makers(rows: Sequence[ResultRow], paper: PaperFigures) -> dict[str, Callable[[], Figure]]:
    """Every figure that rows alone give, by name."""
    return {
        "differences": partial(differences, rows),
        "judged": partial(judged, rows, paper),
        "scale": partial(scale, rows, paper),
        "pareto": partial(pareto, rows),
        "position": partial(position, rows),
    }


def differences(rows: Sequence[ResultRow]) -> Figure:
    """Each method's difference from random and longest of the same size, a panel a measure; held-out rows by tokens."""
    others = variants(rows)
    found = [one for one in comparisons(rows) if one.found is not None and one.measure not in others]
    if not found:
        raise NotMade("no method beside random or longest of the same size has results")
    baselines = list(dict.fromkeys(one.baseline.method for one in found))  # in all panels: one has the legend of all
    panels, drawn, clear = [], 0, 0
    for measure in dict.fromkeys(one.measure for one in found):
        own = [one for one in found if one.measure == measure]
        every = list(dict.fromkeys(_label(one.method) for one in own))
        names = every[:_COMPARED]
        series: list[Series] = [Curve("no difference", [-0.5, len(names) - 0.5], [0, 0], marked=False, faint=True)]
        for number, baseline in enumerate(baselines):
            beside = (number - (len(baselines) - 1) / 2) * _BESIDE
            shown = [one for one in own if one.baseline.method == baseline and _label(one.method) in names]
            labels = [_label(one.method) for one in shown]
            x = [names.index(label) + beside for label in labels]
            known = [(one.scale, one.found) for one in shown if one.found is not None]
            y = [scale * found.value for scale, found in known]
            low, high = ([scale * found.interval()[end] for scale, found in known] for end in (0, 1))
            series.append(Scatter(f"minus {baseline}", x, y, labels, low=low, high=high))
            drawn += len(x)
            clear += sum(bottom > 0 or top < 0 for bottom, top in zip(low, high, strict=True))
        title = f"{measure} (points, higher is better)" if own[0].scale == 100 else f"{measure} (lower is better)"
        left = f"; {len(every) - len(names)} more aren't shown" if len(every) > len(names) else ""
        panels.append(Panel("", f"difference{left}", series, names_x=names, title=title, wide_legend=True))
    measures = ", ".join(dict.fromkeys(one.measure for one in found))
    return Figure(
        "differences",
        "Differences from random and longest",
        "Difference of each method from the controls of the same size, with its 95 % interval over items (groups of "
        "them), selections and training seeds; each interval is that of one comparison alone. The table of differences "
        "corrects for their number.",
        f"Points with intervals of {drawn} differences in {measures}; {clear} intervals leave out 0.",
        [*(replace(panel, legend=False) for panel in panels[:-1]), panels[-1]],
    )


def judged(rows: Sequence[ResultRow], paper: PaperFigures) -> Figure:
    """Wins, ties and losses in percent of the judged prompts, a panel for each set of prompts; the paper's below."""
    sets = _judged_sets(rows)
    panels = []
    for name, found in sets.items():
        labels = [_label(line) for line, _ in found]
        shares = [_shares(cells) for _, cells in found]
        if name in paper.judged:
            labels.append(f"paper: icon, {paper.selected[name]:,} rows, against full")
            shares.append([100 * count / sum(paper.judged[name]) for count in paper.judged[name]])
        series = [Bars(key, labels, [own[place] for own in shares]) for place, key in enumerate(_SHARES)]
        against = "/".join(dict.fromkeys(one.against for _, cells in found for one in cells))
        panels.append(
            Panel(f"% of prompts, against {against}", "", series, stacked=True, y_range=(0, 100), title=f"{name}\n\n")
        )
    line, cells = next(iter(sets.values()))[0]
    win, tie, lose = _shares(cells)
    return Figure(
        "judged",
        "What the judge prefers",
        "Share of the judged prompts, over all runs of a line; a win is better in both orders, or better in one and "
        "equal in the other. Failed prompts are left out; their share and the winning score with its interval are in "
        "the table of judged comparisons.",
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
        told = [[one.first_preferred for one in cells if one.first_preferred is not None] for _, cells in known]
        if all(told):
            both.append(Bars("the answer shown first (0.5: no bias)", labels, [fmean(values) for values in told]))
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
    made, names = lines(rows), _names(rows)
    sizes = {line.fraction for line in made if line.fraction is not None and line.has(names)}
    if len(sizes) < 2:
        raise NotMade(f"results at {len(sizes)} fraction{'' if len(sizes) == 1 else 's'}; two are needed")
    low, high = (100 * end(f for f in sizes) for end in (min, max))
    left: list[Curve] = []
    right: list[Curve] = []  # the same series in the same order, for it has the legend of both
    base: list[Point] = []
    for method in dict.fromkeys(line.method for line in made):
        own = sorted((line for line in made if line.method == method and line.has(names)), key=_fraction)
        points = [average(line, names) for line in own]
        if method == "base":
            base = points
        elif own:
            x = [100 * _fraction(line) for line in own]
            value, below, above = (list(part) for part in zip(*points, strict=True))
            left.append(Curve(method, x, value, below, above, whiskers=True))
            costs = [(size, total) for size, line in zip(x, own, strict=True) if (total := flops(line))]
            right.append(Curve(method, [size for size, _ in costs], [total for _, total in costs]))
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
    front = _front([(paid[id(line)], points[id(line)][0]) for line in known if id(line) in paid])
    shares = {line.fraction for line in known if line.method not in _AS_IT_IS}
    named = len(shares) > 1 and len(known) <= _NAMED
    series: list[Series] = [Curve("best for its cost", *_steps(front), marked=False)]
    for method in dict.fromkeys(line.method for line in known):
        own = [line for line in known if line.method == method and id(line) in paid]
        if not own:
            continue
        value, low, high = (list(part) for part in zip(*(points[id(line)] for line in own), strict=True))
        labels = [f"{100 * _fraction(line):g} %" for line in own]
        costs = [paid[id(line)] for line in own]
        series.append(Scatter(method, costs, value, labels, low=low, high=high, named=named))
    ends = [min(paid.values()), max(paid.values())]
    for line in known:
        if line.method == "base":
            series.append(Curve("base (no cost)", ends, [points[id(line)][0]] * 2, marked=False, faint=True))
    left_out = f" Without known costs, so not shown: {', '.join(unknown)}." if unknown else ""
    return Figure(
        "pareto",
        "Quality against total cost",
        "Average of the benchmarks with its 95 % interval against the FLOPs of selection and of tuning one model; a "
        "percentage is the share of rows tuned on, where there are several. The stepped line joins the lines of "
        "results that no other beats at the same or a lower cost; where intervals overlap, that order may be "
        f"chance.{left_out}",
        f"Points of {len(paid)} lines of results; best for their cost are {len(front)} of them.",
        [Panel(_COST, "average of the benchmarks (%)", series, decades_x=True, wide_legend=True)],
    )


def average(line: Line, names: Sequence[str]) -> Point:
    """The average of the benchmarks in percent with its interval."""
    own = sample(line, names)
    if own is None:
        value = 100 * fmean(line.mean(name) for name in names)
        return value, value, value
    estimate = mean(own)
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
    found: dict[str, list[tuple[Line, list[JudgedResult]]]] = {}
    for line in lines(rows):
        for name in line.rows[0].judged:
            if all(name in row.judged for row in line.rows):
                found.setdefault(name, []).append((line, [row.judged[name] for row in line.rows]))
    if not found:
        raise NotMade("no comparison by a judge")
    return found


def _shares(cells: Sequence[JudgedResult]) -> list[float]:
    """Wins, ties and losses in percent of the judged prompts."""
    counts = [[one.win, one.tie, one.lose] for one in cells]
    return [100 * sum(column) / _judged(cells) for column in zip(*counts, strict=True)]


def _judged(cells: Sequence[JudgedResult]) -> int:
    return sum(one.judged for one in cells)


def _label(line: Line) -> str:
    if line.fraction is None or line.method in _AS_IT_IS:
        return line.method
    return f"{line.method} {100 * line.fraction:g} %"


def _fraction(line: Line) -> float:
    return 1.0 if line.fraction is None else line.fraction


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, quality) those that no other beats at the same or a lower cost, by cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def _steps(front: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """A stepped line through the front."""
    x, y = [front[0][0]], [front[0][1]]
    for cost, quality in front[1:]:
        x += [cost, cost]
        y += [y[-1], quality]
    return x, y
