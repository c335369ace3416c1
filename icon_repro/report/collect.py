"""Collect the stored results of an experiment as flat rows, from which tables and trackers are made.

In: an Experiment and its store.  Out: a ``ResultRow`` for each run (method, fraction, seeds) with every
benchmark and comparison by a judge, the outcomes of their items, the steps that made them, and what selection and
tuning cost; and which code, packages and sources are behind them.
Holds nothing that differs between two runs of the same steps, and no folder of this machine.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.data.overlap import SHARED
from icon_repro.engine.artifact import Cost, Step, Store, ancestors, ordered
from icon_repro.engine.records import read_json
from icon_repro.engine.run import status
from icon_repro.evaluate.held_out_measures import FACTS, RowFacts, cells, names, read_facts
from icon_repro.evaluate.items import of_evaluation, of_verdicts, values_of, win_rate
from icon_repro.evaluate.options import TaskKind
from icon_repro.experiment import Arm, Experiment
from icon_repro.lm.answered_by import KEY
from icon_repro.report import selection_overlap
from icon_repro.report.checksums import Intact
from icon_repro.report.rows import ResultRow, row_from

LEFT_OUT = "judge.methods or judge.fractions leave it out"


def collect(experiment: Experiment, store: Store) -> list[ResultRow]:
    """One row an arm; a benchmark without a result is named under ``missing`` with the reason, a set of prompts under
    ``unjudged``.

    Raises:
        ArtifactError: steps are damaged in what tables and figures read of them.
        ItemsError: a step's outcomes contradict its value.
        MeasuresError: held-out NLLs and their rows' facts that can't make a measure.
    """
    Intact(store).check(results(experiment), experiment.steps)
    known = {
        name: read_facts(read_json(store.path(step) / FACTS))
        for name, step in experiment.held_out_rows.items()
        if store.complete(step)
    }
    rows = [_row(experiment, arm, store, known) for arm in experiment.arms]
    shared = _shared_text(experiment, store) if experiment.shared_text else [None] * len(rows)
    for row, arm, found in zip(rows, experiment.arms, shared, strict=True):
        row["shared_text"] = found
        if any(experiment.shared_selecting.values()):
            row["shared_selecting"] = selection_overlap.of_arm(experiment, arm, store)
    return [row_from(row, f"results of {row['method']}") for row in rows]


def results(experiment: Experiment) -> list[Step]:
    """The steps that cells of tables show."""
    return [step for arm in experiment.arms for step in (*arm.evaluations.values(), *arm.judged.values())]


def provenance(experiment: Experiment, store: Store) -> dict[str, Any]:
    """What the finished steps behind the table say of themselves; a list for what may differ from step to step.

    Returns:
        ``results``: folders of the finished steps that cells show; ``steps``: these, all that they need, and those of
        shared text and held-out rows; ``git``, ``packages`` (with python): every state and version found in the steps'
        records; ``sources``: label of a step that reads from outside -> sha256 of its files, commits.
    """
    shown = results(experiment)
    steps = [step for step in ordered(shown) if store.complete(step)]
    beside = [
        *experiment.shared_text.values(),
        *experiment.held_out_rows.values(),
        *selection_overlap.steps(experiment),
    ]
    compared = [step.folder for step in ordered(beside) if store.complete(step)]
    records = [store.record(step) for step in steps]
    packages: dict[str, set[str | None]] = {}
    for record in records:
        for name, version in {"python": record["python"], **record["packages"]}.items():
            packages.setdefault(name, set()).add(version)
    git = {json.dumps({"commit": record["git"]["commit"], "dirty": record["git"]["dirty"]}) for record in records}
    return {
        "results": sorted(step.folder for step in shown if store.complete(step)),
        "steps": sorted({*compared, *(step.folder for step in steps)}),
        "git": [json.loads(state) for state in sorted(git)],
        "packages": {name: sorted(found, key=str) for name, found in packages.items()},
        "sources": sources(experiment),
    }


def sources(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Label of each step that reads from outside -> sha256 of its files by name, and hashed facts such as commits."""
    by_label = {}
    for step in experiment.steps:
        if read := {**{name: file.sha256 for name, file in step.files.items()}, **step.extra}:
            by_label[step.label] = read
    return by_label


def _row(experiment: Experiment, arm: Arm, store: Store, known: Mapping[str, RowFacts]) -> dict[str, Any]:
    benchmarks: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, step in arm.evaluations.items():
        if name in experiment.held_out_rows:
            if name in known and store.complete(step):
                benchmarks |= _held_out(experiment, name, step, store, known[name])
            else:
                lacking = step if name in known else experiment.held_out_rows[name]
                missing |= dict.fromkeys(_measures(experiment, name, known), _reason(lacking, store))
        elif store.complete(step):
            metrics = store.record(step)["metrics"]
            outcomes = of_evaluation(store.path(step))
            benchmarks[name] = {**metrics, "step": step.folder, "outcomes": outcomes}
        else:
            missing[name] = _reason(step, store)
    judge = experiment.config.judge
    judged: dict[str, Any] = {}
    unjudged: dict[str, str] = {}
    for name, step in arm.judged.items():
        if store.complete(step):
            outcomes = of_verdicts(store.path(step))
            against = "reference" if name in judge.references else judge.whom(arm.method)
            metrics = store.record(step)["metrics"]
            judged[name] = {**metrics, "against": against, "step": step.folder, "outcomes": outcomes}
        else:
            unjudged[name] = _reason(step, store)
    tasks = {
        measure: {"group": task.group, "chance": task.chance, "higher_is_better": task.kind is not TaskKind.nll}
        for name, task in experiment.config.evaluation.tasks.items()
        for measure in (_measures(experiment, name, known) if task.kind is TaskKind.nll else [name])
    }
    for name, group in judge.benchmarks.items():
        tasks[name] = {"group": group, "chance": None, "higher_is_better": True}
        if name in judged:
            benchmarks[name] = _win_rate(judged[name])
        else:
            missing[name] = unjudged.get(name, LEFT_OUT)
    scored = [s for s in ancestors(arm.select) if s.stage == "score"] if arm.select else []
    return {
        "experiment": experiment.config.name,
        "model": experiment.config.model.name,
        "method": arm.method,
        "fraction": arm.fraction,
        "seed": arm.seed,
        "selection_seed": arm.selection_seed,
        "pool": arm.pool,
        "matched_to": getattr(experiment.config.methods.get(arm.method), "matched_to", None),
        "tasks": tasks,
        "benchmarks": benchmarks,
        "missing": missing,
        "judged": judged,
        "unjudged": unjudged,
        "selected": _metric(arm.select, store, "selected"),
        "trained": _metric(arm.train, store, "rows"),
        "selection": _total(scored, store),
        "tuning": _total([arm.train] if arm.train else [], store),
        "steps": {"select": arm.select and arm.select.folder, "train": arm.train and arm.train.folder},
    }


def _measures(experiment: Experiment, name: str, known: Mapping[str, RowFacts]) -> list[str]:
    return names(name, known.get(name), experiment.config.evaluation.tasks[name].short_tokens)


def _held_out(
    experiment: Experiment, name: str, step: Step, store: Store, facts: RowFacts
) -> dict[str, dict[str, Any]]:
    """The cells of a held-out task, by measure."""
    short_tokens = experiment.config.evaluation.tasks[name].short_tokens
    by_measure = cells(name, values_of(store.path(step)), facts, store.record(step)["metrics"], short_tokens)
    return {measure: {**cell, "step": step.folder} for measure, cell in by_measure.items()}


def _shared_text(experiment: Experiment, store: Store) -> list[dict[str, dict[str, int] | None] | None]:
    """By arm and benchmark how many items share text with the rows that were tuned on; None where that isn't known.

    An arm without tuning, or whose selection isn't there, has None instead. A store may have been copied without files.
    """
    known: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {}
    for name, step in experiment.shared_text.items():
        if store.complete(step) and (path := store.path(step) / SHARED).is_file():
            known[name] = (store.record(step)["metrics"], read_json(path))
    by_arm: list[dict[str, dict[str, int] | None] | None] = []
    for arm in experiment.arms:
        chosen = None if arm.select is None else store.path(arm.select) / "ids.json"
        if arm.train is None or (chosen is not None and not chosen.is_file()):
            by_arm.append(None)
            continue
        ids = None if chosen is None else set(read_json(chosen))
        by_benchmark: dict[str, dict[str, int] | None] = {}
        for name in experiment.shared_text:
            if name not in known:
                by_benchmark[name] = None
                continue
            metrics, items = known[name]
            count = sum(ids is None or not ids.isdisjoint(rows) for rows in items.values())
            by_benchmark[name] = {"items": metrics["items"], "too_short": metrics["too_short"], "shared": count}
        by_arm.append(by_benchmark)
    return by_arm


def _win_rate(judged: dict[str, Any]) -> dict[str, Any]:
    """A comparison with a reference as a benchmark."""
    outcomes = win_rate(judged["outcomes"])
    facts = {"metric": "win rate", "value": judged["win_rate"] / 100, "items": judged["judged"], "version": 1}
    facts |= {KEY: judged[KEY]} if KEY in judged else {}
    return {**facts, "step": judged["step"], "outcomes": outcomes}


def _reason(step: Step, store: Store) -> str:
    """What keeps ``step`` from being there: the first step it needs that failed or is under way, else nothing yet.

    No process, host or folder of this machine is named: the text is stored with the results.
    """
    for needed in [*ancestors(step), step]:
        state = status(needed, store)
        if state.state == "failed":
            return f"{needed.label} failed: {portable(state.why, store.root)}"
        if state.state in ("running", "interrupted"):
            return f"{needed.label} {state.state}"
    return "not run yet"


def portable(text: str, work: Path) -> str:
    """``text`` with this machine's folders as ``<work>``, ``.`` and ``~``."""
    places = {"<work>": work, ".": Path.cwd(), "~": Path("~").expanduser()}
    for short, place in places.items():  # the work folder mostly lies in the current one, and that in the home folder
        for path in {str(place.absolute()), str(place.resolve())} - {"/"}:
            text = re.sub(rf"(?<![\w.~-]){re.escape(path)}(?![\w-]|\.\w)", short, text)
    return text


def _metric(step: Step | None, store: Store, key: str) -> Any:
    return store.record(step)["metrics"][key] if step is not None and store.complete(step) else None


def _total(steps: list[Step], store: Store) -> dict[str, float] | None:
    """Tokens and operations of finished steps; None if one of them isn't finished."""
    if not all(store.complete(step) for step in steps):
        return None
    metrics = [store.record(step)["metrics"] for step in steps]
    return {"tokens": sum(m["tokens"] for m in metrics), "flops": sum(m["flops"] for m in metrics)}


def estimate(steps: list[Step]) -> Cost:
    """What the plan expects ``steps`` to take together."""
    return Cost(sum(step.cost.tokens for step in steps), sum(step.cost.flops for step in steps))


def cost_ratios(experiment: Experiment) -> dict[str, tuple[Cost, float]]:
    """By method and fraction what the plan expects selection to cost, and that over the tuning that it saves.

    Saved is one model's tuning on all rows less that on the selection, in FLOPs; infinite if nothing is saved.
    """
    ratios: dict[str, tuple[Cost, float]] = {}
    for arm in experiment.arms:
        if arm.select is None or arm.train is None:
            continue
        cost = estimate([step for step in ancestors(arm.select) if step.stage == "score"])
        saved = experiment.full_tuning.flops - arm.train.cost.flops
        ratios[f"{arm.method}-f{arm.fraction:g}"] = (cost, cost.flops / saved if saved > 0 else float("inf"))
    return ratios
