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
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(names) or 'none'}."


def build(cls: type[T], data: Any, where: str = "") -> T:
    """Make a ``cls`` out of nested dicts.

    Raises:
        SchemaError: unknown key, missing value, wrong type, value out of range; all of them at once.
    """
    problems: list[str] = []
    result = _convert(cls, data, where, problems, {})
    if problems:
        raise SchemaError(problems)
    return typing.cast(T, result)


def _convert(kind: Any, value: Any, where: str, problems: list[str], rules: Mapping[str, Any]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        assert len(kinds) == 1, f"{where}: {kind} is a union of several types"
        return _convert(kinds[0], value, where, problems, rules)
    if isinstance(value, str) and value == _REQUIRED:
        problems.append(_required(where, rules))
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


def _required(where: str, rules: Mapping[str, Any]) -> str:
    return f"{where}: a value is required. Set {where}={rules.get('example', 'VALUE')}."


def _convert_dataclass(kind: type, value: Any, where: str, problems: list[str]) -> Any:
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
            problems.append(f"{prefix}{key}: unknown key.{nearest(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            values[name] = _convert(hints[name], value[name], prefix + name, problems, field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(_required(f"{prefix}{name}", field.metadata))
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
