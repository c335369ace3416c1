"""A selection that already exists: a released one, or one of your own, as a list of ids, best first.

In: candidates, and a file of ids.  Out: scores.jsonl; the score is the place in the list, negative.
Formats: ``.json`` (a list), ``.jsonl`` and ``.csv`` (a column ``id``), any other name one id a line. If fewer ids are
listed than a fraction asks for, the selection holds the listed ones only, and says so.
Known gap: none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.data.files import user_rows, user_text
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import unhashed
from icon_repro.methods.base import Build, Method, Setting
from icon_repro.methods.common.outcome import write_scores


@dataclass
class IdsConfig:
    """A released selection, or one of yours, as a list of ids."""

    kind: str = "ids"
    path: str = unhashed("", example="ids.csv")  # hashed by content


class IdsError(ValueError):
    """The file is no list of ids of the rows to select from."""


def plan(build: Build, name: str, options: IdsConfig) -> Step:
    """One step, which reads the file."""
    files = {"ids": build.planner.file(f"methods.{name}.path", options.path)}
    return build.step(run, name, options, {"candidates": build.universe}, files=files)


def problems(where: str, options: IdsConfig, setting: Setting) -> list[str]:
    """There must be a file."""
    return [] if options.path else [f"{where}.path: kind ids needs the path of a list of ids."]


def read_ids(path: Path) -> list[str]:
    """The ids in a file, in its order.

    Raises:
        IdsError: another form than the module says, no ids, or an id listed twice.
    """
    try:
        if path.suffix == ".json":
            ids = json.loads(user_text(path))
        elif path.suffix in (".jsonl", ".csv"):
            ids = [row["id"] for _, row in user_rows(path)]
        else:
            ids = [line.strip() for line in user_text(path).splitlines() if line.strip()]
    except (ValueError, KeyError) as error:
        raise IdsError(
            f"{path.name}: can't be read as ids ({error}). Give a JSON list, JSONL or csv with a column id, or one id "
            "a line."
        ) from error
    if isinstance(ids, list):  # rows have the numbers of a data file as texts
        ids = [str(i) if isinstance(i, int) and not isinstance(i, bool) else i for i in ids]
    if not isinstance(ids, list) or not ids or any(not isinstance(i, str) for i in ids):
        raise IdsError(f"{path.name}: must hold a list of ids, each a text or a whole number, and at least one.")
    if repeated := sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []:
        raise IdsError(f"{path.name}: {len(repeated)} ids are listed twice (first: {repeated[0]!r}). Keep one of each.")
    return ids


def run(cfg: IdsConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs["candidates"], files["ids"]."""
    path = runtime.files["ids"]
    ids = read_ids(path)
    rows = {row.id for row in read_rows(inputs["candidates"] / "rows.jsonl", Example)}
    if unknown := [i for i in ids if i not in rows]:
        raise IdsError(
            f"{path.name}: {len(unknown)} of {len(ids)} ids aren't among the {len(rows)} rows to select from (first: "
            f"{unknown[0]!r}). An id is that of the data file, else the hash of the row's text; "
            "select_from=pool has all rows."
        )
    listed = [Score(identifier, -float(place)) for place, identifier in enumerate(ids)]
    counts = write_scores(out, listed, dict.fromkeys(rows - set(ids), "not in the list"))
    return {**counts, "tokens": 0, "flops": 0}


METHOD = Method(IdsConfig, plan, "place in a list of ids that was given, negative", problems)
