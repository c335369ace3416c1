"""Reliability, correlation, overlap against slow obvious loops, simulations with known answers, and refusals."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from experiments.pilot.pilot_statistics import bootstrap, correlation_for, expected_overlap, spearman_brown, split_half
from icon_repro.methods.agreement import (
    ReliabilityError,
    agreement,
    auc,
    columns_for,
    components,
    overlap,
    pearson,
    reliability,
    spearman,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def simulated(
    generator: np.random.Generator, c: int = 400, n: int = 100, true: float = 2.0, noise: float = 5.0
) -> np.ndarray:
    """(c, n) cells: row effects of variance ``true``, column effects of 9, cell noise of ``noise``."""
    rows, columns = true**0.5 * generator.standard_normal((c, 1)), 3 * generator.standard_normal((1, n))
    return 1 + rows + columns + noise**0.5 * generator.standard_normal((c, n))


def test_pearson_and_spearman_equal_scipys(generator: np.random.Generator) -> None:
    a = generator.integers(0, 8, 40).astype(float)  # with ties
    b = a + 3 * generator.standard_normal(40)
    assert pearson(a, b) == pytest.approx(scipy_stats.pearsonr(a, b).statistic, abs=1e-12)
    assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_sees_order_only() -> None:
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1e6]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, -1e9]) == pytest.approx(-1)
    assert np.isnan(spearman([1, 2, 3], [5, 5, 5]))


@pytest.mark.parametrize("a, b", [([1, 2], [1, 2, 3]), ([1], [1]), ([1, float("nan")], [1, 2]), ([1, 2], [1, np.inf])])
def test_pearson_what_cant_be_correlated_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ReliabilityError, match="2 finite values"):
        pearson(a, b)


def test_auc_equals_count_of_pairs_with_ties(generator: np.random.Generator) -> None:
    scores, positive = generator.integers(0, 6, 50), generator.random(50) < 0.3
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    expected = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)
    assert auc(scores, positive) == pytest.approx(expected, abs=1e-12)


def test_auc_one_kind_only_isnt_defined() -> None:
    assert np.isnan(auc([1, 2], [True, True])) and np.isnan(auc([1, 2], [False, False]))


@pytest.mark.parametrize("scores", [[1.0, 2.0, 3.0], [1.0, float("nan")]])
def test_auc_bad_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ReliabilityError, match="one finite score"):
        auc(scores, [True, False])


def test_overlap_is_share_of_the_smaller() -> None:
    assert overlap(["a", "b", "c"], ["c", "d", "a"]) == pytest.approx(2 / 3)
    assert overlap(["a"], ["a", "b", "c", "d"]) == 1
    assert overlap({"a", "b"}, ["c", "d"]) == 0
    with pytest.raises(ReliabilityError, match="empty"):
        overlap([], ["a"])


@pytest.mark.parametrize("correlation", [-0.4, 0.5, 0.95])
def test_expected_overlap_equals_simulation(correlation: float, generator: np.random.Generator) -> None:
    x, z = generator.standard_normal((2, 400_000))
    y = correlation * x + (1 - correlation**2) ** 0.5 * z
    cut_x, cut_y = np.quantile(x, 0.8), np.quantile(y, 0.8)
    assert expected_overlap(correlation, 0.2) == pytest.approx(((x > cut_x) & (y > cut_y)).mean() / 0.2, abs=0.01)


def test_expected_overlap_at_the_ends() -> None:
    assert expected_overlap(1, 0.15) == pytest.approx(1, abs=1e-6)
    assert expected_overlap(0, 0.15) == pytest.approx(0.15, abs=1e-12)
    assert expected_overlap(-1, 0.15) == pytest.approx(0, abs=1e-6)
    assert expected_overlap(1, 0.9) == pytest.approx(1, abs=1e-6)  # the cut lies below 0
    for correlation, share in ((1.1, 0.2), (0.5, 0), (0.5, 1), (float("nan"), 0.5)):
        with pytest.raises(ReliabilityError, match="must be in"):
            expected_overlap(correlation, share)


@pytest.mark.parametrize("correlation", [-0.9, -0.2, 0.0, 0.4, 0.83, 0.99])
def test_correlation_for_inverts_expected_overlap(correlation: float) -> None:
    assert correlation_for(expected_overlap(correlation, 0.15), 0.15) == pytest.approx(correlation, abs=0.005)


def test_bootstrap_of_a_mean_equals_the_normal_interval(generator: np.random.Generator) -> None:
    sample = generator.standard_normal(500)
    low, high = bootstrap(np.mean, [sample], generator, draws=4000)
    error = sample.std() / 500**0.5
    assert low == pytest.approx(sample.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(sample.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_resamples_units_together_and_repeats_with_the_seed() -> None:
    a = np.arange(30.0)

    def interval(seed: int) -> tuple[float, float]:
        return bootstrap(lambda x, y: (x * y).mean(), [a, a[::-1]], np.random.default_rng(seed), draws=50)

    assert interval(1) == interval(1) != interval(2)
    low, high = bootstrap(spearman, [a, -a], np.random.default_rng(0), draws=50)
    assert low == pytest.approx(-1) and high == pytest.approx(-1)
    with pytest.raises(ReliabilityError, match="equal numbers"):
        bootstrap(spearman, [a, a[1:]], np.random.default_rng(0))


def test_components_equal_anova_by_loops(generator: np.random.Generator) -> None:
    task = simulated(generator, c=7, n=5)
    c, n, grand = 7, 5, task.mean()
    rows = sum(n * (task[j].mean() - grand) ** 2 for j in range(c)) / (c - 1)
    rest = sum((task[j, i] - task[j].mean() - task[:, i].mean() + grand) ** 2 for j in range(c) for i in range(n)) / (
        (c - 1) * (n - 1)
    )
    assert components(task) == pytest.approx((max(0.0, (rows - rest) / n), rest), abs=1e-12)


def test_components_of_a_simulation_are_those_put_in(generator: np.random.Generator) -> None:
    true, noise = components(simulated(generator, c=4000, n=50))
    assert true == pytest.approx(2, rel=0.08) and noise == pytest.approx(5, rel=0.02)


def test_components_ignore_what_rows_share(generator: np.random.Generator) -> None:
    task = simulated(generator)
    assert components(task + 100 * generator.standard_normal(task.shape[1])) == pytest.approx(components(task))


@pytest.mark.parametrize("task", [np.zeros((1, 5)), np.zeros((5, 1)), np.full((3, 3), np.nan)])
def test_components_too_few_or_not_finite_are_refused(task: np.ndarray) -> None:
    with pytest.raises(ReliabilityError, match="2 x 2 finite"):
        components(task)


@pytest.mark.parametrize("columns", [5, 100, 400])
def test_reliability_is_correlation_with_a_new_set_of_columns(columns: int, generator: np.random.Generator) -> None:
    task = simulated(generator, c=4000)
    expected = 2 / (2 + 5 / columns)
    assert reliability(task, columns) == pytest.approx(expected, abs=0.02)
    means = 2**0.5 * generator.standard_normal(4000)
    first, second = (means + (5 / columns) ** 0.5 * generator.standard_normal(4000) for _ in range(2))
    assert reliability(task, columns) == pytest.approx(pearson(first, second), abs=0.05)


def test_reliability_of_nothing_but_noise_is_about_zero(generator: np.random.Generator) -> None:
    assert reliability(simulated(generator, true=0.0)) < 0.2
    assert reliability(np.ones((4, 4))) == 0
    with pytest.raises(ReliabilityError, match="columns=0"):
        reliability(simulated(generator), 0)


@pytest.mark.parametrize("target", [0.3, 0.8, 0.95])
def test_columns_for_is_the_least_number_that_reaches_the_target(target: float, generator: np.random.Generator) -> None:
    task = simulated(generator, n=20)
    needed = columns_for(task, target)
    assert needed is not None
    assert reliability(task, needed) >= target
    assert needed == 1 or reliability(task, needed - 1) < target


def test_columns_for_without_differences_is_none() -> None:
    cells = np.array([[1.0, -1.0], [-1.0, 1.0]])  # equal row means
    assert columns_for(cells, 0.5) is None
    for target in (0.0, 1.0):
        with pytest.raises(ReliabilityError, match="in \\(0, 1\\)"):
            columns_for(cells, target)


def test_spearman_brown_known_values() -> None:
    assert spearman_brown(0.5, 2) == pytest.approx(2 / 3)
    assert spearman_brown(2 / 3, 0.5) == pytest.approx(0.5)
    assert spearman_brown(0.3, 1) == pytest.approx(0.3)


def test_agreement_is_reliability_of_that_many_columns(generator: np.random.Generator) -> None:
    task = simulated(generator, c=2000)
    assert agreement(task, 10, generator, splits=50) == pytest.approx(2 / (2 + 5 / 10), abs=0.03)
    assert agreement(task, 10, generator, splits=50, other=-task) == pytest.approx(-2 / (2 + 5 / 10), abs=0.03)


def test_agreement_sets_share_no_column() -> None:
    task = np.eye(4)[:, :4]  # any two disjoint halves of the columns are the opposite of each other
    assert agreement(task, 2, np.random.default_rng(0), splits=20) == pytest.approx(-1)


def test_split_half_equals_generalizability(generator: np.random.Generator) -> None:
    task = simulated(generator, c=2000, n=31)  # an odd number of columns loses one
    assert split_half(task, generator, splits=50) == pytest.approx(reliability(task), abs=0.02)


def test_split_half_halves_that_disagree_stay_a_number_below_zero(generator: np.random.Generator) -> None:
    signs = np.where(np.arange(20) % 2, 1.0, -1.0)
    found = split_half(np.outer([1.0, 2.0, 3.0], signs) + 0.01 * generator.standard_normal((3, 20)), generator)
    assert -3 < found < 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda g: agreement(np.zeros((5, 6)), 4, g),
        lambda g: agreement(np.zeros((5, 6)), 0, g),
        lambda g: agreement(np.zeros((1, 6)), 2, g),
        lambda g: agreement(np.zeros((5, 6)), 2, g, other=np.zeros((5, 7))),
        lambda g: split_half(np.zeros((5, 1)), g),
    ],
)
def test_agreement_impossible_sets_are_refused(
    call: Callable[[np.random.Generator], float], generator: np.random.Generator
) -> None:
    with pytest.raises(ReliabilityError, match="disjoint sets"):
        call(generator)
