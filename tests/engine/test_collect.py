"""Rows of results: what they hold, what they leave out, and the reason for what is missing."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small import publish_fake, small

from icon_repro.engine.artifact import ArtifactError, Step, Store, publish
from icon_repro.engine.records import write_json, write_rows
from icon_repro.evaluate.held_out_measures import MeasuresError
from icon_repro.evaluate.judge.options import PooledSets
from icon_repro.experiment import Experiment, plan
from icon_repro.report.checksums import Intact
from icon_repro.report.collect import collect, estimate, portable, provenance
from icon_repro.report.rows import row_as_stored

TOKENS = {"icon-baseline": 1, "icon-shard-0000": 10, "icon-shard-0001": 100, "icon-shard-0002": 1000}


def metrics(step: Step) -> dict[str, Any]:
    if step.stage == "score":
        tokens = TOKENS.get(step.name, 0)
        return {"tokens": tokens, "flops": 3.0 * tokens}
    stages: Mapping[str, dict[str, Any]] = {
        "select": {"selected": 6},
        "train": {"rows": 6, "tokens": 500, "flops": 700.0},
        "evaluate": {"metric": "acc", "value": 0.5, "stderr": 0.1, "items": 20, "version": "1"},
    }
    return stages.get(step.stage, {})


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    other = {"kind": "lm_eval", "metric": "acc", "task": "arc_easy"}
    return plan(small(tmp_path, {"seeds": [0, 1], "evaluation.tasks.other": other}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def publish_all(experiment: Experiment, store: Store, without: str = "nothing") -> None:
    for step in experiment.steps:
        if without not in step.label:
            publish_fake(step, store, metrics(step))


def collected(experiment: Experiment, store: Store) -> list[dict[str, Any]]:
    """The rows as metrics.jsonl has them."""
    return [row_as_stored(one) for one in collect(experiment, store)]


def row(rows: list[dict[str, Any]], method: str, seed: int | None = 0) -> dict[str, Any]:
    (found,) = [r for r in rows if r["method"] == method and r["seed"] == seed]
    return found


def attempt(store: Store, step: Step, **note: Any) -> None:
    folder = store.attempt(step)
    folder.mkdir(parents=True)
    write_json(folder / "attempt.json", {"host": "bigbox", "pid": 4242, "started": 1.5, "lease_s": 60.0, **note})


def step_named(experiment: Experiment, label: str) -> Step:
    (found,) = [step for step in experiment.steps if step.label == label]
    return found


def test_collect_has_a_row_for_each_arm_and_seed_in_the_plans_order(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store)
    found = [(r["method"], r["fraction"], r["seed"]) for r in collected(experiment, store)]
    methods = [(m, 0.25, s) for m in ("random", "longest", "icon") for s in (0, 1)]
    assert found == [("base", None, None), ("full", 1.0, 0), ("full", 1.0, 1), *methods]


def test_collect_cost_of_selection_is_the_sum_of_all_score_steps(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store)
    rows = collected(experiment, store)
    assert row(rows, "icon")["selection"] == {"tokens": 1111, "flops": 3333.0}
    for method, seed in (("base", None), ("full", 0), ("random", 0), ("longest", 1)):
        assert row(rows, method, seed)["selection"] == {"tokens": 0, "flops": 0}


def test_collect_cost_of_tuning_is_that_of_the_arms_own_training(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store)
    rows = collected(experiment, store)
    assert row(rows, "icon", 1)["tuning"] == {"tokens": 500, "flops": 700.0}
    assert row(rows, "base", None)["tuning"] == {"tokens": 0, "flops": 0}


def test_collect_cost_of_an_unfinished_part_is_none(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store, without="shard-0001")
    assert row(collected(experiment, store), "icon")["selection"] is None


def test_collect_each_cell_names_its_step_folder(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store)
    for found, arm in zip(collected(experiment, store), experiment.arms, strict=True):
        assert set(found["benchmarks"]) == {"tiny", "other"} and found["missing"] == {}
        for task, cell in found["benchmarks"].items():
            assert (cell["value"], cell["stderr"], cell["items"]) == (0.5, 0.1, 20)
            assert cell["step"] == arm.evaluations[task].folder
            assert (store.root / cell["step"] / "record.json").is_file()


def test_collect_rows_name_what_was_selected_and_trained(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store)
    rows = collected(experiment, store)
    icon = row(rows, "icon", 1)
    assert (icon["selected"], icon["trained"]) == (6, 6)
    assert all((store.root / folder).is_dir() for folder in icon["steps"].values())
    full, base = row(rows, "full"), row(rows, "base", None)
    assert (full["selected"], full["trained"], full["steps"]["select"]) == (None, 6, None)
    assert base["steps"] == {"select": None, "train": None}


def test_collect_holds_neither_times_nor_hosts(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store, without="evaluate/icon")
    attempt(store, step_named(experiment, "evaluate/icon-f0.25-s0-tiny"), outcome="running", error=None)
    text = json.dumps(collected(experiment, store))
    for word in ("bigbox", "4242", "wall_s", "7.5", str(store.root)):
        assert word not in text


def test_collect_reason_is_the_step_that_failed(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store, without="icon")
    failed = step_named(experiment, "score/icon-shard-0001")
    attempt(store, failed, outcome="failed", error="TokenError: too long\nsecond line")
    rows = collected(experiment, store)
    for seed in (0, 1):
        reason = "score/icon-shard-0001 failed: TokenError: too long"
        assert row(rows, "icon", seed)["missing"] == {"tiny": reason, "other": reason}
        assert row(rows, "icon", seed)["benchmarks"] == {}
    assert row(rows, "random")["missing"] == {}


def test_collect_reason_names_no_folder_of_this_machine(
    tmp_path: Path, experiment: Experiment, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = f"DamagedInputError: input 'x' ({store.root}/score/x: file missing); see {tmp_path}/pool.jsonl"
    attempt(store, step_named(experiment, "evaluate/base-other"), outcome="failed", error=error)
    reason = row(collected(experiment, store), "base", None)["missing"]["other"]
    assert reason.endswith("input 'x' (<work>/score/x: file missing); see ./pool.jsonl")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{home}/run/work", "<work>"),
        ("open('{home}/run/work/score/a-0.1/x.npy')", "open('<work>/score/a-0.1/x.npy')"),
        ("{home}/run/work.", "<work>."),
        ("no such file: {home}/run/pool.jsonl, {home}/run", "no such file: ./pool.jsonl, ."),
        ("{home}/run/works/x {home}/run/work.old", "./works/x ./work.old"),
        ("{home}/run-2/x {home}/run.old/x", "~/run-2/x ~/run.old/x"),
        ("{home}/.cache/x", "~/.cache/x"),
        ("{home}s /mnt{home}/run/x https://host{home}/run", "{home}s /mnt{home}/run/x https://host{home}/run"),
    ],
)
def test_portable_text_of_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    monkeypatch.chdir(home / "run")
    monkeypatch.setenv("HOME", str(home))
    assert portable(text.format(home=home), home / "run" / "work") == expected.format(home=home)


def test_provenance_holds_what_is_behind_the_table_and_finished(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store, without="evaluate/icon")
    found = provenance(experiment, store)
    cells = {b["step"] for r in collected(experiment, store) for b in r["benchmarks"].values()}
    assert set(found["results"]) == cells and len(cells) == 14
    assert cells < set(found["steps"])
    assert all((store.root / folder).is_dir() for folder in found["steps"])
    assert found["git"] == [{"commit": "c0ffee", "dirty": False}]
    assert found["packages"] == {"python": ["3.11.9"], "torch": ["2.13.0"], "trl": [None]}
    pool = step_named(experiment, "prepare/pool-tiny")
    assert found["sources"]["prepare/pool-tiny"] == {"source": pool.files["source"].sha256}
    for word in ("bigbox", "wall_s", str(store.root)):
        assert word not in json.dumps(found)


def test_provenance_lists_every_version_and_state(experiment: Experiment, store: Store) -> None:
    other = {"git": {"commit": None, "dirty": None}, "packages": {"torch": "2.12.0", "trl": "1.16.0"}}
    step = step_named(experiment, "evaluate/base-other")
    publish_fake(step, store, metrics(step), **other)
    publish_all(experiment, store, without="base-other")
    found = provenance(experiment, store)
    assert found["git"] == [{"commit": "c0ffee", "dirty": False}, {"commit": None, "dirty": None}]
    assert found["packages"] == {
        "python": ["3.11.9"],
        "torch": ["2.12.0", "2.13.0"],
        "trl": ["1.16.0", None],
    }


def test_collect_reason_is_the_evaluations_own_failure(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store, without="base-other")
    attempt(store, step_named(experiment, "evaluate/base-other"), outcome="failed", error="EvaluationError: no data")
    base = row(collected(experiment, store), "base", None)
    assert base["missing"] == {"other": "evaluate/base-other failed: EvaluationError: no data"}
    assert set(base["benchmarks"]) == {"tiny"}


def test_collect_reason_of_an_interrupted_or_unstarted_step(experiment: Experiment, store: Store) -> None:
    assert row(collected(experiment, store), "base", None)["missing"]["tiny"] == "not run yet"
    attempt(store, step_named(experiment, "model/tiny_random"), outcome="running", error=None)  # nobody holds its claim
    assert row(collected(experiment, store), "base", None)["missing"]["tiny"] == "model/tiny_random interrupted"


def test_collect_reason_doesnt_tell_of_older_builds(tmp_path: Path, experiment: Experiment, store: Store) -> None:
    fresh = collected(experiment, Store(tmp_path / "empty"))
    publish_all(plan(small(tmp_path, {"seeds": [0, 1], "evaluation.seed": 7, "model.random.seed": 7})), store)
    assert [r["missing"] for r in collected(experiment, store)] == [r["missing"] for r in fresh]


def test_collect_holds_outcomes_by_item_and_facts_of_the_benchmarks(tmp_path: Path, store: Store) -> None:
    config = small(tmp_path)
    config.evaluation.tasks["tiny"].group, config.evaluation.tasks["tiny"].chance = "RS", 0.25
    experiment = plan(config)
    publish_all(experiment, store)
    (base,) = [r for r in collected(experiment, store) if r["method"] == "base"]
    assert base["tasks"] == {"tiny": {"group": "RS", "chance": 0.25, "higher_is_better": True}}
    assert base["benchmarks"]["tiny"]["outcomes"]["parts"] == [{"name": "", "weight": 1.0, "values": "01" * 10}]


def test_collect_runs_of_several_selections_name_their_seed(tmp_path: Path, store: Store) -> None:
    experiment = plan(small(tmp_path, {"methods.random.repeats": 2, "seeds": [0, 1]}))
    publish_all(experiment, store)
    found = [(r["selection_seed"], r["seed"]) for r in collected(experiment, store) if r["method"] == "random"]
    seed = experiment.config.methods["random"].seed
    assert found == [(seed, 0), (seed, 1), (seed + 1, 0), (seed + 1, 1)]
    assert {r["selection_seed"] for r in collected(experiment, store) if r["method"] != "random"} == {None}


def test_collect_names_the_method_that_a_control_is_matched_to(tmp_path: Path, store: Store) -> None:
    experiment = plan(small(tmp_path, {"methods.like": {"kind": "random", "matched_to": "longest"}}))
    publish_all(experiment, store)
    found = {r["method"]: r.get("matched_to") for r in collected(experiment, store)}
    assert found == {**dict.fromkeys(["base", "full", "random", "longest", "icon"]), "like": "longest"}


@pytest.fixture
def judged(experiment: Experiment, store: Store) -> Step:
    """A comparison of the first arm, with three verdicts and a failure."""
    publish_all(experiment, store)
    step = Step("judge", "verdicts-base-koala", "none:run", 1, PooledSets(ordered=True))
    counts = {"win": 1, "tie": 1, "lose": 1, "judged": 3, "failed": 1, "prompts": 4}
    others = ("length_controlled_score", "position_consistency", "first_preferred", "longer_wins")
    more = dict.fromkeys([*others, "length_winners", "length_losers"])
    publish_fake(step, store, {"winning_score": 1.0, "win_rate": 50.0, **counts, **more})
    verdicts = [{"id": i, "outcome": outcome} for i, outcome in (("a", "win"), ("c", "tie"), ("b", "lose"))]
    write_rows(store.path(step) / "verdicts.jsonl", verdicts)
    write_rows(store.path(step) / "failures.jsonl", [{"id": "d", "reason": "x"}])
    experiment.arms[0].judged["koala"] = step
    return step


def test_collect_holds_what_a_judge_said_of_each_prompt(experiment: Experiment, store: Store, judged: Step) -> None:
    base = row(collected(experiment, store), "base", None)
    assert base["judged"]["koala"]["winning_score"] == 1.0 and base["judged"]["koala"]["step"] == judged.folder
    assert base["judged"]["koala"]["against"] == experiment.config.judge.against
    assert base["judged"]["koala"]["outcomes"]["parts"][0]["values"] == "wltf"
    assert judged.folder in provenance(experiment, store)["results"]


def test_collect_names_why_a_comparison_is_missing(experiment: Experiment, store: Store) -> None:
    publish_all(experiment, store)
    step = Step("judge", "verdicts-base-koala", "none:run", 1, PooledSets(ordered=True))
    experiment.arms[0].judged["koala"] = step
    base = row(collected(experiment, store), "base", None)
    assert base["judged"] == {} and base["unjudged"] == {"koala": "not run yet"}


def test_collect_reference_may_be_a_benchmark(experiment: Experiment, store: Store, judged: Step) -> None:
    experiment.config.judge.benchmarks["koala"] = "IF"
    rows = collected(experiment, store)
    cell = row(rows, "base", None)["benchmarks"]["koala"]
    assert (cell["value"], cell["items"], cell["step"]) == (0.5, 3, judged.folder)
    values = cell["outcomes"]["parts"][0]["values"]
    assert sum(values) / 4 == pytest.approx(0.5) and values[3] == 0.5
    assert row(rows, "base", None)["tasks"]["koala"] == {"group": "IF", "chance": None, "higher_is_better": True}
    assert row(rows, "icon")["missing"] == {"koala": "judge.methods or judge.fractions leave it out"}


def test_estimate_is_the_sum(experiment: Experiment) -> None:
    shards = [s for s in experiment.steps if s.name.startswith("icon-shard")]
    total = estimate(shards)
    assert len(shards) == 3
    assert total.tokens == sum(s.cost.tokens for s in shards) and total.flops == sum(s.cost.flops for s in shards) > 0


@pytest.mark.parametrize("name", ["items.json", "record.json"])
def test_collect_damaged_result_is_named_not_shown(experiment: Experiment, store: Store, name: str) -> None:
    publish_all(experiment, store)
    step = step_named(experiment, "evaluate/base-other")
    assert Intact(store).damaged(step) is None
    path = store.path(step) / name
    path.write_text(path.read_text().replace("5", "7"))
    found = f"altered since it was published ({name})"
    assert Intact(store).damaged(step) == found
    named = rf"evaluate/base-other-{step.fingerprint}: {re.escape(found)}(?s:.*)run again"
    with pytest.raises(ArtifactError, match=named):
        collected(experiment, store)


# ---------------------------------------------------------------- held-out rows


NLL = {"kind": "nll", "metric": "nll"}
HELD = {"metric": "nll", "value": 0.5, "stderr": 0.1, "items": 20, "version": 1, "dropped": {"too long": 1}}


def held_out(tmp_path: Path, **tasks: Mapping[str, Any]) -> Experiment:
    rows = {"source": {"kind": "file", "format": "alpaca", "name": "held", "path": str(tmp_path / "held.jsonl")}}
    (tmp_path / "held.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    return plan(small(tmp_path, {f"evaluation.tasks.{name}": {**NLL, "rows": rows, **t} for name, t in tasks.items()}))


def publish_held_out(
    experiment: Experiment, store: Store, tokens: Mapping[str, list[int]], without: str = "nothing"
) -> None:
    """Items 0 and 1 in turn; ``tokens`` by task, of the rows in the order of their ids."""
    for step in experiment.steps:
        if without in step.label:
            continue
        name = step.label.removeprefix("prepare/rows-")
        if name not in tokens:
            publish_fake(step, store, HELD if step.stage == "evaluate" else metrics(step))
            continue
        part = store.path(step).with_name("facts.part")
        part.mkdir(parents=True)
        ids = [f"{i:02}" for i in range(len(tokens[name]))][::-1]  # joined by id, not by position
        facts = {"ids": ids, "tokens": tokens[name][::-1], "groups": [f"g{i[1]}" for i in ids]}
        write_json(part / "facts.json", facts)
        publish(part, store.path(step), {"metrics": {"rows": len(ids)}, "hashed": step.hashed})


def test_collect_held_out_task_gives_its_measures_by_tokens_and_by_rows(tmp_path: Path, store: Store) -> None:
    experiment = held_out(tmp_path, held={}, web={"short_tokens": 0})
    publish_held_out(experiment, store, {"held": [5, 10] * 10, "web": [10, 30] * 10})
    for found, arm in zip(collected(experiment, store), experiment.arms, strict=True):
        cells = {name: cell for name, cell in found["benchmarks"].items() if name != "tiny"}
        values = {name: (cell["value"], cell["items"]) for name, cell in cells.items()}
        held = {"held": (1.0, 10), "held_rows": (0.5, 20), "held_short": (0.0, 10)}
        assert values == {**held, "web": (0.75, 20), "web_rows": (0.5, 20)}
        assert set(found["tasks"]) == {"tiny", *cells} and found["missing"] == {}
        assert not any(found["tasks"][name]["higher_is_better"] for name in cells)
        assert {cell["step"] for cell in cells.values()} == {arm.evaluations[n].folder for n in ("held", "web")}
        assert cells["web"]["outcomes"]["parts"][0]["sizes"] == [10, 30] * 10


def test_collect_held_out_without_facts_or_scores_names_what_is_missing(tmp_path: Path, store: Store) -> None:
    experiment = held_out(tmp_path, held={})
    publish_held_out(experiment, store, {"held": [5, 10] * 10}, without="prepare/rows-held")
    first = collected(experiment, store)[0]
    assert first["missing"] == {"held": "not run yet", "held_rows": "not run yet"}
    assert set(first["tasks"]) == {"tiny", "held", "held_rows"}
    facts = Store(tmp_path / "facts")
    publish_held_out(experiment, facts, {"held": [5, 10] * 10}, without="evaluate/base")
    first = collected(experiment, facts)[0]
    measures = ("held", "held_rows", "held_short")
    assert first["missing"] == dict.fromkeys(("tiny", *measures), "not run yet")


def test_collect_held_out_facts_of_other_rows_are_refused(tmp_path: Path, store: Store) -> None:
    experiment = held_out(tmp_path, held={})
    publish_held_out(experiment, store, {"held": [20] * 19})
    with pytest.raises(MeasuresError, match=r"held: 20 NLLs and facts of 19 rows .*'19'.*Delete"):
        collected(experiment, store)


def test_collect_damaged_facts_are_named(tmp_path: Path, store: Store) -> None:
    experiment = held_out(tmp_path, held={})
    publish_held_out(experiment, store, {"held": [20] * 20})
    path = store.path(experiment.held_out_rows["held"]) / "facts.json"
    path.write_text(path.read_text(encoding="utf-8").replace("20", "21", 1), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"facts\.json"):
        collected(experiment, store)
