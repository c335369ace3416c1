"""The verdicts of an experiment: each method against ``random`` and ``longest`` of the same fraction.

In: the rows that ``engine.collect`` makes.  Out: lines of verdicts.md and verdicts.csv.
Measures: the average of the benchmarks, and each one of which lower is better; p values are adjusted over all
comparisons of a measure (Holm), and so is the smallest detectable difference (its first step, alpha / comparisons).
Verdicts are over items within benchmarks; beside them the p value with benchmarks drawn whole.
Known gap: none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from icon_repro.report.runs import Line, Row, averaged, clusters, lines, lower, sample
from icon_repro.stats import ALPHA, POWER, Estimate, Sample, clustered, difference, holm, verdict

BASELINES = ("random", "longest")
_AS_IT_IS = ("base", "full")  # nothing is selected

HEADER = ["measure", "method", "fraction", "runs", "against", "its runs", "difference", "95 % interval"]
HEADER += ["p (Holm)", "verdict", "detectable", "p by benchmark (Holm)"]


@dataclass(frozen=True)
class Comparison:
    """A method's difference from a baseline; ``found`` is None where a result is missing."""

    measure: str
    scale: int  # 100: shown in percent
    method: Line
    baseline: Line
    found: Estimate | None  # positive: the method has more
    names: Sequence[str] = ()  # of the benchmarks that the measure is of
    across: Estimate | None = None  # as ``found``, with benchmarks drawn whole; None where there is one task alone


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """All comparisons, by measure."""
    made = lines(rows)
    measures = [("average", 100, averaged(rows)), *((name, 1, [name]) for name in lower(rows))]
    found = []
    for measure, scale, names in measures:
        if not names:
            continue
        samples = {id(line): sample(line, names) if line.has(names) else None for line in made}
        whole = {id(line): _clustered(line, names, samples[id(line)]) for line in made}
        for line in made:
            for other in made:
                if _compared(line, other):
                    one, two = samples[id(line)], samples[id(other)]
                    estimate = None if one is None or two is None else difference(one, two)
                    one, two = whole[id(line)], whole[id(other)]
                    across = None if one is None or two is None else difference(one, two)
                    found.append(Comparison(measure, scale, line, other, estimate, names, across))
    return found


def _clustered(line: Line, names: Sequence[str], own: Sample | None) -> Sample | None:
    groups = clusters(line, names) if own is not None else []
    return clustered(own, groups) if own is not None and len(set(groups)) > 1 else None


def _compared(line: Line, other: Line) -> bool:
    if line.method in _AS_IT_IS or other.method not in BASELINES or line.fraction != other.fraction:
        return False
    place = BASELINES.index(other.method)  # baselines are compared once, the later with the earlier
    return line.method not in BASELINES[: place + 1]


def table(found: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Header and cells."""
    better = {True: 1, False: -1}
    cells = []
    for measure in dict.fromkeys(comparison.measure for comparison in found):
        own = [comparison for comparison in found if comparison.measure == measure]
        done = [comparison.found for comparison in own if comparison.found is not None]
        adjusted = iter(holm([estimate.p_value() for estimate in done]))
        across = iter(holm([comparison.across.p_value() for comparison in own if comparison.across is not None]))
        for comparison in own:
            line, other, estimate, scale = comparison.method, comparison.baseline, comparison.found, comparison.scale
            cell = [measure, line.method, f"{line.fraction:g}", str(line.runs), other.method, str(other.runs)]
            if estimate is None:
                cells.append([*cell, *["missing"] * 6])
                continue
            p = next(adjusted)
            digits = 2 if scale == 100 else 4
            low, high = (scale * end for end in estimate.interval())
            says = verdict(better[scale == 100] * estimate.value, p)
            cell += [f"{scale * estimate.value:+.{digits}f}", f"[{low:+.{digits}f}, {high:+.{digits}f}]"]
            cell += [_p(p), says.value, f"{scale * estimate.detectable(ALPHA / len(done)):.{digits}f}"]
            cells.append([*cell, "-" if comparison.across is None else _p(next(across))])
    return list(HEADER), cells


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def caption(rows: Sequence[Row], found: Sequence[Comparison]) -> str:
    """How to read the table, and which baseline isn't there."""
    made = lines(rows)
    text = [
        "Difference of means, paired by item: of the average in points, of others in their own unit, where lower is "
        f"better. better, worse: p below {ALPHA} after Holm's correction over the comparisons of a measure; an "
        "interval is that of one comparison alone. detectable: the smallest true difference that this design finds "
        f"with probability {POWER} at {ALPHA} divided by the number of comparisons. p by benchmark: with the "
        "items of a benchmark drawn together (of a single benchmark, those of each of its tasks), so that a small p "
        "holds for other benchmarks too; verdicts are about other items of these. With two seeds or more an interval "
        "holds for other seeds too; a single run beside several is taken to vary as they do."
    ]
    for measure in dict.fromkeys(comparison.measure for comparison in found):
        own = [comparison for comparison in found if comparison.measure == measure]
        text.append(f"- {measure}: {len(own)} comparisons, {sum(c.found is not None for c in own)} with results")
    single = [c for c in found if c.found is not None and not c.found.seeds_freedom]
    if single:
        names = "all comparisons" if len(single) == len(found) else f"{len(single)} of {len(found)} comparisons"
        text.append(f"- {names}: one run on each side, so over items only; another seed may say something else")
    fractions = dict.fromkeys(line.fraction for line in made if line.method not in _AS_IT_IS)
    for name in BASELINES:
        for fraction in fractions:
            if not any(line.method == name and line.fraction == fraction for line in made):
                text.append(f"- missing baseline: no `{name}` at fraction {fraction:g}, so no verdict against it")
    return "\n".join(text) + "\n"
