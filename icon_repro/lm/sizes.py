"""Say how large a model's matrices and LoRA weights on them are, from its configuration alone.

In: a ModelConfig.  Out: numbers of weights. Imports no torch.
Known gap: of a model that isn't here yet they are guessed from its number of parameters.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from icon_repro.data.options import ModelConfig
from icon_repro.lm.options import LoraConfig

_WIDTH_PER_LAYER = 128  # of decoders of all sizes, about


@dataclass(frozen=True)
class _Shape:
    """Outer sizes of a decoder's matrices."""

    layers: int
    width: float
    queries: float
    keys: float
    inner: float


def lora_weights(model: ModelConfig, lora: LoraConfig) -> tuple[int, bool]:
    """How many weights LoRA has; and whether that is known, not guessed from the model's number of parameters."""
    known = _sizes(model)
    sizes = known or _guessed(model)
    ends = {
        "q_proj": sizes.width + sizes.queries,
        "k_proj": sizes.width + sizes.keys,
        "v_proj": sizes.width + sizes.keys,
        "o_proj": sizes.queries + sizes.width,
        "gate_proj": sizes.width + sizes.inner,
        "up_proj": sizes.width + sizes.inner,
        "down_proj": sizes.inner + sizes.width,
    }
    total = sum(ends.get(name, 2 * sizes.width) for name in lora.targets)
    return round(sizes.layers * lora.r * total), known is not None and set(lora.targets) <= ends.keys()


def _sizes(model: ModelConfig) -> _Shape | None:
    """Those of a model whose shape is in the config, or in a local folder as a Llama's is; None: not known here."""
    if model.random is not None:
        shape = model.random
        keys = shape.hidden_size // shape.heads * shape.kv_heads
        return _Shape(shape.layers, shape.hidden_size, shape.hidden_size, keys, shape.intermediate_size)
    if model.path is None:
        return None
    try:
        config = json.loads((Path(model.path).expanduser() / "config.json").read_text(encoding="utf-8"))
        width, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or width // heads
        keys = head * config.get("num_key_value_heads", heads)
        return _Shape(config["num_hidden_layers"], width, head * heads, keys, config["intermediate_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _guessed(model: ModelConfig) -> _Shape:
    width = (max(model.parameters, 1) * _WIDTH_PER_LAYER / 12) ** (1 / 3)  # a layer has 12 width^2 parameters
    return _Shape(max(1, round(width / _WIDTH_PER_LAYER)), width, width, width, 8 / 3 * width)


def hidden_width(model: ModelConfig) -> float:
    """Numbers in a hidden state."""
    return (_sizes(model) or _guessed(model)).width
