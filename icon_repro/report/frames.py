"""A results folder as data: pandas frames of its runs, values, items, scores and selections.

In: a folder below results/, of a report or of another command.  Out: ``Results``.

    results = icon_repro.open_results("results/study_cpu")
    results.values.query("benchmark == 'piqa'").groupby("method")["value"].mean()

``run`` is the number of a row in metrics.jsonl, counted from 0: frames are joined by it. Frames about rows of data are
joined by ``id``. A frame that a folder has nothing for is empty, with the same columns and types, and ``absent`` says
why; it also names what a frame lacks. This is the only module that imports pandas.
Known gap: a folder written before selections.parquet was stored may have none; its samples (the ends of each ranking)
are there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icon_repro.engine.records import RecordError, read_json, read_lines
from icon_repro.report.row_tables import FORMAT as TABLE_FORMAT
from icon_repro.report.row_tables import SCORE_COLUMNS, SCORES, SELECTION_COLUMNS, SELECTIONS
from icon_repro.report.rows import FILE, Part, ResultRow, read_result_rows
from icon_repro.report.runs import Values, decoded

FORMAT = 1  # of run.json
_RUNS = {
    "run": "int64",
    "experiment": "category",
    "model": "category",
    "method": "category",
    "fraction": "float64",
    "seed": "Int64",
    "selection_seed": "Int64",
    "pool": "Int64",
    "matched_to": "category",
    "selected": "Int64",
    "trained": "Int64",
    "selection_tokens": "float64",
    "selection_flops": "float64",
    "tuning_tokens": "float64",
    "tuning_flops": "float64",
    "select_step": "category",
    "train_step": "category",
}
_OF_RUN = {name: _RUNS[name] for name in ("run", "method", "fraction", "seed", "selection_seed", "pool")}
_VALUES = {
    **_OF_RUN,
    "benchmark": "category",
    "metric": "category",
    "value": "float64",
    "items": "Int64",
    "chance": "float64",
    "higher_is_better": "bool",
    "step": "category",
    "missing": "category",
}
_JUDGED = {
    **_OF_RUN,
    "set": "category",
    "against": "category",
    **dict.fromkeys(("prompts", "judged", "win", "tie", "lose", "failed"), "Int64"),
    "length_controlled_score": "float64",
    "step": "category",
    "missing": "category",
}
_ITEMS = {
    **_OF_RUN,
    "benchmark": "category",
    "part": "category",
    "item": "int64",
    "value": "float64",
    "size": "float64",
    "group": "category",
    "items_id": "category",
}
_BY_ITEM = ("item", "value", "size", "group")
_KINDS = {"name": "category", "float": "float64", "whole": "Int64"}
_TABLES = {
    SELECTIONS: {name: _KINDS[kind] for name, kind in SELECTION_COLUMNS.items()},
    SCORES: {name: _KINDS[kind] for name, kind in SCORE_COLUMNS.items()},
}
_SAMPLES = {
    "method": "category",
    "end": "category",
    "rank": "int64",
    "of": "int64",
    "id": "category",
    "score": "float64",
    "characters": "int64",
    "excerpt": "str",
}
COLUMNS: Mapping[str, Mapping[str, str]] = {  # names and types of each frame's columns; scores may have more
    "runs": _RUNS,
    "values": _VALUES,
    "judged": _JUDGED,
    "items": _ITEMS,
    "selections": _TABLES[SELECTIONS],
    "scores": _TABLES[SCORES],
    "samples": _SAMPLES,
}
_POINTS = {"w": 1.0, "t": 0.5, "l": 0.0, "f": float("nan")}  # of a judged prompt


class OpenError(ValueError):
    """The folder isn't one of results, or another version of icon_repro wrote it."""


@dataclass(frozen=True)
class Results:
    """What a results folder holds. Frames are made when they are asked for, and kept."""

    folder: Path  # ``incomplete`` in the one that was asked for, if there is no other
    name: str  # of the experiment
    config: Mapping[str, Any]  # settings; empty where another command made the folder
    steps: tuple[str, ...]  # folders of all steps behind the results, each named by its hash
    absent: Mapping[str, str]  # frame -> why it has no rows, or which are lacking
    rows: tuple[ResultRow, ...]  # what the frames are made of, typed

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A line for each trained model, and for the model as it is (method ``base``).

        Columns: run, experiment, model, method, fraction (of the rows, NaN where nothing is selected), seed (of
        training), selection_seed, pool, matched_to, selected and trained (rows), selection_tokens and
        selection_flops, tuning_tokens and tuning_flops (NaN: not finished), select_step and train_step (folders).
        """
        return _frame(
            _RUNS,
            [
                {
                    "run": run,
                    **{name: getattr(row, name) for name in ("experiment", "model", "method", "fraction", "seed")},
                    **{name: getattr(row, name) for name in ("selection_seed", "pool", "matched_to")},
                    "selected": row.selected,
                    "trained": row.trained,
                    "selection_tokens": row.selection and row.selection.tokens,
                    "selection_flops": row.selection and row.selection.flops,
                    "tuning_tokens": row.tuning and row.tuning.tokens,
                    "tuning_flops": row.tuning and row.tuning.flops,
                    "select_step": row.steps.select,
                    "train_step": row.steps.train,
                }
                for run, row in enumerate(self.rows)
            ],
        )

    @cached_property
    def values(self) -> pd.DataFrame:
        """A line for each run and benchmark.

        Columns: those of the run; benchmark, metric, value (a share of 1, or nats), items, chance (value of a guess,
        NaN: none), higher_is_better, step (folder), missing (why there is no value).
        """
        lines = []
        for run, row in enumerate(self.rows):
            for name, facts in row.tasks.items():
                known = {"benchmark": name, "chance": facts.chance, "higher_is_better": facts.higher_is_better}
                if (cell := row.benchmarks.get(name)) is not None:
                    known |= {"metric": cell.metric, "value": cell.value, "items": cell.items, "step": cell.step}
                lines.append({**_of_run(run, row), **known, "missing": row.missing.get(name)})
        return _frame(_VALUES, lines)

    @cached_property
    def judged(self) -> pd.DataFrame:
        """A line for each run and set of prompts that a judge compared.

        Columns: those of the run; set, against (whose answers), prompts, judged, win, tie, lose, failed (counts),
        length_controlled_score (0 to 2, 1 is even), step (folder), missing (why there is no comparison).
        """
        counts = ("against", "prompts", "judged", "win", "tie", "lose", "failed", "length_controlled_score", "step")
        lines = []
        for run, row in enumerate(self.rows):
            for name, cell in row.judged.items():
                lines.append({**_of_run(run, row), "set": name, **{key: getattr(cell, key) for key in counts}})
            lines += [{**_of_run(run, row), "set": name, "missing": why} for name, why in row.unjudged.items()]
        return _frame(_JUDGED, lines)

    @cached_property
    def items(self) -> pd.DataFrame:
        """A line for each run and item of a benchmark, or prompt of a judged set.

        Columns: those of the run; benchmark, part (a subtask; empty if there is one), item (place in the part, from
        0), value (what the run got on it; of a judged prompt win 1, tie 0.5, loss 0, NaN without a verdict), size
        (what it weighs, 1: all the same), group (items of one group aren't independent), items_id (hash of which items
        these are, in their order: frames of two folders can be joined by item where it is equal).
        A benchmark whose metric is no mean over items has none here.
        """
        parts = [(run, row, *one) for run, row in enumerate(self.rows) for one in _parts(row)]
        about = [
            {**_of_run(run, row), "benchmark": benchmark, "part": part.name, "items_id": ids}
            for run, row, benchmark, ids, part in parts
        ]
        outcomes = [_outcomes(part) for *_, part in parts]
        counts = [len(own) for own in outcomes]
        frame = _frame({name: kind for name, kind in _ITEMS.items() if name not in _BY_ITEM}, about)
        frame = frame.loc[np.repeat(np.arange(len(parts)), counts)].reset_index(drop=True)
        frame["item"] = np.concatenate([np.arange(float(count)) for count in counts] or [np.zeros(0)])
        frame["value"] = np.concatenate(outcomes or [np.zeros(0)])
        frame["size"] = np.concatenate([_sizes(part) for *_, part in parts] or [np.zeros(0)])
        groups = list[str | None]()
        for (*_, part), count in zip(parts, counts, strict=True):
            groups += part.groups or [None] * count
        frame["group"] = pd.Categorical(groups)
        return frame[list(_ITEMS)].astype(_ITEMS)

    @cached_property
    def selections(self) -> pd.DataFrame:
        """A line for each row of data that a selection holds.

        Columns: method, fraction, selection_seed, pool, rank (1: selected first), id (of the row), step (folder).
        """
        return self._table(SELECTIONS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A line for each row of data that a method scored; higher is selected first.

        Columns: method, selection_seed, pool, id (of the row), score, step (folder), and ``part.NAME`` for each part
        that a method's score is made of, NaN for other methods.
        """
        return self._table(SCORES)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The rows at both ends of each method's ranking.

        Columns: method, end (highest or lowest), rank, of (rows ranked), id, score, characters (of the response),
        excerpt (of the instruction).
        """
        path = self.folder / "samples.jsonl"
        lines = [line for _, line in read_lines(path)] if path.is_file() else []
        return _frame(_SAMPLES, [{name: line[name] for name in _SAMPLES} for line in lines])

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The csv files of the folder by name, e.g. ``table``, ``verdicts``; of figures ``figures/scale``.

        Where another command than a report wrote metrics.jsonl, ``metrics`` has its lines.
        """
        paths = [*sorted(self.folder.glob("*.csv")), *sorted(self.folder.glob("figures/*.csv"))]
        frames = {path.relative_to(self.folder).with_suffix("").as_posix(): pd.read_csv(path) for path in paths}
        if not self.rows and (self.folder / FILE).is_file():
            frames["metrics"] = pd.DataFrame([line for _, line in read_lines(self.folder / FILE)])
        return frames

    @cached_property
    def documents(self) -> Mapping[str, Any]:
        """The JSON files of the folder by name, e.g. ``run``, ``summary``."""
        return {path.stem: read_json(path) for path in sorted(self.folder.glob("*.json"))}

    def _table(self, name: str) -> pd.DataFrame:
        path, types = self.folder / name, _TABLES[name]
        if not path.is_file():
            return _frame(types, [])
        return pd.read_parquet(path).astype(types)


def open_results(folder: str | Path) -> Results:
    """Open a results folder; of an experiment that has incomplete results only, these.

    Args:
        folder: e.g. ``results/study_cpu``.

    Raises:
        OpenError: no such folder, nothing that is known in it, or another version of icon_repro wrote it.
    """
    place = Path(folder)
    if not place.is_dir():
        raise OpenError(f"{place}: no such folder. Give the folder of one experiment, such as results/smoke.")
    if not _files(place) and (place / "incomplete").is_dir():
        place = place / "incomplete"
    if not _files(place):
        raise OpenError(
            f"{place}: no results are in it: no {FILE}, no table, no JSON file. Give the folder of one experiment, "
            "such as results/smoke, or run the experiment first."
        )
    run = _run(place)
    rows = _rows(place) if (place / "run.json").is_file() else []
    for name in (SELECTIONS, SCORES):
        _check_table(place / name)
    config = run.get("config", {})
    return Results(
        folder=place,
        name=str(config.get("name") or place.name),
        config=config,
        steps=tuple(run.get("steps", ())),
        absent=_absent(place, rows),
        rows=tuple(rows),
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (".csv", ".json", ".jsonl", ".md")]


def _run(folder: Path) -> dict[str, Any]:
    """What a report (run.json) or a run of selections alone (selected.json) says of the folder; empty for others."""
    for path in (folder / "run.json", folder / "selected.json"):
        if not path.is_file():
            continue
        try:
            run = read_json(path)
        except RecordError as error:
            raise OpenError(f"{error} Restore the file, or make it again with action=report.") from error
        number = run.get("format") if isinstance(run, dict) else None
        if number != FORMAT:
            newer = isinstance(number, int) and number > FORMAT
            remedy = "Update icon_repro." if newer else "Make it again with action=report."
            raise OpenError(
                f"{path}: format {number}, this version of icon_repro reads {FORMAT}: another version wrote it. "
                f"{remedy}"
            )
        return dict(run)
    return {}


def _rows(folder: Path) -> list[ResultRow]:
    if not (folder / FILE).is_file():
        raise OpenError(f"{folder}: run.json is there and {FILE} isn't. Restore it, or make it with action=report.")
    try:
        return read_result_rows(folder / FILE)
    except RecordError as error:
        raise OpenError(str(error)) from error


def _check_table(path: Path) -> None:
    if not path.is_file():
        return
    from pyarrow import ArrowException, parquet

    try:
        number = (parquet.read_schema(path).metadata or {}).get(b"icon_repro", b"none").decode()
    except (ArrowException, OSError) as error:
        raise OpenError(f"{path}: can't be read ({error}). Make it again with action=report.") from error
    if number != str(TABLE_FORMAT):
        raise OpenError(
            f"{path}: format {number}, this version of icon_repro reads {TABLE_FORMAT}: another version wrote it. Make "
            "it again with action=report."
        )


def _absent(folder: Path, rows: list[ResultRow]) -> dict[str, str]:
    """Why frames are empty."""
    reasons: dict[str, str] = {}
    if not rows:
        why = "its command writes no rows of runs; the numbers are in tables"
        reasons |= dict.fromkeys(("runs", "values", "items", "judged"), why)
    else:
        if not any(row.benchmarks or row.judged for row in rows):
            reasons["items"] = "no run has a result yet; values says why by benchmark"
        if not any(row.judged or row.unjudged for row in rows):
            reasons["judged"] = "no judge was asked"
    for frame, name in (("selections", SELECTIONS), ("scores", SCORES)):
        if not (folder / name).is_file():
            reasons[frame] = f"{name} isn't in the folder: no selection is finished, or an older report wrote it"
            continue
        stored = set(pd.read_parquet(folder / name, columns=["method"])["method"])
        if lacking := sorted({row.method for row in rows if row.steps.select is not None} - stored):
            reasons[frame] = (
                f"{name} lacks {', '.join(lacking)}: not finished, or not kept when these results were made"
            )
    if not (folder / "samples.jsonl").is_file() or not (folder / "samples.jsonl").stat().st_size:
        reasons["samples"] = "no ranking is finished, or each is drawn at random"
    return reasons


def _of_run(run: int, row: ResultRow) -> dict[str, Any]:
    return {"run": run, **{name: getattr(row, name) for name in _OF_RUN if name != "run"}}


def _parts(row: ResultRow) -> Iterator[tuple[str, str, Part]]:
    outcomes = {name: cell.outcomes for name, cell in row.benchmarks.items()}
    for name, own in (*outcomes.items(), *((name, cell.outcomes) for name, cell in row.judged.items())):
        yield from ((name, own.ids, part) for part in own.parts if part.values is not None)


def _outcomes(part: Part) -> Values:
    """What a run got on each item of a part."""
    if isinstance(part.values, str) and set(part.values) & set(_POINTS):
        return np.array([_POINTS[letter] for letter in part.values])
    return decoded(part)


def _sizes(part: Part) -> Values:
    return np.ones(len(part.values or ())) if part.sizes is None else np.asarray(part.sizes, np.float64)


def _frame(types: Mapping[str, str], lines: Any) -> pd.DataFrame:
    """Lines as a frame with exactly these columns and types."""
    return pd.DataFrame(lines, columns=list(types)).astype(dict(types))
