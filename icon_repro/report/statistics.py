"""Estimate means and differences over items, selections and training seeds, with their variances.

In: outcomes by run and item.  Out: ``Estimate``: a mean or a difference of two with the variance of each level.
Outcomes may have axes before those named (replications of a simulation); what comes out then has them too.

Three levels are samples. *Items* (prompts, rows), which all runs share; items of one group (``clusters``) are drawn
together, and a mean may weigh them by ``sizes`` (tokens): a ratio of sums. *Selections*: another draw of rows by the
same method. *Seeds* of training. The variance of each is read off its own means:
- items: e_u, what group u adds to the mean (of a difference: to the paired difference) beyond its share w_u of it.
  V_I = c sum of e_u^2 / (1 - w_u), which is unbiased for independent items (CR2); c makes it so for groups whose own
  means vary too, by the estimated share of that. Freedom by Satterthwaite's rule (Bell and McCaffrey), the geometric
  mean of that under this model and under independent items: the first alone covers up to 98 % where groups are of
  unequal size, as large ones move the mean and V_I together. Parts (benchmarks) are strata;
- selections: the variance B of a method's selection means over their number. A method with one selection borrows B of
  the other method if that has several, else of ``lender`` (random); nobody to borrow from: the estimate is about ``this
  selection``. Methods that select from the same ``pools`` are paired by pool;
- seeds: if both methods have the same seeds, of each seed's difference (the seed's own effect cancels), less what B
  holds of it already; else of each method's seeds by itself. One seed: the estimate is about ``this training seed``.
B and the seeds' variance hold the noise of single cells, which V_I holds too; it is taken out of them. Coverage, error
of families and detectable differences on the designs of our experiments: results/statistics/coverage.md.

Source: Bell and McCaffrey, Survey Methodology 28 (2002); Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 29 (2011),
for levels that cross; Crawford and Howell, Clin. Neuropsychologist 12 (1998), for one case against several; Welch,
Biometrika 34 (1947); Holm, Scand. J. Stat. 6 (1979).
Differs: Holm's correction is ours, tested against statsmodels; statsmodels and scipy.stats take seconds to import.
Known gap: that a method's selections vary as those of random is assumed, and can't be seen in one selection.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np

from icon_repro.report.estimates import ALPHA, LEVEL, Estimate, Level
from icon_repro.report.levels import Runs, Table, layout, units_freedom
from icon_repro.report.outcomes import (
    Items,
    Numbers,
    Sample,
    StatsError,
    Values,
    bounds_of,
    check,
    check_same,
    shares_of,
    summed,
)

# of the noise in a variance, what counts in its error; 1 covers 98 % where noise is all, 0 less than 94 % elsewhere
_NOISE = 0.7
_FEW = 3  # fewer items (groups) without bounds say nothing: two that agree by chance would be certainty


def mean(sample: Sample, lender: Sample | None = None) -> Estimate:
    """The weighted sum of the parts' means over items and runs: over the runs of each selection, then over selections.

    Args:
        lender: a sample with several selections (random), whose variance between selections one with a single
            selection gets.

    Raises:
        StatsError: a value that isn't finite, no value, or parts with different numbers of runs.
    """
    return _estimate([sample], lender, bounds_of(sample))


def difference(sample: Sample, other: Sample, lender: Sample | None = None) -> Estimate:
    """The mean of ``sample`` less that of ``other``, paired by item, and by training seed where both have the same.

    Args:
        lender: see ``mean``; asked where neither of the two has several selections.

    Raises:
        StatsError: other parts or items, or what ``mean`` refuses.
    """
    names, theirs = ([part.name for part in one.parts] for one in (sample, other))
    if names != theirs:
        raise StatsError(f"a difference needs the same parts: {names} and {theirs}.")
    for one, two in zip(sample.parts, other.parts, strict=True):
        check_same(one, two)
    ends = bounds_of(sample)
    return _estimate([sample, other], lender, None if ends is None else (ends[0] - ends[1], ends[1] - ends[0]))


def bootstrap(
    sample: Sample,
    generator: np.random.Generator,
    other: Sample | None = None,
    draws: int = 4000,
    lender: Sample | None = None,
) -> tuple[float, float]:
    """95 % percentile interval of ``mean`` (of ``difference`` with ``other``): items resampled within each part.

    The same items are drawn for all runs and both samples, clusters whole. The levels of selections and seeds add draws
    of a t with their variance and freedom: resampling a few would give too little. For outcomes of which nearly all are
    equal, and for fewer than some 30 clusters, ``mean`` is the better one: a resample of equal outcomes has no width.

    Raises:
        StatsError: see ``mean``.
    """
    estimate = mean(sample, lender) if other is None else difference(sample, other, lender)
    total = np.zeros(draws)
    for place, part in enumerate(sample.parts):
        by_item = _by_item(sample, place) - (0.0 if other is None else _by_item(other, place))
        if isinstance(part, Numbers):
            errors = [s.parts[place] for s in (sample, other) if s is not None]
            known = math.sqrt(sum(error.squared_error for error in errors if isinstance(error, Numbers)))
            total += part.weight * (float(by_item) + known * generator.standard_normal(draws))
            continue
        sizes = np.ones(by_item.shape[-1]) if part.sizes is None else part.sizes
        sums, counts = summed(by_item * sizes, part), summed(sizes, part)
        units, same = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)  # equal ones are drawn together
        step = max(1, 4_000_000 // len(same))
        for start in range(0, draws, step):
            drawn = generator.multinomial(len(sums), same / len(sums), size=min(step, draws - start))
            total[start : start + step] += part.weight * (drawn @ units[0]) / (drawn @ units[1])
    others = estimate.levels()[1:]
    if spread := sum(variance for variance, _ in others):
        error = sum(variance**2 / freedom for variance, freedom in others)
        freedom = max(2.0, spread**2 / error) if error > 0 else 1e9
        total += math.sqrt(spread) * generator.standard_t(freedom, size=draws)
    low, high = np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if estimate.bounds is not None:
        low, high = (np.clip(end, *estimate.bounds) for end in (low, high))
    return float(low), float(high)


def clustered(sample: Sample, groups: Sequence[Hashable]) -> Sample:
    """``sample`` with the parts of each group as one unit that is drawn whole: groups are a sample, not strata.

    Its means and differences are those of ``sample``; their variance is that between groups (benchmarks, tasks of one),
    so it is about other groups too, not about other items of these alone.

    Args:
        groups: the group of each part; at least two different ones.

    Raises:
        StatsError: see ``mean``; one group, of which nothing can be said.
    """
    labels = list(dict.fromkeys(groups))
    if len(labels) < 2:
        raise StatsError(f"{len(labels)} groups of parts: at least two are needed to see how they differ.")
    check(sample)
    weights, sums = dict.fromkeys(labels, 0.0), dict[Hashable, Any](dict.fromkeys(labels, 0.0))
    for part, label in zip(sample.parts, groups, strict=True):
        weights[label] += part.weight
        means = part.values
        if isinstance(part, Items):
            means = np.average(part.values, axis=-1, weights=part.sizes)
        sums[label] = sums[label] + part.weight * means
    value: Any = sum(sums.values())
    # a group's own part of the whole, linear in the outcomes so that differences stay paired; the units' mean is value
    units = [value + len(labels) * (sums[k] - weights[k] / sum(weights.values()) * value) for k in labels]
    return replace(sample, parts=[Items("groups", np.stack(units, axis=-1))])


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests, adjusted such that the chance of any false finding stays below a level (Holm).

    Raises:
        StatsError: one outside [0, 1].
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise StatsError(f"p value {bad[0]}: must be in [0, 1].")
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = least
    return adjusted


class TestVerdict(Enum):
    better = "better"
    worse = "worse"
    undecided = "not distinguishable"
    lacking = "not enough"


def verdict(difference: float, adjusted: float, alpha: float = ALPHA) -> TestVerdict:
    """What a difference (higher is better) with an adjusted p value says."""
    if adjusted >= alpha:
        return TestVerdict.undecided
    return TestVerdict.better if difference > 0 else TestVerdict.worse


def _estimate(samples: Sequence[Sample], lender: Sample | None, bounds: tuple[float, float] | None) -> Estimate:
    """Of one sample, or of the difference of two."""
    arms = _by_pool(samples, [_arm(sample) for sample in samples])
    lenders = [] if lender is None or any(lender is sample for sample in samples) else [_arm(lender)]
    centers = [arm.center() for arm in arms]
    center = centers[0] if len(arms) == 1 else centers[0].less(centers[1])
    items, items_freedom, lacking = _items(samples, center)
    borrowed, limits = _borrowed(arms, lenders)
    sources: dict[int, tuple[Runs, float]] = {}
    for arm, source in zip(arms, borrowed, strict=True):
        if source is not None:
            before = sources.get(id(source), (source, 0.0))[1]
            sources[id(source)] = (source, before + 1 / (arm.selections if source is arm else 1))
    variances = [
        (*(share * variance for variance in arm.between()[:2]), arm.selections - 1.0) for arm, share in sources.values()
    ]
    selections, selections_freedom = _purged(variances, 0.0) if variances else (0.0, 0.0)
    seeds, seeds_freedom, more = _seeds(arms, borrowed, lenders)
    value: Any = center.totals[..., 0]
    size = sum(part.weight * np.abs(part.values).mean() for part in samples[0].parts)
    levels = ((items, items_freedom), (seeds, seeds_freedom), (selections, selections_freedom))
    # what is left of equal outcomes is rounding, at each level
    of_levels = [n for level, freedom in levels for n in (np.where(level > (1e-10 * size) ** 2, level, 0.0), freedom)]
    numbers: list[Any] = [np.asarray(number)[()] for number in (value, *of_levels)]  # of one experiment, numbers
    return replace(Estimate(*numbers), bounds=bounds, lacking=lacking, limits=(*limits, *more))


def _by_pool(samples: Sequence[Sample], arms: list[Runs]) -> list[Runs]:
    """``arms``, or, of two methods that selected from the same pools, one: their differences by pool (and seed)."""
    labels = [list(dict.fromkeys(sample.selections)) for sample in samples]
    if len(arms) < 2 or not all(sample.pools for sample in samples) or set(labels[0]) != set(labels[1]):
        return arms
    crossed = all(arm.by_seed is not None for arm in arms) and arms[0].seeds == arms[1].seeds
    tables, cells = list[Table](), list[tuple[Hashable, Hashable]]()
    for sample, arm in zip(samples, arms, strict=True):
        seeds = sample.seeds if crossed and sample.seeds is not None else [None] * len(sample.selections)
        keys = list(zip(sample.selections, seeds, strict=True))
        cells = sorted(set(keys), key=str)
        tables.append(arm.table.mean([[run for run, key in enumerate(keys) if key == cell] for cell in cells]))
    both = [seed for _, seed in cells] if crossed else None
    return [layout(tables[0].less(tables[1]), [pool for pool, _ in cells], both, selected=True, trained=True)]


def _borrowed(arms: Sequence[Runs], lenders: Sequence[Runs]) -> tuple[list[Runs | None], list[str]]:
    """Whose variance between selections each method gets (its own, if it has several), and what that limits."""
    several = [arm for arm in (*arms, *lenders) if arm.selections > 1]
    lent_by: list[Runs | None] = []
    for arm in arms:
        lender = arm if arm.selections > 1 else several[0] if several else None
        lent_by.append(lender if arm.selected else None)
    alone = any(arm.selected and source is None for arm, source in zip(arms, lent_by, strict=True))
    return lent_by, ["this selection"] if alone else []


def _seeds(
    arms: Sequence[Runs], borrowed: Sequence[Runs | None], lenders: Sequence[Runs]
) -> tuple[Any, Any, list[str]]:
    """Variance from training seeds beyond what ``borrowed`` holds of it, its freedom, and what that limits."""
    held: Any = 0.0
    for arm, source in zip(arms, borrowed, strict=True):
        if source is not None and arm.trained:
            held = held + source.within() / (arm.selections if source is arm else 1)
    trained = [arm for arm in arms if arm.trained]
    if all(len(arm.seeds) == 1 for arm in trained) and any(arm.by_seed is not None for arm in trained):
        return 0.0, 0.0, ["this training seed"]
    shared = [arm.seeds for arm in trained if arm.by_seed is not None]
    if len(trained) == len(shared) == 2 and shared[0] == shared[1]:
        one, two = (arm.table.mean(arm.by_seed) for arm in trained if arm.by_seed is not None)
        count = len(shared[0])
        clean, seen = one.less(two).spread()
        return *_purged([(clean / count, seen / count, count - 1.0)], held), []
    by_source: dict[int, tuple[Any, float]] = {}  # source -> its variances and freedom, how often they count
    limits = []
    for arm in trained:
        source, share, residual = arm, 1 / arm.table.rows(), arm.residual()
        if arm.selections > 1:
            if arm.by_seed is None or len(arm.by_seed) < 2:
                continue  # each selection has seeds of its own: ``between`` has them
            means = arm.table.mean(arm.by_seed)
            share, residual = 1 / means.rows(), (*means.spread(), means.rows() - 1.0)
        elif not residual[2]:  # a single run varies as another's runs of one selection do
            known = [one for one in (*trained, *lenders) if one.residual()[2]]
            if not known:
                limits.append("this training seed")
                continue
            source, share, residual = known[0], 1.0, known[0].residual()
        by_source[id(source)] = (residual, share + by_source.get(id(source), (residual, 0.0))[1])
    if not by_source:
        return 0.0, 0.0, list(dict.fromkeys(limits))
    levels = [(share * clean, share * seen, freedom) for (clean, seen, freedom), share in by_source.values()]
    return *_purged(levels, held), list(dict.fromkeys(limits))


def _items(samples: Sequence[Sample], center: Table) -> tuple[Any, Any, str]:
    """Variance from items (clusters) of a mean with the units of ``center``, its freedom, and why it can't be known.

    Outcomes with bounds never have less than if two items, shared among the parts, lay at its two ends: that nothing
    differed on a few items doesn't say that nothing ever does.
    """
    weights, other = sum(part.weight for part in samples[0].parts), len(samples) > 1
    of_parts, lacking, start = list[Level](), "", 0
    for place, part in enumerate(samples[0].parts):
        if isinstance(part, Numbers):
            errors = [one for sample in samples if isinstance(one := sample.parts[place], Numbers)]
            of_parts.append((part.weight**2 * sum(one.squared_error for one in errors), math.inf))
            continue
        items = shares_of(part)
        shares = summed(items, part)
        units = center.units[..., 0, start : start + len(shares)]
        start += len(shares)
        span = math.inf if part.bounds is None else len(samples) * (part.bounds[1] - part.bounds[0])
        if len(shares) < _FEW and (math.isinf(span) or part.clusters is not None):
            kind = "group" if part.clusters is not None else "item"
            lacking = f"{part.name}: {len(shares)} {kind}{'s' if len(shares) > 1 else ''}"
        if len(shares) == 1:
            span = 2 * np.abs(part.values).max() if math.isinf(span) else span
            of_parts.append(((part.weight * span / 2) ** 2, 1.0))  # the largest that outcomes in the span can have
            continue
        squares = (units**2 / (1 - shares)).sum(axis=-1)
        by_item: Any = None
        if part.clusters is not None:
            by_item = part.weight * (_by_item(samples[0], place) - (_by_item(samples[1], place) if other else 0.0))
        variances, independent = _variances(part, items, shares, by_item, squares)
        _, factor, freedom = units_freedom(shares, variances)
        freedom = np.sqrt(freedom * units_freedom(shares, independent)[2])
        squares = factor * squares
        if not math.isinf(span):
            least = part.weight**3 / weights * span**2 / 2 * (items**2).mean() * len(shares) / (len(shares) - 1)
            squares = np.maximum(squares, least)
        of_parts.append((squares, freedom))
    return *_welch(of_parts), lacking


def _variances(part: Items, items: Values, shares: Values, by_item: Any, squares: Any) -> tuple[Values, Values]:
    """Variances of the units' means, up to a factor: of items alone equal; of clusters the sum of what the cluster and
    what its items bring, both estimated; and of clusters whose items are independent.

    Args:
        items, shares: (items,), (units,) shares in the mean.
        by_item: (..., items) outcomes, or differences of two methods'.
        squares: (...) the sum of squares of units.
    """
    if by_item is None or part.clusters is None:
        return np.ones(len(shares)), np.ones(len(shares))
    counts = summed(np.ones(len(items)), part)
    means = summed(by_item * items, part) / shares
    rest = ((items * (by_item - means[..., part.clusters])) ** 2).sum(axis=-1)
    ones = np.ones_like(shares)
    of_mean = summed(items**2, part) / shares**2  # of a unit's mean, for items of variance 1
    free = (summed(items**2, part) * (1 - 1 / counts)).sum()
    of_items = np.asarray(rest / free if free > 0 else 0 * rest)
    of_units = np.maximum(0.0, squares - of_items * units_freedom(shares, of_mean)[0]) / units_freedom(shares, ones)[0]
    variances = np.asarray(of_units)[..., None] + of_items[..., None] * of_mean
    return np.where(variances.sum(axis=-1, keepdims=True) > 0, variances, 1.0), of_mean


def _arm(sample: Sample) -> Runs:
    """``sample`` checked, as a table of its runs."""
    check(sample)
    totals: Any = 0.0
    units, scale = list[Any](), list[Any]()
    for part in sample.parts:
        if isinstance(part, Numbers):
            totals = totals + part.weight * part.values
            continue
        items = shares_of(part)
        shares = summed(items, part)
        sums = summed(part.values * items, part)
        means = sums.sum(axis=-1, keepdims=True)
        totals = totals + part.weight * means[..., 0]
        units.append(part.weight * (sums - shares * means))
        scale.append(1 / (1 - shares) if len(shares) > 1 else np.zeros(1))
    by_unit = np.concatenate(units, axis=-1) if units else np.zeros((*totals.shape, 0))
    table = Table(totals, by_unit, np.concatenate(scale) if scale else np.zeros(0))
    return layout(table, sample.selections, sample.seeds, selected=sample.selected, trained=sample.trained)


def _by_item(sample: Sample, place: int) -> Any:
    """A part's mean over runs, by selection first, of each item (of the part, if it has no items)."""
    part = sample.parts[place]
    axis = -2 if isinstance(part, Items) else -1
    labels = list(dict.fromkeys(sample.selections))
    groups = [[run for run, own in enumerate(sample.selections) if own == label] for label in labels]
    return np.mean([part.values.take(group, axis=axis).mean(axis=axis) for group in groups], axis=0)


def _purged(parts: Sequence[tuple[Any, Any, float]], held: Any) -> tuple[Any, Any]:
    """The sum of variances less what is ``held`` elsewhere, and its degrees of freedom.

    They are as few as make the sum's error that of the variances before anything was taken out of them: where little
    is left, little is known.

    Args:
        parts: each without and with the noise of cells, and the freedom of the latter.
    """
    clean: Any = sum(clean for clean, _, _ in parts)
    seen: Any = sum(seen for _, seen, _ in parts)
    left = np.maximum(1e-6 * seen, clean - held)
    # of the error of what was seen: the part that noise and what is left make of it
    share = (left + _NOISE * (seen - clean)) / np.where(seen > 0, seen, 1.0)
    error = share**2 * sum(one**2 / freedom for _, one, freedom in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return left, np.where(error > 0, np.divide(left**2, error), math.inf)


def _welch(parts: Sequence[Level]) -> tuple[Any, Any]:
    """The sum of independent variances, none below 0, and its degrees of freedom after Welch and Satterthwaite."""
    known = [(np.maximum(0.0, variance), freedom) for variance, freedom in parts]
    total: Any = sum(variance for variance, _ in known)
    below = sum(variance**2 / freedom for variance, freedom in known)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total, np.where(below > 0, np.divide(total**2, below), math.inf)
