"""Intervals that the study of released selections alone needs: of means, of AUCs within groups, and by chance alone.

In: values of rows.  Out: ``Interval``.
Source: DeLong's variance of an AUC, pooled over groups by their pairs; the hypergeometric distribution.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from icon_repro.report.intervals import LEVEL, Interval, IntervalError, Z, auc_parts, on_logit_scale


def mean(values: Sequence[float] | NDArray[Any]) -> Interval:
    """Mean with its normal interval; for hundreds of values.

    Raises:
        IntervalError: fewer than two values, or one that isn't finite.
    """
    array = np.asarray(values, np.float64)
    if array.size < 2 or not np.isfinite(array).all():
        raise IntervalError(f"a mean with an interval needs at least 2 finite values, not {array.size}.")
    half = Z * float(array.std(ddof=1)) / math.sqrt(array.size)
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
    return on_logit_scale(value, variance), pairs


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
