"""Say what was lost on the way to a table: rows dropped, cut, short of the wanted number, tied at the cut.

In: records of a plan's finished steps.  Out: lines; a report keeps them in run.json, a comparison of methods in
losses.json, and both say them on the console and below their tables.
Nothing is said where nothing was lost, nor of numbers that a step made by an older version doesn't have.
Known gap: prompts without a readable verdict are in judged.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.records import RecordError, read_json
from icon_repro.experiment import Arm, Experiment
from icon_repro.methods.select import told

# of scores: what a number in a step's record says
_OF_SCORES = {
    "failed": "rows got no score",
    "rows_without_scored_token": "rows have no scored token",
    "rows_cut": "rows were cut to the length that is scored",
    "contexts_cut": "contexts were cut to the length that is scored",
    "short_by": "rows fewer than asked for were there",
    "clusters_short": "clusters have fewer rows than asked for",
    "targets_failed": "targets got no gradient",
    "unused": "stored ratings are of none of the rows",
}


def losses(experiment: Experiment, store: Store) -> list[str]:
    """A line for each kind of loss: of prepared rows, of scores, of selections, of trainings, of evaluations."""
    records = {step.folder: store.record(step)["metrics"] for step in experiment.steps if store.complete(step)}
    texts = [line for step in experiment.steps if step.folder in records for line in _prepared(step, records, store)]
    texts += _scores(experiment.steps, records)
    texts += _arms(experiment.arms, records)
    texts += _answers(experiment.steps, records)
    return texts


def _prepared(step: Step, records: Mapping[str, Any], store: Store) -> list[str]:
    """Of rows, benchmarks, the pool's order and candidates."""
    metrics = records[step.folder]
    if step.stage != "prepare":
        return []
    texts = []
    dropped = metrics.get("dropped")
    if isinstance(dropped, Mapping) and (lost := _sum(dropped)):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items()) if count)
        texts.append(f"{step.name}: {lost:,} of {_read(step, metrics, lost, store):,} rows dropped ({reasons})")
    elif isinstance(dropped, int) and dropped:
        texts.append(f"{step.name}: {dropped:,} rows dropped, as they share text with the assessment set")
    if metrics.get("alike"):
        texts.append(f"{step.name}: {metrics['alike']:,} rows are copies of others but for spaces and capitals (kept)")
    if metrics.get("short_by"):
        texts.append(f"{step.name}: {metrics['short_by']:,} rows fewer than asked for were there")
    return texts


def _read(step: Step, metrics: Mapping[str, Any], lost: int, store: Store) -> int:
    """Rows that a source had; more than kept and lost, where some were drawn."""
    try:
        report = read_json(store.path(step) / "report.json")
    except (FileNotFoundError, RecordError):
        report = {}
    return int(report.get("read", metrics.get("rows", 0) + lost))


def _scores(steps: Iterable[Step], records: Mapping[str, Any]) -> list[str]:
    """Of each method's score steps, shards together."""
    sums: dict[tuple[str, str], int] = {}
    for step in steps:
        if step.stage != "score" or step.folder not in records:
            continue
        for key, text in _OF_SCORES.items():
            place = (re.sub(r"-shard-[0-9]+", "", step.name), text)
            sums[place] = sums.get(place, 0) + _sum(records[step.folder].get(key, 0))
    return [f"{name}: {count:,} {text}" for (name, text), count in sums.items() if count]


def _arms(arms: Sequence[Arm], records: Mapping[str, Any]) -> list[str]:
    """Of selections and trainings, by method and fraction; of evaluations, by benchmark."""
    lines: dict[str, dict[str, None]] = {}
    by_line: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}  # (subject, text) -> step -> lost, of so many

    def note(subject: str, text: str, step: Step, lost: int, of: int) -> None:
        by_line.setdefault((subject, text), {})[step.folder] = (lost, of)

    for arm in arms:
        subject = arm.method if arm.fraction is None else f"{arm.method} at {arm.fraction:g}"
        if arm.select is not None and arm.select.folder in records:
            for text in told(records[arm.select.folder]):
                lines.setdefault(text, {})[subject] = None
        if arm.train is not None and arm.train.folder in records:
            metrics = records[arm.train.folder]
            dropped = _sum(metrics.get("dropped", 0))
            reason = ", ".join(metrics["dropped"]) if isinstance(metrics.get("dropped"), Mapping) else "dropped"
            of = metrics.get("rows", 0) + dropped
            note(subject, f"selected rows not trained on ({reason})", arm.train, dropped, of)
            note(subject, "selected rows cut to training.max_length", arm.train, metrics.get("rows_cut", 0), of)
            text = "selected rows hold names of control tokens, which are read as letters"
            note(subject, text, arm.train, metrics.get("rows_with_control", 0), of)
            text = "selected rows hold letters that the tokenizer doesn't know"
            note(subject, text, arm.train, metrics.get("rows_with_unknown", 0), of)
        for name, step in arm.evaluations.items():
            if step.folder in records:
                metrics = records[step.folder]
                text = "items cut to evaluation.max_length (their beginning is missing)"
                note(name, text, step, metrics.get("items_cut", 0), metrics.get("items", 0))
                unscored = metrics.get("dropped") or {}
                text = f"held-out rows not scored ({', '.join(unscored)})"
                note(name, text, step, _sum(unscored), metrics.get("items", 0) + _sum(unscored))
    texts = [f"{', '.join(subjects)}: {text}" for text, subjects in lines.items()]
    for (subject, text), found in by_line.items():
        if any(lost for lost, _ in found.values()):
            texts.append(
                f"{subject}: {_range(lost for lost, _ in found.values())} of "
                f"{_range(of for _, of in found.values())} {text}"
            )
    return texts


def _answers(steps: Iterable[Step], records: Mapping[str, Any]) -> list[str]:
    """Of answers to a judge's prompts: cut ones, empty ones, prompts that were too long."""
    texts = []
    for step in steps:
        metrics = records.get(step.folder, {})
        if step.stage == "judge" and "answers" in metrics:
            counts = {
                "end at generation.max_new_tokens": metrics.get("stops", {}).get("length", 0),
                "are empty": metrics.get("empty", 0),
                "are missing": metrics.get("failed", 0),
            }
            said = ", ".join(f"{count:,} {text}" for text, count in counts.items() if count)
            texts += [f"{step.name}: of {metrics['answers'] + metrics.get('failed', 0):,}, {said}"] if said else []
    return texts


def _range(counts: Iterable[int]) -> str:
    ends = sorted(set(counts))
    return f"{ends[0]:,}" if len(ends) == 1 else f"{ends[0]:,} to {ends[-1]:,}"


def _sum(counts: Any) -> int:
    """A number, or the sum of several by reason."""
    return sum(map(_sum, counts.values())) if isinstance(counts, Mapping) else int(counts)
