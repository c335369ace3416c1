"""Compare configurations: what of them is public, which settings decide results, which aren't the experiment's own.

In: checked configurations, or one as run.json holds it.  Out: ``key: old -> new`` for each that differs.
Known gap: none.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.config.load import Config
from icon_repro.engine.artifact import differences
from icon_repro.engine.schema import plain
from icon_repro.evaluate.judge.options import JudgeKind
from icon_repro.methods.kinds import method_of

_OURS = {"name", "description", "paths", "export", "action", "cluster", "tracking"}  # fields that change no result
# of one command
_ASKED = {"paths", "export", "explain", "action", "verbose", "quiet", "plan", "keep", "confirm"}
SHOWN = 10  # differences in a message


@dataclasses.dataclass(frozen=True)
class Otherwise:
    """What a run sets otherwise than its experiment's file."""

    experiment: str  # the file's name
    settings: Sequence[str]  # "key: file's -> run's"

    def __str__(self) -> str:
        more = f"; and {len(self.settings) - SHOWN} more" if len(self.settings) > SHOWN else ""
        return (
            f"Not experiment={self.experiment} as its file has it; set otherwise (file's -> this run's): "
            f"{'; '.join(self.settings[:SHOWN])}{more}."
        )


def otherwise(experiment: str, config: Config, own: Config) -> Otherwise | None:
    """Settings that decide results and have another value than in the experiment's file; None if there are none.

    Args:
        own: the configuration that the file alone makes.
    """
    found = changes(public(filled(own)), filled(config), "")
    # a method that is left out has no row; a benchmark's lack changes averages
    settings = [one for one in found if not (one.startswith("methods.") and one.endswith(": dropped"))]
    if config.judge.kind is JudgeKind.none:
        settings = [one for one in settings if not one.startswith("judge.") or one.startswith("judge.kind:")]
    return Otherwise(experiment, settings) if settings else None


def public(config: Config) -> dict[str, Any]:
    """The config without what belongs to this machine; of a file, the name only."""

    def names(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: Path(v).name if k in ("path", "ratings") and v else names(v) for k, v in value.items()}

    return {key: names(value) for key, value in plain(config).items() if key not in _ASKED}


def filled(config: Config) -> Config:
    """``config`` with the options that ``compat`` decides filled in: an option's value is what counts."""
    methods = {name: method_of(options).resolve(options) for name, options in config.methods.items()}
    return dataclasses.replace(config, methods=methods)


def changes(old: Any, new: Any, where: str) -> list[str]:
    """Settings of ``new`` that have another value than the stored ``old``, other than by growing."""
    if dataclasses.is_dataclass(new) and isinstance(old, Mapping):
        known = [field.name for field in dataclasses.fields(new) if field.metadata.get("hash", True)]
        names = [name for name in known if name in old and (where or name not in _OURS)]
        return [c for name in names for c in changes(old[name], getattr(new, name), f"{where}.{name}".lstrip("."))]
    if isinstance(new, Mapping) and isinstance(old, Mapping):  # methods, benchmarks
        gone = [f"{where}.{name}: dropped" for name in old if name not in new]
        return gone + [c for name in old if name in new for c in changes(old[name], new[name], f"{where}.{name}")]
    if where in ("seeds", "fractions") or where.startswith("more_fractions."):
        return [] if set(old) <= set(new) else differences(old, new, where)
    if where in ("base", "full") and new:
        return []
    return differences(old, plain(new), where)
