"""Write the tables beside the paper's: ``paper_table1.md``, ``.csv`` and ``.tex`` and so on.

In: ``PaperTable``.  Out: in Markdown and LaTeX a line each for ours, the paper's and the difference; in csv a line a
cell, with interval, runs, version, difference, why it is missing, and the steps behind it.
Known gap: none.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from icon_repro.report.latex import latex
from icon_repro.report.paper.paper_tables import TITLES, PaperCell, PaperLine, PaperTable
from icon_repro.report.paper.published import VERSIONS
from icon_repro.report.tables import markdown

CSV = ["cell", "table", "model", "line", "column", "ours", "low", "high", "runs", "paper", "version", "difference"]
CSV += ["missing", "steps"]
_COLUMNS_AHEAD = ["model", "method", "fraction", "runs", "number"]
_FLOPS = """\
FLOPs: 6 N operations a token of tuning (4 N with LoRA) and 2 N of a forward pass, N the parameters, over what was run.
Tuning alone is what the paper counts; how, it doesn't say, so its numbers and ours are compared as shares of full
tuning.
"""


def write_paper_tables(tables: Sequence[PaperTable], experiment: str, folder: Path) -> str:
    """Write every table; returns them as text."""
    shown = []
    for table in tables:
        stem = f"paper_{table.name}"
        header, cells, rules = grid(table)
        text = markdown(header, cells)
        below = caption(table, experiment)
        (folder / f"{stem}.md").write_text(f"{text}\n{below}", encoding="utf-8")
        with (folder / f"{stem}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([CSV, *tidy(table)])
        title = f"{TITLES[table.name]}; experiment {experiment}, ours beside arXiv 2505.05327."
        (folder / f"{stem}.tex").write_text(latex(header, cells, title, f"tab:{stem}", rules), encoding="utf-8")
        shown.append(text)
    return "\n".join(shown)


def grid(table: PaperTable) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, cells, and the numbers of the rows where a line of the table begins."""
    header = [*_COLUMNS_AHEAD, *table.columns.values()]
    rows: list[list[str]] = []
    begins = []
    for line in table.lines:
        begins.append(len(rows))
        fraction = "-" if line.fraction is None else f"{line.fraction:g}"
        ahead = [line.model, line.title, fraction, str(line.runs) if line.runs else "-"]
        rows.append([*ahead, "ours", *map(_ours, line.cells)])
        if line.version:
            paper = [_number(cell.paper, cell.digits) for cell in line.cells]
            rows.append([*ahead[:3], "", f"paper, {VERSIONS[line.version]}", *paper])
            differences = [_number(cell.difference, cell.digits, "+") for cell in line.cells]
            rows.append([*ahead[:3], "", "difference", *differences])
    return header, rows, begins


def _ours(cell: PaperCell) -> str:
    if cell.ours is None:
        return "missing"
    shown = _number(cell.ours, cell.digits)
    return shown if cell.half is None else f"{shown} ± {cell.half:.{cell.digits}f}"


def _number(value: float | None, digits: int, sign: str = "") -> str:
    """In 1e12 operations numbers are large: four digits then."""
    if value is None:
        return "-"
    return f"{value:{sign}.4g}" if abs(value) >= 1000 else f"{value:{sign}.{digits}f}"


def caption(table: PaperTable, experiment: str) -> str:
    """What the numbers are, and why which cells are missing."""
    text = [f"{TITLES[table.name]}. Experiment `{experiment}`."]
    if table.name == "table3":
        text[0] += " 1 + (wins - losses) / prompts of ICon against the method of the line, ± half of the 95 % interval."
    else:
        text[0] += " Percent ± half of the 95 % interval over items, and over seeds where a line has several runs."
    text.append(
        "Difference: ours less the paper's. The paper gives one run and no interval, so what its own number would vary "
        "by isn't known. Each cell: action=report explain='<cell of the csv>'."
    )
    if any("flops" in column for column in table.columns):
        text.append(_FLOPS.strip())
    if not all(line.version for line in table.lines):
        text.append("Lines without the paper's numbers: methods that it doesn't have.")
    for line in table.lines:
        text += [f"- missing: {line.model}/{line.label} {columns}: {why}" for why, columns in _missing(line).items()]
    return "\n".join(text) + "\n"


def _missing(line: PaperLine) -> Mapping[str, str]:
    """Reason -> the columns that it holds for, ``all`` if these are all."""
    columns_by_reason: dict[str, list[str]] = {}
    for cell in line.cells:
        if cell.missing:
            columns_by_reason.setdefault(cell.missing, []).append(cell.column)
    return {
        why: "all" if len(names) == len(line.cells) else ", ".join(names) for why, names in columns_by_reason.items()
    }


def tidy(table: PaperTable) -> list[list[str]]:
    """A line a cell, as ``CSV`` names it."""
    cells = []
    for line in table.lines:
        for cell in line.cells:
            low = high = None
            if cell.ours is not None and cell.half is not None:
                low, high = cell.ours - cell.half, cell.ours + cell.half
            numbers = [_plain(value) for value in (cell.ours, low, high)]
            more = [_plain(cell.paper), line.version if cell.paper is not None else "", _plain(cell.difference)]
            steps = " ".join(dict.fromkeys(cell.steps))
            about = [cell.name, table.name, line.model, line.label, cell.column]
            cells.append([*about, *numbers, str(cell.runs), *more, cell.missing, steps])
    return cells


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
