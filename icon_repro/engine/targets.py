"""Name the function of each step, and say where it lives today.

A step's target, for instance "icon_repro.select:run", is a name: fingerprints, stored records and the specs of queued
jobs hold it, so it never changes. It began as the import path of the function. When the function moves, MOVED says
where to; a target that MOVED doesn't name is still an import path.
In: a target.  Out: the function, imported.
Known gap: ``engine.task`` itself is named in the batch scripts of queued jobs; it must stay where it is.
"""

import ast
import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

# key in the plan -> target and version, of steps that no method's file plans. Raise the version when the meaning of
# the output changes: results of the old one are then rebuilt
TARGETS = {
    "model": ("icon_repro.data.weights:run", 1),
    "rows": ("icon_repro.data.prepare:run", 1),
    "order": ("icon_repro.data.candidates:run", 1),
    "candidates": ("icon_repro.data.candidates:head", 1),
    "benchmark": ("icon_repro.data.benchmark:run", 1),
    "benchmark_rows": ("icon_repro.evaluate.benchmark_rows:run", 1),
    "select": ("icon_repro.select:run", 2),  # 2: the fraction is of all rows, not of those that have a score
    "row_tokens": ("icon_repro.row_tokens:run", 1),
    "train": ("icon_repro.train:run", 1),
    "evaluate": ("icon_repro.evaluate:run", 1),
    "shared_text": ("icon_repro.shared_text:run", 1),
    "judge_answers": ("icon_repro.judge.answers:run", 1),
    # 2: a reply that others than the model ended is no answer
    "judge_served": ("icon_repro.judge.answers:served", 2),
    "judge_reference": ("icon_repro.judge.answers:reference", 1),
    # 2: numbers after other words and a colon aren't scores; a reason or sentence may follow them
    # 3: thoughts are taken away before a reply is read, a reply that was cut isn't read, nor are decimal commas
    # 4: scores that a later line takes back, denied verdicts; endpoint: replies that others than the model ended;
    # local: control tokens in what is judged are letters, and templates write the same date on every day
    "judge_endpoint": ("icon_repro.judge.pairwise:endpoint", 4),
    "judge_local": ("icon_repro.judge.local:run", 4),
    "judge_nll": ("icon_repro.judge.likelihood:run", 1),
    "judge_pooled": ("icon_repro.judge.pairwise:pooled", 1),
    "held_out": ("icon_repro.held_out:run", 1),
    "held_out_rows": ("icon_repro.held_out:facts", 1),
}


# target, as fingerprints hold it -> "module:function" of today
MOVED: dict[str, str] = {
    "icon_repro.evaluate:run": "icon_repro.evaluate.step:run",
    "icon_repro.held_out:facts": "icon_repro.evaluate.held_out:facts",
    "icon_repro.held_out:run": "icon_repro.evaluate.held_out:run",
    "icon_repro.judge.answers:reference": "icon_repro.evaluate.judge.answers:reference",
    "icon_repro.judge.answers:run": "icon_repro.evaluate.judge.answers:run",
    "icon_repro.judge.answers:served": "icon_repro.evaluate.judge.answers:served",
    "icon_repro.judge.likelihood:run": "icon_repro.evaluate.judge.likelihood:run",
    "icon_repro.judge.local:run": "icon_repro.evaluate.judge.local:run",
    "icon_repro.judge.pairwise:endpoint": "icon_repro.evaluate.judge.pairwise:endpoint",
    "icon_repro.judge.pairwise:pooled": "icon_repro.evaluate.judge.pairwise:pooled",
    "icon_repro.methods.diversity:run": "icon_repro.methods.ifd.diversity:run",
    "icon_repro.methods.diversity:share": "icon_repro.methods.ifd.diversity:share",
    "icon_repro.methods.less:run": "icon_repro.methods.less.projected:run",
    "icon_repro.methods.less:shard": "icon_repro.methods.less.projected:shard",
    "icon_repro.methods.less_exact:means": "icon_repro.methods.less.exact:means",
    "icon_repro.methods.less_exact:run": "icon_repro.methods.less.exact:run",
    "icon_repro.methods.less_exact:shard": "icon_repro.methods.less.exact:shard",
    "icon_repro.methods.pre_experienced:run": "icon_repro.methods.ifd.pre_experienced:run",
    "icon_repro.row_tokens:run": "icon_repro.methods.row_tokens:run",
    "icon_repro.select:run": "icon_repro.methods.select:run",
    "icon_repro.shared_text:run": "icon_repro.evaluate.shared_text:run",
    "icon_repro.train:run": "icon_repro.train.step:run",
}


class TargetError(LookupError):
    """This version of the code has no function for a target."""


def target_of(function: Callable[..., Any]) -> str:
    """The target of a function of this package: its import path, or the name that it had before it moved.

    Raises:
        TargetError: it isn't one of this package, so that a worker wouldn't find it.
    """
    path = f"{function.__module__}:{function.__name__}"
    if not path.startswith("icon_repro."):
        raise TargetError(f"{path}: isn't a function of icon_repro; define the step in the method's own file.")
    return next((target for target, place in MOVED.items() if place == path), path)


def module_of(target: str) -> str:
    """Name of the module that holds the function of ``target`` today."""
    return MOVED.get(target, target).partition(":")[0]


@cache
def imported_late(module: str) -> tuple[str, ...]:
    """Names of the modules that functions of ``module`` import when they are called; nothing is imported here."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ()
    names: dict[str, None] = {}
    for function in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names[node.module] = None
                elif isinstance(node, ast.Import):
                    names |= dict.fromkeys(alias.name for alias in node.names)
    return tuple(names)


def function_of(target: str) -> Callable[..., Any]:
    """The function of ``target``, imported from where it lives today.

    Raises:
        TargetError: there is none. A module that the function's own module imports and that isn't installed is an
            ImportError as ever.
    """
    module, _, name = MOVED.get(target, target).partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise TargetError(f"target {target!r}: this version of the code has no module {error.name!r}.") from error
    except AttributeError as error:
        if error.name != name or getattr(error.obj, "__name__", None) != module:
            raise
        raise TargetError(f"target {target!r}: this version of the code has no {name!r} in {module!r}.") from error
    return function
