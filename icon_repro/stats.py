"""Statistics of evaluation: intervals, tests and detectable differences of means over items and seeds.

In: outcomes by run and item.  Out: ``Estimate``: a mean or a difference of two with its two kinds of variance.
Outcomes may have axes before those named (replications of a simulation); what comes out then has them too.

Both levels are samples: the items of a benchmark (prompts of a set), which all runs share, and the seeds. The
variance of a mean has a part from items, V_I, read off the items' means over the runs, and one from seeds, V_S, read
off the runs' means. Both hold the noise of single cells, V_E; it is taken out of V_S: max(0, V_S - V_E). Benchmarks are
strata. A 95 % interval is the value +- t sqrt(V_I + V_S), where t is the mean of both parts' t quantiles, each with its
own degrees of freedom, weighted by V_I and V_S (Cochran). With 3 seeds t_S is 4.3, and it is needed: in simulations of
3 seeds V_I alone covered 35 to 91 %, Satterthwaite's one t for the sum 92 % (2 seeds: 87 %), and a bootstrap of 3 seeds
sees ten different samples. Coverage of this interval over all shares of V_I, V_S and V_E, jointly normal: 94.4 to
96.8 % for a mean of 3 seeds, 93.1 to 96.6 % for a difference of 3 and 3, 93.8 to 96.3 % of 5 and 5.
A difference is paired by item: V_I is that of the items' differences. Seeds of two methods aren't paired: their
selections have nothing in common. With several selection seeds the runs of each are averaged first, and these means
are the level of seeds.

Source: Cochran, Approximate significance levels of the Behrens-Fisher test, Biometrics 20 (1964); Welch, Biometrika 34
(1947), for the degrees of freedom of a sum; Holm, Scand. J. Stat. 6 (1979).
Known gap: with 2 seeds intervals are very wide and cover 91 to 98 %. Holm's correction is ours, tested against
statsmodels, and only scipy.special is used: statsmodels and scipy.stats take seconds to import.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Values = NDArray[np.float64]
LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8


class StatsError(ValueError):
    """Outcomes that can't be compared: not finite, too few, or of different items."""


@dataclass(frozen=True, eq=False)
class Items:
    """Outcomes on one set of items: a benchmark, a subtask of one, a set of prompts."""

    name: str
    values: Values  # (runs, items)
    ids: str = ""  # what the items are: equal for the same items in the same order only
    weight: float = 1.0  # of this mean in the estimate
    span: float = 1.0  # largest distance of two outcomes; math.inf if there is none
    clusters: NDArray[np.int64] | None = (
        None  # (items,) 0..K-1: items of one number are drawn together; None: each alone
    )


@dataclass(frozen=True, eq=False)
class Summary:
    """A number of each run that is no mean over items, with its standard error; never paired."""

    name: str
    values: Values  # (runs,)
    errors: Values  # (runs,)
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """One method's results: every run on the same parts."""

    parts: Sequence[Items | Summary]
    selections: Sequence[Hashable]  # (runs,) the selection that each run was trained on


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, and how well it is known."""

    value: float
    items: float  # variance from items
    items_freedom: float
    seeds: float = 0.0  # variance from seeds, beyond what items bring
    seeds_freedom: float = 0.0  # 0: one seed, so that nothing is known of seeds

    def half_width(self, level: float = LEVEL) -> float:
        """Half of the interval that covers with probability ``level``."""
        return self._joined((1 + level) / 2)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        half = self.half_width(level)
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Two-sided, of the true value being 0: where the interval's end meets it; to 1e-9 of its size."""
        if self.value == 0 or self.items + self.seeds == 0:
            return 1.0 if self.value == 0 else 0.0
        low, high = -300.0, 0.0  # log10 of p
        while high - low > 1e-10:
            middle = (low + high) / 2
            if self._joined(1 - 10**middle / 2, 10**middle / 2) > abs(self.value):
                low = middle
            else:
                high = middle
        return float(10**high)

    def detectable(self, alpha: float = ALPHA, power: float = POWER) -> float:
        """The true difference that a two-sided test at ``alpha`` finds with probability ``power`` (above 0.5)."""
        return self._joined(1 - alpha / 2) + self._joined(power)

    def _joined(self, quantile: float, below: float | None = None) -> float:
        """The joint error times the parts' t quantiles; ``below`` = 1 - quantile, exact where that is tiny."""
        tail = 1 - quantile if below is None else below
        total = -stdtrit(self.items_freedom, tail) * self.items
        variance = self.items
        if np.all(self.seeds_freedom):
            total = total - stdtrit(self.seeds_freedom, tail) * self.seeds
            variance = variance + self.seeds
        return total / np.sqrt(np.where(variance > 0, variance, 1.0))


def mean(sample: Sample) -> Estimate:
    """The weighted sum of the parts' means over runs and items.

    Raises:
        StatsError: a value that isn't finite, no value, or parts with different numbers of runs.
    """
    own = _by_selection(sample)
    return _estimate([_combined(part) for part in own.parts], *_seeds(own))


def difference(sample: Sample, other: Sample) -> Estimate:
    """The mean of ``sample`` less that of ``other``, paired by item.

    If one of them has a single seed, its variance from seeds is taken to be that of the other's seeds.

    Raises:
        StatsError: other parts or items, or what ``mean`` refuses.
    """
    one, two = _by_selection(sample), _by_selection(other)
    if [part.name for part in one.parts] != [part.name for part in two.parts]:
        raise StatsError(
            f"a difference needs the same parts: {[p.name for p in one.parts]} and {[p.name for p in two.parts]}."
        )
    pairs = [_paired(a, b) for a, b in zip(one.parts, two.parts, strict=True)]
    counts = [len(own.selections) for own in (one, two)]
    found = [_seeds(own) for own in (one, two) if len(own.selections) > 1]
    if not found:
        return _estimate(pairs)
    spread, freedom = _welch([(spread, freedom) for spread, _, freedom in found])
    noise = sum(noise for _, noise, _ in found)
    if len(found) == 1:  # the variance of one seed is that of the mean of ``counts`` seeds times ``counts``
        spread, noise = spread * (1 + max(counts)), noise * (1 + max(counts))
    return _estimate(pairs, spread, noise, freedom)


def bootstrap(
    sample: Sample, generator: np.random.Generator, other: Sample | None = None, draws: int = 4000
) -> tuple[float, float]:
    """95 % percentile interval of ``mean`` (of ``difference`` with ``other``): items resampled within each part.

    The same items are drawn for all runs and both samples, clusters whole. The seeds' level adds draws of a t with the
    seeds' variance and freedom: resampling a few seeds would give too little. For outcomes of which nearly all are
    equal ``mean`` is the better one: a resample of equal outcomes has no width.

    Raises:
        StatsError: see ``mean``.
    """
    found = mean(sample) if other is None else difference(sample, other)
    own = _by_selection(sample)
    if other is None:
        parts = [_combined(part) for part in own.parts]
    else:
        parts = [_paired(a, b) for a, b in zip(own.parts, _by_selection(other).parts, strict=True)]
    total = np.zeros(draws)
    for part in parts:
        if isinstance(part, Summary):
            total += part.weight * (part.values[0] + part.errors[0] * generator.standard_normal(draws))
            continue
        sums, sizes = _clustered(part.values[0], part), _clustered(np.ones(part.values.shape[-1]), part)
        units, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)  # equal ones are drawn together
        step = max(1, 4_000_000 // len(counts))
        for start in range(0, draws, step):
            drawn = generator.multinomial(len(sums), counts / len(sums), size=min(step, draws - start))
            total[start : start + step] += part.weight * (drawn @ units[0]) / (drawn @ units[1])
    if found.seeds_freedom:
        total += math.sqrt(found.seeds) * generator.standard_t(found.seeds_freedom, size=draws)
    low, high = np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
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
    _by_selection(sample)  # checks
    weights, sums = dict.fromkeys(labels, 0.0), dict[Hashable, Any](dict.fromkeys(labels, 0.0))
    for part, label in zip(sample.parts, groups, strict=True):
        weights[label] += part.weight
        sums[label] = sums[label] + part.weight * (
            part.values.mean(axis=-1) if isinstance(part, Items) else part.values
        )
    value: Any = sum(sums.values())
    # a group's own part of the whole, linear in the outcomes so that differences stay paired; the units' mean is value
    units = [value + len(labels) * (sums[k] - weights[k] / sum(weights.values()) * value) for k in labels]
    return Sample([Items("groups", np.stack(units, axis=-1), span=math.inf)], sample.selections)


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


class Verdict(Enum):
    better = "better"
    worse = "worse"
    undecided = "not distinguishable"


def verdict(difference: float, adjusted: float, alpha: float = ALPHA) -> Verdict:
    """What a difference (higher is better) with an adjusted p value says."""
    if adjusted >= alpha:
        return Verdict.undecided
    return Verdict.better if difference > 0 else Verdict.worse


def _by_selection(sample: Sample) -> Sample:
    """``sample`` checked, with the runs of each selection averaged if there are several selections."""
    if not sample.parts or not sample.selections:
        raise StatsError("no outcomes: at least one part and one run are needed.")
    for part in sample.parts:
        runs, shape = len(sample.selections), part.values.shape
        if shape[(axis := _axis(part)) :][:1] != (runs,) or not part.values.size:
            raise StatsError(f"{part.name}: outcomes of shape {shape} for {runs} runs; each needs at least one.")
        if bad := sum(int((~np.isfinite(array)).sum()) for array in _arrays(part)):
            raise StatsError(f"{part.name}: {bad} outcomes aren't finite. Evaluate again, or leave the benchmark out.")
        if isinstance(part, Items) and part.clusters is not None and part.clusters.shape != shape[axis + 1 :]:
            raise StatsError(f"{part.name}: {part.clusters.size} clusters for {shape[-1]} items.")
    labels = list(dict.fromkeys(sample.selections))
    if len(labels) == 1:
        return sample
    groups = [[i for i, own in enumerate(sample.selections) if own == label] for label in labels]

    parts: list[Items | Summary] = []
    for part in sample.parts:
        taken = [[np.take(array, group, axis=_axis(part)) for array in _arrays(part)] for group in groups]
        means = [_combined(_with(part, arrays)) for arrays in taken]
        joined = [np.concatenate(arrays, axis=_axis(part)) for arrays in zip(*map(_arrays, means), strict=True)]
        parts.append(_with(part, joined))
    return Sample(parts, labels)


def _axis(part: Items | Summary) -> int:
    """The axis of runs."""
    return -2 if isinstance(part, Items) else -1


def _arrays(part: Items | Summary) -> list[Values]:
    return [part.values] if isinstance(part, Items) else [part.values, part.errors]


def _with(part: Items | Summary, arrays: Sequence[Values]) -> Items | Summary:
    if isinstance(part, Items):
        return replace(part, values=arrays[0])
    return replace(part, values=arrays[0], errors=arrays[1])


def _combined(part: Items | Summary) -> Items | Summary:
    """``part`` as one run: the mean over its runs."""
    if isinstance(part, Items):
        return replace(part, values=part.values.mean(axis=-2, keepdims=True))
    # the items are the same for each run: their error doesn't shrink with more runs
    errors = np.sqrt((part.errors**2).mean(axis=-1, keepdims=True))
    return replace(part, values=part.values.mean(axis=-1, keepdims=True), errors=errors)


def _paired(one: Items | Summary, two: Items | Summary) -> Items | Summary:
    """The differences of two methods' means over runs, by item where both have items."""
    if one.weight != two.weight or isinstance(one, Items) != isinstance(two, Items):
        raise StatsError(f"{one.name}: of one method by item, of the other not, or with another weight.")
    left, right = _combined(one), _combined(two)
    if isinstance(left, Summary) or isinstance(right, Summary):
        assert isinstance(left, Summary) and isinstance(right, Summary)
        errors = np.sqrt(left.errors**2 + right.errors**2)
        return replace(left, values=left.values - right.values, errors=errors)
    if left.values.shape != right.values.shape or left.ids != right.ids:
        raise StatsError(
            f"{left.name}: the two methods were tested on different items ({left.values.shape[-1]} and "
            f"{right.values.shape[-1]}). Evaluate both on the same ones."
        )
    return replace(left, values=left.values - right.values, span=2 * max(left.span, right.span))


def _clustered(values: Values, part: Items) -> Values:
    """Sums over each cluster along the last axis."""
    if part.clusters is None:
        return values
    return values @ np.eye(int(part.clusters.max()) + 1)[part.clusters]


def _estimate(parts: Sequence[Items | Summary], spread: Any = 0.0, noise: Any = 0.0, freedom: Any = 0.0) -> Estimate:
    """Of parts with one run each; ``spread``, ``noise``, ``freedom``: see ``_seeds``."""
    weights = sum(part.weight for part in parts)
    value: Any = sum(part.weight * _of_one_run(part) for part in parts)
    found = _welch([_items_variance(part, weights) for part in parts])
    return Estimate(value, *found, np.maximum(0.0, spread - noise), freedom)


def _of_one_run(part: Items | Summary) -> Any:
    return part.values[..., 0, :].mean(axis=-1) if isinstance(part, Items) else part.values[..., 0]


def _items_variance(part: Items | Summary, weights: float) -> tuple[Any, float]:
    """Variance of the weighted mean of a part with one run, by items (by clusters), and its degrees of freedom.

    Outcomes with a span never have less than if two items, shared among the parts, lay at its two ends: that nothing
    differed on a few items doesn't say that nothing ever does.

    Raises:
        StatsError: one item (cluster) and no span, so that nothing is known.
    """
    if isinstance(part, Summary):
        return (part.weight * part.errors[..., 0]) ** 2, math.inf
    values, count = part.values[..., 0, :], part.values.shape[-1]
    sums = _clustered(values - values.mean(axis=-1, keepdims=True), part)
    units = sums.shape[-1]
    if units == 1:
        if math.isinf(part.span):
            raise StatsError(f"{part.name}: one item says nothing of how items differ. Evaluate on more.")
        return (part.weight * part.span / 2) ** 2, 1.0  # the largest variance that outcomes in the span can have
    least = 0.0 if math.isinf(part.span) else part.span**2 / 2 * part.weight / weights
    squares = np.maximum((sums**2).sum(axis=-1), least)
    return part.weight**2 * squares * units / (units - 1) / count**2, units - 1.0


def _seeds(sample: Sample) -> tuple[Any, Any, float]:
    """Variance of the mean as its runs show it, the share of it that single cells bring, and degrees of freedom."""
    runs = len(sample.selections)
    if runs == 1:
        return 0.0, 0.0, 0.0
    totals: Any = 0.0
    noise: Any = 0.0
    for part in sample.parts:
        if isinstance(part, Summary):
            totals = totals + part.weight * part.values
            continue
        means = part.values.mean(axis=-1, keepdims=True)
        totals = totals + part.weight * means[..., 0]
        rest = part.values - part.values.mean(axis=-2, keepdims=True) - means + means.mean(axis=-2, keepdims=True)
        sums = _clustered(rest, part)
        units = sums.shape[-1]
        if units > 1:
            squares = (sums**2).sum(axis=(-2, -1)) * units / (units - 1) / part.values.shape[-1] ** 2
            noise = noise + part.weight**2 * squares / (runs * (runs - 1))
    return totals.var(axis=-1, ddof=1) / runs, noise, runs - 1.0


def _welch(parts: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The sum of independent variances, and its degrees of freedom after Welch and Satterthwaite."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / freedom for variance, freedom in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total, np.where(below > 0, np.divide(total**2, below), math.inf)
