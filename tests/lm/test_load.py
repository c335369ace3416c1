"""Devices, number types, classifiers, and tokenizers that don't fit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from icon_repro.data.model_files import ModelError
from icon_repro.data.options import Dtype
from icon_repro.engine.records import read_json, write_json
from icon_repro.lm.load import load_classifier, load_model, load_tokenizer, pick_device

CPU = torch.device("cpu")


@pytest.fixture
def step(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """A model step with a copy of the tiny model, its tokenizer changed by ``change``."""

    def make(change: Callable[[Any], Any] = lambda tokenizer: None) -> Path:
        shutil.copytree(tiny_model, tmp_path / "weights")
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        change(tokenizer)
        tokenizer.save_pretrained(tmp_path / "weights")
        write_json(tmp_path / "model.json", {"hub_id": None, "commit": None})
        return tmp_path

    return make


def set_tokens(**tokens: str | None) -> Callable[[Any], None]:
    def change(tokenizer: Any) -> None:
        for name, token in tokens.items():
            setattr(tokenizer, name, token)

    return change


def test_pick_device_auto_is_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:0") == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_pick_device_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"cluster\.device='{name}'.*auto, cpu, cuda"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_pick_device_gpu_that_isnt_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match=rf"cluster\.device='{name}'.*sees no GPU"):
        pick_device(name)


@pytest.mark.parametrize("dtype", Dtype)
def test_load_model_has_the_dtype_asked_for(step: Callable[..., Path], dtype: Dtype) -> None:
    model = load_model(step(), dtype, CPU)
    assert {tensor.dtype for tensor in model.parameters()} == {getattr(torch, dtype.value)}
    assert not model.training and model.device == CPU


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_load_model_attention_is_what_was_asked_for(step: Callable[..., Path], attention: str) -> None:
    assert load_model(step(), Dtype.float32, CPU, attention).config._attn_implementation == attention


def test_load_model_pickled_weights_are_never_read(step: Callable[..., Path]) -> None:
    folder = step()
    weights = folder / "weights"
    torch.save({}, weights / "pytorch_model.bin")
    (weights / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights can't be read.*safetensors"):
        load_model(folder, Dtype.float32, CPU)


def test_load_model_code_in_the_folder_is_never_run(step: Callable[..., Path]) -> None:
    folder = step()
    path = folder / "weights" / "config.json"
    write_json(path, {**read_json(path), "model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own"}})
    (folder / "weights" / "own.py").write_text("raise AssertionError('it ran')")
    with pytest.raises(ValueError, match="own"):
        load_model(folder, Dtype.float32, CPU)


@pytest.mark.parametrize("labels", [1, 2])
def test_load_classifier_head_comes_from_the_seed(step: Callable[..., Path], labels: int) -> None:
    folder, heads = step(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = load_classifier(folder, labels, CPU, "eager")
        heads.append(model.score.weight)
    assert heads[0].shape == (labels, 64)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not model.training and model.config._attn_implementation == "eager"


@pytest.mark.parametrize("pad", ["<pad>", None])
def test_load_classifier_has_the_base_weights_and_a_pad_token(step: Callable[..., Path], pad: str | None) -> None:
    folder = step(set_tokens(pad_token=pad))
    model, tokenizer = load_classifier(folder, 1, CPU), load_tokenizer(folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None
    base = load_model(folder, Dtype.float32, CPU).model.state_dict()
    assert base["embed_tokens.weight"][tokenizer.eos_token_id].abs().max() > 0  # it isn't made 0 where eos is the pad
    found = model.model.state_dict()
    assert base.keys() == found.keys() and all(torch.equal(base[name], found[name]) for name in base)


@pytest.mark.parametrize(
    "kind, message",
    [("mamba", "no sequence classifier of this architecture"), ("bert", "BertForSequenceClassification.*'score'")],
)
def test_load_classifier_other_architecture_is_refused(step: Callable[..., Path], kind: str, message: str) -> None:
    folder = step()
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=320, **shape))
    for path in ("config.json", "model.safetensors"):
        (folder / "weights" / path).unlink()
    model.save_pretrained(folder / "weights")
    with pytest.raises(ModelError, match=message):
        load_classifier(folder, 1, CPU)


def test_load_tokenizer_keeps_its_pad_token_and_pads_on_the_right(step: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(step(set_tokens(padding_side="left")))
    assert tokenizer.pad_token == "<pad>"
    ids = tokenizer(["a longer text", "a"], padding=True)["input_ids"][1]
    assert ids[-1] == tokenizer.pad_token_id != ids[0]


def test_load_tokenizer_without_pad_takes_eos(step: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(step(set_tokens(pad_token=None)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_load_tokenizer_without_pad_and_eos_is_refused(step: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="no pad and no eos token"):
        load_tokenizer(step(set_tokens(pad_token=None, eos_token=None)))


def test_load_tokenizer_larger_than_the_model_is_refused(step: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer has 322 tokens, the model 320 embeddings"):
        load_tokenizer(step(lambda tokenizer: tokenizer.add_tokens(["<one>", "<two>"])))


def test_load_tokenizer_ids_beyond_the_embeddings_are_refused_though_there_are_few(step: Callable[..., Path]) -> None:
    folder = step()
    path = folder / "weights" / "tokenizer.json"
    stored = read_json(path)
    stored["model"]["vocab"][max(stored["model"]["vocab"], key=stored["model"]["vocab"].get)] = 330
    write_json(path, stored)
    with pytest.raises(ModelError, match=r"the tokenizer has 331 tokens, the model 320 embeddings"):
        load_tokenizer(folder)


def test_load_tokenizer_of_a_model_with_spare_embeddings_loads(step: Callable[..., Path]) -> None:
    folder = step()
    path = folder / "weights" / "config.json"
    write_json(path, {**read_json(path), "vocab_size": 384})
    assert len(load_tokenizer(folder)) == 320
