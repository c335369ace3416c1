"""How long missing steps may take, by what finished steps of their kind took.

In: the steps of a plan, their store, how steps are run now.  Out: seconds with their range, and what is unknown.
A kind is a target (for an evaluation: a benchmark) on a device with its threads or processes.  Seconds for a planned
operation are the median over its finished steps, so that what a plan's estimate misses in all of them cancels out; the
range is from their fastest to their slowest.  Steps without operations count with their seconds.
Known gap: a step that was interrupted and went on is recorded with its last attempt only; two steps at a time on one
machine make each other slower; waiting for a cluster isn't counted.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from icon_repro.config import ClusterConfig
from icon_repro.engine.artifact import ArtifactError, Step, Store
from icon_repro.records import RecordError

_NEWEST = 50  # finished steps of a kind that are read
_SETTINGS = ("device", "threads", "processes")  # what decides how fast a step of a kind is


@dataclass(frozen=True)
class Pace:
    """Of all missing steps together, as if one process did them one after the other."""

    seconds: float
    low: float
    high: float
    measured_on: int  # finished steps
    unknown: Sequence[Step]  # missing ones with operations of which no finished step is of their kind


def pace(steps: Iterable[Step], store: Store, cluster: ClusterConfig) -> Pace:
    """What the steps that ``store`` doesn't hold may take; a record that can't be read measures nothing here."""
    finished: dict[str, list[Step]] = {}
    missing: dict[str, list[Step]] = {}
    for step in steps:
        (finished if store.complete(step) else missing).setdefault(_kind(step), []).append(step)
    seconds, low, high, measured_on, unknown = 0.0, 0.0, 0.0, 0, list[Step]()
    for kind, wanted in missing.items():
        rates = _rates(finished.get(kind, []), store, cluster)
        if rates:
            amount = sum(_amount(step) for step in wanted)
            seconds, low, high = seconds + amount * median(rates), low + amount * min(rates), high + amount * max(rates)
            measured_on += len(rates)
        else:
            unknown += [step for step in wanted if step.cost.flops]
    return Pace(seconds, low, high, measured_on, unknown)


def told(found: Pace) -> list[str]:
    """A line for people, or none: nothing is to do, or nothing like it was ever done here."""
    if not found.measured_on:
        return []
    few = [f"{sum(step.stage == stage for step in found.unknown)} of {stage}" for stage in _stages(found.unknown)]
    without = f"; not in it, as none of their kind is finished: {', '.join(few)}" if few else ""
    return [
        f"time: about {spelled(found.seconds)} ({spelled(found.low)} to {spelled(found.high)}) of one process, by "
        f"{found.measured_on} finished steps of the same kinds{without}"
    ]


def spelled(seconds: float) -> str:
    """Two digits at most: ``45 s``, ``3.2 min``, ``5.1 h``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"


def _kind(step: Step) -> str:
    return f"{step.target} {getattr(step.params, 'task', '')!r}"


def _amount(step: Step) -> float:
    return step.cost.flops or 1.0


def _rates(steps: Sequence[Step], store: Store, cluster: ClusterConfig) -> list[float]:
    """Seconds for an operation (of steps without: for a step) of those that ran as steps would run now."""
    now = json.dumps([getattr(cluster, name) for name in _SETTINGS], default=str)
    rates = []
    for step in steps[-_NEWEST:]:
        try:
            record = store.record(step)
        except (ArtifactError, RecordError, OSError):  # ``run`` names it and builds the step again
            continue
        then = record.get("cluster", {})
        if "wall_s" in record and json.dumps([then.get(name, getattr(cluster, name)) for name in _SETTINGS]) == now:
            rates.append(record["wall_s"] / _amount(step))
    return rates


def _stages(steps: Iterable[Step]) -> list[str]:
    return list(dict.fromkeys(step.stage for step in steps))
