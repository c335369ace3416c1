"""Run the steps of ``budget=auto``: few rows for each candidate, its own ones, and a probe; more near a cut.

``features``.  In: model, order.  Out: alike.npy, (c, c) float32: inner products of the candidates' hidden states.
``rows``, ``start``, ``decide``.  Out: sequence.json, what is scored next: ``rows`` in use, or ``own``, by candidate the
assessment rows that it meets; ``candidates``, all that are in use.
``scores``.  Out: scores.jsonl, as ``score.adaptive``.
Source: own; ``few`` has the method. ``auto_pool`` has the steps with a selection model.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon.adaptive import row_sequence
from icon_repro.methods.icon.few import Search, likeness, own_places
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import Features, IconRound, resolved, round_ends, rows_in_use
from icon_repro.methods.icon.score import checked

_FREE = {"tokens": 0, "flops": 0}


def features(cfg: Features, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write alike.npy and ids.json of the first candidates. Needs inputs model, order."""
    from icon_repro.methods.icon.probe import features as hidden  # torch, which the other steps do without

    rows = read_rows(inputs["order"] / "rows.jsonl", Example)[: cfg.stop]
    values, widths, metrics = hidden(cfg.probe, cfg.max_length, inputs, rows, runtime)
    np.save(out / "alike.npy", likeness(values, widths).astype(np.float32), allow_pickle=False)
    write_json(out / "ids.json", {"candidates": [row.id for row in rows]})
    return {"rows": len(rows), "features": values.shape[1], **metrics}


def rows(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The assessment rows in use, in the order in which they are met. Needs inputs order, assessment."""
    icon = resolved(cfg.icon)
    candidates = len(read_rows(inputs["order"] / "rows.jsonl", Example)[: cfg.stop])
    examples = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    sequence = row_sequence([row.id for row in examples], [row.group for row in examples], icon.adaptive.seed)
    used = rows_in_use(len(sequence), candidates, icon.auto)
    write_json(out / "sequence.json", {"rows": sequence[:used], "total": len(sequence)})
    return {"rows": used, "assessment": len(sequence), **_FREE}


def start(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The first round of all candidates. Needs inputs order, rows."""
    candidates = [row.id for row in read_rows(inputs["order"] / "rows.jsonl", Example)[: cfg.stop]]
    used: list[str] = read_json(inputs["rows"] / "sequence.json")["rows"]
    first_rows = resolved(cfg.icon).auto.first_rows
    asked = {i: [used[k] for k in own_places(place, first_rows, len(used))] for place, i in enumerate(candidates)}
    write_json(out / "sequence.json", {"own": asked, "candidates": candidates})
    return {"candidates": len(candidates), "pairs": sum(map(len, asked.values())), **_FREE}


def decide(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """What the next round scores. Needs inputs rows, start, features, baseline, bank, and all shards so far."""
    search, candidates, used = _replayed(cfg, inputs)
    asked = {} if search.over else search.asked()
    rows_of = {candidates[i]: [used[place] for place in places] for i, places in asked.items()}
    write_json(out / "sequence.json", {"own": rows_of})
    return {
        "active": len(rows_of),
        "pairs": sum(map(len, rows_of.values())),
        "settled": len(candidates) - len(rows_of),
        **_FREE,
    }


def scores(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl after the last round: estimates of the global score. Needs the inputs of ``decide``.

    Parts: ``rows`` scored, ``estimate_error`` (standard error of the estimate around the mean over all rows),
    ``predicted`` (what the other candidates say), ``standard_error`` of a mean over all rows as a sample.
    """
    search, candidates, used = _replayed(cfg, inputs)
    posterior = search.posterior
    if posterior is None or not search.over:
        raise IconScoreError("candidates are still to be scored: the last round isn't among the inputs.")
    sampling = math.sqrt(posterior.row_noise / search.total)
    write_rows(
        out / "scores.jsonl",
        (
            Score(
                identifier,
                float(posterior.mean[i]),
                {
                    "rows": float(posterior.rows[i]),
                    "estimate_error": float(posterior.error[i]),
                    "predicted": float(posterior.predicted[i]),
                    "standard_error": sampling,
                },
            )
            for i, identifier in enumerate(candidates)
        ),
    )
    pairs = int(posterior.rows.sum())
    metrics = {
        "rows": len(candidates),
        "assessment": search.total,
        "assessment_in_use": len(used),
        "pairs": pairs,
        "share_scored": pairs / (len(candidates) * search.total),
        "weight_of_probe": posterior.weight,
    }
    for fraction, values in search.disagreement().items():
        metrics[f"disagreement_expected@{fraction:g}"] = values["expected"]
        metrics[f"disagreement_bound@{fraction:g}"] = values["bound"]
    return {**metrics, **_FREE, **checked(inputs)}


def _replayed(cfg: IconRound, inputs: Mapping[str, Path]) -> tuple[Search, list[str], list[str]]:
    """The search up to now, and the ids of its candidates and rows."""
    icon = resolved(cfg.icon)
    matrices = Matrices(icon, inputs)
    described = read_json(inputs["rows"] / "sequence.json")
    used: list[str] = described["rows"]
    candidates: list[str] = read_json(inputs["start"] / "sequence.json")["candidates"]
    known = read_json(inputs["features"] / "ids.json")["candidates"]
    if known[: len(candidates)] != candidates:
        raise IconScoreError(f"{inputs['features']}: holds other candidates than {inputs['start']}; delete both.")
    alike = np.load(inputs["features"] / "alike.npy", allow_pickle=False)[: len(candidates), : len(candidates)]
    ends = round_ends(len(used), icon.auto)[: cfg.rounds]
    search = Search(alike.astype(np.float64), len(used), described["total"], cfg.fractions, ends, icon.adaptive.error)
    for number in range(cfg.rounds):
        shards = [inputs[name] for name in sorted(inputs) if name.startswith(f"round{number:02d}-")]
        if search.over or not shards:
            break
        scored = {i: pairs for shard in shards for i, pairs in matrices.own(shard).items()}
        asked = {candidates[i]: (i, [used[p] for p in places]) for i, places in search.asked().items()}
        if scored.keys() != asked.keys() or any(scored[i][0] != rows for i, (_, rows) in asked.items()):
            raise IconScoreError(
                f"round {number}: the shards hold other pairs than were asked for; delete them and run again."
            )
        search.advance({place: scored[i][1].tolist() for i, (place, _) in asked.items()})
    return search, candidates, used
