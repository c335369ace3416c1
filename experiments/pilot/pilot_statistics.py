"""Statistics that the pilot alone needs: bootstrap, split halves and expected overlaps.

In: full matrices of contributions, numpy arrays.  Out: numbers; no randomness without a generator passed in.
Source: Spearman-Brown: Shavelson and Webb, Generalizability Theory (1991); what two methods' best rows have in common:
Plackett, Biometrika 41 (1954).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from icon_repro.methods.agreement import Matrix, ReliabilityError, agreement


def expected_overlap(correlation: float, share: float) -> float:
    """Expected ``overlap`` of the best ``share`` by two scores that are jointly normal with this correlation.

    Raises:
        ReliabilityError: correlation outside [-1, 1], or share outside (0, 1).
    """
    if not (-1 <= correlation <= 1 and 0 < share < 1):
        raise ReliabilityError(f"correlation={correlation}, share={share}: must be in [-1, 1] and in (0, 1).")
    cut = norm.isf(share)  # P(both above it), by Plackett's formula: its derivative by the correlation, integrated
    more, _ = quad(lambda angle: np.exp(-(cut**2) / (1 + np.sin(angle))), 0, np.arcsin(correlation))
    return float((share**2 + more / (2 * np.pi)) / share)


def correlation_for(overlap: float, share: float) -> float:
    """The correlation at which ``expected_overlap`` is ``overlap``; to 0.005."""
    grid = np.linspace(-1, 1, 401)
    return float(np.interp(overlap, [expected_overlap(r, share) for r in grid.tolist()], grid))


def bootstrap(
    statistic: Callable[..., Any], samples: Sequence[NDArray[Any]], generator: np.random.Generator, draws: int = 1000
) -> tuple[Any, Any]:
    """95 % percentile interval of ``statistic(*samples)`` over resampled units, the first axis of every sample.

    Returns:
        Lower and upper end, of the statistic's shape.

    Raises:
        ReliabilityError: samples of different lengths, or empty.
    """
    count = len(samples[0])
    if not count or any(len(sample) != count for sample in samples):
        raise ReliabilityError(
            f"samples of {[len(sample) for sample in samples]} units: equal numbers above 0 are needed."
        )
    values = []
    for _ in range(draws):
        units = generator.integers(count, size=count)
        values.append(statistic(*(sample[units] for sample in samples)))
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return low, high


def spearman_brown(r: float, factor: float) -> float:
    """Reliability of a mean over ``factor`` times as many columns as that with reliability ``r``."""
    return factor * r / (1 + (factor - 1) * r)


def split_half(task: Matrix, generator: np.random.Generator, splits: int = 200) -> float:
    """Agreement of random halves of the columns, stepped up to all columns (Spearman-Brown).

    The mean correlation is stepped up, not each: a single one near -1 would become any number.
    """
    half = task.shape[1] // 2
    return spearman_brown(agreement(task, half, generator, splits), task.shape[1] / max(1, half))
