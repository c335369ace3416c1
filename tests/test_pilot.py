"""The pilot's analysis on matrices with known answers, and what it refuses."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.pilot import PilotError, load, main
from icon_repro.pilot_findings import tasks_of

LENGTHS = [8, 32, 128, 512]


def write_pilot(
    folder: Path,
    c: int = 60,
    n: int = 64,
    true_sd: float = 0.05,
    noise_sd: float = 0.2,
    draw_sd: float = 0.0,
    length_slope: float = 0.0,
    draws: int = 3,
    bfloat16: float | None = None,
    heavy_rows: int = 0,
) -> Path:
    """A pilot whose contributions are known.

    contribution = candidate's mean (sd ``true_sd``, plus ``length_slope`` a unit of log length) + noise of the cell;
    a random context multiplies perplexity by 1.5 + 0.1 log(length / 8), +- ``draw_sd`` from text to text.
    """
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = np.exp(generator.uniform(np.log(8), np.log(512), c)).astype(int).clip(8, 512)
    logs = np.log(tokens / 8)
    means = true_sd * generator.standard_normal(c) + length_slope * (logs - logs.mean())
    noise = noise_sd * generator.standard_normal((c, n))
    alone = generator.uniform(3, 4, n)
    if heavy_rows:
        alone[:heavy_rows] += 2
        noise[:, :heavy_rows] *= 4
    task = means[:, None] + noise
    context = 1.5 + 0.1 * logs[:, None]
    own = np.arange(0, c, 2)
    bank = 1.5 + 0.1 * np.log(np.array(LENGTHS) / 8)[:, None, None] + np.zeros((1, draws, n))
    control = context[own] + np.zeros((1, n))
    if draw_sd:  # one factor a text, as a text is shared by all rows
        bank = bank + draw_sd * generator.standard_normal((len(LENGTHS), draws, 1))
        control = control + draw_sd * generator.standard_normal((len(own), 1))
    arrays = {
        "baseline": alone,
        "candidate": np.log((context - task).clip(0.05)) + alone,
        "control": np.log(control) + alone,
        "bank": np.log(bank) + alone,
    }
    if bfloat16 is not None:
        some = arrays["candidate"][:12, : n // 2]
        arrays["candidate_bfloat16"] = some + bfloat16 * generator.standard_normal(some.shape)
        arrays["baseline_bfloat16"] = alone[: n // 2]
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    ids = {
        "candidates": [f"c{i:04d}" for i in range(c)],
        "assessment": [f"a{i:04d}" for i in range(n)],
        "groups": ["one" if i % 2 else "two" for i in range(n)],
        "response_chars": (4 * tokens).tolist(),
        "context_tokens": tokens.tolist(),
        "control_candidates": own.tolist(),
        "bf16_candidates": list(range(12)),
        "bf16_rows": list(range(n // 2)),
    }
    (folder / "ids.json").write_text(json.dumps(ids))
    (folder / "bank_lengths.json").write_text(json.dumps(LENGTHS))
    return folder
