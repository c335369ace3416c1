"""Rows of runs in metrics.jsonl: what all runs share of a benchmark's items is written once.

In / out: the rows that ``report.collect`` makes.  Sizes and groups of items are the same for every run; the first row
that has a benchmark holds them, others hold ``FIRST`` in their place. ``report.versions.separated``, through which a
report reads rows, makes them whole.
Known gap: none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine.records import RecordError, write_rows
from icon_repro.report.runs import Row

FILE = "metrics.jsonl"
FIRST = "as in the first row that has them"
_SHARED = ("sizes", "groups")


def write_runs(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, one a line."""
    first: dict[tuple[str, int, str], Any] = {}

    def short(place: tuple[str, int, str], value: Any) -> Any:
        if place in first:
            return FIRST if first[place] == value else value
        first[place] = value
        return value

    write_rows(path, [_changed(row, short) for row in rows])


def whole(rows: Sequence[Row]) -> list[Row]:
    """The rows as they were before they were written; rows that are whole stay so.

    Raises:
        RecordError: one refers to a row that isn't there.
    """
    first: dict[tuple[str, int, str], Any] = {}

    def full(place: tuple[str, int, str], value: Any) -> Any:
        if value != FIRST:
            first.setdefault(place, value)
            return value
        if place not in first:
            name, _, key = place
            raise RecordError(f"{FILE}: no row has the {key} of {name!r} that others refer to. Restore the file.")
        return first[place]

    return [_changed(row, full) for row in rows]


def _changed(row: Row, change: Any) -> dict[str, Any]:
    """``row`` with ``change((benchmark, part, key), value)`` for each value that runs share."""
    made = dict(row)
    if not isinstance(row.get("benchmarks"), Mapping):
        return made
    made["benchmarks"] = {}
    for name, cell in row["benchmarks"].items():
        parts = cell["outcomes"]["parts"] if "outcomes" in cell else []
        if not any(key in part for part in parts for key in _SHARED):
            made["benchmarks"][name] = cell
            continue
        changed = [
            {key: change((name, index, key), value) if key in _SHARED else value for key, value in part.items()}
            for index, part in enumerate(parts)
        ]
        made["benchmarks"][name] = {**cell, "outcomes": {**cell["outcomes"], "parts": changed}}
    return made
