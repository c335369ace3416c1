"""Pack outcomes of single items so small that results can keep them, so that methods are compared item by item.

In: samples.jsonl of an evaluation, or verdicts.jsonl of a judge.  Out: {ids, parts}: ``ids`` a hash of which items they
are, a part for each task of a group: {name, weight, values}, the values in the order of the items' ids, as a text of 0
and 1 where no other occurs. A task whose metric is no mean over items (F1, MCC) has {name, weight, value, stderr}.
Evaluations write this once, as items.json: their samples are large. Imports no numpy: the command line reads results.
Known gap: none.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine.records import read_json, read_lines, write_json

FILE = "items.json"


class ItemsError(ValueError):
    """Stored outcomes that don't belong together."""


def write_items(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write items.json beside an evaluation's samples."""
    write_json(folder / FILE, of_samples(folder, metrics))


def of_evaluation(folder: Path) -> dict[str, Any]:
    """Outcomes of an evaluation step."""
    stored = read_json(folder / FILE)
    if "parts" in stored:
        return dict(stored)
    return _outcomes({"": (1.0, dict(zip(stored["ids"], stored["values"], strict=True)))}, {})


def values_of(folder: Path) -> dict[str, float]:
    """The outcome of each item by its id, of an evaluation without parts: held-out rows."""
    stored = read_json(folder / FILE)
    return dict(zip(stored["ids"], stored["values"], strict=True))


def of_samples(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Outcomes from results.json and samples.jsonl.

    Raises:
        ItemsError: two samples of one item, or a mean that isn't the value in ``metrics``.
    """
    facts = read_json(folder / "results.json")["tasks"]
    by_task: dict[str, dict[str, float]] = {}
    for _, sample in read_lines(folder / "samples.jsonl"):
        value = sample.get("outcome")
        if value is None:  # of another filter, or of a metric that is no mean
            continue
        of_task = by_task.setdefault(sample["task"], {})
        name = f"{sample['doc_id']}:{sample['doc_hash']}"
        if name in of_task:
            raise ItemsError(f"{folder.name}: samples.jsonl holds item {name!r} twice. Delete the step and run again.")
        of_task[name] = float(value)
    weights = metrics["weights"] if "weights" in metrics else dict.fromkeys(facts, 1.0)
    outcomes = _outcomes(
        {name: (weights[name], by_task[name]) for name in weights if name in by_task},
        {name: (weights[name], facts[name]) for name in weights if name not in by_task},
    )
    if abs(mean(outcomes) - metrics["value"]) > 1e-6:
        raise ItemsError(
            f"{folder.name}: its items have the mean {mean(outcomes):.8g}, not its value {metrics['value']:.8g}. "
            "Delete the step and run again."
        )
    return outcomes


def of_verdicts(folder: Path) -> dict[str, Any]:
    """Outcomes of a judge's comparison: a part for each set, values a text of w, t, l and f (win, tie, lose, failed).

    Sets of a pooled comparison are told by ``set:`` before the prompts' ids; each prompt weighs the same.
    """
    rows = [(row["id"], str(row["outcome"])[0]) for _, row in read_lines(folder / "verdicts.jsonl")]
    rows += [(row["id"], "f") for _, row in read_lines(folder / "failures.jsonl")]
    sets: dict[str, dict[str, str]] = {}
    for name, outcome in sorted(rows):
        sets.setdefault(name.rpartition(":")[0], {})[name] = outcome
    parts = [
        {"name": name, "weight": len(own) / len(rows), "values": "".join(own.values())} for name, own in sets.items()
    ]
    return {"ids": _digest(name for name, _ in sorted(rows)), "parts": parts}


def win_rate(outcomes: Mapping[str, Any]) -> dict[str, Any]:
    """Outcomes of a judge's comparison as those of a benchmark: 1, 0.5 or 0 a prompt, whose mean is the win rate.

    A failed prompt has the mean of the judged ones, which count for more: mean and variance are those of the judged.
    """
    points = {"w": 1.0, "t": 0.5, "l": 0.0}
    letters = "".join(part["values"] for part in outcomes["parts"])
    known = [points[letter] for letter in letters if letter != "f"]
    rate = sum(known) / len(known)
    values = {
        letter: rate + (points[letter] - rate) * len(letters) / len(known) if letter != "f" else rate
        for letter in set(letters)
    }
    parts = [{**part, "values": packed([values[letter] for letter in part["values"]])} for part in outcomes["parts"]]
    return {**outcomes, "parts": parts}


def mean(outcomes: Mapping[str, Any]) -> float:
    """The weighted mean of an evaluation's outcomes."""
    return sum(part["weight"] * _mean(part) for part in outcomes["parts"])


def _mean(part: Mapping[str, Any]) -> float:
    if "value" in part:
        return float(part["value"])
    values = [float(value) for value in part["values"]]
    return sum(values) / len(values)


def _outcomes(
    items: Mapping[str, tuple[float, Mapping[str, float]]], numbers: Mapping[str, tuple[float, Mapping[str, Any]]]
) -> dict[str, Any]:
    """``items``: name of a task -> weight, values by item; ``numbers``: -> weight, value and stderr."""
    parts: list[dict[str, Any]] = []
    ids: list[str] = []
    for name, (weight, values) in items.items():
        order = sorted(values)
        ids += [json.dumps([name, identifier]) for identifier in order]
        parts.append({"name": name, "weight": weight, "values": packed([values[i] for i in order])})
    for name, (weight, fact) in numbers.items():
        parts.append({"name": name, "weight": weight, "value": fact["value"], "stderr": fact["stderr"]})
    return {"ids": _digest(ids), "parts": parts}


def digest_of(name: str, ids: Iterable[str]) -> str:
    """Hash of the items ``ids``, in this order, of the part ``name``: equal for the same items only."""
    return _digest(json.dumps([name, identifier]) for identifier in ids)


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def packed(values: Sequence[float]) -> str | list[float]:
    """Outcomes as they are stored: a text where all are 0 or 1, else to nine digits."""
    if all(value in (0.0, 1.0) for value in values):
        return "".join(str(int(value)) for value in values)
    return [float(f"{value:.9g}") for value in values]
