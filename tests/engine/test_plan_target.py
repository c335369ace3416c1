"""Selecting from another pool than the one that ICon scored: what is read from which, and what is shared."""

from pathlib import Path
from typing import Any

import pytest
from small import small

from icon_repro.config.load import ConfigError
from icon_repro.engine.artifact import Step
from icon_repro.experiment import Experiment, plan

TARGET = {"source": {"kind": "file", "format": "alpaca", "name": "other", "path": "other.jsonl", "licence": "none"}}


def planned(tmp_path: Path, **changes: Any) -> Experiment:
    (tmp_path / "other.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n', encoding="utf-8")
    target = {**TARGET, "source": {**TARGET["source"], "path": str(tmp_path / "other.jsonl")}, "expected_rows": 7}
    settings = {"select_from": "pool", "methods.icon.selector": {"kind": "lora"}, "data.target": target, **changes}
    return plan(small(tmp_path / "work", settings))


def step(experiment: Experiment, label: str) -> Step:
    (found,) = [step for step in experiment.steps if step.label == label]
    return found


def test_selection_model_learns_on_the_pool_and_scores_the_target(tmp_path: Path) -> None:
    found = planned(tmp_path)
    order, other = step(found, "prepare/order"), step(found, "prepare/order-target")
    (selector,) = [s for s in found.steps if "selector" in s.name]
    pooled = [s for s in found.steps if s.name.startswith("icon-pool-s0-")]
    shards = [s for s in found.steps if s.name.startswith("icon-shard-")]
    assert selector.inputs["order"] is order and shards and all(s.inputs["order"] is order for s in shards)
    assert len(pooled) == 1 and pooled[0].inputs["order"] is other and pooled[0].inputs["selector"] is selector
    assert step(found, "prepare/universe").inputs["order"] is other
    assert other.inputs["pool"] is step(found, "prepare/target-other")
    for s in (step(found, "score/longest"), step(found, "train/full-s0"), step(found, "train/icon-f0.25-s0")):
        assert step(found, "prepare/universe") in s.inputs.values()


def test_target_leaves_scores_and_selection_model_as_they_are(tmp_path: Path) -> None:
    found, without = planned(tmp_path), planned(tmp_path, **{"data.target": None})
    shared = {s.folder for s in found.steps} & {s.folder for s in without.steps}
    kept = [s.name for s in found.steps if s.folder in shared and s.stage == "score"]
    assert any("selector" in name for name in kept) and sum("shard" in name for name in kept) == 3
    assert step(found, "train/icon-f0.25-s0").folder not in shared and step(found, "train/full-s0").folder not in shared


def test_target_without_a_selection_from_the_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.target: is another pool .* select_from=pool"):
        planned(tmp_path, **{"select_from": "candidates", "methods.icon.selector": None})


def test_target_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.target\.source\.path: kind file needs it"):
        planned(tmp_path, **{"data.target": {"source": {**TARGET["source"], "path": None}}})


def test_repository_wizardlm_shares_its_scores_with_llama31_8b(tmp_path: Path, shared: Path) -> None:
    two = [plan(small(tmp_path / "work", experiment=name)) for name in ("wizardlm", "llama31_8b")]
    folders = [{s.folder for s in one.steps} for one in two]
    pairs = {s.folder for s in two[0].steps if "shard" in s.name or "selector" in s.name}
    assert len(pairs) == 101 and pairs <= folders[1]
    (target,) = [s for s in two[0].steps if s.name == "target-wizardlm_evol_70k"]
    assert target.extra == {"commit": "c8e40b2d5d67d35e47c9fe0d624dff93defb4c84"}
