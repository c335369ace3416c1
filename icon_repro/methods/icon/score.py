"""Matrices of pairs to ICon scores.

In: baseline, shards.  Out: scores.jsonl {id, score, parts}; the score is the paper's global score.

    task(T -> S_i) = (PPL(S_i | control) - PPL(S_i | T)) / (PPL(S_i) + epsilon);  global(T) = mean over i

Source: arXiv 2505.05327, equations of section 3; as parts, what the released scripts compute besides: ``consistency``
(share of i with task > 0), ``variance`` over i, ``coverage`` (share with task > 0.5) and ``significance``,
2 / (1 + exp(-50 global)) - 1, clamped to +-1 where abs(global) > 0.5: the same order as global.
Differs: adds the standard error of the mean over assessment rows, which the paper doesn't give.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.config import Control, EmptyPair, IconConfig, resolved
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


def aggregate(task: NDArray[np.float64], skip_nan: bool = False) -> dict[str, NDArray[np.float64]]:
    """Scores of each candidate from its contributions.

    Args:
        task: (c, n) from ``task_scores``.
        skip_nan: leave NaN out of mean and variance, but count it in the n of consistency and coverage, as released.

    Returns:
        (c,) each: ``global`` (the score), ``standard_error`` of it, ``significance``, ``consistency``, ``variance``,
        ``coverage``.
    """
    mean, variance = (np.nanmean, np.nanvar) if skip_nan else (np.mean, np.var)
    scored = np.isfinite(task).sum(axis=1)
    score = mean(task, axis=1)
    spread = variance(task, axis=1, ddof=1) if task.shape[1] > 1 else np.zeros(len(task))
    with np.errstate(over="ignore"):
        significance = np.where(np.abs(score) > 0.5, np.sign(score), 2 / (1 + np.exp(-50 * score)) - 1)
    return {
        "global": score,
        "standard_error": np.sqrt(spread / scored),
        "significance": significance,
        "consistency": (task > 0).mean(axis=1),
        "variance": spread,
        "coverage": (task > 0.5).mean(axis=1),
    }


def run(cfg: IconConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs["baseline"] and one input a shard."""
    zero_shot = np.load(inputs["baseline"] / "nll.npy", allow_pickle=False)
    assessment = read_json(inputs["baseline"] / "ids.json")["assessment"]
    shards = [folder for name, folder in inputs.items() if name != "baseline"]
    rows = write_rows(out / "scores.jsonl", _scores(resolved(cfg), shards, zero_shot, assessment))
    return {"rows": rows, "assessment": len(assessment), "tokens": 0, "flops": 0}


def _scores(
    cfg: IconConfig, shards: list[Path], zero_shot: NDArray[np.float64], assessment: list[str]
) -> Iterator[Score]:
    """Scores shard by shard: memory doesn't grow with the number of candidates."""
    skip_nan = cfg.empty_pairs is EmptyPair.nan
    for folder in shards:
        ids = read_json(folder / "ids.json")
        if ids["assessment"] != assessment:
            raise IconScoreError(f"{folder}: assessment rows differ from the baseline's; delete it and run again.")
        if not ids["candidates"]:
            continue
        candidate = np.load(folder / "candidate.npy", mmap_mode="r", allow_pickle=False)
        if cfg.control is Control.none:
            control = np.broadcast_to(zero_shot, candidate.shape)
        else:
            control = np.load(folder / "control.npy", mmap_mode="r", allow_pickle=False)
        task = task_scores(candidate, control, zero_shot, cfg.epsilon)
        bad = np.isinf(task) if skip_nan else ~np.isfinite(task)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise IconScoreError(
                f"{folder}: the pair of candidate {ids['candidates'][row]} and assessment row {assessment[column]} "
                "isn't finite; it is never averaged in. Score in float32 or bfloat16."
            )
        parts = aggregate(task, skip_nan)
        score = parts.pop("global")
        for index, identifier in enumerate(ids["candidates"]):
            yield Score(identifier, float(score[index]), {name: float(part[index]) for name, part in parts.items()})
