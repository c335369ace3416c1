"""Measure how far scores and selections agree: reliability, rank correlation, overlap.

In and out: numpy arrays; no randomness without a generator passed in.
Source: variance components: Shavelson and Webb, Generalizability Theory (1991).
Known gap: none. Intervals and tests of results of benchmarks and judges: ``icon_repro.report.statistics``.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Matrix = NDArray[np.floating[Any]]


class ReliabilityError(ValueError):
    """Too few values, or values that aren't finite."""


def pearson(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> float:
    """Correlation; NaN if one side doesn't vary.

    Raises:
        ReliabilityError: lengths differ, fewer than two values, or a value that isn't finite.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape or left.size < 2 or not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ReliabilityError(
            f"correlation needs two equal lengths of at least 2 finite values, not {left.size}, {right.size}."
        )
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / scale) if scale > 0 else float("nan")


def spearman(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> float:
    """Rank correlation; NaN if one side doesn't vary."""
    return pearson(rankdata(a), rankdata(b))


def auc(scores: Sequence[float] | NDArray[Any], positive: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Probability that a positive has a higher score than a negative (ties count half); NaN without one of either.

    Raises:
        ReliabilityError: lengths differ, or a score that isn't finite.
    """
    chosen = np.asarray(positive, bool)
    if np.shape(scores) != chosen.shape or not np.isfinite(scores).all():
        raise ReliabilityError(f"AUC needs one finite score for each label, not {np.shape(scores)} and {chosen.shape}.")
    n, m = int(chosen.sum()), int((~chosen).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(scores)[chosen].sum() - n * (n + 1) / 2) / (n * m))


def overlap(a: Collection[str], b: Collection[str]) -> float:
    """Share of the smaller selection that is in both.

    Raises:
        ReliabilityError: one of them is empty.
    """
    if not a or not b:
        raise ReliabilityError("an empty selection overlaps with nothing.")
    return len(set(a) & set(b)) / min(len(set(a)), len(set(b)))


def components(task: Matrix) -> tuple[float, float]:
    """Variance of the true row means, and of a single cell around its row's mean; column means are taken out.

    Args:
        task: (c, n) contributions of c candidates to n assessment rows, at least 2 x 2.

    Returns:
        Both estimates, the first at least 0: two-way layout without repetition, expected mean squares.

    Raises:
        ReliabilityError: fewer than 2 x 2 cells, or one that isn't finite.
    """
    c, n = task.shape
    if c < 2 or n < 2 or not np.isfinite(task).all():
        raise ReliabilityError(f"variance components need at least 2 x 2 finite cells, not {c} x {n}.")
    centred = np.asarray(task, np.float64) - task.mean(axis=0, dtype=np.float64)
    means = centred.mean(axis=1)
    noise = float(((centred - means[:, None]) ** 2).sum() / ((c - 1) * (n - 1)))
    return max(0.0, float(means.var(ddof=1)) - noise / n), noise


def reliability(task: Matrix, columns: int | None = None) -> float:
    """Share of the variance of the row means that would come back with other columns (generalizability).

    Args:
        columns: of the mean in question; those of ``task`` if None.

    Raises:
        ReliabilityError: no column, or what ``components`` refuses.
    """
    if columns is not None and columns < 1:
        raise ReliabilityError(f"columns={columns}: a mean needs at least 1.")
    true, noise = components(task)
    total = true + noise / (columns or task.shape[1])
    return true / total if total > 0 else 0.0


def columns_for(task: Matrix, target: float) -> int | None:
    """The least number of columns whose mean has reliability ``target``; None if no number has.

    Raises:
        ReliabilityError: target outside (0, 1), or what ``components`` refuses.
    """
    if not 0 < target < 1:
        raise ReliabilityError(f"target={target}: a reliability to aim at must be in (0, 1).")
    true, noise = components(task)
    return max(1, int(np.ceil(noise / true * target / (1 - target)))) if true > 0 else None


def agreement(
    task: Matrix, columns: int, generator: np.random.Generator, splits: int = 200, other: Matrix | None = None
) -> float:
    """Mean correlation of the row means over two disjoint random sets of ``columns`` columns each.

    Args:
        other: of ``task``'s shape; gives the means over the second set, ``task`` itself if None.

    Raises:
        ReliabilityError: fewer than two rows, too few columns for two sets, or another shape.
    """
    second = task if other is None else other
    if len(task) < 2 or not 1 <= columns <= task.shape[1] // 2 or second.shape != task.shape:
        raise ReliabilityError(
            f"two disjoint sets of {columns} columns can't be had from {task.shape}, {second.shape} cells."
        )
    correlations = []
    for _ in range(splits):
        order = generator.permutation(task.shape[1])
        rest = second[:, order[columns : 2 * columns]]
        correlations.append(pearson(task[:, order[:columns]].mean(axis=1), rest.mean(axis=1)))
    return float(np.mean(correlations))
