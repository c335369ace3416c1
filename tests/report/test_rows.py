"""Typed rows of results: committed ones are read and written as they are, and a wrong one is refused by its key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import changed, number, result, row
from paper_runs import judged

from icon_repro.report.rows import (
    BenchmarkResult,
    ResultRow,
    ResultRowError,
    Spent,
    read_result_rows,
    row_as_stored,
    row_from,
    write_result_rows,
)

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted(path.parent for path in (ROOT / "results").rglob("run.json"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: str(folder.relative_to(ROOT / "results")))
def test_committed_rows_are_read_and_written_as_they_are(folder: Path, tmp_path: Path) -> None:
    rows = read_result_rows(folder / "metrics.jsonl")
    write_result_rows(tmp_path / "again", rows)
    stored, again = (
        path.read_text(encoding="utf-8").splitlines() for path in (folder / "metrics.jsonl", tmp_path / "again")
    )
    assert [json.loads(line) for line in stored] == [json.loads(line) for line in again] and len(rows) == len(
        stored
    ) > 0
    assert all(isinstance(cell, BenchmarkResult) for one in rows for cell in one.benchmarks.values())


def test_row_has_typed_fields_and_keeps_what_else_a_step_recorded() -> None:
    cells = {"arc": result("0110", filter="none"), "f": number(0.3, None)}
    one = row("icon", 0.15, 3, cells, judged=judged("wltf", "full", ["koala"]), matched_to=None)
    assert one.tuning == Spent(1000, 2e9) and one.steps.train == "train/x" and one.pool is None
    assert one.benchmarks["arc"].value == 0.5 and one.benchmarks["arc"].more == {
        "stderr": result("0110")["stderr"],
        "filter": "none",
    }
    assert one.benchmarks["f"].outcomes.parts[0].values is None and one.benchmarks["f"].outcomes.parts[0].value == 0.3
    assert (one.judged["koala"].win, one.judged["koala"].failed) == (1, 1)
    assert one.cell_steps == ["evaluate/x", "evaluate/x", "judge/full-koala-000000000000"]
    assert row_from(row_as_stored(one)) == one


def without(stored: dict[str, Any], *keys: str) -> dict[str, Any]:
    inner = stored
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return stored


WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda stored: without(stored, "model"), "model: isn't there"),
    (lambda stored: {**stored, "sead": 1}, "sead: unknown key. Did you mean 'seed'"),
    (lambda stored: {**stored, "seed": "0"}, "seed is '0', must be int | None"),
    (lambda stored: {**stored, "seed": True}, "seed is True"),
    (lambda stored: {**stored, "tuning": 3}, "tuning is 3"),
    (lambda stored: {**stored, "tuning": {"tokens": 1}}, "tuning.flops: isn't there"),
    (lambda stored: without(stored, "benchmarks", "arc", "step"), "benchmarks.arc.step: isn't there"),
    (
        lambda stored: without(stored, "benchmarks", "arc", "outcomes", "ids"),
        "benchmarks.arc.outcomes.ids: isn't there",
    ),
    (
        lambda stored: {**stored, "benchmarks": {"arc": {**stored["benchmarks"]["arc"], "items": 1.5}}},
        "arc.items is 1.5",
    ),
    (lambda stored: {**stored, "missing": ["arc"]}, "missing is ['arc']"),
    (lambda stored: {**stored, "benchmarks": {"arc": None}}, "benchmarks.arc is None"),
    (
        lambda stored: {
            **stored,
            "benchmarks": {"arc": result("01", outcomes={"ids": "a", "parts": [{"name": "", "weight": 1.0}]})},
        },
        "benchmarks.arc.outcomes.parts[0] has neither values",
    ),
]


@pytest.mark.parametrize("change, part", WRONG, ids=[part for _, part in WRONG])
def test_wrong_row_is_refused_with_file_line_and_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], part: str
) -> None:
    good: ResultRow = changed(row("icon", 0.15, 0))
    lines = [row_as_stored(good), change(json.loads(json.dumps(row_as_stored(good))))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ResultRowError) as caught:
        read_result_rows(tmp_path / "metrics.jsonl")
    assert f"{tmp_path}/metrics.jsonl:2: " in str(caught.value) and part in str(caught.value)
    assert "action=report" in str(caught.value)
