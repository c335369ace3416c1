"""Describe the outcomes of a method's runs as statistics take them: by item, with groups, sizes and bounds of items.

In: arrays.  Out: ``Sample``, checked: finite, of one shape, and of two methods on the same items.
Known gap: none.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class StatsError(ValueError):
    """Outcomes that can't be compared: not finite, too few, or of different items."""


@dataclass(frozen=True, eq=False)
class Items:
    """Outcomes on one set of items: a benchmark, a subtask of one, a set of prompts."""

    name: str
    values: Values  # (runs, items)
    ids: str = ""  # what the items are: equal for the same items in the same order only
    weight: float = 1.0  # of this mean in the estimate
    bounds: tuple[float, float] | None = None  # that the mean can't leave, as declared; None: none
    clusters: NDArray[np.int64] | None = None  # (items,) 0..K-1: items of one number are drawn together
    sizes: Values | None = None  # (items,) above 0: the mean is sum(sizes * values) / sum(sizes); None: equal


@dataclass(frozen=True, eq=False)
class Numbers:
    """A number of each run that is no mean over items, with its standard error; never paired."""

    name: str
    values: Values  # (runs,)
    errors: Values  # (runs,)
    weight: float = 1.0
    bounds: tuple[float, float] | None = None

    @property
    def squared_error(self) -> Any:
        """Of a mean over runs: the items are the same for each run, so their error doesn't shrink with more runs."""
        return (self.errors**2).mean(axis=-1)


@dataclass(frozen=True, eq=False)
class Sample:
    """One method's results: every run on the same parts."""

    parts: Sequence[Items | Numbers]
    selections: Sequence[Hashable]  # (runs,) the selection that each run was trained on
    seeds: Sequence[Hashable] | None = None  # (runs,) the training seed; equal ones pair methods. None: all differ
    selected: bool = True  # False: nothing was selected (all rows, no tuning), so that no other selection could be
    trained: bool = True  # False: a model without tuning, which has no seed
    pools: bool = False  # ``selections`` are pools of rows: equal ones pair methods


def check(sample: Sample) -> None:
    """Refuse outcomes that no mean can be made of."""
    if not sample.parts or not sample.selections:
        raise StatsError("no outcomes: at least one part and one run are needed.")
    runs = len(sample.selections)
    if sample.seeds is not None and len(sample.seeds) != runs:
        raise StatsError(f"{len(sample.seeds)} seeds for {runs} runs.")
    for part in sample.parts:
        shape, axis = part.values.shape, -2 if isinstance(part, Items) else -1
        if shape[axis:][:1] != (runs,) or not part.values.size:
            raise StatsError(f"{part.name}: outcomes of shape {shape} for {runs} runs; each needs at least one.")
        arrays = [part.values] if isinstance(part, Items) else [part.values, part.errors]
        if bad := sum(int((~np.isfinite(array)).sum()) for array in arrays):
            raise StatsError(f"{part.name}: {bad} outcomes aren't finite. Evaluate again, or leave the benchmark out.")
        if isinstance(part, Numbers):
            continue
        for what, array in (("clusters", part.clusters), ("sizes", part.sizes)):
            if array is not None and array.shape != shape[-1:]:
                raise StatsError(f"{part.name}: {array.size} {what} for {shape[-1]} items.")
        if part.sizes is not None and not (np.isfinite(part.sizes).all() and (part.sizes > 0).all()):
            raise StatsError(f"{part.name}: a size of an item isn't above 0. Leave items without tokens out.")


def check_same(one: Items | Numbers, two: Items | Numbers) -> None:
    """Refuse parts that aren't of the same items."""
    if one.weight != two.weight or isinstance(one, Items) != isinstance(two, Items):
        raise StatsError(f"{one.name}: of one method by item, of the other not, or with another weight.")
    if not isinstance(one, Items) or not isinstance(two, Items):
        return
    if one.values.shape[-1] != two.values.shape[-1] or one.ids != two.ids:
        raise StatsError(
            f"{one.name}: the two methods were tested on different items ({one.values.shape[-1]} and "
            f"{two.values.shape[-1]}). Evaluate both on the same ones."
        )
    for what in ("clusters", "sizes"):
        left, right = getattr(one, what), getattr(two, what)
        if (left is None) != (right is None) or (left is not None and not np.array_equal(left, right)):
            raise StatsError(
                f"{one.name}: the two methods' items have other {what}. Evaluate both with the same version."
            )


def bounds_of(sample: Sample) -> tuple[float, float] | None:
    """That the weighted sum of the parts' means can't leave."""
    known = [(part.weight, part.bounds) for part in sample.parts if part.bounds is not None]
    if len(known) < len(sample.parts) or not known:
        return None
    low, high = (sum(weight * ends[end] for weight, ends in known) for end in (0, 1))
    return low, high


def shares_of(part: Items) -> Values:
    """(items,) share of each item in the mean."""
    sizes = np.ones(part.values.shape[-1]) if part.sizes is None else part.sizes
    return np.asarray(sizes / sizes.sum(), np.float64)


def summed(values: Values, part: Items) -> Values:
    """Sums over each cluster along the last axis."""
    if part.clusters is None:
        return values
    return np.asarray(values @ np.eye(int(part.clusters.max()) + 1)[part.clusters])
