"""Set each number of Tables 1 to 4 of arXiv 2505.05327 beside ours: the cells, whatever they are written as.

In: ``ResultRow``s; published lines.  Out: a ``PaperTable`` for each published table.
Every cell has a name, ``table1/llama31_8b/icon-0.15/mmlu``: table, model, line, column. IF, KN and RS are means of
the paper's benchmarks of these groups, avg of all twelve; the groups' published means in table 1 are made of its
printed cells.
A difference is ours less the paper's; its interval is as wide as ours, as the paper gives none.
Lines that the paper doesn't have (the controls random and longest, other methods) follow in tables 2 and 3.
Known gap: how the paper counts FLOPs isn't published, so theirs and ours are compared as shares of full tuning only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from icon_repro.report.estimates import Estimate
from icon_repro.report.paper.measures import (
    NotRunError,
    StoredResults,
    benchmark_sample,
    cost_steps,
    evaluation_steps,
    judge_steps,
    line_of,
    score_sample,
    total_flops,
    tuning_flops,
)
from icon_repro.report.paper.published import GROUPS, METHODS, SETS, PublishedLine, benchmarks_of
from icon_repro.report.runs import Line, label
from icon_repro.report.statistics import mean

HERO = "icon"
_COSTS = {
    "flops_e12": "tuning, 1e12 FLOPs",
    "flops_share": "tuning / full tuning",
    "total_e12": "selection + tuning, 1e12 FLOPs",
    "total_share": "selection + tuning / full tuning",
}
_TITLES = {"if_avg": "IF", "kn_avg": "KN", "rs_avg": "RS", "avg": "average", **_COSTS}
TITLES = {
    "table1": "Table 1: full data and ICon's selections on twelve benchmarks",
    "table2": "Table 2: selection methods",
    "table3": "Table 3: winning score of ICon against other methods",
    "table4": "Table 4: transfer to WizardLM-evol-70k of the selection learned on Alpaca",
}


@dataclass(frozen=True)
class PaperCell:
    """A number of ours beside the paper's; None where there is none, and then ``missing`` says why ours isn't there.

    Percentages, winning scores (0 to 2), 1e12 operations, or shares: as the column has them.
    """

    name: str
    column: str
    digits: int
    ours: float | None = None
    half: float | None = None  # of our 95 % interval
    runs: int = 0
    paper: float | None = None
    missing: str = ""
    steps: Sequence[str] = ()
    comparable: bool = True  # whether a difference means something

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.paper is None or not self.comparable else self.ours - self.paper


@dataclass(frozen=True)
class PaperLine:
    """A line of a table: a method at a fraction, or in table 3 an opponent."""

    model: str
    method: str
    title: str
    fraction: float | None
    version: str  # of the paper; empty where it has no such line
    cells: Sequence[PaperCell]

    @property
    def label(self) -> str:
        return label(self.method, self.fraction)

    @property
    def runs(self) -> int:
        return max((cell.runs for cell in self.cells), default=0)


@dataclass(frozen=True)
class PaperTable:
    name: str
    columns: Mapping[str, str]  # name -> title
    lines: Sequence[PaperLine] = field(default_factory=list)


def paper_tables(results: StoredResults, published: Mapping[str, Sequence[PublishedLine]]) -> list[PaperTable]:
    """A table for each published one, in their order.

    Raises:
        StatsError: outcomes that aren't finite.
    """
    return [_table(name, results, lines) for name, lines in published.items()]


def _table(name: str, results: StoredResults, lines: Sequence[PublishedLine]) -> PaperTable:
    columns = _columns(name)
    full = {line.model: line.values.get("flops_e12") for line in lines if line.method == "full"}
    table_lines = []
    for line in lines:
        values = dict(line.values)
        if name == "table1":
            values |= {f"{g.lower()}_avg": fmean(values[b] for b in own) for g, own in GROUPS.items()}
            if (whole := full.get(line.model)) is not None:
                values["flops_share"] = values["flops_e12"] / whole
        table_lines.append(_line(name, results, line.model, line.method, line.fraction, line.version, values, columns))
    if name in ("table2", "table3"):
        known = {(line.method, line.fraction) for line in lines}
        for method, fraction in _others(name, results, {line.fraction for line in lines}):
            if (method, fraction) not in known:
                table_lines.append(_line(name, results, results.model, method, fraction, "", {}, columns))
    return PaperTable(name, {column: _TITLES.get(column, column) for column in columns}, table_lines)


def _columns(name: str) -> list[str]:
    means = ["if_avg", "kn_avg", "rs_avg", "avg"]
    if name == "table3":
        return list(SETS)
    return [*(benchmark for own in GROUPS.values() for benchmark in own if name == "table1"), *means, *_COSTS]


def _others(name: str, results: StoredResults, fractions: set[float]) -> list[tuple[str, float]]:
    """Our lines at the table's fractions that may stand in it."""
    others = []
    for (method, fraction), line in results.lines.items():
        if fraction not in fractions or fraction is None or method == "full":
            continue
        judged = any(one.against == HERO for row in line.rows for one in row.judged.values())
        if name == "table2" or judged:
            others.append((method, fraction))
    return others


def _line(
    table: str,
    results: StoredResults,
    model: str,
    method: str,
    fraction: float,
    version: str,
    values: Mapping[str, float],
    columns: Sequence[str],
) -> PaperLine:
    title = METHODS.get(method, method)
    cells = []
    for column in columns:
        name = f"{table}/{model}/{label(method, fraction)}/{column}"
        paper = values.get(column)
        try:
            if model != results.model:
                raise NotRunError(f"this experiment's model is {results.model}")
            if table == "table3":
                cells.append(_score_cell(name, results, method, fraction, column, paper))
            elif column in _COSTS:
                cells.append(_cost_cell(name, results, line_of(results, method, fraction), column, paper))
            else:
                cells.append(_mean_cell(name, results, line_of(results, method, fraction), column, paper))
        except NotRunError as error:
            digits = 4 if table == "table3" else 3 if column in _COSTS else 2
            comparable = column not in ("flops_e12", "total_e12")
            cells.append(PaperCell(name, column, digits, paper=paper, missing=str(error), comparable=comparable))
    return PaperLine(model, method, title, fraction, version, cells)


def _mean_cell(name: str, results: StoredResults, line: Line, column: str, paper: float | None) -> PaperCell:
    names = list(benchmarks_of(column))
    its_sample = benchmark_sample(results, line, names)
    steps = evaluation_steps(line, names)
    if its_sample is None:
        value = 100 * fmean(line.mean(one) for one in names)
        return PaperCell(name, column, 2, value, None, line.runs, paper, steps=steps)
    return _estimated(name, column, 2, mean(its_sample), 100.0, line.runs, paper, steps)


def _score_cell(
    name: str, results: StoredResults, opponent: str, fraction: float, column: str, paper: float | None
) -> PaperCell:
    line, own = score_sample(results, HERO, fraction, opponent, column)
    return _estimated(name, column, 4, mean(own), 1.0, line.runs, paper, judge_steps(line, column))


def _estimated(
    name: str,
    column: str,
    digits: int,
    found: Estimate,
    scale: float,
    runs: int,
    paper: float | None,
    steps: Sequence[str],
) -> PaperCell:
    value, half = scale * float(found.value), scale * float(found.half_width())
    return PaperCell(name, column, digits, value, half, runs, paper, steps=steps)


def _cost_cell(name: str, results: StoredResults, line: Line, column: str, paper: float | None) -> PaperCell:
    value = tuning_flops(line) if column.startswith("flops") else total_flops(line)
    if column.endswith("_share"):
        value /= tuning_flops(line_of(results, "full", 1.0))
    else:
        value /= 1e12
    comparable = column.endswith("_share")
    return PaperCell(name, column, 3, value, None, line.runs, paper, steps=cost_steps(line), comparable=comparable)
