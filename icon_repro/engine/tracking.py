"""Results to Weights & Biases: a copy of what JSONL and tables already hold.

In: config, result rows, table, selected ids.  Out: one W&B run an experiment: config, metrics, table, an artifact with
the selections. Offline unless WANDB_API_KEY or a netrc entry is there; keys are never read or stored here.
Known gap: one run an experiment, not one a step.
"""

import hashlib
import json
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icon_repro.config import TrackingConfig, WandbMode
from icon_repro.records import read_json, write_json

_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")  # where wandb 0.31 and older ones log in by default


class TrackingError(ValueError):
    """The environment asks for something that W&B doesn't know."""


def wandb_mode(cfg: TrackingConfig) -> str:
    """``online``, ``offline`` or ``disabled``; WANDB_MODE in the environment wins over ``auto``.

    Raises:
        TrackingError: WANDB_MODE has another value.
    """
    if cfg.wandb is not WandbMode.auto:
        return cfg.wandb.value
    if given := os.environ.get("WANDB_MODE"):
        if given not in _MODES:
            raise TrackingError(f"WANDB_MODE={given!r} (environment): must be one of {', '.join(_MODES)}.")
        return _MODES[given]
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def _in_netrc() -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = netrc.netrc(path) if path.is_file() else None
    except (netrc.NetrcParseError, OSError):
        return False
    own = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
    return found is not None and any(found.authenticators(host) for host in ([own] if own else _HOSTS))


def log_experiment(
    cfg: TrackingConfig,
    name: str,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    table: tuple[list[str], list[list[str]]],
    selections: Mapping[str, Path],
    folder: Path,
) -> str:
    """Log an experiment once; the same results are not logged twice. A failing W&B loses nothing that is stored here.

    Args:
        selections: artifact file name -> ids.json.
        folder: where W&B keeps its files, and where it is noted what has been logged.

    Returns:
        One line on what was done.
    """
    mode = wandb_mode(cfg)
    if mode == "disabled":
        return "W&B: disabled"
    # not the config: rows name the steps, whose fingerprints hold all of it that changes results
    content = json.dumps([mode, cfg.project, cfg.entity, rows, table, sorted(selections)])
    digest = hashlib.sha256(content.encode()).hexdigest()
    note = folder / f"{name}.json"
    if note.is_file() and read_json(note)["digest"] == digest:
        return f"W&B: nothing new since run {read_json(note)['run']}"

    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with wandb.init(
            project=cfg.project,
            entity=cfg.entity,
            group=name,
            name=name,
            id=f"{name}-{digest[:8]}",
            resume="allow",
            config=dict(config),
            dir=str(folder.absolute()),  # its service may run elsewhere
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        ) as run:
            for row in rows:
                selection = None if row["selection_seed"] is None else f"r{row['selection_seed']}"
                parts = (row["method"], row["fraction"], selection, row["seed"])
                label = "-".join(str(part) for part in parts if part is not None)
                for task, value in row["benchmarks"].items():
                    run.summary[f"{label}/{task}"] = value["value"]
            header, lines = table
            run.log({"results": wandb.Table(columns=header, data=lines)})
            if selections:
                artifact = wandb.Artifact(f"{name}-selections", type="selection")
                for file, path in selections.items():
                    artifact.add_file(str(path), name=file)
                run.log_artifact(artifact)
            identifier = run.id
    except wandb.Error as error:  # no network, no access: the results are on disk already
        return f"W&B: not logged ({type(error).__name__}: {error}); action=report tries again"
    write_json(note, {"digest": digest, "run": identifier})
    hint = f"; send it with: wandb sync {folder / 'wandb'}/offline-run-*" if mode == "offline" else ""
    return f"W&B: run {identifier} ({mode}){hint}"
