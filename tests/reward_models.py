"""Small random reward models as they lie on a hub, made without the package's own classes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification, LlamaModel

SPECIAL = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
)
PROMPT_END = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def _step(folder: Path) -> Path:
    (folder / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return folder


def _tokenizer(base: Path, weights: Path, template: str | None) -> dict[str, int]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(weights)
    return {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def armorm(
    folder: Path,
    base: Path,
    template: str | None = TEMPLATE,
    objectives: int = 19,
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None] = lambda config, weights: None,
) -> Path:
    """A model step with the published configuration's keys and names of weights, with code that must never run.

    Args:
        base: folder with a tokenizer.
        change: may change config.json and the weights.
    """
    weights = folder / "weights"
    weights.mkdir(parents=True)
    sizes = {**_SHAPE, **_tokenizer(base, weights, template)}
    config: dict[str, Any] = {
        **sizes,
        "model_type": "llama",
        "architectures": ["LlamaForRewardModelWithGating"],
        "auto_map": {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"},
        "num_objectives": objectives,
        "gating_temperature": 10,
        "gating_hidden_dim": 24,
        "gating_n_hidden": 3,
        "torch_dtype": "float32",
    }
    draw = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        backbone = LlamaModel(LlamaConfig(**sizes, initializer_range=0.3))
    tensors = {f"model.{name}": value.contiguous() for name, value in backbone.state_dict().items()}

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    tensors["regression_layer.weight"] = random(objectives, 32)
    tensors["reward_transform_matrix"] = random(objectives, objectives)
    tensors["gating.logit_scale"] = torch.tensor([1.7])
    for place, (outside, inside) in enumerate([(24, 32), (24, 24), (24, 24), (objectives, 24)]):
        tensors[f"gating.layers.{place}.weight"] = 0.5 * random(outside, inside)
        tensors[f"gating.layers.{place}.bias"] = random(outside)
    change(config, tensors)
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    (weights / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (weights / "modeling_custom.py").write_text("raise AssertionError('code of the model was run')", encoding="utf-8")
    return _step(folder)


def classifier(folder: Path, base: Path, labels: int = 1, pad: str = "<pad>") -> Path:
    """A model step with a sequence classifier, its head included.

    Args:
        pad: token that pads; transformers' own forward reads the last one that isn't it.
    """
    weights = folder / "weights"
    weights.mkdir(parents=True)
    sizes = {**_SHAPE, **_tokenizer(base, weights, TEMPLATE)}
    tokenizer = AutoTokenizer.from_pretrained(weights)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(weights)
    sizes["pad_token_id"] = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForSequenceClassification(LlamaConfig(**sizes, initializer_range=0.3, num_labels=labels)).save_pretrained(
            weights
        )
    return _step(folder)


def causal(folder: Path, weights: Path) -> Path:
    """A model step with a copy of a causal language model: no reward model at all."""
    shutil.copytree(weights, folder / "weights")
    return _step(folder)
