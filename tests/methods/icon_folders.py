"""Folders of steps as ICon's parts write them, filled with numbers of one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.rows import Example
from icon_repro.engine.records import write_json, write_rows


def write_texts(folder: Path, rows: Sequence[Example]) -> Path:
    """What the steps ``order`` and ``assessment`` write."""
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", rows)
    return folder


def write_baseline(folder: Path, nll: Any, ids: Sequence[str], groups: Sequence[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "nll.npy", np.asarray(nll, np.float64))
    write_json(folder / "ids.json", {"assessment": list(ids), "groups": list(groups or [""] * len(ids))})
    return folder


def write_bank(
    folder: Path, bank: Any, lengths: Sequence[int], contexts: Mapping[str, int], ids: Sequence[str]
) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "bank.npy", np.asarray(bank, np.float32))
    write_json(folder / "bank.json", {"lengths": list(lengths), "contexts": dict(contexts)})
    write_json(folder / "ids.json", {"assessment": list(ids)})
    return folder


def write_shard(
    folder: Path, values: Any, candidates: Sequence[str], ids: Sequence[str], name: str = "candidate"
) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / f"{name}.npy", np.asarray(values, np.float32))
    write_json(folder / "ids.json", {"candidates": list(candidates), "assessment": list(ids)})
    return folder
