"""Let the command line name an experiment's methods: ``methods=[random,less,icon]``.

In: the arguments of a command.  Out: the same in Hydra's words, or problems, each with an argument that works.
Hydra adds a method with ``+method@methods.NAME=OPTION``, only if there is none of that name, replaces one without the
``+``, and leaves one out with ``~methods.NAME``. Which of these it takes the experiment decides, so it is composed
once more, if an argument is about methods at all.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from icon_repro.engine.schema import nearest

_BY_METHOD = ("more_fractions", "judge.opponents", "judge.references_at")  # mappings by names of methods
_PACKAGE = re.compile(r"method@methods\.(?P<name>[^.=]+)")
_ONE = re.compile(r"methods\.(?P<name>[^.=]+)")


@dataclass
class _Methods:
    """The methods of an experiment, and those that could be added."""

    chosen: Mapping[str, str | None]  # name -> its file in conf/method; None: the experiment spells it out
    options: set[str]  # files in conf/method
    beside: Mapping[str, Sequence[str]]  # name -> keys of the experiment, besides methods, that are settings of it
    spelled_out: set[str]  # by other arguments: methods.NAME={kind: ...}
    problems: list[str] = field(default_factory=list)

    def named(self, argument: str, override: Override) -> list[str]:
        """``methods=[...]`` as additions and deletions."""
        if override.is_delete() and self.spelled_out:  # ~methods: all of them, in place of which others are spelled out
            return [argument]
        value = override.value()
        if isinstance(value, ChoiceSweep):
            text = argument.partition("=")[2]
            lists = any(isinstance(one, list) for one in value.list)
            why = "run the command once for each list" if lists else f"a list has brackets: methods=[{text}]"
            self.problems.append(f"{argument}: {why}.")
            return []
        names = [value] if isinstance(value, str) and value else value
        if isinstance(names, dict) and names:
            return [f"++{argument.lstrip('+')}"]  # settings of each by its name
        if not isinstance(names, list) or not names:
            every = ",".join(self.chosen)
            self.problems.append(
                f"{argument}: an experiment needs a method. Name those that you want: methods=[{every}] has all of "
                "this experiment."
            )
            return []
        known = self.options | set(self.chosen) | self.spelled_out
        for name in names:
            if name not in known:
                self.problems.append(f"{argument}: no method {name!r}.{nearest(str(name), known)}")
        if len(set(map(str, names))) < len(names):
            once = ",".join(dict.fromkeys(map(str, names)))
            self.problems.append(f"{argument}: a method is named twice; methods=[{once}] names each once.")
        new = self.options - set(self.chosen) - self.spelled_out
        added = [f"+method@methods.{name}={name}" for name in names if name in new]
        gone = [name for name in self.chosen if name not in names]
        return [*added, *(removed for name in gone for removed in self._removed(name))]

    def placed(self, argument: str, override: Override, name: str) -> list[str]:
        """``method@methods.NAME=OPTION``, with ``+``, ``~`` or nothing before it."""
        if override.is_delete():
            return self.deleted(argument, name)
        option = override.value()
        plain = f"method@methods.{name}={option}"
        if name not in self.chosen:
            return [f"+{plain}"]
        there = self.chosen[name]
        if override.is_add() and there != option:
            self.problems.append(
                f"{argument}: the experiment has a method {name!r} already ({there or 'spelled out in its file'}). "
                f"{plain} replaces it; another name adds one: +method@methods.{name}_2={option}."
            )
        return [plain if there is not None else f"+{plain}"]

    def deleted(self, argument: str, name: str) -> list[str]:
        if name not in self.chosen:
            self.problems.append(f"{argument}: the experiment has no method {name!r}.{nearest(name, self.chosen)}")
            return []
        return self._removed(name)

    def _removed(self, name: str) -> list[str]:
        """A method goes with all settings of it, which ``~method@`` leaves."""
        return [f"~methods.{name}", *(f"~{key}" for key in self.beside.get(name, ()))]

    def group(self, argument: str, override: Override) -> None:
        """``method=OPTION``, which says neither which methods stay nor what the new one is called."""
        option = str(override.value())
        known = self.options | set(self.chosen)
        near = difflib.get_close_matches(option, sorted(known), 1, 0.5)
        if not near:
            self.problems.append(f"{argument}: no method {option!r}.{nearest(option, known)}")
            return
        what = "" if option in known else f" no method {option!r}. Did you mean {near[0]!r}?"
        every = ",".join(dict.fromkeys([*self.chosen, near[0]]))
        self.problems.append(
            f"{argument}:{what} Methods are named in a list: methods=[{near[0]}] for this one alone, methods=[{every}] "
            "for it and those of the experiment."
        )


def name_methods(arguments: Sequence[str], conf: Path) -> tuple[list[str], list[str]]:
    """Arguments about methods as Hydra takes them for this experiment; all others as they are.

    Args:
        conf: the folder of configurations.

    Returns:
        The arguments, and problems.
    """
    parsed = [(argument, parsed_argument(argument)) for argument in arguments]
    about = [override for _, override in parsed if override is not None and _about_methods(override)]
    if not about:
        return list(arguments), []
    swept = [argument for argument, override in parsed if override is not None and _swept_experiment(override)]
    if swept:
        return [], [f"{swept[0]}: which methods there are depends on the experiment; run the command once for each."]
    methods = _of_experiment(parsed, arguments, conf)
    if methods is None:
        return list(arguments), []  # Hydra says what is wrong
    lists = [a for a, o in parsed if o is not None and o.key_or_group == "methods" and isinstance(o.value(), list)]
    if len(lists) > 1:
        return [], [f"{' '.join(lists)}: give one list of methods, such as {lists[-1]}."]
    result: list[str] = []
    for argument, override in parsed:
        if override is None or not _about_methods(override):
            result.append(argument)
            continue
        key = override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        if override.is_sweep_override() and key != "methods":
            result.append(argument)
        elif key == "methods":
            result += methods.named(argument, override)
        elif key == "method":
            methods.group(argument, override)
        elif found := _PACKAGE.fullmatch(key):
            result += methods.placed(argument, override, found["name"])
        elif found := _ONE.fullmatch(key):
            result += methods.deleted(argument, found["name"])
        else:
            result.append(argument)
    return result, methods.problems


def parsed_argument(argument: str) -> Override | None:
    """None for a flag, its value, and what Hydra can't read."""
    try:
        return None if argument.startswith("-") else OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _about_methods(override: Override) -> bool:
    key = override.key_or_group
    return key in ("method", "methods") or (override.is_delete() and bool(_ONE.fullmatch(key)))


def _swept_experiment(override: Override) -> bool:
    return override.key_or_group == "experiment" and override.is_sweep_override()


def _of_experiment(
    parsed: Sequence[tuple[str, Override | None]], arguments: Sequence[str], conf: Path
) -> _Methods | None:
    """The methods of the experiment that the arguments choose; None if it can't be composed."""
    folders = [conf, *_folders(arguments)]
    choices = [
        argument
        for argument, override in parsed
        if override is not None
        and override.package is None
        and override.key_or_group != "method"
        and any((folder / override.key_or_group).is_dir() for folder in folders)
        and not override.is_sweep_override()
    ]
    more = ",".join(f"file://{folder.absolute()}" for folder in folders[1:])
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf.absolute())):
            path = [f"hydra.searchpath=[{more}]"] if more else []
            found = compose("config", [*choices, *path], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return None
    options = {path.stem for folder in folders for path in (folder / "method").glob("*.yaml")}
    named = {_PACKAGE.fullmatch(key): option for key, option in found.hydra.runtime.choices.items()}
    chosen = {match["name"]: option for match, option in named.items() if match}
    every = found.methods if isinstance(found.get("methods"), DictConfig) else {}
    beside = {str(name): list(_keys_of(str(name), found)) for name in every}
    keys = [_ONE.fullmatch(one.key_or_group) for _, one in parsed if one is not None and not one.is_delete()]
    spelled_out = {match["name"] for match in keys if match}
    return _Methods({str(name): chosen.get(str(name)) for name in every}, options, beside, spelled_out)


def _keys_of(name: str, node: DictConfig) -> Iterator[str]:
    """Keys that are a method's name, among those that hold a setting for each of several methods."""
    for key in _BY_METHOD:
        part = OmegaConf.select(node, key)
        if isinstance(part, DictConfig) and name in part:
            yield f"{key}.{name}"


def _folders(arguments: Sequence[str]) -> list[Path]:
    """Folders of configurations that the arguments add."""
    folders = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else following))
    return folders
