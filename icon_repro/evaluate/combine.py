"""Compute value, standard error and outcomes of items of one of lm-eval's tasks; and one value of several tasks.

In: lm-eval's results and samples.  Out: plain values.
An outcome is a number for each item whose mean is the value, so that items can be resampled. For a ratio of sums
(IFEval's share of instructions, of which a prompt has one to three) it is the linearised one: value + (hits - value *
count) / mean count. F1 and MCC have none.
Known gap: none.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.metrics import mean

from icon_repro.evaluate.options import Aggregate, TaskConfig
from icon_repro.evaluate.tasks import EvaluationError

_TOLERANCE = 1e-9  # between lm-eval's value and the mean of the outcomes


def plain(value: Any) -> Any:
    """lm-eval's results as JSON values; what JSON has no word for becomes text."""
    return json.loads(json.dumps(value, default=str), parse_constant=str)


def prompts_sha256(samples: Sequence[Mapping[str, Any]]) -> str:
    """Over what the model is given (texts, settings of generation), targets and rows, in the order of the items."""
    digest = hashlib.sha256()
    for sample in samples:
        # the rows too: in WinoGrande it is their label that says which of two contexts is right
        parts = [sample["arguments"], sample["target"], sample["doc_hash"]]
        digest.update(json.dumps(plain(parts), ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def subtask(
    where: str, task: Any, config: TaskConfig, values: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[float] | None]:
    """One task's value, standard error and further facts; and the outcomes of its items, if the metric has them.

    Args:
        where: for messages.
        values: lm-eval's numbers, by "metric,filter".
        samples: lm-eval's, of all filters.

    Raises:
        EvaluationError: lm-eval doesn't give the metric, or it isn't finite.
    """
    name = task.config.task
    metric = config.metrics.get(name, config.metric)
    filtered = [sample for sample in samples if sample["filter"] == config.filter]
    parts = []
    for part in metric.split("+"):
        key = f"{part},{config.filter}"
        if key not in values:
            known = sorted(k for k in values if "," in k and "_stderr" not in k)
            raise EvaluationError(
                f"{where}.metric={metric!r}: lm-eval gives {name} no {key!r} (metric, filter). It gives {known}."
            )
        value, error = float(values[key]), values.get(f"{part}_stderr,{config.filter}")
        if not math.isfinite(value):
            raise EvaluationError(
                f"{where}: {part} of {name} is {value}; look at its samples, finished/{name}.jsonl in the step's .part."
            )
        if abs(value) > 1 + _TOLERANCE:
            raise EvaluationError(
                f"{where}.metric={metric!r}: {part} of {name} is {value:.6g}, and a report takes benchmarks as shares "
                "of 1. Choose another metric."
            )
        averaged = task.aggregation().get(part) is mean
        parts.append((value, error, _outcomes(value, [sample[part] for sample in filtered], averaged)))
    value = statistics.fmean(part[0] for part in parts)
    lists = [part[2] for part in parts if part[2] is not None]
    outcomes = [statistics.fmean(item) for item in zip(*lists, strict=True)] if len(lists) == len(parts) else None
    if outcomes is not None:
        stderr = statistics.stdev(outcomes) / math.sqrt(len(outcomes)) if len(outcomes) > 1 else None
    else:
        error = parts[0][1]
        stderr = float(error) if len(parts) == 1 and isinstance(error, (int, float)) else None
    facts = {
        "metric": metric,
        "value": value,
        "stderr": stderr,
        "items": len(filtered),
        "version": task.VERSION,
        "shots": task.config.num_fewshot,
        "prompts_sha256": prompts_sha256(filtered),
    }
    return facts, outcomes


def _outcomes(value: float, items: Sequence[Any], averaged: bool) -> list[float] | None:
    if averaged:
        outcomes = [float(item) for item in items]
    elif all(isinstance(item, list) and all(isinstance(x, bool) for x in item) for item in items):
        hits, counts = [sum(item) for item in items], [len(item) for item in items]
        share = statistics.fmean(counts)
        outcomes = [value + (hit - value * count) / share for hit, count in zip(hits, counts, strict=True)]
    else:
        return None
    return outcomes if abs(statistics.fmean(outcomes) - value) < _TOLERANCE else None


def combined(config: TaskConfig, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Value and standard error over ``tasks``, each task's weight, and what they have in common."""
    items = {name: task["items"] for name, task in tasks.items()}
    total = sum(items.values())
    weighted = config.aggregate is Aggregate.weighted
    weights = {name: count / total if weighted else 1 / len(tasks) for name, count in items.items()}
    errors = {name: task["stderr"] for name, task in tasks.items()}
    known = all(error is not None for error in errors.values())
    return {
        "metric": config.metric,
        "filter": config.filter,
        "value": math.fsum(weights[name] * task["value"] for name, task in tasks.items()),
        "stderr": math.sqrt(math.fsum((weights[name] * errors[name]) ** 2 for name in tasks)) if known else None,
        "items": total,
        "version": _common({name: task["version"] for name, task in tasks.items()}),
        "shots": _common({name: task["shots"] for name, task in tasks.items()}),
        "tasks": len(tasks),
        "aggregate": config.aggregate.value if len(tasks) > 1 and config.aggregate else None,
        "weights": weights,
        "prompts_sha256": _common({name: task["prompts_sha256"] for name, task in tasks.items()})
        if len(tasks) == 1
        else hashlib.sha256("".join(f"{n} {tasks[n]['prompts_sha256']}\n" for n in sorted(tasks)).encode()).hexdigest(),
    }


def _common(values: Mapping[str, Any]) -> Any:
    """The one value that all have, or all of them by name."""
    different = {json.dumps(value) for value in values.values()}
    return next(iter(values.values())) if len(different) == 1 else dict(values)
