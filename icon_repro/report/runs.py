"""Group rows of results into the lines of tables, a method and a fraction each, and give statistics their outcomes.

In: ``ResultRow``s.  Out: ``Line``; samples for ``icon_repro.report.statistics``.
Refused: runs without a seed or given twice, rows of several experiments or models, costs that aren't finite, and
benchmarks (comparisons) whose runs differ in metric, version or items: their mean would be of different things.
Known gap: none.
"""

import json
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_repro.report.estimates import Estimate
from icon_repro.report.rows import BenchmarkFacts, Part, ResultRow
from icon_repro.report.statistics import Items, Numbers, Sample, Values, clustered, difference

AS_IT_IS = ("base", "full")  # nothing is selected
RANDOM = "random"  # the control whose selections lend their variance
# metrics that are a mean of values in [0, 1]; another needs ``bounds`` with its outcomes or its task
_SHARES = {"acc", "acc_norm", "exact_match", "win rate", "prompt_level_strict_acc", "inst_level_strict_acc"}
_SHARES |= {"prompt_level_loose_acc", "inst_level_loose_acc", "mc1", "mc2", "f1", "em", "pass@1"}
_POINTS = {"w": 2.0, "t": 1.0, "l": 0.0}  # of a prompt in the winning score


class RunsError(ValueError):
    """Rows that can't be put into one table."""


def label(method: str, fraction: float | None) -> str:
    """Short name of a method at a fraction: ``base``, ``full``, ``icon-0.15``."""
    return method if fraction is None or method == "full" else f"{method}-{fraction:g}"


@dataclass(frozen=True)
class Line:
    """All runs of one method at one fraction."""

    method: str
    fraction: float | None
    rows: Sequence[ResultRow]

    @property
    def label(self) -> str:
        """Short name: ``base``, ``full``, ``icon-0.15``."""
        return label(self.method, self.fraction)

    @property
    def runs(self) -> int:
        """Trained models; 0 for the model as it is."""
        return 0 if self.rows[0].seed is None else len(self.rows)

    @property
    def selections(self) -> list[int | None]:
        return [row.selection_seed for row in self.rows]

    @property
    def matched_to(self) -> str | None:
        """The method whose response lengths this random control has; None if it isn't such a control."""
        return self.rows[0].matched_to

    def has(self, names: Sequence[str]) -> bool:
        """Whether every run has a result of each benchmark."""
        return all(name in row.benchmarks for row in self.rows for name in names)

    def mean(self, name: str) -> float:
        """Of a benchmark: over the runs of each selection, then over selections."""
        by_selection: dict[int | None, list[float]] = {}
        for row in self.rows:
            by_selection.setdefault(row.selection_seed, []).append(row.benchmarks[name].value)
        return float(np.mean([np.mean(values) for values in by_selection.values()]))


def lines(rows: Sequence[ResultRow]) -> list[Line]:
    """The rows by method and fraction, in order of first appearance.

    Raises:
        RunsError: see the module.
    """
    groups: dict[tuple[str, float | None], dict[Hashable, ResultRow]] = {}
    for row in rows:
        if row.seed is None and row.method != "base":
            raise RunsError(f"{row.method}: a run without a training seed. Make the rows anew with action=report.")
        group = groups.setdefault((row.method, row.fraction), {})
        seeds = (row.pool, row.selection_seed, row.seed)
        if seeds in group:
            raise RunsError(f"{row.method}, fraction {row.fraction}: two runs of seeds {seeds[1:]}. Keep one of them.")
        group[seeds] = row
    _check_alike(rows)
    return [Line(method, fraction, list(group.values())) for (method, fraction), group in groups.items()]


def _check_alike(rows: Sequence[ResultRow]) -> None:
    """Refuse what the module says."""
    seen: dict[tuple[str, str], tuple[object, str]] = {}
    for row in rows:
        first = rows[0]
        for what, one, other in (("experiment", first.experiment, row.experiment), ("model", first.model, row.model)):
            if one != other:
                raise RunsError(
                    f"rows of two {what}s, {one!r} and {other!r}: their mean would be of different "
                    "things. Report each by itself."
                )
        for part, spent in (("selection", row.selection), ("tuning", row.tuning)):
            if spent is not None and not (math.isfinite(spent.tokens) and math.isfinite(spent.flops)):
                raise RunsError(
                    f"{label(row.method, row.fraction)}: cost of {part} is {spent.tokens} tokens, {spent.flops} "
                    "FLOPs. Make the rows anew with action=report."
                )
        for name, cell in row.benchmarks.items():
            if not math.isfinite(cell.value):
                raise RunsError(f"{name} of {cell.step} is {cell.value}. Delete that step and evaluate again.")
            facts_of_cell: dict[str, object] = {"metric": cell.metric, "version": cell.version, "items": cell.items}
            for what, value in {**facts_of_cell, "which items": cell.outcomes.ids}.items():
                before, step = seen.setdefault((name, what), (value, cell.step))
                if before != value:
                    raise RunsError(
                        f"{name}: runs differ in {what}: {_short(before)} ({step}), {_short(value)} "
                        f"({cell.step}). Evaluate all of them the same way; they can't share a table."
                    )
        for name, judged in row.judged.items():
            key = (f"comparison on {name}", judged.against)
            before, step = seen.setdefault(key, (judged.outcomes.ids, judged.step))
            if before != judged.outcomes.ids:
                raise RunsError(
                    f"{name}: runs were judged on different prompts ({step}, {judged.step}). Judge all of them on "
                    "the same ones; they can't share a table."
                )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def facts(rows: Sequence[ResultRow]) -> dict[str, BenchmarkFacts]:
    """Group, chance level and direction of each benchmark, by name."""
    by_name: dict[str, BenchmarkFacts] = {}
    for row in rows:
        for name, fact in row.tasks.items():
            by_name.setdefault(name, fact)
    return by_name


def averaged(rows: Sequence[ResultRow]) -> list[str]:
    """The benchmarks that count in averages: higher is better."""
    return [name for name, fact in facts(rows).items() if fact.higher_is_better]


def lower(rows: Sequence[ResultRow]) -> list[str]:
    """The benchmarks of which lower is better, each with a column of its own."""
    return [name for name, fact in facts(rows).items() if not fact.higher_is_better]


def sample(line: Line, names: Sequence[str]) -> Sample | None:
    """Outcomes of the benchmarks, each of the same weight; None if one of them has no known error.

    Every run must have all of them.

    Raises:
        RunsError: runs whose items have other groups or sizes.
    """
    parts: list[Items | Numbers] = []
    for name in names:
        stored = [row.benchmarks[name].outcomes for row in line.rows]
        for index, first in enumerate(stored[0].parts):
            outcomes_of_runs = [outcomes.parts[index] for outcomes in stored]
            title, weight = f"{name} {first.name}".strip(), first.weight / len(names)
            bounds = _bounds(line.rows[0], name, first)
            if first.values is not None:
                for key, same in (
                    ("groups", all(part.groups == first.groups for part in outcomes_of_runs)),
                    ("sizes", all(part.sizes == first.sizes for part in outcomes_of_runs)),
                ):
                    if not same:
                        raise RunsError(f"{title}: runs of {line.label} differ in {key} of items. Evaluate them again.")
                values = np.stack([decoded(part) for part in outcomes_of_runs])
                sizes = None if first.sizes is None else np.asarray(first.sizes, np.float64)
                parts.append(Items(title, values, stored[0].ids, weight, bounds, _numbered(first), sizes))
            elif all(part.stderr is not None for part in outcomes_of_runs):
                numbers = np.array([part.value for part in outcomes_of_runs], np.float64)
                errors = np.array([part.stderr for part in outcomes_of_runs], np.float64)
                parts.append(Numbers(title, numbers, errors, weight, bounds))
            else:
                return None
    return _sample(line, parts)


def _sample(line: Line, parts: Sequence[Items | Numbers]) -> Sample:
    seeds = [row.seed for row in line.rows]
    selected, trained = line.method not in AS_IT_IS, line.rows[0].seed is not None
    pools = [row.pool for row in line.rows]
    known = None not in pools
    return Sample(parts, pools if known else line.selections, seeds, selected, trained, known)


def _bounds(row: ResultRow, name: str, part: Part) -> tuple[float, float] | None:
    """What a mean can't leave, as it is declared: with the outcomes, with the task, or by a metric that is a share."""
    declared = part.bounds if part.bounds is not None else row.tasks[name].bounds
    if declared is not None:
        low, high = declared
        return float(low), float(high)
    metric = row.benchmarks[name].metric
    return (0.0, 1.0) if set(metric.split("+")) <= _SHARES else None


def _numbered(part: Part) -> NDArray[np.int64] | None:
    """The groups of a part's items as numbers, in order of first appearance."""
    groups = part.groups
    if groups is None:
        return None
    place = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    return np.array([place[label] for label in groups], np.int64)


def single_groups(rows: Sequence[ResultRow], names: Sequence[str]) -> list[str]:
    """Groups of one item among the items of the benchmarks: they say nothing of how items of a group differ."""
    single: dict[str, None] = {}
    for part in _parts(rows, names):
        counts = Counter(part.groups or [])
        single |= dict.fromkeys(str(label) for label, count in counts.items() if count == 1)
    return list(single)


def grouped_items(rows: Sequence[ResultRow], names: Sequence[str]) -> bool:
    """Whether items of the benchmarks have groups."""
    return any(part.groups is not None for part in _parts(rows, names))


def _parts(rows: Sequence[ResultRow], names: Sequence[str]) -> list[Part]:
    cells = [next((row.benchmarks[name] for row in rows if name in row.benchmarks), None) for name in names]
    return [part for cell in cells if cell is not None for part in cell.outcomes.parts]


class Contrasts:
    """Differences of two lines' means; every table, figure and claim takes them from here."""

    def __init__(self, known: Sequence[Line]) -> None:
        """
        Args:
            known: all lines: where neither of two has several selections, random of the same fraction lends its
                variance between them. Another fraction's selections vary by another amount, so they lend none.
        """
        self._known = known
        self._samples: dict[tuple[int, tuple[str, ...], bool], Sample | None] = {}

    def of(self, line: Line, other: Line, names: Sequence[str], *, whole: bool = False) -> Estimate | None:
        """The difference of the mean of benchmarks.

        Args:
            whole: benchmarks (of a single one, its tasks) are drawn whole.

        Returns:
            None where a result or its error is missing, or, with ``whole``, there is one benchmark alone.
        """
        fractions = [first.fraction for first in (line, other) if first.method not in AS_IT_IS]
        lenders = [own for own in self._known if own.method == RANDOM and own.fraction in fractions]
        lenders = [own for own in lenders if len(set(own.selections)) > 1 and own.has(names)]
        lenders = sorted(lenders, key=lambda own: own.fraction or 1.0)  # of two, the fewer rows, which vary more
        first, second = (self._sample(own, names, whole) for own in (line, other))
        if first is None or second is None:
            return None
        return difference(first, second, self._sample(lenders[0], names, whole) if lenders else None)

    def _sample(self, line: Line, names: Sequence[str], whole: bool) -> Sample | None:
        key = id(line), tuple(names), whole
        if key not in self._samples:
            whole_sample = sample(line, names) if line.has(names) else None
            if whole_sample is not None and whole:
                groups = clusters(line, names)
                whole_sample = clustered(whole_sample, groups) if len(set(groups)) > 1 else None
            self._samples[key] = whole_sample
        return self._samples[key]


def clusters(line: Line, names: Sequence[str]) -> list[str]:
    """The group of each part of ``sample``: its benchmark; of one benchmark alone, its task."""
    parts = [(name, part.name) for name in names for part in line.rows[0].benchmarks[name].outcomes.parts]
    return [name if len(names) > 1 else task for name, task in parts]


def decoded(part: Part) -> Values:
    """The outcomes of a part's items, (items,) float64."""
    if isinstance(part.values, str):
        return np.frombuffer(part.values.encode("ascii"), np.uint8).astype(np.float64) - ord("0")
    return np.asarray(part.values, np.float64)


def judged_sample(line: Line, name: str) -> Sample:
    """What each prompt gives to the winning score of a comparison; every run must have it.

    A failed prompt gives the score of the others: the mean over all prompts is the score, and its interval is that of
    the judged ones.
    """
    stored = [row.judged[name].outcomes for row in line.rows]
    parts: list[Items | Numbers] = []
    everything = [np.concatenate([_points(part) for part in outcomes.parts]) for outcomes in stored]
    for index, first in enumerate(stored[0].parts):
        scores = []
        for outcomes, points in zip(stored, everything, strict=True):
            of_prompts, score = _points(outcomes.parts[index]), float(np.nanmean(points))
            scores.append(score + np.nan_to_num(of_prompts - score) * points.size / np.count_nonzero(~np.isnan(points)))
        values = np.stack(scores)
        title = f"{name} {first.name}".strip()
        parts.append(Items(title, values, stored[0].ids, first.weight, (0.0, 2.0)))
    return _sample(line, parts)


def _points(part: Part) -> Values:
    """What each prompt gives to the winning score; NaN where the judge gave no verdict."""
    letters = part.values if isinstance(part.values, str) else ""
    return np.array([_POINTS[letter] if letter != "f" else np.nan for letter in letters])
