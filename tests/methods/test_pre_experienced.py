"""The brief experience before IFD: rows chosen and scores under the tuned model against slow loops; what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from sklearn.cluster import KMeans
from slow_baselines import ROWS, Ran, SlowModel, planned, run_method, shards_of, step_of
from small import composed, small

from icon_repro.config.load import ConfigError
from icon_repro.data.options import Dtype
from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Step, ordered
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.lm.load import load_model
from icon_repro.methods.common.clusters import ClustersError
from icon_repro.methods.ifd import pre_experienced
from icon_repro.methods.ifd.options import ChoiceConfig

POOL = [
    *ROWS,
    *(Example(f"d{i}", "Name " + ", ".join("abc colours"[: i + 1]), "", "Red. " * (i % 3 + 1)) for i in range(8)),
]
EXPERIENCE: dict[str, Any] = {
    "choice": {"clusters": 3, "per_cluster": 3, "seed": 1},
    "prompt_tokens": 75,
    "tuning": "lora",
    "learning_rate": 2e-2,
    "epochs": 2,
    "global_batch_size": 4,
    "max_length": 200,
    "dtype": "float32",
}
METHOD: dict[str, Any] = {"kind": "ifd", "drop_above_one": False, "pre_experienced": EXPERIENCE}


def percentile(values: Sequence[float], wanted: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ordered_values = sorted(values)
    place = (len(values) - 1) * wanted / 100
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return ordered_values[below] + (ordered_values[above] - ordered_values[below]) * (place - below)


def slow_choice(slow: SlowModel, rows: Sequence[Example], low: float = 25, high: float = 75) -> list[str]:
    """Ids by one prompt after the other, and by perplexities where the package compares NLLs."""
    rows = sorted(rows, key=lambda row: row.id)
    prompts = [(slow.bos + slow.ids(alpaca_prompt(row)))[: EXPERIENCE["prompt_tokens"]] for row in rows]
    assert any(len(ids) == EXPERIENCE["prompt_tokens"] for ids in prompts)
    vectors = np.array([slow.hidden(ids).mean(axis=0) for ids in prompts])
    choice = EXPERIENCE["choice"]
    labels = KMeans(choice["clusters"], random_state=choice["seed"], n_init=10).fit(vectors).labels_
    chosen = []
    for cluster in range(choice["clusters"]):
        members = [i for i in range(len(rows)) if labels[i] == cluster]
        perplexity = {i: float(np.exp(slow.nll(prompts[i][:1], prompts[i][1:]))) for i in members}
        if len(members) >= choice["per_cluster"]:
            bounds = [percentile(list(perplexity.values()), p) for p in (low, high)]
            members = [i for i in members if bounds[0] <= perplexity[i] <= bounds[1]]
            members = members[:: max(1, len(members) // choice["per_cluster"])][: choice["per_cluster"]]
        chosen += [rows[i].id for i in members]
    return sorted(chosen)


def chosen(found: Ran) -> list[str]:
    return list(read_json(found.folders["score/experience-tiny_random-rows"] / "ids.json"))


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_choice_and_ifd_after_it_equal_a_loop_over_single_texts(
    model_step: Path, tmp_path: Path, runtime: Runtime, tuning: str
) -> None:
    experience = {**EXPERIENCE, "tuning": tuning, "learning_rate": 2e-2 if tuning == "lora" else 1e-3}
    method = {**METHOD, "pre_experienced": experience, "shard_rows": 4}
    found = run_method(tmp_path, runtime, model_step, method, POOL)
    slow = SlowModel(model_step)
    assert chosen(found) == slow_choice(slow, POOL) != sorted(row.id for row in POOL)
    untuned = {row.id: ifd(slow, row) for row in POOL}
    folder = found.folders["score/experience-tiny_random-training"]
    if tuning == "lora":
        slow.model = PeftModel.from_pretrained(slow.model, str(folder / "adapter")).eval()  # not merged
    else:
        slow.model = load_model(folder, Dtype.float32, torch.device("cpu"))
    expected = {row.id: ifd(slow, row) for row in POOL}
    assert max(abs(expected[i] - untuned[i]) for i in expected) > 1e-3, "the experience would show nothing"
    assert {i: score.score for i, score in found.scores.items()} == pytest.approx(expected, abs=1e-5)
    assert found.ranks == sorted(expected, key=lambda i: (-expected[i], i))
    assert not found.failures


def test_perplexity_of_the_prompt_alone_equals_a_loop_and_is_cut(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    limit = EXPERIENCE["prompt_tokens"]
    found = run_method(
        tmp_path, runtime, model_step, {"kind": "perplexity", "text": "prompt", "max_length": limit}, POOL
    )
    slow = SlowModel(model_step)
    prompts = {row.id: slow.bos + slow.ids(alpaca_prompt(row)) for row in POOL}
    assert 0 < sum(len(ids) > limit for ids in prompts.values()) < len(POOL)
    for identifier, ids in prompts.items():
        expected = slow.nll(ids[:1], ids[1:limit])
        assert found.scores[identifier].parts["nll"] == pytest.approx(expected, abs=1e-5)
    shards = [m for label, m in found.all_metrics.items() if "answers" in label]
    assert sum(m["rows_cut"] for m in shards) == sum(len(ids) > limit for ids in prompts.values())


def ifd(slow: SlowModel, row: Example) -> float:
    answer = slow.ids(row.response)
    return slow.nll(slow.bos + slow.ids(alpaca_prompt(row)), answer) / slow.nll(
        slow.bos + slow.ids("### Response:"), answer
    )


def made_by_hand(folder: Path, vectors: dict[str, list[float]], nll: dict[str, float]) -> dict[str, Path]:
    inputs = {name: folder / name for name in ("shard-0000", "prompt-0000")}
    for name, values, file in (("shard-0000", vectors, "vectors"), ("prompt-0000", nll, "prompt")):
        inputs[name].mkdir(parents=True)
        write_json(inputs[name] / "ids.json", {"rows": list(values), "reasons": {}})
        dtype = np.float32 if file == "vectors" else np.float64
        np.save(inputs[name] / f"{file}.npy", np.array(list(values.values()), dtype))
    return inputs


GROUPS = {"a": 5, "b": 2, "c": 9}  # rows of each cluster
VECTORS = {f"{name}{i}": [float(ord(name)), 0.01 * i] for name, count in GROUPS.items() for i in range(count)}
NLL = {identifier: 5.0 + (7 * place) % 16 for place, identifier in enumerate(VECTORS)}


@pytest.mark.parametrize(
    "choice, expected, short",
    [
        # NLLs: a 5 12 19 10 17, between 10 and 17; b 8 15, in none; c 6 13 20 11 18 9 16 7 14, between 9 and 16
        (ChoiceConfig(3, per_cluster=3), "a1 a3 a4 b0 b1 c1 c3 c5", 1),
        (ChoiceConfig(3, per_cluster=2), "a1 a3 c1 c5", 2),
        (ChoiceConfig(3, per_cluster=1), "a1 c1", 1),
        (
            ChoiceConfig(3, per_cluster=5, low_percentile=0, high_percentile=100),
            "a0 a1 a2 a3 a4 b0 b1 c0 c1 c2 c3 c4",
            3,
        ),
    ],
)
def test_choice_of_made_up_clusters(
    tmp_path: Path, runtime: Runtime, choice: ChoiceConfig, expected: str, short: int
) -> None:
    metrics = pre_experienced.run(choice, made_by_hand(tmp_path, VECTORS, NLL), tmp_path, runtime)
    found = read_json(tmp_path / "ids.json")
    assert found == expected.split()
    assert metrics["rows"] == len(found) and metrics["short_by"] == short
    assert metrics["clusters_short"] == 1 and metrics["failed"] == {}


def test_choice_takes_rows_evenly_by_index() -> None:
    values = np.arange(40.0)
    assert pre_experienced.middle(values, 4, 25, 75) == [10, 15, 20, 25]
    assert pre_experienced.middle(values[::-1], 4, 0, 100) == [0, 10, 20, 30]
    assert pre_experienced.middle(values, 100, 25, 75) == list(range(40)), "fewer than are taken: no percentiles"
    assert len(pre_experienced.middle(values, 40, 25, 75)) == 20


def test_choice_doesnt_depend_on_order_or_shards(tmp_path: Path, runtime: Runtime) -> None:
    found = []
    for folder, ids in ((tmp_path / "one", list(VECTORS)), (tmp_path / "other", sorted(VECTORS)[::-1])):
        inputs = made_by_hand(folder, {i: VECTORS[i] for i in ids}, {i: NLL[i] for i in reversed(ids)})
        pre_experienced.run(ChoiceConfig(3, per_cluster=3), inputs, folder, runtime)
        found.append(read_json(folder / "ids.json"))
    assert found[0] == found[1]


def test_choice_of_more_clusters_than_rows_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    inputs = made_by_hand(tmp_path, VECTORS, NLL)
    with pytest.raises(
        ClustersError, match=r"choice.clusters=17: there are only 16 rows.*fewer clusters, or rank more"
    ):
        pre_experienced.run(ChoiceConfig(17), inputs, tmp_path, runtime)


def test_choice_with_shards_of_other_rows_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    inputs = made_by_hand(tmp_path, VECTORS, {i: v for i, v in NLL.items() if i != "a0"})
    with pytest.raises(pre_experienced.PreExperiencedError, match=r"1 rows have .* delete both steps"):
        pre_experienced.run(ChoiceConfig(3), inputs, tmp_path, runtime)


# ---------------------------------------------------------------- plan and config


@pytest.mark.parametrize(
    "change, prompts, rows, training",
    [
        ({}, False, False, False),
        ({"choice": {**EXPERIENCE["choice"], "per_cluster": 2}}, False, True, True),
        ({"learning_rate": 1e-3}, False, False, True),
        ({"prompt_tokens": 99}, True, True, True),
    ],
    ids=str,
)
def test_plan_rebuilds_only_what_a_setting_changes(
    tmp_path: Path, change: dict[str, Any], prompts: bool, rows: bool, training: bool
) -> None:
    def built(method: dict[str, Any]) -> Step:
        return step_of(planned(tmp_path, {"mine": method}))

    before, after = built(METHOD), built({**METHOD, "pre_experienced": {**EXPERIENCE, **change}})
    targets = {"embeddings:shard": prompts, "pre_experienced:run": rows, "train:run": training}
    for target, changed in targets.items():
        old, new = ({step.folder for step in shards_of(method, target)} for method in (before, after))
        assert old and bool(old - new) is changed, target
    tuned = [s for s in shards_of(after, "answers:shard") if "tuned" in s.name]
    assert tuned and all(s.inputs["tuned"].target.endswith("train:run") for s in tuned)
    assert (before.folder != after.folder) is bool(change)


def test_plan_of_a_proxy_tunes_the_proxy(tmp_path: Path) -> None:
    proxy = {"kind": "random", "name": "small", "random": {"hidden_size": 32}, "parameters": 7}
    steps = ordered([step_of(planned(tmp_path, {"mine": {**METHOD, "proxy": proxy}}))])
    readers = [s for s in steps if "model" in s.inputs]
    assert readers and {s.inputs["model"].name for s in readers} == {"small"}
    assert len({s.label for s in steps}) == len(steps)


@pytest.mark.parametrize(
    "change, problem",
    [
        (
            {"choice": {"low_percentile": 75, "high_percentile": 25}},
            "choice.low_percentile=75: must be below high_percentile",
        ),
        ({"global_batch_size": 6}, "global_batch_size=6: must be a multiple of cluster.micro_batch_size=4"),
        ({"dtype": "float16"}, "dtype='float16': needs loss scaling"),
    ],
)
def test_config_that_cant_work_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    method = {**METHOD, "pre_experienced": {**EXPERIENCE, **change}}
    with pytest.raises(ConfigError, match=f"methods.mine.pre_experienced.{problem}"):
        small(tmp_path, {"methods": {"mine": method}})


def test_published_settings_are_a_file_of_their_own(tmp_path: Path) -> None:
    method = composed("experiment=smoke_tiny", "+method@methods.ifd_pre=ifd_pre")["methods"]["ifd_pre"]
    steps = ordered([step_of(plan(small(tmp_path, {"methods": {"mine": method}})))])
    (training,) = [s.params for s in steps if s.target.endswith("train:run")]
    assert (training.train.tuning.value, training.train.learning_rate, training.train.epochs) == ("full", 2e-5, 1.0)
    (choice,) = [s.params for s in steps if s.target.endswith("pre_experienced:run")]
    assert (choice.clusters, choice.per_cluster, choice.low_percentile, choice.high_percentile) == (100, 10, 25, 75)
