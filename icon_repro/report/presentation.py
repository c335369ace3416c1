"""Make what people look at: figures, samples and the page, in the folder of an experiment's tables.

In: the plan, its store, the rows of results, and the folder where the tables already are.
Out: figures/ (png, svg, csv; figures.json: their texts, checksums, what they were made of, which weren't made and why),
samples.jsonl, selections.parquet and scores.parquet (``report.row_tables``), index.html; the same page with whole texts
of the samples in the work folder, pages/<name>.html.
Nothing is made again that would come out the same: figures.json and the page say what they were made of. A file that is
gone or altered is made again.
Known gap: if a change of matplotlib or of this code should change figures, ``_VERSION`` has to be raised by hand.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Step, Store, file_sha256, ordered
from icon_repro.engine.console import LOG
from icon_repro.engine.records import RecordError, read_json, read_rows, seal_holds, sealed, write_json, write_rows
from icon_repro.engine.schema import plain
from icon_repro.experiment import Experiment
from icon_repro.report import page, row_tables
from icon_repro.report.paper.paper_figures import PaperFigures, read_paper_figures
from icon_repro.report.rows import ResultRow, row_as_stored

_VERSION = 5  # of what figures and samples look like


def present(
    experiment: Experiment,
    store: Store,
    rows: Sequence[ResultRow],
    folder: Path,
    say: Callable[[str], None],
    paper: Path | None = None,
) -> None:
    """Make what isn't there or was made of something else.

    Args:
        paper: the folder with published numbers, of which there may be some in figures.

    Raises:
        PublishedError: they can't be used.
    """
    steps = _behind(experiment, store)
    primary = plain(experiment.config).get("primary")
    beside = read_paper_figures(paper, experiment.config.model.name) if paper is not None else PaperFigures()
    shown = [
        _VERSION,
        [row_as_stored(row) for row in rows],
        sorted(step.folder for step in steps),
        dataclasses.asdict(beside),
        primary,
    ]
    text = json.dumps(shown, sort_keys=True, ensure_ascii=True)
    made_of = hashlib.sha256(text.encode()).hexdigest()[:16]
    if not _current(folder, made_of):
        from icon_repro.report.figures.from_store import (  # take seconds to import, which a cached run does without
            draw,
            gathered,
        )
        from icon_repro.report.figures.samples import samples

        material = gathered(experiment, steps, store, partial(_rows, experiment, store))
        write_rows(folder / "samples.jsonl", samples(material))
        row_tables.write(experiment, store, folder)
        described = draw(folder / "figures", rows, material, beside, primary)
        about = {"experiment": experiment.config.name, "description": experiment.config.description.strip()}
        about["model"] = experiment.config.model.name
        tables = [name for name in (row_tables.SELECTIONS, row_tables.SCORES) if (folder / name).is_file()]
        files = {name: file_sha256(folder / name) for name in [*_files(described["figures"]), *tables]}
        whole = {"made_of": made_of, "files": files, **about, **described}
        write_json(folder / "figures" / "figures.json", sealed(whole))
        missing = ", ".join(one["name"] for one in described["not_made"])
        for one in described["not_made"]:
            LOG.debug("  no %s: %s", one["name"], one["reason"])
        without = f"; the page says why there is none of {missing}" if missing else ""
        say(f"{folder}/figures: {len(described['figures'])} figures{without}")
    if page.write(folder, folder / "index.html"):
        say(f"{folder}/index.html")
    full = store.root / "pages" / f"{experiment.config.name}.html"
    if page.write(folder, full, partial(_texts, experiment, store)):
        say(f"{full}: the same with whole texts of the samples; not to be passed on")


def _behind(experiment: Experiment, store: Store) -> list[Step]:
    """The finished steps that selections were made of, and the selections."""
    return [step for step in ordered(_selections(experiment)) if store.complete(step)]


def _selections(experiment: Experiment) -> list[Step]:
    return list({arm.select.folder: arm.select for arm in experiment.arms if arm.select is not None}.values())


def _current(folder: Path, made_of: str) -> bool:
    """Whether what is there was made of this, and is as it was made."""
    try:
        stored = read_json(folder / "figures" / "figures.json")
    except (FileNotFoundError, RecordError):
        return False
    if not isinstance(stored, dict) or not {"made_of", "figures"} <= set(stored) or stored["made_of"] != made_of:
        return False
    return seal_holds(stored) and all(
        (folder / name).is_file() and file_sha256(folder / name) == known for name, known in stored["files"].items()
    )


def _files(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the samples and of each figure's files, below the results folder."""
    names = [f"figures/{one['name']}.{suffix}" for one in figures for suffix in ("png", "svg", "csv")]
    return ["samples.jsonl", *names]


def _texts(experiment: Experiment, store: Store) -> dict[str, Example]:
    """The rows by id; none if their file is gone."""
    try:
        return _rows(experiment, store)
    except FileNotFoundError:
        return {}


def _rows(experiment: Experiment, store: Store) -> dict[str, Example]:
    """The rows that methods rank, by id; with several pools those of all."""
    selects = [select for select in _selections(experiment) if store.complete(select)]
    folders = dict.fromkeys(store.path(select.inputs["universe"]) for select in selects)
    return {row.id: row for folder in folders for row in read_rows(folder / "rows.jsonl", Example)}
