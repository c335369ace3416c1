"""Load a model and its tokenizer from the folder of a model step.

In: a folder with model.json (made by ``icon_repro.data.weights``).  Out: model in eval mode, fast tokenizer.
``trust_remote_code`` is never on; weights are read from safetensors only. transformers draws missing weights at random
and leaves out what it doesn't know, with a warning: ``load_weights``, which loads all models, refuses both.
Known gap: none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
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

from icon_repro.data.model_files import ADAPTER_FILES, ModelError, check_weights, folder_problem
from icon_repro.data.options import Dtype
from icon_repro.data.weights import download_again
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.budget import TokenBudget
from icon_repro.lm.saving import make_savable

# an encoder's states need neither what reads them nor what sums them up
_HEADS = ("cls.*", "lm_head.*", "classifier.*", "qa_outputs.*", "vocab_*", "*predictions*", "*pooler.*")
_POOLER = ("*pooler.*",)
_COUNT_FROM_PAD = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text")


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
    """Arguments for ``from_pretrained``: the folder's own weights, or a hub id at a commit, which the cache then holds.

    Raises:
        ModelError: a folder in the current one bears the hub id: transformers would load it instead; or the files
            aren't what they seem (``icon_repro.data.model_files``).
    """
    source = read_json(folder / "model.json")
    common = {"trust_remote_code": False, "local_files_only": True}
    if source["hub_id"] is None:
        if problem := folder_problem(folder / "weights"):
            raise ModelError(problem)
        return {"pretrained_model_name_or_path": str(folder / "weights"), **common}
    if Path(source["hub_id"]).exists():
        raise ModelError(
            f"{source['hub_id']}: {Path(source['hub_id']).absolute()} bears the name of the hub model, and would be "
            "loaded in its place. Start from another folder, or rename it."
        )
    download_again(source["hub_id"], source["commit"])
    for name in ADAPTER_FILES:
        if isinstance(try_to_load_from_cache(source["hub_id"], name, revision=source["commit"]), str):
            raise ModelError(
                f"{source['hub_id']}: holds {name}, an adapter, which transformers would apply on top of the weights. "
                "Use a model without one, or merge it and set model.kind=local."
            )
    return {"pretrained_model_name_or_path": source["hub_id"], "revision": source["commit"], **common}


def _config(location: dict[str, Any]) -> Any:
    """The architecture's config.

    Raises:
        ModelError: transformers has no such architecture; code that comes with a model is never run.
    """
    try:
        return AutoConfig.from_pretrained(**location)
    except OSError as error:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: config.json can't be read ({_short(error)}). Download or "
            "copy the model again."
        ) from error
    except (KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: config.json isn't what transformers "
            f"{transformers.__version__} takes ({_short(error)}). Compare it with the model's own, and mend it."
        ) from error
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
    except OSError as error:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: the tokenizer can't be read ({_short(error)}). Download or "
            "copy the model again."
        ) from error
    except ValueError as error:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: the tokenizer can't be loaded; code that comes with one is "
            f"never run. ({error})"
        ) from error
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{location['pretrained_model_name_or_path']}: the tokenizer has no pad and no eos token.")
        tokenizer.pad_token_id = tokenizer.eos_token_id
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))  # ids may have gaps
    if tokens > rows:
        raise ModelError(
            f"{location['pretrained_model_name_or_path']}: the tokenizer has {tokens} tokens, the model {rows} "
            "embeddings; they don't belong together."
        )
    return tokenizer


def load_weights(
    kind: Any,
    folder: Path,
    attention: str | None,
    *,
    dtype: torch.dtype,
    new: Sequence[str] = (),
    unused: Sequence[str] = (),
    what: str = "this model",
    **settings: Any,
) -> Any:
    """A model of class ``kind`` with the weights of a model step; the one place where weights are loaded.

    Args:
        attention: transformers' attn_implementation; None: the class's own.
        new, unused: names of weights (* for any text) that may be drawn at random, or left out, besides those that
            the model's YAML allows.
        settings: of the model's configuration.

    Raises:
        ModelError: weights are missing, unknown, of another shape or not finite; files that can't be read.
    """
    location = location_of(folder)
    name = location["pretrained_model_name_or_path"]
    more = {} if attention is None else {"attn_implementation": attention}
    try:
        model, loaded = kind.from_pretrained(
            **location,
            **more,
            **settings,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that the shapes can be named; refused below
            output_loading_info=True,
            adapter_kwargs={"local_files_only": True},  # an adapter was looked for; without this the hub is asked
        )
    except (ImportError, ValueError) as error:
        if attention in (None, "sdpa", "eager"):
            remedy = " Set cluster.attention=eager." if "scaled_dot_product" in str(error) else ""
            raise ModelError(f"{name}: can't be loaded ({_short(error)}).{remedy}") from error
        raise ModelError(
            f"cluster.attention={attention!r}: {error} Install it, or set cluster.attention=sdpa."
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{name}: can't be made as its config.json says ({_short(error)}). Compare it with the model's own."
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{name}: its weights can't be read ({_short(error)}). Only *.safetensors are read; download or copy the "
            "model again, with all of them."
        ) from error
    if getattr(model.config, "quantization_config", None) and getattr(model, "hf_quantizer", None) is None:
        raise ModelError(
            f"{name}: transformers {transformers.__version__} doesn't know the quantization_config in config.json, and "
            "reads packed weights as they stand. Use the model's unquantized weights."
        )
    allowed = read_json(folder / "model.json")
    new = [*new, *allowed.get("new_weights", [])]  # absent where the YAML allows none
    check_weights(name, loaded, new, [*unused, *allowed.get("unused_weights", [])], what)
    if bad := [key for key, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise ModelError(
            f"{name}: {len(bad)} weights aren't finite as {str(dtype).removeprefix('torch.')} (first: {bad[0]}). "
            "The file is damaged, or its numbers are too large for this dtype: use bfloat16 or float32."
        )
    return model


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


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
    model = load_weights(AutoModelForCausalLM, folder, attention, dtype=getattr(torch, dtype.value))
    make_savable(model, location["pretrained_model_name_or_path"])
    return model.to(device).eval()


def positions_of(model: PreTrainedModel) -> int | None:
    """How many tokens the model was made to read; None if its configuration doesn't say."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    # these count from behind the pad token's place
    return positions - (config.pad_token_id or 0) - 1 if config.model_type in _COUNT_FROM_PAD else positions


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
    model = load_weights(
        AutoModel, folder, None, dtype=getattr(torch, dtype.value), new=_POOLER, unused=_HEADS, what="this encoder"
    )
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
    model = adapted(load_model(folder, dtype, device, attention), tuned / "adapter")
    merged: PreTrainedModel = model.merge_and_unload()
    return merged.eval()


def adapted(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """``base`` with the adapter of a train step, all of whose weights it takes.

    Raises:
        ModelError: the adapter has weights that the model has no place for, or lacks some, or is on weights that
            are tied to others: merged, both would change.
    """
    path = adapter / "adapter_model.safetensors"
    try:
        model = PeftModel.from_pretrained(base, str(adapter))
        with safe_open(path, framework="pt") as stored:
            stored_names = set(stored.keys())
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{adapter}: the adapter doesn't fit the model ({_short(error)}). Tune again.") from error
    if tied := tied_targets(base, sorted(model.peft_config["default"].target_modules)):
        raise ModelError(f"{adapter}: {tied}")
    wanted = set(get_peft_model_state_dict(model))
    if odd := sorted(stored_names ^ wanted):
        raise ModelError(
            f"{path}: {len(odd)} weights are in the adapter or in the model alone (first: {odd[0]}): it belongs to "
            "another model. Tune again."
        )
    return model


def tied_targets(model: torch.nn.Module, targets: Sequence[str]) -> str | None:
    """Says which target of LoRA has weights that are another module's too; None if none has.

    An adapter changes one of the two places only; merged, it changes both: another model than the trained one.
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.nn.Parameter):
            owners.setdefault(id(weight), []).append(name.removesuffix(".base_layer"))
    for names in owners.values():
        if len(set(names)) > 1:
            for name in names:
                for target in targets:
                    if name == target or name.endswith(f".{target}"):
                        other = next(n for n in names if n != name)
                        return (
                            f"lora.targets: {target!r} has its weights in common with {other} (tie_word_embeddings): "
                            "merged, the adapter would change both. Leave it out."
                        )
    return None


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
    model = load_weights(
        AutoModelForSequenceClassification,
        folder,
        attention,
        dtype=torch.float32,
        new=("score.*", "classifier.*"),  # the latter is refused below
        unused=("lm_head.*",),
        what="this classifier",
        num_labels=labels,
        pad_token_id=load_tokenizer(folder).pad_token_id,
    )
    if not hasattr(model, "score"):
        raise ModelError(f"{name}: its sequence classifier, {type(model).__name__}, has no head named 'score'.")
    return model.to(device).eval()
