"""Split the variance of a mean or a difference into the levels of sampling: items, selections and seeds.

In: tables of runs (``Table``: what each run's mean is and what each unit of items adds to it).  Out: variances with
their degrees of freedom. The formulas' sources: ``icon_repro.report.statistics``, which uses this.
Known gap: none.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Runs, or means of runs, by unit of items: one level's rows."""

    totals: Values  # (..., rows) the mean of each
    units: Values  # (..., rows, units) what a unit adds to it beyond its share
    scale: Values  # (units,) 1 / (1 - share): what makes the squares of ``units`` unbiased

    def rows(self) -> int:
        return int(self.totals.shape[-1])

    def mean(self, groups: Sequence[Sequence[int]]) -> "Table":
        """One row a group: the mean of its rows."""
        totals = np.stack([self.totals[..., list(group)].mean(axis=-1) for group in groups], axis=-1)
        units = np.stack([self.units[..., list(group), :].mean(axis=-2) for group in groups], axis=-2)
        return Table(totals, units, self.scale)

    def less(self, other: "Table") -> "Table":
        return Table(self.totals - other.totals, self.units - other.units, self.scale)

    def spread(self, freedom: float | None = None) -> tuple[Any, Any]:
        """Variance of a row of the level without the noise of single cells, which may be below 0, and with it.

        Args:
            freedom: of the rows, if they are residuals; else one less than there are.
        """
        free = self.rows() - 1 if freedom is None else freedom
        totals = self.totals - self.totals.mean(axis=-1, keepdims=True)
        units = self.units - self.units.mean(axis=-2, keepdims=True)
        noise = ((units**2).sum(axis=-2) * self.scale).sum(axis=-1)
        seen = (totals**2).sum(axis=-1) / free
        return seen - noise / free, seen


@dataclass(frozen=True, eq=False)
class Runs:
    """One method's runs, and how they lie in selections and seeds."""

    table: Table  # of runs
    by_selection: Sequence[Sequence[int]]
    by_seed: Sequence[Sequence[int]] | None  # in the order of ``seeds``; None: not every selection has every seed
    seeds: Sequence[Hashable]
    selected: bool
    trained: bool

    @property
    def selections(self) -> int:
        return len(self.by_selection)

    def center(self) -> Table:
        """One row: the mean over each selection's runs, then over selections."""
        return self.table.mean(self.by_selection).mean([range(self.selections)])

    def between(self) -> tuple[Any, Any, float]:
        """Variance of a selection's mean, without and with noise, and its freedom."""
        return *self.table.mean(self.by_selection).spread(), self.selections - 1.0

    def within(self) -> Any:
        """What of ``between`` the seeds bring: the variance of a selection's mean over its seeds.

        With seeds that all selections share, what is left when each seed's own effect is taken out.
        """
        if self.by_seed is not None and len(self.by_seed) > 1 and self.selections > 1:
            expected = self._of_runs(self.table.mean(self.by_selection), self.by_selection)
            expected = _plus(expected, self._of_runs(self.table.mean(self.by_seed), self.by_seed))
            rest = self.table.less(expected)
            return rest.spread((self.selections - 1) * (len(self.by_seed) - 1))[0] / len(self.by_seed)
        return self.residual()[0] * self.selections / self.table.rows()

    def residual(self) -> tuple[Any, Any, float]:
        """Variance of a run within its selection (seeds' effects are in it), without and with noise, and its freedom;
        all 0 if no selection has two runs."""
        free = float(self.table.rows() - self.selections)
        if free < 1:
            return 0.0, 0.0, 0.0
        rest = self.table.less(self._of_runs(self.table.mean(self.by_selection), self.by_selection))
        return *rest.spread(free), free

    def _of_runs(self, table: Table, groups: Sequence[Sequence[int]]) -> Table:
        """Rows of groups, repeated for each run of the group."""
        place = {run: number for number, group in enumerate(groups) for run in group}
        return table.mean([[place[run]] for run in range(self.table.rows())])


def _plus(one: Table, two: Table) -> Table:
    return Table(one.totals + two.totals, one.units + two.units, one.scale)


def layout(
    table: Table, selections: Sequence[Hashable], seeds: Sequence[Hashable] | None, *, selected: bool, trained: bool
) -> Runs:
    """The runs of ``table`` by selection and by seed."""
    chosen = list(dict.fromkeys(selections))
    by_selection = [[run for run, own in enumerate(selections) if own == label] for label in chosen]
    labels = list(dict.fromkeys(seeds)) if seeds is not None else []
    crossed = seeds is not None and len(seeds) == len(chosen) * len(labels)
    crossed = crossed and len(set(zip(selections, seeds or [], strict=True))) == len(selections)
    if crossed and seeds is not None:
        labels = sorted(labels, key=str)
        by_seed = [[run for run, own in enumerate(seeds) if own == label] for label in labels]
        return Runs(table, by_selection, by_seed, labels, selected, trained)
    return Runs(table, by_selection, None, labels, selected, trained)


def units_freedom(shares: Values, variances: Values) -> tuple[Any, Any, Any]:
    """Of the sum of squares of units, each scaled by 1 / (1 - share): its expectation, factor, and degrees of freedom.

    Args:
        shares: (units,) of the mean, above 0, sum 1; at least two.
        variances: (..., units) of the units' means, up to a factor; above 0.

    Returns:
        What the sum of squares is expected to be; the variance of the mean over that, which makes it unbiased; and
        Satterthwaite's degrees of freedom.
    """
    w, b = shares, shares**2 / (1 - shares)
    z = w * variances
    q = (w * z).sum(axis=-1, keepdims=True)
    expected = (b * (variances - 2 * z + q)).sum(axis=-1)
    total = q[..., 0]
    sums = [(b * z**power).sum(axis=-1) for power in range(3)]
    square = (b**2 * (variances**2 + 2 * variances * (q - 2 * z))).sum(axis=-1)
    square = square + total**2 * sums[0] ** 2 - 4 * total * sums[0] * sums[1] + 2 * sums[0] * sums[2] + 2 * sums[1] ** 2
    return expected, total / expected, expected**2 / square
