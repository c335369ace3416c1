"""Choose what goes to Weights & Biases: runs of steps and of the report, with metrics, artifacts, lineage.

In: the plan, its store, the tables that were written.  Out: ``TrackedRun`` for what hasn't been logged yet.
A run a step: scores of a method, selection, training, evaluation, answers and verdicts; parts of a score (shards) are
summed up in its run, preparing data has none. All bear the experiment as their group and an id made of its name and
the step's fingerprint, so that a step that was stopped and requeued, or is logged again, goes on in the same run. A
training that isn't finished is logged as far as its last checkpoint. Steps are logged from their records, by the
process that makes the report: jobs on a cluster need no network, and no step waits for W&B.
Known gap: metrics don't arrive while a step runs, but with the next report.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.engine.records import read_json, read_lines
from icon_repro.engine.tracking import Logged, TrackedRun, Upload, send
from icon_repro.experiment import Experiment
from icon_repro.report.rows import ResultRow

_FINISHED = "finished"
_LONGEST = 128  # characters of an id and of an artifact's name
_MOST_BYTES = 50 * 2**20  # of a file that is sent; larger ones (weights) are named with their checksums alone
_TYPES = {"score": "scores", "select": "selection", "train": "model", "evaluate": "evaluation", "judge": "judgement"}
_FILES = {
    "score": ("scores.jsonl", "failures.jsonl"),
    "select": ("ids.json",),
    "train": ("log.jsonl", "report.json"),
    "evaluate": ("items.json", "results.json"),
    "judge": ("answers.jsonl", "verdicts.jsonl", "failures.jsonl"),
}
_LOSSES = ("loss", "grad_norm", "learning_rate", "epoch", "tokens")  # of an optimizer step
_RESULTS = {".md", ".csv", ".json", ".jsonl", ".png", ".tex", ".html"}


def log_experiment(
    experiment: Experiment,
    store: Store,
    settings: Mapping[str, Any],
    rows: Sequence[ResultRow],
    table: tuple[list[str], list[list[str]]] | None,
    results: Path,
) -> str:
    """Log to W&B what it doesn't have yet: finished steps, trainings under way, and the report.

    Args:
        settings: the experiment's config, without folders and keys.
        rows: results as ``report.collect`` makes them.
        results: the folder with tables and figures.

    Returns:
        One line on what was done.
    """
    config = experiment.config
    folder = store.root / ".wandb"
    logged = Logged(config.tracking, config.name, folder)
    if logged.mode == "disabled":
        return "W&B: disabled"
    steps = tracked_steps(experiment)
    tracked = [_step_run(config.name, step, steps, store, logged) for step in steps.values()]
    runs = [run for run in tracked if run is not None]
    report = _report_run(experiment, steps, store, settings, rows, table, results)
    if not logged.has(report.id, report.state):
        runs.append(report)
    return send(config.tracking, config.name, runs, logged, folder)


def tracked_steps(experiment: Experiment) -> dict[str, Step]:
    """The steps that have a run, by their folder."""
    scores = {step.folder for arm in experiment.arms if arm.select for step in arm.select.inputs.values()}
    return {
        step.folder: step
        for step in experiment.steps
        if step.stage in _TYPES and (step.stage != "score" or step.folder in scores)
    }


def run_id(name: str, step: Step) -> str:
    """The id of a step's run: the same at each attempt, on each machine."""
    return f"{name[: _LONGEST - 13]}-{step.fingerprint}"


def artifact_of(name: str, step: Step) -> str:
    """Name and version of the artifact that a step's run logs."""
    return f"{_named(name, step.stage, step.name)}:{step.fingerprint}"


def _named(*parts: str) -> str:
    text = re.sub(r"[^A-Za-z0-9_.-]", "-", "-".join(parts))
    return text if len(text) <= _LONGEST else f"{text[:115]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _step_run(name: str, step: Step, steps: Mapping[str, Step], store: Store, logged: Logged) -> TrackedRun | None:
    """The run of ``step``; None if there is nothing of it that hasn't been logged."""
    identifier = run_id(name, step)
    uses = [artifact_of(name, used) for used in step.inputs.values() if used.folder in steps]
    about = {
        "experiment": name,
        "step": step.folder,
        "uses": uses,
        **{key: step.hashed[key] for key in ("stage", "target", "version", "params", "inputs", "files", "extra")},
    }
    begun = TrackedRun(identifier, step.label, step.stage, "", about, {"finished": False}, uses=uses)
    if not store.complete(step):
        history = _losses(_unfinished(store.path(step))) if step.stage == "train" else []
        state = f"as far as step {history[-1]['step']}" if history else ""
        if not history or logged.has(identifier, state):
            return None
        return replace(begun, state=state, history=logged.new(identifier, history))
    if logged.has(identifier, _FINISHED):
        return None
    record, folder = store.record(step), store.path(step)
    machine = {key: value for key, value in record["cluster"].items() if key != "slurm"}
    versions = {key: record[key] for key in ("git", "packages", "python", "platform")}
    summary = {"finished": True, "wall_s": record["wall_s"], "peak_rss_mb": record["peak_rss_mb"], **record["metrics"]}
    if step.stage == "score":
        summary |= _with_parts(step, record, steps, store)
    history = list[dict[str, Any]]()
    if step.stage == "train":
        history = logged.new(identifier, _losses([row for _, row in read_lines(folder / "log.jsonl")]))
    sent = {
        file: str(folder / file)
        for file in _FILES[step.stage]
        if file in record["files"] and record["files"][file]["bytes"] <= _MOST_BYTES
    }
    metadata = {"step": step.folder, "uses": uses, "files": record["files"]}
    artifact, _, version = artifact_of(name, step).partition(":")
    return replace(
        begun,
        state=_FINISHED,
        config={**about, "cluster": machine, **versions},
        summary=summary,
        history=history,
        uploads=[Upload(artifact, _TYPES[step.stage], version, sent, metadata)],
    )


def _with_parts(step: Step, record: Mapping[str, Any], steps: Mapping[str, Step], store: Store) -> dict[str, float]:
    """Tokens, operations and seconds of a score with all its parts that have no run of their own."""
    parts = [part for part in ancestors(step) if part.stage == "score" and part.folder not in steps]
    records = [record, *(store.record(part) for part in parts if store.complete(part))]
    total = {f"all_{key}": sum(one["metrics"].get(key, 0) for one in records) for key in ("tokens", "flops")}
    return {**total, "all_wall_s": sum(one["wall_s"] for one in records), "parts": len(records)}


def _losses(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The history of a training, an optimizer step a row."""
    return [
        {"step": row["step"], "metrics": {f"train/{key}": row[key] for key in _LOSSES if key in row}}
        for row in rows
        if "loss" in row
    ]


def _unfinished(folder: Path) -> list[dict[str, Any]]:
    """The trainer's log in the last checkpoint of a training that isn't finished."""
    states = folder.with_name(f"{folder.name}.part").glob("checkpoints/checkpoint-*/trainer_state.json")
    last = max(states, key=lambda state: int(state.parent.name.rpartition("-")[2]), default=None)
    try:
        return [] if last is None else list(read_json(last)["log_history"])
    except FileNotFoundError:  # the training has gone on meanwhile
        return []


def _report_run(
    experiment: Experiment,
    steps: Mapping[str, Step],
    store: Store,
    settings: Mapping[str, Any],
    rows: Sequence[ResultRow],
    table: tuple[list[str], list[list[str]]] | None,
    results: Path,
) -> TrackedRun:
    """The run of the report: values of all cells, the table, figures, and the files of the results folder."""
    name = experiment.config.name
    summary = {f"{_row_name(row)}/{task}": value.value for row in rows for task, value in row.benchmarks.items()}
    last = [step for step in steps.values() if step.stage in ("evaluate", "judge") and store.complete(step)]
    if not last:
        last = [step for step in steps.values() if step.stage == "select" and store.complete(step)]
    uses = [artifact_of(name, step) for step in last]
    folders = [folder for folder in (results, results / "figures") if folder.is_dir()]
    files = {
        path.relative_to(results).as_posix(): path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix in _RESULTS and path.is_file() and path.stat().st_size <= _MOST_BYTES
    }
    sums = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in files.items()}
    # not the settings: rows name the steps, whose fingerprints hold all of them that changes results
    state = hashlib.sha256(json.dumps([sums, summary, uses], sort_keys=True).encode()).hexdigest()
    cluster = {key: value for key, value in settings["cluster"].items() if key != "slurm"}  # its lines may hold keys
    sent = {file: str(path) for file, path in files.items()}
    upload = Upload(_named(name, "results"), "results", state[:12], sent, {"uses": uses, "files": sums})
    return TrackedRun(
        id=f"{name[: _LONGEST - 13]}-report",
        name=name,
        job_type="report",
        state=state,
        config={**settings, "cluster": cluster, "uses": uses},
        summary=summary,
        tables={} if table is None else {"results": table},
        images={f"figures/{path.stem}": str(path) for path in files.values() if path.suffix == ".png"},
        uploads=[upload] if files else [],
        uses=uses,
    )


def _row_name(row: ResultRow) -> str:
    selection = None if row.selection_seed is None else f"r{row.selection_seed}"
    parts = (row.method, row.fraction, selection, row.seed)
    return "-".join(str(part) for part in parts if part is not None)
