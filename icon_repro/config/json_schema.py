"""A JSON schema of every key, made from the same dataclasses that check a configuration: for editors.

In: ``Config`` and the options of every method.  Out: a schema of experiment files, draft 2020-12; nothing is required
in it, as such a file lists only what differs. Files of a group fit the definition that its class names, e.g.
``#/$defs/ModelConfig`` in conf/model.
Known gap: what no single value shows, and keys of ``hydra``, aren't in it.
"""

import dataclasses
import enum
import types
import typing
from typing import Any

from icon_repro.config.load import Config
from icon_repro.config.reference import comments
from icon_repro.methods.kinds import kinds, method

_RANGES = {"above": "exclusiveMinimum", "at_least": "minimum", "at_most": "maximum", "below": "exclusiveMaximum"}
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
_LATER = {"$ref": "#/$defs/later"}  # what YAML can't hold yet
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a file in conf/experiment."""
    later = {"description": "an interpolation, or a value that must be given", "type": "string"}
    defs: dict[str, Any] = {"later": {**later, "pattern": r"^(\$\{.*\}|\?\?\?)$"}}
    root = _object(Config, defs)
    options = [_kind(method(kind).options, defs) for kind in kinds()]
    root["properties"]["methods"] = {"type": "object", "additionalProperties": {"anyOf": options}}
    root["properties"] |= {"defaults": {"type": "array"}, "hydra": {"type": "object"}}
    title = "an experiment of icon_repro"
    return {"$schema": _DRAFT, "title": title, **root, "$defs": dict(sorted(defs.items()))}


def _object(cls: type, defs: dict[str, Any]) -> dict[str, Any]:
    hints, meanings = typing.get_type_hints(cls), comments(cls)
    properties = {one.name: _field(one, hints[one.name], defs) for one in dataclasses.fields(cls)}
    for name, schema in properties.items():
        if name in meanings:
            schema["description"] = meanings[name]
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _field(one: "dataclasses.Field[Any]", hint: Any, defs: dict[str, Any]) -> dict[str, Any]:
    rules = {_RANGES[name]: one.metadata[name] for name in _RANGES if name in one.metadata}
    return {"anyOf": [*_either(hint, rules, defs), _LATER]}


def _either(hint: Any, rules: dict[str, Any], defs: dict[str, Any]) -> list[dict[str, Any]]:
    """Schemas of which a value fits one."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [schema for one in inner for schema in _either(one, rules, defs)]
    if hint is type(None):
        return [{"type": "null"}]
    if hint is Any:
        return [{}]
    if origin is list:
        return [{"type": "array", "items": {"anyOf": [*_either(inner[0], rules, defs), _LATER]}}]
    if origin is dict:
        return [{"type": "object", "additionalProperties": {"anyOf": [*_either(inner[1], rules, defs), _LATER]}}]
    if dataclasses.is_dataclass(hint):
        return [_kind(typing.cast(type, hint), defs)]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [{"enum": [member.value for member in hint]}]
    return [{"type": _SCALARS[hint], **rules}]


def _kind(cls: type, defs: dict[str, Any]) -> dict[str, Any]:
    """A reference to a class's definition."""
    if cls.__name__ not in defs:
        defs[cls.__name__] = {}  # it may hold itself
        defs[cls.__name__] = _object(cls, defs)
    return {"$ref": f"#/$defs/{cls.__name__}"}
