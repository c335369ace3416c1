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

from icon_repro.config import TrackingConfig, WandbMode
from icon_repro.records import read_json, write_json


def wandb_mode(cfg: TrackingConfig) -> str:
    """``online``, ``offline`` or ``disabled``; WANDB_MODE in the environment wins over ``auto``."""
    if cfg.wandb is not WandbMode.auto:
        return cfg.wandb.value
    if given := os.environ.get("WANDB_MODE"):
        return given
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def _in_netrc() -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return path.is_file() and netrc.netrc(path).authenticators("api.wandb.ai") is not None
    except netrc.NetrcParseError:
        return False


def log_experiment(
    cfg: TrackingConfig,
    name: str,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    table: tuple[list[str], list[list[str]]],
    selections: Mapping[str, Path],
    folder: Path,
) -> str:
    """Log an experiment once; the same results are not logged twice.

    Args:
        selections: artifact file name -> ids.json.
        folder: where W&B keeps its files, and where it is noted what has been logged.

    Returns:
        One line on what was done.
    """
    mode = wandb_mode(cfg)
    if mode == "disabled":
        return "W&B: disabled"
    content = json.dumps([config, rows, table, sorted(selections)], sort_keys=True, default=str)
    digest = hashlib.sha256(f"{mode}{cfg.project}{cfg.entity}{content}".encode()).hexdigest()
    note = folder / f"{name}.json"
    if note.is_file() and read_json(note)["digest"] == digest:
        return f"W&B: nothing new since run {read_json(note)['run']}"

    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=cfg.project,
        entity=cfg.entity,
        group=name,
        name=name,
        id=f"{name}-{digest[:8]}",
        resume="allow",
        config=dict(config),
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    ) as run:
        for row in rows:
            label = "-".join(str(x) for x in (row["method"], row["fraction"], row["seed"]) if x is not None)
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
    write_json(note, {"digest": digest, "run": identifier})
    hint = f"; send it with: wandb sync {folder / 'wandb'}/offline-run-*" if mode == "offline" else ""
    return f"W&B: run {identifier} ({mode}){hint}"
