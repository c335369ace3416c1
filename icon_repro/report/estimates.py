"""Give an estimate's interval, p value and detectable difference from the variance of each level of sampling.

In: a value; variance and degrees of freedom of each level (items, selections, seeds).
Out: ``Estimate``; ``detectable`` of a planned design.
The interval is value +- t sqrt(V), V the sum of the levels' variances and t with Satterthwaite's degrees of freedom of
that sum. Of a level from which noise was taken out they are few where little is left
(``icon_repro.report.statistics``): with
those of its number of seeds or selections instead, 3 seeds covered 92 %.
The smallest detectable difference solves P(|estimate| > t sqrt(V)) = power, where the estimate is normal around the
true difference and each estimated variance is a chi-square around its true one, by fixed draws: adding two t quantiles,
as textbooks do for many degrees of freedom, is off with few.
Source: Satterthwaite, Biometrics Bulletin 2 (1946).
Known gap: none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8
_DRAWS = 4096
_NORMAL = 200.0  # degrees of freedom from which a variance counts as known, in draws of variances

Level = tuple[Any, Any]  # variance, degrees of freedom


@dataclass(frozen=True)
class Detectable:
    """The smallest difference that a design finds, and how well that is known: its variances are estimates."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, and how well it is known."""

    value: float
    items: float  # variance from items
    items_freedom: float
    seeds: float = 0.0  # variance from training seeds, beyond what the other levels bring
    seeds_freedom: float = 0.0  # 0: nothing is known of seeds
    selections: float = 0.0  # variance from selections
    selections_freedom: float = 0.0  # 0: nothing is known of selections, or nothing was selected
    bounds: tuple[float, float] | None = None  # that the true value can't leave
    lacking: str = ""  # why nothing can be said; empty: something can
    limits: tuple[str, ...] = ()  # what it is about only: "this selection", "this training seed"

    def levels(self) -> list[Level]:
        """Variance and degrees of freedom of each level that is known."""
        levels = [(self.items, self.items_freedom), (self.selections, self.selections_freedom)]
        return [one for one in (*levels, (self.seeds, self.seeds_freedom)) if np.all(one[1])]

    def variance(self) -> Any:
        return sum(variance for variance, _ in self.levels())

    def half_width(self, level: float = LEVEL) -> float:
        """Half of the interval that covers with probability ``level``; infinite where nothing can be said."""
        return self._joined((1 + level) / 2)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Its ends, within the bounds."""
        half = self.half_width(level)
        low, high = self.value - half, self.value + half
        if self.bounds is not None:
            low, high = (np.clip(end, *self.bounds) for end in (low, high))
        return low, high

    def p_value(self) -> float:
        """Two-sided, of the true value being 0: where the interval's end meets it; 1e-300 at least."""
        if self.value == 0 or not math.isfinite(self.half_width()):
            return 1.0
        levels = self.levels()
        freedom = _freedom([part for part, _ in levels], [freedom for _, freedom in levels])
        below = _special().stdtr(freedom, -abs(self.value) / math.sqrt(self.variance()))
        return max(1e-300, 2 * float(below))

    def detectable(self, alpha: float = ALPHA, power: float = POWER) -> Detectable:
        """The true difference that a two-sided test at ``alpha`` finds with probability ``power``, if the variances
        are those estimated; its ends are for the ends of the 95 % interval of their sum."""
        levels = [(float(variance), float(freedom)) for variance, freedom in self.levels()]
        total = sum(variance for variance, _ in levels)
        if self.lacking or not total > 0:
            return Detectable(math.inf, math.inf, math.inf)
        value = detectable(levels, alpha, power)
        freedom = total**2 / max(1e-12 * total**2, sum(variance**2 / freedom for variance, freedom in levels))
        ends = [float(_chi_square(freedom, (1 + sign * LEVEL) / 2)) for sign in (1, -1)]
        low, high = (value * math.sqrt(freedom / end) if end > 0 else math.inf for end in ends)
        return Detectable(value, low, high)

    def shown(self, scale: float, digits: int) -> str:
        """The value and half its interval; both ends where a bound cuts one; the value alone if nothing is known."""
        value, half = f"{scale * self.value:.{digits}f}", self.half_width()
        if not math.isfinite(half):
            return f"{value} (not enough)"
        low, high = self.interval()
        if high - low < 2 * half * (1 - 1e-9):
            return f"{value} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
        return f"{value} ± {scale * half:.{digits}f}"

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit, or of the other sign."""
        variances = {name: factor**2 * getattr(self, name) for name in ("items", "seeds", "selections")}
        ends = None if self.bounds is None else (factor * self.bounds[0], factor * self.bounds[1])
        bounds = None if ends is None else (min(ends), max(ends))
        return replace(self, value=factor * self.value, bounds=bounds, **variances)

    def _joined(self, quantile: float, below: float | None = None) -> float:
        """The joint error times the levels' t quantiles; ``below`` = 1 - quantile, exact where that is tiny."""
        tail = 1 - quantile if below is None else below
        levels = self.levels()
        variance = np.asarray(self.variance(), np.float64)
        known = (variance > 0) & (not self.lacking)
        t = _quantile([part for part, _ in levels], [freedom for _, freedom in levels], tail)
        half = np.where(known, t * np.sqrt(variance), math.inf)
        return half if half.ndim else float(half)  # type: ignore[return-value]


def detectable(levels: Sequence[tuple[float, float]], alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a planned design finds with probability ``power``.

    Args:
        levels: variance that each level gives to the estimate, and with how many degrees of freedom it will be
            estimated; some variance is above 0.
        alpha: level of the two-sided test; of several tests, divided by their number (Holm's first step).

    Returns:
        In the unit of the estimate; to 1e-4 of its size.
    """
    return _detectable(tuple(levels), alpha, power)


@lru_cache(4096)  # a table, its csv and its text ask for the same ones
def _detectable(levels: tuple[tuple[float, float], ...], alpha: float, power: float) -> float:
    variances = np.array([max(0.0, variance) for variance, _ in levels])
    ratios = np.stack([_ratios(float(freedom), place) for place, (_, freedom) in enumerate(levels)])
    drawn = variances[:, None] * ratios
    half = _quantile(list(drawn), [freedom for _, freedom in levels], alpha / 2) * np.sqrt(drawn.sum(axis=0))
    error = math.sqrt(variances.sum())
    low, high = 0.0, float(half.max()) + 10 * error
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        chances = _special().ndtr((middle - half) / error) + _special().ndtr((-middle - half) / error)
        low, high = (middle, high) if chances.mean() < power else (low, middle)
    return high


def _special() -> Any:
    """scipy's special functions, which take a moment to import: a plan needs none of them."""
    import scipy.special

    return scipy.special


def _quantile(variances: Sequence[Any], freedoms: Sequence[Any], tail: float) -> Any:
    """Of the sum of estimated variances, the t quantile with ``tail`` above it, by Satterthwaite's freedom."""
    return -_special().stdtrit(_freedom(variances, freedoms), tail)


def _freedom(variances: Sequence[Any], freedoms: Sequence[Any]) -> Any:
    """Satterthwaite's degrees of freedom of the sum of estimated variances."""
    total = np.asarray(sum(variances), np.float64)
    safe = np.where(total > 0, total, 1.0)
    below = sum((part / safe) ** 2 / freedom for part, freedom in zip(variances, freedoms, strict=True))
    return 1 / np.maximum(below, 1e-12)


@cache
def _ratios(freedom: float, place: int) -> NDArray[np.float64]:
    """Draws of an estimated variance over its true one: its quantiles, in an order of its own for each level."""
    if freedom > _NORMAL:
        return np.ones(_DRAWS)
    ratios = _chi_square(freedom, (np.arange(_DRAWS) + 0.5) / _DRAWS) / freedom
    return np.random.default_rng(place).permutation(ratios)


def _chi_square(freedom: float, share: Any) -> Any:
    return freedom if math.isinf(freedom) else 2 * _special().gammaincinv(freedom / 2, share)
