"""Intervals against slow loops, other packages and simulation."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from experiments.released_selections.released_intervals import auc_within, by_chance, drawn, mean
from icon_repro.report.intervals import Interval, IntervalError, auc, share


def slow_auc(positive: NDArray[Any], negative: NDArray[Any]) -> tuple[float, float]:
    """AUC and DeLong's variance, pair by pair."""
    wins = np.array([[1.0 if p > n else 0.5 if p == n else 0.0 for n in negative] for p in positive])
    of_positive, of_negative = wins.mean(axis=1), wins.mean(axis=0)
    variance = of_positive.var(ddof=1) / len(positive) + of_negative.var(ddof=1) / len(negative)
    return float(wins.mean()), float(variance)


@pytest.mark.parametrize("count, total", [(0, 7), (1, 7), (7, 7), (108, 520), (5173, 7800)])
def test_share_is_wilsons_interval(count: int, total: int) -> None:
    found = share(count, total)
    low, high = proportion_confint(count, total, method="wilson")
    assert found.value == count / total
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("count, total", [(-1, 5), (6, 5), (0, 0)])
def test_share_of_impossible_counts_is_refused(count: int, total: int) -> None:
    with pytest.raises(IntervalError, match=f"not {count} of {total}"):
        share(count, total)


@pytest.mark.parametrize("pool, one, other", [(50, 10, 20), (300, 30, 5), (20, 20, 7)])
def test_by_chance_is_the_hypergeometric_distribution(pool: int, one: int, other: int) -> None:
    found = by_chance(pool, one, other)
    probabilities = [
        math.comb(one, k) * math.comb(pool - one, other - k) / math.comb(pool, other)
        if other - k <= pool - one
        else 0.0
        for k in range(min(one, other) + 1)
    ]
    below = np.cumsum(probabilities)
    assert found.value == pytest.approx(sum(k * p for k, p in enumerate(probabilities)))
    assert found.low == np.flatnonzero(below >= 0.025 - 1e-12)[0]
    assert found.high == np.flatnonzero(below >= 0.975 - 1e-12)[0]


def test_by_chance_of_a_set_larger_than_the_pool_is_refused() -> None:
    with pytest.raises(IntervalError, match="11 and 3 can't be drawn from a pool of 10"):
        by_chance(10, 11, 3)


def test_auc_with_ties_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    positive, negative = generator.integers(2, 9, 30), generator.integers(0, 8, 45)
    found = auc(positive, negative)
    value, variance = slow_auc(positive, negative)
    assert found.value == pytest.approx(value, abs=1e-12)
    half = 1.959963984540054 * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    for end, sign in ((found.low, -1), (found.high, 1)):
        assert math.log(end / (1 - end)) == pytest.approx(logit + sign * half, abs=1e-9)


def test_auc_interval_covers_the_true_auc_in_most_simulations() -> None:
    generator, covered = np.random.default_rng(1), 0
    for _ in range(400):  # two normals 1.5 apart: AUC = Phi(1.5 / sqrt 2) = 0.8556
        found = auc(generator.normal(1.5, 1, 40), generator.normal(0, 1, 60))
        covered += found.low <= 0.85563 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_auc_without_a_pair_out_of_order_has_unknown_ends() -> None:
    found = auc([3, 4], [1, 2])
    assert found.value == 1 and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("positive, negative", [([1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, math.nan])])
def test_auc_of_too_few_or_nan_is_refused(positive: list[float], negative: list[float]) -> None:
    with pytest.raises(IntervalError, match="2 finite values a side"):
        auc(positive, negative)


def test_auc_within_counts_pairs_of_a_group_only() -> None:
    generator = np.random.default_rng(2)
    groups = generator.integers(0, 4, 40), generator.integers(0, 4, 60)
    # values grow with the group, so that pairs of other groups would count as ordered
    positive = 10 * groups[0] + generator.integers(0, 5, 40)
    negative = 10 * groups[1] + generator.integers(0, 4, 60)
    found, pairs = auc_within(positive, negative, *groups)
    parts = [(positive[groups[0] == g], negative[groups[1] == g]) for g in range(4)]
    weights = [len(p) * len(n) for p, n in parts]
    slow = [slow_auc(p, n) for p, n in parts]
    assert pairs == sum(weights)
    assert found.value == pytest.approx(np.average([v for v, _ in slow], weights=weights), abs=1e-12)
    variance = sum((w / pairs) ** 2 * v for w, (_, v) in zip(weights, slow, strict=True))
    half = 1.959963984540054 * math.sqrt(variance) / (found.value * (1 - found.value))
    assert math.log(found.high / (1 - found.high)) - math.log(found.value / (1 - found.value)) == pytest.approx(half)


def test_auc_within_groups_of_one_row_is_unknown() -> None:
    found, pairs = auc_within([1, 2], [1, 2], np.array([0, 1]), np.array([0, 1]))
    assert math.isnan(found.value) and pairs == 0


def test_mean_has_its_normal_interval() -> None:
    found = mean([1, 2, 3, 4])
    half = 1.959963984540054 * math.sqrt(5 / 3) / 2
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


def test_drawn_takes_each_member_once_and_repeats_with_its_seed() -> None:
    members = np.arange(5, 15)
    seen: list[NDArray[np.intp]] = []

    def largest(some: NDArray[np.intp]) -> float:
        seen.append(some)
        return float(some.max())

    found = [drawn(largest, members, 6, np.random.default_rng(3), draws=50) for _ in range(2)]
    assert found[0] == found[1]
    assert all(len(set(some.tolist())) == 6 and set(some.tolist()) <= set(members.tolist()) for some in seen)
    assert found[0].value == pytest.approx(np.mean([some.max() for some in seen[:50]]))
    assert found[0].low <= found[0].value <= found[0].high == 14
    assert isinstance(found[0], Interval)
    with pytest.raises(IntervalError, match="11 of 10"):
        drawn(largest, members, 11, np.random.default_rng(0))
