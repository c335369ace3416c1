"""Run the steps of ``budget=auto`` before a selection model: a pilot chooses a few rows, which all others meet.

``pilot``.  Out: sequence.json, ``own``: the first candidates meet all rows in use.
``start``.  Out: sequence.json: ``chosen``, the rows that rank the pilot's candidates most as all rows in use do;
``own``, these rows for each further candidate; ``candidates``, all that are in use.
``scores``.  Out: scores.jsonl, as ``score.adaptive``.
Source: own; ``chosen`` has the method.
The number of candidates is what the FLOPs of the tuning that selection saves pay for; what a candidate costs is
measured on the pilot.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.cost import FROZEN_TRAINING, FULL_TRAINING
from icon_repro.data.rows import Example, Score, selected_count
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon.chosen import choose, learned
from icon_repro.methods.icon.few import disagreement
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import IconConfig, IconRound, TuningSaved, resolved
from icon_repro.methods.icon.score import checked

_FREE = {"tokens": 0, "flops": 0}
_COUNTED = ("baseline", "bank", "dtype")  # what was spent before a candidate


def pilot(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The pilot's pairs. Needs inputs order, rows."""
    count = resolved(cfg.icon).auto.pilot_candidates
    candidates = [row.id for row in read_rows(inputs["order"] / "rows.jsonl", Example)[: cfg.stop]][:count]
    used: list[str] = read_json(inputs["rows"] / "sequence.json")["rows"]
    write_json(out / "sequence.json", {"own": dict.fromkeys(candidates, used)})
    return {"candidates": len(candidates), "pairs": len(candidates) * len(used), **_FREE}


def start(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The rows chosen, and who meets them.

    Needs inputs order, rows, baseline, bank, the pilot's shards, and dtype where it was checked.
    """
    icon = resolved(cfg.icon)
    assert cfg.saved is not None
    pool = read_rows(inputs["order"] / "rows.jsonl", Example)
    candidates = [row.id for row in pool[: cfg.stop]]
    used: list[str] = read_json(inputs["rows"] / "sequence.json")["rows"]
    block = _pilot(Matrices(icon, inputs), inputs, used)
    chosen = [used[place] for place in choose(np.array(list(block.values())), icon.auto.first_rows)]
    affordable = _affordable(icon, cfg.saved, inputs, pool, list(block))
    candidates = candidates[: max(affordable, icon.auto.least_candidates, len(block))]
    asked = {identifier: chosen for identifier in candidates if identifier not in block}
    write_json(out / "sequence.json", {"own": asked, "candidates": candidates, "chosen": chosen})
    pairs = sum(map(len, asked.values()))
    return {"candidates": len(candidates), "candidates_affordable": affordable, "pairs": pairs, **_FREE}


def scores(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and choice.json. Needs inputs rows, start, baseline, bank, all shards, and dtype if checked.

    Parts: ``rows`` scored, ``estimate_error`` (standard error of the estimate around the mean over all rows),
    ``standard_error`` of a mean over all rows as a sample. choice.json: the rows ``chosen``; ``slope``, ``level`` and
    ``error`` of a score by the mean over them.
    """
    matrices = Matrices(resolved(cfg.icon), inputs)
    described, begun = (read_json(inputs[name] / "sequence.json") for name in ("rows", "start"))
    used, total, candidates = described["rows"], described["total"], begun["candidates"]
    block = _pilot(matrices, inputs, used)
    found = own_pairs(matrices, inputs, "round00-", begun["own"])
    choice = learned(np.array(list(block.values())), len(begun["chosen"]), total)
    if [used[place] for place in choice.places] != begun["chosen"]:
        raise IconScoreError(f"{inputs['start']}: names other rows than the pilot chooses; delete it and run again.")
    known = np.array([i in block for i in candidates])
    mean = np.array([(block[i] if i in block else found[i]).mean() for i in candidates])
    mean = np.where(known, mean, choice.score(mean))
    error = np.where(known, choice.pilot_error, choice.error)
    met = np.where(known, len(used), len(choice.places))
    said = {"chosen": begun["chosen"], "slope": choice.slope, "level": choice.level, "error": choice.error}
    write_json(out / "choice.json", said)
    sampling = math.sqrt(choice.row_noise / total)
    lines = zip(candidates, mean.tolist(), met.tolist(), error.tolist(), strict=True)
    write_rows(
        out / "scores.jsonl",
        (Score(i, m, {"rows": float(n), "estimate_error": e, "standard_error": sampling}) for i, m, n, e in lines),
    )
    metrics = {
        "rows": len(candidates),
        "assessment": total,
        "assessment_in_use": len(used),
        "assessment_chosen": len(choice.places),
        "pairs": int(met.sum()),
        "share_scored": int(met.sum()) / (len(candidates) * total),
    }
    cuts = {fraction: selected_count(fraction, len(candidates)) for fraction in cfg.fractions}
    for fraction, values in disagreement(mean, error, cuts).items():
        metrics[f"disagreement_expected@{fraction:g}"] = values["expected"]
        metrics[f"disagreement_bound@{fraction:g}"] = values["bound"]
    return {**metrics, **_FREE, **checked(inputs)}


def _pilot(matrices: Matrices, inputs: Mapping[str, Path], used: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """By candidate of the pilot, in the order of candidates, its contributions to all rows in use."""
    names = [name for name in sorted(inputs) if name.startswith("pilot-")]
    ids = [i for name in names for i in read_json(inputs[name] / "ids.json")["candidates"]]
    return own_pairs(matrices, inputs, "pilot-", dict.fromkeys(ids, used))


def own_pairs(
    matrices: Matrices, inputs: Mapping[str, Path], prefix: str, asked: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """By candidate its contributions to the rows that it was asked for.

    Raises:
        IconScoreError: the shards hold other pairs.
    """
    shards = [inputs[name] for name in sorted(inputs) if name.startswith(prefix)]
    found = {i: pairs for shard in shards for i, pairs in matrices.own(shard).items()}
    if found.keys() != asked.keys() or any(found[i][0] != list(rows) for i, rows in asked.items()):
        raise IconScoreError(f"{prefix}*: the shards hold other pairs than were asked for; delete them and run again.")
    return {i: found[i][1] for i in asked}


def _affordable(
    icon: IconConfig, saved: TuningSaved, inputs: Mapping[str, Path], pool: list[Example], block: Sequence[str]
) -> int:
    """Candidates whose scoring, with the selection model's work, costs ``cost_ratio`` of the tuning that it saves.

    In tokens of a forward pass, from the records of what has been scored and the lengths of texts in characters.

    Args:
        block: the pilot's, which are among those counted.
    """
    selector = icon.selector
    assert selector is not None
    records = {name: read_json(path / "record.json")["metrics"] for name, path in inputs.items() if name in _COUNTED}
    pilots = [read_json(path / "record.json")["metrics"] for name, path in inputs.items() if name.startswith("pilot-")]
    scored = sum(m["tokens"] for m in pilots)
    contexts = read_json(inputs["bank"] / "bank.json")["contexts"]
    chars = {row.id: len(row.instruction + row.input + row.response) for row in pool}
    per_char = sum(contexts.values()) / sum(count for identifier, count in chars.items() if identifier in contexts)
    row = max(0.0, scored - sum(contexts[i] for i in block)) / sum(m["pairs"] for m in pilots)
    each = sum(contexts.values()) / len(contexts) + icon.auto.first_rows * row
    lengths = [per_char * chars[one.id] for one in pool[: saved.rows]]
    learning = sum(lengths) / len(lengths) * selector.learning_passes
    training = FROZEN_TRAINING if saved.frozen else FULL_TRAINING
    tuned = sum(min(length, saved.max_length) for length in lengths) * saved.epochs * training * (1 - saved.fraction)
    spent = scored + len(block) * learning + sum(record["tokens"] for record in records.values())
    spent += sum(min(length, selector.pool_max_length) for length in lengths) * selector.repeats
    left = icon.auto.cost_ratio * tuned - spent - selector.near * each
    return len(block) + int(left / (each + learning)) if left > 0 else 0
