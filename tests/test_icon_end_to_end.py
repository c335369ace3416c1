"""ICon through the command line with every budget: with a tiny error all of them select the same rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli import Done, icon_repro

from icon_repro.engine.records import read_json

ROUNDS = "error: 1.0e-6, first_rows: 4, growth: 2.0"
OPTIONS = "kind: icon, dtype: float32, shard_candidates: 8, bank: {draws: 1}"
COMMAND = [
    "judge=none",
    "experiment=smoke_tiny",
    "base=false",
    "full=false",
    "~methods.random",
    "~methods.longest",
    "~evaluation.tasks.tiny",
    "data.candidates.size=16",
    "training.warmup_ratio=0",
    f"methods.icon={{{OPTIONS}}}",
    f"methods.rounds={{{OPTIONS}, budget: adaptive, adaptive: {{{ROUNDS}}}}}",
    f"methods.auto={{{OPTIONS}, budget: auto, adaptive: {{error: 1.0e-6}}, auto: {{first_rows: 3}}}}",
    "cluster.device=cpu",
    "cluster.threads=1",
    "cluster.executor=inline",
]
METHODS = ("icon", "rounds", "auto")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("icon")
    return folder, icon_repro(folder, *COMMAND)


def test_pilot_chooses_the_rows_that_a_selection_model_learns_from(tmp_path: Path) -> None:
    options = f"{OPTIONS}, budget: auto, selector: {{near: 5}}"
    small = "auto: {pilot_candidates: 8, least_candidates: 16, first_rows: 3}"
    kept = [word for word in COMMAND if not word.startswith("methods.") and word != "~methods.random"]
    done = icon_repro(tmp_path, *kept, f"methods.icon={{{options}, {small}}}", "select_from=pool", "until=select")
    assert done.code == 0, done.out + done.error
    metrics = read_json(one(tmp_path, "score/icon-????????????/record.json"))["metrics"]
    assert metrics["assessment_chosen"] == 3 and metrics["pairs"] == 8 * 12 + 8 * 3
    chosen = read_json(one(tmp_path, "score/icon-start-*/sequence.json"))["chosen"]
    assert {row["parts"]["rows"] for row in scores(tmp_path, "icon").values()} == {12.0, 3.0} and len(chosen) == 3
    metrics = read_json(one(tmp_path, "score/icon-pool-????????????/record.json"))["metrics"]
    assert (metrics["rows"], metrics["scored"], metrics["near"]) == (64, 16, 5)
    near = read_json(one(tmp_path, "score/icon-near-????????????/sequence.json"))["own"]
    assert len(near) == 5 and all(rows == chosen for rows in near.values())
    lines = one(tmp_path, "score/icon-pool-????????????/scores.jsonl").read_text(encoding="utf-8").splitlines()
    ranked = {row["id"]: row for row in map(json.loads, lines)}
    known = scores(tmp_path, "icon").keys() | near.keys()
    assert all((row["score"] == row["parts"]["predicted"]) == (i not in known) for i, row in ranked.items())


def one(folder: Path, pattern: str) -> Path:
    (found,) = (folder / "work").glob(pattern)
    return found


def scores(folder: Path, method: str) -> dict[str, dict[str, Any]]:
    lines = one(folder, f"score/{method}-????????????/scores.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_every_budget_selects_the_same_rows(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert done.code == 0, done.out + done.error
    assert "0 cached, 0 failed, 0 blocked" in done.out
    ids = [read_json(one(folder, f"select/{method}-f0.25-*/ids.json")) for method in METHODS]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 4


def test_scores_of_rounds_are_those_of_all_pairs_where_all_were_scored(finished: tuple[Path, Done]) -> None:
    folder, _ = finished
    full = scores(folder, "icon")
    for method in ("rounds", "auto"):
        found = scores(folder, method)
        assert found.keys() == full.keys()
        exact = [i for i, row in found.items() if row["parts"]["rows"] == 12]
        assert len(exact) >= 4
        assert all(found[i]["score"] == pytest.approx(full[i]["score"], abs=1e-5) for i in exact)
        metrics = read_json(one(folder, f"score/{method}-????????????/record.json"))["metrics"]
        assert metrics["pairs"] == sum(row["parts"]["rows"] for row in found.values()) <= 16 * 12
        assert metrics["disagreement_bound@0.25"] == 0
    assert len({row["score"] for row in full.values()}) == 16
