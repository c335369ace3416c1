"""Adaptive scoring: find the top fractions with a part of the pairs.

In: contributions of candidates to assessment rows, as they become known.  Out: whom and what to score next, scores with
their errors, a bound on what full scoring would select otherwise. ``rounds`` makes steps of it.

A few candidates, the anchors (the first of the order, which is random), are scored on all rows. Rows on which the
anchors differ most come first, as they decide most of a mean over rows. All other candidates meet the rows in that one
order, in rounds. After a round a candidate's mean over all rows is what is known plus a prediction of the rest: a ridge
regression, fitted on the anchors, on the sum of its contributions and the mean log ratio of its perplexities so far;
the anchors' leave-one-out errors give its standard error. Candidates whose estimate lies clear of every cut are
settled, those with the least chance of being on the wrong side first, as long as the sum of these chances (the
expected number of wrong candidates) stays within ``error`` of the selection. The last round scores the rest fully.

Source: own; elimination near a cut as in Jamieson and Nowak, "Best-arm identification algorithms" (2014), regression
estimator of a mean as in double sampling (Cochran, Sampling Techniques, chapter 12).
Known gap: the bound takes errors of prediction as Student-distributed with the anchors' spread; ``python -m
icon_repro.pilot`` compares it with full matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from icon_repro.config import AdaptiveConfig, round_ends
from icon_repro.stats import components

Matrix = NDArray[np.float64]
_RIDGE = 1.0  # in units of standardised features: as much as one anchor says
_FEATURES = 2


def row_sequence(ids: Sequence[str], groups: Sequence[str], seed: int) -> list[str]:
    """A seeded order of assessment rows in which groups take turns, so that any beginning of it is stratified."""
    generator = np.random.default_rng(seed)
    by_group: dict[str, list[str]] = {}
    for identifier, group in sorted(zip(ids, groups, strict=True)):
        by_group.setdefault(group, []).append(identifier)
    turns = []
    for turn, (_, members) in enumerate(sorted(by_group.items())):
        # a group of size s has its k-th row at (k + 0.5) / s of the way: shares are kept everywhere
        turns += [
            ((rank + 0.5) / len(members), turn, members[i])
            for rank, i in enumerate(generator.permutation(len(members)))
        ]
    return [identifier for _, _, identifier in sorted(turns)]


def row_order(anchors: Matrix) -> NDArray[np.int64]:
    """Columns of the anchors' contributions (k, n), those on which they differ most first."""
    return np.argsort(-anchors.var(axis=0), kind="stable")


@dataclass
class Estimates:
    """What is known of each candidate's mean over all rows."""

    mean: Matrix  # (c,)
    error: Matrix  # (c,) standard error of the prediction; 0 where all rows are scored
    rows: NDArray[np.int64]  # (c,) scored
    active: NDArray[np.bool_]  # (c,) scored further
    expected_wrong: dict[float, float]  # by fraction: expected number of candidates on the wrong side of the cut


class Race:
    """Candidates that are scored until they are settled; the same shards give the same course.

    Args:
        anchors: (k, n) contributions of the first k candidates to all rows in their natural order.
        log_anchors: (k, n) log ratios of the perplexities, control over candidate.
        count: candidates in all, c.
        fractions: cuts.
        rounds: at most so many; the last one scores all rows that are left.
    """

    def __init__(
        self,
        anchors: Matrix,
        log_anchors: Matrix,
        count: int,
        fractions: Sequence[float],
        cfg: AdaptiveConfig,
        rounds: int | None = None,
    ) -> None:
        k, n = anchors.shape
        self.order = row_order(anchors)
        self.ends = round_ends(n, cfg, rounds)
        self._anchors, self._log_anchors = anchors[:, self.order], log_anchors[:, self.order]
        self._cuts = {f: max(1, round(f * count)) for f in fractions}
        self._allowed = {f: cfg.error * cut for f, cut in self._cuts.items()}
        self._settled = {f: np.zeros(count, dtype=bool) for f in fractions}
        self.row_noise = math.sqrt(components(anchors)[1]) if min(anchors.shape) > 1 else 0.0
        self._round = 0
        self._sums, self._logs = np.zeros(count), np.zeros(count)
        self.now = Estimates(
            mean=np.concatenate([anchors.mean(axis=1), np.full(count - k, np.nan)]),
            error=np.zeros(count),
            rows=np.concatenate([np.full(k, n), np.zeros(count - k, dtype=int)]),
            active=np.arange(count) >= k,
            expected_wrong=dict.fromkeys(fractions, 0.0),
        )
        for settled in self._settled.values():
            settled[:k] = True

    @property
    def over(self) -> bool:
        return self._round >= len(self.ends) or not self.now.active.any()

    def block(self) -> slice:
        """The part of ``order`` that the next round scores."""
        return slice(self.ends[self._round - 1] if self._round else 0, self.ends[self._round])

    def advance(self, task: Matrix, log_ratio: Matrix) -> None:
        """Take in a round.

        Args:
            task, log_ratio: (active candidates, rows of ``block()``), candidates in ascending order.
        """
        now, end, n = self.now, self.ends[self._round], len(self.order)
        active = np.flatnonzero(now.active)
        self._sums[active] += task.sum(axis=1)
        self._logs[active] += log_ratio.sum(axis=1)
        now.rows[active] = end
        if end == n:
            now.mean[active], now.error[active] = self._sums[active] / n, 0.0
            now.active[:] = False
        else:
            features = np.column_stack([self._anchors[:, :end].sum(axis=1), self._log_anchors[:, :end].mean(axis=1)])
            predict, error = _ridge(features, self._anchors[:, end:].sum(axis=1))
            known = np.column_stack([self._sums[active], self._logs[active] / end])
            now.mean[active], now.error[active] = (self._sums[active] + predict(known)) / n, error / n
            self._settle(active, (self._round + 1) / len(self.ends))
        self._round += 1

    def _settle(self, active: NDArray[np.int64], share: float) -> None:
        """Take out the candidates that are the surest to be on their side of every cut."""
        now = self.now
        sorted_means = np.sort(now.mean)[::-1]
        for fraction, cut in self._cuts.items():
            settled = self._settled[fraction]
            if cut == len(sorted_means):  # all are selected
                settled[:] = True
                continue
            threshold = (sorted_means[cut - 1] + sorted_means[cut]) / 2
            distance = np.abs(now.mean[active] - threshold) / np.maximum(now.error[active], 1e-300)
            wrong = stats.t.sf(distance, max(1, len(self._anchors) - _FEATURES - 1))
            for place in np.argsort(wrong, kind="stable"):
                if settled[active[place]]:
                    continue
                if now.expected_wrong[fraction] + wrong[place] > self._allowed[fraction] * share:
                    break
                now.expected_wrong[fraction] += float(wrong[place])
                settled[active[place]] = True
        now.active &= ~np.logical_and.reduce(list(self._settled.values()))

    def disagreement(self) -> dict[float, dict[str, float]]:
        """By fraction: expected share of the selection that full scoring would choose otherwise, and a 95 % bound.

        A wrong candidate takes the place of a right one: at most as many of the selection differ as are wrong. The
        bound is the Poisson quantile of the number of wrong candidates.
        """
        return {
            fraction: {
                "expected": wrong / self._cuts[fraction],
                "bound": min(1.0, float(stats.poisson.ppf(0.95, wrong)) / self._cuts[fraction]) if wrong else 0.0,
            }
            for fraction, wrong in self.now.expected_wrong.items()
        }


def _ridge(features: Matrix, target: Matrix) -> tuple[Any, float]:
    """A predictor of ``target`` (k,) from ``features`` (k, p), and the spread of its leave-one-out errors."""
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled, level = (features - centre) / spread, target.mean()
    gram = scaled.T @ scaled + _RIDGE * np.eye(features.shape[1])
    projection = np.linalg.solve(gram, scaled.T)
    weights = projection @ (target - level)
    leverage = np.minimum(np.einsum("kp,pk->k", scaled, projection) + 1 / len(target), 0.9)
    residuals = (target - level - scaled @ weights) / (1 - leverage)
    return lambda known: level + (known - centre) / spread @ weights, float(np.sqrt((residuals**2).mean()))


@dataclass(frozen=True)
class Outcome:
    """Adaptive scoring of a matrix that is known in full."""

    mean: Matrix  # (c,) estimates in the matrix' order
    pairs: int  # scored
    overlap: dict[float, float]  # by fraction, with the selection of full scoring
    disagreement: dict[float, dict[str, float]]


def replay(
    task: Matrix,
    log_ratio: Matrix,
    fractions: Sequence[float],
    cfg: AdaptiveConfig,
    generator: np.random.Generator,
) -> Outcome:
    """What adaptive scoring would have done with a full matrix (c, n), candidates in a random order."""
    count, n = task.shape
    order = generator.permutation(count)
    shuffled, logs = task[order], log_ratio[order]
    k = min(cfg.anchors, count)
    race = Race(shuffled[:k], logs[:k], count, fractions, cfg)
    pairs = k * n
    while not race.over:
        cells = np.ix_(np.flatnonzero(race.now.active), race.order[race.block()])
        pairs += shuffled[cells].size
        race.advance(shuffled[cells], logs[cells])
    mean = np.empty(count)
    mean[order] = race.now.mean
    full = task.mean(axis=1)
    overlaps = {}
    for fraction in fractions:
        cut = max(1, round(fraction * count))
        chosen, right = (set(np.argsort(-values, kind="stable")[:cut].tolist()) for values in (mean, full))
        overlaps[fraction] = len(chosen & right) / cut
    return Outcome(mean, pairs, overlaps, race.disagreement())
