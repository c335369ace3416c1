"""Matrices of pairs to ICon scores.

In: baseline, shards.  Out: scores.jsonl {id, score, parts}; the score is the paper's global score.

    task(T -> S_i) = (PPL(S_i | control) - PPL(S_i | T)) / (PPL(S_i) + epsilon);  global(T) = mean over i

Source: arXiv 2505.05327, equations of section 3; ``consistency``, ``stability``, ``coverage`` as the released scripts
name them: share of i with task > 0, variance over i, share with task > 0.5.
Differs: adds the standard error of the mean over assessment rows, which the paper doesn't give.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.config import Control, IconConfig
from icon_repro.engine.runtime import Runtime
from icon_repro.records import Score, read_json, write_rows


class IconScoreError(ValueError):
    """Shards and baseline don't belong together, or a pair isn't finite."""


def task_scores(
    candidate: NDArray[np.floating[Any]],
    control: NDArray[np.floating[Any]],
    baseline: NDArray[np.floating[Any]],
    epsilon: float,
) -> NDArray[np.float64]:
    """Contribution of each candidate to each assessment row.

    Args:
        candidate, control: (c, n) mean NLL after the candidate and after its control, nats per token.
        baseline: (n,) mean NLL without context.

    Returns:
        (c, n) float64; positive where the candidate lowers the perplexity more than its control does.
    """
    with_control, with_candidate = np.exp(np.asarray(control, np.float64)), np.exp(np.asarray(candidate, np.float64))
    return np.asarray((with_control - with_candidate) / (np.exp(np.asarray(baseline, np.float64)) + epsilon))


def run(cfg: IconConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs["baseline"] and one input a shard."""
    zero_shot = np.load(inputs["baseline"] / "nll.npy", allow_pickle=False)
    assessment = read_json(inputs["baseline"] / "ids.json")["assessment"]
    shards = [folder for name, folder in inputs.items() if name != "baseline"]
    rows = write_rows(out / "scores.jsonl", _scores(cfg, shards, zero_shot, assessment))
    return {"rows": rows, "assessment": len(assessment), "tokens": 0, "flops": 0}


def _scores(
    cfg: IconConfig, shards: list[Path], zero_shot: NDArray[np.float64], assessment: list[str]
) -> Iterator[Score]:
    """Scores shard by shard: memory doesn't grow with the number of candidates."""
    for folder in shards:
        ids = read_json(folder / "ids.json")
        if ids["assessment"] != assessment:
            raise IconScoreError(f"{folder}: assessment rows differ from the baseline's; delete it and run again.")
        candidate = np.load(folder / "candidate.npy", mmap_mode="r", allow_pickle=False)
        if cfg.control is Control.none:
            control = np.broadcast_to(zero_shot, candidate.shape)
        else:
            control = np.load(folder / "control.npy", mmap_mode="r", allow_pickle=False)
        task = task_scores(candidate, control, zero_shot, cfg.epsilon)
        if not np.isfinite(task).all():
            row, column = np.argwhere(~np.isfinite(task))[0]
            raise IconScoreError(
                f"{folder}: the pair of candidate {ids['candidates'][row]} and assessment row {assessment[column]} "
                "isn't finite; it is never averaged in. Score in float32 or bfloat16."
            )
        for identifier, values in zip(ids["candidates"], task, strict=True):
            parts = {
                "standard_error": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0,
                "consistency": float((values > 0).mean()),
                "stability": float(values.var()),
                "coverage": float((values > 0.5).mean()),
            }
            yield Score(identifier, float(values.mean()), parts)
