"""Say during a run how far it is, how long the rest may take, and what a finished step found.

In: the plan's steps, their store, how steps are run; then each step that ends.  Out: short texts for the run's lines.
Seconds for a unit of work are, in this order: those of finished steps of the same kind (``icon_repro.report.pace``),
those of this run's other steps, and before the first one this machine's speed of a matrix product, of which steps
reach about ``_SHARE``. A GPU that nothing has run on yet isn't guessed.
Known gap: steps that several processes or jobs do at the same time are counted as if one did them.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.run import Watch
from icon_repro.report.pace import kind_of, rates_of, spelled, unit_of

_SHARE = 0.2  # of a matrix product's speed that steps on a CPU reach, their fixed costs included
_SMALL_S = 1.0  # a step whose work the plan doesn't know, before one of its kind has ended
_MATRIX = 768


class Remaining(Watch):
    """What of a run is left. Seconds are those of one process that does one step after the other."""

    def __init__(
        self,
        steps: Sequence[Step],
        store: Store,
        cluster: ClusterConfig,
        clock: Callable[[], float] = time.monotonic,
        speed: Callable[[ClusterConfig], float | None] | None = None,
    ) -> None:
        """
        Args:
            speed: operations a second that a first guess takes; None of it: nothing is guessed.
        """
        self._clock, self._last = clock, clock()
        self._left: dict[str, Step] = {}
        self._rates: dict[str, list[float]] = {}  # by kind, seconds for a unit
        self._units: dict[str, Callable[[Step], float]] = {}
        by_kind: dict[str, list[Step]] = {}
        for step in steps:
            by_kind.setdefault(kind_of(step), []).append(step)
        for kind, own in by_kind.items():
            missing = [step for step in own if not store.complete(step)]
            if missing:
                done = [step for step in own if store.complete(step)]
                self._units[kind] = unit_of(own)
                self._rates[kind] = rates_of(done, self._units[kind], store, cluster)
                self._left |= {step.folder: step for step in missing}
        self._measured = any(self._rates.values())
        self._per_flop: list[float] = []  # of this run's steps of any kind
        self._guess = None
        if any(step.cost.flops and not self._rates[kind_of(step)] for step in self._left.values()):
            self._guess = (speed or _speed)(cluster)
        self._done = 0.0  # estimated seconds of what has ended, in the same measure as what is left

    def first(self) -> str:
        """What is known at the start; empty if nothing is to do."""
        if not self._left:
            return ""
        seconds = self.seconds()
        if seconds is None:
            return "time left: known once a step has run on this device"
        by = "finished steps of the same kinds" if self._measured else "this machine's speed"
        more = " and this machine's speed" if self._measured and self._guess is not None else ""
        return f"time left: about {spelled(seconds)}, guessed by {by}{more}; better known as steps end"

    def seconds(self) -> float | None:
        """Of all that is left; None if there is no measure for some of it."""
        each = [self._expected(step) for step in self._left.values()]
        known = [one for one in each if one is not None]
        return sum(known) if len(known) == len(each) else None

    def ended(self, step: Step, record: Mapping[str, Any] | None) -> str:
        """Note that a step has ended; returns what to say beside it: its share of the run, and what is left.

        Args:
            record: of a step that was built in this run; None of one that failed or was built by another process.
        """
        now = self._clock()
        spent, self._last = now - self._last, now
        kind = kind_of(step)
        if self._left.pop(step.folder, None) is None:
            return ""
        if record is not None:
            seconds = max(spent, record.get("wall_s", 0.0))  # with what starting its process takes
            self._rates[kind].append(seconds / self._units[kind](step))
            if step.cost.flops:
                self._per_flop.append(seconds / step.cost.flops)
            self._done += seconds
        if not self._left:
            return ""
        left = self.seconds()
        if left is None:
            return f"{len(self._left)} steps left"
        return f"{self._done / max(self._done + left, 1e-9):.0%} of the run, about {spelled(left)} left"

    def during(self, step: Step, spent: float) -> str:
        """What to say of a step that has been at work for ``spent`` seconds."""
        expected = self._expected(step)
        text = f"{step.label}: at work for {spelled(spent)}"
        if expected is not None and expected > spent:
            text += f", about {spelled(expected - spent)} left"
        others = self.seconds()
        if others is not None and expected is not None and len(self._left) > 1:
            text += f"; of the run about {spelled(others - min(spent, expected))} left"
        return text

    def found(self, record: Mapping[str, Any]) -> str:
        """What a finished step found, in a few characters: a benchmark's value, a judge's, a loss; empty for others."""
        metrics = record["metrics"]
        if "metric" in metrics and "value" in metrics:
            if metrics["metric"] == "nll":
                return f"{metrics['value']:.4f} nats"
            return f"{100 * metrics['value']:.1f}"
        if "win_rate" in metrics:
            return f"win rate {metrics['win_rate']:.1f}"
        if "loss" in metrics:
            return f"loss {metrics['loss']:.3f}"
        if "selected" in metrics:
            return f"{metrics['selected']} rows"
        return ""

    def _expected(self, step: Step) -> float | None:
        kind = kind_of(step)
        if rates := self._rates.get(kind):
            return self._units[kind](step) * median(rates)
        if not step.cost.flops:
            return _SMALL_S
        if self._per_flop:
            return step.cost.flops * median(self._per_flop)
        return None if self._guess is None else step.cost.flops / self._guess


def _speed(cluster: ClusterConfig) -> float | None:
    """Operations a second that steps may reach here; None on a GPU, which only a step can measure."""
    if not cluster.device.startswith("cpu") and (cluster.device != "auto" or shutil.which("nvidia-smi")):
        return None
    import numpy as np  # the command line starts without it

    matrix = np.ones((_MATRIX, _MATRIX), np.float32)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return _SHARE * 2 * _MATRIX**3 / best
