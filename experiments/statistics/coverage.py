"""Do the intervals, verdicts and detectable differences hold on the designs that our experiments use? By simulation.

In: nothing but the designs below.  Out: results/statistics/coverage.csv and coverage.md.
An experiment is drawn some thousand times from a model in which methods don't differ: items (in groups), selections,
training seeds and all their interactions are random. Every number is made by ``icon_repro.report.statistics``, as for
a report.
"""

import argparse
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.report.estimates import Estimate
from icon_repro.report.statistics import Items, Sample, clustered, difference
from icon_repro.report.tables import markdown

Values = NDArray[np.float64]
ALPHA, POWER = 0.05, 0.8
OUT = Path(__file__).resolve().parents[2] / "results" / "statistics"
HELD_OUT = (122, 96, 87, 49, 33, 31, 31, 30, 28, 25, 23, 20)  # 575 rows of 12 groups, as study_cpu's held-out rows lie
SHORT = (24, 11, 7, 5, 4, 4, 3, 2, 1, 1)  # 62 of them with less than 10 tokens, as they lie
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
    Design("study_cpu_controls: one run against 3 of one seed", ((1, 1), (3, 1)), tokens=True),
    Design("short rows: 62 in 10 groups, 1 against 5", ONE_FIVE, SHORT, item=0.3, noise=0.1, selected_item=0.1),
    Design("short rows, groups' effects large", ONE_FIVE, SHORT, item=0.3, noise=0.1, selected_item=0.1, group=0.2),
    Design("5 groups of items", ONE_FIVE, (200, 150, 100, 75, 50), tokens=True),
    Design("3 groups of items", ONE_FIVE, (230, 200, 145), tokens=True),
    Design("wrong: groups' effects large, groups not known", ONE_FIVE, group=0.05, tokens=True, grouped=False),
)
FAMILIES = (
    Design("study_cpu: 6 methods against random and longest, by tokens", (*((1, 3),) * 6, (5, 3)), tokens=True),
    Design("the same, t3 tails", (*((1, 3),) * 6, (5, 3)), tokens=True, tails=3),
    Design("the same, 4 benchmarks of 200", (*((1, 3),) * 6, (5, 3)), (200,) * 4, 4, cell=0.02, selection=0.03),
    Design("the same, selections alone vary", (*((1, 3),) * 6, (5, 3)), item=0.01, group=0, selection=0.02),
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
    hard = generator.standard_normal((batch, 1, count), np.float32)
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
        parts = _parts(design, runs if not design.benchmarks else (runs + hard > 0).astype(float), labels, sizes)
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
        In percent ``coverage`` of the 95 % interval, ``error`` its standard error, ``first_step``: verdicts at the
        level 0.05 / 11, the first step of Holm over 11 comparisons. ``half_width``: median. ``simulated``: the
        difference that is found in 80 % of the experiments. Over it: ``planned``, that of the mean variances, and
        ``estimated``, the median of what single experiments say; ``within``: percent of their intervals that hold it.
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
    single = [_single(variances[:, i], freedoms[:, i]).detectable(ALPHA, POWER) for i in range(0, value.size, every)]
    planned = _single(variances.mean(axis=1), np.median(freedoms, axis=1))
    return {
        "design": design.name,
        "coverage": covered,
        "error": 100 * math.sqrt(0.05 * 0.95 / value.size),
        "first_step": 100 * np.mean(np.abs(value) > wide),
        "half_width": float(np.median(half)),
        "simulated": simulated,
        "planned": planned.detectable(ALPHA, POWER).value / simulated,
        "estimated": float(np.median([one.value for one in single])) / simulated,
        "within": 100 * np.mean([one.low <= simulated <= one.high for one in single]),
    }


def _single(variances: Values, freedoms: Values) -> Estimate:
    """One experiment's estimate of nothing, with the variances and freedoms of its levels; what isn't known has 0."""
    known = np.zeros((2, 3))
    known[:, : len(variances)] = variances, freedoms
    (items, second, third), (first, two, three) = known
    return Estimate(0.0, items, first, second, two, third, three)


def family(design: Design, count: int, seed: int = 0) -> dict[str, Any]:
    """How often at least one of all comparisons is called better or worse, although no method differs.

    The last arm is random, the first longest; each other is compared with both, longest with random. With no true
    difference, Holm's procedure finds one exactly if its first step does.
    """
    generator = np.random.default_rng(seed)
    some = list[NDArray[np.bool_]]()
    for _ in range(count // BATCH):
        *methods, random = drawn(design, generator, BATCH)
        found = [difference(one, random) for one in methods]
        found += [difference(one, methods[0], random) for one in methods[1:]]
        level = 1 - ALPHA / len(found)
        some.append(np.any([np.abs(one.value) > one.half_width(level) for one in found], axis=0))
    share = float(np.mean(np.concatenate(some)))
    error = 100 * math.sqrt(0.05 * 0.95 / (len(some) * BATCH))
    return {"design": design.name, "comparisons": 2 * len(design.arms) - 3, "any false": 100 * share, "error": error}


HEADER = ["design", "coverage %", "first step %", "half width", "detectable", "planned / it", "estimated / it"]
HEADER += ["its interval holds it %"]


def write(found: list[dict[str, Any]], families: list[dict[str, Any]], count: int) -> None:
    """coverage.csv and coverage.md."""
    OUT.mkdir(parents=True, exist_ok=True)
    columns = ["design", *[key for key in found[0] if key != "design"], "comparisons", "any false"]
    with (OUT / "coverage.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        for row in [*found, *families]:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
    cells = [
        [
            *(str(row["design"]), f"{row['coverage']:.1f}", f"{row['first_step']:.2f}", f"{row['half_width']:.4f}"),
            *(f"{row['simulated']:.4f}", f"{row['planned']:.2f}", f"{row['estimated']:.2f}", f"{row['within']:.0f}"),
        ]
        for row in found
    ]
    text = f"{count} simulated experiments a design; standard error of a coverage {found[0]['error']:.2f} points.\n\n"
    text += markdown(HEADER, cells) + "\nAll comparisons of an experiment together, after Holm's correction:\n\n"
    names = ["design", "comparisons", "any false verdict %"]
    text += markdown(names, [[r["design"], str(r["comparisons"]), f"{r['any false']:.1f}"] for r in families])
    (OUT / "coverage.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="simulated experiments a design")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.parse_args()
    count, seed = given.count, given.seed
    found, families = list[dict[str, Any]](), list[dict[str, Any]]()
    for design in DESIGNS:
        found.append(checked(design, count, seed))
        print(design.name, f"coverage {found[-1]['coverage']:.1f}", flush=True)
    for design in FAMILIES:
        families.append(family(design, count, seed))
        print(design.name, f"any false {families[-1]['any false']:.1f}", flush=True)
    write(found, families, count)


if __name__ == "__main__":
    main()
