"""Run the rounds of adaptive scoring as steps.

In: baseline, bank, order, assessment, and the shards scored so far.  Out: sequence.json, what is scored next: ``rows``
and ``active``, ids of assessment rows and candidates; ``candidates`` and ``pool_rows``, all that are in use.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon.adaptive import Race, row_sequence
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import IconConfig, IconRound, resolved

_FREE = {"tokens": 0, "flops": 0}


def start(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The first round: all candidates in use against the first rows. Needs inputs order, assessment."""
    icon = resolved(cfg.icon)
    pool = read_rows(inputs["order"] / "rows.jsonl", Example)
    candidates = [row.id for row in pool[: cfg.stop]]
    rows = _stratified(icon, inputs)
    race = Race(len(candidates), len(rows), cfg.fractions, icon.adaptive, cfg.rounds)
    in_use = {"candidates": candidates, "pool_rows": rows}
    write_json(out / "sequence.json", {"rows": rows[race.block()], "active": candidates, **in_use})
    return {"rows": len(rows), "candidates": len(candidates), **_FREE}


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
        met = [matrices.assessment[i] for i in scored.columns]
        if scored.candidates != active or met != rows[race.block()]:
            raise IconScoreError(
                f"round {number}: the shards hold other pairs than were asked for; delete them and run again."
            )
        race.advance(scored.task)
    return race, candidates, rows


def _stratified(icon: IconConfig, inputs: Mapping[str, Path]) -> list[str]:
    examples = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    return row_sequence([row.id for row in examples], [row.group for row in examples], resolved(icon).adaptive.seed)
