"""What of an experiment is looked at: figures, samples and the page, in the folder of its tables.

In: the plan, its store, the rows of results, and the folder where the tables already are.
Out: figures/ (png, svg, csv; figures.json: their texts, what they were made of, which weren't made and why),
samples.jsonl, index.html; the same page with whole texts of the samples in the work folder, pages/<name>.html.
Nothing is made again that would come out the same: figures.json and the page say what they were made of.
Known gap: if a change of matplotlib or of this code should change figures, ``_VERSION`` has to be raised by hand.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import Step, Store, ordered
from icon_repro.engine.plan import Experiment
from icon_repro.records import Example, read_json, read_rows, write_json, write_rows
from icon_repro.report import page
from icon_repro.report.paper_figures import PaperFigures, read_paper_figures

_VERSION = 1  # of what figures and samples look like


def present(
    experiment: Experiment,
    store: Store,
    rows: Sequence[Mapping[str, Any]],
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
    beside = read_paper_figures(paper, experiment.config.model.name) if paper is not None else PaperFigures()
    made = [_VERSION, rows, sorted(step.folder for step in steps), dataclasses.asdict(beside)]
    text = json.dumps(made, sort_keys=True, ensure_ascii=True)
    made_of = hashlib.sha256(text.encode()).hexdigest()[:16]
    if not _current(folder / "figures", made_of):
        from icon_repro.gathering import draw, gathered  # take seconds to import, which a cached run does without
        from icon_repro.report.samples import samples

        material = gathered(experiment, steps, store, partial(_rows, experiment, store))
        write_rows(folder / "samples.jsonl", samples(material))
        described = draw(folder / "figures", rows, material, beside)
        about = {"experiment": experiment.config.name, "description": experiment.config.description.strip()}
        about["model"] = experiment.config.model.name
        write_json(folder / "figures" / "figures.json", {"made_of": made_of, **about, **described})
        missing = "".join(f"\n  no {one['name']}: {one['reason']}" for one in described["not_made"])
        say(f"{folder}/figures: {len(described['figures'])} figures{missing}")
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
    if not (folder / "figures.json").is_file():
        return False
    stored = read_json(folder / "figures.json")
    names = [f"{one['name']}.{suffix}" for one in stored["figures"] for suffix in ("png", "svg", "csv")]
    return stored["made_of"] == made_of and all((folder / name).is_file() for name in names)


def _texts(experiment: Experiment, store: Store) -> dict[str, Example]:
    """The rows by id; none if their file is gone."""
    try:
        return _rows(experiment, store)
    except FileNotFoundError:
        return {}


def _rows(experiment: Experiment, store: Store) -> dict[str, Example]:
    for select in _selections(experiment):
        if store.complete(select):
            return {row.id: row for row in read_rows(store.path(select.inputs["universe"]) / "rows.jsonl", Example)}
    return {}
