"""Which dtype to score in: the fastest whose scores differ from float32's by less than they are uncertain anyway.

In: model, order, assessment.  Out: dtype.json: the dtype chosen, and of each dtype tried its speed and how far it is
from float32 on a sample of pairs.
Single NLLs in bfloat16 move by up to 0.1, but a score is a mean over rows. Of the differences of contributions, the
part that is a candidate's own stays, the part of single pairs averages out; both are estimated as variance components,
and their sum at the number of rows in use is compared with the standard error of a score at that number.
Known gap: speed is measured once, on a small sample.
"""

import gc
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icon_repro.config import Control, Dtype, FidelityConfig, IconConfig, IconShard, ScoreDtype, resolved
from icon_repro.cost import forward_flops
from icon_repro.engine.progress import Progress
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import pick_device
from icon_repro.lm.nll import NonFiniteError
from icon_repro.methods.icon.adaptive import row_sequence
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.methods.icon.pairs import Engine, make_engine
from icon_repro.records import Example, read_rows, write_json
from icon_repro.stats import components, spearman

_FASTER = 1.1  # than float32, to be worth a look


def run(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write dtype.json. Needs inputs model, order, assessment."""
    icon = resolved(cfg.icon)
    # the control of the check is a text of the candidate's own, whatever the method uses: it costs as much as a pair
    checked = replace(icon, control=Control.none if icon.control is Control.none else Control.per_candidate)
    candidates = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop][: icon.fidelity.candidates]
    assessment = {row.id: row for row in read_rows(inputs["assessment"] / "rows.jsonl", Example)}
    sequence = row_sequence(list(assessment), [row.group for row in assessment.values()], 0)
    rows = [assessment[i] for i in sequence[: icon.fidelity.rows]]
    if icon.dtype is ScoreDtype.auto:
        others = [Dtype.bfloat16]
        if pick_device(runtime.cluster.device).type == "cuda":
            others.append(Dtype.float16)
    else:
        others = [Dtype(icon.dtype.value)]
    tried: dict[str, dict[str, Any]] = {}
    total = len(candidates) * len(rows) * (1 + len(others))
    with runtime.progress(total, "pair") as progress:
        exact, speed, parameters = _scored(Dtype.float32, checked, candidates, rows, inputs, runtime, progress)
        tried["float32"] = {"tokens_per_s": speed, "passes": True}
        for dtype in others:
            if icon.dtype is ScoreDtype.auto:
                fast = _speed(dtype, checked, candidates, rows, inputs, runtime)
                if fast < _FASTER * speed:
                    tried[dtype.value] = {"tokens_per_s": fast, "passes": False, "why": "not faster than float32"}
                    continue
            try:
                found, fast, _ = _scored(dtype, checked, candidates, rows, inputs, runtime, progress)
            except NonFiniteError as error:
                tried[dtype.value] = {"passes": False, "why": str(error)}
                continue
            tried[dtype.value] = {"tokens_per_s": fast, **compared(exact, found, len(assessment), icon.fidelity)}
    passing = {name: values["tokens_per_s"] for name, values in tried.items() if values["passes"]}
    chosen = max(passing, key=lambda name: passing[name]) if icon.dtype is ScoreDtype.auto else icon.dtype.value
    write_json(
        out / "dtype.json",
        {
            "dtype": chosen,
            "candidates": len(candidates),
            "rows": len(rows),
            "rows_in_use": len(assessment),
            "tried": tried,
        },
    )
    return {"dtype": chosen, "tokens": progress.tokens, "flops": forward_flops(parameters, progress.tokens)}


def compared(
    exact: NDArray[np.float64], found: NDArray[np.float64], rows_in_use: int, cfg: FidelityConfig
) -> dict[str, Any]:
    """How far contributions (c, n) in some dtype are from float32's, as scores over ``rows_in_use`` rows.

    Returns:
        ``rms`` of the scores' differences, common shift removed, and ``standard_error`` of a score, both at
        ``rows_in_use`` rows; whether their ratio ``passes``; ``spearman`` and the ``largest`` difference in the sample.
    """
    own, noise = components(found - exact)
    rms = float(np.sqrt(own + noise / rows_in_use))
    error = float(np.sqrt(components(exact)[1] / rows_in_use))
    shift = (found - exact).mean(axis=1)
    rank = spearman(exact.mean(axis=1), found.mean(axis=1))
    return {
        "rms": rms,
        "standard_error": error,
        "passes": rms <= cfg.max_rms * error,
        "spearman": rank if np.isfinite(rank) else None,
        "largest": float(np.abs(shift - shift.mean()).max()),
    }


def _scored(
    dtype: Dtype,
    icon: IconConfig,
    candidates: list[Example],
    rows: list[Example],
    inputs: Mapping[str, Path],
    runtime: Runtime,
    progress: Progress,
) -> tuple[NDArray[np.float64], float, int]:
    """Contributions (c, n) in ``dtype``, tokens a second, and the model's number of parameters."""
    engine = make_engine(icon, inputs, runtime, dtype)
    laid, ids = [engine.layout.row(row) for row in rows], [row.id for row in rows]
    present = [i for i, row in enumerate(laid) if row.after_context is not None and row.alone is not None]
    laid, ids = [laid[i] for i in present], [ids[i] for i in present]
    alone = engine.mean_nll([], [row.alone for row in laid])
    before, started = progress.tokens, time.monotonic()
    after = np.array([engine.candidate(row, laid, progress) for row in candidates])
    if icon.control is Control.none:
        control = np.broadcast_to(alone, after.shape)
    else:
        control = np.array([engine.control(row, laid, ids, progress) for row in candidates])
    speed = (progress.tokens - before) / max(time.monotonic() - started, 1e-9)
    parameters = engine.model.num_parameters()
    _release(engine)
    return task_scores(after, control, alone, icon.epsilon), speed, parameters


def _speed(
    dtype: Dtype,
    icon: IconConfig,
    candidates: list[Example],
    rows: list[Example],
    inputs: Mapping[str, Path],
    runtime: Runtime,
) -> float:
    """Tokens a second of one candidate's pairs, after a warm-up on a few."""
    engine = make_engine(icon, inputs, runtime, dtype)
    laid = [row for row in map(engine.layout.row, rows) if row.after_context is not None]
    with Progress("speed", len(laid), "pair", None) as progress:
        engine.candidate(candidates[0], laid[:2])
        started = time.monotonic()
        try:
            engine.candidate(candidates[0], laid, progress)
        except NonFiniteError:
            return float("inf")  # the check itself says so
        speed = progress.tokens / max(time.monotonic() - started, 1e-9)
    _release(engine)
    return speed


def _release(engine: Engine) -> None:
    """Give the model's memory back before the next one is loaded."""
    del engine.model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
