"""Read numbers of the paper's figures, to be drawn beside ours: ``paper_figure2.csv`` and ``paper_figure3.csv``.

In: the folder with an experiment's published numbers.  Out: ``PaperFigures`` of one model.
Source: figures 2 (wins, ties, losses of a selection of ICon's against full data) and 3 (average by share of rows) of
arXiv 2505.05327; ``read_from`` is table where the number is printed, pixels where it was read off the figure.
Known gap: none.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icon_repro.report.paper.published import PublishedError

FILES = ("paper_figure2.csv", "paper_figure3.csv")
_JUDGED = ["source", "version", "model", "n_selected", "set", "win", "tie", "lose"]
_SCALE = ["source", "version", "model", "fraction", "avg", "read_from"]


@dataclass(frozen=True)
class PaperFigures:
    """What the paper's figures show of one model."""

    judged: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by set of prompts: win, tie, lose; counts
    selected: Mapping[str, int] = field(default_factory=dict)  # by set of prompts: how many rows were tuned on
    scale: Sequence[tuple[float, float]] = ()  # share of rows, average in percent; by share


def read_paper_figures(folder: Path, model: str) -> PaperFigures:
    """The numbers of ``model``; empty where the paper shows none.

    Raises:
        PublishedError: other columns, or a value that isn't a number.
    """
    judged, scale = (_read(folder / name, columns) for name, columns in zip(FILES, (_JUDGED, _SCALE), strict=True))
    of_model = [row for row in judged if row["model"] == model]
    points = [(_number(row, "fraction"), _number(row, "avg")) for row in scale if row["model"] == model]
    shares = {row["set"]: [_number(row, key) for key in ("win", "tie", "lose")] for row in of_model}
    return PaperFigures(shares, {row["set"]: int(_number(row, "n_selected")) for row in of_model}, sorted(points))


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise PublishedError(f"{path}: columns {reader.fieldnames}; must be {list(columns)}.")
        return [{**row, "": str(path)} for row in reader]


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PublishedError(f"{row['']}: {column}={row[column]!r}: must be a finite number.")
    return value
