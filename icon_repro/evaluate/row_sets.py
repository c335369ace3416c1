"""Write data sets as ``datasets`` loads them to a step's folder, and read them from there.

In / out: sets.json (what was asked for, rows by split), ``<number>/<split>.parquet`` with the columns' types as
``datasets`` has them. A step's record holds checksums of these files; they are compared before each use.
Known gap: none.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets.table import InMemoryTable

from icon_repro.engine.records import read_json, write_json

_SETS = "sets.json"
_WHOLE = "all"  # the name of the file of a data set that was asked for as one split
_HOW = ("cache_dir", "download_mode", "num_proc", "revision", "token", "verification_mode")  # decide no row


class RowSetError(ValueError):
    """A data set can't be kept, or isn't among those that are."""


def set_key(path: str, name: str | None, options: Mapping[str, Any]) -> str:
    """What a call of ``datasets.load_dataset`` asks for, as text."""
    asked = {"path": path, "name": name, **{key: value for key, value in options.items() if key not in _HOW}}
    return json.dumps(asked, sort_keys=True, default=str)


def write_sets(folder: Path, sets: Mapping[str, Any], origins: Mapping[str, str]) -> int:
    """Write data sets by key (see ``set_key``); returns the number of their rows.

    Args:
        origins: hub id -> commit, or "current".

    Raises:
        RowSetError: one is streamed, which leaves nothing to keep.
    """
    listed, total = [], 0
    for number, (key, data) in enumerate(sets.items()):
        splits = data if isinstance(data, dict) else {_WHOLE: data}
        if odd := [one for one in splits.values() if not isinstance(one, datasets.Dataset)]:
            raise RowSetError(f"{key}: is a {type(odd[0]).__name__}, whose rows can't be kept.")
        (folder / str(number)).mkdir()
        for split, rows in splits.items():
            rows.to_parquet(folder / str(number) / f"{split}.parquet")
        listed.append({"asked": key, "splits": [[split, rows.num_rows] for split, rows in splits.items()]})
        total += sum(rows.num_rows for rows in splits.values())
    made_by = importlib.metadata.version("lm-eval")
    write_json(folder / _SETS, {"lm_eval": made_by, "origins": dict(origins), "sets": listed})
    return total


def read_set(folder: Path, key: str) -> tuple[Any, dict[str, str]]:
    """The data set that was asked for as ``key``, in memory, and where the sets of ``folder`` are from.

    Raises:
        RowSetError: there is none.
    """
    stored = read_json(folder / _SETS)
    for number, one in enumerate(stored["sets"]):
        if one["asked"] == key:
            splits = {split: _rows(folder / str(number) / f"{split}.parquet", split) for split, _ in one["splits"]}
            data = splits[_WHOLE] if set(splits) == {_WHOLE} else datasets.DatasetDict(splits)
            return data, stored["origins"]
    raise RowSetError(
        f"{folder} doesn't hold {key}: it was made with lm-eval {stored['lm_eval']}, and "
        f"{importlib.metadata.version('lm-eval')} asks for other data. Delete {folder} and run again."
    )


def _rows(path: Path, split: str) -> datasets.Dataset:
    return datasets.Dataset(InMemoryTable(pyarrow.parquet.read_table(path)), split=datasets.NamedSplit(split))
