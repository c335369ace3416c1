"""Hold what both ways to LESS's influence share: the warm-up's epochs, rows as LESS reads them, scores.

In: a warm-up training with its epochs kept; model; rows.  Out: the model after an epoch, with Adam's moments; batches
of rows of similar length; scores.jsonl with the influence on each task.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from icon_repro.data.prompts import Template, alpaca_prompt, prompt_of
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import peft_lora, unknown_target
from icon_repro.lm.gradients import adam_direction, flattened
from icon_repro.lm.labels import tokenise
from icon_repro.lm.load import load_model, load_tokenizer, prepare_device
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.less.options import AdamFormula, LessConfig, TargetTemplate

NO_LABEL = "no response token within max_length"
NO_GRADIENT = "gradient is zero or not finite"


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
        tensors: dict[str, Tensor] = dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise LessError(f"{path}: can't be read ({error}). {remedy}") from error
    if wrong := sorted(tensors.keys() ^ set(names)):
        kind = "has no" if wrong[0] not in tensors else "has an unknown"
        raise LessError(
            f"{path}: is of another model or LoRA: {kind} {wrong[0]!r} ({len(wrong)} names differ of {len(names)} "
            f"expected: weights of LoRA by their names in the model). {remedy}"
        )
    if wrong := [name for name in names if tensors[name].shape != shapes[name]]:
        shape, expected = tuple(tensors[wrong[0]].shape), tuple(shapes[wrong[0]])
        raise LessError(
            f"{path}: is of another model or LoRA: {wrong[0]!r} has shape {shape}, expected {expected}. {remedy}"
        )
    if wrong := [name for name in names if not torch.isfinite(tensors[name]).all()]:
        raise LessError(
            f"{path}: {wrong[0]!r} has NaN or infinite numbers ({len(wrong)} of {len(names)} tensors); the warm-up "
            f"diverged. Lower learning_rate of the method, or set its dtype to float32. {remedy}"
        )
    return tensors


def epoch_note(warmup: Path, epoch: int) -> dict[str, Any]:
    """Mean learning rate and number of steps of an epoch of the warm-up."""
    path = warmup / "epochs" / f"epoch-{epoch}" / "epoch.json"
    if not path.is_file():
        epochs = len(list(path.parent.parent.glob("epoch-*/epoch.json")))
        raise LessError(
            f"{path}: isn't there; the warm-up has kept {epochs} epochs. Delete its step {warmup} and run again."
        )
    return dict(read_json(path))


def warmed(cfg: LessConfig, model_step: Path, warmup: Path, epoch: int, runtime: Runtime) -> Warmed:
    """The model after an epoch of the warm-up.

    Raises:
        LessError: the epoch isn't there, its weights or moments are of another model, or aren't finite.
    """
    step = epoch_note(warmup, epoch)["step"]
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


def direction_of(less: LessConfig, at: Warmed) -> Callable[[Tensor, slice], Tensor]:
    """Some weights' gradients, and the place of the weights -> the step that Adam would take there next."""
    taken = at.step if less.adam is AdamFormula.paper else None
    return lambda part, place: adam_direction(part, at.mean[place], at.square[place], taken)


@dataclass(frozen=True)
class Prepared:
    """Rows as ids and labels."""

    items: list[dict[str, list[int]] | None]  # one a row; None: no label is left
    places: list[int]  # of the rows with labels, those of similar length together; the order depends on the rows only
    cut: int = 0  # rows that max_length has shortened


def prepared(rows: Sequence[Example], less: LessConfig, model_step: Path, *, targets: bool) -> Prepared:
    """The rows as they are trained on; targets in the template that ``less`` says."""
    tokenizer = load_tokenizer(model_step)

    def prompt(row: Example) -> str:
        wrapped = targets and less.target_template is TargetTemplate.tuning
        return prompt_of(row, Template.alpaca) if wrapped else alpaca_prompt(row)

    tokenised = [tokenise([row], tokenizer, less.max_length, prompt) for row in rows]
    items = [item[0] if item else None for item, _ in tokenised]
    cut = sum(len(notes["cut"]) for _, notes in tokenised)
    lengths = {i: len(item["input_ids"]) for i, item in enumerate(items) if item}
    return Prepared(items, sorted(lengths, key=lambda i: (lengths[i], i)), cut)


def batches(prepared: Prepared, places: Sequence[int], size: int) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    """Up to ``size`` neighbours among ``places``, and their items."""
    for first in range(0, len(places), size):
        some = list(places[first : first + size])
        yield some, [item for place in some if (item := prepared.items[place]) is not None]


def rates_of(warmup: Path, epochs: int) -> list[float]:
    """Mean learning rate of each epoch, divided by their sum.

    Raises:
        LessError: all are 0.
    """
    rates = [epoch_note(warmup, epoch)["learning_rate"] for epoch in range(1, epochs + 1)]
    if not sum(rates) > 0:
        raise LessError("the warm-up's learning rates are all 0: it didn't learn. Raise methods.less.epochs.")
    return [rate / sum(rates) for rate in rates]


def write_influence(
    out: Path,
    influence: Mapping[str, NDArray[np.float64]],
    tasks: Sequence[str],
    reasons: Mapping[str, str],
    shots: Mapping[str, int],
    failed: Mapping[str, int],
) -> dict[str, Any]:
    """Write scores.jsonl, the largest influence over the tasks, and failures.jsonl; returns the step's metrics.

    Args:
        influence: (tasks,) of each row; those with a reason in ``reasons`` have no score.
        shots, failed: of each task, with and without a gradient.
    """
    scores = [
        Score(identifier, float(values.max()), dict(zip(tasks, values.tolist(), strict=True)))
        for identifier, values in sorted(influence.items())
        if identifier not in reasons
    ]
    return {
        **write_scores(out, scores, reasons),
        "targets": sum(shots.values()),
        "targets_failed": dict(failed),
        "groups": len(tasks),
        "tokens": 0,
        "flops": 0,
    }
