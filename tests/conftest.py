"""Fixtures for all tests: no network, one thread, tiny models with random weights."""

import os

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
    }
)

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import Done

from icon_repro.engine.artifact import Store
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.runtime import Runtime

_LINES = [
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "### Instruction:\nName three colours.\n\n### Response:\nRed, green and blue.",
    "Explain why the sky is blue, in one sentence.",
    "Übersetze den Satz: the café is open until 10 pm. 3 + 4 = 7",
]


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(ClusterConfig(device="cpu"), cache=tmp_path / "cache", terminal=None)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line within this process, in ``tmp_path``: quicker where a process adds nothing."""
    from icon_repro.__main__ import main

    def call(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["icon_repro", *arguments])
        monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as the command does, for its own process alone
        monkeypatch.setattr(logging, "_handlerList", [])  # Hydra closes them all; absl's would close pytest's stderr
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        out, error = capfd.readouterr()
        return Done(code if isinstance(code, int) else int(code is not None), out, f"{error}{code}", 0.0)

    return call


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the released data that is too large for the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with the released data isn't there")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama whose tokenizer puts BOS first."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    ids = _save_tokenizer(folder, bos=True)
    return _save_model(LlamaForCausalLM, LlamaConfig(**_shape(), **ids), folder)


@pytest.fixture(scope="session")
def tiny_model_no_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen2 whose tokenizer adds no BOS."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model_no_bos")
    ids = _save_tokenizer(folder, bos=False)
    return _save_model(Qwen2ForCausalLM, Qwen2Config(**_shape(), **ids), folder)


@pytest.fixture(scope="session")
def encoder_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model step with a random BERT; its tokenizer knows the letters a to z, alone and within words."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    size = _save_wordpieces(folder / "weights")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    _save_model(BertModel, BertConfig(vocab_size=size, max_position_embeddings=600, **shape), folder / "weights")
    (folder / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return folder


def _save_wordpieces(folder: Path) -> int:
    """Save a WordPiece tokenizer as BERT's: [CLS] first, [SEP] last, [UNK] for the unknown; returns its size."""
    import string

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = string.ascii_lowercase
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "the", "##ing", "."]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return len(tokens)


def _shape() -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }


def _save_tokenizer(folder: Path, *, bos: bool) -> dict[str, int | None]:
    """Train and save a byte-level tokenizer; returns its size and special ids as a model's config names them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "</s>" if bos else "<|endoftext|>"  # transformers adds the latter to a Qwen2 tokenizer without it
    special = [*(["<s>"] if bos else []), end, "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    named = {"bos_token": "<s>"} if bos else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token="<pad>", **named)
    fast.save_pretrained(folder)
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": tokenizer.token_to_id("<s>") if bos else None,
        "eos_token_id": tokenizer.token_to_id(end),
        "pad_token_id": tokenizer.token_to_id("<pad>"),
    }


def _save_model(kind: Any, config: Any, folder: Path) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session", params=["bos", "no_bos"])
def model_step(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model step, once with and once without BOS."""
    weights = request.getfixturevalue("tiny_model" if request.param == "bos" else "tiny_model_no_bos")
    folder = tmp_path_factory.mktemp(f"model_{request.param}")
    (folder / "weights").symlink_to(weights)
    (folder / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store of an experiment as ``small`` configures it."""
    return Store(tmp_path / "work")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Its results folder."""
    return tmp_path / "outputs" / "smoke_tiny"
