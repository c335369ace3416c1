"""LESS by projected gradients that are stored: rows whose gradients point where those of the targets do.

In: a warm-up training with its epochs kept; model; rows; targets: the assessment rows, whose tasks are their groups, or
shots of benchmarks.  Out: shards: vectors.npy, (rows, dimensions) float16, of length 1, NaN where a row has none; of
targets also lengths.npy, (rows,) float32, before normalising; scores.jsonl, the influence; parts: on each task.
Source: Xia et al., arXiv 2402.04333 (LESS), and its code (8abf962): LoRA gradients after each epoch of the warm-up, in
Adam's direction for the rows and plain for the targets, random projection, cosine; sum over epochs with their mean
learning rates (divided by their sum), mean over a task's shots, maximum over tasks.
Paper and code disagree on Adam's direction (``adam``) and on what the mean over shots is of (``shot_mean``).
Differs: gradients in ``dtype`` instead of bfloat16 throughout; moments are found by the names of the weights.
Known gap: rows of the pool that are shots too aren't looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from icon_repro.data.cost import training_flops
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.gradients import Projection, row_gradients
from icon_repro.methods.less.influence import (
    NO_GRADIENT,
    NO_LABEL,
    LessError,
    batches,
    direction_of,
    prepared,
    rates_of,
    warmed,
    write_influence,
)
from icon_repro.methods.less.options import Direction, LessConfig, LessShard, ShotMean

_GATHERED = 400_000_000  # numbers of gradients that are held before they are projected, on a CPU
_SHARE = 0.4  # of a GPU's free memory that they may take


def gathered_numbers(device: torch.device) -> int:
    """Numbers of gradients that are held: each time, the whole matrix of the projection is made anew."""
    if device.type != "cuda":
        return _GATHERED
    fits = int(_SHARE * torch.cuda.mem_get_info(device)[0] / 4)
    return int(2 ** (fits.bit_length() - 1))  # small changes of the free memory change nothing


def shard(cfg: LessShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write vectors.npy and ids.json of rows ``start`` to ``stop``. Needs inputs model, warmup, rows."""
    less = cfg.less
    rows = read_rows(inputs["rows"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    vectors = open_memmap(out / "vectors.npy", "w+", np.float16, (len(rows), less.dimensions))
    vectors[:] = np.nan
    lengths = np.full(len(rows), np.nan, np.float32)
    reasons, tokens, parameters, cut = dict[str, str](), 0, 0, 0
    if rows:
        read = prepared(rows, less, inputs["model"], targets=cfg.direction is Direction.sgd)
        cut = read.cut
        reasons = {row.id: NO_LABEL for row, item in zip(rows, read.items, strict=True) if not item}
        at = warmed(less, inputs["model"], inputs["warmup"], cfg.epoch, runtime)
        parameters = at.model.get_base_model().num_parameters()
        gradients = row_gradients(at.model)
        project = Projection(len(at.mean), less.dimensions, less.projection_seed)
        change = direction_of(less, at) if cfg.direction is Direction.adam else None
        gathered = max(1, gathered_numbers(at.mean.device) // len(at.mean))
        micro = min(runtime.cluster.micro_batch_size, gathered)
        with runtime.progress(len(read.places), "row") as progress:
            for first in range(0, len(read.places), gathered):
                block = read.places[first : first + gathered]
                chunks = []
                for _, batch in batches(read, block, micro):
                    chunks.append(gradients(batch))
                    progress.advance(len(batch), sum(len(item["input_ids"]) for item in batch))
                projected = project(*chunks, change=change)
                length = projected.norm(dim=1, keepdim=True)
                values = (projected / length).cpu().numpy()
                for place, value, size in zip(block, values, length[:, 0].tolist(), strict=True):
                    if np.isfinite(value).all():
                        vectors[place], lengths[place] = value, size
                    else:
                        reasons[rows[place].id] = NO_GRADIENT
            tokens = progress.tokens
    vectors.flush()
    described: dict[str, Any] = {"rows": [row.id for row in rows], "reasons": reasons}
    if cfg.direction is Direction.sgd:
        np.save(out / "lengths.npy", lengths, allow_pickle=False)
        described["groups"] = [row.group for row in rows]
    write_json(out / "ids.json", described)
    return {
        "rows": len(rows),
        "failed": len(reasons),
        "rows_cut": cut,
        "tokens": tokens,
        "flops": training_flops(parameters, tokens, frozen=True),
    }


@dataclass(frozen=True)
class _Stored:
    """What a shard has written."""

    ids: list[str]
    vectors: NDArray[np.float16]  # (rows, dimensions), mapped, not read
    reasons: dict[str, str]


def _stored(folder: Path) -> _Stored:
    described = read_json(folder / "ids.json")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    if len(vectors) != len(described["rows"]):
        raise LessError(f"{folder}: {len(vectors)} vectors of {len(described['rows'])} rows; delete it.")
    return _Stored(described["rows"], vectors, described["reasons"])


def _task_means(
    folders: Mapping[str, Path], mean: ShotMean
) -> tuple[dict[str, NDArray[np.float64]], dict[str, int], dict[str, int]]:
    """For each task the vector whose product with a row's is the row's influence; its shots with and without gradient.

    Args:
        folders: of target shards by the name of the task; "" where the groups of the rows are the tasks.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    counts, failed = dict[str, int](), dict[str, int]()
    for name, folder in sorted(folders.items()):
        shots = _stored(folder)
        lengths = np.load(folder / "lengths.npy", allow_pickle=False)
        groups = read_json(folder / "ids.json")["groups"]
        for identifier, group, vector, length in zip(shots.ids, groups, shots.vectors, lengths, strict=True):
            task = "/".join(part for part in (name, group) if part)
            if identifier in shots.reasons:
                failed[task] = failed.get(task, 0) + 1
            else:
                weight = 1.0 if mean is ShotMean.cosines else float(length)
                sums[task] = sums.get(task, np.zeros(len(vector))) + weight * np.asarray(vector, np.float64)
                counts[task] = counts.get(task, 0) + 1
    mean_vectors = {task: total / counts[task] for task, total in sums.items()}
    if mean is ShotMean.gradients:
        mean_vectors = {task: vector / np.linalg.norm(vector) for task, vector in mean_vectors.items()}
    return mean_vectors, counts, failed


def run(cfg: LessConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl.

    Needs inputs warmup, and for each of its epochs epoch<e>-shard-NNNN, and epoch<e>-assessment or
    epoch<e>-target-<task>.
    """
    rates = rates_of(inputs["warmup"], cfg.epochs)
    influence: dict[str, NDArray[np.float64]] = {}
    reasons: dict[str, str] = {}
    tasks, shots, failed = list[str](), dict[str, int](), dict[str, int]()
    for epoch, rate in enumerate(rates, start=1):
        prefix = f"epoch{epoch}-target-"
        targets = {name.removeprefix(prefix): path for name, path in inputs.items() if name.startswith(prefix)}
        if f"epoch{epoch}-assessment" in inputs:
            targets[""] = inputs[f"epoch{epoch}-assessment"]
        means, shots, failed = _task_means(targets, cfg.shot_mean)
        if lost := sorted(failed.keys() - means.keys()):
            raise LessError(
                f"task {lost[0]!r}: none of its {failed[lost[0]]} shots has a gradient after epoch {epoch} (why: see "
                "ids.json of the step of the targets). Raise max_length of the method, or leave the task out."
            )
        if not means:
            raise LessError("there are no targets; give the assessment set or methods.less.targets rows.")
        tasks = sorted(means)
        directions = np.stack([means[task] for task in tasks]).astype(np.float32)
        for name in sorted(name for name in inputs if name.startswith(f"epoch{epoch}-shard-")):
            rows = _stored(inputs[name])
            reasons |= rows.reasons
            influences = np.asarray(rows.vectors, np.float32) @ directions.T * rate
            for identifier, values in zip(rows.ids, influences, strict=True):
                influence[identifier] = influence.get(identifier, np.zeros(len(tasks))) + values
    return write_influence(out, influence, tasks, reasons, shots, failed)
