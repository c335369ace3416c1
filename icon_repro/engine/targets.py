"""Where the function of each step lives today.

A step's target, for instance "icon_repro.select:run", is a name: fingerprints, stored records and the specs of queued
jobs hold it, so it never changes. It began as the import path of the function. When the function moves, MOVED says
where to; a target that MOVED doesn't name is still an import path.
In: a target.  Out: the function, imported.
Known gap: ``engine.task`` itself is named in the batch scripts of queued jobs; it must stay where it is.
"""

import importlib
from collections.abc import Callable
from typing import Any

# target, as fingerprints hold it -> "module:function" of today
MOVED: dict[str, str] = {}


class TargetError(LookupError):
    """This version of the code has no function for a target."""


def module_of(target: str) -> str:
    """Name of the module that holds the function of ``target`` today."""
    return MOVED.get(target, target).partition(":")[0]


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
