"""``action=compare`` over stored scores: correlations, overlaps and costs are those of obvious loops."""

import csv
from pathlib import Path
from typing import Any

import pytest

from icon_repro.config.compose import composed
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Store, ancestors
from icon_repro.engine.records import write_json, write_rows
from icon_repro.experiment import Experiment, plan
from icon_repro.report.compare import CompareError, compare

ROWS = [Example(f"r{i}", "Say it.", "", "word " * (i + 1)) for i in range(10)]
SCORES = {
    "random": {f"r{i}": float((7 * i) % 10) for i in range(10)},
    "longest": {f"r{i}": float(i) for i in range(10)},
    "icon": {f"r{i}": float(i) for i in range(2, 10)},  # two rows without a score
    "control": {f"r{i}": float(-i) for i in range(1, 5)},
    "listed": {f"r{i}": float(-i) for i in range(1, 5)},
}


def stored(tmp_path: Path, *more: str) -> tuple[Experiment, Store]:
    """An experiment of which scores and selections are there, with records."""
    config = composed("smoke_tiny", [f"paths.work={tmp_path}/work", f"paths.results={tmp_path}/outputs", *more])
    experiment, store = plan(config), Store(tmp_path / "work")
    for arm in experiment.arms:
        if arm.select is None:
            continue
        values = SCORES[arm.method]
        for step in [*ancestors(arm.select), arm.select]:
            folder = store.path(step)
            folder.mkdir(parents=True, exist_ok=True)
            if step is arm.select:
                write_json(folder / "ids.json", sorted(values, key=lambda i: -values[i])[:4])
            elif step is arm.select.inputs["scores"]:
                write_rows(folder / "scores.jsonl", [Score(i, v) for i, v in values.items()])
            elif step is arm.select.inputs["universe"]:
                write_rows(folder / "rows.jsonl", ROWS)
            metrics = {"tokens": 5, "flops": 100.0} if step.stage == "score" else {}
            files = {"x": {"bytes": 2_000_000, "sha256": ""}}
            write_json(folder / "record.json", {"format": 1, "files": files, "metrics": metrics, "wall_s": 0.5})
    return experiment, store


def table(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_compare_counts_overlaps_ranks_and_cost(tmp_path: Path) -> None:
    experiment, store = stored(tmp_path)
    said: list[str] = []
    compare(experiment, store, said.append)
    folder = tmp_path / "outputs" / "smoke_tiny"
    each = {row["method"]: row for row in table(folder / "methods.csv")}
    assert list(each) == ["random", "longest", "icon"]
    assert [each["icon"][key] for key in ("scored", "without score")] == ["8", "2"]
    assert float(each["longest"]["spearman with length"]) == pytest.approx(1)
    assert float(each["icon"]["characters at 0.25"]) == pytest.approx(5 * (10 + 9 + 8 + 7) / 4)
    steps = {arm.method: arm.select for arm in experiment.arms if arm.select is not None}
    for name, step in steps.items():
        made = [s for s in ancestors(step) if s.stage == "score"]
        assert int(each[name]["tokens"]) == 5 * len(made) and float(each[name]["FLOPs"]) == 100 * len(made)
        assert float(each[name]["MB"]) == pytest.approx(2 * len(made))
    pairs = {(row["method"], row["and"]): row for row in table(folder / "methods_agreement.csv")}
    assert len(pairs) == 3
    assert float(pairs["longest", "icon"]["spearman"]) == pytest.approx(1)
    assert float(pairs["longest", "icon"]["overlap at 0.25"]) == 1
    ranks = [SCORES["random"][f"r{i}"] for i in range(10)]
    mean = sum(ranks) / 10
    slow = sum((i - 4.5) * (r - mean) for i, r in enumerate(ranks)) / 82.5
    assert float(pairs["random", "longest"]["spearman"]) == pytest.approx(slow)
    chosen = {n: set(sorted(SCORES[n], key=lambda i: -SCORES[n][i])[:4]) for n in ("random", "longest")}
    share = len(chosen["random"] & chosen["longest"]) / 4
    assert 0 < share < 1 and float(pairs["random", "longest"]["overlap at 0.25"]) == share
    assert all(len(line) <= 100 for line in said[0].splitlines() if "methods.md" not in line)
    assert any(
        line.startswith("longest, icon") or line.split()[:2] == ["longest", "icon"] for line in said[0].splitlines()
    )
    assert "methods.md" in said[0] and (folder / "methods.md").read_text(encoding="utf-8").startswith("# Methods of")


def test_compare_doesnt_count_what_a_control_or_a_list_of_ids_leaves_out_or_takes_from_others(tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("r1 r2 r3 r4", encoding="utf-8")
    methods = ["+method@methods.control=random_matched", "methods.control.matched_to=icon"]
    methods += ["+method@methods.listed=ids", f"methods.listed.path={listed}"]
    experiment, store = stored(tmp_path, *methods)
    compare(experiment, store, print)
    each = {row["method"]: row for row in table(tmp_path / "outputs" / "smoke_tiny" / "methods.csv")}
    assert [each[name]["without score"] for name in ("icon", "control", "listed")] == ["2", "", ""]
    assert each["control"]["tokens"] == "5" and int(each["icon"]["tokens"]) > 5  # of the steps with scores, as stored
    assert each["listed"]["tokens"] == "5"


def test_compare_without_scores_says_what_to_do(tmp_path: Path) -> None:
    config = composed("smoke_tiny", [f"paths.work={tmp_path}/work", f"paths.results={tmp_path}/outputs"])
    with pytest.raises(CompareError, match=r"0 methods have scores.*Run the experiment"):
        compare(plan(config), Store(tmp_path / "work"), print)
