"""What action=plan prints: by stage, within 40 lines; its disk, and what is removed by keep and action=prune."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cli import Done
from small import small
from worlds import World

from icon_repro.config.actions import Keep
from icon_repro.config.compose import composed
from icon_repro.data.options import Dtype
from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.pruning import needed_again, prune, unneeded
from icon_repro.engine.records import sealed, write_json
from icon_repro.evaluate.requirements import missing_for
from icon_repro.experiment import Experiment, plan
from icon_repro.report import disk, plan_text
from icon_repro.train.options import TrainJob

TINY = ["experiment=smoke_tiny", "judge=none", "cluster.executor=inline", "cluster.device=cpu", "methods=[longest]"]


def said(experiment: Experiment, work: Path) -> list[str]:
    return plan_text.lines(experiment, Store(work), experiment.steps, [])


def test_plan_of_the_papers_experiment_is_short_and_narrow(shared: Path, tmp_path: Path) -> None:
    experiment = plan(composed("llama31_8b", [f"paths.work={tmp_path}", "paths.results=none"]))
    lines = said(experiment, tmp_path)
    warnings = missing_for(experiment.steps, tmp_path)
    assert len(lines) + len(warnings) <= 40
    table = lines[1:10]
    assert max(map(len, table)) <= 70
    stages = [line.split()[0] for line in table]
    assert stages == ["stage", "model", "prepare", "score", "select", "train", "evaluate", "judge", "all"]
    cells = {line.split()[0]: line.split() for line in table}
    trained = [step for step in experiment.steps if step.stage == "train"]
    assert cells["train"][1] == str(len(trained)) and len(trained) > 60
    assert disk.size(len(trained) * 2 * 8_030_261_248) in table[5]  # bfloat16


def test_plan_rates_are_those_of_the_committed_measurement(shared: Path) -> None:
    root = Path(__file__).parents[2]
    measured = json.loads((root / "results/scoring_cost/h100_8b.json").read_text(encoding="utf-8"))
    assert 2 * 8_030_261_248 * measured["shared"]["tokens_per_s"] == pytest.approx(plan_text.READ, rel=0.01)
    assert 0.4 * measured["peak_tflops"] * 1e12 == pytest.approx(plan_text.TRAINED, rel=0.01)


def test_plan_names_changes_once_and_no_step(tmp_path: Path) -> None:
    folders = [step.folder for step in plan(small(tmp_path / "work", {"judge.kind": "none"})).steps]
    for step in plan(small(tmp_path / "work", {"judge.kind": "none"})).steps:
        folder = tmp_path / "work" / step.folder
        folder.mkdir(parents=True)
        write_json(
            folder / "record.json",
            sealed({"format": 1, "files": {}, "hashed": step.hashed, "metrics": {"items_shared": 0}}),
        )
    experiment = plan(small(tmp_path / "work", {"judge.kind": "none", "training.epochs": 2}))
    lines = said(experiment, tmp_path / "work")
    changes = [line for line in lines if line.startswith("changed since the last build: ")]
    assert changes == ["changed since the last build: params.train.epochs: 1.0 -> 2.0 (4 steps)"]
    assert not any(folder.rpartition("-")[2] in line for folder in folders for line in lines)


def test_disk_of_a_tuning_is_its_weights(tmp_path: Path) -> None:
    experiment = plan(small(tmp_path, {"training.tuning": "full", "training.save_dtype": "bfloat16"}))
    step = next(step for step in experiment.steps if isinstance(step.params, TrainJob))
    parameters = experiment.config.model.parameters
    assert disk.expected_bytes(step) == 2 * parameters
    whole = replace(step, params=TrainJob(replace(step.params.train, save_dtype=Dtype.float32, kept_epochs=[1]), 0))
    assert disk.expected_bytes(whole) == 8 * parameters


def test_disk_most_at_once_falls_where_weights_go(tmp_path: Path) -> None:
    experiment = plan(small(tmp_path, {"training.tuning": "full", "judge.kind": "none"}))
    trained = [step for step in experiment.steps if step.stage == "train"]
    each = disk.expected_bytes(trained[0])
    most = {keep: disk.peak(experiment, experiment.steps, keep) for keep in Keep}
    model = disk.expected_bytes(experiment.steps[0])
    assert most[Keep.all] == model + len(trained) * each
    assert most[Keep.none] == model + each
    assert most[Keep.selected] == model + each * (len(trained) - 1)  # that of all rows goes before the others come


def test_disk_of_the_hubs_cache_holds_the_models_and_what_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"kind": "hub", "name": "m", "hub_id": "org/m", "revision": "a" * 40, "parameters": 1_000_000}
    experiment = plan(small(tmp_path, {"model": model, "training.tuning": "full", "training.save_dtype": "bfloat16"}))
    models = [step for step in experiment.steps if step.stage == "model"]
    weights = disk.peak(experiment, experiment.steps, Keep.all)
    cache = tmp_path / "hub"  # on the disk of the work folder

    def lines(free: float, to_load: Sequence[Step] = models) -> list[str]:
        monkeypatch.setattr(disk, "free_bytes", lambda folder: free)
        return disk.too_little_for_models(experiment, experiment.steps, to_load, cache)

    assert weights > 2_000_000  # two bytes a parameter, of the model in the cache too
    assert lines(weights + 2_000_000) == [] == lines(weights + 1_999_999, [])
    (beside,) = lines(weights + 1_999_999)
    assert beside.startswith(f"{cache}: ") and "about 2 MB beside the" in beside and "HF_HOME" in beside
    assert lines(weights - 1) == []  # that the weights alone are too many is another line
    (alone,) = lines(1_999_999)
    assert "2 MB are free" in alone and "take about 2 MB" in alone


def test_too_little_disk_is_said_before_work(
    tmp_path: Path, inside: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 200_000)
    tuned = ["training=full", "training.dtype=float32", "training.global_batch_size=4", "training.epochs=1"]
    refused = inside(*TINY, *tuned, "cluster.device=cpu")
    assert refused.code == 1 and "paths.work=work: 200 kB are free" in refused.error
    assert not list((tmp_path / "work").glob("train/*"))
    planned = inside(*TINY, *tuned, "action=plan")
    assert planned.code == 0 and "warning: paths.work=work: 200 kB are free" in planned.out


def test_pruned_steps_are_missing_once_they_are_needed(tmp_path: Path) -> None:
    world = World(tmp_path, "tuned")
    steps = world.steps({})
    store = world.store
    trained = [step for step in steps if step.stage == "train"]
    for step in trained:
        (store.path(step) / "adapter").mkdir(exist_ok=True)
        (store.path(step) / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 100)
    may_go = {step.folder for step in trained}
    assert unneeded(steps, store, may_go) == trained and unneeded(steps, store, set()) == []
    assert sum(prune(step, store) for step in trained) >= 100 * len(trained)
    assert unneeded(steps, store, may_go) == [] and needed_again(steps, store) == []
    user = next(step for step in steps if step.inputs.get("tuned") is trained[0])
    missing = Step("evaluate", "new", user.target, user.version, user.params, {"tuned": trained[0]}, cost=user.cost)
    assert needed_again([*steps, missing], store) == [trained[0]]


def test_run_with_keep_none_leaves_no_weights_and_builds_them_again_for_a_new_benchmark(
    tmp_path: Path, inside: Callable[..., Done]
) -> None:
    def weights() -> list[Path]:
        return sorted((tmp_path / "work" / "train").rglob("*.safetensors"))

    kept = inside(*TINY, "tracking=none")
    assert kept.code == 0, kept.error
    table = (tmp_path / "results" / "smoke_tiny" / "table.md").read_bytes()
    there = {path: path.read_bytes() for path in weights()}
    assert len(there) == 2
    for keep, count in (("selected", 1), ("none", 2)):
        listed = inside(*TINY, "action=prune", f"keep={keep}")
        assert listed.out.startswith("would free ") and f"the weights of {count} steps" in listed.out
    assert "keep=none would free" in inside(*TINY, "action=prune").out and set(weights()) == set(there)
    assert "Another experiment in this work folder" in listed.out
    assert inside(*TINY, "action=prune", "keep=none", "confirm=true").out.startswith("freed ")
    assert weights() == []
    again = inside(*TINY, "tracking=none", "keep=none")
    assert " 0 failed" in again.out and again.out.find("0 built") > 0
    assert (tmp_path / "results" / "smoke_tiny" / "table.md").read_bytes() == table
    more = [*TINY, "tracking=none", "keep=none", "++evaluation.tasks.more=${evaluation.tasks.tiny}", "name=more"]
    more.append("evaluation.tasks.tiny.limit=7")
    planned = inside(*more, "action=plan")
    assert "2 steps whose weights were removed (action=prune) are needed" in planned.out
    done = inside(*more)
    assert done.code == 0 and len(re.findall(r"of weights removed, as keep says", done.out)) == 2, done.out
    assert weights() == []
