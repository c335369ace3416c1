"""Compose an experiment's config from conf/ and overrides, as the command line and every study do it.

In: the name of an experiment, overrides as ``key=value``.  Out: a checked Config, or one error with all problems.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import icon_repro
from icon_repro.config.arguments import open_overrides
from icon_repro.config.load import Config, ConfigError, conf_dir, load
from icon_repro.config.rehearse import RehearsalError, rehearsed
from icon_repro.engine.schema import plain


def register_resolvers() -> None:
    """What conf/ may use besides OmegaConf's own: ``${package_dir:}``, ``${user_cache:}`` and ``${runs_folder:}``."""
    OmegaConf.register_new_resolver("package_dir", lambda: str(Path(icon_repro.__file__).parent), replace=True)
    OmegaConf.register_new_resolver("user_cache", _user_cache, replace=True)
    OmegaConf.register_new_resolver("runs_folder", _runs_folder, replace=True)


def _user_cache() -> str:
    named = os.environ.get("ICON_REPRO_CACHE")
    return named or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "icon_repro")


def _runs_folder() -> str:
    """``results``; in a checkout of this project, whose results/ is committed, ``outputs``, which git ignores."""
    return "outputs" if Path("pyproject.toml").is_file() and Path("icon_repro", "__init__.py").is_file() else "results"


_PLACES = {"file", "local", "hub", "registry", "random", "stand_in"}  # kinds of sources and models
_READ_WITH = {"path": {"file", "local"}, "hub_id": {"hub"}}


def _unread(node: Any, where: str, given: Collection[str]) -> Iterator[str]:
    """Places of rows or models that the kind beside them doesn't read: another one would be used without a word.

    Args:
        given: keys of the command line. A place that isn't among them may be left over from a file: a hub's name
            where the kind now asks for a path, a path where the command line chooses another kind.
    """
    for key, value in node.items() if isinstance(node, Mapping) else ():
        place, kind = f"{where}.{key}" if where else str(key), node.get("kind")
        yield from _unread(value, place, given)
        if key not in _READ_WITH or value is None or kind not in _PLACES or kind in _READ_WITH[key]:
            continue
        left_over = kind in _READ_WITH["path"] if key == "hub_id" else f"{where}.kind" in given
        if left_over and place not in given:
            continue
        own = "hub" if key == "hub_id" else "file" if "format" in node else "local"
        yield f"{place}={value!r}: isn't read with {where}.kind={kind}. Set {where}.kind={own}, or {place}=null."


def typed(raw: DictConfig, arguments: Sequence[str] = (), *, real: bool = False) -> Config:
    """A composed config, checked, with ``~`` in its paths resolved.

    Args:
        arguments: those that it is composed with.
        real: the configuration that a rehearsal stands for, not the rehearsal's own.

    Raises:
        ConfigError: all problems in one message.
    """
    given = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    if problems := list(_unread(OmegaConf.to_container(raw, resolve=True), "", given)):
        raise ConfigError("\n".join(problems))
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
    arguments = open_overrides([f"experiment={experiment}", *overrides], conf_dir())
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir().absolute())):
        return typed(compose("config", arguments), arguments)
