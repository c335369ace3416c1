"""A method from outside this package: a Python file with a function ``score``.

In: the rows that all methods rank, options from the config.  Out: scores.jsonl; rows without a score in failures.jsonl.

    def score(rows, options, inputs, runtime):
        \"\"\"rows: list of icon_repro.data.rows.Example; returns {id: score}, higher is selected first.\"\"\"
        return {row.id: len(row.instruction) * options["sign"] for row in rows}

``inputs`` has the folders of the steps ``model``, ``candidates`` and ``assessment``; ``runtime`` device and progress.
Only the file knows what scoring costs: ``return scores, {"tokens": .., "flops": ..}`` says it, else it counts as 0.
The file's content is part of the step's fingerprint; modules that it imports from elsewhere are not: after a change
there, change the file too, e.g. a version in its options.
"""

import importlib.util
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.options import ExternalConfig


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
    given = function(rows, dict(cfg.options), dict(inputs), runtime)
    found, cost = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
    if not isinstance(found, Mapping):
        raise ExternalError(f"{path.name}: score() gave {type(found).__name__}; it must give a dict of id to score.")
    if unknown := sorted(set(found) - {row.id for row in rows}, key=str):
        raise ExternalError(f"{path.name}: score() gave {len(unknown)} ids that no row has (first: {unknown[0]!r}).")
    cost = _cost(path.name, cost)
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
    return {**write_scores(out, scores, reasons), **cost}


def _cost(name: str, given: Any) -> dict[str, float]:
    """Tokens and operations as the file states them; 0 where it doesn't."""
    if not isinstance(given, Mapping) or set(given) - {"tokens", "flops"}:
        raise ExternalError(f"{name}: score() gave the cost {given!r}; it must be a dict of tokens and flops.")
    if bad := [key for key, v in given.items() if not isinstance(v, (int, float)) or not 0 <= v < math.inf]:
        raise ExternalError(f"{name}: score() gave {bad[0]}={given[bad[0]]!r}; it must be a number, not negative.")
    return {"tokens": 0, "flops": 0, **given}
