"""Read the arguments of a command before Hydra does, and say of each that is wrong how it is written.

In: ``key=value`` arguments and flags.  Out: the same in Hydra's words, or one error with all problems.
Advice in a message is an argument that works when it is typed as it stands there.
"""

import dataclasses
import difflib
import re
import shlex
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException

from icon_repro.config.actions import Action
from icon_repro.config.load import Config, ConfigError
from icon_repro.config.methods_named import name_methods, parsed_argument
from icon_repro.engine.schema import nearest, without_none

_FLAGS = "--help --hydra-help --version --cfg --resolve --package --run --multirun --shell-completion --config-path"
_LONG = [*_FLAGS.split(), "--config-name", "--config-dir", "--experimental-rerun", "--info"]
_SHORT = ["-h", "-c", "-p", "-r", "-m", "-sc", "-cp", "-cn", "-cd", "-i"]
_KEY = r"[+~]{0,2}[\w.@/-]+"


def open_overrides(arguments: Sequence[str], conf: Path) -> list[str]:
    """Let every ``key=value`` through Hydra, so that ``load`` can report all mistyped keys at once.

    Hydra stops at the first unknown key without naming its neighbours; ``++key=value`` sets it whether or not it is
    known. Overrides of config groups, of hydra itself, and those that already add or delete stay as they are, but for
    those of methods (``name_methods``). They all come first: Hydra takes none after a flag that stands between them.

    Raises:
        ConfigError: all that can't be read, and unknown options of groups, each with the nearest one.
    """
    problems = [*_unknown_flags(arguments), *_unreadable(arguments, conf)]
    if not problems:
        arguments, problems = name_methods(arguments, conf)
    opened, others = list[str](), list[str]()
    own_conf = any(a.startswith(("--config-dir", "-cd", "--config-path", "-cp")) for a in arguments)
    sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    for argument in arguments:
        override = parsed_argument(argument)
        if override is None:
            others.append(argument)
            continue
        ours = not override.key_or_group.startswith("hydra")
        group = conf / override.key_or_group
        if ours and group.is_dir() and not own_conf:
            problems += _unknown_options(override, argument, group)
        if ours and not group.is_dir():
            problems += _no_mapping(override, argument)
        bare = ours and not group.is_dir() and override.type is OverrideType.CHANGE
        if bare:
            problems += _misnamed_group(override, argument, conf)
        if ours and not sweep and isinstance(override.value(), ChoiceSweep):
            problems.append(_several(override, argument))
        opened.append(f"++{argument}" if bare else argument)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return [*opened, *others]


def _unknown_flags(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag in ("--config-name", "-cn") and value != "config":
            yield f"{argument}: an experiment is named by experiment={value or 'NAME'}; action=plan shows what it does."
        if (
            not flag.startswith("-")
            or flag in _SHORT
            or any(known.startswith(flag) for known in _LONG if len(flag) > 2)
        ):
            continue
        near = difflib.get_close_matches(f"--{flag.lstrip('-')}", _LONG, 1)
        yield f"{argument}: no such flag. " + (f"Did you mean {near[0]}?" if near else "--help shows what there is.")


def _unreadable(arguments: Sequence[str], conf: Path) -> Iterator[str]:
    """What Hydra can't read, with how it is written so that the shell and Hydra take it."""
    values = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}
    values |= {"--experimental-rerun", "--info", "-i", "--shell-completion", "-sc"}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument in values and left and "=" not in left[0]:
            left.pop(0)
        if argument.startswith("-") or parsed_argument(argument) is not None:
            continue
        whole = [argument]
        while left and _is_open(" ".join(whole)) and "=" not in left[0]:  # the shell has cut a list at its spaces
            whole.append(left.pop(0))
        joined = " ".join(whole)
        if len(whole) > 1 and parsed_argument(joined) is not None:
            yield f"{joined}: a value with spaces is quoted: {shlex.quote(joined)}"
        elif quoted := _quoted(argument):
            yield f"{argument}: can't be read. A value with such signs is quoted: {quoted}"
        elif _is_open(argument):
            yield f"{argument}: can't be read: a bracket isn't closed. A list is written [1,2], without spaces."
        elif "=" not in argument:
            yield f"{argument}: isn't key=value.{_meant(argument, conf)}"
        else:
            yield f"{argument}: can't be read. Arguments are key=value; --help has examples."


def _is_open(argument: str) -> bool:
    return any(argument.count(left) > argument.count(right) for left, right in ("[]", "{}"))


def _meant(word: str, conf: Path) -> str:
    """What a word without a value may stand for."""
    experiments = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    actions = [action.value for action in Action]
    for key, names in (("action", actions), ("experiment", experiments)):
        if near := difflib.get_close_matches(word, names, 1, 0.7):
            return f" Did you mean {key}={near[0]}?"
    return f" Give it a value: {word}=VALUE; --help has examples."


def _unknown_options(override: Override, argument: str, group: Path) -> Iterator[str]:
    options = {path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")}
    value = override.value()
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        if isinstance(choice, str) and choice not in options:
            asked = f"{override.key_or_group}={choice}" if override.package is None else argument
            yield f"{asked}: no such option.{_own(override.key_or_group, choice) or nearest(choice, options)}"


def _own(group: str, value: str) -> str:
    """How a model or data of one's own are named; empty if ``value`` is neither a path nor a hub's name."""
    if group == "model" and ("/" in value or Path(value).exists()):
        name = re.sub(r"[^A-Za-z0-9_.]+", "_", Path(value).name).strip("_.") or "mine"
        if value[0] in "/.~" or Path(value).exists():
            return f" A model of yours: model.kind=local model.name={name} model.path={value}"
        return f" A model of the hub: model.kind=hub model.name={name} model.hub_id={value} model.revision=main"
    if group == "data" and ("/" in value or Path(value).exists()):
        if Path(value).suffix or value[0] in "/.~":
            return f" Rows of yours: data.pool.source.kind=file data.pool.source.path={value}"
        rows = "data.pool.source"
        return f" Rows of the hub: {rows}.kind=hub {rows}.path=null {rows}.hub_id={value} {rows}.revision=main"
    return ""


def _no_mapping(override: Override, argument: str) -> Iterator[str]:
    """A value or a list in the place of settings, each with a name."""
    key, kind, value = override.key_or_group, _kind(override.key_or_group), override.value()
    if key == "methods" or override.is_delete() or value is None or isinstance(value, (dict, ChoiceSweep)):
        return
    if isinstance(value, str) and value.startswith("${"):  # settings that stand elsewhere
        return
    names = [str(one) for one in (value if isinstance(value, list) else [value])]
    if key == "evaluation.tasks":
        task = f"{{kind: lm_eval, task: {names[0] if names else 'NAME'}, metric: acc}}"
        yield (
            f"{argument}: each task has settings. One of lm-eval's is added by "
            f"'+evaluation.tasks.{names[0] if names else 'NAME'}={task}', one is left out by ~evaluation.tasks.NAME."
        )
    elif kind is not _hint(key) and str(value).lower() in ("none", "false", "off"):
        yield f"{argument}: none is written {key}=null"
    elif dataclasses.is_dataclass(kind):
        inner = [f"{key}.{one.name}" for one in dataclasses.fields(kind)]
        more = ", .." if len(inner) > 6 else ""
        yield f"{argument}: has settings, each with a key of its own: {', '.join(inner[:6])}{more}."
    elif typing.get_origin(kind) is dict:
        yield f"{argument}: has names of yours, each with a value: {key}.NAME=VALUE."


def _misnamed_group(override: Override, argument: str, conf: Path) -> Iterator[str]:
    """A mistyped name of a group; ``load`` knows the names of keys only."""
    key, groups = override.key_or_group, [path.name for path in conf.iterdir() if path.is_dir()]
    fields = [one.name for one in dataclasses.fields(Config)]
    near = difflib.get_close_matches(key, [*groups, *fields], 1, 0.7)
    if "." not in key and key not in fields and near and near[0] in groups and near[0] not in fields:
        yield f"{argument}: unknown key. Did you mean {near[0]}={argument.partition('=')[2]}?"


def _several(override: Override, argument: str) -> str:
    """What ``key=a,b`` without -m may mean."""
    key, _, value = argument.partition("=")
    kind = _kind(key)
    if typing.get_origin(kind) is list:
        return f"{argument}: a list has brackets: {key}=[{value}]."
    if kind is str and (quoted := _quoted(argument)):
        return f"{argument}: a value with a comma is quoted: {quoted}"
    if kind is None and key.startswith("methods."):
        return f"{argument}: a list has brackets: {key}=[{value}]; to run once for each value, add -m."
    return f"{argument}: is several values. To run once for each, add -m: -m {argument}"


def _kind(key: str) -> Any:
    """The type of a key's value, without None; None where the schema doesn't tell."""
    kind = without_none(_hint(key))
    return None if kind is Any else kind


def _hint(key: str) -> Any:
    """The type of a key's value as the schema has it."""
    hint: Any = Config
    for part in key.lstrip("+").split("."):
        kind = without_none(hint)
        if typing.get_origin(kind) is dict:
            hint = typing.get_args(kind)[1]
        else:
            hint = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return hint


def _quoted(argument: str) -> str | None:
    """How the shell and Hydra take ``key=value`` with any value; None if that isn't what it is."""
    key, sign, value = argument.partition("=")
    if not sign or not re.fullmatch(_KEY, key) or value[:1] in ("'", '"'):
        return None
    if value[:1] in ("[", "{") and _kind(key) is not str:
        return None
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    try:
        OverridesParser.create().parse_override(f'{key}="{escaped}"')
    except HydraException:
        return None
    return shlex.quote(f'{key}="{escaped}"')
