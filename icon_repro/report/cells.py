"""Write cells of tables: the text that people read with the number behind it, and files of such numbers.

In: a line's outcomes.  Out: ``Cell``; tidy csv: a line for each measure of a method, every column a number or a name.
A number that isn't there is an empty cell: ``status`` says why (missing: a step isn't finished; not enough: a value
without an interval). Counts are written whole, other numbers to eight digits.
Known gap: none.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from icon_repro.report.runs import Line, sample
from icon_repro.report.statistics import mean

PERCENT, NATS = "percent", "nats per response token"
MISSING, NOT_ENOUGH = "missing", "not enough"
NOT_APPLICABLE = "-"  # the text of a cell that can't have a number: it has no line in a csv

Field = str | int | float | None
Tidy = Sequence[Mapping[str, Field]]


@dataclass(frozen=True)
class Cell:
    """One measure of a line."""

    measure: str
    text: str
    unit: str
    value: float | None = None
    low: float | None = None  # ends of the 95 % interval
    high: float | None = None
    items: int | None = None

    @property
    def status(self) -> str:
        """Why there is no value, or no interval; empty if nothing is missing."""
        return self.text if self.text == MISSING else NOT_ENOUGH if self.text.endswith(f"({NOT_ENOUGH})") else ""

    def tidy(self) -> dict[str, Field]:
        """Its columns in a csv."""
        numbers: dict[str, Field] = {"value": self.value, "low": self.low, "high": self.high}
        return {"measure": self.measure, **numbers, "unit": self.unit, "items": self.items, "status": self.status}


def mean_cell(
    line: Line, names: Sequence[str], measure: str, unit: str = PERCENT, scale: float = 100, digits: int = 2
) -> Cell:
    """The mean over benchmarks and runs with its interval, if the error is known.

    Args:
        names: the benchmarks; at least one.
        scale: from the benchmarks' unit to ``unit``.
    """
    if not line.has(names):
        return Cell(measure, MISSING, unit)
    items = sum(line.rows[0].benchmarks[name].items for name in names)
    outcomes = sample(line, names)
    if outcomes is None:
        value = scale * fmean(line.mean(name) for name in names)
        return Cell(measure, f"{value:.{digits}f}", unit, value, items=items)
    estimate = mean(outcomes)
    low, high = (scale * float(end) for end in estimate.interval())
    if not math.isfinite(estimate.half_width()):
        return Cell(measure, estimate.shown(scale, digits), unit, scale * float(estimate.value), items=items)
    return Cell(measure, estimate.shown(scale, digits), unit, scale * float(estimate.value), low, high, items)


def runs_text(line: Line) -> str:
    """How many trained models a line has, and of how many selections."""
    selections = len(set(line.selections))
    return "-" if not line.runs else f"{line.runs}" if selections == 1 else f"{line.runs} ({selections} selections)"


def lower_unit(line: Line, name: str) -> str:
    """The unit of a benchmark of which lower is better."""
    cell = line.rows[0].benchmarks.get(name)
    return NATS if cell is None or cell.metric == "nll" else cell.metric


def about(line: Line) -> dict[str, Field]:
    """The first columns of a line in a csv: method, fraction, trained models and selections behind them."""
    selections = len(set(line.selections)) if line.runs else 0
    return {"method": line.method, "fraction": line.fraction, "runs": line.runs, "selections": selections}


def number_text(value: Field) -> str:
    """A number as a csv has it; empty for None and for what isn't finite."""
    if value is None or isinstance(value, str):
        return value or ""
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.8g}"


def write_csv(path: Path, columns: Sequence[str], lines: Tidy) -> None:
    """Write a csv with a header.

    Args:
        lines: the columns of each line by name; a column that a line lacks is empty.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for line in lines:
            assert set(line) <= set(columns), sorted(set(line) - set(columns))
            writer.writerow([number_text(line.get(column)) for column in columns])
