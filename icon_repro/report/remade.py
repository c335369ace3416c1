"""``python -m icon_repro.report.remade FOLDER..``: make tables, figures of rows and the page again from stored numbers.

In: results folders with metrics.jsonl and run.json (of others the page alone is made).  Out: the same folders.
For numbers whose steps aren't here, after a change of what tables say; where the steps are, ``action=report`` does it.
Figures that need scores, selections or vectors stay as they are.
Known gap: none.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import file_sha256
from icon_repro.engine.records import CHECKSUM, read_json, sealed, write_json
from icon_repro.report import page
from icon_repro.report.figures.draw import write_figure
from icon_repro.report.figures.experiment_figures import makers, methods_of
from icon_repro.report.figures.material import NotMade
from icon_repro.report.figures.series import FigureError
from icon_repro.report.intervals import IntervalError
from icon_repro.report.outputs import write_all
from icon_repro.report.paper.paper_figures import PaperFigures, read_paper_figures
from icon_repro.report.paper.published import published_folder
from icon_repro.report.row_tables import SCORES, SELECTIONS
from icon_repro.report.rows import FILE, ResultRow, read_result_rows
from icon_repro.report.versions import separated

_SUFFIXES = ("png", "svg", "csv")


def remake(folder: Path, experiments: Path, rows: Sequence[ResultRow] | None = None) -> str:
    """Write tables, figures and page of ``folder`` again; returns the tables as text.

    Args:
        experiments: the folder with a folder for each experiment's published numbers.
        rows: what metrics.jsonl is to hold, if not what it holds.

    Raises:
        FileNotFoundError, RecordError: metrics.jsonl or run.json isn't there or can't be read.
        RunsError, StatsError, PublishedError, ClaimsError: see ``report.outputs``.
    """
    run = read_json(folder / "run.json")
    shown = read_result_rows(folder / FILE) if rows is None else rows
    outputs = write_all(shown, run, experiments, folder)
    if (folder / "figures" / "figures.json").is_file():
        _figures(shown, run, experiments, folder)
    page.write(folder, folder / "index.html")
    return outputs.text


def _figures(rows: Sequence[ResultRow], run: Mapping[str, Any], experiments: Path, folder: Path) -> None:
    """Draw what the rows give; texts and checksums of other figures stay."""
    place = folder / "figures"
    described = {key: value for key, value in read_json(place / "figures.json").items() if key != CHECKSUM}
    source = published_folder(run["config"], experiments)
    paper = read_paper_figures(source, run["config"]["model"]["name"]) if source is not None else PaperFigures()
    texts = {one["name"]: one for one in described["figures"]}
    reasons = {one["name"]: one for one in described["not_made"]}
    for name, make in makers(separated(rows, run)[0], paper, run["config"].get("primary")).items():
        try:
            figure = make()
            write_figure(place, figure.name, figure.title, figure.panels, svg=True, methods=methods_of(rows))
        except (NotMade, FigureError, IntervalError) as reason:
            texts.pop(name, None)
            reasons[name] = {"name": name, "reason": str(reason)}
            for suffix in _SUFFIXES:
                (place / f"{name}.{suffix}").unlink(missing_ok=True)
            continue
        reasons.pop(name, None)
        about = {"name": figure.name, "title": figure.title, "caption": figure.caption, "alt": figure.alt}
        texts[name] = {**about, "wide": len(figure.panels) > 1}
    files = [f"figures/{name}.{suffix}" for name in texts for suffix in _SUFFIXES]
    files += [name for name in ("samples.jsonl", SELECTIONS, SCORES) if (folder / name).is_file()]
    described |= {"figures": list(texts.values()), "not_made": list(reasons.values())}
    described["files"] = {name: file_sha256(folder / name) for name in files}
    write_json(place / "figures.json", sealed(described))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"))
    given = parser.parse_args(arguments)
    for folder in given.folders:
        if (folder / "run.json").is_file():
            print(f"{folder}\n{remake(folder, given.experiments)}")
        elif page.write(folder, folder / "index.html"):
            print(f"{folder}/index.html")


if __name__ == "__main__":
    main()
