"""Make small models with seeded random weights, of each kind that a step loads; their scores mean nothing.

In: a RandomShape.  Out: config, tokenizer and safetensors in a folder, as transformers saves them.
causal: a Llama. encoder: a BERT with a WordPiece tokenizer. classifier: a Llama with one label. gated: a Llama with
the heads of ArmoRM, in the layout that ``icon_repro.lm.reward`` reads.
Tokenizers know single bytes (letters, for the encoder), so that any text is read and no file is needed.
"""

import itertools
import string
from pathlib import Path
from typing import Any

from icon_repro.data.options import RandomArchitecture, RandomShape

_OBJECTIVES, _GATING_SIZE, _GATING_LAYERS, _TEMPERATURE = 19, 16, 1, 10.0
_SPREAD = 0.08  # of the weights: wide enough that perplexities differ
_LETTERS = string.ascii_lowercase + string.digits
_WORDPIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *_LETTERS, *(f"##{one}" for one in _LETTERS), *string.punctuation)
# a chat of a user and an assistant, whose turn begins with ``chat_end``
_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}{{ END }}{% else %}"
    "{{ '[user]\\n' }}{% endif %}{{ message.content }}{% endfor %}"
)


def make_random(shape: RandomShape, target: Path) -> None:
    """Write the model and its tokenizer into the folder ``target``, which is made."""
    import torch

    encoder = shape.architecture is RandomArchitecture.encoder
    size = _wordpieces(target) if encoder else _bytes(shape, target)
    with torch.random.fork_rng():
        torch.manual_seed(shape.seed)
        model = _encoder(shape, size) if encoder else _llama(shape)
        model = model.to(getattr(torch, shape.dtype.value))
        if shape.architecture is RandomArchitecture.gated:
            _save_gated(model, target)
        else:
            model.save_pretrained(target)


def count_weights(shape: RandomShape) -> tuple[int, int]:
    """How many weights the model has in its dtype, and in float32 (heads of a gated one). Imports no torch."""
    width, inner = shape.hidden_size, shape.intermediate_size
    if shape.architecture is RandomArchitecture.encoder:
        layer = 4 * (width * width + width) + 2 * width * inner + inner + 5 * width
        tables = (len(_WORDPIECES) + shape.max_positions + 2) * width + 2 * width
        return tables + shape.layers * layer + width * width + width, 0
    keys = width // shape.heads * shape.kv_heads
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner + 2 * width
    backbone = shape.vocab_size * width + shape.layers * layer + width
    if shape.architecture is RandomArchitecture.causal:
        return backbone, 0  # the head is the table of embeddings
    if shape.architecture is RandomArchitecture.classifier:
        return backbone + width, 0
    gating = sum(inside * outside + outside for inside, outside in itertools.pairwise(_gating_widths(width)))
    return backbone, _OBJECTIVES * width + _OBJECTIVES**2 + gating + 1


def _gating_widths(width: int) -> list[int]:
    return [width, *[_GATING_SIZE] * _GATING_LAYERS, _OBJECTIVES]


def _llama(shape: RandomShape) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.max_positions,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=_SPREAD,
        tie_word_embeddings=True,
    )
    if shape.architecture is RandomArchitecture.causal:
        return LlamaForCausalLM(config)
    config.tie_word_embeddings = False
    if shape.architecture is RandomArchitecture.classifier:
        config.num_labels = 1
        return LlamaForSequenceClassification(config)
    config.num_objectives = _OBJECTIVES
    config.gating_hidden_dim, config.gating_n_hidden = _GATING_SIZE, _GATING_LAYERS
    config.gating_temperature = _TEMPERATURE
    return LlamaModel(config)


def _encoder(shape: RandomShape, size: int) -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.max_positions,
        initializer_range=_SPREAD,
    )
    return BertModel(config)


def _save_gated(backbone: Any, target: Path) -> None:
    """``backbone`` with random heads: objectives, their mixing, and a gating perceptron from the prompt's state."""
    import torch
    from safetensors.torch import save_file

    size = backbone.config.hidden_size
    weights = {f"model.{name}": value.contiguous() for name, value in backbone.state_dict().items()}
    weights["regression_layer.weight"] = torch.randn(_OBJECTIVES, size) * _SPREAD
    weights["reward_transform_matrix"] = torch.eye(_OBJECTIVES)
    for number, (inside, outside) in enumerate(itertools.pairwise(_gating_widths(size))):
        weights[f"gating.layers.{number}.weight"] = torch.randn(outside, inside) * _SPREAD
        weights[f"gating.layers.{number}.bias"] = torch.zeros(outside)
    weights["gating.logit_scale"] = torch.ones(1)
    backbone.config.save_pretrained(target)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def _bytes(shape: RandomShape, target: Path) -> int:
    """A tokenizer of single bytes; returns how many tokens it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if shape.bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if shape.chat_end:
        fast.chat_template = _CHAT.replace("END", repr(shape.chat_end))
    fast.save_pretrained(target)
    return len(vocabulary)


def _wordpieces(target: Path) -> int:
    """A WordPiece tokenizer of single letters, with BERT's special tokens; returns how many tokens it has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = {token: i for i, token in enumerate(_WORDPIECES)}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(target)
    return len(pieces)
