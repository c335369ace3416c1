"""Turn the matrices of pairs into ICon scores.

In: baseline, shards.  Out: scores.jsonl {id, score, parts}; the score is the paper's global score.

    task(T -> S_i) = (PPL(S_i | control) - PPL(S_i | T)) / (PPL(S_i) + epsilon);  global(T) = mean over i

Source: arXiv 2505.05327, equations of section 3; as parts, what the released scripts compute besides: ``consistency``
(share of i with task > 0), ``variance`` over i, ``coverage`` (share with task > 0.5) and ``significance``,
2 / (1 + exp(-50 global)) - 1, clamped to +-1 where abs(global) > 0.5: the same order as global.
Differs: adds the standard error of the mean over assessment rows, which the paper doesn't give.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Score
from icon_repro.engine.records import read_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import EmptyPair, IconConfig, IconRound, resolved
from icon_repro.methods.icon.rounds import replayed


def aggregate(task: NDArray[np.float64], skip_nan: bool = False) -> dict[str, NDArray[np.float64]]:
    """Scores of each candidate from its contributions.

    Args:
        task: (c, n) from ``matrices.task_scores``.
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
    """Write scores.jsonl. Needs inputs["baseline"], one input a shard, and what the control needs: bank, controls."""
    matrices = Matrices(resolved(cfg), inputs)
    rows = write_rows(out / "scores.jsonl", _scores(matrices, inputs))
    return {"rows": rows, "assessment": len(matrices.assessment), "tokens": 0, "flops": 0, **checked(inputs)}


def _scores(matrices: Matrices, inputs: Mapping[str, Path]) -> Iterator[Score]:
    """Scores shard by shard: memory doesn't grow with the number of candidates."""
    skip_nan = matrices.cfg.empty_pairs is EmptyPair.nan
    for block in matrices.blocks(inputs, "shard"):
        if not block.candidates:
            continue
        if sorted(block.columns) != list(range(len(matrices.assessment))):
            raise IconScoreError(
                f"the shard of candidate {block.candidates[0]}: its assessment rows aren't the baseline's "
                f"{len(matrices.assessment)}, each once; delete it and run again."
            )
        parts = aggregate(block.task, skip_nan)
        score = parts.pop("global")
        for index, identifier in enumerate(block.candidates):
            yield Score(identifier, float(score[index]), {name: float(part[index]) for name, part in parts.items()})


def adaptive(cfg: IconRound, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl after the last round: estimates of the global score. Needs the inputs of ``rounds.decide``.

    Parts: ``rows`` scored, ``estimate_error`` (standard error of the estimate around the mean over all rows in use; 0
    if all are scored), ``standard_error`` of that mean as a sample of rows, pooled over the candidates.
    """
    race, candidates, rows = replayed(cfg, inputs)
    if not race.over:
        raise IconScoreError("candidates are still to be scored: the last round isn't among the inputs.")
    estimates, sampling = race.estimates(), math.sqrt(race.row_noise / len(rows))
    scores = (
        Score(
            identifier,
            float(estimates.mean[i]),
            {"rows": float(estimates.rows[i]), "estimate_error": float(estimates.error[i]), "standard_error": sampling},
        )
        for i, identifier in enumerate(candidates)
    )
    write_rows(out / "scores.jsonl", scores)
    pairs = int(estimates.rows.sum())
    metrics = {
        "rows": len(candidates),
        "assessment": len(rows),
        "pairs": pairs,
        "share_scored": pairs / (len(candidates) * len(rows)),
    }
    for fraction, values in race.disagreement().items():
        metrics[f"disagreement_expected@{fraction:g}"] = values["expected"]
        metrics[f"disagreement_bound@{fraction:g}"] = values["bound"]
    return {**metrics, "tokens": 0, "flops": 0, **checked(inputs)}


def checked(inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What the check of the dtype found, if there was one: it belongs beside the scores."""
    return {"dtype_check": read_json(inputs["dtype"] / "dtype.json")} if "dtype" in inputs else {}
