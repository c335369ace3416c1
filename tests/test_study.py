"""experiment=study: what its plan holds, what its rows are, and that it runs on tiny stand-ins."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli import icon_repro
from small import composed, small

from icon_repro.config.load import ConfigError, load
from icon_repro.data.candidates import ordered, overlaps
from icon_repro.data.options import RowsConfig
from icon_repro.data.prepare import draw, examples, reject, unique
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Step, ancestors
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import Arm, Experiment, plan

ROOT = Path(__file__).resolve().parents[1]
METHODS = ["random", "random_icon", "longest", "icon", "rds", "less"]
POOLS, ROWS = 5, 512


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    pool = str(ROOT / "icon_repro" / "data" / "tiny" / "pool.jsonl")
    work = tmp_path_factory.mktemp("work")
    changes: dict[str, Any] = {"data.pool.source.path": pool, "data.assessment.source.path": pool}
    for task in composed("experiment=study")["evaluation"]["tasks"]:
        if task != "alpaca_eval":
            changes[f"evaluation.tasks.{task}.rows.source.path"] = pool
    return plan(small(work, changes, experiment="study"))


def candidates_of(step: Step) -> list[Step]:
    """Pools that a step reads, directly or not."""
    return [s for s in ancestors(step) if s.name.startswith("candidates")]


def tuned(study: Experiment) -> list[Arm]:
    return [arm for arm in study.arms if arm.train is not None]


def test_study_each_method_selects_from_each_pool_and_is_tuned_twice(study: Experiment) -> None:
    runs = [(arm.method, arm.pool, arm.seed) for arm in tuned(study)]
    assert runs == [(method, pool, seed) for method in METHODS for pool in range(POOLS) for seed in (0, 1)]
    assert all(arm.selection_seed == arm.pool for arm in tuned(study))
    assert len({arm.train.folder for arm in tuned(study) if arm.train}) == len(runs)


def test_study_a_pools_steps_read_that_pool_only(study: Experiment) -> None:
    for arm in tuned(study):
        assert arm.train is not None
        (pool,) = candidates_of(arm.train)
        assert (pool.params.start, pool.params.size) == (arm.pool * ROWS if arm.pool else 0, ROWS)


def test_study_control_is_matched_to_icon_of_the_same_pool(study: Experiment) -> None:
    icon = {arm.pool: arm.select for arm in tuned(study) if arm.method == "icon"}
    for arm in tuned(study):
        if arm.method == "random_icon":
            assert arm.select is not None
            assert arm.select.inputs["scores"].inputs["selection"] is icon[arm.pool]


def test_study_held_out_rows_are_outside_all_pools(study: Experiment) -> None:
    for arm in study.arms:
        for step in arm.evaluations.values():
            pools = step.inputs["candidates"].params
            assert (pools.start, pools.size) == (0, POOLS * ROWS)


def test_study_evaluates_three_epochs_of_one_training(study: Experiment) -> None:
    for arm in study.arms:
        epochs = {name: step.params.epoch for name, step in arm.evaluations.items()}
        sets = ("alpaca", "assessment", "alpaca_eval")
        after = {"": None, "_e1": 1, "_e3": 3} if arm.train else {"": None, "_e1": None, "_e3": None}
        assert epochs == {f"{one}{suffix}": epoch for one in sets for suffix, epoch in after.items()}
        assert {step.inputs.get("tuned") for step in arm.evaluations.values()} == {arm.train}
        for one in sets:
            rows = {arm.evaluations[f"{one}{suffix}"].inputs["rows"].fingerprint for suffix in after}
            assert len(rows) == 1
    trainings = {arm.train.params.train.epochs for arm in tuned(study) if arm.train}
    assert trainings == {10.0}


def rows_of(cfg: RowsConfig, runtime: Runtime) -> list[Example]:
    """All rows of a source that its filters leave."""
    assert cfg.source.path is not None
    read, _ = examples(cfg.source, Runtime(runtime.cluster, runtime.cache, files={"source": ROOT / cfg.source.path}))
    return [row for row in unique(read)[0] if reject(row, cfg) is None]


def drawn(cfg: RowsConfig, runtime: Runtime) -> list[Example]:
    assert cfg.sample is not None
    return draw(rows_of(cfg, runtime), cfg.sample, cfg.seed, stratify=cfg.stratify)


def test_study_256_held_out_rows_remain(shared: Path, runtime: Runtime) -> None:
    config = load(composed("experiment=study"))
    assessment = drawn(config.data.assessment, runtime)
    pool = rows_of(config.data.pool, runtime)
    exact, ngram = overlaps(pool, assessment, config.data.candidates.order.ngram)
    order = ordered([row for row in pool if row.id not in {*exact, *ngram}], config.data.candidates.order.seed)
    seen = {row.id for row in [*order[: POOLS * ROWS], *assessment]}
    assert len(seen) == POOLS * ROWS + 64
    for task in ("alpaca", "assessment"):
        rows = config.evaluation.tasks[task].rows
        assert rows is not None
        assert sum(row.id not in seen for row in drawn(rows, runtime)) == 256


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"full": True}, r"data\.pools=5: full tunes on the rows of one pool only; set full=false"),
        ({"data.candidates.size": None}, r"data\.pools=5: each pool is a slice.*set data\.candidates\.size"),
        ({"methods.random.repeats": 3}, r"methods\.random\.repeats=3: with data\.pools=5 .*repeats=1"),
        ({"select_from": "pool"}, r"data\.pools=5: .*set select_from=candidates"),
        ({"training.kept_epochs": [3]}, r"evaluation\.tasks\.alpaca_e1\.epoch=1: the training saves the epochs \[3\]"),
        ({"training.kept_epochs": [1, 3, 11]}, r"training\.kept_epochs=\[1, 3, 11\]: epoch 11 is after the last"),
        ({"training.kept_epochs": [1, 3, 3]}, r"training\.kept_epochs=\[1, 3, 3\]: an epoch is given twice"),
        ({"training.deepspeed": {}}, r"training\.kept_epochs=\[1, 3\]: DeepSpeed .*deepspeed=null"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_study_settings_that_cant_work_are_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small(tmp_path, changes, experiment="study")


def test_epoch_of_a_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.tiny\.epoch=1: is for kind nll, not multiple_choice"):
        small(tmp_path, {"evaluation.tasks.tiny.epoch": 1, "training.kept_epochs": [1]})


TINY = """experiment=study model=tiny_random data=tiny data.pools=2 data.candidates.size=12 data.assessment.sample=6
evaluation.tasks.alpaca_eval.rows.source=${data.pool.source} evaluation.max_length=1024 seeds=[0]
~evaluation.tasks.assessment_e1 ~evaluation.tasks.alpaca_eval_e1 ~evaluation.tasks.alpaca_eval_e3
training.epochs=4 training.global_batch_size=1 training.max_length=1024 training.learning_rate=0.01
methods.icon.dtype=float32 methods.icon.shard_candidates=16 methods.less.global_batch_size=1
cluster.micro_batch_size=1 cluster.executor=inline cluster.device=cpu tracking=none"""


@pytest.mark.slow
def test_study_runs_on_tiny_stand_ins(tmp_path: Path) -> None:
    done = icon_repro(tmp_path, *TINY.split())
    assert done.code == 0, done.out + done.error
    assert re.search(r"built, 0 cached, 0 failed, 0 blocked", done.out)
    rows = [
        json.loads(line)
        for line in (tmp_path / "results" / "study" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    runs = [(row["method"], row["pool"], row["matched_to"]) for row in rows if row["method"] != "base"]
    assert runs == [(m, pool, "icon" if m == "random_icon" else None) for m in METHODS for pool in (0, 1)]
    for row in rows:
        value = {name: row["benchmarks"][name]["value"] for name in ("alpaca", "alpaca_e1", "alpaca_e3")}
        assert row["missing"] == {} and len(set(value.values())) == (1 if row["method"] == "base" else 3)
        assert row["benchmarks"]["alpaca"]["items"] >= 30
    compared = icon_repro(tmp_path, *TINY.split(), "action=compare")
    assert compared.code == 0, compared.out + compared.error
    with (tmp_path / "results" / "study" / "methods.csv").open(encoding="utf-8", newline="") as file:
        scored = {row["method"]: (row["scored"], row["without score"]) for row in csv.DictReader(file)}
    of_pool = {"random_icon": ("3", "9")}  # a quarter of a pool is drawn
    assert scored == {f"{m}-r{pool}": of_pool.get(m, ("12", "0")) for m in METHODS for pool in (0, 1)}
