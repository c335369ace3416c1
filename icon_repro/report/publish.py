"""``action=publish``: an experiment's results go to the folder of committed results, once they are verified.

In: paths.results/<name>, as run, report or compare wrote it.  Out: paths.published/<name>, the same.
Runs write to a folder that git ignores, so that a checkout stays clean; what is committed gets there by this alone.
Every table is made again first (``report.verify``), before the copy and in what will be there after it: nothing is
published that differs, and what was there stays until the new folder is whole. Files there that no report makes
(a study's own) are kept. If a process is killed between the two renames, the next publish puts the old folder back.
Known gap: two that publish the same experiment at the same time aren't kept apart here, but by the command line.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from icon_repro.config.load import Rehearse
from icon_repro.engine.records import read_json
from icon_repro.experiment import Experiment
from icon_repro.report.page import OWN
from icon_repro.report.results import ResultsError, check
from icon_repro.report.verify import made_by_report, verify

_PLACE = ".publishing-"  # and the name: a folder beside the published ones, while one is made
_OLD = "old"  # in it: what was published before


def publish(experiment: Experiment, say: Callable[[str], None]) -> Path:
    """Copy the results of ``experiment``; returns the folder that has them now.

    Raises:
        ResultsError: there is nothing to publish, it can't be made again, or the folder belongs to another
            configuration, or the results do.
    """
    paths, name = experiment.config.paths, experiment.config.name
    source, target = Path(paths.results) / name, Path(paths.published) / name
    if experiment.config.rehearse is not Rehearse.none:
        raise ResultsError(f"{name}: a rehearsal's numbers mean nothing and aren't published. Leave rehearse out.")
    if source.resolve() == target.resolve():
        raise ResultsError(f"paths.results={paths.results}: is paths.published too; runs write there already.")
    kinds = ("run.json", "methods.csv", "incomplete/run.json")
    kind = next((kind for kind in kinds if (source / kind).is_file()), None)
    if kind is None:
        raise ResultsError(f"{source}: has no results to publish. Run the experiment first, or action=report.")
    whole = Path(paths.published) / f"{_PLACE}{name}" / name
    _tidy(whole.parent, target)
    check(experiment)  # the results may be of an earlier command with the same name
    for place in (target, target / "incomplete"):
        check(experiment, folder=place)
    _refuse_differences(source, Path(paths.experiments))
    try:
        _put_together(source, target, whole, kind)
        _refuse_differences(whole, Path(paths.experiments))
        if target.is_dir():
            target.rename(whole.parent / _OLD)
        whole.rename(target)
    finally:
        _tidy(whole.parent, target)
    for line in _made_from(source / kind):
        say(f"warning: {line}")
    say(f"{target}: published from {source}, verified. Commit it: git add {target}")
    return target


def _tidy(place: Path, target: Path) -> None:
    """Remove the folder that a publish works in; what it had moved away goes back if nothing took its place."""
    if (place / _OLD).exists() and not target.exists():
        (place / _OLD).rename(target)
    shutil.rmtree(place, ignore_errors=True)


def _refuse_differences(folder: Path, experiments: Path) -> None:
    """Refuse a folder of which a table is another one than its numbers give."""
    lines: list[str] = []
    if not verify(folder, experiments, lines.append):
        differing = [line for line in lines if line.startswith("differs: ")] or lines
        raise ResultsError(
            "\n  ".join([f"{folder} isn't what its numbers give. Make it anew with action=report:", *differing])
        )


def _put_together(source: Path, target: Path, whole: Path, kind: str) -> None:
    """Make ``whole``: the published folder as it will be.

    Args:
        kind: the file of ``source`` that says what it holds; selections alone keep the note of whose they are.
    """
    whole.mkdir(parents=True)
    complete, left = kind != "incomplete/run.json", () if kind == "methods.csv" else OWN
    if target.is_dir():
        for path in target.iterdir():
            if not complete or not made_by_report(path):
                _copy(path, whole / path.name)
    for path in source.iterdir():
        if path.name not in left and (complete != (path.name == "incomplete")):
            shutil.rmtree(whole / path.name, ignore_errors=True)
            _copy(path, whole / path.name)


def _copy(path: Path, place: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, place)
    else:
        shutil.copyfile(path, place)


def _made_from(run: Path) -> Iterator[str]:
    """What a reader of published results can't look up: code that isn't committed."""
    if run.name == "run.json":
        for state in read_json(run)["git"]:
            if state["commit"] is None:
                yield "steps behind it were made outside a checkout: their commit isn't known"
            elif state["dirty"]:
                yield f"steps behind it were made with uncommitted changes of commit {state['commit']}"
