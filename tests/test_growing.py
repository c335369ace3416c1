"""An experiment grows by a fraction, a seed, a method or a benchmark: nothing is done again that is the same."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small import small

from icon_repro.config.compose import composed
from icon_repro.config.load import ConfigError
from icon_repro.engine.artifact import Step, Store, damage
from icon_repro.engine.options import ClusterConfig, Executor
from icon_repro.engine.run import Summary, run
from icon_repro.experiment import plan

SELECTOR = {"kind": "lora", "epochs": 2.0, "batch_size": 4}


def folders(experiment: str, work: Path, *overrides: str) -> dict[str, str]:
    """The planned steps of an experiment: folder -> stage."""
    try:
        made = composed(experiment, [f"paths.work={work}", *overrides])
    except ConfigError as error:
        if "paths" in str(error):
            pytest.skip(str(error))
        raise
    return {step.folder: step.stage for step in plan(made).steps}


@pytest.mark.parametrize(
    ("overrides", "more"),
    [
        # a selection and a model more of each of 16 methods, each evaluated on 11 benchmarks
        (["fractions=[0.01,0.05,0.1,0.15,0.2]"], {"select": 16, "train": 16, "evaluate": 16 * 11}),
        (["seeds=[0,1]"], {"train": 66, "evaluate": 66 * 11}),
        (
            ["+method@methods.other=random", "methods.other.seed=1"],
            {"select": 4, "train": 4, "evaluate": 44, "score": 1},
        ),
    ],
    ids=["fraction", "seed", "method"],
)
def test_the_plan_of_a_grown_experiment_has_all_steps_that_were(
    overrides: Sequence[str], more: dict[str, int], tmp_path: Path
) -> None:
    kept = ["judge=none"]
    before = folders("llama31_8b", tmp_path, *kept)
    after = folders("llama31_8b", tmp_path, *kept, *overrides)
    assert before.keys() - after.keys() == set()
    assert Counter(after[folder] for folder in after.keys() - before.keys()) == more


@pytest.mark.parametrize("kind", ["lora", "probe"])
def test_a_selection_model_isnt_one_of_the_fractions(kind: str, tmp_path: Path) -> None:
    """It is tested on fractions of its own; a model of one class for each fraction is one of them."""

    def scored(target: str, fractions: list[float]) -> set[str]:
        selector = {"kind": kind, "target": target}
        changes = {"methods.icon.selector": selector, "select_from": "pool", "fractions": fractions}
        return {step.folder for step in plan(small(tmp_path, changes)).steps if step.stage == "score"}

    assert scored("rank", [0.25, 0.5]) == scored("rank", [0.25])
    if kind == "lora":
        assert scored("top_fraction", [0.25, 0.5]) > scored("top_fraction", [0.25])


def build(work: Path, changes: dict[str, Any]) -> tuple[list[Step], Store, Summary]:
    config = small(work, changes)
    store, steps = Store(work), plan(config).steps
    cluster = ClusterConfig(device="cpu", executor=Executor.inline, threads=1)
    summary = run(steps, store, cluster, work / "cache", lambda line: None)
    assert summary.failed == {}
    return steps, store, summary


def twins(steps: Sequence[Step], store: Store) -> dict[str, str]:
    """Label of each step that wasn't done -> folder of the step that it is the same as."""
    records = {step.label: store.record(step) for step in steps}
    return {label: record["same_as"] for label, record in records.items() if "same_as" in record}


def test_a_grown_experiment_builds_what_is_new(tmp_path: Path) -> None:
    methods: dict[str, Any] = {"icon": {"kind": "icon", "dtype": "float32", "selector": SELECTOR}}
    first = {"base": False, "full": False, "methods": methods, "select_from": "pool"}
    steps, _, summary = build(tmp_path, first)
    assert len(summary.built) == len(steps)

    def grown(**changes: Any) -> Counter[str]:
        _, _, summary = build(tmp_path, {**first, **changes})
        assert len(summary.cached) >= len(steps)
        return Counter(label.partition("/")[0] for label in summary.built)

    assert grown(fractions=[0.25, 0.5]) == {"select": 1, "train": 1, "evaluate": 1}
    assert grown(seeds=[0, 1]) == {"train": 1, "evaluate": 1}
    more = {**methods, "longest": {"kind": "longest"}}
    assert grown(methods=more) == {"score": 1, "select": 1, "train": 1, "evaluate": 1}
    assert grown(**{"fractions": [0.25, 0.5], "methods": more}) == {"select": 1, "train": 1, "evaluate": 1}


def ids_file(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    path = folder / f"ids-{len(list(folder.glob('ids-*')))}.json"
    path.write_text(json.dumps(list(ids)))
    return {"kind": "ids", "path": str(path)}


def test_selections_with_the_same_rows_are_one_training(tmp_path: Path) -> None:
    methods: dict[str, Any] = {"longest": {"kind": "longest"}}
    first = {"base": False, "full": False, "methods": methods}
    steps, store, _ = build(tmp_path / "work", first)
    (chosen,) = (json.loads((store.path(s) / "ids.json").read_text()) for s in steps if s.stage == "select")
    assert twins(steps, store) == {}

    again = {**methods, "listed": ids_file(tmp_path, chosen[::-1]), "other": ids_file(tmp_path, chosen[:-1])}
    steps, store, _ = build(tmp_path / "work", {**first, "methods": again})
    by_label = {step.label: step for step in steps}
    trained = by_label["train/listed-f0.25-s0"]
    original = by_label["train/longest-f0.25-s0"]
    assert trained.fingerprint != original.fingerprint
    evaluated = by_label["evaluate/longest-f0.25-s0-tiny"]
    assert twins(steps, store) == {
        trained.label: original.folder,
        "evaluate/listed-f0.25-s0-tiny": evaluated.folder,
    }  # and not the one that lacks a row
    record, theirs = store.record(trained), store.record(original)
    assert record["metrics"] == theirs["metrics"] and record["files"] == theirs["files"]
    assert record["hashed"] == trained.hashed and record["inputs"] != theirs["inputs"]
    assert damage(store.path(trained), float("inf")) is None
    weights = "adapter/adapter_model.safetensors"
    assert (store.path(trained) / weights).samefile(store.path(original) / weights)  # no disk is taken twice
    # another seed is another training
    steps, store, _ = build(tmp_path / "work", {**first, "methods": methods, "seeds": [0, 1]})
    assert "train/longest-f0.25-s1" not in twins(steps, store)


def test_a_damaged_twin_isnt_taken(tmp_path: Path) -> None:
    methods: dict[str, Any] = {"longest": {"kind": "longest"}}
    first = {"base": False, "full": False, "methods": methods}
    steps, store, _ = build(tmp_path / "work", first)
    (select,), (train,) = ([s for s in steps if s.stage == stage] for stage in ("select", "train"))
    (store.path(train) / "log.jsonl").write_text("nothing")
    chosen = json.loads((store.path(select) / "ids.json").read_text())
    steps, store, _ = build(tmp_path / "work", {**first, "methods": {"listed": ids_file(tmp_path, chosen)}})
    assert "train/listed-f0.25-s0" not in twins(steps, store)
    (train,) = (s for s in steps if s.stage == "train")
    assert (store.path(train) / "log.jsonl").read_text() != "nothing"


def test_a_store_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("this file system has none")

    monkeypatch.setattr("icon_repro.engine.twins.os.link", refuse)
    methods: dict[str, Any] = {"a": {"kind": "random"}, "b": {"kind": "random"}}
    steps, store, _ = build(tmp_path, {"base": False, "full": False, "methods": methods})
    assert "train/b-f0.25-s0" in twins(steps, store)
    assert all(damage(store.path(step), float("inf")) is None for step in steps)


SHARDED: dict[str, dict[str, Any]] = {
    "ppl": {"kind": "perplexity", "shard_rows": 16},
    "rds": {"kind": "rds", "shard_rows": 16},
    "selectit": {"kind": "selectit", "shard_rows": 16},
    "icon": {"kind": "icon", "dtype": "float32", "shard_candidates": 16},
}


def test_steps_behind_the_last_row_are_done_once_and_change_nothing(tmp_path: Path) -> None:
    """A pool that is smaller than expected_rows says leaves steps without rows: one of a kind is done."""
    first: dict[str, Any] = {"methods": SHARDED, "until": "select", "data.candidates.size": None}
    steps, store, _ = build(tmp_path / "many", {**first, "data.pool.expected_rows": 160})
    pool = next(store.record(step)["metrics"]["rows"] for step in steps if step.label.startswith("prepare/candidates"))
    shards = [step for step in steps if getattr(step.params, "start", None) is not None and step.stage == "score"]
    empty = {step.label: step.target for step in shards if step.params.start >= pool}
    kinds = set(empty.values())
    assert len(kinds) == len(SHARDED) and len(empty) > 2 * len(kinds)
    copies = twins(steps, store)
    assert set(copies) < set(empty) and len(copies) == len(empty) - len(kinds)

    few, other, _ = build(tmp_path / "few", {**first, "data.pool.expected_rows": pool})
    assert len(few) < len(steps)
    for experiment, place in ((steps, store), (few, other)):
        assert all((place.path(step) / "ids.json").is_file() for step in experiment if step.stage == "select")
    chosen = [
        {s.label: (place.path(s) / "ids.json").read_bytes() for s in experiment if s.stage == "select"}
        for experiment, place in ((steps, store), (few, other))
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == len(SHARDED)
