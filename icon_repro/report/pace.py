"""Estimate how long missing steps may take, by what finished steps of their kind took.

In: the steps of a plan, their store, how steps are run now.  Out: seconds with their range, and what is unknown.
A kind is a target (of an evaluation: with its task) on a kind of device with so many threads, a training also with so
many processes; where device or threads are left to torch, on this host if a step was made here.  Seconds for a
planned operation are the median over its finished steps, so that what a plan's estimate misses in all of them cancels
out; the range is from their fastest to their slowest.  Where the plan doesn't know the operations of all steps of a
kind, tokens take their place, and where it doesn't know these, steps.
Known gap: a step that was interrupted and went on is recorded with its last attempt only; two steps at a time on one
machine make each other slower; two kinds of GPUs are one device; waiting for a cluster isn't counted.
"""

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from icon_repro.engine.artifact import ArtifactError, Step, Store
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import RecordError
from icon_repro.engine.targets import TARGETS

_MEASURES = 50  # finished steps of a kind that are enough
_READ = 500  # records of a kind that are read at most
_AUTO = "auto"
_TRAINING = TARGETS["train"][0]
_EXTERNAL = ("icon_repro.methods.external:run", "icon_repro.methods.external:step")  # what they cost isn't known


@dataclass(frozen=True)
class Pace:
    """Of all missing steps together, as if one process did them one after the other."""

    seconds: float
    low: float
    high: float
    measured_on: int  # finished steps
    unknown: Sequence[Step]  # missing ones that take work, of whose kind no finished step tells


def pace(steps: Iterable[Step], store: Store, cluster: ClusterConfig) -> Pace:
    """What the steps that ``store`` doesn't hold may take; a record that can't be read measures nothing here."""
    finished: dict[str, list[Step]] = {}
    missing: dict[str, list[Step]] = {}
    for step in steps:
        (finished if store.complete(step) else missing).setdefault(kind_of(step), []).append(step)
    seconds, low, high, measured_on, unknown = 0.0, 0.0, 0.0, 0, list[Step]()
    for kind, wanted in missing.items():
        size = unit_of([*wanted, *finished.get(kind, [])])
        if rates := rates_of(finished.get(kind, []), size, store, cluster):
            amount = sum(size(step) for step in wanted)
            seconds, low, high = seconds + amount * median(rates), low + amount * min(rates), high + amount * max(rates)
            measured_on += len(rates)
        else:
            unknown += [s for s in wanted if s.cost.flops or s.cost.tokens or s.target in _EXTERNAL]
    return Pace(seconds, low, high, measured_on, unknown)


def told(found: Pace) -> list[str]:
    """A line for people, or none: nothing is to do, or nothing like it was ever done here."""
    if not found.measured_on:
        return []
    few = [f"{sum(step.stage == stage for step in found.unknown)} of {stage}" for stage in _stages(found.unknown)]
    without = f"; not in it, as none of their kind is finished on this device: {', '.join(few)}" if few else ""
    return [
        f"time: about {spelled(found.seconds)} ({spelled(found.low)} to {spelled(found.high)}) of one process, by "
        f"{found.measured_on} finished steps of the same kinds{without}"
    ]


def spelled(seconds: float) -> str:
    """Two digits at most: ``45 s``, ``3.2 min``, ``5.1 h``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{two_digits(seconds / size)} {unit}"
    return f"{two_digits(seconds)} s"


def two_digits(value: float) -> str:
    """An estimate has no more."""
    return f"{float(f'{value:.2g}'):g}"


def kind_of(step: Step) -> str:
    """What steps have in common that take the same time for the same work."""
    return f"{step.target} {getattr(step.params, 'task', '')!r}"


def unit_of(steps: Sequence[Step]) -> Callable[[Step], float]:
    """In what all steps of a kind can be measured."""
    if all(step.cost.flops for step in steps):
        return lambda step: step.cost.flops
    if all(step.cost.tokens for step in steps):
        return lambda step: step.cost.tokens
    return lambda step: 1.0


def rates_of(steps: Sequence[Step], size: Callable[[Step], float], store: Store, cluster: ClusterConfig) -> list[float]:
    """Seconds for a unit, of the last steps that ran as steps would run now."""
    here, elsewhere = list[float](), list[float]()
    for step in steps[: -_READ - 1 : -1]:
        if len(here) == _MEASURES:
            break
        try:
            record = store.record(step)
        except (ArtifactError, RecordError, OSError):  # ``run`` names it and builds the step again
            continue
        then = record.get("cluster")
        if "wall_s" in record and isinstance(then, Mapping) and _same(step, then, cluster):
            ours = then["device"] == _AUTO or then["threads"] is None  # what that is the host decides
            known = not ours or record.get("host") == socket.gethostname()
            (here if known else elsewhere).append(record["wall_s"] / size(step))
    return here or elsewhere[:_MEASURES]


def _same(step: Step, then: Mapping[str, Any], now: ClusterConfig) -> bool:
    """Whether a step would run now as it did then."""
    device = str(then.get("device")).partition(":")[0]
    alike = step.target != _TRAINING or then.get("processes", 1) == now.processes
    return device == now.device.partition(":")[0] and then.get("threads") == now.threads and alike


def _stages(steps: Iterable[Step]) -> list[str]:
    return list(dict.fromkeys(step.stage for step in steps))
