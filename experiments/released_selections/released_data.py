"""The authors' released selections, and what a model said about their rows.

In: released_subsets.csv (model, subset, rank, id) and the union of their rows (JSONL in Alpaca format with ids); steps
of the experiments ``released_selections`` and ``released_embeddings``.  Out: ``Released``, measures, ``Embedded``.
The steps' numbers are copied to small files (``measures.csv``, ``embeddings.npy`` and .csv, ``steps.json``), from which
everything else is made; rows are there by id only.
Known gap: the union holds the rows of these selections and no others: the pool of 52,001 rows isn't here.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Score, content_id
from icon_repro.engine.artifact import Step, Store, verify
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.experiment import Experiment
from icon_repro.report.figures.series import rounded

DATA = Path("../shared/data")  # where released_subsets.csv and alpaca_released_union.jsonl are looked for
POOL = 52001  # rows that the authors selected from: their sizes are int(share * 52001)
SHARES = {520: "1 %", 2600: "5 %", 5200: "10 %", 7800: "15 %"}
MEASURES = ("ifd", "direct", "nll")  # IFD; NLL of the response without its prompt, and after it, nats a token
AGAIN = "Take it from the data folder again."
Selection = tuple[str, str]  # model, subset


class ReleasedError(ValueError):
    """The released selections, or the numbers stored about their rows, don't fit together."""


@dataclass(frozen=True)
class Row:
    """A row of the union."""

    id: str
    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


@dataclass(frozen=True)
class Released:
    """All selections; numbers in arrays are places in ``rows``."""

    rows: list[Row]  # sorted by id
    selections: dict[Selection, NDArray[np.intp]]  # in the order of their ranks

    def rest(self, selection: Selection) -> NDArray[np.intp]:
        """All rows of the union that aren't in a selection."""
        return np.setdiff1d(np.arange(len(self.rows)), self.selections[selection])


@dataclass(frozen=True)
class Embedded:
    """Vectors of some rows, of length 1, and where t-SNE puts them."""

    places: NDArray[np.intp]  # in Released.rows
    vectors: NDArray[np.float32]  # (rows, hidden size)
    map: NDArray[np.float64]  # (rows, 2)


def label(selection: Selection) -> str:
    """A selection's name in tables: its model, its end and its nominal share."""
    end, size = selection[1].split("_")
    return f"{selection[0]} {end} {SHARES.get(int(size), f'{size} rows')}"


def load(folder: Path) -> Released:
    """Read and check ``released_subsets.csv`` and ``alpaca_released_union.jsonl`` in ``folder``.

    Raises:
        ReleasedError: a file is missing, a column or value isn't what it should be, a row's id isn't made from its
            content, or a selection names a row twice or one that isn't there.
    """
    union, subsets = folder / "alpaca_released_union.jsonl", folder / "released_subsets.csv"
    for path in (union, subsets):
        if not path.is_file():
            raise ReleasedError(f"{path}: no such file; --data names the folder that holds it.")
    rows = sorted(_union(union), key=lambda row: row.id)
    place = {row.id: i for i, row in enumerate(rows)}
    if len(place) < len(rows):
        twice = next(i for i, count in Counter(row.id for row in rows).items() if count > 1)
        raise ReleasedError(f"{union}: id {twice!r} stands there twice; each row may stand there once. {AGAIN}")
    ranked: dict[Selection, dict[int, int]] = {}
    with subsets.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != ["model", "subset", "rank", "id"]:
            raise ReleasedError(f"{subsets}: columns {reader.fieldnames}; must be model, subset, rank, id. {AGAIN}")
        for number, line in enumerate(reader, 2):
            where = f"{subsets}:{number}"
            if not re.fullmatch(r"(top|low)_[1-9]\d*", line["subset"] or ""):
                raise ReleasedError(f"{where}: subset {line['subset']!r}; must be like top_520 or low_7800. {AGAIN}")
            if line["id"] not in place:
                raise ReleasedError(f"{where}: id {line['id']!r} isn't in {union.name}; every row must be. {AGAIN}")
            if not (line["rank"] or "").isdecimal():
                raise ReleasedError(f"{where}: rank {line['rank']!r}; must be a whole number from 0 on. {AGAIN}")
            own = ranked.setdefault((line["model"], line["subset"]), {})
            if int(line["rank"]) in own:
                raise ReleasedError(f"{where}: rank {line['rank']} stands there twice in {line['subset']}. {AGAIN}")
            own[int(line["rank"])] = place[line["id"]]
    for (model, subset), own in ranked.items():
        size = int(subset.split("_")[1])
        if sorted(own) != list(range(size)):
            raise ReleasedError(f"{subsets}: {model} {subset} has {len(own)} rows; must have ranks 0 to {size - 1}.")
        if len(set(own.values())) < size:
            raise ReleasedError(
                f"{subsets}: {model} {subset} names {size - len(set(own.values()))} rows twice. {AGAIN}"
            )
    if not any(subset.startswith("top_") for _, subset in ranked):
        raise ReleasedError(f"{subsets}: holds no selection of the best (top_...). {AGAIN}")
    order = sorted(ranked, key=lambda s: (s[0], s[1].startswith("low"), int(s[1].split("_")[1])))
    return Released(rows, {s: np.array([ranked[s][rank] for rank in sorted(ranked[s])], np.intp) for s in order})


def _union(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path}:{number}"
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise ReleasedError(f"{where}: isn't JSON ({error}). {AGAIN}") from error
        names = ("id", "instruction", "input", "output")
        if not isinstance(raw, dict) or not all(isinstance(raw.get(name), str) for name in names):
            raise ReleasedError(f"{where}: must be an object with the strings {', '.join(names)}. {AGAIN}")
        row = Row(*(raw[name] for name in names))
        if row.id != content_id(row.instruction, row.input, row.output):
            raise ReleasedError(
                f"{where}: id {row.id!r} isn't the hash of the row's texts; a text was changed. {AGAIN}"
            )
        rows.append(row)
    return rows


def scores_step(experiment: Experiment, method: str) -> Step:
    """The step with a method's scores."""
    return next(
        arm.select.inputs["scores"] for arm in experiment.arms if arm.select is not None and arm.method == method
    )


def store_measures(step: Step, store: Store, out: Path) -> None:
    """Write measures.csv: a line a row that has an IFD; note the step, and why rows have none, in steps.json.

    Raises:
        ArtifactError: the step's folder was altered.
    """
    folder = store.path(step)
    verify(folder)
    scores = sorted(read_rows(folder / "scores.jsonl", Score), key=lambda score: score.id)
    values = [(s.id, s.score, s.parts["direct"], s.parts["conditioned"]) for s in scores]
    _write_csv(out / "measures.csv", ["id", *MEASURES], [[name, *map(rounded, rest)] for name, *rest in values])
    failures = Counter(line["reason"] for line in _json_lines(folder / "failures.jsonl"))
    _note(out, "measures", [step], {"rows": len(scores), "without a value": dict(failures)})


def store_embeddings(step: Step, store: Store, out: Path, coordinates: Any) -> None:
    """Write embeddings.npy (float16) and embeddings.csv (id, x, y) of the rows that RDS embedded.

    Args:
        coordinates: of vectors (rows, hidden size) float32: (rows, 2).
    """
    from icon_repro.methods.common.embeddings import joined  # brings torch, which nothing else here needs

    shards = {name: store.path(shard) for name, shard in step.inputs.items() if name.startswith("shard-")}
    for folder in shards.values():
        verify(folder)
    ids, vectors, reasons = joined(shards, "shard")
    order = np.argsort(np.array(ids))
    vectors = vectors[order].astype(np.float16)
    np.save(out / "embeddings.npy", vectors, allow_pickle=False)
    places = coordinates(vectors.astype(np.float32))
    lines = [[ids[i], rounded(float(x)), rounded(float(y))] for i, (x, y) in zip(order, places, strict=True)]
    _write_csv(out / "embeddings.csv", ["id", "x", "y"], lines)
    _note(out, "embeddings", [step.inputs[name] for name in sorted(shards)], {"rows": len(ids), "without": reasons})


def read_measures(folder: Path, released: Released) -> dict[str, NDArray[np.float64]] | None:
    """By measure a value of each row of the union, NaN where a row has none; None if nothing is stored.

    Raises:
        ReleasedError: other columns, a row that isn't in the union, or a value that isn't finite.
    """
    path = folder / "measures.csv"
    if not path.is_file():
        return None
    place = {row.id: i for i, row in enumerate(released.rows)}
    found = {name: np.full(len(place), np.nan) for name in MEASURES}
    for line in _read_csv(path, ["id", *MEASURES]):
        if line["id"] not in place:
            raise ReleasedError(f"{path}: id {line['id']!r} isn't in the union; delete {path.name} and run again.")
        for name in MEASURES:
            found[name][place[line["id"]]] = _finite(path, line["id"], line[name])
    return found


def read_embeddings(folder: Path, released: Released) -> Embedded | None:
    """The stored sample of vectors; None if nothing is stored.

    Raises:
        ReleasedError: ids, vectors and coordinates don't fit together or the union.
    """
    path, vectors_path = folder / "embeddings.csv", folder / "embeddings.npy"
    if not path.is_file() or not vectors_path.is_file():
        return None
    place = {row.id: i for i, row in enumerate(released.rows)}
    lines = _read_csv(path, ["id", "x", "y"])
    vectors = np.load(vectors_path, allow_pickle=False).astype(np.float32)
    strangers = [line["id"] for line in lines if line["id"] not in place]
    if strangers or vectors.ndim != 2 or len(vectors) != len(lines) or not np.isfinite(vectors).all():
        raise ReleasedError(
            f"{path}: {len(lines)} rows, {len(strangers)} of them not in the union, for finite vectors of shape "
            f"{vectors.shape}; delete both files and run again."
        )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = np.array([place[line["id"]] for line in lines], np.intp)
    return Embedded(places, vectors, np.array([[_finite(path, ln["id"], ln[c]) for c in "xy"] for ln in lines]))


def _finite(path: Path, identifier: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ReleasedError(
            f"{path}: row {identifier!r} has {text!r}; must be a finite number. Delete it and run again."
        )
    return value


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _read_csv(path: Path, header: Sequence[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(header):
            raise ReleasedError(
                f"{path}: columns {reader.fieldnames}; must be {list(header)}. Delete it and run again."
            )
        return list(reader)


def _write_csv(path: Path, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *lines])


def _note(out: Path, name: str, steps: Sequence[Step], more: dict[str, Any]) -> None:
    """Say in steps.json what the file ``name`` was made of."""
    path = out / "steps.json"
    known = read_json(path) if path.is_file() else {}
    write_json(path, {**known, name: {"steps": [step.folder for step in steps], **more}})
