"""``action=export``: write selections with the scores behind them, as data sets for a hub and as Alpaca JSON.

In: stored scores and selections.  Out: a folder a selection, ``<export.path>/<method>-f<fraction>``:
rows.parquet    every row that has a score, best first: id, instruction, input, output, group, score, rank, selected
alpaca.json     the selected rows alone, best first: id, instruction, input, output
scores.parquet  every row that the method was to rank, sorted by id, without its text: id, score, rank, selected, reason
                (why it has no score), and what the score is made of, in columns ``part_...``
README.md       the data set card (``export_card``): method, model, licences, steps, command, settings
The folder appears complete or not at all. The same selection gives the same bytes; other content is never replaced.
Rows with a finished prompt (format prompt_response) have it whole under ``instruction``, as the card says.
Known gap: nothing is uploaded.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from icon_repro.data.rows import Example, Score, best_first
from icon_repro.engine.artifact import Step, Store, file_sha256, verify
from icon_repro.engine.folders import discard
from icon_repro.engine.records import read_json, read_rows
from icon_repro.engine.schema import nearest
from icon_repro.experiment import Arm, Experiment
from icon_repro.report.export_card import CardFacts, card
from icon_repro.report.results import ResultsError
from icon_repro.report.settings import Otherwise

_TEXT = ("id", "instruction", "input", "output")
_SCORED = {"score": pyarrow.float64(), "rank": pyarrow.int64(), "selected": pyarrow.bool_()}
NO_REASON = "not scored by the method"  # e.g. it scores a part of the rows only, and stores no reasons


class ExportError(ResultsError):
    """A selection can't be exported: it isn't there, or something else lies where it would go."""


@dataclass(frozen=True)
class StoredSelection:
    """What is stored of one selection."""

    rows: dict[str, Example]  # all that the method was to rank
    scores: dict[str, Score]
    reasons: dict[str, str]  # id -> why it has no score
    ids: list[str]  # selected, best first
    ranks: dict[str, int]  # of rows with a score; the best is 1


def export(
    experiment: Experiment,
    store: Store,
    overrides: Sequence[str],
    say: Callable[[str], None],
    otherwise: Otherwise | None = None,
) -> None:
    """Write the selections that ``config.export`` asks for.

    Args:
        overrides: of the command line, for the card.
        otherwise: settings that aren't those of the experiment's file, for the card.
        say: gets a line a selection.

    Raises:
        ExportError: no such method, fraction or seed; a selection asked for by name, or every one, isn't finished; a
            folder with other content is in the way.
        ArtifactError: a stored step is damaged.
    """
    config = experiment.config
    arms = wanted(experiment)
    finished = {name: arm for name, arm in arms.items() if store.complete(_select(arm))}
    asked = config.export
    by_name = any(value is not None for value in (asked.method, asked.fraction, asked.selection_seed))
    left = [name for name in arms if name not in finished]
    if left and (by_name or not finished):
        raise ExportError(f"{', '.join(left)}: not finished. Run the experiment first (action=run, action=status).")
    target = Path(asked.path).expanduser() if asked.path else Path(config.paths.work) / "export" / config.name
    for name, arm in finished.items():
        selection = read(_select(arm), store)
        text = card(_facts(name, arm, selection), experiment, store, overrides, otherwise)
        is_new = _write(target / name, selection, text)
        say(
            f"{target / name}: {len(selection.ids)} selected of {len(selection.scores)} scored and "
            f"{len(selection.rows)} rows{'' if is_new else ' (was there already)'}"
        )
    for name in left:
        say(f"{name}: left out, isn't finished")


def wanted(experiment: Experiment) -> dict[str, Arm]:
    """By name the arms whose selections ``config.export`` asks for, one of those that share a selection.

    Raises:
        ExportError: the experiment has none such; names the nearest.
    """
    asked = experiment.config.export
    arms: dict[str, Arm] = {}
    for arm in experiment.arms:
        if arm.select is not None:
            arms.setdefault(arm.select.name, arm)
    if not arms:
        raise ExportError(f"{experiment.config.name}: selects nothing; it has no methods.")
    for key in ("method", "fraction", "selection_seed"):
        value = getattr(asked, key)
        if value is None:
            continue
        known = {getattr(arm, key) for arm in arms.values()} - {None}
        if value not in known:
            raise ExportError(f"export.{key}={value!r}: the experiment has no such {key}.{_nearest(value, known)}")
        arms = {name: arm for name, arm in arms.items() if getattr(arm, key) == value}
    return arms


def read(select: Step, store: Store) -> StoredSelection:
    """What a finished selection is made of, with every file compared with its checksum.

    Raises:
        ArtifactError: a file is missing or altered.
    """
    folders = {"ids": store.path(select), **{name: store.path(step) for name, step in select.inputs.items()}}
    for folder in folders.values():
        verify(folder)
    rows = {row.id: row for row in read_rows(folders["universe"] / "rows.jsonl", Example)}
    scores = {row.id: row for row in read_rows(folders["scores"] / "scores.jsonl", Score)}
    failures = folders["scores"] / "failures.jsonl"
    stored_reasons = {row["id"]: row["reason"] for row in read_rows(failures, dict)} if failures.is_file() else {}
    order = best_first({identifier: row.score for identifier, row in scores.items()})
    return StoredSelection(
        rows=rows,
        scores=scores,
        reasons={
            identifier: stored_reasons.get(identifier, NO_REASON) for identifier in sorted(rows.keys() - scores.keys())
        },
        ids=read_json(folders["ids"] / "ids.json"),
        ranks={identifier: place for place, identifier in enumerate(order, start=1)},
    )


def _select(arm: Arm) -> Step:
    assert arm.select is not None  # wanted() leaves the others out
    return arm.select


def _nearest(value: Any, known: set[Any]) -> str:
    if isinstance(value, str):
        return nearest(value, known)
    if not known:
        return " It has none."
    near = min(known, key=lambda other: (abs(other - value), other))
    return f" Nearest: {near:g}. Known: {', '.join(f'{other:g}' for other in sorted(known))}."


def _facts(name: str, arm: Arm, selection: StoredSelection) -> CardFacts:
    assert arm.fraction is not None
    counts: dict[str, int] = {}
    for reason in selection.reasons.values():
        short = reason.partition(":")[0]  # details follow, which may be a row's own
        counts[short] = counts.get(short, 0) + 1
    ready = {selection.rows[identifier].ready for identifier in selection.scores}
    return CardFacts(
        name=name,
        method=arm.method,
        fraction=arm.fraction,
        selection_seed=arm.selection_seed,
        select=_select(arm),
        ranked=len(selection.rows),
        scored=len(selection.scores),
        selected=len(selection.ids),
        reasons=counts,
        ready=ready == {True},
    )


def _write(target: Path, selection: StoredSelection, text: str) -> bool:
    """Write the folder; False if it is there with the same content.

    Raises:
        ExportError: it is there with other content.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        discard(part)  # of a killed export with the same process id
        part.mkdir(parents=True)
    except OSError as error:
        raise ExportError(
            f"{target.parent}: can't be written ({error}). Give another folder with export.path=..."
        ) from error
    try:
        _files(part, selection)
        (part / "README.md").write_text(text, encoding="utf-8")
        if not target.exists():
            part.rename(target)
            return True
        if _contents(target) != _contents(part):
            raise ExportError(
                f"{target}: is there with other content. Move it away, or give another folder with export.path=..."
            )
        return False
    finally:
        discard(part)


def _files(folder: Path, selection: StoredSelection) -> None:
    selected = set(selection.ids)
    best = sorted(selection.scores, key=lambda identifier: selection.ranks[identifier])
    rows = [
        {
            **_texts(selection.rows[identifier]),
            "group": selection.rows[identifier].group,
            "score": selection.scores[identifier].score,
            "rank": selection.ranks[identifier],
            "selected": identifier in selected,
        }
        for identifier in best
    ]
    types = {**dict.fromkeys((*_TEXT, "group"), pyarrow.string()), **_SCORED}
    _parquet(folder / "rows.parquet", rows, types)
    parts = sorted({name for score in selection.scores.values() for name in score.parts})
    measured = []
    for identifier in sorted(selection.rows):
        score = selection.scores.get(identifier)
        measured.append(
            {
                "id": identifier,
                "score": score and score.score,
                "rank": selection.ranks.get(identifier),
                "selected": identifier in selected,
                "reason": selection.reasons.get(identifier),
                **{f"part_{name}": score and score.parts.get(name) for name in parts},
            }
        )
    types = {"id": pyarrow.string(), **_SCORED, "reason": pyarrow.string()}
    _parquet(folder / "scores.parquet", measured, {**types, **{f"part_{name}": pyarrow.float64() for name in parts}})
    with (folder / "alpaca.json").open("w", encoding="utf-8") as file:
        json.dump([_texts(selection.rows[i]) for i in selection.ids], file, indent=1, ensure_ascii=False)
        file.write("\n")


def _texts(row: Example) -> dict[str, str]:
    return dict(zip(_TEXT, (row.id, row.instruction, row.input, row.response), strict=True))


def _parquet(path: Path, rows: list[dict[str, Any]], types: Mapping[str, Any]) -> None:
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(types.items())))
    pyarrow.parquet.write_table(table, path)


def _contents(folder: Path) -> dict[str, str]:
    """sha256 of every file by its path in ``folder``; of a file in its place, of itself."""
    if not folder.is_dir():
        return {"": file_sha256(folder)}
    return {p.relative_to(folder).as_posix(): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
