"""LESS: rows whose gradients point where those of the assessment rows do.

In: a warm-up training with its epochs kept; model; rows and assessment rows.  Out: shards: vectors.npy, (rows,
dimensions) float16, of length 1, NaN where a row has none; scores.jsonl, the influence; parts: of each group.
Source: Xia et al., arXiv 2402.04333 (LESS), and its code (8abf962): LoRA gradients after each epoch of the warm-up, in
Adam's direction for the rows and plain for the targets, random projection, cosine; sum over epochs with their mean
learning rates, mean over a task's rows, maximum over tasks. The tasks are the groups of the assessment set.
Differs: gradients in ``dtype`` instead of bfloat16 throughout; moments are found by the names of the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from icon_repro.config_methods import Direction, LessConfig, LessShard
from icon_repro.cost import training_flops
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import peft_lora
from icon_repro.lm.gradients import Projection, adam_direction, flattened, row_gradients
from icon_repro.lm.load import load_model, load_tokenizer, prepare_device
from icon_repro.lm.supervised import tokenise
from icon_repro.methods.common.outcome import write_scores
from icon_repro.records import Example, Score, read_json, read_rows, write_json

_GATHERED = 100_000_000  # numbers of gradients that are held before they are projected


class LessError(ValueError):
    """The warm-up is of another model, or shards don't belong together."""


def _tensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise LessError(
            f"{path}: can't be read ({error}). The warm-up must keep its epochs; delete its step and run again."
        ) from error


def warmed(cfg: LessConfig, model_step: Path, warmup: Path, epoch: int, runtime: Runtime) -> tuple[PeftModel, Any, Any]:
    """The model after an epoch of the warm-up, with LoRA as the only trainable weights; and Adam's two moments.

    Raises:
        LessError: the epoch isn't there, or its weights are of another model.
    """
    folder = warmup / "epochs" / f"epoch-{epoch}"
    weights, moments = _tensors(folder / "weights.safetensors"), _tensors(folder / "adam.safetensors")
    device = prepare_device(runtime.cluster)
    # torch.func has no batched rule for the CPU's fused attention and would run it row by row
    attention = "eager" if device.type == "cpu" else runtime.cluster.attention
    base = load_model(model_step, cfg.dtype, device, attention)
    model = get_peft_model(base, peft_lora(cfg.lora, "CAUSAL_LM", dropout=0.0)).eval()  # gradients without noise
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    missing = sorted(trainable.keys() ^ weights.keys())
    missing += sorted(f"{n}.{m}" for n in trainable for m in ("exp_avg", "exp_avg_sq") if f"{n}.{m}" not in moments)
    shapes = [n for n in trainable if n in weights and trainable[n].shape != weights[n].shape]
    if missing or shapes:
        raise LessError(
            f"{folder}: its weights are of another model or LoRA (first: {(missing or shapes)[0]!r}); delete the "
            "warm-up's step and run again."
        )
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])
    names = list(trainable)
    return model, flattened(moments, names, ".exp_avg").to(device), flattened(moments, names, ".exp_avg_sq").to(device)


def shard(cfg: LessShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write vectors.npy of rows ``start`` to ``stop``. Needs inputs model, warmup, rows."""
    less = cfg.less
    rows = read_rows(inputs["rows"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    vectors = open_memmap(out / "vectors.npy", "w+", np.float16, (len(rows), less.dimensions))
    vectors[:] = np.nan
    reasons, tokens, parameters = dict[str, str](), 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        made = [tokenise([row], tokenizer, less.max_length)[0] for row in rows]
        reasons = {r.id: "no response token within max_length" for r, item in zip(rows, made, strict=True) if not item}
        model, mean, square = warmed(less, inputs["model"], inputs["warmup"], cfg.epoch, runtime)
        parameters = model.get_base_model().num_parameters()
        gradients = row_gradients(model)
        project = Projection(len(mean), less.dimensions, less.projection_seed)
        # rows of similar length together; the order depends on the rows only
        places = sorted((i for i, item in enumerate(made) if item), key=lambda i: (len(made[i][0]["input_ids"]), i))
        gathered = max(1, _GATHERED // len(mean))
        micro = min(runtime.cluster.micro_batch_size, gathered)
        with runtime.progress(len(places), "row") as progress:
            for first in range(0, len(places), gathered):
                block = places[first : first + gathered]
                found = []
                for begin in range(0, len(block), micro):
                    batch = [made[i][0] for i in block[begin : begin + micro]]
                    found.append(gradients(batch))
                    progress.advance(len(batch), sum(len(item["input_ids"]) for item in batch))
                stacked = torch.cat(found)
                if cfg.direction is Direction.adam:
                    stacked = adam_direction(stacked, mean, square)
                projected = project(stacked)
                length = projected.norm(dim=1, keepdim=True)
                values = (projected / length).cpu().numpy()
                for place, value in zip(block, values, strict=True):
                    if np.isfinite(value).all():
                        vectors[place] = value
                    else:
                        reasons[rows[place].id] = "gradient is zero or not finite"
            tokens = progress.tokens
    vectors.flush()
    write_json(out / "ids.json", {"rows": [row.id for row in rows], "reasons": reasons})
    return {
        "rows": len(rows),
        "failed": len(reasons),
        "tokens": tokens,
        "flops": training_flops(parameters, tokens, frozen=True),
    }


def _shards(inputs: Mapping[str, Path], prefix: str) -> list[tuple[list[str], NDArray[np.float16], dict[str, str]]]:
    """Ids, vectors (mapped, not read) and reasons of the shards named ``<prefix>-NNNN``."""
    made = []
    for name in sorted(name for name in inputs if name.startswith(f"{prefix}-")):
        described = read_json(inputs[name] / "ids.json")
        vectors = np.load(inputs[name] / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if len(vectors) != len(described["rows"]):
            raise LessError(f"{inputs[name]}: {len(vectors)} vectors of {len(described['rows'])} rows; delete it.")
        made.append((described["rows"], vectors, described["reasons"]))
    return made


def run(cfg: LessConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl.

    Needs inputs warmup, assessment, and epoch<e>-shard-NNNN, epoch<e>-target-NNNN for each epoch of the warm-up.
    """
    groups = {row.id: row.group for row in read_rows(inputs["assessment"] / "rows.jsonl", Example)}
    names = sorted(set(groups.values()))
    epochs = range(1, cfg.epochs + 1)
    rates = [read_json(inputs["warmup"] / "epochs" / f"epoch-{e}" / "epoch.json")["learning_rate"] for e in epochs]
    if not sum(rates) > 0:
        raise LessError("the warm-up's learning rates are all 0: it didn't learn. Raise methods.less.epochs.")
    influence: dict[str, NDArray[np.float64]] = {}
    reasons: dict[str, str] = {}
    targets = 0
    for epoch, rate in zip(epochs, rates, strict=True):
        sums = {name: np.zeros(cfg.dimensions) for name in names}
        counts = dict.fromkeys(names, 0)
        for ids, vectors, failed in _shards(inputs, f"epoch{epoch}-target"):
            for identifier, vector in zip(ids, vectors, strict=True):
                if identifier not in failed:
                    sums[groups[identifier]] += vector
                    counts[groups[identifier]] += 1
        used = [name for name in names if counts[name]]
        if not used:
            raise LessError("no assessment row has a gradient: see failed of the target steps.")
        targets = sum(counts.values())
        means = np.array([sums[name] / counts[name] for name in used], np.float32)
        for ids, vectors, failed in _shards(inputs, f"epoch{epoch}-shard"):
            reasons |= failed
            found = np.asarray(vectors, np.float32) @ means.T * (rate / sum(rates))
            for identifier, values in zip(ids, found, strict=True):
                influence[identifier] = influence.get(identifier, np.zeros(len(used))) + values
    scores = [
        Score(identifier, float(values.max()), dict(zip(used, values.tolist(), strict=True)))
        for identifier, values in sorted(influence.items())
        if identifier not in reasons
    ]
    return {**write_scores(out, scores, reasons), "targets": targets, "groups": len(used), "tokens": 0, "flops": 0}
