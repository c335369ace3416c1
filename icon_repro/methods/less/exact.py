"""LESS without a projection: rows whose gradients point where those of the targets do.

In: a warm-up training with its epochs kept; model; rows; targets, whose groups are tasks.  Out: ``means``: means.npy,
(tasks, weights) float32, and tasks.json; ``shard``: products.npy, (rows, tasks) float32, NaN where a row has none, and
ids.json; ``run``: scores.jsonl, the influence; parts: on each task.
Source: as ``methods.less.projected``. A cosine averaged over a task's shots is one product with the mean of the shots'
gradients of length 1, so that no gradient of a row need be stored, nor projected to fit.
Known gap: all tasks' means are held at once; rows of the pool that are shots too aren't looked for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icon_repro.data.cost import training_flops
from icon_repro.data.rows import Example
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.gradients import row_gradients
from icon_repro.methods.less.influence import (
    NO_GRADIENT,
    NO_LABEL,
    LessError,
    Prepared,
    Warmed,
    batches,
    direction_of,
    prepared,
    rates_of,
    warmed,
    write_influence,
)
from icon_repro.methods.less.options import LessExact, LessMeans, LessProducts, ShotMean

_WEIGHTS = 65_536  # of the rows' gradients that are changed and multiplied at a time


def means(cfg: LessMeans, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write means.npy and tasks.json {groups, shots, failed, reasons}. Needs inputs model, warmup, rows.

    means.npy holds a row for each group, in the order of their names: what a gradient of length 1 is multiplied with
    to get its influence on the group.

    Raises:
        LessError: there are no rows, no shot of a group has a gradient, or the groups need more than ``max_gib``.
    """
    less = cfg.less
    rows = read_rows(inputs["rows"] / "rows.jsonl", Example)
    if not rows:
        raise LessError("there are no targets; give the assessment set or methods.less.targets rows.")
    groups = sorted({row.group for row in rows})
    read = prepared(rows, less, inputs["model"], targets=True)
    reasons = {row.id: NO_LABEL for row, item in zip(rows, read.items, strict=True) if not item}
    at = warmed(less, inputs["model"], inputs["warmup"], cfg.epoch, runtime)
    refuse_beyond(less.max_gib, len(groups), len(at.mean))
    sums = torch.zeros(len(groups), len(at.mean), device=at.mean.device)
    shots = dict.fromkeys(groups, 0)
    with runtime.progress(len(read.places), "row") as progress:
        for places, gradients in _streamed(at, read, runtime, progress):
            for place, gradient, length in zip(places, gradients, gradients.norm(dim=1).tolist(), strict=True):
                if not 0 < length < float("inf"):
                    reasons[rows[place].id] = NO_GRADIENT
                    continue
                scale = 1 / length if less.shot_mean is ShotMean.cosines else 1.0
                sums[groups.index(rows[place].group)].add_(gradient, alpha=scale)
                shots[rows[place].group] += 1
    failed = {group: sum(row.group == group for row in rows) - count for group, count in shots.items()}
    if empty := [group for group in groups if not shots[group]]:
        raise LessError(
            f"targets of group {empty[0]!r}: none of its {failed[empty[0]]} shots has a gradient after epoch "
            f"{cfg.epoch} ({next(reasons[row.id] for row in rows if row.group == empty[0])}). Raise max_length of the "
            "method, or leave the task out."
        )
    mean_gradients = sums / torch.tensor([[shots[group]] for group in groups], device=sums.device)
    if less.shot_mean is ShotMean.gradients:
        mean_gradients = mean_gradients / mean_gradients.norm(dim=1, keepdim=True)
    np.save(out / "means.npy", mean_gradients.cpu().numpy(), allow_pickle=False)
    write_json(out / "tasks.json", {"groups": groups, "shots": shots, "failed": failed, "reasons": reasons})
    return _metrics(at, len(rows), len(reasons), read.cut, progress.tokens)


def refuse_beyond(max_gib: float, tasks: int, weights: int) -> None:
    """Refuse mean gradients that take more memory than is allowed.

    Raises:
        LessError: says how much they take, and what to do.
    """
    size = tasks * weights * 4 / 2**30
    if size > max_gib:
        raise LessError(
            f"mean gradients of {tasks} tasks and {weights:,} LoRA weights take {size:.3g} GiB, more than max_gib="
            f"{max_gib:g} of the method. Raise it if there is room; or set projection=rademacher, lora.targets to "
            "fewer modules or lora.r lower; or give fewer tasks (groups of the targets)."
        )


def _streamed(at: Warmed, read: Prepared, runtime: Runtime, progress: Progress) -> Iterator[tuple[list[int], Tensor]]:
    """Places of some rows and their gradients, (rows, weights) float32."""
    gradients = row_gradients(at.model)
    for places, batch in batches(read, read.places, runtime.cluster.micro_batch_size):
        yield places, gradients(batch)
        progress.advance(len(batch), sum(len(item["input_ids"]) for item in batch))


def _metrics(at: Warmed, rows: int, failed: int, cut: int, tokens: int) -> dict[str, Any]:
    parameters = at.model.get_base_model().num_parameters()
    flops = training_flops(parameters, tokens, frozen=True)
    return {"rows": rows, "failed": failed, "rows_cut": cut, "tokens": tokens, "flops": flops}


@dataclass(frozen=True)
class _Tasks:
    """What all ``means`` of an epoch hold together, in the order of the tasks' names."""

    names: list[str]
    folders: list[tuple[Path, int]]  # of each task: where its mean is, and in which row
    shots: dict[str, int]
    failed: dict[str, int]

    def vectors(self, weights: int, max_gib: float, device: torch.device) -> Tensor:
        """(tasks, weights) float32.

        Raises:
            LessError: they take too much memory, or are of other LoRA weights.
        """
        refuse_beyond(max_gib, len(self.names), weights)
        vectors = torch.empty(len(self.names), weights, device=device)
        for number, (folder, row) in enumerate(self.folders):
            stored = np.load(folder / "means.npy", mmap_mode="r", allow_pickle=False)
            if stored.shape[1] != weights:
                raise LessError(f"{folder}: means of {stored.shape[1]} weights, the model has {weights}; delete it.")
            vectors[number] = torch.from_numpy(np.array(stored[row]))
        return vectors


def _tasks(inputs: Mapping[str, Path]) -> _Tasks:
    """The tasks of inputs ``assessment``, whose groups are tasks, or ``target-<task>``."""
    places: dict[str, tuple[Path, int]] = {}
    shots, failed = dict[str, int](), dict[str, int]()
    for label, folder in inputs.items():
        if label != "assessment" and not label.startswith("target-"):
            continue
        described = read_json(folder / "tasks.json")
        for row, group in enumerate(described["groups"]):
            name = "/".join(part for part in (label.partition("-")[2], group) if part)
            places[name] = folder, row
            shots[name], failed[name] = described["shots"][group], described["failed"][group]
    names = sorted(places)
    return _Tasks(names, [places[name] for name in names], shots, failed)


def shard(cfg: LessProducts, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write products.npy and ids.json of rows ``start`` to ``stop``: their cosines, averaged over each task's shots.

    Needs inputs model, warmup, rows, and ``means`` of the same epoch: assessment or target-<task>.

    Raises:
        LessError: the tasks take more than ``max_gib``, or are of other LoRA weights.
    """
    less = cfg.less
    rows = read_rows(inputs["rows"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    tasks = _tasks(inputs)
    products = np.full((len(rows), len(tasks.names)), np.nan, np.float32)
    reasons, metrics = dict[str, str](), {"rows": 0, "failed": 0, "tokens": 0, "flops": 0}
    if rows:
        read = prepared(rows, less, inputs["model"], targets=False)
        reasons = {row.id: NO_LABEL for row, item in zip(rows, read.items, strict=True) if not item}
        at = warmed(less, inputs["model"], inputs["warmup"], cfg.epoch, runtime)
        vectors = tasks.vectors(len(at.mean), less.max_gib, at.mean.device)
        direction = direction_of(less, at)
        with runtime.progress(len(read.places), "row") as progress:
            for places, gradients in _streamed(at, read, runtime, progress):
                for place, values in zip(places, _cosines(gradients, vectors, direction), strict=True):
                    if np.isfinite(values).all():
                        products[place] = values
                    else:
                        reasons[rows[place].id] = NO_GRADIENT
        metrics = _metrics(at, len(rows), len(reasons), read.cut, progress.tokens)
    np.save(out / "products.npy", products, allow_pickle=False)
    described = {"rows": [row.id for row in rows], "reasons": reasons, "tasks": tasks.names}
    write_json(out / "ids.json", {**described, "shots": tasks.shots, "failed": tasks.failed})
    return metrics


def _cosines(gradients: Tensor, vectors: Tensor, direction: Callable[[Tensor, slice], Tensor]) -> NDArray[np.float64]:
    """(rows, tasks): products of ``vectors`` with the rows' directions of length 1; NaN where a row has no length.

    Args:
        gradients: (rows, weights), changed to ``direction`` part by part, so that its terms fit into the cache.
        vectors: (tasks, weights).
    """
    products = torch.zeros(len(gradients), len(vectors), dtype=torch.float64, device=gradients.device)
    squares = torch.zeros(len(gradients), 1, dtype=torch.float64, device=gradients.device)
    for first in range(0, gradients.shape[1], _WEIGHTS):
        place = slice(first, min(first + _WEIGHTS, gradients.shape[1]))
        part = direction(gradients[:, place], place)
        products += part @ vectors[:, place].T
        squares += part.square().sum(dim=1, keepdim=True)
    cosines: NDArray[np.float64] = (products / squares.sqrt()).cpu().numpy()
    return cosines


def run(cfg: LessExact, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs warmup, and for each of its epochs epoch<e>-shard-NNNN.

    Raises:
        LessError: shards are of other tasks, or the warm-up didn't learn.
    """
    influence: dict[str, NDArray[np.float64]] = {}
    reasons: dict[str, str] = {}
    shards = {name: read_json(path / "ids.json") for name, path in sorted(inputs.items()) if name != "warmup"}
    first = next(iter(shards.values()))
    for epoch, rate in enumerate(rates_of(inputs["warmup"], cfg.epochs), start=1):
        for name, described in shards.items():
            if not name.startswith(f"epoch{epoch}-"):
                continue
            products = np.load(inputs[name] / "products.npy", allow_pickle=False).astype(np.float64)
            if described["tasks"] != first["tasks"] or products.shape != (len(described["rows"]), len(first["tasks"])):
                raise LessError(f"{inputs[name]}: is of other tasks or rows than {next(iter(shards))}; delete it.")
            reasons |= described["reasons"]
            for identifier, values in zip(described["rows"], products, strict=True):
                influence[identifier] = influence.get(identifier, np.zeros(len(first["tasks"]))) + rate * values
    return write_influence(out, influence, first["tasks"], reasons, first["shots"], first["failed"])
