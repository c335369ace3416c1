"""Find methods by their kind, check their files, and read their options.

In: the name of a file in ``icon_repro.methods``, or the path of one elsewhere.  Out: its ``METHOD``; or what is wrong
with the file: file and line, what is expected, an example.
Known gap: a file is executed when it is read, so a plan with ``kind: external`` runs the top level of that file.
"""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from icon_repro.engine.schema import SchemaError, build, nearest
from icon_repro.methods.base import Method, Setting, place_of

_FOLDER = Path(__file__).parent
_PACKAGE = "icon_repro.methods"
_DEFINED = re.compile(r"^METHOD\b", re.MULTILINE)
EXAMPLE = """
    @dataclass
    class LengthOptions(Options):
        sign: int = 1

    def plan(build, name, options):
        return build.step(run, name, options, {"candidates": build.universe})

    def run(options: LengthOptions, inputs, out, runtime):
        rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)
        scores = [Score(row.id, options.sign * float(len(row.response))) for row in rows]
        return {**write_scores(out, scores, {}), "tokens": 0, "flops": 0}

    METHOD = Method(LengthOptions, plan, meaning="characters of the response")
"""


class MethodError(ValueError):
    """A file doesn't hold a method."""


def kinds() -> list[str]:
    """The kinds that the package has: its files, and folders, that define METHOD."""
    files = {path.stem: path for path in _FOLDER.glob("*.py")} | {
        path.parent.name: path for path in _FOLDER.glob("*/__init__.py")
    }
    return sorted(kind for kind, path in files.items() if defines_method(path))


def defines_method(path: Path) -> bool:
    """Whether a file assigns METHOD at its top level; it isn't executed for that."""
    return bool(_DEFINED.search(path.read_text(encoding="utf-8", errors="replace")))


def method(kind: str) -> Method:
    """The method of a kind.

    Raises:
        MethodError: there is none, or its file is wrong.
    """
    head = _FOLDER / kind / "__init__.py"
    path = head if head.is_file() else _FOLDER / f"{kind}.py"
    if not kind.isidentifier() or not path.is_file():
        raise MethodError(f"unknown method.{nearest(kind, kinds())}")
    return _built_in(kind, path)


@cache
def _built_in(kind: str, path: Path) -> Method:
    if not defines_method(path):
        raise MethodError(f"{path}:1: defines no METHOD.{nearest(kind, kinds())} {_expected()}")
    try:
        module = importlib.import_module(f"{_PACKAGE}.{kind}")
    except Exception as error:
        raise MethodError(f"{place(error, path)}: can't be imported ({described(error)}). {_expected()}") from error
    return checked(module, path)


def imported(path: Path) -> ModuleType:
    """A file outside the package, executed anew as a module of its own.

    Raises:
        MethodError: it isn't a Python file, or raises; says the line.
    """
    name = f"icon_repro_external_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise MethodError(f"{path.name}: isn't a Python file; give one whose name ends with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a module up by its name
    for folder in (path.absolute().parent, Path.cwd()):  # for what it imports from there
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last: no module there stands for a library
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MethodError(f"{place(error, path)}: can't be imported ({described(error)}).") from error
    return module


def beside(path: Path) -> dict[str, Path]:
    """The files of one's own that a file imports by name, and those that they import: name -> path.

    They lie in the folder of the file, or in the working folder; of a package all files count. Nothing is executed.
    """
    folders = [path.absolute().parent, Path.cwd()]
    known: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        for name in _imports(waiting.pop()) - sys.stdlib_module_names - {_PACKAGE.partition(".")[0]}:
            for folder in folders:
                package = sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else []
                for file in [folder / f"{name}.py", *package]:
                    key = file.relative_to(folder).as_posix()
                    if file.is_file() and key not in known and file != path.absolute():
                        known[key] = file
                        waiting.append(file)
    return dict(sorted(known.items()))


def _imports(path: Path) -> set[str]:
    """First names of the modules that a file's text imports; none if it isn't Python, which is said elsewhere."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    nodes = list(ast.walk(tree))
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in named}


def described(error: BaseException) -> str:
    """Class and first line of an error."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def place(error: BaseException, path: Path) -> str:
    """File and line at which ``error`` left the code of ``path``."""
    its_file = str(path.absolute())
    if isinstance(error, SyntaxError) and error.filename == its_file:
        return f"{path.name}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == its_file]
    return f"{path.name}:{lines[-1]}" if lines else path.name


def _expected() -> str:
    return f"Expected is a file such as{EXAMPLE}(icon_repro/methods/README.md, 'To build one in'; methods/longest.py)"


def checked(module: ModuleType, path: Path) -> Method:
    """The METHOD of a file.

    Raises:
        MethodError: it isn't one, or its parts can't be used together.
    """
    loaded = getattr(module, "METHOD", None)
    line = next((n for n, text in enumerate(path.read_text("utf-8").splitlines(), 1) if _DEFINED.match(text)), 1)
    if not isinstance(loaded, Method):
        raise MethodError(f"{path.name}:{line}: METHOD is {loaded!r}, not a Method(...). {_expected()}")
    options, where = loaded.options, f"{path.name}:{line}"
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise MethodError(f"{where}: options {options!r} of METHOD isn't a dataclass. {_expected()}")
    fields = {item.name for item in dataclasses.fields(options)}
    if untyped := sorted(
        name
        for name, value in vars(options).items()
        if not name.startswith("_") and name not in fields and not callable(value) and not hasattr(value, "__get__")
    ):
        raise MethodError(
            f"{where}: {options.__name__}.{untyped[0]} has no type, so it can't be set; write e.g. "
            f"{untyped[0]}: {type(getattr(options, untyped[0])).__name__} = {getattr(options, untyped[0])!r}."
        )
    try:
        typing.get_type_hints(options)
    except (NameError, TypeError) as error:
        raise MethodError(f"{where}: the types of {options.__name__} can't be read ({error}).") from error
    if "kind" not in fields:
        raise MethodError(f"{where}: {options.__name__} has no field kind; derive it from Options. {_expected()}")
    calls = {"plan": 3, "problems": 3, "resolve": 1, **({"reseed": 2} if loaded.reseed else {})}
    for name, count in calls.items():
        _check_call(where, name, getattr(loaded, name), count)
    if not callable(loaded.meaning) and not (isinstance(loaded.meaning, str) and loaded.meaning):
        raise MethodError(f"{where}: meaning={loaded.meaning!r} of METHOD must say in one clause what a score is.")
    if loaded.reseed is not None and not hasattr(options, "repeats"):
        raise MethodError(
            f"{where}: METHOD has reseed, but {options.__name__} no field repeats: add repeats: int = repeats_field()."
        )
    return loaded


_CALLS = {
    "plan": "plan(build, name, options)",
    "problems": "problems(where, options, setting)",
    "resolve": "resolve(options)",
    "reseed": "reseed(options, number)",
}


def _check_call(where: str, name: str, function: Any, count: int) -> None:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        raise MethodError(
            f"{where}: {name}={function!r} (at {place_of(function)}) of METHOD must be a function {_CALLS[name]} "
            f"({error}). {_expected()}"
        ) from error


def method_of(options: Any) -> Method:
    """The method that ``options`` are of."""
    return method(options.kind)


def typed(where: str, value: Any) -> Any:
    """The options of a method as its file has them typed.

    Args:
        where: key of the method.
        value: a mapping with the key ``kind``.

    Raises:
        SchemaError: an unknown kind, a file that is wrong, or all problems of the values.
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str):
        raise SchemaError([f"{where}.kind={kind!r}: unknown method.{nearest(str(kind), kinds())}"])
    try:
        its_method = method(kind)
    except MethodError as error:
        raise SchemaError([f"{where}.kind={kind!r}: {error}"]) from error
    return typed_options(its_method, value, where, f"kind {kind}")


def typed_options(found: Method, value: Any, where: str, what: str) -> Any:
    """``value`` as options of the method ``found``.

    Raises:
        SchemaError: all problems of the values; ``repeats`` of a method that can't be repeated.
    """
    problems = []
    if found.reseed is None and isinstance(value, Mapping) and "repeats" in value:
        problems.append(
            f"{where}.repeats={value['repeats']}: {what} has no seed (no reseed in its METHOD), so each repeat would "
            "be the same selection; remove repeats."
        )
        value = {key: item for key, item in value.items() if key != "repeats"}
    try:
        options: Any = build(found.options, value, where)
    except SchemaError as error:
        raise SchemaError([*problems, *error.problems]) from error
    if problems:
        raise SchemaError(problems)
    return options


def problems_of(name: str, options: Any, setting: Setting) -> list[str]:
    """What no single value of a method's options shows."""
    return method_of(options).problems(f"methods.{name}", options, setting)


def repetitions(options: Any) -> list[tuple[int | None, Any]]:
    """The methods that ``repeats`` asks for, each with the seed of its selection: from its own seed on.

    Returns:
        One pair with the seed None for a method that isn't repeated.
    """
    repeats = getattr(options, "repeats", 1)
    reseed = method_of(options).reseed
    if repeats == 1 or reseed is None:
        return [(None, options)]
    return [reseed(options, number) for number in range(repeats)]
