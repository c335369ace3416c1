"""Run the rounds of adaptive scoring as steps, and choose rows and candidates for ``budget=auto``.

In: baseline, bank, order, assessment, and the shards scored so far.  Out: sequence.json, what is scored next: ``rows``
and ``active``, ids of assessment rows and candidates; ``candidates`` and ``pool_rows``, all that are in use.
Auto: a pilot block, the first candidates against the first rows of a stratified order, gives the variance of scores
and of single pairs; the number of rows is the least whose mean has the reliability asked for. With a selection model
the number of candidates is what the FLOPs of the tuning that selection saves pay for, all pairs counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.cost import FROZEN_TRAINING, FULL_TRAINING
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.agreement import columns_for, reliability
from icon_repro.methods.icon.adaptive import Race, row_sequence
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import Budget, IconConfig, IconRound, TuningSaved, resolved

_FREE = {"tokens": 0, "flops": 0}


def pilot(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The pilot block of ``budget=auto``. Needs inputs order, assessment."""
    auto = resolved(cfg.icon).auto
    candidates = [row.id for row in read_rows(inputs["order"] / "rows.jsonl", Example)[: cfg.stop]]
    rows = _stratified(cfg.icon, inputs)[: auto.pilot_rows]
    write_json(out / "sequence.json", {"rows": rows, "active": candidates[: auto.pilot_candidates]})
    return {"rows": len(rows), "candidates": min(len(candidates), auto.pilot_candidates), **_FREE}


def start(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The first round: all candidates in use against the first rows.

    Needs inputs order, assessment; for budget auto also baseline, bank and the shards of the pilot block.
    """
    icon = resolved(cfg.icon)
    pool = read_rows(inputs["order"] / "rows.jsonl", Example)
    candidates = [row.id for row in pool[: cfg.stop]]
    rows = _stratified(icon, inputs)
    metrics: dict[str, Any] = dict(_FREE)
    if icon.budget is Budget.auto:
        block = Matrices(icon, inputs).joined(inputs, "pilot")
        wanted = columns_for(block.task, icon.auto.reliability)
        if wanted is None:
            raise IconScoreError(
                f"the pilot block of {block.task.shape[0]} x {block.task.shape[1]} pairs shows no difference between "
                "candidates beyond chance: no number of rows gives reliable scores. Raise auto.pilot_rows and "
                "auto.pilot_candidates, or set budget=full."
            )
        rows = rows[: max(wanted, icon.adaptive.first_rows)]
        metrics |= {
            "pilot_pairs": block.task.size,
            "pilot_reliability": reliability(block.task),
            "rows_wanted": wanted,
            "reliability_expected": reliability(block.task, len(rows)),
        }
        if cfg.saved is not None:
            affordable = _affordable(icon, cfg.saved, inputs, len(rows), pool)
            metrics["candidates_affordable"] = affordable
            candidates = candidates[: max(affordable, icon.auto.least_candidates)]
    race = Race(len(candidates), len(rows), cfg.fractions, icon.adaptive, cfg.rounds)
    in_use = {"candidates": candidates, "pool_rows": rows}
    write_json(out / "sequence.json", {"rows": rows[race.block()], "active": candidates, **in_use})
    return {"rows": len(rows), "candidates": len(candidates), **metrics}


def decide(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """What the next round scores. Needs inputs start, baseline, bank, and all shards scored so far."""
    race, candidates, rows = replayed(cfg, inputs)
    block = [] if race.over else rows[race.block()]
    active = [candidates[i] for i in np.flatnonzero(race.active)] if block else []
    write_json(out / "sequence.json", {"rows": block, "active": active})
    return {"rows": len(block), "active": len(active), "settled": len(candidates) - len(active), **_FREE}


def replayed(cfg: IconRound, inputs: Mapping[str, Path]) -> tuple[Race, list[str], list[str]]:
    """The race up to now, and the ids of its candidates and rows. Needs the inputs of ``decide``."""
    icon = resolved(cfg.icon)
    matrices = Matrices(icon, inputs)
    in_use = read_json(inputs["start"] / "sequence.json")
    candidates, rows = in_use["candidates"], in_use["pool_rows"]
    race = Race(len(candidates), len(rows), cfg.fractions, icon.adaptive, cfg.rounds)
    for number in range(cfg.rounds):
        if race.over or not any(name.startswith(f"round{number:02d}-") for name in inputs):
            break
        scored = matrices.joined(inputs, f"round{number:02d}")
        active = [candidates[i] for i in np.flatnonzero(race.active)]
        found = [matrices.assessment[i] for i in scored.columns]
        if scored.candidates != active or found != rows[race.block()]:
            raise IconScoreError(
                f"round {number}: the shards hold other pairs than were asked for; delete them and run again."
            )
        race.advance(scored.task)
    return race, candidates, rows


def _stratified(icon: IconConfig, inputs: Mapping[str, Path]) -> list[str]:
    examples = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    return row_sequence([row.id for row in examples], [row.group for row in examples], resolved(icon).adaptive.seed)


def _affordable(
    icon: IconConfig, saved: TuningSaved, inputs: Mapping[str, Path], rows: int, pool: list[Example]
) -> int:
    """Candidates whose scoring, with the selection model's work, costs ``cost_ratio`` of the tuning that it saves.

    In tokens of a forward pass, from the records of what has been scored and the lengths of texts in characters.
    """
    selector = icon.selector
    assert selector is not None
    pilot = [read_json(path / "record.json")["metrics"] for name, path in inputs.items() if name.startswith("pilot-")]
    pair = sum(m["tokens"] for m in pilot) / sum(m["pairs"] for m in pilot)  # a pair, its share of the context included
    spent = sum(m["tokens"] for m in pilot)
    spent += sum(read_json(inputs[name] / "record.json")["metrics"]["tokens"] for name in ("baseline", "bank"))
    contexts = read_json(inputs["bank"] / "bank.json")["contexts"]
    chars = {row.id: len(row.instruction + row.input + row.response) for row in pool}
    per_char = sum(contexts.values()) / sum(count for identifier, count in chars.items() if identifier in contexts)
    lengths = [per_char * chars[row.id] for row in pool[: saved.rows]]
    training = FROZEN_TRAINING if saved.frozen else FULL_TRAINING
    tuned = sum(min(length, saved.max_length) for length in lengths) * saved.epochs * training * (1 - saved.fraction)
    spent += sum(min(length, selector.pool_max_length) for length in lengths) * selector.repeats
    mean = sum(lengths) / len(lengths)
    each = rows * pair + mean * selector.learning_passes
    return max(0, int((icon.auto.cost_ratio * tuned - spent) / each))
