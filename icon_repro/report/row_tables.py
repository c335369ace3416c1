"""Store in the results folder which rows each selection holds, and which score each row got, by the rows' ids.

In: finished selections of a plan, and their scores.  Out: selections.parquet and scores.parquet.
    selections   method, fraction, selection_seed, pool, rank (1: selected first), id, step (folder of the selection)
    scores       method, selection_seed, pool, id, score, step (folder of the scores), and a column for each part
A results folder is then data by itself: it is read without the work folder, which is large and stays on its machine.
Rows' texts belong to others and aren't in it. The same steps and the same pyarrow give the same bytes.
Known gap: a selection or its scores whose files are gone from the work folder is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Score
from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_json, read_rows
from icon_repro.experiment import Arm, Experiment

FORMAT = 1  # of both tables
SELECTIONS, SCORES = "selections.parquet", "scores.parquet"
SELECTION_COLUMNS = {
    "method": "name",
    "fraction": "float",
    "selection_seed": "whole",
    "pool": "whole",
    "rank": "whole",
    "id": "name",
    "step": "name",
}
SCORE_COLUMNS = {
    "method": "name",
    "selection_seed": "whole",
    "pool": "whole",
    "id": "name",
    "score": "float",
    "step": "name",
}
PART = "part."  # before the name of a score's part, in the name of its column


@dataclass(frozen=True)
class SelectionRows:
    """The rows that one selection holds, best first."""

    method: str
    fraction: float | None
    selection_seed: int | None
    pool: int | None
    step: str
    ids: Sequence[str]


def write(experiment: Experiment, store: Store, folder: Path) -> None:
    """Write both tables of what ``store`` has; a table without a row isn't written, and an old one goes."""
    write_selections(folder, list(_selections(experiment, store)))
    _write(folder / SCORES, SCORE_COLUMNS, _scores(experiment, store))


def write_selections(folder: Path, selections: Sequence[SelectionRows]) -> None:
    """Write selections.parquet."""
    columns: dict[str, list[Any]] = {name: [] for name in SELECTION_COLUMNS}
    for one in selections:
        columns["id"] += one.ids
        columns["rank"] += range(1, len(one.ids) + 1)
        for name in ("method", "fraction", "selection_seed", "pool", "step"):
            columns[name] += [getattr(one, name)] * len(one.ids)
    _write(folder / SELECTIONS, SELECTION_COLUMNS, columns)


def _selections(experiment: Experiment, store: Store) -> Iterator[SelectionRows]:
    for arm in _arms(experiment, store):
        assert arm.select is not None, "of ``_arms``"
        if (path := store.path(arm.select) / "ids.json").is_file():
            ids = read_json(path)
            yield SelectionRows(arm.method, arm.fraction, arm.selection_seed, arm.pool, arm.select.folder, ids)


def _arms(experiment: Experiment, store: Store) -> list[Arm]:
    """One arm for each finished selection: arms of several training seeds share it."""
    by_selection: dict[tuple[str, str], Arm] = {}
    for arm in experiment.arms:
        if arm.select is not None and store.complete(arm.select):
            by_selection.setdefault((arm.method, arm.select.folder), arm)
    return list(by_selection.values())


def _scores(experiment: Experiment, store: Store) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in SCORE_COLUMNS}
    parts: dict[str, list[float | None]] = {}
    done = set[tuple[str, str]]()
    for arm in _arms(experiment, store):
        assert arm.select is not None, "of ``_arms``"
        step = arm.select.inputs["scores"]
        path = store.path(step) / "scores.jsonl"
        if (arm.method, step.folder) in done or not path.is_file():
            continue
        done.add((arm.method, step.folder))
        rows = read_rows(path, Score)
        before = len(columns["id"])
        columns["id"] += [row.id for row in rows]
        columns["score"] += [row.score for row in rows]
        about = {"method": arm.method, "selection_seed": arm.selection_seed, "pool": arm.pool, "step": step.folder}
        for name, value in about.items():
            columns[name] += [value] * len(rows)
        for name in dict.fromkeys(name for row in rows for name in row.parts):
            parts.setdefault(name, [])
        for name, values in parts.items():
            values += [None] * (before - len(values)) + [row.parts.get(name) for row in rows]
    return columns | {f"{PART}{name}": values for name, values in sorted(parts.items())}


def _write(path: Path, kinds: Mapping[str, str], columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns as parquet; parts are numbers, and may be absent."""
    path.unlink(missing_ok=True)
    if not columns["id"]:
        return
    import pyarrow  # takes a while to import, and a cached run does without
    from pyarrow import parquet

    types = {
        "name": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        "float": pyarrow.float64(),
        "whole": pyarrow.int64(),
    }
    arrays = {}
    for name, values in columns.items():
        kind = kinds.get(name, "float")
        array = pyarrow.array(values, pyarrow.string() if kind == "name" else types[kind])
        arrays[name] = array.dictionary_encode() if kind == "name" else array
    table = pyarrow.table(arrays).replace_schema_metadata({"icon_repro": str(FORMAT)})
    temporary = path.with_name(f".{path.name}.tmp")
    parquet.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
