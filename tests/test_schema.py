"""Typed schemas: what is refused, how it is said, and that values survive a round trip."""

import dataclasses
import enum
import types
import typing
from dataclasses import dataclass, field
from typing import Any

import pytest

from icon_repro.config import load as config
from icon_repro.engine.schema import SchemaError, build, number, plain, unhashed


class Colour(enum.Enum):
    red = "red"
    green = "green"


@dataclass
class Inner:
    rate: float = number(0.5, above=0, at_most=1)
    names: list[str] = field(default_factory=list)


@dataclass
class Outer:
    count: int = number(at_least=1, below=100)
    title: str = "t"
    flag: bool = False
    colour: Colour = Colour.red
    limit: int | None = number(None, at_least=1)
    shares: list[float] = number([0.5], above=0, at_most=1)
    table: dict[str, Inner] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def problems(data: Any) -> list[str]:
    with pytest.raises(SchemaError) as caught:
        build(Outer, data)
    return caught.value.problems


@pytest.mark.parametrize(
    "data, key, parts",
    [
        ({"count": 1, "titel": "x"}, "titel", ["unknown", "'title'"]),
        ({"count": 1, "inner": {"rat": 1}}, "inner.rat", ["unknown", "'rate'"]),
        ({}, "count", ["required"]),
        ({"count": "???"}, "count", ["required"]),
        ({"count": True}, "count", ["True", "int", "bool"]),
        ({"count": "3"}, "count", ["'3'", "int", "str"]),
        ({"count": 3.0}, "count", ["3.0", "int", "float"]),
        ({"count": None}, "count", ["None", "int"]),
        ({"count": 1, "flag": 1}, "flag", ["bool", "int"]),
        ({"count": 1, "title": 5}, "title", ["str", "int"]),
        ({"count": 1, "inner": {"rate": "0.5"}}, "inner.rate", ["'0.5'", "float", "str"]),
        ({"count": 1, "inner": {"rate": True}}, "inner.rate", ["True", "float", "bool"]),
        ({"count": 1, "inner": {"rate": 0.0}}, "inner.rate", ["0.0", "above 0", "at most 1"]),
        ({"count": 1, "inner": {"rate": float("nan")}}, "inner.rate", ["nan"]),
        ({"count": 1, "inner": 5}, "inner", ["5", "mapping"]),
        ({"count": 0}, "count", ["0", "at least 1"]),
        ({"count": 100}, "count", ["100", "below 100"]),
        ({"count": 1, "limit": 0}, "limit", ["0", "at least 1"]),
        ({"count": 1, "colour": "gren"}, "colour", ["'gren'", "red", "'green'"]),
        ({"count": 1, "shares": 0.5}, "shares", ["list", "[0.5]"]),
        ({"count": 1, "shares": [0.5, 1.2]}, "shares[1]", ["1.2", "at most 1"]),
        ({"count": 1, "inner": {"names": ["a", 2]}}, "inner.names[1]", ["2", "str"]),
        ({"count": 1, "table": {"x": {"rate": 7}}}, "table.x.rate", ["7", "at most 1"]),
        ({"count": 1, "table": [1]}, "table", ["mapping"]),
    ],
)
def test_build_wrong_value_names_key_and_rule(data: dict[str, Any], key: str, parts: list[str]) -> None:
    (problem,) = problems(data)
    assert problem.split(":")[0].split("=")[0] == key
    for part in parts:
        assert part in problem


def test_build_several_problems_are_reported_at_once() -> None:
    found = problems({"count": True, "titel": "x", "inner": {"rate": 2, "names": [1]}})
    assert len(found) == 4


def test_build_good_values_are_typed() -> None:
    made = build(Outer, {"count": 99, "colour": "green", "limit": None, "shares": [1], "table": {"x": {"rate": 1}}})
    assert made == Outer(count=99, colour=Colour.green, shares=[1.0], table={"x": Inner(rate=1.0)})
    assert isinstance(made.shares[0], float)  # 1 and 1.0 give the same fingerprint


def test_build_list_default_is_not_shared() -> None:
    first = build(Outer, {"count": 1})
    first.shares.append(0.1)
    assert build(Outer, {"count": 1}).shares == [0.5]


@dataclass
class Hashed:
    kept: int = 1
    path: str | None = unhashed(None)
    added_later: int = number(5, legacy=5)
    inner: "HashedInner" = field(default_factory=lambda: HashedInner())


@dataclass
class HashedInner:
    note: str = unhashed("n")
    kept: Colour = Colour.red


def test_plain_hashed_only_leaves_out_unhashed_and_legacy_values() -> None:
    assert plain(Hashed(path="/x"), hashed_only=True) == {"kept": 1, "inner": {"kept": "red"}}
    assert plain(Hashed(added_later=6), hashed_only=True)["added_later"] == 6
    assert plain(Hashed(path="/x"))["path"] == "/x"
    assert plain(Hashed())["added_later"] == 5


def other(kind: Any, default: Any, metadata: Any) -> Any:
    """A value of type ``kind`` that differs from ``default`` and keeps to the bounds of its field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return other(arguments[0], default, metadata)
    if kind is Any:
        return "anything"
    if dataclasses.is_dataclass(kind):
        return example(typing.cast(type, kind))
    if origin is list:
        return [other(arguments[0], None, metadata)]
    if origin is dict:
        return {"some": other(arguments[1], None, metadata)}
    if issubclass(kind, enum.Enum):
        return next((member for member in reversed(kind) if member is not default), default)
    if kind is bool:
        return not default
    if kind is str:
        return "other"
    low, high = metadata.get("at_least", metadata.get("above")), metadata.get("at_most", metadata.get("below"))
    if kind is float:
        return (low or 0.0) + 0.25 if high is None else ((low or 0.0) + high) / 2.5
    if high is not None and (low or 0) + 7 > high:
        return high if high != default else low
    return (low or 0) + 7


def example(kind: type) -> Any:
    hints = typing.get_type_hints(kind)
    return kind(**{f.name: other(hints[f.name], f.default, f.metadata) for f in dataclasses.fields(kind)})


CONFIGS = [kind for kind in vars(config).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_build_of_plain_gives_equal_config(kind: type) -> None:
    value = example(kind)
    assert build(kind, plain(value)) == value
