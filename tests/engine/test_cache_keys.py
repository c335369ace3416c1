"""A stored result is used for its own inputs only: each input changed alone is a miss there and in all that follows.

Everything that the steps directly concerned by a change don't feed stays a hit; so does everything when only machines,
places, names or prices change. Plans only: results are empty folders in a store.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from worlds import MODEL_FILES, WORLDS, World

from icon_repro.data import planner
from icon_repro.engine.artifact import Step
from icon_repro.engine.targets import TARGETS
from icon_repro.methods import base


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return World(tmp_path, request.param)


# ---------------------------------------------------------------- values that change results

ORDER = "prepare/order"
DTYPE = "score/icon-dtype"
PAIRS = "score/icon-baseline score/icon-bank score/icon-shard-*"
MISSES: list[tuple[str, dict[str, Any], str]] = [
    # data and its preparation
    ("methods", {"data.pool.drop_urls": False}, "prepare/pool-tiny"),
    ("methods", {"data.pool.source.fields.input": None}, "prepare/pool-tiny"),
    ("methods", {"data.pool.source.format": "prompt_response"}, "prepare/pool-tiny score/embeddings-queries"),
    ("methods", {"data.pool.sample": 40}, "prepare/pool-tiny"),
    ("methods", {"data.pool.seed": 1}, "prepare/pool-tiny"),
    ("methods", {"data.pool.max_chars": 99}, "prepare/pool-tiny"),
    ("methods", {"data.pool.max_prompt_chars": 99}, "prepare/pool-tiny"),
    ("methods", {"data.assessment.seed": 1}, "prepare/assessment-tiny"),
    ("methods", {"data.candidates.order.seed": 1}, ORDER),
    ("methods", {"data.candidates.order.overlap": "keep"}, ORDER),
    ("methods", {"data.candidates.order.ngram": 5}, ORDER),
    # models
    ("methods", {"model.random.seed": 1}, "model/tiny_random"),
    ("methods", {"model.random.bos": False}, "model/tiny_random"),
    ("hub", {"model.revision": "a" * 40}, "model/m"),
    ("hub", {"model.hub_id": "org/other"}, "model/m"),
    # ICon
    ("icon", {"methods.icon.dtype": "float16"}, f"{DTYPE} {PAIRS} score/icon"),
    ("icon", {"methods.icon.bank": {"lengths": [8, 64, 2040]}}, "score/icon-bank score/icon"),
    ("icon", {"methods.icon.bank": {"draws": 5}}, "score/icon-bank score/icon"),
    ("icon", {"methods.icon.seed": 1}, f"{DTYPE} score/icon-bank score/icon"),
    ("icon", {"methods.icon.fidelity": {"rows": 9}}, f"{DTYPE} score/icon"),
    ("icon", {"methods.icon.epsilon": 0.1}, f"{DTYPE} score/icon"),
    ("noise", {"methods.icon.seed": 1}, "score/icon-control-* score/icon"),
    ("noise", {"methods.icon.noise_unit": "characters"}, "score/icon-control-* score/icon"),
    ("pool", {"methods.icon.selector": {"kind": "lora", "epochs": 2.0}}, "score/icon-start score/icon-selector-s0"),
    ("adaptive", {"methods.icon.adaptive": {"first_rows": 4, "error": 0.1}}, "score/icon-round?? score/icon"),
    ("pool", {"methods.icon.auto": {"cost_ratio": 0.9}}, "score/icon-start"),
    # other methods
    ("methods", {"methods.random.seed": 1}, "score/random"),
    ("methods", {"methods.like.seed": 1}, "score/like-*"),
    ("tokens", {"training.max_length": 99}, "prepare/row-tokens"),
    ("tokens", {"budget": "rows"}, "select/*"),
    ("pools", {"training.kept_epochs": [1, 2], "training.epochs": 2}, "train/*"),
    ("pools", {"data.candidates.size": 13}, "prepare/candidates*"),
    ("pools", {"evaluation.tasks.held.epoch": None}, "evaluate/random*-held evaluate/longest*-held"),
    ("methods", {"methods.ppl.best": "highest"}, "score/ppl"),
    ("methods", {"methods.ppl.template": "plain"}, "score/answers-tiny_random-conditioned-*"),
    ("methods", {"methods.ifd.direct": ""}, "score/answers-other-tuned-conditioned-direct-*"),
    ("methods", {"methods.ifd.pre_experienced": {"seed": 1}}, "score/experience-other-training"),
    ("methods", {"methods.ifd.diversity": {"share": 0.5}}, "score/ifd-share"),
    ("methods", {"methods.rds.max_length": 99}, "score/embeddings-weighted-* score/embeddings-queries"),
    ("methods", {"methods.nuggets.separator": " "}, "score/nuggets-part-*"),
    ("methods", {"methods.nuggets.anchors": {"seed": 1}}, "score/nuggets-anchors"),
    ("methods", {"methods.selectit.alpha": 0.5}, "score/selectit"),
    ("methods", {"methods.less_stored.projection_seed": 1}, "score/less_stored-epoch1-*"),
    ("methods", {"methods.less.warmup_seed": 1}, "score/less-warmup score/less-warmup-training"),
    ("methods", {"methods.less.adam": "code"}, "score/less-epoch1-shard-*"),
    ("methods", {"methods.less_stored.adam": "paper"}, "score/less_stored-epoch1-shard-*"),
    ("methods", {"methods.less.shot_mean": "gradients"}, "score/less-epoch1-assessment"),
    ("methods", {"methods.less_stored.shot_mean": "gradients"}, "score/less_stored"),
    ("methods", {"methods.less.target_template": "as_is"}, "score/less-epoch1-assessment"),
    ("methods", {"methods.less_stored.target_template": "tuning"}, "score/less_stored-epoch1-assessment"),
    ("methods", {"methods.deita.threshold": 0.5}, "score/deita"),
    ("methods", {"methods.deita.quality.random.seed": 2}, "model/third"),
    ("methods", {"methods.armorm.prompt_end": "x"}, "score/armorm-part-*"),
    ("methods", {"methods.asked.endpoint.model": "other"}, "score/asked-ratings"),
    ("methods", {"methods.asked.endpoint.temperature": 1.0}, "score/asked-ratings"),
    ("methods", {"methods.rated.ties_seed": 1}, "score/rated"),
    ("methods", {"methods.own.options": {"x": 2}}, "score/own"),
    # selection and tuning
    ("tuned", {"fractions": [0.5]}, "select/random-f0.5"),
    ("tuned", {"seeds": [1]}, "train/*-s1"),
    ("tuned", {"training.tuning": "full"}, "train/*"),
    ("tuned", {"training.learning_rate": 1e-3}, "train/*"),
    ("tuned", {"training.epochs": 2}, "train/*"),
    ("tuned", {"training.schedule": "cosine"}, "train/*"),
    ("tuned", {"training.warmup_ratio": 0.5}, "train/*"),
    ("tuned", {"training.weight_decay": 0.5}, "train/*"),
    ("tuned", {"training.max_grad_norm": 0.5}, "train/*"),
    ("tuned", {"training.global_batch_size": 8}, "train/*"),
    ("tuned", {"training.max_length": 99}, "train/*"),
    ("tuned", {"training.dtype": "bfloat16"}, "train/*"),
    ("tuned", {"training.lora.r": 4}, "train/*"),
    ("tuned", {"training.lora.alpha": 4}, "train/*"),
    ("tuned", {"training.lora.dropout": 0.5}, "train/*"),
    ("tuned", {"training.lora.targets": ["q_proj"]}, "train/*"),
    # benchmarks
    ("tuned", {"evaluation.tasks.tiny.limit": 5}, "prepare/shared-tiny evaluate/*-tiny"),
    ("tuned", {"evaluation.tasks.tiny.num_fewshot": 1}, "evaluate/*-tiny"),
    ("tuned", {"evaluation.tasks.tiny.metric": "acc_norm"}, "evaluate/*-tiny"),
    ("tuned", {"evaluation.tasks.piqa.filter": "strict"}, "prepare/shared-piqa evaluate/*-piqa"),
    ("tuned", {"evaluation.tasks.piqa.task": "arc_easy"}, "prepare/shared-piqa evaluate/*-piqa"),
    ("tuned", {"evaluation.tasks.held.rows.seed": 7}, "prepare/bench-held"),
    ("tuned", {"evaluation.seed": 1}, "prepare/shared-piqa evaluate/*-tiny evaluate/*-piqa"),
    ("tuned", {"evaluation.tasks.held.template": "as_is"}, "prepare/rows-held evaluate/*-held"),
    ("tuned", {"evaluation.max_length": 99}, "prepare/rows-held evaluate/*"),
    ("tuned", {"evaluation.dtype": "bfloat16"}, "evaluate/*"),
    ("tuned", {"evaluation.backend": "vllm"}, "evaluate/*-tiny evaluate/*-piqa"),
    (
        "hub",
        {"evaluation.tasks.piqa.dataset.revision": "b" * 40},
        "prepare/bench-piqa prepare/shared-piqa evaluate/*-piqa",
    ),
    ("hub", {"evaluation.tasks.piqa.metric": "acc_norm"}, "prepare/shared-piqa evaluate/*-piqa"),
    # judging
    ("endpoint", {"judge.protocol": "pair_v2"}, "judge/verdicts-*-one judge/verdicts-*-two"),
    ("endpoint", {"judge.endpoint.model": "other"}, "judge/verdicts-*-one judge/verdicts-*-two"),
    ("endpoint", {"judge.endpoint.base_url": "http://127.0.0.1:2/v1"}, "judge/verdicts-*-one judge/verdicts-*-two"),
    ("endpoint", {"judge.endpoint.reasks": 1}, "judge/verdicts-*-one judge/verdicts-*-two"),
    ("endpoint", {"judge.served.seed": 1}, "judge/answers-served-*"),
    ("endpoint", {"judge.sets.one.seed": 9}, "prepare/judge-one"),
    ("endpoint", {"judge.generation.max_new_tokens": 9}, "judge/answers-random-*"),
    ("local", {"judge.reading": "letters"}, "judge/verdicts-*-one judge/verdicts-*-two judge/verdicts-*-ref"),
    ("local", {"judge.model.random.seed": 2}, "model/other"),
    ("local", {"judge.max_new_tokens": 9}, "judge/verdicts-*-one judge/verdicts-*-two judge/verdicts-*-ref"),
    ("nll", {"judge.template": "plain"}, "judge/verdicts-*-one judge/verdicts-*-two"),
    ("nll", {"judge.dtype": "bfloat16"}, "judge/verdicts-*-one judge/verdicts-*-two"),
]


@pytest.mark.parametrize("world, changes, roots", MISSES, ids=[f"{w} {c}" for w, c, _ in MISSES], indirect=["world"])
def test_cache_changed_value_is_a_miss_there_and_downstream_only(
    world: World, changes: dict[str, Any], roots: str
) -> None:
    world.check(changes, roots)


# ---------------------------------------------------------------- bytes of files

FILES = [
    ("methods", "pool.jsonl", "prepare/pool-tiny"),
    ("methods", "assessment.jsonl", "prepare/assessment-tiny"),
    ("methods", "ratings.json", "score/rated"),
    ("methods", "own.py", "score/own"),
    ("methods", "ids.json", "score/listed"),
    ("tuned", "benchmark.jsonl", "prepare/bench-tiny prepare/shared-piqa evaluate/*-piqa"),
    *(("tuned", f"model/{file}", "model/mine") for file in MODEL_FILES),
    ("endpoint", "assessment.jsonl", "prepare/assessment-tiny prepare/judge-one prepare/judge-two"),
]


@pytest.mark.parametrize("world, file, roots", FILES, indirect=["world"])
def test_cache_changed_byte_is_a_miss_there_and_downstream_only(world: World, file: str, roots: str) -> None:
    path = world.folder / "data" / file
    content = bytearray(path.read_bytes())
    if path.suffix == ".py":  # its syntax is looked at before any work
        content += b"#"
    else:
        content[-3] ^= 1
    path.write_bytes(bytes(content))
    world.check({}, roots)


def test_cache_added_file_of_a_model_is_a_miss(tmp_path: Path) -> None:
    world = World(tmp_path, "tuned")
    (tmp_path / "data" / "model" / "added_tokens.json").write_text("{}")
    world.check({}, "model/mine")


# ---------------------------------------------------------------- versions of stages


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_cache_raised_version_of_each_stage_is_a_miss_there_and_downstream_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, set[str]] = {}
    for step in world.steps({}):
        own.setdefault(step.target, set()).add(step.label)
    for target, labels in own.items():

        def raised(stage: str, name: str, to: str, version: int, *more: Any, _raised: str = target, **kw: Any) -> Step:
            return Step(stage, name, to, version + (to == _raised), *more, **kw)

        with monkeypatch.context() as patch:
            for module in (planner, base):
                patch.setattr(module, "Step", raised)
            world.check({}, " ".join(labels))


def test_cache_worlds_hold_every_stage(tmp_path: Path) -> None:
    held = {step.target for name in WORLDS for step in World(tmp_path / name, name).steps({})}
    golden = json.loads((Path(__file__).parents[1] / "golden" / "plans.json").read_text(encoding="utf-8"))
    known = {group.partition(" ")[2] for plan in golden.values() for group in plan["groups"]}
    assert known | {target for target, _ in TARGETS.values()} == held


# ---------------------------------------------------------------- what doesn't change results

HITS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("tuned", {f"cluster.{key}": value})
        for key, value in {
            "device": "cuda:1",
            "threads": 7,
            "attention": "eager",
            "score_batch_tokens": 77,
            "micro_batch_size": 2,
            "eval_batch_size": 3,
            "gradient_checkpointing": True,
            "checkpoint_steps": 5,
            "executor": "inline",
            "lease_s": 5.0,
            "slurm": {"partition": "gpu", "training": {"gpus": 1}, "setup": ["module load cuda"], "max_requeues": 1},
        }.items()
    ),
    ("tuned", {"cluster.processes": 4, "cluster.micro_batch_size": 1}),
    ("tuned", {"training.deepspeed": {"stage": 3, "offload": True}}),
    ("tuned", {"paths.cache": "/elsewhere", "paths.results": "elsewhere"}),
    ("tuned", {"tracking.wandb": "online", "tracking.project": "p", "tracking.entity": "e", "tracking.silence_s": 1.0}),
    ("tuned", {"action": "plan"}),
    ("tuned", {"name": "other", "description": "other"}),
    ("tuned", {"model.licence": "other", "model.parameters": 9}),
    ("tuned", {"data.pool.source.name": "other", "data.pool.source.licence": "other"}),
    ("tuned", {"evaluation.tasks.tiny.group": "g", "evaluation.tasks.tiny.expected_items": 7}),
    ("tuned", {"evaluation.tasks.held.short_tokens": 3}),
    ("tuned", {"evaluation.allow_code_execution": True}),
    ("endpoint", {"judge.endpoint.api_key_env": "B"}),
    ("endpoint", {"judge.endpoint.concurrency": 99, "judge.endpoint.timeout_s": 1.0, "judge.endpoint.retries": 1}),
    ("endpoint", {"judge.endpoint.price_in": 9.0, "judge.endpoint.max_cost": 9.0}),
    ("endpoint", {"judge.expected_reply_tokens": 9}),
    ("methods", {"cluster.device": "cuda", "cluster.score_batch_tokens": 9}),
    ("methods", {"methods.asked.endpoint.concurrency": 99}),
    ("methods", {"methods.ifd.diversity": {"max_gib": 9.0}}),
    ("methods", {"methods.less.max_gib": 9.0}),
    ("methods", {"methods.less.dimensions": 128}),
    ("methods", {"methods.less.compat": "ours"}),
]  # fmt: skip


@pytest.mark.parametrize("world, changes", HITS, ids=[f"{w} {c}" for w, c in HITS], indirect=["world"])
def test_cache_machines_places_names_and_prices_are_hits(world: World, changes: dict[str, Any]) -> None:
    world.check(changes, "")


@pytest.mark.parametrize("world", ["methods", "tuned", "local"], indirect=True)
def test_cache_same_bytes_elsewhere_are_hits(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(tmp_path / "data", tmp_path / "moved")
    (tmp_path / "data").symlink_to(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    moved = {"paths.work": "../work", "data.pool.source.path": "pool.jsonl"}
    world.check(moved, "")
