"""Turn plain dataclasses into typed schemas: build them from a config, check them, flatten them.

In: nested dicts (from Hydra or JSON) and a dataclass type.  Out: instances, or every problem found at once.
Source: own; OmegaConf's structured configs stop at the first problem and do not know ranges.
Known gap: unions other than ``X | None`` aren't supported.
"""

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_REQUIRED = "???"  # OmegaConf's spelling of "must be given"


# what other tools call some keys
_ELSEWHERE = {
    **{"lr": "learning_rate", "peak_lr": "learning_rate", "rank": "r", "lora_r": "r", "lora_alpha": "alpha"},
    **{"lora_dropout": "dropout", "target_modules": "targets", "lora_target": "targets", "shots": "num_fewshot"},
    **{
        "num_epochs": "epochs",
        "num_train_epochs": "epochs",
        "max_seq_length": "max_length",
        "cutoff_len": "max_length",
    },
    **{"per_device_train_batch_size": "micro_batch_size", "lr_scheduler_type": "schedule", "val_size": "sample"},
    **{"model_name_or_path": "hub_id", "pretrained": "hub_id", "max_samples": "sample", "n_shot": "num_fewshot"},
}
# and some values
_VALUES = {
    **dict.fromkeys(("sharegpt", "chatml", "chat", "openai", "conversations"), "messages"),
    **{"local": "file", "disk": "file", "huggingface": "hub", "hf": "hub", "gpu": "cuda", "qlora": "lora"},
    **{"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"},
}


class SchemaError(ValueError):
    """A mapping doesn't fit its schema; the message lists every problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def number(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    legacy: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field that holds a number (or a list of numbers) in a range.

    Args:
        above, at_least, at_most, below: bounds; ``build`` reports values outside.
        legacy: value that is left out of the hash, so that results made before the field existed stay valid.
    """
    bounds = {"above": above, "at_least": at_least, "at_most": at_most, "below": below}
    metadata: dict[str, Any] = {k: v for k, v in bounds.items() if v is not None}
    if legacy is not dataclasses.MISSING:
        metadata["legacy"] = legacy
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def unhashed(default: Any = dataclasses.MISSING, example: str = "VALUE") -> Any:
    """A dataclass field that doesn't change results and so never enters a fingerprint.

    Args:
        example: of a value, for the message that one is required.
    """
    return dataclasses.field(default=default, metadata={"hash": False, "example": example})


def nearest(word: str, choices: typing.Iterable[str]) -> str:
    """`` Did you mean 'x'?``, or the list of choices when none is near."""
    names = sorted(choices)
    other = _VALUES.get(word.lower())
    near = [other] if other in names else [one for one in names if len(word) > 3 and one.startswith(word)][:1]
    near = near or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(names) or 'none'}."


def build(cls: type[T], data: Any, where: str = "") -> T:
    """Make a ``cls`` out of nested dicts.

    Raises:
        SchemaError: unknown key, missing value, wrong type, value out of range; all of them at once.
    """
    problems = _Problems()
    problems.places = list(_places(cls, where))
    result = _convert(cls, data, where, problems, {})
    if problems:
        raise SchemaError(problems)
    return typing.cast(T, result)


class _Problems(list[str]):
    """Problems of one mapping.

    Attributes:
        places: every key that it may have, with dots.
    """

    places: list[str]

    def unknown(self, prefix: str, key: str, fields: typing.Iterable[str]) -> None:
        """Note a key that isn't one of ``fields``; the same one elsewhere is meant, if there is one."""
        fields = list(fields)
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.75)
        name = _ELSEWHERE.get(key, key)
        same = [place for place in self.places if place.rpartition(".")[2] == name]
        beside = [place for place in same if place.startswith(prefix)] or same
        shallow = [place for place in beside if place.count(".") == min(one.count(".") for one in beside)]
        hint = f" Did you mean {' or '.join(map(repr, shallow))}?" if 0 < len(shallow) < 4 and not near else ""
        self.append(f"{prefix}{key}: unknown key.{hint or nearest(key, fields)}")


def without_none(kind: Any) -> Any:
    """The type of a value that may be null, without None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def _places(kind: Any, where: str) -> typing.Iterator[str]:
    """The keys of a dataclass and of those in it, with dots; of none that names of one's own stand before."""
    kind = without_none(kind)
    if dataclasses.is_dataclass(kind):
        for name, inner in typing.get_type_hints(kind).items():
            place = f"{where}.{name}" if where else name
            yield place
            yield from _places(inner, place)


def _convert(kind: Any, value: Any, where: str, problems: _Problems, rules: Mapping[str, Any]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        assert len(kinds) == 1, f"{where}: {kind} is a union of several types"
        return _convert(kinds[0], value, where, problems, rules)
    if isinstance(value, str) and value == _REQUIRED:
        problems.append(_required(where, rules, kind))
        return None
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, where, problems)
    if origin is list:
        if not isinstance(value, list):
            problems.append(f"{where}={value!r}: must be a list, e.g. [{value}].")
            return None
        return [_convert(arguments[0], v, f"{where}[{i}]", problems, rules) for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{where}={value!r}: must be a mapping of names to values.")
            return None
        return {str(k): _convert(arguments[1], v, f"{where}.{k}", problems, rules) for k, v in value.items()}
    return _convert_scalar(kind, value, where, problems, rules)


def _required(where: str, rules: Mapping[str, Any], kind: Any) -> str:
    example, others = rules.get("example", "VALUE"), ""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        example, *more = [str(member.value) for member in kind]
        others = f" (or {', '.join(more)})"
    return f"{where}: a value is required. Set {where}={example}{others}."


def _convert_dataclass(kind: type, value: Any, where: str, problems: _Problems) -> Any:
    if dataclasses.is_dataclass(value) and isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{where or kind.__name__}={value!r}: must be a mapping.")
        return None
    prefix = f"{where}." if where else ""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            problems.unknown(prefix, str(key), fields)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            values[name] = _convert(hints[name], value[name], prefix + name, problems, field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(_required(f"{prefix}{name}", field.metadata, hints[name]))
            values[name] = None
    return kind(**values)


def _convert_scalar(kind: Any, value: Any, where: str, problems: list[str], rules: Mapping[str, Any]) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        names = [str(member.value) for member in kind]
        if isinstance(value, kind):
            return value
        if value not in names:
            problems.append(f"{where}={value!r}: must be one of {', '.join(names)}.{nearest(str(value), names)}")
            return None
        return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        problems.append(f"{where}={value!r}: must be {kind.__name__}, not {type(value).__name__}.")
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        tests = {
            "above": lambda limit: value > limit,
            "at_least": lambda limit: value >= limit,
            "at_most": lambda limit: value <= limit,
            "below": lambda limit: value < limit,
        }
        broken = [n for n, test in tests.items() if n in rules and not test(rules[n])]
        if broken or not math.isfinite(value):
            text = " and ".join(f"{n.replace('_', ' ')} {rules[n]:g}" for n in tests if n in rules)
            share = rules.get("at_most") == 1 and "above" in rules and 1 < value <= 100
            percent = f" {value:g} % is {value / 100:g}." if share else ""
            problems.append(f"{where}={value!r}: must be {text or 'finite'}.{percent}")
    return value


def plain(value: Any, *, hashed_only: bool = False) -> Any:
    """Dataclasses and enums as JSON values.

    Args:
        hashed_only: without fields that don't change results; of a dataclass with a method ``as_hashed``, what that
            gives.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hashed_only and hasattr(value, "as_hashed"):
            value = value.as_hashed()
        result = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if hashed_only and not field.metadata.get("hash", True):
                continue
            if hashed_only and "legacy" in field.metadata and item == field.metadata["legacy"]:
                continue
            result[field.name] = plain(item, hashed_only=hashed_only)
        return result
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v, hashed_only=hashed_only) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, hashed_only=hashed_only) for v in value]
    return value
