"""Weights that aren't those of the architecture, adapters and templates that come by themselves: refused with names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from icon_repro.data.model_files import ModelError, folder_problem
from icon_repro.data.options import Dtype
from icon_repro.engine.records import write_json
from icon_repro.lm.adapter import unknown_target
from icon_repro.lm.load import load_model, load_tuned
from icon_repro.lm.options import LoraConfig

CPU = torch.device("cpu")
Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def step(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """A model step whose weights ``change`` has altered, and what its YAML allows."""

    def make(change: Change = lambda weights: None, **allowed: list[str]) -> Path:
        folder = tmp_path / "step"
        shutil.copytree(tiny_model, folder / "weights")
        weights = load_file(folder / "weights" / "model.safetensors")
        change(weights)
        save_file(weights, folder / "weights" / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "model.json", {"hub_id": None, "commit": None, **allowed})
        return folder

    return make


def drop(*names: str) -> Change:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in names:
            del weights[name]

    return change


def add(name: str, value: torch.Tensor) -> Change:
    return lambda weights: weights.update({name: value})


NORM = "model.layers.0.input_layernorm.weight"


def test_missing_weights_are_named_and_may_be_allowed(step: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=rf"{NORM} is missing.*new_weights, beside the model"):
        load_model(step(drop(NORM)), Dtype.float32, CPU)


def test_missing_weights_named_by_the_yaml_are_new(step: Callable[..., Path]) -> None:
    assert load_model(step(drop(NORM), new_weights=["model.layers.*.input_layernorm.*"]), Dtype.float32, CPU)


def test_unknown_weights_are_named(step: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"vision\.tower is unknown.*unused_weights, beside the model"):
        load_model(step(add("vision.tower", torch.zeros(2))), Dtype.float32, CPU)


def test_unknown_weights_named_by_the_yaml_are_left_out(step: Callable[..., Path]) -> None:
    folder = step(add("vision.tower", torch.zeros(2)), unused_weights=["vision.*"])
    assert load_model(folder, Dtype.float32, CPU)


def test_other_shapes_are_named_with_both(step: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=rf"{NORM} has the shape \(3,\), not \(\d+,\)") as raised:
        load_model(step(add(NORM, torch.ones(3))), Dtype.float32, CPU)
    assert "new_weights" not in str(raised.value)  # would not help


def test_infinite_weights_are_named_with_the_dtype(step: Callable[..., Path]) -> None:
    def large(weights: dict[str, torch.Tensor]) -> None:
        weights[NORM] = torch.full_like(weights[NORM], 1e6)

    folder = step(large)
    assert load_model(folder, Dtype.float32, CPU)
    with pytest.raises(ModelError, match=rf"1 weights aren't finite as float16 \(first: {NORM}\)"):
        load_model(folder, Dtype.float16, CPU)


def test_adapter_beside_weights_is_refused(step: Callable[..., Path]) -> None:
    folder = step()
    (folder / "weights" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter_config\.json: is an adapter.*merge"):
        load_model(folder, Dtype.float32, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_lfs_pointer_says_git_lfs_pull(step: Callable[..., Path], name: str) -> None:
    folder = step()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (folder / "weights" / name).write_text(pointer, encoding="utf-8")
    with pytest.raises(ModelError, match=rf"{name}: is a pointer of Git LFS.*git lfs pull"):
        load_model(folder, Dtype.float32, CPU)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_weights_cut_short_are_named(step: Callable[..., Path], keep: int) -> None:
    folder = step()
    path = folder / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: isn't whole, or isn't safetensors.*again"):
        load_model(folder, Dtype.float32, CPU)


def test_two_sets_of_weights_and_lacking_shards_are_named(step: Callable[..., Path]) -> None:
    weights = step() / "weights"
    index = {"metadata": {}, "weight_map": {NORM: "model-00001-of-00002.safetensors"}}
    (weights / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "two sets of weights" in str(folder_problem(weights))
    (weights / "model.safetensors").unlink()
    assert "names 1 files that aren't there (first: model-00001" in str(folder_problem(weights))


def test_chat_templates_that_differ_are_refused(step: Callable[..., Path]) -> None:
    weights = step() / "weights"
    settings = json.loads((weights / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(weights / "tokenizer_config.json", settings | {"chat_template": "{{ one }}"})
    (weights / "chat_template.jinja").write_text("{{ one }}\n", encoding="utf-8")
    assert folder_problem(weights) is None
    (weights / "chat_template.jinja").write_text("{{ two }}", encoding="utf-8")
    assert "differs from the chat template in tokenizer_config.json" in str(folder_problem(weights))


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json"])
def test_damaged_settings_are_named_not_taken_for_absent(step: Callable[..., Path], name: str) -> None:
    weights = step() / "weights"
    (weights / name).write_text("{", encoding="utf-8")
    assert f"{name}: isn't a JSON object" in str(folder_problem(weights))


def test_two_end_tokens_are_refused(step: Callable[..., Path]) -> None:
    weights = step() / "weights"
    write_json(weights / "special_tokens_map.json", {"eos_token": {"content": "</s>"}, "bos_token": "<s>"})
    assert folder_problem(weights) is None
    write_json(weights / "special_tokens_map.json", {"eos_token": "<pad>"})
    assert "eos_token is '<pad>' in special_tokens_map.json and '</s>' in tokenizer_config" in str(
        folder_problem(weights)
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_packed_weights_that_nothing_unpacks_are_refused(step: Callable[..., Path], dtype: torch.dtype) -> None:
    def pack(weights: dict[str, torch.Tensor]) -> None:
        weights[NORM] = (weights[NORM] * 100).to(dtype)

    folder = step(pack)
    with pytest.raises(ModelError, match=rf"{NORM} is [IF]8.*no quantization_config"):
        load_model(folder, Dtype.float32, CPU)
    config = json.loads((folder / "weights" / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "weights" / "config.json", config | {"quantization_config": {"quant_method": "unheard of"}})
    with pytest.raises(ModelError, match="doesn't know the quantization_config"):
        load_model(folder, Dtype.float32, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "facter": 2.0}}, "config.json isn't what transformers"),
        ({"num_hidden_layers": "2"}, "config.json isn't what transformers"),
        ({"rope_parameters": {"rope_type": "none such", "factor": 2.0}}, "can't be made as its config.json says"),
    ],
)
def test_a_config_of_no_use_is_named(step: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    folder = step()
    path = folder / "weights" / "config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder, Dtype.float32, CPU)


def tuned(folder: Path, step: Path, *targets: str) -> Path:
    model = get_peft_model(load_model(step, Dtype.float32, CPU), PeftLora(r=2, target_modules=list(targets)))
    model.save_pretrained(folder / "adapter")
    return folder


def test_adapter_that_lacks_a_weight_is_refused(tmp_path: Path, step: Callable[..., Path]) -> None:
    base = step()
    made = tuned(tmp_path / "tuned", base, "q_proj")
    assert load_tuned(base, made, Dtype.float32, CPU)
    path = made / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    first = sorted(weights)[0]
    del weights[first]
    save_file(weights, path)
    with pytest.raises(ModelError, match=rf"1 weights are in the adapter or in the model alone \(first: {first}\)"):
        load_tuned(base, made, Dtype.float32, CPU)


def test_adapter_of_another_shape_is_refused(tmp_path: Path, step: Callable[..., Path]) -> None:
    base = step()
    made = tuned(tmp_path / "tuned", base, "q_proj")
    path = made / "adapter" / "adapter_model.safetensors"
    save_file({name: value[..., :1].contiguous() for name, value in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="adapter doesn't fit the model"):
        load_tuned(base, made, Dtype.float32, CPU)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_lora_on_tied_weights_is_refused_on_free_ones_allowed(step: Callable[..., Path], target: str) -> None:
    model = load_model(step(), Dtype.float32, CPU)
    untied = model.config.tie_word_embeddings is False
    assert unknown_target(LoraConfig(targets=["q_proj"]), model) is None
    if untied:
        assert unknown_target(LoraConfig(targets=[target]), model) is None
        model.lm_head.weight = model.get_input_embeddings().weight
    problem = unknown_target(LoraConfig(targets=[target]), model)
    assert problem is not None
    assert f"{target!r} has its weights in common with" in problem


def test_model_without_that_attention_is_told_the_key(step: Callable[..., Path]) -> None:
    folder = step()
    shape = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    Gemma2ForCausalLM(Gemma2Config(**shape, **heads)).save_pretrained(folder / "weights")
    with pytest.raises(ModelError, match=r"Set cluster\.attention=eager\.$"):
        load_model(folder, Dtype.float32, CPU)
    assert load_model(folder, Dtype.float32, CPU, "eager")
