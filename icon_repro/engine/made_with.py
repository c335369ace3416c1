"""Which versions of the packages that compute, and which device, made each cell of an experiment's tables.

In: a plan and its store.  Out: ``made_with`` of run.json, which ``report.versions`` reads.
Of a cell the steps count that train, evaluate or judge it: of a comparison by a judge those of both sides. Versions are
cut to major and minor: a patch or a build (``+cpu``) changes the last digits at most. Packages that read rows or hold
arrays (datasets, numpy) don't count, nor how rows were scored: the selection is what it is.
Packages that aren't installed or aren't recorded say nothing.
Known gap: a device is what was configured; ``auto`` says nothing and is left out.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.engine.collect import results
from icon_repro.engine.plan import Experiment
from icon_repro.report.versions import AND, DEVICE

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
        found = {
            stage: _joined(facts[step.folder] for step in steps if step.stage == stage)
            for stage in _COMPUTE
            if any(step.stage == stage for step in steps)
        }
        groups.setdefault(json.dumps(found, sort_keys=True), []).append(cell.folder)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"cells": sorted(cells) if place else None, "with": json.loads(key)}
        for place, (key, cells) in enumerate(ordered)
    ]


def _facts(step: Step, record: Mapping[str, Any]) -> dict[str, str]:
    """Versions, and the kind of device if it is known."""
    packages = record["packages"]
    known = [name for name in _COMPUTE[step.stage] if name in packages and packages[name] is not None]
    found = {name: _short(packages[name]) for name in known}
    if "cluster" in record and record["cluster"]["device"] != "auto":  # records of tests' own steps have none
        found[DEVICE] = str(record["cluster"]["device"]).partition(":")[0]
    return found


def _short(version: str) -> str:
    """``2.11`` for ``2.11.0+cpu``."""
    found = re.match(r"\d+(\.\d+)?", version)
    return found[0] if found else version


def _joined(facts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for one in facts:
        for name, value in one.items():
            found.setdefault(name, set()).add(value)
    return {name: AND.join(sorted(values)) for name, values in found.items()}
