"""Compare each method with its controls of the same fraction, the primary comparison first: a verdict each.

In: ``ResultRow``s; the primary comparison as the experiment's config names it.
Out: text of verdicts.md, numbers of verdicts.csv.
Controls: ``random``; random draws with the response lengths of one method, which that method alone is compared with;
and ``longest``. Measures: the average of the benchmarks, and each one of which lower is better. The primary comparison
was set beforehand and is corrected over fractions only, where it names none of several; all others are exploratory,
their p values adjusted over all comparisons of a measure (Holm), and so is the smallest detectable difference (its
first step, alpha / comparisons).
A verdict on an average is over items within benchmarks, and says so where the p value with benchmarks drawn whole
doesn't bear it out.
Known gap: none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icon_repro.report.cells import MISSING, Field, about, lower_unit, number_text
from icon_repro.report.estimates import ALPHA, POWER, Estimate
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import (
    AS_IT_IS,
    RANDOM,
    Contrasts,
    Line,
    averaged,
    grouped_items,
    lines,
    lower,
    single_groups,
)
from icon_repro.report.statistics import TestVerdict, holm, verdict

BASELINES = (RANDOM, "longest")
POINTS = "points"  # the unit of what is shown in percent

HEADER = ["role", "measure", "method", "fraction", "runs", "against", "its runs", "difference", "95 % interval"]
HEADER += ["p (Holm)", "verdict", "detectable", "p by benchmark (Holm)"]
COLUMNS = ["role", "measure", "unit", "method", "fraction", "runs", "selections", "against", "against runs"]
COLUMNS += ["against selections", "difference", "low", "high", "p", "p holm", "verdict", "only about"]
COLUMNS += ["detectable", "detectable low", "detectable high", "p by benchmark holm"]


@dataclass(frozen=True)
class Comparison:
    """A method's difference from a control; ``found`` is None where a result is missing."""

    measure: str
    scale: int  # 100: shown in percent
    method: Line
    baseline: Line
    found: Estimate | None  # positive: the method has more
    names: Sequence[str] = ()  # of the benchmarks that the measure is of
    across: Estimate | None = None  # as ``found``, with benchmarks drawn whole; None where there is one task alone


def comparisons(rows: Sequence[ResultRow]) -> list[Comparison]:
    """All comparisons, by measure."""
    all_lines = lines(rows)
    contrasts = Contrasts(all_lines)
    measures = [("average", 100, averaged(rows)), *((name, 1, [name]) for name in lower(rows))]
    compared = []
    for measure, scale, names in measures:
        for line in all_lines if names else []:
            for other in all_lines:
                if _compared(line, other):
                    estimate = contrasts.of(line, other, names)
                    across = contrasts.of(line, other, names, whole=True) if estimate is not None else None
                    compared.append(Comparison(measure, scale, line, other, estimate, names, across))
    return compared


def _compared(line: Line, other: Line) -> bool:
    """Whether ``other`` is a control of ``line``; controls are compared once, the later with the earlier."""
    if line.method in (*AS_IT_IS, RANDOM) or line.fraction != other.fraction or line is other:
        return False
    if other.method == RANDOM:
        return True
    if other.matched_to is not None:
        return other.matched_to == line.method
    return other.method == "longest" and line.matched_to is None


def is_primary(one: Comparison, primary: Mapping[str, Any] | None) -> bool:
    """Whether the experiment named this comparison beforehand."""
    if primary is None:
        return False
    asked = primary["measure"], tuple(primary["comparison"]), primary.get("fraction") or one.method.fraction
    return asked == (one.measure, (one.method.method, one.baseline.method), one.method.fraction)


@dataclass(frozen=True)
class Adjusted:
    """A comparison with its p values, corrected for the others of its measure if it is exploratory."""

    comparison: Comparison
    role: str  # primary or exploratory
    count: int  # comparisons that are corrected for
    p: float | None  # None where a result is missing
    p_across: float | None  # with benchmarks drawn whole


def adjusted(found: Sequence[Comparison], primary: Mapping[str, Any] | None = None) -> list[Adjusted]:
    """All comparisons with their p values, the primary one first.

    Exploratory ones are corrected over the comparisons of their measure. The primary comparison stands by itself; a
    primary comparison that names no fraction is one at each fraction of the experiment, corrected over these.
    """
    first = [one for one in found if is_primary(one, primary)]
    others = [one for one in found if not is_primary(one, primary)]
    made = corrected(first, "primary")
    for measure in dict.fromkeys(comparison.measure for comparison in others):
        made += corrected([comparison for comparison in others if comparison.measure == measure], "exploratory")
    return made


def corrected(family: Sequence[Comparison], role: str) -> list[Adjusted]:
    """The comparisons of one family, with p values after Holm's correction over those that have results."""
    done = [comparison.found for comparison in family if comparison.found is not None]
    p_values = iter(holm([estimate.p_value() for estimate in done]))
    across = iter(holm([one.across.p_value() for one in family if one.across is not None]))
    return [
        Adjusted(
            one,
            role,
            len(done),
            None if one.found is None else next(p_values),
            None if one.across is None else next(across),
        )
        for one in family
    ]


def table(found: Sequence[Comparison], primary: Mapping[str, Any] | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and cells, the primary comparison first."""
    return list(HEADER), [_cells(one) for one in adjusted(found, primary)]


def tidy(found: Sequence[Comparison], primary: Mapping[str, Any] | None = None) -> list[dict[str, Field]]:
    """The same as numbers, a line for each comparison, with ``COLUMNS``; p values are uncorrected and corrected ones.

    A primary comparison isn't corrected: both are the same. ``only about``: what a verdict doesn't reach beyond.
    """
    return [_numbered(one) for one in adjusted(found, primary)]


def _unit(one: Comparison) -> str:
    return POINTS if one.scale == 100 else lower_unit(one.method, one.measure)


def _numbered(one: Adjusted) -> dict[str, Field]:
    comparison, estimate = one.comparison, one.comparison.found
    sides = [about(line) for line in (comparison.method, comparison.baseline)]
    line: dict[str, Field] = {
        "role": one.role,
        "measure": comparison.measure,
        **sides[0],
        "against": comparison.baseline.method,
        **{f"against {key}": sides[1][key] for key in ("runs", "selections")},
        "unit": _unit(comparison),
    }
    if estimate is None:
        return {**line, "verdict": MISSING}
    line["difference"] = round(comparison.scale * float(estimate.value), 12)  # equal means leave the last bits
    if not math.isfinite(estimate.half_width()) or one.p is None:
        return {**line, "verdict": TestVerdict.lacking.value}
    low, high = (comparison.scale * float(end) for end in estimate.interval())
    verdict_here = verdict_of(one)
    least = estimate.detectable(ALPHA / one.count)
    across = comparison.across
    known = across is not None and math.isfinite(across.half_width())
    return {
        **line,
        "low": low,
        "high": high,
        "p": estimate.p_value(),
        "p holm": one.p,
        "verdict": verdict_here.value,
        "only about": "" if verdict_here is TestVerdict.undecided else " and ".join(_limits(one)),
        "detectable": comparison.scale * least.value,
        "detectable low": comparison.scale * least.low,
        "detectable high": comparison.scale * least.high,
        "p by benchmark holm": one.p_across if known else None,
    }


def _cells(one: Adjusted) -> list[str]:
    """A line of the table."""
    comparison, estimate = one.comparison, one.comparison.found
    method, baseline = comparison.method, comparison.baseline
    cell = [one.role, comparison.measure, method.method, f"{method.fraction:g}", str(method.runs)]
    cell += [baseline.method, str(baseline.runs)]
    if estimate is None or one.p is None:
        return [*cell, *[MISSING] * (len(HEADER) - len(cell))]
    scale, unit = comparison.scale, _unit(comparison)
    value, interval = signed(unit, *(scale * float(one) for one in (estimate.value, *estimate.interval())))
    if not math.isfinite(estimate.half_width()):
        return [*cell, value, "not enough", "-", TestVerdict.lacking.value, "-", "-"]
    least = estimate.detectable(ALPHA / one.count)
    found, low, high = (f"{scale * one:.{_digits(unit)}f}" for one in (least.value, least.low, least.high))
    cell += [value, interval, _p(one.p), said(one), f"{found} ({low} to {high})"]
    known = comparison.across is not None and math.isfinite(comparison.across.half_width())
    return [*cell, "-" if one.p_across is None else _p(one.p_across) if known else "not enough"]


def signed(unit: str, value: float, low: float, high: float) -> tuple[str, str]:
    """A difference and its interval, in ``unit``, as tables and pages print them: of the digits that a csv has."""
    value, low, high = (float(number_text(one) or one) for one in (value, low, high))
    digits = _digits(unit)
    return f"{value:+.{digits}f}", f"[{low:+.{digits}f}, {high:+.{digits}f}]"


def _digits(unit: str) -> int:
    return 2 if unit == POINTS else 4


def said(one: Adjusted) -> str:
    """The verdict, with what it is about only, if that is less than other items, selections and seeds."""
    verdict_here = verdict_of(one)
    if verdict_here is TestVerdict.undecided:
        return verdict_here.value
    limits = _limits(one)
    return f"{verdict_here.value} ({' and '.join(limits)} only)" if limits else verdict_here.value


def verdict_of(one: Adjusted) -> TestVerdict:
    comparison = one.comparison
    assert comparison.found is not None and one.p is not None, "asked of comparisons with results"
    return verdict((1 if comparison.scale == 100 else -1) * comparison.found.value, one.p)


def _limits(one: Adjusted) -> list[str]:
    """What a verdict that isn't undecided is about only."""
    assert one.comparison.found is not None, "asked of comparisons with results"
    limits = list(one.comparison.found.limits)
    return [*limits, *(["these benchmarks"] if one.p_across is not None and one.p_across >= ALPHA else [])]


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def opening(found: Sequence[Comparison], primary: Mapping[str, Any] | None) -> str:
    """What the primary comparison says, in a sentence; or that there is none."""
    if primary is None:
        return "No primary outcome was set beforehand: every comparison is exploratory."
    names = " against ".join(primary["comparison"])
    asked = (
        f"**Primary outcome, set beforehand**: {primary['measure']}, {names}, unit of replication: {primary['unit']}."
    )
    done = [one for one in adjusted(found, primary) if one.role == "primary"]
    if not done or any(one.comparison.found is None for one in done):
        return f"{asked} Its results are missing."
    says = []
    for one in done:
        cell = dict(zip(HEADER, _cells(one), strict=True))
        at = f" at fraction {cell['fraction']}" if len(done) > 1 else ""
        if cell["verdict"] == TestVerdict.lacking.value:
            says.append(f"The data{at} aren't enough for a verdict ({_why(one.comparison)}).")
            continue
        says.append(
            f"{cell['method']}{at}: {cell['verdict']}, difference in {_unit(one.comparison)} {cell['difference']} "
            f"{cell['95 % interval']}, p = "
            f"{cell['p (Holm)']}; {cell['detectable']} could have been found with probability {POWER}."
        )
    return " ".join([asked, *says])


def _why(one: Comparison) -> str:
    assert one.found is not None
    return one.found.lacking or "outcomes don't vary"


def caption(rows: Sequence[ResultRow], found: Sequence[Comparison], primary: Mapping[str, Any] | None = None) -> str:
    """How to read the table, and which control isn't there."""
    all_lines = lines(rows)
    text = [
        "Difference of means, paired by item and by training seed: of the average in points, of others in their own "
        f"unit, where lower is better. better, worse: p below {ALPHA}; of exploratory comparisons after Holm's "
        "correction over the comparisons of a measure; an interval is that of one comparison alone. Three things are "
        "samples, and intervals hold for others of each: items (those of one group are drawn together; a benchmark's "
        "items are those of this benchmark), selections, and training seeds. A method with one selection is taken to "
        "vary as the selections of the control do, or of random; where none has several, the verdict says that it is "
        "about this selection only. detectable: the smallest true difference that this design finds with probability "
        f"{POWER} at {ALPHA}, of exploratory ones divided by the number of comparisons; in brackets its 95 % interval, "
        "for it is made of estimated variances. p by benchmark: with the items of a benchmark drawn together (of a "
        "single benchmark, those of each of its tasks), so that a small p holds for other benchmarks too; a verdict "
        "that it doesn't bear out is about these benchmarks only."
    ]
    for measure in dict.fromkeys(comparison.measure for comparison in found):
        of_measure = [comparison for comparison in found if comparison.measure == measure]
        done = [one for one in of_measure if one.found is not None]
        text.append(f"- {measure}: {len(of_measure)} comparisons, {len(done)} with results")
        if lent := sum(_borrows(one) for one in done):
            text.append(
                f"- {measure}: in {lent} of {len(done)} comparisons a method has one selection and is taken to vary as "
                "another's selections do, which one selection can't show"
            )
        for limit in dict.fromkeys(limit for one in done if one.found for limit in one.found.limits):
            count = sum(limit in one.found.limits for one in done if one.found)
            names = "all comparisons" if count == len(done) else f"{count} of {len(done)} comparisons"
            text.append(f"- {measure}: {names} about {limit} only: nothing shows how others vary")
        for why in dict.fromkeys(_why(one) for one in done if one.found and not math.isfinite(one.found.half_width())):
            text.append(f"- {measure}: not enough for a verdict: {why}")
        text += _of_groups(rows, measure, of_measure[0].names)
    return "\n".join([*text, *_absent(all_lines)]) + "\n"


def _borrows(one: Comparison) -> bool:
    """Whether a method's variance between selections is another's."""
    known = one.found is not None and one.found.selections_freedom != 0
    return known and any(len(set(line.selections)) == 1 for line in (one.method, one.baseline))


def _of_groups(rows: Sequence[ResultRow], measure: str, names: Sequence[str]) -> list[str]:
    """What a reader has to know of the groups of a measure's items."""
    if names != [measure]:
        return []
    if not grouped_items(rows, names):
        others = [name for name in lower(rows) if grouped_items(rows, [name])]
        beside = f" {', '.join(others)} has groups: evaluate {measure} again to have them." if others else ""
        return [
            f"- {measure}: its items have no groups: if some are of one source, its intervals are too narrow.{beside}"
        ]
    alone = single_groups(rows, names)
    return [f"- {measure}: groups of one item, each drawn by itself: {', '.join(alone)}"] if alone else []


def _absent(made: Sequence[Line]) -> list[str]:
    text = []
    fractions = dict.fromkeys(line.fraction for line in made if line.method not in AS_IT_IS)
    for name in BASELINES:
        for fraction in fractions:
            if not any(line.method == name and line.fraction == fraction for line in made):
                text.append(f"- missing baseline: no `{name}` at fraction {fraction:g}, so no verdict against it")
    return text


def document(
    rows: Sequence[ResultRow], found: Sequence[Comparison], primary: Mapping[str, Any] | None, notes: str, markdown: Any
) -> str:
    """verdicts.md: the primary comparison, then, so headed, the exploratory ones.

    Args:
        notes: lines below the caption.
        markdown: makes a table of header and cells.
    """
    header, cells = table(found, primary)
    below = f"{caption(rows, found, primary)}{notes}"
    text = f"{opening(found, primary)}\n\n"
    for role, title in (("primary", "Primary comparison"), ("exploratory", "Exploratory comparisons")):
        of_role = [cell for cell in cells if cell[0] == role]
        if of_role:
            text += f"## {title}\n\n{markdown(header, of_role)}\n"
    return text + below
