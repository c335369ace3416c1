"""Stored rows, one a run, as what tables show: lines of a method and a fraction, and their outcomes for statistics.

In: the rows that ``engine.collect`` makes.  Out: ``Line``; samples for ``icon_repro.stats``.
Refused: runs without a seed or given twice, rows of several experiments or models, costs that aren't finite, and
benchmarks (comparisons) whose runs differ in metric, version or items: their mean would be of different things.
Known gap: none.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icon_repro.stats import Items, Sample, Summary, Values

Row = Mapping[str, Any]
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
    rows: Sequence[Row]

    @property
    def label(self) -> str:
        """Short name: ``base``, ``full``, ``icon-0.15``."""
        return label(self.method, self.fraction)

    @property
    def runs(self) -> int:
        """Trained models; 0 for the model as it is."""
        return 0 if self.rows[0]["seed"] is None else len(self.rows)

    @property
    def selections(self) -> list[int | None]:
        return [row["selection_seed"] for row in self.rows]

    def has(self, names: Sequence[str]) -> bool:
        """Whether every run has a result of each benchmark."""
        return all(name in row["benchmarks"] for row in self.rows for name in names)

    def mean(self, name: str) -> float:
        """Of a benchmark: over the runs of each selection, then over selections."""
        found: dict[int | None, list[float]] = {}
        for row in self.rows:
            found.setdefault(row["selection_seed"], []).append(row["benchmarks"][name]["value"])
        return float(np.mean([np.mean(values) for values in found.values()]))


def lines(rows: Sequence[Row]) -> list[Line]:
    """The rows by method and fraction, in order of first appearance.

    Raises:
        RunsError: see the module.
    """
    groups: dict[tuple[str, float | None], dict[tuple[Any, Any], Row]] = {}
    for row in rows:
        if row["seed"] is None and row["method"] != "base":
            raise RunsError(f"{row['method']}: a run without a training seed. Make the rows anew with action=report.")
        group = groups.setdefault((row["method"], row["fraction"]), {})
        seeds = (row["selection_seed"], row["seed"])
        if seeds in group:
            raise RunsError(
                f"{row['method']}, fraction {row['fraction']}: two runs of seeds {seeds}. Keep one of them."
            )
        group[seeds] = row
    _check_alike(rows)
    return [Line(method, fraction, list(group.values())) for (method, fraction), group in groups.items()]


def _check_alike(rows: Sequence[Row]) -> None:
    """Refuse what the module says."""
    seen: dict[tuple[str, str], tuple[Any, str]] = {}
    for row in rows:
        for what in ("experiment", "model"):
            if row[what] != rows[0][what]:
                raise RunsError(
                    f"rows of two {what}s, {rows[0][what]!r} and {row[what]!r}: their mean would be of different "
                    "things. Report each by itself."
                )
        for part in ("selection", "tuning"):
            if row[part] is not None and not all(math.isfinite(value) for value in row[part].values()):
                raise RunsError(
                    f"{label(row['method'], row['fraction'])}: cost of {part} is {row[part]}. Make the rows anew with "
                    "action=report."
                )
        for name, cell in row["benchmarks"].items():
            if not math.isfinite(cell["value"]):
                raise RunsError(f"{name} of {cell['step']} is {cell['value']}. Delete that step and evaluate again.")
            for what, value in (*((key, cell[key]) for key in ("metric", "version", "items")), *_ids(cell)):
                first = seen.setdefault((name, what), (value, cell["step"]))
                if first[0] != value:
                    raise RunsError(
                        f"{name}: runs differ in {what}: {_short(first[0])} ({first[1]}), {_short(value)} "
                        f"({cell['step']}). Evaluate all of them the same way; they can't share a table."
                    )
        for name, one in row["judged"].items():
            key = (f"comparison on {name}", one["against"])
            first = seen.setdefault(key, (one["outcomes"]["ids"], one["step"]))
            if first[0] != one["outcomes"]["ids"]:
                raise RunsError(
                    f"{name}: runs were judged on different prompts ({first[1]}, {one['step']}). Judge all of them on "
                    "the same ones; they can't share a table."
                )


def _ids(cell: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [("which items", cell["outcomes"]["ids"])]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def facts(rows: Sequence[Row]) -> dict[str, Mapping[str, Any]]:
    """Group, chance level and direction of each benchmark, by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        for name, fact in row["tasks"].items():
            found.setdefault(name, fact)
    return found


def averaged(rows: Sequence[Row]) -> list[str]:
    """The benchmarks that count in averages: higher is better."""
    return [name for name, fact in facts(rows).items() if fact["higher_is_better"]]


def lower(rows: Sequence[Row]) -> list[str]:
    """The benchmarks of which lower is better, each with a column of its own."""
    return [name for name, fact in facts(rows).items() if not fact["higher_is_better"]]


def sample(line: Line, names: Sequence[str]) -> Sample | None:
    """Outcomes of the benchmarks, each of the same weight; None if one of them has no known error.

    Every run must have all of them.
    """
    parts: list[Items | Summary] = []
    for name in names:
        stored = [row["benchmarks"][name]["outcomes"] for row in line.rows]
        for index, first in enumerate(stored[0]["parts"]):
            own = [outcomes["parts"][index] for outcomes in stored]
            label = f"{name} {first['name']}".strip()
            weight = first["weight"] / len(names)
            if "values" in first:
                values = np.stack([decoded(part["values"]) for part in own])
                span = 1.0 if values.min() >= 0 and values.max() <= 1 else math.inf
                parts.append(Items(label, values, stored[0]["ids"], weight, span))
            elif all(part["stderr"] is not None for part in own):
                numbers, errors = (np.array([part[key] for part in own]) for key in ("value", "stderr"))
                parts.append(Summary(label, numbers, errors, weight))
            else:
                return None
    return Sample(parts, line.selections)


def clusters(line: Line, names: Sequence[str]) -> list[str]:
    """The group of each part of ``sample``: its benchmark; of one benchmark alone, its task."""
    parts = [(name, part["name"]) for name in names for part in line.rows[0]["benchmarks"][name]["outcomes"]["parts"]]
    return [name if len(names) > 1 else task for name, task in parts]


def decoded(values: str | Sequence[float]) -> Values:
    """Stored outcomes as an array."""
    if isinstance(values, str):
        return np.frombuffer(values.encode("ascii"), np.uint8).astype(np.float64) - ord("0")
    return np.asarray(values, np.float64)


def judged_sample(line: Line, name: str) -> Sample:
    """What each prompt gives to the winning score of a comparison; every run must have it.

    A failed prompt gives the score of the others: the mean over all prompts is the score, and its interval is that of
    the judged ones.
    """
    stored = [row["judged"][name]["outcomes"] for row in line.rows]
    parts: list[Items | Summary] = []
    everything = [_points("".join(part["values"] for part in outcomes["parts"])) for outcomes in stored]
    for index, first in enumerate(stored[0]["parts"]):
        made = []
        for outcomes, points in zip(stored, everything, strict=True):
            own, score = _points(outcomes["parts"][index]["values"]), float(np.nanmean(points))
            made.append(score + np.nan_to_num(own - score) * points.size / np.count_nonzero(~np.isnan(points)))
        values = np.stack(made)
        parts.append(Items(f"{name} {first['name']}".strip(), values, stored[0]["ids"], first["weight"], 2.0))
    return Sample(parts, line.selections)


def _points(outcomes: str) -> Values:
    return np.array([_POINTS[letter] if letter != "f" else np.nan for letter in outcomes])
