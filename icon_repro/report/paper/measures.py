"""Find one number of a method at a fraction in the stored rows, with its outcomes; or say why it isn't there.

In: ``ResultRow``s.  Out: outcomes for ``icon_repro.report.statistics``; costs in operations.
The tables beside the paper's and the claims read the results through this module only.
Known gap: none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from icon_repro.report.rows import BenchmarkFacts, JudgedResult, ResultRow, Spent
from icon_repro.report.runs import Line, facts, judged_sample, lines, sample
from icon_repro.report.statistics import Items, Sample

_ADDED_BY = {"alpaca_eval": " (judge=paper adds it)"}


class NotRunError(LookupError):
    """The results don't hold a number; the message says why, and how to get it where that is known."""


@dataclass(frozen=True)
class StoredResults:
    """All lines of an experiment."""

    rows: Sequence[ResultRow]
    lines: Mapping[tuple[str, float | None], Line]
    tasks: Mapping[str, BenchmarkFacts]  # group, chance level and direction of each benchmark
    against: Sequence[str] = ()  # whom the judge's sets compare with, as the config says

    @property
    def model(self) -> str:
        return self.rows[0].model


def results_of(rows: Sequence[ResultRow], config: Mapping[str, Any] | None = None) -> StoredResults:
    """The rows by line.

    Args:
        config: as run.json holds it; says more of what is missing.

    Raises:
        RunsError: runs that can't be averaged.
    """
    judge = config.get("judge") if config is not None else None  # results of a first version have no judge
    compared = [judge["against"], *judge.get("opponents", {}).values()] if judge is not None and judge["sets"] else []
    against = list(dict.fromkeys(map(str, compared)))
    return StoredResults(rows, {(line.method, line.fraction): line for line in lines(rows)}, facts(rows), against)


def line_of(results: StoredResults, method: str, fraction: float | None) -> Line:
    """The runs of ``method`` at ``fraction``, which is 1 for full and None for base.

    Raises:
        NotRunError: the experiment has no such line.
    """
    if (found := results.lines.get((method, fraction))) is not None:
        return found
    known = [line for line in results.lines.values() if line.method == method]
    if not known:
        raise NotRunError(f"no {method!r} in this experiment")
    raise NotRunError(f"{method} isn't run at fraction {fraction:g}" if fraction is not None else f"no {method!r}")


def benchmark_sample(results: StoredResults, line: Line, names: Sequence[str]) -> Sample | None:
    """Outcomes of the mean of benchmarks; None if one of them has no known error.

    Raises:
        NotRunError: a run has no result of a benchmark.
    """
    if why := _lacking(results, line, names):
        raise NotRunError(why)
    return sample(line, names)


def _lacking(results: StoredResults, line: Line, names: Sequence[str]) -> str:
    """Which of ``names`` runs of ``line`` lack, by reason; empty if none."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        if name not in results.tasks:
            reasons.setdefault(f"not in this experiment{_ADDED_BY.get(name, '')}", []).append(name)
            continue
        lacking = [row for row in line.rows if name not in row.benchmarks]
        for why in dict.fromkeys(row.missing.get(name, "not run yet") for row in lacking):
            some = f" ({len(lacking)} of {len(line.rows)} runs)" if 0 < len(lacking) < len(line.rows) else ""
            reasons.setdefault(why + some, []).append(name)
    if len(reasons) == 1 and len(next(iter(reasons.values()))) == len(names):
        return next(iter(reasons))
    return "; ".join(f"{', '.join(found)}: {why}" for why, found in reasons.items())


def score_sample(results: StoredResults, method: str, fraction: float, opponent: str, name: str) -> tuple[Line, Sample]:
    """What each prompt of a set gives to the winning score of ``method`` against ``opponent``: 0, 1 or 2.

    The opponent may have been judged against the method: that is the same comparison from the other side.

    Returns:
        The line whose rows hold the verdicts, and the outcomes.

    Raises:
        NotRunError: this comparison wasn't judged.
    """
    theirs = 1.0 if opponent == "full" else None if opponent == "base" else fraction
    orders = [(method, fraction, opponent, False), (opponent, theirs, method, True)]
    for first, at, second, other_side in orders:
        line = results.lines.get((first, at))
        if line is None or not all(_is_against(row.judged.get(name), second) for row in line.rows):
            continue
        points = judged_sample(line, name)
        if other_side:
            points = replace(
                points, parts=[replace(p, values=2 - p.values) for p in points.parts if isinstance(p, Items)]
            )
        return line, points
    for first, at in ((method, fraction), (opponent, theirs)):
        line_of(results, first, at)  # says which of them isn't there
    raise NotRunError(_unjudged(results, [results.lines[first, at] for first, at, _, _ in orders], name))


def _is_against(judged: JudgedResult | None, opponent: str) -> bool:
    return judged is not None and judged.against == opponent


def _unjudged(results: StoredResults, both: Sequence[Line], name: str) -> str:
    against = {one.against for row in results.rows for one in row.judged.values()} - {"reference"}
    against = (against | set(results.against)) - {line.method for line in both}
    missing = {row.unjudged[name] for line in both for row in line.rows if name in row.unjudged}
    if against:
        return (
            f"the judge compares with {', '.join(sorted(against))}; judge.opponents={{{both[1].method}: "
            f"{both[0].method}}} compares with {both[0].method} too"
        )
    return "; ".join(sorted(missing)) or f"no comparison on {name} by a judge in this experiment (judge=paper)"


def tuning_flops(line: Line) -> float:
    """Operations of one run's tuning, mean over runs.

    Raises:
        NotRunError: a run hasn't been trained.
    """
    return _flops([row.tuning for row in line.rows], "tuning")


def total_flops(line: Line) -> float:
    """Operations of selection and of one run's tuning.

    Raises:
        NotRunError: one of them isn't finished.
    """
    return _flops([row.selection for row in line.rows], "selection") + tuning_flops(line)


def _flops(spent: Sequence[Spent | None], what: str) -> float:
    finished = [one.flops for one in spent if one is not None]
    if len(finished) < len(spent):
        raise NotRunError(f"{what} isn't finished")
    return fmean(finished)


def evaluation_steps(line: Line, names: Sequence[str]) -> list[str]:
    """Folders of the steps behind a mean of benchmarks, run by run."""
    return [row.benchmarks[name].step for row in line.rows for name in names if name in row.benchmarks]


def judge_steps(line: Line, name: str) -> list[str]:
    return [row.judged[name].step for row in line.rows if name in row.judged]


def cost_steps(line: Line) -> list[str]:
    return [step for row in line.rows for step in (row.steps.select, row.steps.train) if step is not None]
