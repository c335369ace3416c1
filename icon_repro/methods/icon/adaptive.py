"""Adaptive scoring: find the top fractions with a part of the pairs.

In: contributions of candidates to assessment rows, as they become known.  Out: whom and what to score next, scores with
their errors, a bound on what full scoring would select otherwise. ``rounds`` makes steps of it.

All candidates meet the assessment rows in one order, seeded and stratified by group, in rounds. As they meet the same
rows, their means so far are compared directly: row effects cancel. After a round the candidates that lie clear of every
cut are settled, those with the least chance of being on the wrong side first, as long as the sum of these chances (the
expected number of wrong candidates) stays within ``error`` of the selection; the share that may be spent grows with the
rounds. The chance is Student's, with the variance of a candidate's contributions around its mean and the rows' means,
drawn towards the one of all candidates; rows to come count as more variable than those seen, by two standard errors.
The last round scores the rest fully.

Source: own; successive elimination near a cut as in Jamieson and Nowak, "Best-arm identification algorithms" (2014).
Tried before: candidates scored on all rows as anchors from which the others are predicted, rows on which these differ
most first: saved half of the pairs on the pilot's matrix, this saves more than two thirds.
Known gap: the bound fails where a few rows decide most of a mean: on simulated rows of which 5 % have 30 times the
spread of the others it covers 70 % of the replays, on log-normal ones (sigma 1.5) a third. On the pilot's matrix
it held in all; ``python experiments/pilot/pilot.py`` says so for a matrix of one's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from icon_repro.data.rows import selected_count
from icon_repro.methods.icon.options import AdaptiveConfig, round_ends

Matrix = NDArray[np.float64]
_PRIOR = 40.0  # rows that the variance of all candidates counts for in that of one
_TAILS = 10.0  # degrees of freedom of Student's distribution: contributions have heavier tails than normal ones
_CAUTION = 2.0  # standard errors by which rows to come may vary more than those seen


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


@dataclass
class Estimates:
    """What is known of each candidate's mean over all rows."""

    mean: Matrix  # (c,)
    error: Matrix  # (c,) standard error of the estimate; 0 where all rows are scored
    rows: NDArray[np.int64]  # (c,) scored


class Race:
    """Candidates that are scored until they are settled; the same contributions give the same course.

    Args:
        count: candidates, c.
        rows: assessment rows in the order in which they are met, n.
        fractions: cuts.
        rounds: at most so many; the last one scores all rows that are left.
    """

    def __init__(
        self, count: int, rows: int, fractions: Sequence[float], cfg: AdaptiveConfig, rounds: int | None = None
    ) -> None:
        self.count, self.n = count, rows
        self.ends = round_ends(rows, cfg, rounds)
        self.active = np.ones(count, dtype=bool)
        self.expected_wrong = dict.fromkeys(fractions, 0.0)
        self.row_noise = 0.0  # variance of a single contribution, from the first round
        self._cuts = {f: selected_count(f, count) for f in fractions}
        self._allowed = {f: cfg.error * cut for f, cut in self._cuts.items()}
        self._settled = {f: np.zeros(count, dtype=bool) for f in fractions}
        self._chosen = {f: np.zeros(count, dtype=bool) for f in fractions}
        self._round = 0
        self._cells = np.empty((count, 0))  # of the active candidates
        self._sums = np.full((count, len(self.ends)), np.nan)  # mean after each round
        self._errors, self._rows = np.zeros(count), np.zeros(count, dtype=np.int64)

    @property
    def over(self) -> bool:
        return self._round >= len(self.ends) or not self.active.any()

    def block(self) -> slice:
        """The rows that the next round scores."""
        return slice(self.ends[self._round - 1] if self._round else 0, self.ends[self._round])

    def advance(self, task: Matrix) -> None:
        """Take in a round.

        Args:
            task: (active candidates, rows of ``block()``), candidates in ascending order.
        """
        active, end = np.flatnonzero(self.active), self.ends[self._round]
        assert task.shape == (len(active), end - self._cells.shape[1])
        self._cells = np.concatenate([self._cells, task], axis=1)
        means = self._cells.mean(axis=1)
        self._sums[active, self._round] = means
        self._rows[active] = end
        self._errors[active] = self._error(means)
        last = end == self.n
        for fraction, cut in self._cuts.items():
            self._settle(fraction, cut, active, means, (self._round + 1) / len(self.ends), last=last)
        self._round += 1
        left = self.active & ~np.logical_and.reduce(list(self._settled.values()))
        self._cells = self._cells[left[active]]
        self.active = left

    def _error(self, means: Matrix) -> Matrix:
        """Standard error of each active candidate's mean around its mean over all rows, row effects apart."""
        count, rows = self._cells.shape
        if rows == self.n and self._round:
            return np.zeros(count)
        rest = self._cells - self._cells.mean(axis=0) - means[:, None] + means.mean()
        row_variance = (rest**2).sum(axis=1) / max(1, rows - 1) * (count / (count - 1) if count > 1 else 1.0)
        if self._round == 0:
            self.row_noise = float(row_variance.mean())
        if rows == self.n:
            return np.zeros(count)
        pooled = (_PRIOR * row_variance.mean() + (rows - 1) * row_variance) / (_PRIOR + rows - 1)
        by_row = (rest**2).mean(axis=0)
        unseen = 1 + _CAUTION * by_row.std() / math.sqrt(rows) / max(by_row.mean(), 1e-300)
        left = 1 - rows / self.n
        return np.asarray(left * np.sqrt(pooled / rows + unseen * pooled / (self.n - rows)))

    def _settle(
        self, fraction: float, cut: int, active: NDArray[np.int64], means: Matrix, share: float, *, last: bool
    ) -> None:
        """Decide on the candidates that are the surest to be on their side of a cut."""
        settled, chosen = self._settled[fraction], self._chosen[fraction]
        open_places = np.flatnonzero(~settled[active])
        free = cut - int(chosen.sum())
        values = means[open_places]
        best_first = open_places[np.argsort(-values, kind="stable")]
        if last or free <= 0 or free >= len(open_places):
            chosen[active[best_first[: max(free, 0)]]] = True
            settled[active[open_places]] = True
            return
        threshold = (means[best_first[free - 1]] + means[best_first[free]]) / 2
        above = np.isin(open_places, best_first[:free])  # by rank: with ties, too, no more and no fewer than are free
        error = np.maximum(self._errors[active[open_places]], 1e-300)
        wrong = stats.t.sf(np.abs(values - threshold) / error, _TAILS)
        for place in np.argsort(wrong, kind="stable"):
            if self.expected_wrong[fraction] + wrong[place] > self._allowed[fraction] * share:
                break
            self.expected_wrong[fraction] += float(wrong[place])
            candidate = active[open_places[place]]
            settled[candidate] = True
            chosen[candidate] = above[place]

    def estimates(self) -> Estimates:
        """Means over all rows, in agreement with what was decided about every cut.

        A candidate that was left after some rounds gets what those that went on gained on average from then on.
        """
        rounds = self._round
        final = self._sums[:, rounds - 1]
        went_on = np.isfinite(final)
        mean = final.copy()
        for number in range(rounds - 1):
            gone = np.isfinite(self._sums[:, number]) & ~np.isfinite(self._sums[:, number + 1])
            gain = float((final - self._sums[:, number])[went_on].mean()) if went_on.any() else 0.0
            mean[gone] = self._sums[gone, number] + gain
        for fraction, cut in self._cuts.items():
            if cut >= self.count or not self._settled[fraction].all():
                continue
            best_first = np.sort(mean)[::-1]
            border = (best_first[cut - 1] + best_first[cut]) / 2
            chosen = self._chosen[fraction]
            mean[chosen] = np.maximum(mean[chosen], np.nextafter(border, np.inf))
            mean[~chosen] = np.minimum(mean[~chosen], np.nextafter(border, -np.inf))
        return Estimates(mean, self._errors.copy(), self._rows.copy())

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
            for fraction, wrong in self.expected_wrong.items()
        }


@dataclass(frozen=True)
class Replay:
    """Adaptive scoring of a matrix that is known in full."""

    mean: Matrix  # (c,) estimates in the matrix' order
    pairs: int  # scored
    overlap: dict[float, float]  # by fraction, with the selection of full scoring
    disagreement: dict[float, dict[str, float]]


def replay(task: Matrix, fractions: Sequence[float], cfg: AdaptiveConfig, generator: np.random.Generator) -> Replay:
    """What adaptive scoring would have done with a full matrix (c, n), rows in a random order."""
    count, n = task.shape
    order = generator.permutation(n)
    race = Race(count, n, fractions, cfg)
    pairs = 0
    while not race.over:
        cells = np.ix_(np.flatnonzero(race.active), order[race.block()])
        pairs += task[cells].size
        race.advance(task[cells])
    mean, full = race.estimates().mean, task.mean(axis=1)
    overlaps = {}
    for fraction in fractions:
        cut = selected_count(fraction, count)
        chosen, right = (set(np.argsort(-values, kind="stable")[:cut].tolist()) for values in (mean, full))
        overlaps[fraction] = len(chosen & right) / cut
    return Replay(mean, pairs, overlaps, race.disagreement())
