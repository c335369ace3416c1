"""Compose an experiment's config from conf/ and overrides, as the command line and every study do it.

In: the name of an experiment, overrides as ``key=value``.  Out: a checked Config, or one error with all problems.
"""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import icon_repro
from icon_repro.config.load import Config, ConfigError, conf_dir, load
from icon_repro.config.rehearse import RehearsalError, rehearsed
from icon_repro.engine.schema import nearest, plain


def register_resolvers() -> None:
    """What conf/ may use besides OmegaConf's own: ``${package_dir:}`` and ``${user_cache:}``."""
    OmegaConf.register_new_resolver("package_dir", lambda: str(Path(icon_repro.__file__).parent), replace=True)
    OmegaConf.register_new_resolver("user_cache", _user_cache, replace=True)


def _user_cache() -> str:
    named = os.environ.get("ICON_REPRO_CACHE")
    return named or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "icon_repro")


def open_overrides(arguments: Sequence[str], conf: Path) -> list[str]:
    """Let every ``key=value`` through Hydra, so that ``load`` can report all mistyped keys at once.

    Hydra stops at the first unknown key without naming its neighbours; ``++key=value`` sets it whether or not it is
    known. Overrides of config groups, of hydra itself, and those that already add or delete stay as they are.
    They all come first: Hydra takes none after a flag that stands between them.

    Raises:
        ConfigError: unknown options of groups, each with the nearest one.
    """
    opened, others, problems = list[str](), list[str](), list[str]()
    parser = OverridesParser.create()
    own_conf = any(a.startswith(("--config-dir", "-cd", "--config-path", "-cp")) for a in arguments)
    for argument in arguments:
        try:
            override = None if argument.startswith("-") else parser.parse_override(argument)
        except HydraException:
            override = None  # Hydra says what is wrong with it, but not how to quote
            if quoted := _quoted(argument):
                problems.append(f"{argument}: can't be read. A value with such signs is quoted: {quoted}")
        if override is None:
            others.append(argument)
            continue
        ours = not override.key_or_group.startswith("hydra")
        group = conf / override.key_or_group
        if ours and group.is_dir() and not own_conf:
            options = {path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")}
            value = override.value()
            for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
                if isinstance(choice, str) and choice not in options:
                    problems.append(f"{override.key_or_group}={choice}: no such option.{nearest(choice, options)}")
        bare = ours and not group.is_dir() and override.type is OverrideType.CHANGE
        opened.append(f"++{argument}" if bare else argument)
    if problems:
        raise ConfigError("\n".join(problems))
    return [*opened, *others]


def _quoted(argument: str) -> str | None:
    """How the shell and Hydra take ``key=value`` with any value; None if that isn't what it is."""
    key, sign, value = argument.partition("=")
    if not sign or not re.fullmatch(r"[+~]{0,2}[\w.@/-]+", key) or value[:1] in ("[", "{", "'", '"'):
        return None
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    try:
        OverridesParser.create().parse_override(f'{key}="{escaped}"')
    except HydraException:
        return None
    return shlex.quote(f'{key}="{escaped}"')


def typed(raw: DictConfig, *, real: bool = False) -> Config:
    """A composed config, checked, with ``~`` in its paths resolved.

    Args:
        real: the configuration that a rehearsal stands for, not the rehearsal's own.

    Raises:
        ConfigError: all problems in one message.
    """
    try:
        config = load(OmegaConf.to_container(raw, resolve=True))  # type: ignore[arg-type]
        config = config if real else rehearsed(config)
    except RehearsalError as error:
        raise ConfigError(str(error)) from error
    for name, folder in plain(config.paths).items():
        setattr(config.paths, name, str(Path(folder).expanduser()))
    return config


def composed(experiment: str, overrides: Sequence[str]) -> Config:
    """An experiment's checked config, as the command line makes it of ``experiment=NAME`` and overrides."""
    register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir().absolute())):
        return typed(compose("config", open_overrides([f"experiment={experiment}", *overrides], conf_dir())))
