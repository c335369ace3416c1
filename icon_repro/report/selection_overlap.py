"""Count the items of each benchmark that share text with the rows by which methods select: assessment set, targets.

In: a plan and its store.  Out: numbers of items by arm and benchmark; sentences for a plan and for a table's notes.
A plan that has nothing built yet compares small files itself, in a temporary folder.
Known gap: a plan doesn't compare tasks of lm-eval, rows from a hub, or files of more than ``_MOST_BYTES``; a run does.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from icon_repro.data.options import RowsConfig, SourceConfig, SourceKind
from icon_repro.data.overlap import SHARED
from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.engine.notices import collected
from icon_repro.engine.records import read_json
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.targets import function_of
from icon_repro.evaluate.options import SharedTextJob
from icon_repro.experiment import Arm, Experiment, going_by
from icon_repro.report.rows import ResultRow

_MOST_BYTES = 20_000_000  # of the files of one comparison that a plan makes


def steps(experiment: Experiment) -> list[Step]:
    """The steps that compare."""
    return [step for some in experiment.shared_selecting.values() for step in some]


def of_arm(experiment: Experiment, arm: Arm, store: Store) -> dict[str, dict[str, int] | None] | None:
    """By benchmark the items, those too short to tell, and those that share text with rows that decide the selection.

    Returns:
        None for an arm whose selection no rows decide; a benchmark's value is None where it isn't known yet.
    """
    compared = steps(experiment)
    if arm.select is None or not compared:
        return None
    deciding = {step.folder for step in going_by([arm.select], compared[0].inputs["candidates"].target)}
    by_benchmark: dict[str, dict[str, int] | None] = {}
    for name, some in experiment.shared_selecting.items():
        of_the_arm = [step for step in some if step.inputs["candidates"].folder in deciding]
        if not of_the_arm:
            continue
        if not all(store.complete(step) and (store.path(step) / SHARED).is_file() for step in of_the_arm):
            by_benchmark[name] = None
            continue
        metrics = store.record(of_the_arm[0])["metrics"]
        shared = {item for step in of_the_arm for item in read_json(store.path(step) / SHARED)}
        by_benchmark[name] = {"items": metrics["items"], "too_short": metrics["too_short"], "shared": len(shared)}
    return by_benchmark or None


def sentences(rows: Sequence[ResultRow]) -> list[str]:
    """A line for each benchmark of which items share text with the rows that select.

    Args:
        rows: of ``report.collect``.
    """
    methods_by_count: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for name, one in (row.shared_selecting or {}).items():
            if one and one.shared:
                methods_by_count.setdefault(name, {}).setdefault(f"{one.shared:,} of {one.items:,}", []).append(
                    row.method
                )
    return [
        f"{name}: {count} items share text with the rows that decide the selection of "
        + ", ".join(dict.fromkeys(methods))
        for name, counts in methods_by_count.items()
        for count, methods in counts.items()
    ]


def planned(experiment: Experiment, store: Store) -> Iterator[str]:
    """What a plan can say of it before anything is built: a line for each benchmark that shares text."""
    for name, some in experiment.shared_selecting.items():
        for step in some:
            with tempfile.TemporaryDirectory() as temporary:
                counts = _counts(step, experiment, store, Path(temporary))
            if counts and counts["items_shared"]:
                rows = step.inputs["candidates"].label
                yield (
                    f"{name}: {counts['items_shared']:,} of {counts['items']:,} items share text with {rows}, rows by "
                    "which methods select."
                )


def _counts(step: Step, experiment: Experiment, store: Store, folder: Path) -> dict[str, Any]:
    """What the step would count; empty if that would take long."""
    metrics: dict[str, Any] = {}
    if store.complete(step):
        metrics = store.record(step)["metrics"]
        return metrics
    config = experiment.config
    missing = [one for one in (*ancestors(step), step) if not store.complete(one)]
    if not all(_small(one) for one in missing):
        return {}
    places: dict[str, Path] = {}
    try:
        with collected(), redirect_stdout(io.StringIO()):  # the run says it all
            for number, one in enumerate(missing):
                inputs = {key: places.get(given.folder) or store.path(given) for key, given in one.inputs.items()}
                places[one.folder] = folder / str(number)
                places[one.folder].mkdir()
                files = {key: Path(file.path) for key, file in one.files.items()}
                runtime = Runtime(
                    config.cluster, Path(config.paths.cache), files=files, extra=dict(one.extra), terminal=None
                )
                metrics = function_of(one.target)(one.params, inputs, places[one.folder], runtime)
    except (ValueError, OSError):  # the run says what is wrong with it
        return {}
    return metrics


def _small(step: Step) -> bool:
    """Whether a plan can build the step in a moment, from files alone."""
    if isinstance(step.params, SharedTextJob):
        return step.params.evaluation is None
    source = step.params.source if isinstance(step.params, RowsConfig) else step.params
    if isinstance(source, SourceConfig):
        sizes = [Path(file.path).stat().st_size for file in step.files.values()]
        return source.kind is SourceKind.file and sum(sizes) < _MOST_BYTES
    return step.stage == "prepare"
