"""An experiment's folder ``<paths.results>/<name>/``: what is written there, and whose it is.

In: a plan and its store.  Out: table and verdicts (md, csv, tex), judged where a judge was asked, tables beside the
paper's and claims where ``published`` names them, metrics.jsonl, run.json; a copy to W&B.
The folder holds complete tables only: one with missing cells goes to ``incomplete/`` in it, which the next complete one
removes. run.json says what made the table: config, sources, steps, commits, package versions, also by cell; no times,
hosts, folders.

The folder belongs to one configuration. A later report may add seeds, fractions, methods, benchmarks and the base and
full rows, and may replace numbers that a change of code or of what doesn't change results has made anew. It is refused
if a stored number would go because a setting or a source has another value, or because its row or column was dropped.
Settings that only one of the two versions of the code knows don't count. Selections (until=select) of a file whose
content has changed are replaced, outside a sweep.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from icon_repro.config.load import Config, Rehearse
from icon_repro.engine.artifact import Step, Store, differences
from icon_repro.engine.console import LOG
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.schema import plain
from icon_repro.evaluate.items import ItemsError
from icon_repro.experiment import Experiment
from icon_repro.report import selection_overlap
from icon_repro.report.collect import collect, provenance, results, sources
from icon_repro.report.console_tables import terminal_width
from icon_repro.report.losses import losses
from icon_repro.report.paper.published import PublishedError, published_folder, read_published
from icon_repro.report.presentation import present
from icon_repro.report.settings import SHOWN, Otherwise, changes, filled, public
from icon_repro.report.wandb_runs import log_experiment

FORMAT = 1  # of run.json
SELECTED = "selected.json"  # in the place of run.json after until=select
_LEASE_S = 60.0
_PATIENCE_S = 600.0  # with another process that writes the same results


class ResultsError(ValueError):
    """The results folder belongs to another configuration, or the stored results can't make a table."""


def check(experiment: Experiment, *, in_sweep: bool = False, folder: Path | None = None) -> None:
    """Refuse to write to the folder of another configuration, or beside published numbers that can't be read.

    Args:
        in_sweep: selections of other rows aren't replaced either: they may be those of the sweep's last job.
        folder: to write to; None: the experiment's own in paths.results.

    Raises:
        ResultsError: names what differs and what to do.
    """
    config = experiment.config
    try:
        if (beside := published_folder(plain(config), Path(config.paths.experiments))) is not None:
            read_published(beside)
    except PublishedError as error:
        raise ResultsError(str(error)) from error
    folder = folder or Path(config.paths.results) / config.name
    _check_against(experiment, folder / "run.json", {step.folder for step in results(experiment)})
    _check_against(experiment, folder / SELECTED, _selections(experiment), rows_may_change=not in_sweep)


def place_of(config: Config) -> Path:
    """The folder to read an experiment's results from: its own run's, or the published one where there is none."""
    own, published = (Path(root) / config.name for root in (config.paths.results, config.paths.published))
    return published if published.is_dir() and not own.is_dir() else own


def note_selections(experiment: Experiment) -> None:
    """Say in the results folder whose selections (until=select) it holds, for ``check``."""
    config = experiment.config
    run = {"format": FORMAT, "config": public(filled(config)), "sources": sources(experiment)}
    write_json(Path(config.paths.results) / config.name / SELECTED, {**run, "results": sorted(_selections(experiment))})


def _selections(experiment: Experiment) -> set[str]:
    return {step.folder for step in experiment.steps if step.stage == "select"}


def _check_against(experiment: Experiment, file: Path, planned: set[str], *, rows_may_change: bool = False) -> None:
    """Refuse if results that ``file`` names would be lost, as a setting has another value.

    Args:
        planned: folders of the steps of this kind in the plan.
        rows_may_change: whether other contents of the sources are no other configuration.
    """
    folder, config = file.parent, experiment.config
    if not file.is_file():
        return
    stored = read_json(file)
    if not isinstance(stored, dict) or not {"format", "config", "results", "sources"} <= set(stored):
        raise ResultsError(f"{file}: isn't what a report writes. Give another name=..., or delete {folder}.")
    if stored["format"] > FORMAT:
        raise ResultsError(f"{file}: format {stored['format']}, this version reads up to {FORMAT}. Update icon_repro.")
    lost = [step for step in stored["results"] if step not in planned]
    differing = changes(stored["config"], filled(config), "")
    if not rows_may_change:
        differing += differences(*_common(stored["sources"], sources(experiment)), "sources")
    if lost and experiment.unresolved:  # then steps have other names for want of a commit, not of a setting
        raise ResultsError(
            f"{folder} holds {len(stored['results'])} results, and whether they are of this configuration can't be "
            f"told: which commit {experiment.unresolved[0]} is isn't known on this machine. Run action=plan once with "
            "a network, or set the commit; the results are sound as they are."
        )
    if lost and differing:
        more = [f"and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        raise ResultsError(
            "\n  ".join(
                [
                    f"{folder} holds results of another configuration; {len(lost)} of {len(stored['results'])} would "
                    f"be lost (first: {lost[0]}). Give another name=..., or delete {folder}. What differs:",
                    *differing[:SHOWN],
                    *more,
                ]
            )
        )


@contextmanager
def writing(store: Store, name: str) -> Iterator[None]:
    """Hold the results of experiment ``name``: processes that run it together report one after the other.

    Raises:
        ResultsError: another process holds them for ``_PATIENCE_S``.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    # a lease, as steps have: file systems without flock have it too, and a killed process's ends
    lock = SoftFileLease(store.root / f".report-{name}.lease", lease_duration=_LEASE_S, timeout=_PATIENCE_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise ResultsError(
            f"{name}: another process has been writing these results for {_PATIENCE_S:.0f} s. End it, or wait; then "
            "action=report."
        ) from error
    try:
        yield
    finally:
        lock.release()


class ReadOnce(Store):
    """A store of which each record is read once: while a report is made, no step is built here.

    Records are shared: they aren't to be changed.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._records: dict[str, dict[str, Any]] = {}

    def record(self, step: Step) -> dict[str, Any]:
        if step.folder not in self._records:
            self._records[step.folder] = super().record(step)
        return self._records[step.folder]


def report(
    experiment: Experiment,
    store: Store,
    say: Callable[[str], None],
    *,
    figures: bool = True,
    arguments: Sequence[str] = (),
    otherwise: Otherwise | None = None,
) -> bool:
    """Write tables, figures and page from what is stored, and log them.

    Args:
        say: gets what was done, and at last what was found, with a narrow table (``report.summary``).
        figures: False leaves out figures and page.
        arguments: of the command that was given, for the commands that the end names.
        otherwise: settings of this run that aren't those of the experiment's file.

    Returns:
        Whether the table is complete.

    Raises:
        ResultsError: see ``check``; or stored outcomes contradict each other.
    """
    from icon_repro.report import outputs as written  # scipy takes a second to import, and other actions don't need it
    from icon_repro.report import summary
    from icon_repro.report.tables import complete as no_cell_missing
    from icon_repro.report.versions import made_with, separated

    check(experiment)
    config, store = experiment.config, ReadOnce(store.root)
    with writing(store, config.name):
        try:
            rows = collect(experiment, store)
        except ItemsError as error:
            raise ResultsError(f"{config.name}: {error}") from error
        folder = Path(config.paths.results) / config.name
        settings = {key: value for key, value in public(filled(config)).items() if key not in {"cluster", "tracking"}}
        run = {"format": FORMAT, "config": settings, **provenance(experiment, store)}
        run["made_with"] = made_with(experiment, store)
        run["otherwise"] = None if otherwise is None else dataclasses.asdict(otherwise)
        run["losses"] = [*losses(experiment, store), *selection_overlap.sentences(rows)]
        try:
            shown, _ = separated(rows, run)
            complete = no_cell_missing(shown)
            target = folder if complete else folder / "incomplete"
            outputs = written.write_all(rows, run, Path(config.paths.experiments), target)
        except written.PROBLEMS as error:
            raise ResultsError(f"{config.name}: {error}") from error
        LOG.debug("%s", f"\n{outputs.text}")
        say(f"{target}/table.md, verdicts.md, their csv and tex, metrics.jsonl, run.json")
        write_json(target / "run.json", run)
        if complete:
            shutil.rmtree(folder / "incomplete", ignore_errors=True)
        else:
            stays = "; the complete one beside it stays" if (folder / "table.md").is_file() else ""
            say(f"warning: cells are missing (see table.md): the table is in {target}{stays}")
        for note in outputs.notes:
            say(f"warning: {note}")
        if figures:
            try:
                paper = published_folder(settings, Path(config.paths.experiments))
                present(experiment, store, shown, target, say, paper)
            except written.PROBLEMS as error:
                raise ResultsError(f"{config.name}: {error}") from error
    say(log_experiment(experiment, store, public(config), shown, outputs.table, target))
    if config.rehearse is Rehearse.none:
        primary, width = run["config"].get("primary"), terminal_width()
        end = summary.closing(shown, outputs.compared, primary, target, arguments, complete=complete, width=width)
        say("\n".join(end))
    return complete


def _common(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    both = [key for key in old if key in new]
    return {key: old[key] for key in both}, {key: new[key] for key in both}
