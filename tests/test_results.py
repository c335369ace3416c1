"""An experiment's results folder: what a report writes, where, and when it is refused."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small import publish_fake, small

from icon_repro.config.load import load
from icon_repro.engine.artifact import Step, Store, file_sha256
from icon_repro.engine.records import read_json, write_json
from icon_repro.experiment import Experiment, plan
from icon_repro.report.results import ResultsError, check, report, writing
from icon_repro.report.settings import public

METRICS: Mapping[str, dict[str, Any]] = {
    "score": {"tokens": 10, "flops": 30.0},
    "select": {"selected": 6},
    "train": {"rows": 6, "tokens": 500, "flops": 700.0},
    "evaluate": {"metric": "acc", "value": 0.5, "stderr": 0.1, "items": 20, "version": "1"},
}
FILES = {f"{name}.{kind}" for name in ("table", "verdicts") for kind in ("md", "csv", "tex")} | {
    "metrics.jsonl",
    "run.json",
}


def planned(tmp_path: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    places = {"paths.results": str(tmp_path / "outputs"), "tracking.wandb": "disabled"}
    return plan(small(tmp_path / "work", {**places, **(changes or {})}))


def finish(experiment: Experiment, store: Store, without: str = "nothing", **more: Any) -> None:
    """Publish what isn't there yet, with ``more`` in the record."""
    for step in experiment.steps:
        if without not in step.label and not store.complete(step):
            publish_fake(step, store, METRICS.get(step.stage, {}), **more)
            if step.stage == "select":
                (store.path(step) / "ids.json").write_text("[]")


def written(experiment: Experiment, store: Store) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return report(experiment, store, lines.append, figures=False), lines


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def step_named(experiment: Experiment, label: str) -> Step:
    (found,) = [step for step in experiment.steps if step.label == label]
    return found


def test_report_complete_writes_what_made_the_table(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    assert written(experiment, store)[0]
    assert set(contents(folder)) == FILES
    run = read_json(folder / "run.json")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run["results"] == sorted(b["step"] for row in rows for b in row["benchmarks"].values())
    assert run["git"] == [{"commit": "c0ffee", "dirty": False}] and run["packages"]["torch"] == ["2.13.0"]
    assert run["config"]["model"]["random"]["seed"] == 0 and run["config"]["methods"]["icon"]["control"]
    text = (folder / "run.json").read_text()
    for word in (str(tmp_path), "bigbox", "7.5", '"cluster"', '"tracking"', '"paths"'):
        assert word not in text


def test_report_again_gives_the_same_bytes_whatever_the_machine(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    written(experiment, store)
    before = contents(folder)
    elsewhere = planned(tmp_path, {"cluster.device": "cpu", "cluster.threads": 1, "tracking.project": "mine"})
    written(elsewhere, store)
    assert contents(folder) == before


def test_report_waits_for_another_one_of_the_same_experiment(
    tmp_path: Path, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    monkeypatch.setattr("icon_repro.report.results._PATIENCE_S", 0.3)
    with writing(Store(store.root), experiment.config.name):
        with pytest.raises(ResultsError, match=r"another process has been writing these results for 0 s\. End it"):
            written(experiment, store)
        with writing(store, "another"):
            pass
    assert not folder.exists()
    monkeypatch.setattr("icon_repro.report.results._PATIENCE_S", 60)
    with ThreadPoolExecutor(3) as several:
        done = [several.submit(report, experiment, Store(store.root), print) for _ in range(3)]
        assert all(one.result() for one in done)
    assert {*FILES, "index.html", "figures/scale.svg"} <= set(contents(folder))


def test_report_incomplete_goes_beside_the_complete_one_until_the_next(
    tmp_path: Path, store: Store, folder: Path
) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store, without="evaluate/icon")
    complete, lines = written(experiment, store)
    assert not complete and {path.name for path in folder.iterdir()} == {"incomplete"}
    assert any("missing" in line and str(folder / "incomplete") in line for line in lines)
    finish(experiment, store)
    assert written(experiment, store)[0]
    before = contents(folder)
    assert set(before) == FILES
    more = planned(tmp_path, {"seeds": [0, 1]})
    complete, lines = written(more, store)
    assert not complete and any("stays" in line for line in lines)
    assert set(contents(folder / "incomplete")) == FILES
    assert {name: data for name, data in contents(folder).items() if "/" not in name} == before
    finish(more, store)
    assert written(more, store)[0]
    assert set(contents(folder)) == FILES and read_json(folder / "run.json")["config"]["seeds"] == [0, 1]


def test_report_without_a_scores_cost_is_incomplete(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    shutil.rmtree(store.path(step_named(experiment, "score/icon")))
    assert not written(experiment, store)[0]
    assert not (folder / "table.md").exists()


def test_report_of_mixed_versions_says_so(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store, without="evaluate/icon")
    finish(experiment, store, packages={"torch": "2.12.0", "trl": None})
    _, lines = written(experiment, store)
    assert [line for line in lines if line.startswith("warning: mixed versions: ") and "torch 2.12.0, 2.13.0" in line]
    assert "\n- mixed versions: the steps were made with torch 2.12.0, 2.13.0\n" in (folder / "table.md").read_text()


def test_report_of_older_results_without_run_json_is_written(tmp_path: Path, store: Store, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "table.md").write_text("old")
    experiment = planned(tmp_path)
    finish(experiment, store)
    assert written(experiment, store)[0]
    assert set(contents(folder)) == FILES


def test_report_of_runs_with_different_items_is_refused(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    step = next(step for step in experiment.steps if step.stage == "evaluate")
    folder_of_step = store.path(step)
    write_json(folder_of_step / "items.json", {"ids": [f"other{i}" for i in range(20)], "values": [0, 1] * 10})
    record = read_json(folder_of_step / "record.json")
    changed = folder_of_step / "items.json"
    record["files"]["items.json"] = {"bytes": changed.stat().st_size, "sha256": file_sha256(changed)}
    del record["checksum"]
    write_json(folder_of_step / "record.json", record)
    with pytest.raises(ResultsError, match="runs differ in which items"):
        written(experiment, store)
    assert not folder.exists()


@pytest.fixture
def reported(tmp_path: Path, store: Store) -> Path:
    """The folder of a finished and reported experiment."""
    experiment = planned(tmp_path)
    finish(experiment, store)
    written(experiment, store)
    return tmp_path


TASK = {"kind": "lm_eval", "metric": "acc", "task": "arc_easy"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": [0, 1]},
        {"seeds": [3, 0]},
        {"fractions": [0.5, 0.25]},
        {"methods.more": {"kind": "random", "seed": 3}},
        {"evaluation.tasks.other": TASK},
        {"cluster.threads": 1, "tracking.project": "mine", "description": "x"},
        {"model.licence": "none", "model.parameters": 7, "data.pool.expected_prompt_chars": 7},
    ],
    ids=str,
)
def test_check_grown_experiment_is_accepted(reported: Path, changes: dict[str, Any]) -> None:
    check(planned(reported, changes))


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"model.random.seed": 7}, "model.random.seed: 0 -> 7"),
        ({"data.pool.max_chars": 900}, "data.pool.max_chars: None -> 900"),
        ({"data.candidates.size": 9}, "data.candidates.size: "),
        ({"training.epochs": 7}, "training.epochs: "),
        ({"training.lora.targets": ["q_proj"]}, "training.lora.targets: "),
        ({"methods.icon.epsilon": 0.5}, "methods.icon.epsilon: "),
        ({"methods.icon.compat": "official"}, "methods.icon.noise_unit: tokens -> characters"),
        ({"methods.random.seed": 9}, "methods.random.seed: "),
        ({"methods.random": {"kind": "longest"}}, "methods.random.kind: random -> longest"),
        ({"methods": {"random": {"kind": "random"}}}, "methods.icon: dropped"),
        ({"evaluation.seed": 7}, "evaluation.seed: "),
        ({"evaluation.tasks": {"other": TASK}}, "evaluation.tasks.tiny: dropped"),
        ({"seeds": [1]}, "seeds: [0] -> [1]"),
        ({"fractions": [0.5]}, "fractions: [0.25] -> [0.5]"),
        ({"base": False}, "base: True -> False"),
    ],
    ids=str,
)
def test_check_changed_setting_or_dropped_row_is_refused(reported: Path, changes: dict[str, Any], key: str) -> None:
    experiment = planned(reported, changes)
    with pytest.raises(ResultsError) as caught:
        check(experiment)
    text = str(caught.value)
    assert key in text and "name=" in text and str(reported / "outputs" / "smoke_tiny") in text
    before = contents(reported / "outputs")
    with pytest.raises(ResultsError):
        report(experiment, Store(reported / "work"), print)
    assert contents(reported / "outputs") == before


def test_a_branch_that_cant_be_resolved_is_no_other_configuration(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection must not advise to delete results."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stored = reported / "outputs" / "smoke_tiny" / "run.json"
    run = read_json(stored)
    branch = {"kind": "hub", "name": "tiny_random", "hub_id": "org/model", "revision": "main"}
    run["config"]["model"] |= branch
    write_json(stored, run)
    with pytest.raises(ResultsError) as caught:
        check(planned(reported, {"model": branch}))
    text = str(caught.value)
    assert "which commit model.revision='main' is isn't known" in text and "delete" not in text


def test_check_changed_content_of_a_source_is_refused(reported: Path) -> None:
    stored = reported / "outputs" / "smoke_tiny" / "run.json"
    run = read_json(stored)
    run["sources"]["prepare/pool-tiny"]["source"] = "0" * 64
    write_json(stored, {**run, "results": [f"{name[:-12]}0123456789ab" for name in run["results"]]})
    with pytest.raises(ResultsError, match=r"sources\.prepare/pool-tiny\.source: 0000"):
        check(planned(reported))


def test_check_same_settings_under_another_version_of_the_code_are_accepted(reported: Path) -> None:
    stored = reported / "outputs" / "smoke_tiny" / "run.json"
    run = read_json(stored)
    del run["config"]["methods"]["icon"]["epsilon"]  # a later setting
    run["config"]["training"]["earlier"] = 1
    write_json(stored, {**run, "results": [f"{name[:-12]}0123456789ab" for name in run["results"]]})
    check(planned(reported))


def test_check_adaptive_scores_may_be_made_anew_for_more_fractions(tmp_path: Path, store: Store) -> None:
    adaptive = {"methods.icon.budget": "adaptive", "methods.icon.control": "bank"}
    experiment = planned(tmp_path, adaptive)
    finish(experiment, store)
    written(experiment, store)
    more = planned(tmp_path, {**adaptive, "fractions": [0.5, 0.25]})
    assert step_named(more, "score/icon").fingerprint != step_named(experiment, "score/icon").fingerprint
    check(more)
    with pytest.raises(ResultsError):
        check(planned(tmp_path, {**adaptive, "fractions": [0.5]}))


@pytest.mark.parametrize("stored, part", [("{", "not valid JSON"), ("[]", "delete"), ('{"format": 9}', "delete")])
def test_check_foreign_run_json_is_refused(tmp_path: Path, folder: Path, stored: str, part: str) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(stored)
    with pytest.raises(ValueError, match=part):
        check(planned(tmp_path))


def test_public_config_names_no_folder_of_this_machine() -> None:
    source: dict[str, Any] = {"kind": "file", "format": "alpaca", "name": "t", "path": "/secret/place/pool.jsonl"}
    config = load(
        {
            "name": "toy",
            "description": "a toy",
            "model": {"kind": "local", "name": "m", "path": "/secret/place/model"},
            "data": {"name": "toy", "pool": {"source": source}, "assessment": {"source": source}},
            "methods": {},
            "training": {"tuning": "lora", "learning_rate": 1e-4},
            "evaluation": {"name": "toy"},
            "fractions": [],
            "paths": {"work": "/secret/work"},
        }
    )
    found = public(config)
    assert "secret" not in str(found)
    assert found["data"]["pool"]["source"]["path"] == "pool.jsonl"
    assert found["training"]["learning_rate"] == 1e-4
