"""Say what an experiment could see: the smallest difference that its design finds for the primary comparison.

In: a config; stored rows of the same experiment, if there are some.  Out: lines for action=plan.
Variances are those of the stored rows, scaled to the planned numbers of selections and seeds; without rows they are
assumed, from results/study_cpu, and the line says which.
Known gap: the number of groups of items isn't known before rows are scored; assumed ones are independent.
"""

from collections.abc import Sequence
from pathlib import Path

from icon_repro.config.load import Config
from icon_repro.engine.records import RecordError
from icon_repro.engine.schema import plain
from icon_repro.evaluate.held_out_measures import ROWS
from icon_repro.evaluate.options import TaskKind
from icon_repro.methods.kinds import repetitions
from icon_repro.report.estimates import ALPHA, POWER, Estimate, detectable
from icon_repro.report.rows import FILE, read_result_rows
from icon_repro.report.runs import RunsError
from icon_repro.report.statistics import StatsError
from icon_repro.report.verdicts import Comparison, comparisons, is_primary

# standard deviations in results/study_cpu, by measure: of two methods' difference on an item, as large as groups of
# items make it; between selections (of random); between training seeds. test_power.py reads them off again
ASSUMED = {
    "tokens": {"items": 0.03, "selections": 0.0012, "seeds": 0.0005},
    "rows": {"items": 0.2, "selections": 0.005, "seeds": 0.002},
    "average": {"items": 0.07, "selections": 0.0013, "seeds": 0.001},
}


def primary_lines(config: Config, folder: Path) -> list[str]:
    """The smallest difference that the primary comparison, which the config has, could find.

    Args:
        folder: the experiment's results, if there are some.
    """
    assert config.primary is not None
    asked = f"primary: {config.primary.measure}, {' against '.join(config.primary.comparison)}"
    stored = folder / FILE
    try:
        rows = read_result_rows(stored) if stored.is_file() else []
        primary = [one for one in comparisons(rows) if is_primary(one, plain(config.primary))] if rows else []
    except (RunsError, StatsError, RecordError) as error:
        return [f"{asked}: what it could see isn't known: {error}"]
    known = [(one, one.found) for one in primary if one.found is not None]
    if known:
        return [_from_results(config, asked, one, estimate) for one, estimate in known]
    return [_assumed(config, asked)]


def _counts(config: Config) -> tuple[list[int], int]:
    """Selections of the two methods, one in each pool, and training seeds."""
    assert config.primary is not None
    methods = [config.methods[name] for name in config.primary.comparison]
    return [config.data.pools * len(list(repetitions(method))) for method in methods], len(config.seeds)


def _from_results(config: Config, asked: str, one: Comparison, found: Estimate) -> str:
    selections, seeds = _counts(config)
    stored = [len(set(line.selections)) for line in (one.method, one.baseline)]
    known = [len({row.seed for row in line.rows}) for line in (one.method, one.baseline)]
    share = sum(1 / n for n in selections) / sum(1 / n for n in stored)
    levels = [(float(found.items), float(found.items_freedom))]
    if found.selections_freedom and max(selections) > 1:
        freedom = float(found.selections_freedom) * (max(selections) - 1) / max(1, max(stored) - 1)
        levels.append((float(found.selections) * share, freedom))
    if found.seeds_freedom and seeds > 1:
        freedom = float(found.seeds_freedom) * (seeds - 1) / max(1, min(known) - 1)
        levels.append((float(found.seeds) * min(known) / seeds, freedom))
    if found.lacking or not sum(variance for variance, _ in levels) > 0:
        return f"{asked}: the stored results aren't enough to say what it could see"
    at = f" at fraction {one.method.fraction:g}" if len(config.fractions) > 1 else ""
    relative = found.detectable()
    low, high = (end / relative.value for end in (relative.low, relative.high))
    value = detectable(levels)
    return (
        f"{asked}{at}: could see {_shown(one.scale, value)} (95 %: {_shown(one.scale, value * low)} to "
        f"{_shown(one.scale, value * high)}) with probability {POWER} at {ALPHA}; variances of the stored results "
        f"({_design(selections, seeds)}){_limited(selections, seeds)}"
    )


def _assumed(config: Config, asked: str) -> str:
    assert config.primary is not None
    selections, seeds = _counts(config)
    average = config.primary.measure == "average"
    weighting = "average" if average else "rows" if config.primary.measure.endswith(ROWS) else "tokens"
    spread = ASSUMED[weighting]
    tasks = [task for task in config.evaluation.tasks.values() if (task.kind is TaskKind.nll) != average]
    if not tasks:
        return f"{asked}: how many items it will have isn't known, so neither is what it could see"
    sizes = [task.limit or task.expected_items for task in tasks]
    count = sum(sizes) if average else sizes[0]
    levels = [(spread["items"] ** 2 / count, count - 1.0)]
    if max(selections) > 1:
        levels.append((spread["selections"] ** 2 * sum(1 / n for n in selections), max(selections) - 1.0))
    if seeds > 1:
        levels.append((spread["seeds"] ** 2 * 2 / seeds, seeds - 1.0))
    scale = 100 if average else 1
    assumed = ", ".join(f"{name} {scale * value:g}" for name, value in spread.items())
    return (
        f"{asked}: could see {_shown(scale, detectable(levels))} with probability {POWER} at {ALPHA}; assumed standard "
        f"deviations as in study_cpu ({assumed}), {count} items ({_design(selections, seeds)})"
        f"{_limited(selections, seeds)}"
    )


def _shown(scale: int, value: float) -> str:
    return f"{scale * value:.2f} points" if scale == 100 else f"{value:.4f}"


def _design(selections: Sequence[int], seeds: int) -> str:
    return f"{selections[0]} against {selections[1]} selections, {seeds} training seed{'s' if seeds > 1 else ''}"


def _limited(selections: Sequence[int], seeds: int) -> str:
    limits = (["selection"] if max(selections) < 2 else []) + (["training seed"] if seeds < 2 else [])
    return f"; about this {' and this '.join(limits)} only" if limits else ""
