"""Make the tables of other commands than a report again, from the numbers that are committed beside them.

In: a folder of results.  Out: the same files, elsewhere.
    figures            metrics.jsonl, run.json -> the points of judged, scale, pareto, position
    comparisons        methods.csv, methods_agreement.csv, losses.json -> methods.md
    studies            results/NAME as ``rebuild(folder, data)`` in experiments/NAME/rebuild.py says
Studies lie in a checkout, beside the package. Pictures aren't compared: their bytes depend on the drawing library and
its fonts; the points that they show are in csv files, which are.
Known gap: a csv of numbers with a cell that reads as a number is taken for one; names of methods aren't numbers.
"""

import importlib.util
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.engine.records import read_json
from icon_repro.report.figures.draw import write_points
from icon_repro.report.figures.experiment_figures import makers
from icon_repro.report.figures.material import NotMade
from icon_repro.report.intervals import IntervalError
from icon_repro.report.paper.paper_figures import PaperFigures, read_paper_figures
from icon_repro.report.paper.published import published_folder
from icon_repro.report.rows import ResultRow
from icon_repro.report.versions import separated

PICTURES = (".png", ".svg")
WHY_NO_PICTURES = "drawn from the csv files; their bytes depend on the installed matplotlib and fonts"
OF_ROWS = tuple(makers((), PaperFigures()))  # figures that the rows of a report give


class RebuiltError(ValueError):
    """What is stored can't have made a folder's tables."""


@dataclass(frozen=True)
class Rebuild:
    """How a folder's files can be made again, and why others can't."""

    make: Callable[[Path], None]  # gets an empty folder
    inputs: Sequence[str] = ()  # that ``make`` copies there, as patterns
    others: Mapping[str, str] = field(default_factory=dict)  # what isn't made again -> why
    takes_long: bool = False


def rebuild_of(folder: Path, results: Path, experiments: Path, data: Path) -> Rebuild | str:
    """What can be made again of ``folder``; if nothing, why.

    Args:
        results: the folder below which ``folder`` lies; results/NAME belongs to the study experiments/NAME.
        data: the folder with the authors' released selections.

    Raises:
        RebuiltError: the study's rebuild.py can't be used.
    """
    if (folder / "methods.csv").is_file() and (folder / "methods_agreement.csv").is_file():
        why = "need the scores in the work folder; action=compare makes them"
        return Rebuild(partial(_methods, folder), others={"methods.csv, methods_agreement.csv": why})
    name = folder.relative_to(results).parts[0] if folder != results else folder.name
    study = experiments / name / "rebuild.py"
    if study.parent.is_dir() and not study.is_file():
        return f"not a report's tables; the command in {study.parent / 'README.md'} makes it"
    if not study.is_file():
        return (
            f"not a report's tables; its own command makes it. {study} would make it again and isn't there: verify in "
            "a checkout, or set paths.experiments to the folder of its studies"
        )
    return _load(study)(folder, data)


def _load(study: Path) -> Callable[[Path, Path], Rebuild | str]:
    """The function ``rebuild`` of a study's rebuild.py."""
    spec = importlib.util.spec_from_file_location(f"experiments.{study.parent.name}.rebuild", study)
    assert spec is not None and spec.loader is not None, "the file exists and ends in .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function: Callable[[Path, Path], Rebuild | str] = module.rebuild
    except (ImportError, AttributeError, SyntaxError) as error:
        raise RebuiltError(
            f"{study}: can't be used ({type(error).__name__}: {error}). It needs a function rebuild(folder, data) that "
            "returns icon_repro.report.rebuild.Rebuild."
        ) from error
    return function


def copy(folder: Path, made: Path, patterns: Sequence[str]) -> None:
    """Copy the files of ``folder`` that fit a pattern into ``made``."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.copy(path, made / path.name)


def figures_of_rows(rows: Sequence[ResultRow], run: Mapping[str, Any], experiments: Path, made: Path) -> None:
    """Write to ``made`` the points of the figures of a report that its rows alone give.

    Raises:
        PublishedError: published numbers can't be used.
    """
    source = published_folder(run["config"], experiments)
    paper = read_paper_figures(source, run["config"]["model"]["name"]) if source is not None else PaperFigures()
    for make in makers(separated(rows, run)[0], paper, run["config"].get("primary")).values():
        try:
            figure = make()
        except (NotMade, IntervalError):
            continue  # there is nothing to draw; a stored one is then found to be too many
        write_points(made, figure.name, figure.panels)


def made_again(one: Rebuild, made: Path) -> list[str]:
    """Make the files in the empty folder ``made``; returns their names.

    Raises:
        ValueError: what is stored is no longer whole.
    """
    one.make(made)
    given = {path.name for pattern in one.inputs for path in made.glob(pattern)}
    return sorted(path.name for path in made.iterdir() if path.name not in given and path.suffix not in PICTURES)


def _methods(folder: Path, made: Path) -> None:
    from icon_repro.report.compare import LOSSES, as_text, read_lines_of  # with the figures' modules seconds to import

    path = folder / "methods.md"
    title = re.match(r"# Methods of `(.+)`, `(.+)`\n", path.read_text(encoding="utf-8")) if path.is_file() else None
    if title is None:
        raise RebuiltError(f"{path}: doesn't begin with '# Methods of `experiment`, `model`'. Run action=compare.")
    each, pairs = (read_lines_of(folder / name) for name in ("methods.csv", "methods_agreement.csv"))
    lost = read_json(folder / LOSSES) if (folder / LOSSES).is_file() else []
    (made / path.name).write_text(as_text(title[1], title[2], each, pairs, lost), encoding="utf-8")
