"""Make a model available: download, copy or convert it once, and say where it is.

In: a ModelConfig.  Out: model.json {hub_id, commit}; for models that aren't on a hub also weights/ with
config, tokenizer and safetensors.  A hub model stays in the hub's own cache, at the recorded commit.
Source: GGUF files are read by transformers and gguf, which undo the quantization.
Known gap: a GGUF file is a quantized copy; its perplexities differ slightly from the original weights'.
"""

import shutil
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from icon_repro.data.hub_access import Repository
from icon_repro.data.model_files import ModelError, folder_problem
from icon_repro.data.options import ModelConfig, ModelKind, RegistryFile
from icon_repro.data.patience import patiently
from icon_repro.data.random_models import make_random
from icon_repro.data.registry import fetch
from icon_repro.data.revisions import offline
from icon_repro.engine.console import LOG
from icon_repro.engine.records import write_json
from icon_repro.engine.runtime import Runtime


class WeightsError(ValueError):
    """The model can't be had, or isn't what a causal language model needs."""


def run(cfg: ModelConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write model.json and, but for hub models, weights/."""
    commit = None
    if cfg.kind is ModelKind.hub:
        assert cfg.hub_id is not None
        commit = runtime.extra["commit"]
        download(cfg.hub_id, commit, runtime.where)
    elif cfg.kind is ModelKind.local:
        _copy(runtime.files["config.json"].parent, out / "weights", runtime.where)
    elif cfg.kind is ModelKind.registry:
        assert cfg.registry is not None
        _convert_gguf(cfg.registry, runtime.cache, cfg.licence, out / "weights")
    else:
        assert cfg.random is not None
        make_random(cfg.random, out / "weights")
    source = {"hub_id": cfg.hub_id if commit else None, "commit": commit}
    allowed = {"new_weights": list(cfg.new_weights), "unused_weights": list(cfg.unused_weights)}
    write_json(out / "model.json", source | {name: names for name, names in allowed.items() if names})
    return {"commit": commit, "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file())}


def download(hub_id: str, commit: str, where: str) -> None:
    """Have the hub's own cache hold a model.

    Args:
        where: key of the configuration that names it, for messages.

    Raises:
        WeightsError: it can't be had, or its files aren't what they seem.
    """
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt"]
    try:
        read = partial(snapshot_download, hub_id, revision=commit, allow_patterns=patterns)
        folder = Path(patiently(read, f"{hub_id} at {commit}"))
    except Exception as error:  # the hub raises a dozen kinds; each means that the model isn't here
        raise WeightsError(
            f"{where}.hub_id={hub_id!r} at {commit}: can't be downloaded ({type(error).__name__}: {error}). Check the "
            "network, HF_HUB_OFFLINE and the id; of a gated model, accept the licence on its page, and log in: "
            "hf auth login."
        ) from error
    if not list(folder.glob("*.safetensors")):
        raise WeightsError(f"{where}.hub_id={hub_id!r} at {commit}: holds no safetensors; other formats aren't loaded.")
    if problem := folder_problem(folder):
        raise WeightsError(f"{where}.hub_id={hub_id!r} at {commit}: {problem}")


def download_again(hub_id: str, commit: str) -> None:
    """Have the hub's cache of this machine hold a model that a finished step has read, maybe on another machine.

    Raises:
        ModelError: the cache lacks it, and there is no network.
        WeightsError: the hub doesn't give it.
    """
    from huggingface_hub import constants

    if not (absent := Repository("model", "model", hub_id, commit).absent()):
        return
    why = f"{hub_id} at {commit}: {constants.HF_HUB_CACHE} doesn't hold what a finished step has read ({absent})"
    if offline():
        raise ModelError(
            f"{why}, and HF_HUB_OFFLINE is set. The cache was cleaned, or is another machine's: let HF_HOME name one "
            "that both see, or run the same command with action=fetch where there is a network."
        )
    LOG.warning("%s", f"{why}: downloaded again")
    download(hub_id, commit, "model")


def _copy(source: Path, target: Path, where: str) -> None:
    """Copy a local model folder, so that a later change of it can't change results."""
    if not list(source.glob("*.safetensors")):
        raise WeightsError(f"{where}.path={source}: holds no *.safetensors; other formats aren't loaded.")
    if problem := folder_problem(source):
        raise WeightsError(f"{where}.path={source}: {problem}")
    target.mkdir()
    for path in source.iterdir():
        if path.suffix in {".json", ".safetensors", ".model", ".jinja", ".txt"}:
            shutil.copyfile(path, target / path.name)


def _convert_gguf(file: RegistryFile, cache: Path, licence: str, target: Path) -> None:
    """De-quantize a GGUF file and save it as bfloat16 safetensors with its tokenizer."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from icon_repro.data.model_files import check_weights

    path = fetch(file, cache, licence)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    # transformers parses the file three times and maps its names once a module: a third of the time saved
    reader, names = lru_cache(gguf.GGUFReader), lru_cache(gguf.get_tensor_name_map)
    with patch.object(gguf, "GGUFReader", reader), patch.object(gguf, "get_tensor_name_map", names):
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model, loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
    check_weights(str(path), loaded, [], [], "this model")
    # transformers marks the model as quantized and refuses to save it, though its weights are plain tensors by now
    model.hf_quantizer = None
    del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
