"""The smallest experiment as a Config, composed as the command line does it, with any value changed."""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from icon_repro.config.arguments import open_overrides
from icon_repro.config.compose import register_resolvers
from icon_repro.config.load import Config, conf_dir, load
from icon_repro.engine.artifact import Step, Store, publish
from icon_repro.engine.records import write_json


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    """The composed, resolved config as nested dicts; not to be changed."""
    register_resolvers()
    arguments = open_overrides(overrides, conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        raw = compose("config", arguments)
    made = OmegaConf.to_container(raw, resolve=True)
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


def small(work: Path, changes: Mapping[str, Any] | None = None, experiment: str = "smoke_tiny") -> Config:
    """``experiment`` with its work folder and dotted keys set, without a judge."""
    data = copy.deepcopy(composed(f"experiment={experiment}", "judge=none"))
    for key, value in {"paths.work": str(work), **(changes or {})}.items():
        *parents, last = key.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return load(data)


def publish_fake(step: Step, store: Store, metrics: Mapping[str, Any], **more: Any) -> None:
    """A published folder of ``step``: its record, parts of it replaced by ``more``; of an evaluation, 20 items too."""
    part = store.path(step).with_name("fake.part")
    part.mkdir(parents=True)
    if step.stage == "evaluate":
        write_json(part / "items.json", {"ids": [f"{i:02}" for i in range(20)], "values": [0, 1] * 10})
    record = {
        "metrics": dict(metrics),
        "hashed": step.hashed,
        "host": "bigbox",
        "wall_s": 7.5,
        "git": {"commit": "c0ffee", "dirty": False},
        "python": "3.11.9",
        "packages": {"torch": "2.13.0", "trl": None},
    }
    publish(part, store.path(step), {**record, **more})
