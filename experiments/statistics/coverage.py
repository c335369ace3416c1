"""Do the intervals, verdicts and detectable differences hold on the designs that our experiments use? By simulation.

In: nothing but the designs below.  Out: results/statistics/coverage.csv and coverage.md.
An experiment is drawn some thousand times from a model in which two methods don't differ: items (in groups), selections,
training seeds and all their interactions are random. Every number is made by ``icon_repro.stats``, as for a report.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.stats import Estimate, Items, Sample, clustered, difference

Values = NDArray[np.float64]
ALPHA, POWER = 0.05, 0.8
OUT = Path(__file__).resolve().parents[2] / "results" / "statistics"
HELD_OUT = (122, 96, 87, 49, 33, 31, 31, 30, 28, 25, 23, 20)  # 575 rows of 12 groups, as study_cpu's held-out rows lie
BATCH = 100


@dataclass(frozen=True)
class Design:
    """Two arms (or several against two controls), and the spread of what differs, as standard deviations."""

    name: str
    arms: tuple[tuple[int, int], ...]  # selections, training seeds of each arm; the last has the most selections
    groups: tuple[int, ...] = HELD_OUT  # items of each group
    benchmarks: int = 0  # 0: one measure of numbers; else benchmarks of shares, ``groups`` the items of each
    lender: int | None = None  # the arm that lends its variance between selections
    selection: float = 0.005
    seed: float = 0.006  # of a training seed, the same in all arms
    arm_seed: float = 0.0005  # of a seed in one arm
    cell: float = 0.0014  # of a seed with a selection
    first_cell: float | None = None  # the same in the first arm, if it differs there
    group: float = 0.01  # of a method on a group of items
    item: float = 0.07  # of a method on an item
    selected_item: float = 0.02  # of a selection on an item
    noise: float = 0.02  # of a run on an item
    tails: float = math.inf  # degrees of freedom of t for methods' and selections' effects
    tokens: bool = False  # items weigh as their number of tokens; short ones vary more
    grouped: bool = True  # the statistics know the groups
    pools: float | None = None  # spread of pools; each selection of an arm is of a pool that all arms have
    common_seeds: bool = True
    by_benchmark: bool = False  # benchmarks are drawn too


ONE_FIVE, FIVE = ((1, 3), (5, 3)), ((5, 3), (5, 3))
DESIGNS = (
    Design("study_cpu held out by rows, 1 against 5 selections", ONE_FIVE),
    Design("the same by tokens", ONE_FIVE, tokens=True),
    Design("the same by tokens, t3 tails", ONE_FIVE, tokens=True, tails=3),
    Design("by rows, groups' effects large", ONE_FIVE, group=0.05),
    Design("by tokens, groups' effects large", ONE_FIVE, group=0.05, tokens=True),
    Design("by tokens, selections alone vary", ONE_FIVE, tokens=True, group=0, item=0.01, selection=0.02),
    Design("by tokens, the method's seeds vary 4 times as much", ONE_FIVE, tokens=True, first_cell=0.0056),
    Design("by tokens, seeds vary as selections do", ONE_FIVE, tokens=True, cell=0.01, selection=0.005, item=0.03),
    Design("by tokens, items alone vary", ONE_FIVE, tokens=True, selection=0, cell=0, arm_seed=0, selected_item=0),
    Design("by tokens, other seeds in each arm", ONE_FIVE, tokens=True, common_seeds=False),
    Design("by tokens, 1 against 1, random lends", ((1, 3), (1, 3), (5, 3)), tokens=True, lender=2),
    Design("by tokens, 5 against 5 (matched to a method)", FIVE, tokens=True),
    Design("5 pools, 2 seeds, 1 selection each, by tokens", ((5, 2), (5, 2)), tokens=True, pools=0.02),
    Design("5 pools, 2 seeds, t3 tails", ((5, 2), (5, 2)), tokens=True, pools=0.02, tails=3),
    Design("4 benchmarks of 200 items, 1 against 5", ONE_FIVE, (200,) * 4, 4, cell=0.02, arm_seed=0.01, selection=0.03),
    Design("4 benchmarks, 1 against 1, random lends", ((1, 3), (1, 3), (5, 3)), (200,) * 4, 4, 2, selection=0.03),
    Design("4 benchmarks, 5 against 5", FIVE, (200,) * 4, 4, selection=0.03, cell=0.02),
    Design("12 benchmarks of 200, drawn too, 1 against 5", ONE_FIVE, (200,) * 12, 12, by_benchmark=True, group=0.2),
    Design("one run against 5 selections of one seed", ((1, 1), (5, 1)), tokens=True),
    Design("before: groups not known", ONE_FIVE, group=0.05, tokens=True, grouped=False),
)


def drawn(design: Design, generator: np.random.Generator, batch: int) -> list[Sample]:
    """``batch`` experiments without a true difference: a sample for each arm."""
    labels = np.repeat(np.arange(len(design.groups)), design.groups)
    count = len(labels)
    sizes = np.exp(generator.normal(4, 1, count)) + 1 if design.tokens else np.ones(count)
    # the spread of a short row's mean is larger; the mean of squares stays
    loud = (sizes / np.exp(np.mean(np.log(sizes)))) ** -0.25 if design.tokens else np.ones(count)

    def heavy(*shape: int) -> Values:
        if math.isinf(design.tails):
            return generator.standard_normal(shape)
        return generator.standard_t(design.tails, shape) / math.sqrt(design.tails / (design.tails - 2))

    most = max(seeds for _, seeds in design.arms)
    seed = design.seed * generator.standard_normal((batch, 1, most, 1))
    pools = (design.pools or 0.0) * heavy(batch, max(n for n, _ in design.arms), 1, 1)
    hard = generator.standard_normal((batch, 1, 1, count), np.float32) if design.benchmarks else 0.0
    made = []
    for place, (selections, seeds) in enumerate(design.arms):
        cell = design.first_cell if place == 0 and design.first_cell is not None else design.cell
        of_groups = design.group * heavy(batch, 1, 1, len(design.groups))[..., labels]
        values: Any = of_groups + loud * design.item * heavy(batch, 1, 1, count)
        values = values + design.selection * heavy(batch, selections, 1, 1)
        values = values + design.selected_item * generator.standard_normal((batch, selections, 1, count), np.float32)
        shared = seed if design.common_seeds else design.seed * generator.standard_normal((batch, 1, most, 1))
        values = values + shared[:, :, :seeds] + design.arm_seed * generator.standard_normal((batch, 1, seeds, 1))
        values = values + cell * generator.standard_normal((batch, selections, seeds, 1))
        values = values + design.noise * generator.standard_normal((batch, selections, seeds, count), np.float32)
        values = values + (pools[:, :selections] if design.pools is not None else 0.0)
        runs = values.reshape(batch, selections * seeds, count)
        chosen = [s for s in range(selections) for _ in range(seeds)]
        names: list[Any] = [t for _ in range(selections) for t in range(seeds)]
        names = names if design.common_seeds else [(place, t) for t in names]
        parts = _parts(design, runs if not design.benchmarks else (runs + hard[:, 0] > 0).astype(float), labels, sizes)
        made.append(Sample(parts, chosen, names, pools=design.pools is not None))
    return [clustered(one, range(design.benchmarks)) for one in made] if design.by_benchmark else made


def _parts(design: Design, runs: Values, labels: NDArray[np.int64], sizes: Values) -> list[Items]:
    if design.benchmarks:
        weight = 1 / design.benchmarks
        by = [runs[..., labels == group] for group in range(design.benchmarks)]
        return [Items(f"b{i}", values, weight=weight, bounds=(0.0, 1.0)) for i, values in enumerate(by)]
    known = labels if design.grouped else None
    return [Items("nll", runs, clusters=known, sizes=sizes if design.tokens else None)]


def estimates(design: Design, count: int, seed: int) -> Iterator[Estimate]:
    """The difference of the first two arms, in batches."""
    generator = np.random.default_rng(seed)
    for _ in range(count // BATCH):
        samples = drawn(design, generator, BATCH)
        yield difference(samples[0], samples[1], samples[design.lender] if design.lender is not None else None)


def checked(design: Design, count: int, seed: int = 0) -> dict[str, Any]:
    """Coverage and detectable differences of one design.

    Args:
        count: simulated experiments.

    Returns:
        Shares in percent: ``coverage`` of the 95 % interval, ``error`` its standard error; ``false_005`` of verdicts at
        the level 0.05 / 11, the first step of Holm over 11 comparisons, in percent. ``planned``: detectable difference
        of the true variances (their mean estimate) over the ``simulated`` one; ``estimated``: the median of those that
        single experiments give over it; ``within``: percent of their intervals that hold it.
    """
    values, halves, narrow, levels = list[Values](), list[Values](), list[Values](), list[Values]()
    freedoms: Values = np.zeros(0)
    for found in estimates(design, count, seed):
        values.append(np.asarray(found.value))
        halves.append(np.asarray(found.half_width()))
        narrow.append(np.asarray(found.half_width(1 - ALPHA / 11)))
        levels.append(np.stack([np.broadcast_to(v, (BATCH,)) for v, _ in found.levels()]))
        freedom = [np.broadcast_to(f, (BATCH,)) for _, f in found.levels()]
        freedoms = np.stack(freedom) if not freedoms.size else np.concatenate([freedoms, np.stack(freedom)], axis=1)
    value, half, wide = (np.concatenate(one) for one in (values, halves, narrow))
    covered = 100 * np.mean(np.abs(value) <= half)
    simulated = float(np.quantile(half - value, POWER))
    variances = np.concatenate(levels, axis=1)
    every = max(1, count // 200)
    single = [
        Estimate(0.0, *_single(variances[:, i], freedoms[:, i])).detectable(ALPHA, POWER)
        for i in range(0, value.size, every)
    ]
    mean_levels = Estimate(0.0, *_single(variances.mean(axis=1), np.median(freedoms, axis=1)))
    return {
        "design": design.name,
        "coverage": covered,
        "error": 100 * math.sqrt(0.05 * 0.95 / value.size),
        "false_holm": 100 * np.mean(np.abs(value) > wide),
        "half_width": float(np.median(half)),
        "simulated": simulated,
        "planned": mean_levels.detectable(ALPHA, POWER).value / simulated,
        "estimated": float(np.median([one.value for one in single])) / simulated,
        "within": 100 * np.mean([one.low <= simulated <= one.high for one in single]),
    }


def _single(variances: Values, freedoms: Values) -> list[float]:
    """Arguments of ``Estimate`` from its levels; what isn't known has 0."""
    found = [float(x) for pair in zip(variances, freedoms, strict=True) for x in pair]
    return found


if __name__ == "__main__":
    import sys
    import time
    for d in DESIGNS:
        t = time.time()
        r = checked(d, int(sys.argv[1]))
        print(f"{d.name:52s}", {k: round(float(v), 3) for k, v in r.items() if k not in ("design",)}, f"{time.time()-t:.1f}s", flush=True)
