"""Read scores, selections, embeddings and pairs of an experiment from its store, and draw the figures of them.

In: finished steps.  Out: ``Material``; figures/ with the texts of its figures and why others weren't made.
Known gap: pairs of the first ``_CANDIDATES`` candidates only are read for the reliability of ICon's score.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.records import read_json, read_rows
from icon_repro.experiment import Experiment
from icon_repro.methods.agreement import ReliabilityError
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import IconConfig, resolved
from icon_repro.report.figures import experiment_figures, selection_figures
from icon_repro.report.figures.draw import write_figure
from icon_repro.report.figures.material import Figure, Material, NotMade, Ranked, Values
from icon_repro.report.figures.series import FigureError
from icon_repro.report.intervals import IntervalError
from icon_repro.report.paper.paper_figures import PaperFigures
from icon_repro.report.rows import ResultRow

_CANDIDATES = 2000
_IFD, _EMBEDDINGS = "icon_repro.methods.ifd:run", "icon_repro.methods.common.embeddings:shard"
_ICON, _ADAPTIVE = "icon_repro.methods.icon.score:run", "icon_repro.methods.icon.score:adaptive"
_RANDOM = ("icon_repro.methods.random:run", "icon_repro.methods.random:matched")
_OF_MATERIAL: Mapping[str, Callable[[Material], Figure]] = {
    "length": selection_figures.length,
    "overlap": selection_figures.overlaps,
    "ifd": selection_figures.ifd,
    "tsne": selection_figures.embedded,
    "reliability": selection_figures.reliable,
}


_SLOW = ("tsne",)  # to compute, in code that lets other threads run


def draw(
    folder: Path,
    rows: Sequence[ResultRow],
    material: Material,
    paper: PaperFigures,
    primary: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all figures that there is something for; which these are, and why the others aren't there.

    Args:
        primary: the comparison that the experiment's config names beforehand.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    methods = experiment_figures.methods_of(rows) or [ranked.method for ranked in material.methods()]
    makers = experiment_figures.makers(rows, paper, primary)
    position = makers.pop("position")
    makers |= {name: partial(make, material) for name, make in _OF_MATERIAL.items()}
    makers["position"] = position
    drawn, without = [], []
    with ThreadPoolExecutor(1) as beside:
        makers |= {name: beside.submit(makers[name]).result for name in _SLOW}  # while the others are drawn
        for name, make in makers.items():
            try:
                figure = make()
                write_figure(folder, figure.name, figure.title, figure.panels, svg=True, methods=methods)
            except (NotMade, FigureError, IntervalError, ReliabilityError) as reason:
                without.append({"name": name, "reason": str(reason)})
                continue
            texts = {"name": figure.name, "title": figure.title, "caption": figure.caption, "alt": figure.alt}
            drawn.append({**texts, "wide": len(figure.panels) > 1})
    without += [{"name": name, "reason": why} for name, why in material.absent.items() if name not in makers]
    return {"figures": drawn, "not_made": without}


def gathered(
    experiment: Experiment, steps: Sequence[Step], store: Store, read: Callable[[], dict[str, Example]]
) -> Material:
    """What the store has of scores, selections, embeddings and pairs; a file that is gone counts as never made.

    Args:
        steps: the finished ones behind selections, and these.
        read: gives the rows that every method ranks, by id.
    """
    absent: dict[str, str] = {}

    def tried(figure: str, reading: Callable[[], Any]) -> Any:
        try:
            return reading()
        except FileNotFoundError as error:
            path = Path(error.filename)
            absent[figure] = f"{path.parent.name}/{path.name} is no longer in the work folder"
        except (IconScoreError, NotMade) as error:
            absent[figure] = str(error)
        return None

    selects: dict[tuple[str, int | None], dict[str, Step]] = {}
    for arm in experiment.arms:
        if arm.select is not None and store.complete(arm.select):
            selects.setdefault((arm.method, arm.selection_seed), {})[arm.select.folder] = arm.select
    ranked = []
    for (method, seed), own in selects.items():
        label = f"scores of {method}" if seed is None else f"scores of {method}-r{seed}"
        if (found := tried(label, partial(_ranked, method, seed, list(own.values()), store))) is not None:
            ranked.append(found)
    rows = tried("rows", read) or {}
    ifd: dict[str, Mapping[str, float]] = {}
    contributions: dict[str, Values] = {}
    vectors = None
    for step in steps:
        if step.target == _IFD:
            if (values := tried("ifd", partial(_ifd, step, store))) is not None:
                ifd[step.name] = values
        elif step.target == _ICON:
            if (task := tried("reliability", partial(_contributions, step, store))) is not None:
                contributions[step.name] = task
        elif step.target == _ADAPTIVE:
            absent["reliability"] = "adaptive scoring leaves pairs out, so variance components can't be had"
        elif vectors is None and any(given.target == _EMBEDDINGS for given in step.inputs.values()):
            vectors = tried("tsne", partial(_vectors, step, store))
    return Material(rows, ranked, ifd, vectors, contributions, absent)


def _ranked(method: str, seed: int | None, selects: Sequence[Step], store: Store) -> Ranked:
    """One method's scores (of its first selection, where fractions have scores of their own) and all selections."""
    given = selects[0].inputs["scores"]
    scores = {row.id: row for row in read_rows(store.path(given) / "scores.jsonl", Score)}
    selected = {select.params.fraction: read_json(store.path(select) / "ids.json") for select in selects}
    return Ranked(method, seed, scores, selected, random=given.target in _RANDOM)


def _ifd(step: Step, store: Store) -> dict[str, float]:
    """Of all rows that have one, those above 1 too: from the losses, as the scores may leave rows out."""
    ifd_of: dict[str, float] = {}
    by_perplexity = step.params.ratio.value == "perplexity"
    for name in sorted(name for name in step.inputs if name.startswith("shard-")):
        folder = store.path(step.inputs[name])
        ids = read_json(folder / "ids.json")["rows"]
        conditioned, direct = (
            np.load(folder / f"{part}.npy", allow_pickle=False) for part in ("conditioned", "direct")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.exp(conditioned - direct) if by_perplexity else conditioned / direct
        ifd_of |= {i: float(v) for i, v in zip(ids, values, strict=True) if np.isfinite(v)}
    return ifd_of


def _vectors(step: Step, store: Store) -> tuple[list[str], NDArray[np.float32]]:
    """Embeddings of the rows that have one."""
    ids: list[str] = []
    parts: list[NDArray[np.float32]] = []
    for name in sorted(name for name in step.inputs if name.startswith("shard-")):
        folder = store.path(step.inputs[name])
        described, vectors = read_json(folder / "ids.json"), np.load(folder / "vectors.npy", allow_pickle=False)
        with_vector = [i for i, identifier in enumerate(described["rows"]) if identifier not in described["reasons"]]
        ids += [described["rows"][i] for i in with_vector]
        if with_vector:  # a shard without rows doesn't know how long a vector is: fewer rows came than were expected
            parts.append(vectors[with_vector])
    if not ids:
        raise NotMade("no row has an embedding")
    return ids, np.concatenate(parts)


def _contributions(step: Step, store: Store) -> Values:
    """Contributions of the first candidates to every assessment row that has a finite one of each."""
    assert isinstance(step.params, IconConfig)
    inputs = {name: store.path(given) for name, given in step.inputs.items()}
    parts: list[Values] = []
    for block in Matrices(resolved(step.params), inputs).blocks(inputs, "shard"):
        parts.append(block.task[:, np.argsort(block.columns)])
        if sum(map(len, parts)) >= _CANDIDATES:
            break
    task = np.concatenate([part for part in parts if len(part)])
    return np.asarray(task[:, np.isfinite(task).all(axis=0)])
