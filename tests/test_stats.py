"""Statistics of evaluation: closed forms, slow loops, and coverage and power in simulated experiments."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from icon_repro.report.estimates import Estimate, detectable
from icon_repro.report.statistics import (
    Items,
    Numbers,
    Sample,
    StatsError,
    TestVerdict,
    bootstrap,
    clustered,
    difference,
    holm,
    mean,
    verdict,
)

REPLICATIONS, BATCH = 5000, 250  # 0.3 points of standard error


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def sample(*values: Any, selections: list[int] | None = None, **more: Any) -> Sample:
    """Parts of equal weight with (runs, items) outcomes each."""
    arrays = [np.atleast_2d(np.asarray(v, np.float64)) for v in values]
    more = {"bounds": (0.0, 1.0), **more}
    parts = [Items(f"b{i}", array, weight=1 / len(arrays), **more) for i, array in enumerate(arrays)]
    return Sample(parts, selections or [0] * arrays[0].shape[-2])


# ---------------------------------------------------------------- closed forms and slow loops


def test_mean_of_one_run_has_the_t_interval_of_its_items(generator: np.random.Generator) -> None:
    values = generator.random(30)
    found = mean(sample(values))
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert found.interval() == pytest.approx(tuple(expected), abs=1e-9)
    assert found.seeds_freedom == 0


def test_difference_of_single_runs_is_the_paired_t_test(generator: np.random.Generator) -> None:
    one, two = generator.random(40), generator.random(40)
    found, expected = difference(sample(one), sample(two)), scipy_stats.ttest_rel(one, two)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-9)
    assert found.p_value() == pytest.approx(expected.pvalue, abs=1e-9)


def test_mean_over_benchmarks_adds_their_variances(generator: np.random.Generator) -> None:
    a, b = generator.random(50), 3 * generator.random(20)
    found = mean(sample(a, b))
    parts = [v.var(ddof=1) / v.size / 4 for v in (a, b)]
    assert found.value == pytest.approx((a.mean() + b.mean()) / 2)
    assert found.items == pytest.approx(sum(parts), rel=1e-9)
    assert found.items_freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 49 + parts[1] ** 2 / 19), rel=1e-9)


def test_mean_of_several_seeds_equals_slow_sums(generator: np.random.Generator) -> None:
    y = generator.random((3, 12)) + generator.random(12) + 2 * generator.random((3, 1))
    found, grand = mean(sample(y)), y.mean()
    rest = sum((y[r, i] - y[r].mean() - y[:, i].mean() + grand) ** 2 for r in range(3) for i in range(12)) / (2 * 11)
    seeds = sum((y[r].mean() - grand) ** 2 for r in range(3)) / 2 / 3
    assert found.items == pytest.approx(sum((y[:, i].mean() - grand) ** 2 for i in range(12)) / 11 / 12, rel=1e-9)
    assert seeds > rest / 36  # else it shows nothing
    assert found.seeds == pytest.approx(seeds - rest / 36, rel=1e-9)
    both = found.items + found.seeds
    freedom = both**2 / (found.items**2 / 11 + (found.seeds + 0.7 * rest / 36) ** 2 / 2)  # noise counts in the error
    assert found.half_width() == pytest.approx(scipy_stats.t.ppf(0.975, freedom) * math.sqrt(both), rel=1e-9)


def test_mean_where_only_seeds_differ_is_the_t_interval_of_the_seeds() -> None:
    runs = np.array([0.2, 0.5, 0.6])
    found = mean(sample(np.repeat(runs[:, None], 50, axis=1), bounds=None))
    expected = scipy_stats.ttest_1samp(runs, 0).confidence_interval(0.95)
    assert found.interval() == pytest.approx(tuple(expected), abs=1e-9)


def test_difference_where_only_seeds_differ_is_welchs_test() -> None:
    one, two = np.array([0.2, 0.5, 0.6]), np.array([0.9, 1.0, 1.3, 1.9])
    parts = [sample(np.repeat(runs[:, None], 50, axis=1), bounds=None) for runs in (one, two)]
    found, expected = difference(*parts), scipy_stats.ttest_ind(one, two, equal_var=False)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-9)
    assert found.p_value() == pytest.approx(expected.pvalue, abs=1e-9)


def test_mean_with_several_selections_takes_their_means_as_the_level(generator: np.random.Generator) -> None:
    y = generator.random((6, 40)) + np.repeat([0.0, 1.0, 3.0], 2)[:, None]
    found = mean(sample(y, selections=[7, 7, 8, 8, 9, 9]))
    same = mean(sample(y.reshape(3, 2, 40).mean(axis=1)))
    assert (found.value, found.items) == pytest.approx((same.value, same.items), rel=1e-12)
    assert (found.selections, found.selections_freedom) == pytest.approx((same.seeds, same.seeds_freedom), rel=1e-9)
    assert found.half_width() == pytest.approx(same.half_width(), rel=1e-9) and not found.limits
    assert found.half_width() > 1.5 * mean(sample(y)).half_width()  # six runs aren't six selections


def test_mean_of_unequal_numbers_of_runs_weighs_selections_equally() -> None:
    assert mean(sample([[0, 0], [0, 0], [1, 1]], selections=[0, 0, 1])).value == 0.5


def test_difference_of_paired_items_is_narrower_than_of_other_items(generator: np.random.Generator) -> None:
    hard = generator.random(400)
    one, two = ((hard + 0.1 * generator.standard_normal(400) > 0.5).astype(float) for _ in range(2))
    paired = difference(sample(one), sample(two))
    assert paired.items < 0.5 * (mean(sample(one)).items + mean(sample(two)).items)


def test_difference_to_a_single_seed_gives_it_the_others_variance() -> None:
    runs, single = np.array([0.2, 0.5, 0.6]), np.array([0.4])
    parts = [sample(np.repeat(values[:, None], 50, axis=1), bounds=None) for values in (runs, single)]
    found = difference(*parts)
    assert found.seeds == pytest.approx(runs.var(ddof=1) * (1 / 3 + 1), rel=1e-9) and found.seeds_freedom == 2
    swapped = difference(*parts[::-1])
    assert (swapped.seeds, swapped.value) == (found.seeds, -found.value)


def test_clusters_count_as_units(generator: np.random.Generator) -> None:
    groups = generator.random((8, 5)) + 2 * generator.random((8, 1))
    labels = np.repeat(np.arange(8), 5)
    found = mean(sample(groups.reshape(1, -1), clusters=labels))
    plain = mean(sample(groups.mean(axis=1)[None], bounds=None))
    assert (found.items, found.items_freedom) == (pytest.approx(plain.items, rel=1e-9), pytest.approx(7))
    assert found.items > 2 * mean(sample(groups.reshape(1, -1))).items
    alone = mean(sample(groups.reshape(1, -1), clusters=np.arange(40)))
    assert alone.items == pytest.approx(mean(sample(groups.reshape(1, -1))).items, rel=1e-9)


def test_clustered_is_the_same_mean_with_the_variance_between_groups(generator: np.random.Generator) -> None:
    parts = [generator.random((2, size)) + level for size, level in ((8, 0.0), (20, 1.0), (5, 3.0), (9, 0.5))]
    own = sample(*parts, bounds=None)
    found = mean(clustered(own, ["a", "b", "b", "c"]))
    assert found.value == pytest.approx(mean(own).value, rel=1e-12)
    means = np.array([part.mean() for part in parts])
    # a group of two of the four parts counts twice: deviations of the sums from what the weights give
    sums, shares = np.array([means[0], means[1] + means[2], means[3]]) / 4, np.array([0.25, 0.5, 0.25])
    expected = sum((sums - shares * means.mean()) ** 2) * 3 / 2
    assert found.items == pytest.approx(expected, rel=1e-9) and found.items_freedom == pytest.approx(2)
    with pytest.raises(StatsError, match="1 groups of parts"):
        clustered(own, ["a"] * 4)


def test_coverage_of_a_difference_by_benchmark_where_methods_differ_by_benchmark() -> None:
    generator, right, wrong = np.random.default_rng(7), [], []
    for _ in range(REPLICATIONS // BATCH):
        parts: list[list[Items]] = [[], []]
        for index in range(12):
            hard = generator.standard_normal((BATCH, 1, 100), np.float32)
            gain = 0.3 * generator.standard_normal((BATCH, 1, 1), np.float32)  # of one method on this benchmark
            for own, effect in zip(parts, (gain, np.zeros_like(gain)), strict=True):
                values = outcomes(generator, hard, effect, 0.0, 0.2, 0.0)
                own.append(Items(f"b{index}", values, weight=1 / 12))
        one, two = (Sample(own, [0]) for own in parts)
        for found, by in ((right, [clustered(own, range(12)) for own in (one, two)]), (wrong, [one, two])):
            made = difference(*by)
            found.append(np.abs(made.value) <= made.half_width())
    assert share(right) == pytest.approx(0.95, abs=0.015)
    assert share(wrong) < 0.9  # items alone say nothing of other benchmarks


def test_coverage_of_the_bootstrap_of_a_winning_score() -> None:
    generator, covered = np.random.default_rng(8), []
    for _ in range(1500):
        points = generator.choice([2.0, 1.0, 0.0], (1, 180), p=[0.45, 0.3, 0.25])
        low, high = bootstrap(sample(points, bounds=(0.0, 2.0)), generator, draws=1000)
        covered.append(np.array([low <= 1.2 <= high]))
    assert share(covered) == pytest.approx(0.95, abs=0.015)


def test_clusters_noise_of_cells_is_counted_by_cluster(generator: np.random.Generator) -> None:
    groups = generator.random((3, 8, 5)) + 2 * generator.random((3, 8, 1))
    found = mean(sample(groups.reshape(3, 40), clusters=np.repeat(np.arange(8), 5)))
    plain = mean(sample(groups.mean(axis=2), bounds=None))
    assert (found.items, found.seeds) == pytest.approx((plain.items, plain.seeds), rel=1e-9)


def test_summary_keeps_the_error_of_items_for_all_seeds() -> None:
    values, errors = np.array([0.4, 0.5, 0.9]), np.array([0.03, 0.04, 0.05])
    found = mean(Sample([Numbers("f1", values, errors)], [0, 0, 0]))
    assert found.value == pytest.approx(0.6)
    assert found.items == pytest.approx((0.0009 + 0.0016 + 0.0025) / 3, rel=1e-9)
    assert found.seeds == pytest.approx(values.var(ddof=1) / 3, rel=1e-9)
    one = Sample([Numbers("f1", np.array([0.4]), np.array([0.03]))], [0])
    assert difference(one, one).items == pytest.approx(2 * 0.0009, rel=1e-9)
    assert difference(one, one).half_width() == pytest.approx(1.959964 * 0.03 * 2**0.5, rel=1e-5)


def test_no_difference_on_few_items_isnt_certainty() -> None:
    same = sample([1, 0, 1, 1, 0, 1, 0, 1], [1] * 8, [0] * 8, [1] * 8)
    found = difference(same, same)
    assert found.value == 0 and found.p_value() == 1
    assert 0.05 < found.half_width() < 0.15  # three of 32 items may well differ
    assert mean(sample([1] * 8)).half_width() > 0.15
    many = sample([[1.0, 0.0] * 500])
    assert difference(many, many).half_width() < 0.005


def test_single_item_is_as_uncertain_as_it_can_be() -> None:
    assert mean(sample([1.0])).items == 0.25 and mean(sample([1.0])).interval() == (0.0, 1.0)
    assert mean(sample([1.0], bounds=None)).lacking == "b0: 1 item"


@pytest.mark.parametrize(
    "one, two, more",
    [
        ([0.1, 0.5], [0.4, 0.8], {}),  # one shift of two items
        ([0.1, 0.5], [0.4, 0.7], {}),
        ([0.1, 0.5, 0.2, 0.4], [0.4, 0.8, 0.5, 0.7], {}),  # one shift of all
        ([0.1, 0.5, 0.2, 0.4], [0.1, 0.5, 0.2, 0.4], {}),
        ([0.1, 0.5, 0.2, 0.4], [0.7, 0.9, 0.3, 0.6], {"clusters": np.zeros(4, np.int64)}),
        ([0.1, 0.5, 0.2, 0.4], [0.7, 0.9, 0.3, 0.6], {"clusters": np.array([0, 0, 1, 1])}),
        ([0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], {"clusters": np.zeros(4, np.int64), "bounds": (0.0, 1.0)}),
    ],
)
def test_degenerate_designs_are_not_enough(one: list[float], two: list[float], more: dict[str, Any]) -> None:
    found = difference(sample(one, **{"bounds": None, **more}), sample(two, **{"bounds": None, **more}))
    assert found.p_value() == 1 and math.isinf(found.half_width()) and math.isinf(found.detectable().value)


def test_shown_cell_has_both_ends_where_a_bound_cuts_one() -> None:
    assert mean(sample([[1.0] * 19 + [0.0]])).shown(100, 1) == "95.0 [84.5, 100.0]"
    assert mean(sample([[1.0, 0.0] * 50])).shown(100, 1) == "50.0 ± 10.0"
    assert mean(sample([[0.5, 0.5]], bounds=None)).shown(1, 2) == "0.50 (not enough)"


def test_shares_stay_within_their_bounds() -> None:
    low, high = mean(sample([[1.0] * 19 + [0.0]])).interval()
    assert 0.8 < low < 0.95 and high == 1.0
    assert mean(sample([[1.0] * 19 + [0.0]], bounds=None)).interval()[1] > 1
    low, high = difference(sample([1.0] * 4), sample([0.0] * 4)).interval()
    assert high == 1.0 and low < 1
    low, high = bootstrap(sample([[1.0] * 19 + [0.0]] * 2, selections=[0, 1]), np.random.default_rng(0))
    assert high <= 1


def test_p_value_is_where_the_interval_meets_zero() -> None:
    found = Estimate(0.1, 0.0004, 60, 0.0009, 2.5)
    low, _ = found.interval(1 - found.p_value())
    assert low == pytest.approx(0, abs=1e-9)
    assert Estimate(0.6, 0.0004, math.inf).p_value() == pytest.approx(2 * scipy_stats.norm.sf(30), rel=1e-3)
    assert Estimate(0.0, 0.0, 5).p_value() == 1 and Estimate(0.1, 0.0, 5).p_value() == 1  # of nothing known


def test_detectable_difference_without_seeds_is_the_textbooks() -> None:
    assert Estimate(0.0, 0.0004, math.inf).detectable().value == pytest.approx((1.959964 + 0.841621) * 0.02, rel=2e-4)
    wide, narrow = (Estimate(0.0, 0.0004, math.inf).detectable(alpha).value for alpha in (0.005, 0.05))
    assert wide > 1.1 * narrow


@pytest.mark.parametrize("freedom, runs", [(4.0, 5), (2.0, 3), (29.0, 30)])
def test_detectable_difference_of_few_degrees_of_freedom_is_the_noncentral_ts(freedom: float, runs: int) -> None:
    found = detectable([(1.0 / runs, freedom)])
    critical = scipy_stats.t.ppf(0.975, freedom)
    power = scipy_stats.nct.sf(critical, freedom, found * math.sqrt(runs))
    assert power == pytest.approx(0.8, abs=0.003)


# ---------------------------------------------------------------- groups, sizes, selections


def test_mean_by_sizes_is_the_ratio_of_sums_with_its_delta_method_variance(generator: np.random.Generator) -> None:
    sizes, values = generator.integers(1, 40, 300).astype(float), generator.random(300)
    found = mean(sample(values, sizes=sizes, bounds=None))
    ratio = (sizes * values).sum() / sizes.sum()
    assert found.value == pytest.approx(ratio, rel=1e-12)
    rest = sizes * (values - ratio)
    assert found.items == pytest.approx((rest**2).sum() / sizes.sum() ** 2, rel=0.02)
    assert mean(sample(values, sizes=np.full(300, 7.0))).items == pytest.approx(mean(sample(values)).items, rel=1e-9)
    halves = [bootstrap(sample(values, sizes=sizes), np.random.default_rng(0), draws=20000)[end] for end in (0, 1)]
    assert halves == pytest.approx(list(found.interval()), abs=0.06 * found.half_width())


def test_groups_of_unequal_size_have_fewer_degrees_of_freedom_than_equal_ones(generator: np.random.Generator) -> None:
    labels = {"equal": np.repeat(np.arange(12), 20), "unequal": np.repeat(np.arange(12), [100, 40, *[10] * 10])}
    means = {}
    for name, own in labels.items():
        values = generator.standard_normal(12)[own] + 0.1 * generator.standard_normal(240)
        means[name] = mean(sample(values, clusters=own, bounds=None))
    assert means["equal"].items_freedom == pytest.approx(11) and 2 < means["unequal"].items_freedom < 7


def test_one_selection_borrows_the_variance_between_selections_of_the_other_or_of_the_lender() -> None:
    levels = np.array([0.0, 1.0, 3.0, 4.0])
    several = Sample(
        [Items("b0", np.repeat(np.repeat(levels, 2)[:, None], 9, 1))], [0, 0, 1, 1, 2, 2, 3, 3], [5, 6] * 4
    )
    one, two = (Sample([Items("b0", np.full((2, 9), level))], [None, None], [5, 6]) for level in (1.0, 2.0))
    variance = levels.var(ddof=1)
    found = difference(one, several)
    assert found.selections == pytest.approx(variance * (1 + 1 / 4)) and found.selections_freedom == pytest.approx(3)
    expected = scipy_stats.t.ppf(0.975, 3) * math.sqrt(variance * 1.25)  # Crawford and Howell's one against several
    assert found.half_width() == pytest.approx(expected, rel=1e-6) and not found.limits
    assert difference(one, two, several).selections == pytest.approx(2 * variance)
    assert mean(one, several).selections == pytest.approx(variance)
    alone = difference(one, two)
    assert alone.limits == ("this selection",) and alone.selections_freedom == 0
    full = replace(two, selected=False)
    assert difference(several, full).selections == pytest.approx(variance / 4)


def test_selections_of_common_pools_are_paired(generator: np.random.Generator) -> None:
    pools = 5 * generator.standard_normal((5, 1))
    gains = 0.1 * generator.standard_normal((5, 1))
    runs = [np.repeat(own, 30, axis=1) for own in (pools + gains, pools)]
    one, two = (Sample([Items("b0", own)], list("abcde"), [0] * 5, pools=True) for own in runs)
    expected = scipy_stats.ttest_rel(runs[0][:, 0], runs[1][:, 0])
    assert difference(one, two).p_value() == pytest.approx(expected.pvalue, rel=1e-6)
    assert difference(replace(one, pools=False), two).half_width() > 10 * difference(one, two).half_width()


def test_methods_with_other_groups_or_sizes_are_refused() -> None:
    values = np.arange(4.0)
    for more in ({"clusters": np.array([0, 0, 1, 1])}, {"sizes": np.array([1.0, 2, 3, 4])}):
        with pytest.raises(StatsError, match=f"items have other {next(iter(more))}"):
            difference(sample(values, **more), sample(values))
    with pytest.raises(StatsError, match="a size of an item isn't above 0"):
        mean(sample(values, sizes=np.array([1.0, 0, 1, 1])))


# ---------------------------------------------------------------- Holm, verdicts


def test_holm_equals_statsmodels(generator: np.random.Generator) -> None:
    for size in (1, 2, 7, 20):
        p_values = [*(generator.random(size) ** 3), 0.01, 0.01]
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_holm_known_values() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    for bad in (float("nan"), -0.1, 1.1):
        with pytest.raises(StatsError, match="p value"):
            holm([0.5, bad])


@pytest.mark.parametrize(
    "value, adjusted, expected",
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "not distinguishable"), (0.0, 1, "not distinguishable")],
)
def test_verdict_of_a_difference(value: float, adjusted: float, expected: str) -> None:
    assert verdict(value, adjusted) is TestVerdict(expected)


# ---------------------------------------------------------------- simulated experiments


def outcomes(
    generator: np.random.Generator, hard: np.ndarray, effects: np.ndarray, own: float, flips: float, cut: float
) -> np.ndarray:
    """(B, runs, items) of 0 and 1: an item is solved if the sum of what it, the method, the seed and chance give is
    above ``cut``; all normal, the item's part (B, 1, items) with variance 1 and that of seeds (B, runs, 1) given.
    """
    batch, _, items = hard.shape
    method = own * generator.standard_normal((batch, 1, items), np.float32)
    chance = flips * generator.standard_normal((batch, effects.shape[1], items), np.float32)
    return (hard + method + effects + chance > cut).astype(np.float64)


def experiments(
    generator: np.random.Generator,
    runs: list[int],
    items: list[int],
    seed: float,
    own: float = 0.0,
    flips: float = 0.2,
    cuts: tuple[float, ...] = (0.0, 0.0),
    selections: float = 0.0,
) -> Iterator[list[Sample]]:
    """Batches of experiments; a method for each of ``runs``, all on the same items of each benchmark.

    Args:
        seed, own, flips: spread of seeds (common to all benchmarks), of methods on an item, of a single cell.
        selections: spread of selections, two runs each; 0: one selection.
    """
    for _ in range(REPLICATIONS // BATCH):
        effects = [seed * generator.standard_normal((BATCH, count, 1), np.float32) for count in runs]
        if selections:
            chosen = [selections * generator.standard_normal((BATCH, count // 2, 1), np.float32) for count in runs]
            effects = [e + np.repeat(c, 2, axis=1) for e, c in zip(effects, chosen, strict=True)]
        made: list[list[Items]] = [[] for _ in runs]
        for index, count in enumerate(items):
            hard = generator.standard_normal((BATCH, 1, count), np.float32)
            for parts, effect, cut in zip(made, effects, cuts, strict=False):
                values = outcomes(generator, hard, effect, own, flips, cut)
                parts.append(Items(f"b{index}", values, weight=1 / len(items)))
        labels = [[i // 2 if selections else 0 for i in range(count)] for count in runs]
        yield [Sample(parts, label) for parts, label in zip(made, labels, strict=True)]


def share(found: list[np.ndarray]) -> float:
    return float(np.mean(np.concatenate(found)))


@pytest.mark.parametrize(
    "runs, items, spread, cut",
    [
        (1, [200], 0.0, 0.8),
        (1, [60, 200], 0.0, -0.5),
        (3, [200, 200], 0.05, 0.0),
        (3, [400], 0.1, 0.3),
        (5, [200, 100], 0.1, 0.0),
    ],
)
def test_coverage_of_a_mean(runs: int, items: list[int], spread: float, cut: float) -> None:
    generator = np.random.default_rng(runs)
    truth = scipy_stats.norm.sf(cut / math.sqrt(1 + spread**2 + 0.2**2))
    covered = []
    for (one,) in experiments(generator, [runs], items, spread, cuts=(cut,)):
        low, high = mean(one).interval()
        covered.append(np.logical_and(low <= truth, truth <= high))
    assert share(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    "runs, items, spread, own",
    [
        ([1, 1], [200], 0.0, 0.3),
        ([1, 1], [100, 200], 0.0, 0.15),
        ([3, 3], [200, 200], 0.03, 0.3),
        ([3, 3], [200], 0.1, 0.1),
        ([3, 3], [400], 0.02, 0.0),
        ([5, 3], [200], 0.03, 0.3),
        ([5, 5], [200, 200], 0.05, 0.2),
    ],
)
def test_coverage_of_a_paired_difference(runs: list[int], items: list[int], spread: float, own: float) -> None:
    generator = np.random.default_rng(sum(runs))
    spread_of_all = math.sqrt(1 + spread**2 + own**2 + 0.2**2)
    cuts = (0.0, 0.2)
    truth = float(np.subtract(*scipy_stats.norm.sf(np.array(cuts) / spread_of_all)))
    covered = []
    for one, two in experiments(generator, runs, items, spread, own, cuts=cuts):
        low, high = difference(one, two).interval()
        covered.append(np.logical_and(low <= truth, truth <= high))
    assert share(covered) == pytest.approx(0.95, abs=0.02)


def test_coverage_with_several_selections_needs_their_level() -> None:
    generator = np.random.default_rng(4)
    right, wrong = [], []
    for one, two in experiments(generator, [10, 6], [200], 0.05, 0.2, selections=0.1):
        found = np.abs(difference(one, two).value)
        right.append(found <= difference(one, two).half_width())
        flat = [replace(own, selections=[0] * len(own.selections)) for own in (one, two)]
        wrong.append(found <= difference(*flat).half_width())
    assert share(right) == pytest.approx(0.95, abs=0.015)
    assert share(wrong) < 0.92


def test_coverage_without_the_level_of_seeds_is_far_too_low() -> None:
    covered = []
    for (one,) in experiments(np.random.default_rng(5), [3], [400], 0.1, cuts=(0.0,)):
        found = mean(one)
        covered.append(np.abs(found.value - 0.5) <= replace(found, seeds_freedom=0.0).half_width())
    assert share(covered) < 0.88


@pytest.mark.parametrize("runs, spread", [([1, 1], 0.0), ([5, 5], 0.05)])
def test_detectable_difference_is_found_in_four_of_five_experiments(runs: list[int], spread: float) -> None:
    generator = np.random.default_rng(6)
    pilot = next(experiments(generator, runs, [300], spread, 0.2))
    made = difference(*pilot)
    levels = [(float(np.mean(v)), float(np.median(np.broadcast_to(f, (BATCH,))))) for v, f in made.levels()]
    aimed = detectable(levels)
    all_spread = math.sqrt(1 + spread**2 + 2 * 0.2**2)
    cut = all_spread * scipy_stats.norm.isf(0.5 - aimed)
    found = []
    for one, two in experiments(generator, runs, [300], spread, 0.2, cuts=(0.0, cut)):
        made = difference(one, two)
        found.append(np.greater(made.value - made.half_width(), 0))
    assert share(found) == pytest.approx(0.8, abs=0.04)


# ---------------------------------------------------------------- bootstrap


def test_bootstrap_of_paired_prompts_equals_the_closed_form(generator: np.random.Generator) -> None:
    hard = generator.random(500)
    one, two = ((hard + 0.2 * generator.standard_normal(500) > 0.5).astype(float) for _ in range(2))
    a, b = sample(one[:300], one[300:]), sample(two[:300], two[300:])
    found, made = difference(a, b), bootstrap(a, generator, b, draws=20000)
    assert made == pytest.approx(found.interval(), abs=0.05 * found.half_width())
    assert bootstrap(a, generator, draws=20000) == pytest.approx(
        mean(a).interval(), abs=0.05 * mean(a).half_width()
    )  # fmt: skip


def test_bootstrap_draws_clusters_whole(generator: np.random.Generator) -> None:
    sizes = generator.integers(1, 9, 60)
    labels = np.repeat(np.arange(60), sizes)
    values = (generator.random(60)[labels] + 0.1 * generator.random(sizes.sum()))[None]
    clustered = sample(values, clusters=labels)
    low, high = bootstrap(clustered, generator, draws=20000)
    assert (high - low) / 2 == pytest.approx(mean(clustered).half_width(), rel=0.08)
    plain_low, plain_high = bootstrap(sample(values), generator, draws=4000)
    assert high - low > 1.5 * (plain_high - plain_low)


def test_bootstrap_of_few_seeds_is_as_wide_as_the_seeds_ask(generator: np.random.Generator) -> None:
    y = (generator.random((3, 300)) < np.array([0.3, 0.5, 0.6])[:, None]).astype(float)
    low, high = bootstrap(sample(y), generator, draws=40000)
    assert (high - low) / 2 == pytest.approx(mean(sample(y)).half_width(), rel=0.05)
    assert high - low > 0.5  # resampling the three runs gives 0.3 at most


def test_bootstrap_repeats_with_the_seed() -> None:
    one = sample(np.random.default_rng(0).random((2, 40)))
    first, again, other = (bootstrap(one, np.random.default_rng(seed), draws=200) for seed in (1, 1, 2))
    assert first == again != other


def test_bootstrap_of_a_summary_has_its_error(generator: np.random.Generator) -> None:
    low, high = bootstrap(Sample([Numbers("f1", np.array([0.5]), np.array([0.1]))], [0]), generator, draws=40000)
    assert (low, high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=0.01)


# ---------------------------------------------------------------- what is refused

GOOD = sample([[1.0, 0.0, 1.0]], [[0.5, 0.5]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outcomes_that_arent_finite_are_refused(bad: float) -> None:
    with pytest.raises(StatsError, match="b1: 1 outcomes aren't finite"):
        mean(sample([0.1, 0.2], [0.3, bad]))
    with pytest.raises(StatsError, match="aren't finite"):
        mean(Sample([Numbers("f1", np.array([0.5]), np.array([bad]))], [0]))


def test_no_outcomes_or_other_numbers_of_runs_are_refused() -> None:
    with pytest.raises(StatsError, match="no outcomes"):
        mean(Sample([], [0]))
    with pytest.raises(StatsError, match="needs at least one"):
        mean(sample(np.zeros((1, 0))))
    with pytest.raises(StatsError, match=r"shape \(2, 3\) for 1 runs"):
        mean(Sample([Items("b0", np.zeros((2, 3)))], [0]))
    with pytest.raises(StatsError, match="3 clusters for 2 items"):
        mean(sample([[1.0, 0.0]], clusters=np.arange(3)))


@pytest.mark.parametrize(
    "other, part",
    [
        (sample([[1.0, 0.0]], [[0.5, 0.5]]), r"b0: .*different items \(3 and 2\)"),
        (sample([[1.0, 0.0, 1.0]], [[0.5, 0.5]], ids="others"), "b0: .*different items"),
        (sample([[1.0, 0.0, 1.0]]), "same parts"),
        (Sample([Numbers("b0", np.zeros(1), np.zeros(1), 0.5), GOOD.parts[1]], [0]), "by item"),
    ],
)
def test_difference_of_other_items_is_refused(other: Sample, part: str) -> None:
    with pytest.raises(StatsError, match=part):
        difference(GOOD, other)


def _shifted(design: str, shift: float) -> tuple[Sample, Sample]:
    """Two methods whose outcomes differ by one number everywhere: what is left of their variance is rounding."""
    draw = np.random.default_rng(0)
    if design == "seeds":
        values = draw.normal(2, 1, (3, 50))
        return tuple(Sample([Items("n", values + by)], [0] * 3, [0, 1, 2]) for by in (shift, 0.0))  # type: ignore[return-value]
    if design == "groups":
        values, groups = draw.normal(2, 1, (3, 30)), np.arange(30) % 3
        return tuple(  # type: ignore[return-value]
            Sample([Items("n", values + by, clusters=groups)], [0] * 3, [0, 1, 2]) for by in (shift, 0.0)
        )
    if design == "selections":
        one = draw.normal(2, 1, 30)
        several = Sample([Items("n", np.stack([one] * 15))], [run // 3 for run in range(15)], [0, 1, 2] * 5)
        return Sample([Items("n", np.stack([one + shift] * 3))], [0] * 3, [0, 1, 2]), several
    values = draw.normal(2, 1, (10, 30))
    pools = [run // 2 for run in range(10)]
    return tuple(  # type: ignore[return-value]
        Sample([Items("n", values + by)], pools, [0, 1] * 5, pools=True) for by in (shift, 0.0)
    )


@pytest.mark.parametrize("shift", [0.1, 0.013, 3.0])
@pytest.mark.parametrize("design", ["seeds", "groups", "selections", "pools"])
def test_one_shift_of_all_outcomes_shows_nothing_of_how_they_vary(design: str, shift: float) -> None:
    found = difference(*_shifted(design, shift))
    assert found.value == pytest.approx(shift) and found.p_value() == 1.0 and found.half_width() == math.inf
