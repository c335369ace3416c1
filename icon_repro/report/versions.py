"""Results of mixed versions: the runs of one method aren't averaged over them, and compared methods are marked.

In: ``ResultRow``s; ``made_with`` of run.json, which ``made_with`` here makes.
Out: rows in which cells of mixed versions are missing, with the reason; notes below tables.
What counts are the packages that compute (``report.versions``) by major and minor version, stage by stage: a training
under one version that another evaluates is fine where all runs are so. Devices are only noted.
Versions of this project's own stages need no look here: they are in the fingerprints that cells resolve to.
Known gap: none.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.experiment import Experiment
from icon_repro.report.collect import results
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import Line, lines

DEVICE = "device"
MIXED = "mixed versions: "  # begins the reason of a cell that is missing for them
AND = " and "  # between several versions behind one cell
_NAMED = 4  # runs whose folders a note names
_BENCHMARKS, _JUDGED = "benchmarks", "judged"  # parts of a row
_WORDS = {"train": "trained", "evaluate": "evaluated", "judge": "judged"}

Facts = Mapping[tuple[str, str], str]  # (stage, package) -> version


@dataclass(frozen=True)
class Versions:
    """What made each cell."""

    of_steps: Mapping[str, Facts]  # by the cell's step
    of_others: Facts  # of all other cells

    def of(self, step: str) -> Facts:
        return self.of_steps.get(step, self.of_others)


def versions_of(run: Mapping[str, Any]) -> Versions | None:
    """What run.json says of its cells; None if it is older than that."""
    if "made_with" not in run:
        return None
    by_step: dict[str, Facts] = {}
    others: Facts = {}
    for group in run["made_with"]:
        packages = group["with"]
        facts = {
            (stage, name): packages[stage][name]
            for stage in _WORDS
            if stage in packages
            for name in sorted(packages[stage])
        }
        if group["cells"] is None:
            others = facts
        else:
            by_step |= dict.fromkeys(group["cells"], facts)
    return Versions(by_step, others)


def separated(rows: Sequence[ResultRow], run: Mapping[str, Any]) -> tuple[list[ResultRow], list[str]]:
    """The rows, without the cells that may not be averaged; and notes that say which these are.

    Args:
        run: the content of run.json.

    Raises:
        RunsError: runs that can't be averaged for another reason.
    """
    versions = versions_of(run)
    if versions is None:
        return list(rows), []
    refused: dict[tuple[int, str], dict[str, str]] = {}  # id of a row, part -> name -> reason
    notes = []
    for line in lines(rows):
        devices: dict[str, None] = {}
        for part in (_BENCHMARKS, _JUDGED):
            for text, (again, names) in _mixed(line, part, versions, devices).items():
                redo = ", ".join(_seeds(row) for row in again)
                notes.append(
                    f"missing: {line.label} {', '.join(names)}: {MIXED}{text}, not averaged. Redo {redo} with the "
                    f"versions of the others: delete {_folders(again, part, text)} in the work folder and run again"
                )
                for row in line.rows:
                    reasons = refused.setdefault((id(row), part), {})
                    reasons |= {name: f"{MIXED}{text}; redo {redo}" for name in names if name in _cell_steps(row, part)}
        notes += [f"{line.label}: {text}" for text in devices]
    return [
        _without(row, refused.get((id(row), _BENCHMARKS), {}), refused.get((id(row), _JUDGED), {})) for row in rows
    ], notes


def _mixed(
    line: Line, part: str, versions: Versions, devices: dict[str, None]
) -> dict[str, tuple[list[ResultRow], list[str]]]:
    """What differs between the runs of a line -> the runs to be done again, and the cells that it concerns.

    Args:
        devices: gets what differs in the kind of device, which is noted only.
    """
    by_difference: dict[str, tuple[list[ResultRow], list[str]]] = {}
    for name in dict.fromkeys(name for row in line.rows for name in _cell_steps(row, part)):
        rows = [row for row in line.rows if name in _cell_steps(row, part)]
        facts = [versions.of(_cell_steps(row, part)[name]) for row in rows]
        if text := _differing(rows, facts, device=True):
            devices[text] = None
        if text := _differing(rows, facts, device=False):
            by_difference.setdefault(text, (_odd(rows, facts), []))[1].append(name)
    return by_difference


def _cell_steps(row: ResultRow, part: str) -> dict[str, str]:
    """Folder of the step behind each cell of a part."""
    if part == _BENCHMARKS:
        return {name: cell.step for name, cell in row.benchmarks.items()}
    return {name: cell.step for name, cell in row.judged.items()}


def _without(row: ResultRow, benchmarks: Mapping[str, str], judged: Mapping[str, str]) -> ResultRow:
    """``row`` without the cells that are named, each with the reason why it isn't shown."""
    if not benchmarks and not judged:
        return row
    return replace(
        row,
        benchmarks={name: cell for name, cell in row.benchmarks.items() if name not in benchmarks},
        missing={**row.missing, **benchmarks},
        judged={name: cell for name, cell in row.judged.items() if name not in judged},
        unjudged={**row.unjudged, **judged},
    )


def _differing(rows: Sequence[ResultRow], facts: Sequence[Facts], *, device: bool) -> str:
    """``trained with torch 2.11 (s0), 2.13 (s1, s2)`` for what differs between runs of one cell; empty if nothing."""
    said: dict[str, list[str]] = {}  # versions -> stages
    for stage, name in _keys(facts, device=device):
        seeds: dict[str, list[str]] = {}
        for row, own in zip(rows, facts, strict=True):
            if (stage, name) in own:
                seeds.setdefault(own[stage, name], []).append(_seeds(row))
        ordered = sorted(seeds.items(), key=lambda item: _order(item[0]))
        text = f"{name} " + ", ".join(f"{value} ({', '.join(whose)})" for value, whose in ordered)
        said.setdefault(text, []).append(stage)
    return "; ".join(f"{AND.join(_WORDS[stage] for stage in stages)} with {text}" for text, stages in said.items())


def _keys(facts: Sequence[Facts], *, device: bool) -> list[tuple[str, str]]:
    """Stages and packages of which several versions are known."""
    values: dict[tuple[str, str], set[str]] = {}
    for own in facts:
        for key, value in own.items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1 and (key[1] == DEVICE) == device]


def _odd(rows: Sequence[ResultRow], facts: Sequence[Facts]) -> list[ResultRow]:
    """The runs to be done again: all but the largest group of the same versions; of equal ones the newest stays."""
    keys = _keys(facts, device=False)
    groups: dict[tuple[str, ...], list[ResultRow]] = {}
    for row, own in zip(rows, facts, strict=True):
        groups.setdefault(tuple(own.get(key, "") for key in keys), []).append(row)
    largest = max(groups, key=lambda values: (len(groups[values]), [_order(value) for value in values]))
    return [row for key, own in groups.items() if key != largest for row in own]


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _seeds(row: ResultRow) -> str:
    """``s0``, or ``r1/s0`` with a selection seed."""
    repeat = f"r{row.selection_seed}/" if row.selection_seed is not None else ""
    return f"{repeat}s{row.seed}"


def _folders(rows: Sequence[ResultRow], part: str, text: str) -> str:
    """What to delete so that the cells of ``rows`` are made again: a training with all that was made of it."""
    patterns = []
    for row in rows[:_NAMED]:
        name = str(row.steps.train).partition("/")[2].rpartition("-")[0]
        trained = _WORDS["train"] in text
        patterns += [f"train/{name}-*"] if trained else []
        patterns += [f"evaluate/{name}-*"] if trained or part == _BENCHMARKS else []
        patterns += [f"judge/*-{name}-*"] if (trained and (row.judged or row.unjudged)) or part == _JUDGED else []
    more = len(rows) - _NAMED
    return ", ".join(patterns) + (f" and the same of the other {more}" if more > 0 else "")


def _together(versions: Versions, line: Line, part: str, names: Sequence[str]) -> Facts:
    """What made the cells of a line."""
    versions_by_key: dict[tuple[str, str], set[str]] = {}
    for row in line.rows:
        steps = _cell_steps(row, part)
        for name in names:
            if name in steps:
                for key, value in versions.of(steps[name]).items():
                    versions_by_key.setdefault(key, set()).update(value.split(AND))
    return {key: AND.join(sorted(values, key=_order)) for key, values in versions_by_key.items()}


def compared(versions: Versions, one: Line, other: Line, names: Sequence[str]) -> str | None:
    """A note if the benchmarks of two lines weren't made with the same versions; None if they were."""
    first, second = (_together(versions, line, _BENCHMARKS, names) for line in (one, other))
    keys = [key for key in first if key in second and first[key] != second[key]]
    if not keys:
        return None
    shown = []
    for line, own in ((one, first), (other, second)):
        texts: dict[str, list[str]] = {}
        for stage, name in keys:
            texts.setdefault(f"{name} {own[stage, name]}", []).append(stage)
        stages_and_versions = "; ".join(
            f"{AND.join(_WORDS[s] for s in stages)} with {text}" for text, stages in texts.items()
        )
        shown.append(f"{line.label} ({stages_and_versions})")
    return f"other versions: {shown[0]} and {shown[1]}: a part of their difference may be the versions'"


def of_pairs(versions: Versions, found: Sequence[tuple[Line, Line, Sequence[str]]]) -> list[str]:
    """Notes on compared lines, each once.

    Args:
        found: two lines and the benchmarks in which they are compared.
    """
    notes = [compared(versions, *one) for one in found]
    return list(dict.fromkeys(note for note in notes if note is not None))


def of_judged(versions: Versions, rows: Sequence[ResultRow]) -> list[str]:
    """Notes on comparisons by a judge in which one side was made with other versions than the other."""
    notes: dict[str, None] = {}
    for line in lines(rows):
        for name in dict.fromkeys(name for row in line.rows for name in row.judged):
            facts = _together(versions, line, _JUDGED, [name])
            if several := [f"{_WORDS[s]} with {p} {v}" for (s, p), v in facts.items() if AND in v and s != "judge"]:
                against = AND.join(dict.fromkeys(row.judged[name].against for row in line.rows))
                notes[f"other versions: {line.label} and {against}: {'; '.join(several)}"] = None
    return list(notes)


_MODELS = ("torch", "transformers", "peft", "tokenizers", "accelerate")
_COMPUTE = {  # by stage
    "train": (*_MODELS, "trl", "deepspeed"),
    "evaluate": (*_MODELS, "lm-eval"),
    "judge": _MODELS,
}


def made_with(experiment: Experiment, store: Store) -> list[dict[str, Any]]:
    """Cells by what made them, the largest group first.

    Returns:
        ``cells``: folders of the steps that finished cells show; None in the first group: all that no other one names;
        ``with``: stage -> package -> version, several joined by "and"; the device is among the packages.
    """
    facts: dict[str, Mapping[str, str]] = {}  # of a step, by its folder
    groups: dict[str, list[str]] = {}
    for cell in results(experiment):
        if not store.complete(cell):
            continue
        steps = [step for step in (*ancestors(cell), cell) if step.stage in _COMPUTE and store.complete(step)]
        for step in steps:
            if step.folder not in facts:
                facts[step.folder] = _facts(step, store.record(step))
        by_stage = {
            stage: _joined(facts[step.folder] for step in steps if step.stage == stage)
            for stage in _COMPUTE
            if any(step.stage == stage for step in steps)
        }
        groups.setdefault(json.dumps(by_stage, sort_keys=True), []).append(cell.folder)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"cells": sorted(cells) if place else None, "with": json.loads(key)}
        for place, (key, cells) in enumerate(ordered)
    ]


def _facts(step: Step, record: Mapping[str, Any]) -> dict[str, str]:
    """Versions, and the kind of device if it is known."""
    packages = record["packages"]
    known = [name for name in _COMPUTE[step.stage] if name in packages and packages[name] is not None]
    facts = {name: _short(packages[name]) for name in known}
    if "cluster" in record and record["cluster"]["device"] != "auto":  # records of tests' own steps have none
        facts[DEVICE] = str(record["cluster"]["device"]).partition(":")[0]
    return facts


def _short(version: str) -> str:
    """``2.11`` for ``2.11.0+cpu``."""
    start = re.match(r"\d+(\.\d+)?", version)
    return start[0] if start else version


def _joined(facts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    by_name: dict[str, set[str]] = {}
    for one in facts:
        for name, value in one.items():
            by_name.setdefault(name, set()).add(value)
    return {name: AND.join(sorted(values)) for name, values in by_name.items()}
