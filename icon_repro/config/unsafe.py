"""Refuse what a foreign configuration may use to reach beyond itself: keys that make objects, ids that are paths.

In: the composed config as it is given, nested dicts; folders of YAML files that the command line names.  Out: problems,
each with its key or file.
Nothing here makes objects from a configuration: such a key does nothing, and is refused so that nobody relies on it.
Hydra itself does make some, of what stands under ``hydra`` in any file that it reads.
Known gap: ``hydra.*`` on the command line, and files in conf/, are as trusted as code.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_HYDRA = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
_FORMS = {
    "hub_id": (
        re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII),
        "like org/name; a folder or file is given by its kind and path",
    ),
    "revision": (re.compile(r"\w[\w./-]*", re.ASCII), "a commit, branch or tag, without '..'"),
}


def unsafe(value: Any, where: str = "") -> list[str]:
    """Problems of ``value`` and all that it holds."""
    problems = []
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{where}={value}: must be a finite number; a text of these letters is quoted.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{where}.{key}" if where else str(key)
            if key in _HYDRA:
                problems.append(f"{place}: tells Hydra to make an object; nothing is made that way here. Remove it.")
            elif key in _FORMS and isinstance(inner, str):
                form, rule = _FORMS[key]
                if not form.fullmatch(inner) or ".." in inner:
                    problems.append(f"{place}={inner!r}: must be {rule}.")
            problems += unsafe(inner, place)
    elif isinstance(value, list):
        problems += [problem for i, inner in enumerate(value) for problem in unsafe(inner, f"{where}[{i}]")]
    return problems


def unsafe_files(arguments: Sequence[str]) -> list[str]:
    """Problems of the YAML files in folders that ``--config-dir`` or ``--config-path`` add, before Hydra reads them."""
    folders = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd", "--config-path", "-cp"):
            folders.append(Path(value if equals else following))
    problems = []
    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
        try:
            problems += [f"{path}: {problem}" for problem in unsafe(yaml.safe_load(path.read_bytes()))]
        except yaml.YAMLError as error:
            problems.append(f"{path}: not plain YAML ({' '.join(str(error).split())}). Remove tags such as !!python.")
    return problems
