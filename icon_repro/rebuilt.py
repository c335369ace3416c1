"""Tables of other commands than a report, made again from the numbers that are committed beside them.

In: a folder of results; the authors' released selections, where it is about them.  Out: the same files, elsewhere.
    figures            metrics.jsonl, run.json -> the points of judged, scale, pareto, position
    timings            metrics.jsonl -> table.md
    levels of scoring  bench.json -> table.md
    comparisons        methods.csv, methods_agreement.csv -> methods.md
    pilot              matrices (npy), ids.json -> a csv for each finding, summary.json, summary.md
    released           measures.csv, embeddings.npy and .csv, steps.json, and the released data -> the same
Pictures aren't compared: their bytes depend on the drawing library and its fonts; the points that they show are in csv
files, which are.
Known gap: a csv of numbers with a cell that reads as a number is taken for one; names of methods aren't numbers.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.bench_tables import TIMED, of_levels, of_timings
from icon_repro.intervals import IntervalError
from icon_repro.records import read_json, read_lines
from icon_repro.report.experiment_figures import makers
from icon_repro.report.figures import write_points
from icon_repro.report.material import NotMade
from icon_repro.report.paper_figures import PaperFigures, read_paper_figures
from icon_repro.report.published import published_folder
from icon_repro.report.versions import separated

PICTURES = (".png", ".svg")
WHY_NO_PICTURES = "drawn from the csv files; their bytes depend on the installed matplotlib and fonts"
OF_ROWS = tuple(makers((), PaperFigures()))  # figures that the rows of a report give
_MATRICES = ("*.npy", "ids.json", "bank_lengths.json")
_COPIED = ("measures.csv", "embeddings.npy", "embeddings.csv", "steps.json")  # of steps, in a folder of released ones


class RebuiltError(ValueError):
    """What is stored can't have made a folder's tables."""


@dataclass(frozen=True)
class Kind:
    """How a folder's files can be made again, and why others can't."""

    make: Callable[[Path], None]  # gets an empty folder
    inputs: Sequence[str] = ()  # that ``make`` copies there, as patterns
    others: Mapping[str, str] = field(default_factory=dict)  # what isn't made again -> why
    takes_long: bool = False


def kind(folder: Path, data: Path) -> Kind | str:
    """What can be made again of ``folder``; if nothing, why.

    Args:
        data: the folder with the authors' released selections.
    """
    if (folder / "candidate.npy").is_file() and (folder / "ids.json").is_file():
        others = {"*.npy, ids.json, bank_lengths.json, steps.json": "are what the rest is made of; steps made them"}
        return Kind(partial(_pilot, folder), _MATRICES, others, takes_long=True)
    if (folder / "summary.json").is_file() and (folder / "nesting.csv").is_file():
        if not (data / "released_subsets.csv").is_file():
            return f"needs released_subsets.csv and the rows that it names in {data}, which isn't there"
        others = {", ".join(_COPIED): "are what the rest is made of; steps made them"}
        return Kind(partial(_released, folder, data), _COPIED, others, takes_long=True)
    if (folder / "bench.json").is_file():
        return Kind(partial(_levels, folder), others={"*.json": "were measured"})
    if (folder / "methods.csv").is_file() and (folder / "methods_agreement.csv").is_file():
        why = "need the scores in the work folder; action=compare makes them"
        return Kind(partial(_methods, folder), others={"methods.csv, methods_agreement.csv": why})
    if (folder / "metrics.jsonl").is_file():
        lines = [line for _, line in read_lines(folder / "metrics.jsonl")]
        if lines and all(set(line) == TIMED for line in lines):
            return Kind(partial(_timings, lines), others={"metrics.jsonl": "was measured"})
    return "not a report's tables; its own command makes it"


def figures_of_rows(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any], experiments: Path, made: Path) -> None:
    """Write to ``made`` the points of the figures of a report that its rows alone give.

    Raises:
        PublishedError: published numbers can't be used.
    """
    source = published_folder(run["config"], experiments)
    paper = read_paper_figures(source, run["config"]["model"]["name"]) if source is not None else PaperFigures()
    for make in makers(separated(rows, run)[0], paper).values():
        try:
            figure = make()
        except (NotMade, IntervalError):
            continue  # there is nothing to draw; a stored one is then found to be too many
        write_points(made, figure.name, figure.panels)


def made_again(one: Kind, made: Path) -> list[str]:
    """Make the files in the empty folder ``made``; returns their names.

    Raises:
        ValueError: what is stored is no longer whole.
    """
    one.make(made)
    given = {path.name for pattern in one.inputs for path in made.glob(pattern)}
    return sorted(path.name for path in made.iterdir() if path.name not in given and path.suffix not in PICTURES)


def _pilot(folder: Path, made: Path) -> None:
    from icon_repro.pilot import analyse  # with scipy seconds to import

    _copy(folder, made, _MATRICES)
    analyse(made, pictures=False)


def _released(folder: Path, data: Path, made: Path) -> None:
    from icon_repro.released_report import analyse  # with scipy seconds to import

    _copy(folder, made, _COPIED)
    analyse(data, made, pictures=False)


def _copy(folder: Path, made: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.copy(path, made / path.name)


def _levels(folder: Path, made: Path) -> None:
    (made / "table.md").write_text(of_levels(read_json(folder / "bench.json")), encoding="utf-8")


def _timings(lines: Sequence[Mapping[str, Any]], made: Path) -> None:
    (made / "table.md").write_text(of_timings(lines), encoding="utf-8")


def _methods(folder: Path, made: Path) -> None:
    from icon_repro.compare import as_text, read_lines_of  # with the figures' modules seconds to import

    path = folder / "methods.md"
    title = re.match(r"# Methods of `(.+)`, `(.+)`\n", path.read_text(encoding="utf-8")) if path.is_file() else None
    if title is None:
        raise RebuiltError(f"{path}: doesn't begin with '# Methods of `experiment`, `model`'. Run action=compare.")
    each, pairs = (read_lines_of(folder / name) for name in ("methods.csv", "methods_agreement.csv"))
    (made / path.name).write_text(as_text(title[1], title[2], each, pairs), encoding="utf-8")
