"""ArmoRM: the whole stage against single chats, chats without a prompt's end, templates, and the plan."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_models import PROMPT_END, SPECIAL, armorm, classifier
from safetensors.torch import load_file
from slow_baselines import ROWS, planned, run_method, shards_of, step_of
from transformers import AutoModel, AutoTokenizer

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_tokenizer
from icon_repro.methods import armorm as method
from icon_repro.methods.armorm import ArmormScores, ArmormShard, RewardArchitecture
from icon_repro.methods.common.outcome import NoScoreError
from icon_repro.methods.common.shards import ShardError

REWARD = {"kind": "local", "name": "reward", "path": "set below"}


def asked(step: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "armorm", "reward": {**REWARD, "path": str(step / "weights")}, **more}


class SlowReward:
    """ArmoRM on one chat at a time; the chat is written out here, and the prompt's end counted from its start."""

    def __init__(self, step: Path) -> None:
        weights = step / "weights"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(weights)
        self.backbone: Any = AutoModel.from_pretrained(weights, dtype=torch.float32)
        self.weights = {k: v.double().numpy() for k, v in load_file(weights / "model.safetensors").items()}

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat(self, row: Example) -> tuple[list[int], int]:
        prompt = f"{row.instruction}\n{row.input}" if row.input else row.instruction
        head = f"<s><|start_header_id|>user<|end_header_id|>\n\n{prompt.strip()}"
        return self.ids(f"{head}{PROMPT_END}{row.response.strip()}<|eot_id|>"), len(self.ids(head))

    def score(self, row: Example) -> tuple[float, list[float]]:
        ids, end = self.chat(row)
        with torch.no_grad():
            hidden = np.asarray(self.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double())
        gate, attributes = hidden[end], self.weights["regression_layer.weight"] @ hidden[-1]
        for layer in range(4):
            gate = self.weights[f"gating.layers.{layer}.weight"] @ gate + self.weights[f"gating.layers.{layer}.bias"]
            gate = np.maximum(gate, 0) if layer < 3 else np.exp(gate / 10)
        gate *= self.weights["gating.logit_scale"] / gate.sum()
        return float(gate @ (self.weights["reward_transform_matrix"].T @ attributes)), attributes.tolist()


def test_armorm_equals_a_batch_1_loop(tmp_path: Path, tiny_model: Path, runtime: Runtime) -> None:
    step = armorm(tmp_path / "reward", tiny_model)
    slow = SlowReward(step)
    found = run_method(tmp_path, runtime, step, asked(step, shard_rows=4))
    expected = {}
    for row in ROWS:
        expected[row.id], attributes = slow.score(row)
        assert found.scores[row.id].score == pytest.approx(expected[row.id], rel=1e-5, abs=1e-5)
        parts = found.scores[row.id].parts
        assert list(parts) == list(method.ATTRIBUTES)
        assert list(parts.values()) == pytest.approx(attributes, rel=1e-4, abs=1e-4)
    assert found.ranks == sorted(expected, key=lambda i: -expected[i])
    assert len(shards_of(found.step, "armorm:shard")) == 2 and not found.failures
    tokens = sum(len(slow.chat(row)[0]) for row in ROWS)
    assert sum(m["tokens"] for label, m in found.all_metrics.items() if "part" in label) == tokens


def test_armorm_order_of_the_rows_and_shards_have_no_influence(
    tmp_path: Path, tiny_model: Path, runtime: Runtime
) -> None:
    step = armorm(tmp_path / "reward", tiny_model, objectives=3)
    first = run_method(tmp_path / "first", runtime, step, asked(step))
    turned = run_method(tmp_path / "turned", runtime, step, asked(step, shard_rows=2), ROWS[::-1])
    assert first.ranks == turned.ranks
    assert list(first.scores["c1"].parts) == ["attribute_0", "attribute_1", "attribute_2"]
    for identifier, score in first.scores.items():
        assert turned.scores[identifier].score == pytest.approx(score.score, abs=1e-5)


def test_armorm_classifier_has_the_reward_of_a_single_chat(tmp_path: Path, tiny_model: Path, runtime: Runtime) -> None:
    step = classifier(tmp_path / "reward", tiny_model)
    slow = SlowReward(step)
    found = run_method(tmp_path, runtime, step, asked(step, architecture="classifier"))
    head = slow.weights["score.weight"][0]
    for row in ROWS:
        with torch.no_grad():
            hidden = slow.backbone(input_ids=torch.tensor([slow.chat(row)[0]])).last_hidden_state[0, -1]
        assert found.scores[row.id].score == pytest.approx(float(head @ hidden.double().numpy()), rel=1e-5, abs=1e-5)
        assert found.scores[row.id].parts == {}


def test_armorm_long_chat_is_left_out_with_the_reason(tmp_path: Path, tiny_model: Path, runtime: Runtime) -> None:
    step = armorm(tmp_path / "reward", tiny_model, objectives=3)
    slow = SlowReward(step)
    lengths = {row.id: len(slow.chat(row)[0]) for row in ROWS}
    limit = sorted(lengths.values())[3]
    found = run_method(tmp_path, runtime, step, asked(step, max_length=limit))
    reason = f"longer than {limit} tokens"
    assert found.failures == {i: reason for i, length in lengths.items() if length > limit} and found.failures
    assert found.metrics["failed"] == {reason: len(found.failures)}
    with pytest.raises(NoScoreError, match="longer than 8 tokens: 7"):
        run_method(tmp_path / "none", runtime, step, asked(step, max_length=8))


def test_armorm_chat_without_the_end_of_the_prompt_is_a_failure(
    tmp_path: Path, tiny_model: Path, runtime: Runtime
) -> None:
    step = armorm(tmp_path / "reward", tiny_model, template="{{ messages[0].content }}={{ messages[1].content }}")
    with pytest.raises(NoScoreError, match=r"doesn't hold the end of the prompt, '<\|eot_id\|>.*: 7"):
        run_method(tmp_path, runtime, step, asked(step))
    found = run_method(tmp_path / "own", runtime, step, asked(step, prompt_end="="))
    assert sorted(found.scores) == sorted(row.id for row in ROWS)


def test_armorm_tokenizer_without_a_chat_template_is_refused(
    tmp_path: Path, tiny_model: Path, runtime: Runtime
) -> None:
    step = armorm(tmp_path / "reward", tiny_model, template=None)
    with pytest.raises(method.ArmormError, match="no chat template"):
        run_method(tmp_path, runtime, step, asked(step))


def test_chat_ids_hold_the_special_tokens_once(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(armorm(tmp_path / "reward", tiny_model))
    ids = method.chat_ids(tokenizer, ROWS[1])
    count = {token: ids.count(tokenizer.convert_tokens_to_ids(token)) for token in ["<s>", *SPECIAL]}
    assert count == {"<s>": 1, "<|start_header_id|>": 2, "<|end_header_id|>": 2, "<|eot_id|>": 2}


@pytest.mark.parametrize(
    "ids, expected", [([7, 8, 1, 7, 8], 3), ([7, 8], 0), ([7, 7, 8, 8], 1), ([8, 7], None), ([7], None), ([], None)]
)
def test_last_start_is_the_last(ids: list[int], expected: int | None) -> None:
    assert method.last_start(ids, [7, 8]) == expected


def test_run_reward_that_isnt_finite_is_a_failure(tmp_path: Path, runtime: Runtime) -> None:
    write_json(tmp_path / "ids.json", {"rows": ["a", "b", "c"], "reasons": {"c": "longer than 9 tokens"}})
    np.save(tmp_path / "rewards.npy", np.array([[np.inf], [0.5], [np.nan]]))
    method.run(ArmormScores(), {"part-0000": tmp_path}, tmp_path, runtime)
    assert read_rows(tmp_path / "scores.jsonl", Score) == [Score("b", 0.5, {})]
    failures = {row["id"]: row["reason"] for row in read_rows(tmp_path / "failures.jsonl", dict)}
    assert failures == {"a": "reward isn't finite", "c": "longer than 9 tokens"}


def test_run_other_number_of_rewards_than_rows_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    write_json(tmp_path / "ids.json", {"rows": ["a", "b"], "reasons": {}})
    np.save(tmp_path / "rewards.npy", np.zeros((1, 1)))
    with pytest.raises(ShardError, match="1 rewards of 2 rows; delete it"):
        method.run(ArmormScores(), {"part-0000": tmp_path}, tmp_path, runtime)


def test_shard_open_slice_beyond_the_rows_is_empty(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    cfg = ArmormShard(RewardArchitecture.armorm, PROMPT_END, 99, Dtype.float32, 3, None)
    metrics = method.shard(cfg, {"candidates": tmp_path, "model": tmp_path}, tmp_path, runtime)
    assert metrics == {"rows": 0, "failed": 0, "tokens": 0, "flops": 0}


PLANNED = {"kind": "random", "name": "reward", "random": {}, "parameters": 7}


def planned_folders(work: Path, **more: Any) -> set[str]:
    step = step_of(planned(work, {"mine": {"kind": "armorm", "reward": PLANNED, **more}}))
    return {shard.folder for shard in shards_of(step, "armorm:shard")}


def test_plan_only_what_changes_a_reward_rebuilds_the_shards(tmp_path: Path) -> None:
    before = planned_folders(tmp_path)
    for change in (
        {"max_length": 99},
        {"dtype": "bfloat16"},
        {"prompt_end": "x"},
        {"architecture": "classifier"},
        {"reward": {**PLANNED, "random": {"seed": 4}}},
    ):
        assert not before & planned_folders(tmp_path, **change), change
    same = planned_folders(tmp_path, architecture="classifier")
    assert same == planned_folders(tmp_path, architecture="classifier", prompt_end="x")  # it reads no prompt's end


def test_plan_costs_count_the_reward_models_parameters(tmp_path: Path) -> None:
    step = step_of(planned(tmp_path, {"mine": {"kind": "armorm", "reward": PLANNED}}))
    shards = shards_of(step, "armorm:shard")
    assert shards and all(shard.cost.flops == 2 * 7 * shard.cost.tokens > 0 for shard in shards)
