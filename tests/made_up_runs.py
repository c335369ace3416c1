"""Made-up rows of results, as ``report.collect`` makes them, for tests of tables."""

from typing import Any

import numpy as np

from icon_repro.report.rows import ResultRow, row_as_stored, row_from


def result(values: str | list[float], metric: str = "acc", ids: str = "abc", **more: Any) -> dict[str, Any]:
    """A benchmark's cell from the outcomes of its items."""
    numbers = [float(value) for value in values]
    return {
        "metric": metric,
        "value": sum(numbers) / len(numbers),
        "stderr": float(np.std(numbers, ddof=1) / len(numbers) ** 0.5),
        "items": len(numbers),
        "version": 1,
        "step": "evaluate/x",
        "outcomes": {"ids": ids, "parts": [{"name": "", "weight": 1.0, "values": values}]},
        **more,
    }


def number(value: float, stderr: float | None) -> dict[str, Any]:
    """A cell whose metric is no mean over items."""
    parts = [{"name": "mrpc", "weight": 1.0, "value": value, "stderr": stderr}]
    return {**result("01"), "metric": "f1", "value": value, "stderr": stderr, "outcomes": {"ids": "", "parts": parts}}


def task(group: str | None = None, chance: float | None = None, *, higher: bool = True) -> dict[str, Any]:
    return {"group": group, "chance": chance, "higher_is_better": higher}


def row(
    method: str,
    fraction: float | None = None,
    seed: int | None = None,
    benchmarks: dict[str, Any] | None = None,
    missing: dict[str, str] | None = None,
    **more: Any,
) -> ResultRow:
    tuned = method != "base"
    found = benchmarks if benchmarks is not None else {"arc": result("0101")}
    stored = {
        "experiment": "toy",
        "model": "m",
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "selection_seed": None,
        "tasks": {name: task() for name in [*found, *(missing or {})]},
        "benchmarks": found,
        "missing": missing or {},
        "judged": {},
        "unjudged": {},
        "selected": 6 if fraction else None,
        "trained": 6 if tuned else None,
        "selection": {"tokens": 0, "flops": 0},
        "tuning": {"tokens": 1000 if tuned else 0, "flops": 2e9 if tuned else 0},
        "steps": {"select": None, "train": "train/x" if tuned else None},
        "shared_text": None,
        **more,
    }
    return row_from(stored)


def changed(one: ResultRow, **stored: Any) -> ResultRow:
    """``one`` with other values, as metrics.jsonl has them."""
    return row_from({**row_as_stored(one), **stored})


def with_cell(one: ResultRow, name: str, **stored: Any) -> ResultRow:
    """``one`` with other values in the cell of benchmark ``name``."""
    benchmarks = row_as_stored(one)["benchmarks"]
    return changed(one, benchmarks={**benchmarks, name: {**benchmarks[name], **stored}})


def without(one: ResultRow, name: str, why: str) -> ResultRow:
    """``one`` without a result of benchmark ``name``."""
    stored = row_as_stored(one)
    del stored["benchmarks"][name]
    return changed(one, benchmarks=stored["benchmarks"], missing={**stored["missing"], name: why})


def solved(share: float, count: int, seed: int) -> str:
    """Outcomes of ``count`` items; the same seed gives items of the same difficulty."""
    return "".join(str(int(x < share)) for x in np.random.default_rng(seed).random(count))
