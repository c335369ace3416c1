"""Statistics that several parts share: reliability of scores, rank correlation, overlap of selections.

In and out: numpy arrays; no randomness without a generator passed in.
Source: Spearman-Brown and one-way variance components: Shavelson and Webb, Generalizability Theory (1991).
Known gap: intervals and tests for benchmark results come with the statistics of the evaluation.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Matrix = NDArray[np.floating[Any]]


class StatsError(ValueError):
    """Too few values, or values that aren't finite."""


def pearson(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> float:
    """Correlation; NaN if one side doesn't vary.

    Raises:
        StatsError: lengths differ, fewer than two values, or a value that isn't finite.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape or left.size < 2 or not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise StatsError(
            f"correlation needs two equal lengths of at least 2 finite values, not {left.size}, {right.size}."
        )
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / scale) if scale > 0 else float("nan")


def spearman(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> float:
    """Rank correlation; NaN if one side doesn't vary."""
    return pearson(rankdata(a), rankdata(b))


def auc(scores: Sequence[float] | NDArray[Any], positive: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Probability that a positive has a higher score than a negative (ties count half); NaN without one of either."""
    chosen = np.asarray(positive, bool)
    n, m = int(chosen.sum()), int((~chosen).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(scores)[chosen].sum() - n * (n + 1) / 2) / (n * m))


def overlap(a: Collection[str], b: Collection[str]) -> float:
    """Share of the smaller selection that is in both.

    Raises:
        StatsError: one of them is empty.
    """
    if not a or not b:
        raise StatsError("an empty selection overlaps with nothing.")
    return len(set(a) & set(b)) / min(len(set(a)), len(set(b)))


def components(task: Matrix) -> tuple[float, float]:
    """Variance of the true row means, and of a single cell around its row's mean; column means are taken out.

    Args:
        task: (c, n) contributions of c candidates to n assessment rows, at least 2 x 2.

    Returns:
        Both estimates, the first at least 0: two-way layout without repetition, expected mean squares.
    """
    c, n = task.shape
    if c < 2 or n < 2:
        raise StatsError(f"variance components need at least 2 x 2 cells, not {c} x {n}.")
    centred = np.asarray(task, np.float64) - task.mean(axis=0, dtype=np.float64)
    means = centred.mean(axis=1)
    noise = float(((centred - means[:, None]) ** 2).sum() / ((c - 1) * (n - 1)))
    return max(0.0, float(means.var(ddof=1)) - noise / n), noise


def reliability(task: Matrix, columns: int | None = None) -> float:
    """Share of the variance of the row means that would come back with other columns (generalizability).

    Args:
        columns: of the mean in question; those of ``task`` if None.
    """
    true, noise = components(task)
    total = true + noise / (columns or task.shape[1])
    return true / total if total > 0 else 0.0


def columns_for(task: Matrix, target: float) -> int | None:
    """The least number of columns whose mean has reliability ``target``; None if no number has."""
    true, noise = components(task)
    return max(1, int(np.ceil(noise / true * target / (1 - target)))) if true > 0 else None


def split_half(task: Matrix, generator: np.random.Generator, splits: int = 200) -> float:
    """Mean over random halves of the columns of the halves' correlation, stepped up to all columns (Spearman-Brown)."""
    columns = task.shape[1]
    if columns < 2 or len(task) < 2:
        raise StatsError(f"split halves need at least 2 x 2 cells, not {task.shape}.")
    found = []
    for _ in range(splits):
        order = generator.permutation(columns)
        half = columns // 2
        r = pearson(task[:, order[:half]].mean(axis=1), task[:, order[half : 2 * half]].mean(axis=1))
        found.append(2 * r / (1 + r))
    return float(np.mean(found))
