"""Rows, a warm-up whose epochs are kept, and slow gradients: what the tests of both ways of LESS share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.less.options import LessConfig, LessProjection, TargetTemplate, less_resolved
from icon_repro.train.options import TrainConfig, TrainJob, Tuning
from icon_repro.train.step import run as train

POOL = [Example(f"p{i}", f"Name {i} colours.", "", "red, green and blue " * (i % 4 + 1)) for i in range(9)]
TARGETS = [Example(f"a{i}", "Why is the sky blue?", "", f"Because of {i}", group="ab"[i % 2]) for i in range(5)]
SHOTS = {
    "qa": [
        Example(f"q{i}", f"Question: Is {i} even?\nAnswer:", "", f" {'no' if i % 2 else 'yes'}", ready=True)
        for i in range(3)
    ],
    "sums": [Example(f"s{i}", f"What is {i} + 1?", "", str(i + 1), group="xy"[i > 0]) for i in range(3)],
}
TASKS = {"qa": SHOTS["qa"], "sums/x": SHOTS["sums"][:1], "sums/y": SHOTS["sums"][1:]}
EXACT = less_resolved(
    LessConfig(epochs=2, lora=LoraConfig(r=4, alpha=8, dropout=0.1), dimensions=512, max_length=256, learning_rate=1e-2)
)
PROJECTED = replace(EXACT, projection=LessProjection.rademacher, target_template=TargetTemplate.as_is)


def folder(path: Path, rows: list[Example]) -> Path:
    path.mkdir()
    write_rows(path / "rows.jsonl", rows)
    return path


def trained_warmup(root: Path, model_step: Path) -> dict[str, Path]:
    """Pool, targets, and a warm-up on the pool whose epochs are kept."""
    made = {"model": model_step, "pool": folder(root / "pool", POOL), "targets": folder(root / "targets", TARGETS)}
    job = TrainConfig(
        Tuning.lora,
        EXACT.learning_rate,
        epochs=float(EXACT.epochs),
        global_batch_size=4,
        max_length=256,
        dtype=Dtype.float32,
        lora=EXACT.lora,
        keep_epochs=True,
    )
    warmup = root / "warmup"
    warmup.mkdir()
    runtime = Runtime(ClusterConfig(device="cpu"), cache=root / "cache", terminal=None)
    train(TrainJob(job, 3), {"model": model_step, "candidates": made["pool"]}, warmup, runtime)
    return {**made, "warmup": warmup}


def loop(model: Any, rows: list[dict[str, list[int]]]) -> torch.Tensor:
    """Gradients of one row after the other, by transformers' own loss."""
    found = []
    for row in rows:
        model.zero_grad()
        model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
        named = sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)
        found.append(torch.cat([p.grad.flatten() for _, p in named]))
    return torch.stack(found).detach()
