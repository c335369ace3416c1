"""A method from outside this package: a Python file with a function ``score``.

In: the rows that all methods rank, options from the config.  Out: scores.jsonl; rows without a score in failures.jsonl.

    def score(rows, options, inputs, runtime):
        \"\"\"rows: list of icon_repro.records.Example; returns {id: score}, higher is selected first.\"\"\"
        return {row.id: len(row.instruction) * options["sign"] for row in rows}

``inputs`` has the folders of the steps ``model``, ``candidates`` and ``assessment``; ``runtime`` device and progress.
The file's content is part of the step's fingerprint; modules that it imports from elsewhere are not.
"""

import importlib.util
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.config_methods import ExternalConfig
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.common.outcome import write_scores
from icon_repro.records import Example, Score, read_rows


class ExternalError(ValueError):
    """The file has no such function, or its scores can't be used."""


def run(cfg: ExternalConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs["candidates"], files["method"]."""
    path = runtime.files["method"]
    spec = importlib.util.spec_from_file_location("icon_repro_external_method", path)
    if spec is None or spec.loader is None:
        raise ExternalError(f"{path.name}: isn't a Python file; give one whose name ends with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by its name
    spec.loader.exec_module(module)
    function = getattr(module, "score", None)
    if not callable(function):
        raise ExternalError(f"{path.name}: has no function score(rows, options, inputs, runtime).")
    rows = sorted(read_rows(inputs["candidates"] / "rows.jsonl", Example), key=lambda row: row.id)
    found = function(rows, dict(cfg.options), dict(inputs), runtime)
    if not isinstance(found, Mapping):
        raise ExternalError(f"{path.name}: score() gave {type(found).__name__}; it must give a dict of id to score.")
    if unknown := sorted(set(found) - {row.id for row in rows}, key=str):
        raise ExternalError(f"{path.name}: score() gave {len(unknown)} ids that no row has (first: {unknown[0]!r}).")
    scores, reasons = list[Score](), dict[str, str]()
    for row in rows:
        value = found.get(row.id)
        if value is None:
            reasons[row.id] = "no score given"
        elif not hasattr(value, "__float__"):
            raise ExternalError(f"{path.name}: score() gave {row.id!r} the score {value!r}; it must be a number.")
        elif not math.isfinite(value):
            reasons[row.id] = "score isn't finite"
        else:
            scores.append(Score(row.id, float(value)))
    return {**write_scores(out, scores, reasons), "tokens": 0, "flops": 0}
