"""Compute intervals of shares, overlaps and AUCs, and what chance alone would give.

In and out: numbers and numpy arrays; no randomness without a generator passed in.
Source: Wilson, JASA 22 (1927); DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), on the logit scale so that an
interval stays within (0, 1).
Known gap: they treat rows as drawn at random and independent of one another. Intervals of benchmarks and judges, with
their items and seeds: ``icon_repro.report.statistics``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, rankdata

LEVEL = 0.95
_Z = 1.959963984540054  # of the standard normal, both sides together 5 %
Values = NDArray[np.float64]


class IntervalError(ValueError):
    """Too few values, or values that aren't finite."""


@dataclass(frozen=True)
class Interval:
    """A number and the ends of its 95 % interval; NaN where the data can't say."""

    value: float
    low: float
    high: float


def share(count: int, total: int) -> Interval:
    """``count`` of ``total`` with Wilson's interval.

    Raises:
        IntervalError: no total, or a count outside it.
    """
    if not 0 <= count <= total or total < 1:
        raise IntervalError(f"a share needs 0 <= count <= total and a total of at least 1, not {count} of {total}.")
    p, z2 = count / total, _Z**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def mean(values: Sequence[float] | NDArray[Any]) -> Interval:
    """Mean with its normal interval; for hundreds of values.

    Raises:
        IntervalError: fewer than two values, or one that isn't finite.
    """
    array = np.asarray(values, np.float64)
    if array.size < 2 or not np.isfinite(array).all():
        raise IntervalError(f"a mean with an interval needs at least 2 finite values, not {array.size}.")
    half = _Z * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Interval(float(array.mean()), float(array.mean()) - half, float(array.mean()) + half)


def by_chance(pool: int, one: int, other: int) -> Interval:
    """Size of the overlap of two sets drawn at random from a pool: expected, and the central 95 % of the
    hypergeometric distribution.

    Raises:
        IntervalError: a set is empty or larger than the pool.
    """
    if not (0 < one <= pool and 0 < other <= pool):
        raise IntervalError(f"sets of {one} and {other} can't be drawn from a pool of {pool}.")
    low, high = hypergeom(pool, one, other).interval(LEVEL)
    return Interval(one * other / pool, float(low), float(high))


def auc_parts(positive: Values, negative: Values) -> tuple[float, float]:
    """AUC (ties count half) and DeLong's variance of it.

    Raises:
        IntervalError: fewer than two values on a side, or one that isn't finite.
    """
    m, n = len(positive), len(negative)
    both = np.concatenate([positive, negative])
    if m < 2 or n < 2 or not np.isfinite(both).all():
        raise IntervalError(f"an AUC with an interval needs at least 2 finite values a side, not {m} and {n}.")
    ranks = rankdata(both)
    above = (ranks[:m] - rankdata(positive)) / n  # of each positive: share of the negatives below it
    below = 1 - (ranks[m:] - rankdata(negative)) / m  # of each negative: share of the positives above it
    return float(above.mean()), float(above.var(ddof=1) / m + below.var(ddof=1) / n)


def auc(positive: Sequence[float] | NDArray[Any], negative: Sequence[float] | NDArray[Any]) -> Interval:
    """Probability that a positive has a higher value than a negative; ends are NaN where no pair is out of order.

    Raises:
        IntervalError: see ``auc_parts``.
    """
    value, variance = auc_parts(np.asarray(positive, np.float64), np.asarray(negative, np.float64))
    return _on_logit_scale(value, variance)


def auc_within(
    positive: Sequence[float] | NDArray[Any],
    negative: Sequence[float] | NDArray[Any],
    positive_group: NDArray[Any],
    negative_group: NDArray[Any],
) -> tuple[Interval, int]:
    """AUC over the pairs whose two rows are in the same group, and how many pairs these are.

    Groups with fewer than two rows on a side don't count; NaN if that is all of them.

    Raises:
        IntervalError: see ``auc_parts``.
    """
    by_group = []
    for group in np.intersect1d(positive_group, negative_group):
        mine = np.asarray(positive, np.float64)[positive_group == group]
        theirs = np.asarray(negative, np.float64)[negative_group == group]
        if len(mine) > 1 and len(theirs) > 1:
            by_group.append((len(mine) * len(theirs), *auc_parts(mine, theirs)))
    if not by_group:
        return Interval(math.nan, math.nan, math.nan), 0
    pairs = sum(count for count, _, _ in by_group)
    value = sum(count / pairs * part for count, part, _ in by_group)
    variance = sum((count / pairs) ** 2 * part for count, _, part in by_group)
    return _on_logit_scale(value, variance), pairs


def _on_logit_scale(value: float, variance: float) -> Interval:
    if not 0 < value < 1:
        return Interval(value, math.nan, math.nan)
    centre, half = math.log(value / (1 - value)), _Z * math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1))
    return Interval(value, low, high)


def drawn(
    statistic: Callable[[NDArray[np.intp]], float],
    members: NDArray[np.intp],
    size: int,
    generator: np.random.Generator,
    draws: int = 200,
) -> Interval:
    """``statistic`` of ``size`` members drawn at random without repetition: mean and central 95 % of the draws.

    Raises:
        IntervalError: fewer members than are drawn.
    """
    if not 0 < size <= len(members):
        raise IntervalError(f"{size} of {len(members)} can't be drawn.")
    values = [statistic(generator.choice(members, size, replace=False)) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))
