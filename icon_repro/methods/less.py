"""LESS: rows whose gradients point where those of the targets do.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from icon_repro.config_methods import AdamFormula, Direction, LessConfig, LessShard, ShotMean
from icon_repro.cost import training_flops
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import peft_lora, unknown_target
from icon_repro.lm.gradients import Projection, adam_direction, flattened, row_gradients
from icon_repro.lm.load import load_model, load_tokenizer, prepare_device
from icon_repro.lm.supervised import tokenise
from icon_repro.methods.common.outcome import write_scores
from icon_repro.records import Example, Score, read_json, read_rows, write_json

_GATHERED = 400_000_000  # numbers of gradients that are held before they are projected, on a CPU
_SHARE = 0.4  # of a GPU's free memory that they may take


class LessError(ValueError):
    """The warm-up is of another model, or shards don't belong together."""


@dataclass(frozen=True)
class Warmed:
    """The model after an epoch of the warm-up, with LoRA as its only trainable weights, and Adam's state then."""

    model: PeftModel
    mean: Tensor  # (weights,), first moment, in the order of ``row_gradients``
    square: Tensor  # (weights,), second moment
    step: int  # optimizer steps taken


def _tensors(path: Path, names: Sequence[str], shapes: Mapping[str, torch.Size], warmup: Path) -> dict[str, Tensor]:
    """The tensors of a file of the warm-up.

    Args:
        names: that must be there, and no others.
        shapes: of each.

    Raises:
        LessError: the file isn't there or can't be read, is of another model, or holds a number that isn't finite.
    """
    remedy = f"Delete the warm-up's step {warmup} and run again."
    if not path.is_file():
        raise LessError(f"{path}: isn't there; the warm-up has to keep weights and Adam's moments of it. {remedy}")
    try:
        found: dict[str, Tensor] = dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise LessError(f"{path}: can't be read ({error}). {remedy}") from error
    if wrong := sorted(found.keys() ^ set(names)):
        kind = "has no" if wrong[0] not in found else "has an unknown"
        raise LessError(
            f"{path}: is of another model or LoRA: {kind} {wrong[0]!r} ({len(wrong)} names differ of {len(names)} "
            f"expected: weights of LoRA by their names in the model). {remedy}"
        )
    if wrong := [name for name in names if found[name].shape != shapes[name]]:
        shape, expected = tuple(found[wrong[0]].shape), tuple(shapes[wrong[0]])
        raise LessError(
            f"{path}: is of another model or LoRA: {wrong[0]!r} has shape {shape}, expected {expected}. {remedy}"
        )
    if wrong := [name for name in names if not torch.isfinite(found[name]).all()]:
        raise LessError(
            f"{path}: {wrong[0]!r} has NaN or infinite numbers ({len(wrong)} of {len(names)} tensors); the warm-up "
            f"diverged. Lower learning_rate of the method, or set its dtype to float32. {remedy}"
        )
    return found


def _note(warmup: Path, epoch: int) -> dict[str, Any]:
    """Mean learning rate and number of steps of an epoch of the warm-up."""
    path = warmup / "epochs" / f"epoch-{epoch}" / "epoch.json"
    if not path.is_file():
        kept = len(list(path.parent.parent.glob("epoch-*/epoch.json")))
        raise LessError(
            f"{path}: isn't there; the warm-up has kept {kept} epochs. Delete its step {warmup} and run again."
        )
    return dict(read_json(path))


def warmed(cfg: LessConfig, model_step: Path, warmup: Path, epoch: int, runtime: Runtime) -> Warmed:
    """The model after an epoch of the warm-up.

    Raises:
        LessError: the epoch isn't there, its weights or moments are of another model, or aren't finite.
    """
    step = _note(warmup, epoch)["step"]
    folder = warmup / "epochs" / f"epoch-{epoch}"
    device = prepare_device(runtime.cluster)
    # torch.func has no batched rule for the CPU's fused attention and would run it row by row
    attention = "eager" if device.type == "cpu" else runtime.cluster.attention
    base = load_model(model_step, cfg.dtype, device, attention)
    if problem := unknown_target(cfg.lora, base):
        raise LessError(f"{problem} Set lora.targets of the method.")
    model = get_peft_model(base, peft_lora(cfg.lora, "CAUSAL_LM", dropout=0.0)).eval()  # gradients without noise
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: p.shape for name, p in trainable.items()}
    weights = _tensors(folder / "weights.safetensors", list(shapes), shapes, warmup)
    both = {f"{name}.{moment}": shape for name, shape in shapes.items() for moment in ("exp_avg", "exp_avg_sq")}
    moments = _tensors(folder / "adam.safetensors", list(both), both, warmup)
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])
    names = list(trainable)
    mean, square = (flattened(moments, names, suffix).to(device) for suffix in (".exp_avg", ".exp_avg_sq"))
    return Warmed(model, mean, square, step)


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
    reasons, tokens, parameters = dict[str, str](), 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        made = [tokenise([row], tokenizer, less.max_length)[0] for row in rows]
        reasons = {r.id: "no response token within max_length" for r, item in zip(rows, made, strict=True) if not item}
        at = warmed(less, inputs["model"], inputs["warmup"], cfg.epoch, runtime)
        parameters = at.model.get_base_model().num_parameters()
        gradients = row_gradients(at.model)
        project = Projection(len(at.mean), less.dimensions, less.projection_seed)
        taken = at.step if less.adam is AdamFormula.paper else None

        def adam(part: Tensor, place: slice) -> Tensor:
            return adam_direction(part, at.mean[place], at.square[place], taken)

        change = adam if cfg.direction is Direction.adam else None
        # rows of similar length together; the order depends on the rows only
        places = sorted((i for i, item in enumerate(made) if item), key=lambda i: (len(made[i][0]["input_ids"]), i))
        gathered = max(1, gathered_numbers(at.mean.device) // len(at.mean))
        micro = min(runtime.cluster.micro_batch_size, gathered)
        with runtime.progress(len(places), "row") as progress:
            for first in range(0, len(places), gathered):
                block = places[first : first + gathered]
                found = []
                for begin in range(0, len(block), micro):
                    batch = [made[i][0] for i in block[begin : begin + micro]]
                    found.append(gradients(batch))
                    progress.advance(len(batch), sum(len(item["input_ids"]) for item in batch))
                projected = project(*found, change=change)
                length = projected.norm(dim=1, keepdim=True)
                values = (projected / length).cpu().numpy()
                for place, value, size in zip(block, values, length[:, 0].tolist(), strict=True):
                    if np.isfinite(value).all():
                        vectors[place], lengths[place] = value, size
                    else:
                        reasons[rows[place].id] = "gradient is zero or not finite"
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
    made = {task: total / counts[task] for task, total in sums.items()}
    if mean is ShotMean.gradients:
        made = {task: vector / np.linalg.norm(vector) for task, vector in made.items()}
    return made, counts, failed


def run(cfg: LessConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl.

    Needs inputs warmup, and for each of its epochs epoch<e>-shard-NNNN, and epoch<e>-assessment or
    epoch<e>-target-<task>.
    """
    rates = [_note(inputs["warmup"], epoch)["learning_rate"] for epoch in range(1, cfg.epochs + 1)]
    if not sum(rates) > 0:
        raise LessError("the warm-up's learning rates are all 0: it didn't learn. Raise methods.less.epochs.")
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
            found = np.asarray(rows.vectors, np.float32) @ directions.T * (rate / sum(rates))
            for identifier, values in zip(rows.ids, found, strict=True):
                influence[identifier] = influence.get(identifier, np.zeros(len(tasks))) + values
    scores = [
        Score(identifier, float(values.max()), dict(zip(tasks, values.tolist(), strict=True)))
        for identifier, values in sorted(influence.items())
        if identifier not in reasons
    ]
    return {
        **write_scores(out, scores, reasons),
        "targets": sum(shots.values()),
        "targets_failed": failed,
        "groups": len(tasks),
        "tokens": 0,
        "flops": 0,
    }
