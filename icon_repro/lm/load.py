"""Load a model and its tokenizer from the folder of a model step.

In: a folder with model.json (made by ``icon_repro.data.weights``).  Out: model in eval mode, fast tokenizer.
``trust_remote_code`` is never on; weights are read from safetensors only.
Known gap: none.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from icon_repro.config import ClusterConfig
from icon_repro.config_data import Dtype
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.budget import TokenBudget
from icon_repro.records import read_json


class ModelError(ValueError):
    """The model or tokenizer can't be used as asked."""


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU if there is none.

    Raises:
        ModelError: a GPU is asked for and torch sees none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"cluster.device={name!r}: not a device; use auto, cpu, cuda or cuda:<number>.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"cluster.device={name!r}: torch {torch.__version__} sees no GPU; use auto or cpu.")
    return device


def prepare_device(cluster: ClusterConfig) -> torch.device:
    """The device of a step, with torch's threads set as ``cluster`` says."""
    if cluster.threads:
        torch.set_num_threads(cluster.threads)
    return pick_device(cluster.device)


def location_of(folder: Path) -> dict[str, Any]:
    """Arguments for ``from_pretrained``: the folder's own weights, or a hub id at a commit.

    Raises:
        ModelError: a folder in the current one bears the hub id: transformers would load it instead.
    """
    source = read_json(folder / "model.json")
    common = {"trust_remote_code": False, "local_files_only": True}
    if source["hub_id"] is None:
        return {"pretrained_model_name_or_path": str(folder / "weights"), **common}
    if Path(source["hub_id"]).exists():
        raise ModelError(
            f"{source['hub_id']}: {Path(source['hub_id']).absolute()} bears the name of the hub model, and would be "
            "loaded in its place. Start from another folder, or rename it."
        )
    return {"pretrained_model_name_or_path": source["hub_id"], "revision": source["commit"], **common}


def _config(location: dict[str, Any]) -> Any:
    """The architecture's config.

    Raises:
        ModelError: transformers has no such architecture; code that comes with a model is never run.
    """
    try:
        return AutoConfig.from_pretrained(**location)
    except ValueError as error:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: transformers {transformers.__version__} doesn't know the "
            f"architecture in config.json, and code that comes with a model is never run. Use another model. ({error})"
        ) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model step; pads on the right, with eos if it has no pad token.

    Raises:
        ModelError: it has neither a pad nor an eos token, or more tokens than the model has embeddings.
    """
    location = location_of(folder)
    rows = _config(location).get_text_config().vocab_size
    try:
        tokenizer = AutoTokenizer.from_pretrained(**location)
    except ValueError as error:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: the tokenizer can't be loaded; code that comes with one is "
            f"never run. ({error})"
        ) from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{location['pretrained_model_name_or_path']}: the tokenizer has no pad and no eos token.")
        tokenizer.pad_token_id = tokenizer.eos_token_id
    if len(tokenizer) > rows:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: the tokenizer has {len(tokenizer)} tokens, the model "
            f"{rows} embeddings; they don't belong together."
        )
    return tokenizer


def load_model(folder: Path, dtype: Dtype, device: torch.device, attention: str = "sdpa") -> PreTrainedModel:
    """The causal language model of a model step, in eval mode on ``device``.

    Args:
        attention: transformers' attn_implementation (sdpa, eager, flash_attention_2).

    Raises:
        ModelError: it is an encoder, which sees the tokens that it is asked to predict; or ``attention`` isn't there.
    """
    location = location_of(folder)
    config = _config(location)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: a {config.model_type} reads in both directions and can't "
            "score the next token; use a causal language model (for embeddings alone: encoder=true)."
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            **location, dtype=getattr(torch, dtype.value), attn_implementation=attention, use_safetensors=True
        )
    except (ImportError, ValueError) as error:
        if attention in ("sdpa", "eager"):
            raise
        raise ModelError(
            f"cluster.attention={attention!r}: {error} Install it, or set cluster.attention=sdpa."
        ) from error
    return model.to(device).eval()


def load_encoder(folder: Path, dtype: Dtype, device: torch.device) -> PreTrainedModel:
    """The model of a model step without any head, as for BERT's hidden states, in eval mode on ``device``.

    Raises:
        ModelError: it isn't an encoder; a causal model is loaded by ``load_model``.
    """
    location = location_of(folder)
    config = _config(location)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_decoder", False):
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: a {config.model_type} isn't an encoder; set encoder=false."
        )
    model = AutoModel.from_pretrained(**location, dtype=getattr(torch, dtype.value), use_safetensors=True)
    return model.to(device).eval()


def load_tuned(
    folder: Path, tuned: Path | None, dtype: Dtype, device: torch.device, attention: str = "sdpa"
) -> PreTrainedModel:
    """The model of a model step as a train step left it: its adapter merged, or its own weights.

    Args:
        tuned: folder of the train step; None: the model as it is.
    """
    if tuned is None:
        return load_model(folder, dtype, device, attention)
    if (tuned / "weights").is_dir():
        return load_model(tuned, dtype, device, attention)
    model = PeftModel.from_pretrained(load_model(folder, dtype, device, attention), str(tuned / "adapter"))
    merged: PreTrainedModel = model.merge_and_unload()
    return merged.eval()


def open_model(
    folder: Path, dtype: Dtype, runtime: Runtime, tuned: Path | None = None
) -> tuple[PreTrainedModel, TokenBudget]:
    """The model of a step that scores, on the device that ``runtime`` names, and how many tokens a batch may hold.

    Args:
        tuned: see ``load_tuned``.
    """
    model = load_tuned(folder, tuned, dtype, prepare_device(runtime.cluster), runtime.cluster.attention)
    return model, budget_of(model, runtime)


def open_encoder(folder: Path, dtype: Dtype, runtime: Runtime) -> tuple[PreTrainedModel, TokenBudget]:
    """As ``open_model``, but an encoder."""
    model = load_encoder(folder, dtype, prepare_device(runtime.cluster))
    return model, budget_of(model, runtime)


def budget_of(model: PreTrainedModel, runtime: Runtime) -> TokenBudget:
    """How many tokens a batch of a step that scores may hold."""
    return TokenBudget(model, runtime.cluster.score_batch_tokens, runtime.cache / "score_batch_tokens.json")


def load_classifier(folder: Path, labels: int, device: torch.device, attention: str = "sdpa") -> PreTrainedModel:
    """A sequence classifier on the base weights of a model step, float32, in eval mode on ``device``.

    Its head, ``score``, is new: drawn from torch's global generator on the CPU, so that a seed gives the same head on
    every device. The pad token is that of ``load_tokenizer``; transformers' own forward reads the last token that isn't
    it, which is wrong where a text ends with it.

    Args:
        labels: outputs of the head.

    Raises:
        ModelError: the architecture has no classifier of this form.
    """
    location = location_of(folder)
    name = location["pretrained_model_name_or_path"]
    if type(_config(location)) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(f"{name}: transformers has no sequence classifier of this architecture.")
    model = AutoModelForSequenceClassification.from_pretrained(
        **location,
        num_labels=labels,
        pad_token_id=load_tokenizer(folder).pad_token_id,
        dtype=torch.float32,
        attn_implementation=attention,
        use_safetensors=True,
    )
    if not hasattr(model, "score"):
        raise ModelError(f"{name}: its sequence classifier, {type(model).__name__}, has no head named 'score'.")
    return model.to(device).eval()
