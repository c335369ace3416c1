"""Run a method from outside this package: a Python file with METHOD, or with a function ``score`` alone.

With METHOD the file is one like those in this folder (see ``icon_repro.methods.base``): it has shards, options with
types, seeds, a plan and a meaning, and moves into the package by a copy. Its options stand under ``options`` here.

The other form is a function. In: the rows that all methods rank, options from the config.  Out: scores.jsonl; rows
without a score in failures.jsonl.

    def score(rows, options, inputs, runtime):
        \"\"\"rows: list of icon_repro.data.rows.Example; returns {id: score}, higher is selected first.\"\"\"
        return {row.id: len(row.instruction) * options["sign"] for row in rows}

``inputs`` has the folders of the steps ``model``, ``candidates`` and ``assessment``; ``runtime`` device and progress.
Only the file knows what scoring costs: ``return scores, {"tokens": .., "flops": ..}`` says it, else it counts as 0.
The file's content is part of each step's fingerprint, and so is that of the modules beside it, or in the working
folder, that it imports by name. Modules from elsewhere are not: after a change there, change the file too.
Known gap: a plan executes a file with METHOD; one with ``score`` alone is executed when it scores.
"""

import ast
import inspect
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from icon_repro.data.planner import PlanError
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import SchemaError, build, plain, unhashed
from icon_repro.methods.base import Build, Method, Outside, OutsideStep, Setting
from icon_repro.methods.common.outcome import NoScoreError, write_scores
from icon_repro.methods.kinds import (
    MethodError,
    beside,
    checked,
    defines_method,
    described,
    imported,
    place,
    typed_options,
)


@dataclass
class ExternalConfig:
    """A method in a Python file of yours; see ``icon_repro.methods.external``."""

    kind: str = "external"
    path: str = unhashed("")  # hashed by content
    options: dict[str, Any] = field(default_factory=dict)  # what the file's function gets

    @property
    def repeats(self) -> int:
        """Of a file with METHOD: how many selections its options ask for. 1 where the file or they are wrong."""
        try:
            return int(getattr(_inside("", self)[1], "repeats", 1)) if _has_method(self.path) else 1
        except (MethodError, SchemaError):
            return 1


class ExternalError(ValueError):
    """The file has no such function, or its scores can't be used."""


def _module(path: Path) -> ModuleType:
    try:
        return imported(path)
    except MethodError as error:
        raise ExternalError(str(error)) from error


def _has_method(path: str) -> bool:
    file = Path(path).expanduser()
    return bool(path) and file.is_file() and defines_method(file)


def _loaded(path: str) -> tuple[ModuleType, Method]:
    """A file with METHOD, executed once for each state of the file."""
    file = Path(path).expanduser()
    state = file.stat()
    return _loaded_once(file, state.st_mtime_ns, state.st_size)


@cache
def _loaded_once(file: Path, changed: int, size: int) -> tuple[ModuleType, Method]:
    module = imported(file)
    return module, checked(module, file)


def _inside(where: str, options: ExternalConfig) -> tuple[Method, Any]:
    """The method of a file with METHOD, and its own options, typed.

    Raises:
        MethodError: the file is wrong.
        SchemaError: its options are.
    """
    method = _loaded(options.path)[1]
    return method, typed_options(method, options.options, f"{where}.options", Path(options.path).name)


def plan(builder: Build, name: str, options: ExternalConfig) -> Step | dict[float, Step]:
    """The file's own plan; or one step, which calls the file's function."""
    files = {"method": builder.planner.file(f"methods.{name}.path", options.path)}
    for key, path in beside(Path(options.path).expanduser()).items():
        files[f"beside.{key}"] = builder.planner.file(f"methods.{name}.path: {key}", str(path))
    if not _has_method(options.path):
        inputs = {"model": builder.model, "candidates": builder.universe, "assessment": builder.assessment}
        return builder.step(run, name, options, inputs, files=files)
    module = _loaded(options.path)[0]
    method, own = _inside(f"methods.{name}", options)
    builder.outside = Outside(module.__name__, files)
    try:
        scores = method.plan(builder, name, own)
    except PlanError:
        raise
    except Exception as error:
        where = place(error, Path(options.path).expanduser())
        raise PlanError(f"methods.{name}.path: {where}: plan() raised {described(error)}.") from error
    steps = list(scores.values()) if isinstance(scores, dict) else [scores]
    if not steps or not all(isinstance(step, Step) for step in steps):
        raise PlanError(
            f"methods.{name}.path: plan() of {Path(options.path).name} gave {scores!r}; it must give the step with the "
            "scores, e.g. return build.step(run, name, options, inputs), or one for each of build.fractions."
        )
    return scores


def problems(where: str, options: ExternalConfig, setting: Setting) -> list[str]:
    """The file must hold a method; its own check counts too. That it is there is for the plan to say."""
    if not options.path:
        return [f"{where}.path: kind external needs the path of a Python file."]
    if not _has_method(options.path):
        return _function_problems(where, Path(options.path).expanduser())
    try:
        method, own = _inside(where, options)
    except MethodError as error:
        return [f"{where}.path: {error}"]
    except SchemaError as error:
        return error.problems
    return method.problems(f"{where}.options", own, setting)


def _function_problems(where: str, file: Path) -> list[str]:
    """What is wrong with a file with ``score`` alone, as far as its text shows; it isn't executed for that."""
    if not file.is_file():
        return []  # the plan says so
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        return [f"{where}.path: {file.name}:{line}: isn't Python ({getattr(error, 'msg', error)})."]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    score = next((node for node in functions if node.name == "score"), None)
    if score is None and not any(_binds_score(node) for node in tree.body):
        there = f" It has {', '.join(node.name for node in functions)}." if functions else ""
        return [f"{where}.path: {file.name}:1: has no function {_FORM}, and no METHOD.{there} {_EXAMPLE}"]
    if score is not None and not _takes_four(score.args):
        return [f"{where}.path: {file.name}:{score.lineno}: score() must be {_FORM}. {_EXAMPLE}"]
    return []


def _binds_score(node: ast.stmt) -> bool:
    """Whether a statement of a file may make something of the name ``score``, otherwise than by ``def``."""
    if isinstance(node, ast.ImportFrom):
        return any((name.asname or name.name) in ("score", "*") for name in node.names)
    return any(
        (isinstance(one, ast.Name) and one.id == "score" and isinstance(one.ctx, ast.Store))
        or (isinstance(one, ast.FunctionDef) and one.name == "score")
        for one in ast.walk(node)
    )


def _takes_four(given: ast.arguments) -> bool:
    places = len(given.posonlyargs) + len(given.args)
    required = [one for one in given.kw_defaults if one is None]
    return not required and places - len(given.defaults) <= 4 and (places >= 4 or given.vararg is not None)


def meaning(options: ExternalConfig) -> str:
    if not _has_method(options.path):
        return "what the function `score` of a file of one's own returned"
    method, own = _inside("", options)
    return method.meaning_of(own)


def reseed(options: ExternalConfig, number: int) -> tuple[int, ExternalConfig]:
    """As the file does it."""
    method, own = _inside("", options)
    assert method.reseed is not None  # else its options have no repeats
    seed, seeded = method.reseed(own, number)
    return seed, replace(options, options={k: v for k, v in plain(seeded).items() if k != "kind"})


def step(cfg: OutsideStep, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Call a step of the file; needs files["method"].

    Raises:
        ExternalError: the step raised; says file and line.
    """
    path = runtime.files["method"]
    function = getattr(_module(path), cfg.function)
    kind = next(iter(typing.get_type_hints(function).values()))
    try:
        metrics = function(build(kind, cfg.params), inputs, out, runtime)
    except NoScoreError:
        raise
    except Exception as error:
        raise ExternalError(f"{place(error, path)}: {cfg.function}() raised {described(error)}.") from error
    if not isinstance(metrics, dict) or not {"tokens", "flops"} <= metrics.keys():
        raise ExternalError(
            f"{path.name}: {cfg.function}() returned {metrics!r}; it must return a dict with tokens and flops, e.g. "
            'return {**write_scores(out, scores, reasons), "tokens": 0, "flops": 0}.'
        )
    return metrics


_FORM = "score(rows, options, inputs, runtime)"


def run(cfg: ExternalConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs["candidates"], files["method"]."""
    path = runtime.files["method"]
    function = getattr(_module(path), "score", None)
    if not callable(function):
        raise ExternalError(f"{path.name}:1: has no function {_FORM}, and no METHOD. {_EXAMPLE}")
    try:
        inspect.signature(function).bind(*range(4))
    except TypeError as error:
        line = getattr(getattr(function, "__code__", None), "co_firstlineno", 1)
        raise ExternalError(f"{path.name}:{line}: score() must be {_FORM} ({error}). {_EXAMPLE}") from error
    rows = sorted(read_rows(inputs["candidates"] / "rows.jsonl", Example), key=lambda row: row.id)
    try:
        given = function(rows, dict(cfg.options), dict(inputs), runtime)
    except Exception as error:
        raise ExternalError(f"{place(error, path)}: score() raised {described(error)}.") from error
    given_scores, cost = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
    if not isinstance(given_scores, Mapping):
        raise ExternalError(
            f"{path.name}: score() gave {type(given_scores).__name__}; it must give a dict of id to score."
        )
    if unknown := sorted(set(given_scores) - {row.id for row in rows}, key=str):
        raise ExternalError(f"{path.name}: score() gave {len(unknown)} ids that no row has (first: {unknown[0]!r}).")
    cost = _cost(path.name, cost)
    scores, reasons = list[Score](), dict[str, str]()
    for row in rows:
        value = given_scores.get(row.id)
        if value is None:
            reasons[row.id] = "no score given"
            continue
        try:
            score = float(value) if hasattr(value, "__float__") else None
        except (TypeError, ValueError, OverflowError):  # an array of several, an integer that is too large
            score = None
        if score is None:
            shown = repr(value)[:100]
            raise ExternalError(f"{path.name}: score() gave {row.id!r} the score {shown}; it must be one number.")
        if not math.isfinite(score):
            reasons[row.id] = "score isn't finite"
        else:
            scores.append(Score(row.id, score))
    return {**write_scores(out, scores, reasons), **cost}


def _cost(name: str, given: Any) -> dict[str, float]:
    """Tokens and operations as the file states them; 0 where it doesn't."""
    if not isinstance(given, Mapping) or set(given) - {"tokens", "flops"}:
        raise ExternalError(f"{name}: score() gave the cost {given!r}; it must be a dict of tokens and flops.")
    if bad := [key for key, v in given.items() if not isinstance(v, (int, float)) or not 0 <= v < math.inf]:
        raise ExternalError(f"{name}: score() gave {bad[0]}={given[bad[0]]!r}; it must be a number, not negative.")
    return {"tokens": 0, "flops": 0, **given}


_EXAMPLE = "Example: def score(rows, options, inputs, runtime): return {row.id: len(row.response) for row in rows}"
METHOD = Method(ExternalConfig, plan, meaning, problems, reseed)
