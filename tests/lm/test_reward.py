"""Reward models: heads against the formula on single texts, and weights that aren't a reward model's."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reward_models import armorm, causal, classifier
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from icon_repro.data.model_files import ModelError
from icon_repro.data.options import Dtype, ModelConfig, ModelKind
from icon_repro.data.weights import run as make_model
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.reward import load_reward_model, open_reward_model, rewards
from icon_repro.lm.tokens import TokenError

CPU = torch.device("cpu")
ROWS = [[5, 9, 30, 7], [12] * 40, list(range(20, 33)), [3, 3], [200, 100, 50, 25, 12, 6, 3]]
ENDS = [2, 17, 0, 1, 5]


@functools.cache
def backbone_of(step: Path) -> Any:
    return AutoModel.from_pretrained(step / "weights", dtype=torch.float32)


def states(step: Path, ids: list[int]) -> NDArray[np.float64]:
    """(len(ids), hidden size): the backbone alone, on one text."""
    backbone = backbone_of(step)
    with torch.no_grad():
        return np.asarray(backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double())


def slow_armorm(step: Path, ids: list[int], end: int) -> tuple[float, list[float]]:
    """The published formula, one output after the other, on the weights as they are stored."""
    weights = {k: v.double().numpy() for k, v in load_file(step / "weights" / "model.safetensors").items()}
    hidden = states(step, ids)
    attributes = [float(row @ hidden[-1]) for row in weights["regression_layer.weight"]]
    gate = hidden[end]
    for layer in range(4):
        gate = weights[f"gating.layers.{layer}.weight"] @ gate + weights[f"gating.layers.{layer}.bias"]
        if layer < 3:
            gate = np.array([max(value, 0.0) for value in gate])
    exponents = [np.exp(value / 10) for value in gate]
    gating = [value / sum(exponents) * weights["gating.logit_scale"][0] for value in exponents]
    matrix, count = weights["reward_transform_matrix"], len(attributes)
    adjusted = [sum(attributes[i] * matrix[i, j] for i in range(count)) for j in range(count)]
    return float(sum(g * a for g, a in zip(gating, adjusted, strict=True))), attributes


def scored(step: Path, runtime: Runtime, *, gated: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    model, budget = open_reward_model(step, Dtype.float32, runtime, gated=gated)
    with runtime.progress(len(ROWS), "row") as progress:
        found = rewards(model, ROWS, ENDS if gated else None, budget, progress)
        assert progress.tokens == sum(map(len, ROWS))
    return found


@pytest.mark.parametrize("objectives", [19, 3])
def test_armorm_equals_the_formula_on_single_texts(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, objectives: int
) -> None:
    step = armorm(tmp_path / "step", tiny_model, objectives=objectives)
    found, attributes = scored(step, runtime, gated=True)
    assert attributes.shape == (len(ROWS), objectives)
    for place, (ids, end) in enumerate(zip(ROWS, ENDS, strict=True)):
        score, expected = slow_armorm(step, ids, end)
        assert found[place] == pytest.approx(score, rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(attributes[place], expected, rtol=1e-4, atol=1e-4)
    moved = [slow_armorm(step, ids, end + 1)[0] for ids, end in zip(ROWS[:3], ENDS[:3], strict=True)]
    assert (np.abs(found[:3] - moved) > 1e-2).any()  # the place counts


@pytest.mark.parametrize("dtype", [Dtype.bfloat16, Dtype.float16])
def test_armorm_heads_stay_float32_in_every_dtype(tmp_path: Path, tiny_model: Path, dtype: Dtype) -> None:
    step = armorm(tmp_path / "step", tiny_model)
    model = load_reward_model(step, dtype, CPU, gated=True)
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.startswith("model.")} == {getattr(torch, dtype.value)}
    assert {kind for name, kind in kinds.items() if not name.startswith("model.")} == {torch.float32}
    stored = load_file(step / "weights" / "model.safetensors")
    assert torch.equal(model.regression_layer.weight, stored["regression_layer.weight"])  # never rounded on the way


def test_armorm_from_a_hub_cache_at_a_commit(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    step = armorm(tmp_path / "step", tiny_model)
    expected = scored(step, runtime, gated=True)
    cached = tmp_path / "hub" / "models--someone--armorm"
    shutil.copytree(step / "weights", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    out = tmp_path / "from_hub"
    out.mkdir()
    runtime.extra = {"commit": commit}
    make_model(ModelConfig(ModelKind.hub, name="armorm", hub_id="someone/armorm"), {}, out, runtime)
    shutil.rmtree(step)
    found = scored(out, runtime, gated=True)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def shorter(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    weights["regression_layer.weight"] = torch.zeros(18, 32)


def without_gate(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    del weights["gating.layers.2.bias"]


def deeper(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    weights["gating.layers.4.weight"] = torch.zeros(19, 19)


def unsaid(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    del config["num_objectives"], config["gating_temperature"]


@pytest.mark.parametrize(
    "change, message",
    [
        (shorter, r"regression_layer.weight has the shape \(18, 32\), not \(19, 32\).*Check the model"),
        (without_gate, "gating.layers.2.bias is missing"),
        (deeper, "gating.layers.4.weight is unknown"),
        (unsaid, "config.json has no num_objectives, gating_temperature.*classifier"),
    ],
)
def test_armorm_other_weights_or_settings_are_refused(
    tmp_path: Path, tiny_model: Path, change: Callable[..., None], message: str
) -> None:
    step = armorm(tmp_path / "step", tiny_model, change=change)
    with pytest.raises(ModelError, match=message):
        load_reward_model(step, Dtype.float32, CPU, gated=True)


def test_armorm_of_another_family_is_refused(tmp_path: Path, tiny_model_no_bos: Path) -> None:
    with pytest.raises(ModelError, match="has a Llama inside, not a qwen2"):
        load_reward_model(causal(tmp_path / "step", tiny_model_no_bos), Dtype.float32, CPU, gated=True)


@pytest.mark.parametrize("pad", ["<pad>", "<|eot_id|>"])
def test_classifier_reads_the_last_token_even_if_it_pads(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, pad: str
) -> None:
    step = classifier(tmp_path / "step", tiny_model, pad=pad)
    last = AutoTokenizer.from_pretrained(step / "weights").convert_tokens_to_ids("<|eot_id|>")
    monkeypatch.setattr(f"{__name__}.ROWS", [[*ids, last] for ids in ROWS])
    found, attributes = scored(step, runtime, gated=False)
    assert attributes.shape == (len(ROWS), 0)
    head = load_file(step / "weights" / "model.safetensors")["score.weight"].double().numpy()[0]
    for place, ids in enumerate(ROWS):
        assert found[place] == pytest.approx(float(head @ states(step, ids)[-1]), rel=1e-5, abs=1e-5)


def test_classifier_without_a_trained_head_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    step = causal(tmp_path / "step", tiny_model)
    config = step / "weights" / "config.json"
    config.write_text(config.read_text().replace("{", '{"num_labels": 1,', 1))
    with pytest.raises(ModelError, match=r"score\.weight is missing"):
        load_reward_model(step, Dtype.float32, CPU, gated=False)


def test_classifier_of_several_labels_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    step = classifier(tmp_path / "step", tiny_model, labels=3)
    with pytest.raises(ModelError, match="a classifier with 3 labels; a reward model has one"):
        load_reward_model(step, Dtype.float32, CPU, gated=False)


def test_rewards_chat_longer_than_the_positions_is_refused(tmp_path: Path, tiny_model: Path, runtime: Runtime) -> None:
    model, budget = open_reward_model(classifier(tmp_path / "s", tiny_model), Dtype.float32, runtime, gated=False)
    with runtime.progress(1, "row") as progress, pytest.raises(TokenError, match="600 tokens, the model has 512"):
        rewards(model, [[1] * 600], None, budget, progress)
