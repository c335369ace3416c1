"""Compute intervals of shares and AUCs.

In and out: numbers and numpy arrays; no randomness without a generator passed in.
Source: Wilson, JASA 22 (1927); DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), on the logit scale so that an
interval stays within (0, 1).
Known gap: they treat rows as drawn at random and independent of one another. Intervals of benchmarks and judges, with
their items and seeds: ``icon_repro.report.statistics``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

LEVEL = 0.95
Z = 1.959963984540054  # of the standard normal, both sides together 5 %
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
    p, z2 = count / total, Z**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


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
    return on_logit_scale(value, variance)


def on_logit_scale(value: float, variance: float) -> Interval:
    if not 0 < value < 1:
        return Interval(value, math.nan, math.nan)
    centre, half = math.log(value / (1 - value)), Z * math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1))
    return Interval(value, low, high)
