"""The key reference of conf/README.md, made from the schemas: ``python -m icon_repro.config.reference conf/README.md``.

In: ``Config`` and the options of every method, with the comments beside their fields.  Out: Markdown, a table for each
group of keys: key, type, default, range, meaning; groups that occur in several places stand once.
A comment on a field's own lines, or on the lines right above it, is its meaning: nothing is written twice.
Known gap: a default that a YAML file of conf/ sets isn't shown; ``--cfg job`` shows what an experiment ends up with.
"""

import ast
import dataclasses
import enum
import inspect
import io
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from icon_repro.config.load import Config
from icon_repro.methods.kinds import kinds, method

BEGIN = "<!-- keys: made by `python -m icon_repro.config.reference conf/README.md` -->"
END = "<!-- end of keys -->"
_ROOT = "Experiment"
_RANGES = {"above": "> {:g}", "at_least": ">= {:g}", "at_most": "<= {:g}", "below": "< {:g}"}


def reference() -> str:
    """The whole reference as Markdown."""
    shown: dict[type, str] = {}
    text = [*_tables(Config, _ROOT, shown)]
    for kind in kinds():
        options = method(kind).options
        text += _tables(options, f"methods.NAME, kind: {kind}", shown)
    return "\n".join(text)


def _tables(schema: type, title: str, shown: dict[type, str]) -> Iterator[str]:
    """A section for ``schema`` and, after it, for each group below it that has none yet."""
    shown[schema] = title
    yield f"### {title}\n"
    if about := _about(schema):
        yield f"{about}\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    meanings = dict(comments(schema))
    inner: list[tuple[type, str]] = []
    for field in dataclasses.fields(schema):
        if field.name == "kind" and "kind: " in title:
            continue
        hint = typing.get_type_hints(schema)[field.name]
        below = _group(hint)
        if below is not None:
            inner.append((below, shown.get(below) or _title(below, field.name, title)))
            name = _link(inner[-1][1], hint, below)
        else:
            name = f"`{_type(hint)}`"
        if below is not None and field.name not in meanings:
            meanings[field.name] = _about(below).partition(". ")[0].rstrip(".")
        rule = " and ".join(text.format(field.metadata[key]) for key, text in _RANGES.items() if key in field.metadata)
        meaning = "; ".join(part for part in (meanings.get(field.name, ""), rule) if part)
        yield f"| `{field.name}` | {name} | {_default(field)} | {_escaped(meaning)} |"
    yield ""
    for below, name in inner:
        if below not in shown:
            yield from _tables(below, name, shown)


def _about(schema: type) -> str:
    """What a schema's docstring says it is; empty where it has none."""
    text = inspect.getdoc(schema) or ""
    made = text.startswith(f"{schema.__name__}(")  # by dataclass, where there is none
    return "" if made else " ".join(text.split("\n\n")[0].split())


def _title(schema: type, name: str, above: str) -> str:
    return f"{name}: {schema.__name__}" if above == _ROOT else schema.__name__


def _link(title: str, hint: Any, group: type) -> str:
    """A Markdown link to the section with a title, as the type of a key."""
    anchor = re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")
    many = {list: "list of ", dict: "names to "}.get(typing.get_origin(hint), "")
    nothing = " or `null`" if type(None) in typing.get_args(hint) else ""
    return f"{many}[{group.__name__}](#{anchor}){nothing}"


def _group(hint: Any) -> type | None:
    """The dataclass that a type is, holds or may be."""
    for one in (hint, *typing.get_args(hint)):
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
    return None


def _type(hint: Any) -> str:
    """A type as people write it: an enumeration by its values."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _type(one) for one in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"names to {_type(inner[1])}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ", ".join(str(member.value) for member in hint)
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}.get(
        getattr(hint, "__name__", ""), "any"
    )


def _default(field: "dataclasses.Field[Any]") -> str:
    """The default as YAML writes it; ``required`` where there is none."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "as there"
    value = value.value if isinstance(value, enum.Enum) else value
    words = {None: "null", True: "true", False: "false", "": '""'}
    shown = words[value] if value is None or (isinstance(value, (bool, str)) and value in words) else value
    shown = f"{shown:g}" if isinstance(shown, float) else str(shown)
    return f"`{_escaped(shown)}`"


def _escaped(text: str) -> str:
    """As the text of a cell: in YAML's words, with code as Markdown has it."""
    text = text.replace("``", "`").replace("|", r"\|").replace("\n", r"\n")
    return re.sub(r"\bNone\b", "null", re.sub(r"<(?=[a-z/])", "&lt;", text))


@cache
def comments(schema: type) -> dict[str, str]:
    """The comments of each field of a dataclass, and of the values of an enumeration in it."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if dataclasses.is_dataclass(base) or issubclass(base, enum.Enum):
            found |= _of_class(base)
    if dataclasses.is_dataclass(schema):
        for name, hint in typing.get_type_hints(schema).items():
            for one in (hint, *typing.get_args(hint)):
                if isinstance(one, type) and issubclass(one, enum.Enum) and (values := _of_class(one)):
                    listed = "; ".join(
                        f"{one[value].value}: {text}" for value, text in values.items() if value in one.__members__
                    )
                    found[name] = "; ".join(part for part in (found.get(name, ""), listed) if part)
    return found


def _of_class(schema: type) -> dict[str, str]:
    """Comments on and right above the lines of each field or member."""
    source = textwrap.dedent(inspect.getsource(schema))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    notes = {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}
    alone = {number for number, line in enumerate(source.splitlines(), start=1) if line.lstrip().startswith("#")}
    (body,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    found: dict[str, str] = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        else:
            continue
        first = node.lineno
        while first - 1 in alone:
            first -= 1
        texts = [notes[line] for line in range(first, (node.end_lineno or node.lineno) + 1) if line in notes]
        if texts:
            found[name] = " ".join(texts)
    return found


def renewed(page: str) -> str:
    """A page with the reference as it is now between its two markers.

    Raises:
        ValueError: the page lacks a marker.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN!r} or {END!r} after it")
    return f"{head}{BEGIN}\n\n{reference()}\n{END}{tail}"


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
