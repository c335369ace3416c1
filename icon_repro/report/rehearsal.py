"""Say at a rehearsal's end what ran, what it can't show, and what the real plan won't be able to say.

In: the plan of a rehearsal and its store, the real plan.  Out: lines for people.
What the plan expected (steps, calls of endpoints, tokens) is compared with what was counted, and stands by kind of step
beside the real plan's numbers.
Known gap: seconds and memory are those of small sizes; their relation to the real ones isn't known.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from icon_repro.config.compose import typed
from icon_repro.config.load import Rehearse, Until
from icon_repro.data.planner import PlanError
from icon_repro.engine.artifact import ArtifactError, Step, Store
from icon_repro.engine.records import RecordError
from icon_repro.experiment import Experiment, plan
from icon_repro.lm.options import Asking
from icon_repro.report.disk import expected_bytes, size
from icon_repro.report.pace import spelled
from icon_repro.report.paper.claims import Checked, ClaimVerdict
from icon_repro.report.promised import silence

DECIDES_NOTHING = "a rehearsal decides nothing; the real plan has the numbers for it"
_BLIND = {
    Rehearse.stand_ins: (
        "whether the real weights, data sets and endpoints can be had, and fit their steps",
        "memory and time at the real sizes, and what a GPU does",
        "lm-eval's own tasks (multiple choice stands in), files of ids and ratings",
        "any number: all scores come from random models",
    ),
    Rehearse.real: ("memory and time at the real sizes", "any number: samples are too small"),
}


@dataclass
class _Kind:
    """Steps of one target: finished ones of the rehearsal, and those of the real plan."""

    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    slowest: float = 0.0
    peak_mb: float = 0.0
    planned: float = 0.0  # tokens, of the finished steps
    counted: float = 0.0
    real_steps: int = 0
    real_tokens: float = 0.0
    real_flops: float = 0.0


@dataclass
class _Counted:
    """What lies in the store of a rehearsal."""

    kinds: dict[str, _Kind] = field(default_factory=dict)
    megabytes: float = 0.0
    expected_bytes: float = 0.0  # of weights and gradients, by the plan
    weight_bytes: float = 0.0  # of the same steps
    calls: int = 0  # requests that were asked at least once
    again: int = 0  # replies beyond the first
    unreadable: int = 0  # records


def undecided(checked: Sequence[Checked], config: Mapping[str, Any]) -> list[Checked]:
    """``checked`` as it is, or without any verdict if the ``config`` of run.json is a rehearsal's."""
    if config.get("rehearse", "none") == "none":
        return list(checked)
    return [
        one if one.verdict is ClaimVerdict.not_run else replace(one, verdict=ClaimVerdict.not_run, note=DECIDES_NOTHING)
        for one in checked
    ]


def ending(experiment: Experiment, store: Store, raw: DictConfig) -> list[str]:
    """The lines that end a rehearsal.

    Args:
        raw: the composed configuration that it was made of.
    """
    try:
        return closing(experiment, store, plan(typed(raw, real=True)))
    except PlanError as error:
        return closing(experiment, store, str(error))


def closing(experiment: Experiment, store: Store, real: Experiment | str) -> list[str]:
    """The lines that end a rehearsal.

    Args:
        real: the plan that was rehearsed, or why it can't be made on this machine.
    """
    counted = _counted(experiment.steps, store)
    done = sum(kind.steps for kind in counted.kinds.values())
    seconds = sum(kind.seconds for kind in counted.kinds.values())
    cpu = sum(kind.cpu_seconds for kind in counted.kinds.values())
    took = f"{spelled(seconds)} of one process, {spelled(cpu)} of a CPU, {counted.megabytes:,.0f} MB"
    lines = ["", f"REHEARSAL of {experiment.config.name}: {done} of {len(experiment.steps)} planned steps, {took}"]
    if counted.unreadable:
        lines.append(f"{counted.unreadable} records can't be read")
    if planned := sum(step.params.expected_calls for step in experiment.steps if isinstance(step.params, Asking)):
        again = f", {counted.again:,} asked again" if counted.again else ""
        lines.append(f"calls of endpoints: {planned:,} planned, {counted.calls:,} counted{again}")
    if counted.expected_bytes:
        lines.append(
            f"weights and gradients: {size(counted.expected_bytes)} planned, {size(counted.weight_bytes)} counted"
        )
    if isinstance(real, Experiment):
        _add_real(counted.kinds, real.steps)
    lines += _table(counted.kinds)
    lines += ["A rehearsal can't show:", *(f"  - {text}" for text in _BLIND[experiment.config.rehearse])]
    return [*lines, *_real(experiment, real)]


def _real(experiment: Experiment, real: Experiment | str) -> list[str]:
    """What the real plan can't say."""
    if isinstance(real, str):
        why = f"The real plan can't be made here: {real}"
        return [why, "What it can't say shows with action=plan where it can be made."]
    if real.config.until is Until.select:
        return ["The real plan ends with selections (until=select): it makes no table and checks no claim."]
    if real.config.published is None:
        return ["No published numbers belong to the experiment (published=null): no claim waits for a verdict."]
    reasons = silence(real).lines()
    if not reasons:
        return ["The real plan has a step for every claim and for every cell of the tables beside the paper's."]
    return ["The real plan won't be able to say, however well it runs:", *(f"  - {text}" for text in reasons)]


def _table(kinds: Mapping[str, _Kind]) -> list[str]:
    widths = (6, 8, 8, 8, 9, 10, 10, 7, 10, 10)
    titles = ("steps", "s", "CPU s", "slowest", "peak MB", "tokens", "counted", "steps", "tokens", "FLOPs")
    cells = {"kind of step": titles}
    for name, kind in sorted(kinds.items(), key=lambda pair: -pair[1].seconds):
        spent = (f"{kind.seconds:.1f}", f"{kind.cpu_seconds:.1f}", f"{kind.slowest:.1f}")
        times = (str(kind.steps), *spent, f"{kind.peak_mb:.0f}")
        tokens = (f"{kind.planned:.3g}", f"{kind.counted:.3g}")
        real = (str(kind.real_steps), f"{kind.real_tokens:.3g}", f"{kind.real_flops:.3g}")
        cells[name] = (*times, *tokens, *real)
    first = max(len(name) for name in cells)
    above = f"{'':<{first + sum(widths[:7])}}{'| the real plan expects':>{sum(widths[7:])}}"
    rows = [
        f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for name, row in cells.items()
    ]
    return [above, *rows]


def _short(target: str) -> str:
    return target.removeprefix("icon_repro.").removeprefix("methods.")


def _add_real(kinds: dict[str, _Kind], steps: Iterable[Step]) -> None:
    for step in steps:
        kind = kinds.setdefault(_short(step.target), _Kind())
        kind.real_steps += 1
        kind.real_tokens += step.cost.tokens
        kind.real_flops += step.cost.flops


def _counted(steps: Iterable[Step], store: Store) -> _Counted:
    """What finished steps took and left."""
    counts = _Counted()
    for step in steps:
        if not store.complete(step):
            continue
        try:
            record = store.record(step)
        except (ArtifactError, RecordError, OSError):
            counts.unreadable += 1
            continue
        kind = counts.kinds.setdefault(_short(step.target), _Kind())
        kind.steps += 1
        took = float(record.get("wall_s", 0.0))
        kind.seconds, kind.slowest = kind.seconds + took, max(kind.slowest, took)
        kind.cpu_seconds += float(record.get("cpu_s", 0.0))
        kind.peak_mb = max(kind.peak_mb, float(record.get("peak_rss_mb") or 0.0))
        kind.planned += step.cost.tokens
        kind.counted += float(record.get("metrics", {}).get("tokens") or 0.0)
        taken = 0.0 if "same_as" in record else sum(file["bytes"] for file in record["files"].values())
        counts.megabytes += taken / 1e6
        if taken and (expected := expected_bytes(step)):
            counts.expected_bytes += expected
            counts.weight_bytes += sum(_stored_numbers(store.path(step) / name) for name in record["files"])
        if isinstance(step.params, Asking):
            lines = (store.path(step) / "replies.jsonl").read_text(encoding="utf-8").splitlines()
            keys = {json.loads(line)["key"] for line in lines}
            counts.calls += len(keys)
            counts.again += len(lines) - len(keys)
    return counts


def _stored_numbers(path: Path) -> int:
    """Bytes of the weights or arrays in a file, without what describes them; 0 for other files."""
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
        if path.suffix == ".npy":
            return path.stat().st_size - 10 - int.from_bytes(file.read(10)[8:], "little")
    return 0
