"""Check the files of a model, before a library reads them and makes the best of what is wrong.

In: a model's folder.  Out: a message with the file and a remedy, or None.
Refused: pointers of Git LFS, safetensors that are cut short, adapters (transformers would apply them on top of the
weights without a word), two sets of weights, two chat templates that differ, damaged settings, two end tokens, packed
weights without a word how to unpack them.
Known gap: none.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_LFS = b"version https://git-lfs.github.com/spec"
_FLOATS = ("F64", "F32", "F16", "BF16")
_TEXT_BYTES = 2**20  # of a pointer at most; larger files aren't looked into


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git has put a few lines of text in the place of the file: it was cloned without Git LFS."""
    if path.stat().st_size > _TEXT_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def lfs_problem(path: Path) -> str | None:
    """Says what to do with a pointer of Git LFS; None if ``path`` is none."""
    if not is_lfs_pointer(path):
        return None
    return (
        f"{path}: is a pointer of Git LFS, not the file itself: it was cloned without Git LFS. Run `git lfs pull` in "
        f"{path.parent}, or download the file again."
    )


def folder_problem(folder: Path) -> str | None:
    """What would make a library load other weights than those that the folder seems to hold.

    Args:
        folder: with config.json and safetensors. Other files that the loader reads are looked at too.
    """
    if found := [name for name in ADAPTER_FILES if (folder / name).is_file()]:
        return (
            f"{folder}/{found[0]}: is an adapter, which transformers would apply on top of the weights beside it. If "
            "they are merged already, move the adapter's files away; if not, merge them first (peft: "
            "merge_and_unload)."
        )
    for path in sorted(folder.iterdir()):
        if path.is_file() and (problem := lfs_problem(path) or _safetensors_problem(path)):
            return problem
    index = folder / "model.safetensors.index.json"
    if index.is_file() and (folder / "model.safetensors").is_file():
        return (
            f"{folder}: holds two sets of weights, model.safetensors and those of {index.name}; which is meant can't "
            "be known. Move one of them away."
        )
    return _shards_problem(index) or _settings_problem(folder) or _template_problem(folder) or _dtype_problem(folder)


def _safetensors_problem(path: Path) -> str | None:
    """Whether the file is as long as its header says."""
    if path.suffix != ".safetensors":
        return None
    size = path.stat().st_size
    damaged = f"{path}: isn't whole, or isn't safetensors ({{}}). Download or copy the file again."
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            return damaged.format(f"{size:,} bytes, which don't hold its header")
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return damaged.format("its header can't be read")
    needed = 8 + length + max(ends, default=0)
    return None if size == needed else damaged.format(f"{size:,} bytes, its header says {needed:,}")


def _shards_problem(index: Path) -> str | None:
    """Whether all files that the index names are there."""
    if not index.is_file():
        return None
    try:
        named = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{index}: isn't an index of weights ({type(error).__name__}: {error}). Download the file again."
    missing = sorted(name for name in named if not (index.parent / name).is_file())
    if not missing:
        return None
    return f"{index}: names {len(missing)} files that aren't there (first: {missing[0]}). Download the model again."


def _settings_problem(folder: Path) -> str | None:
    """Whether a file of settings is damaged, which transformers takes for absent, or two name other control tokens."""
    stored: dict[str, dict[str, Any]] = {}
    for name in ("generation_config.json", "special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                stored[name] = dict(json.loads((folder / name).read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                return f"{folder / name}: isn't a JSON object ({error}). Download the file again, or move it away."
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        tokens = {name: _token(file[key]) for name, file in stored.items() if file.get(key) is not None}
        if len(set(tokens.values())) > 1:
            each = " and ".join(f"{token!r} in {name}" for name, token in tokens.items())
            return f"{folder}: {key} is {each}: which is meant can't be known. Make them the same."
    return None


def _token(value: Any) -> str:
    return str(value.get("content") if isinstance(value, dict) else value)


def _dtype_problem(folder: Path) -> str | None:
    """Whether weights are packed numbers (int8, fp8) that nothing in config.json says how to unpack."""
    try:
        if "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
            return None
    except (ValueError, TypeError, OSError):  # the loader says what is wrong with it
        return None
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, entry in header.items():
            if name.endswith((".weight", ".bias")) and entry["dtype"] not in _FLOATS:
                return (
                    f"{path}: {name} is {entry['dtype']}, and config.json has no quantization_config that says how to "
                    "unpack it: it would be read as it stands. Use the model's unquantized weights."
                )
    return None


def _template_problem(folder: Path) -> str | None:
    """Whether chat_template.jinja says something else than tokenizer_config.json, which it would replace."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if not (file.is_file() and settings.is_file()):
        return None
    try:
        stored: Any = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError:
        return f"{settings}: isn't JSON. Download the file again."
    other = stored.get("chat_template") if isinstance(stored, dict) else None
    if not isinstance(other, str) or other.strip() == file.read_text(encoding="utf-8").strip():
        return None
    return (
        f"{file}: differs from the chat template in tokenizer_config.json, in whose place transformers would take it. "
        "Keep one of the two."
    )


_NAMED = 5  # weights in a message


class ModelError(ValueError):
    """The model or tokenizer can't be used as asked."""


def check_weights(name: str, loaded: Mapping[str, Any], new: Sequence[str], unused: Sequence[str], what: str) -> None:
    """Refuse weights that aren't exactly those of the architecture: transformers would draw missing ones at random.

    Args:
        loaded: transformers' report.
        new, unused: see ``load_weights``.
    """
    shapes = [
        f"{key} has the shape {tuple(found)}, not {tuple(wanted)}"
        for key, found, wanted in sorted(loaded["mismatched_keys"])
    ]
    mismatched = {key for key, *_ in loaded["mismatched_keys"]}
    missing = [key for key in sorted(loaded["missing_keys"]) if key not in mismatched and not _is(key, new)]
    unknown = [key for key in sorted(loaded["unexpected_keys"]) if not _is(key, unused)]
    problems = [*shapes, *(f"{key} is missing" for key in missing), *(f"{key} is unknown" for key in unknown)]
    if not problems:
        return
    more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    remedy = ["Check the model's folder and config.json."]
    if missing and not shapes:
        remedy.append(
            "If they are meant to be drawn at random, name them in new_weights, beside the model's id or path."
        )
    if unknown and not shapes:
        remedy.append("If they are meant to be left out, name them in unused_weights, beside the model's id or path.")
    raise ModelError(
        f"{name}: the weights aren't those of {what}: {'; '.join(problems[:_NAMED])}{more}. {' '.join(remedy)}"
    )


def _is(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
