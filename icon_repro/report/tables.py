"""Make the results tables of an experiment: methods x benchmarks with cost, verdicts, comparisons by a judge.

In: ``ResultRow``s (also stored as metrics.jsonl, one a run).  Out: table, verdicts and, where
there are held-out rows, held_out, where a judge was asked, judged, where texts were compared, contamination, each as
Markdown and LaTeX for people and as tidy csv of numbers; metrics.jsonl.
A line is a method at a fraction. A cell is the mean over its runs and half of its 95 % interval
(``icon_repro.report.statistics``).
Known gap: none.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from icon_repro.evaluate.held_out_measures import BY_TOKENS
from icon_repro.report import contamination, judged, verdicts, weighting
from icon_repro.report.cells import (
    MISSING,
    NOT_APPLICABLE,
    PERCENT,
    Cell,
    Field,
    Tidy,
    about,
    lower_unit,
    mean_cell,
    runs_text,
    write_csv,
)
from icon_repro.report.latex import latex
from icon_repro.report.rows import FILE, BenchmarkResult, ResultRow, Spent, write_result_rows
from icon_repro.report.runs import Line, averaged, facts, lines, lower
from icon_repro.report.versions import MIXED, Versions, of_judged, of_pairs

Table = tuple[list[str], list[list[str]]]

TUNED_ON = "tokens tuned on"


def table(rows: Sequence[ResultRow]) -> Table:
    """Header and cells of the table: a line for each method and fraction, in order of first appearance.

    Raises:
        RunsError: runs that can't be averaged.
        StatsError: outcomes that aren't finite.
    """
    benchmarks, groups, others = _columns(rows)
    header = ["method", "fraction", "rows", "runs", *benchmarks, *groups, "average", *map(_lower_title, others)]
    header += ["selection tokens", "selection FLOPs", TUNED_ON, "tuning FLOPs", "selection / saved"]
    cells = []
    for line, measures in _measures(rows):
        count, *rest = [cell.text for cell in measures]
        cells.append(
            [line.method, "-" if line.fraction is None else f"{line.fraction:g}", count, runs_text(line), *rest]
        )
    return header, cells


COLUMNS = ["method", "fraction", "measure", "value", "low", "high", "unit", "higher is better", "runs", "selections"]
COLUMNS += ["items", "status"]


def tidy(rows: Sequence[ResultRow]) -> list[dict[str, Field]]:
    """The same numbers, a line for each measure, with ``COLUMNS``; measures that a line can't have are left out."""
    _, _, others = _columns(rows)
    made = []
    for line, measures in _measures(rows):
        for cell in measures:
            if cell.text != NOT_APPLICABLE:
                rated = cell.unit == PERCENT or cell.measure in others
                higher: Field = None if not rated else "yes" if cell.unit == PERCENT else "no"
                made.append({**about(line), **cell.tidy(), "higher is better": higher})
    return made


def _columns(rows: Sequence[ResultRow]) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Benchmarks in averages, their groups, and benchmarks of which lower is better."""
    beside = weighting.variants(rows)
    groups = {group: names for group, names in grouped(rows).items() if group is not None}
    return averaged(rows), groups, [name for name in lower(rows) if name not in beside]


def _measures(rows: Sequence[ResultRow]) -> Iterator[tuple[Line, list[Cell]]]:
    """Each line with its measures, the rows tuned on first, then in the order of the header."""
    benchmarks, groups, others = _columns(rows)
    whole = [row.tuning for row in rows if row.method == "full"]
    for line in lines(rows):
        cells = [_count(line.rows)]
        cells += [mean_cell(line, [name], name) for name in benchmarks]
        for measure, names in {**groups, "average": benchmarks}.items():
            cells.append(mean_cell(line, names, measure) if names else Cell(measure, NOT_APPLICABLE, PERCENT))
        cells += [mean_cell(line, [name], name, lower_unit(line, name), 1, 4) for name in others]
        # the runs of a selection share it, but each pays for its own tuning: a run
        for titles, spent in (
            (("selection tokens", "selection FLOPs"), [row.selection for row in line.rows]),
            ((TUNED_ON, "tuning FLOPs"), [row.tuning for row in line.rows]),
        ):
            known = [one for one in spent if one is not None]
            for title, unit, values in zip(
                titles, ("tokens", "FLOPs"), ([o.tokens for o in known], [o.flops for o in known]), strict=True
            ):
                lacking = len(known) < len(spent)
                cells.append(Cell(title, MISSING, unit) if lacking else _big(title, unit, fmean(values)))
        cells.append(_ratio(line.rows, whole))
        yield line, cells


def grouped(rows: Sequence[ResultRow]) -> dict[str | None, list[str]]:
    """Benchmarks in averages by group, in order of first appearance."""
    found: dict[str | None, list[str]] = {}
    known = facts(rows)
    for name in averaged(rows):
        found.setdefault(known[name].group, []).append(name)
    return found


def _lower_title(name: str) -> str:
    return f"{name} (lower is better)"


def _ratio(group: Sequence[ResultRow], whole: Sequence[Spent | None]) -> Cell:
    """FLOPs of selection over the FLOPs of tuning that it saves, one seed; ``-`` where nothing is selected or known."""
    title, unit = "selection / saved", "ratio of FLOPs"
    if group[0].fraction is None or group[0].method == "full" or not whole:
        return Cell(title, NOT_APPLICABLE, unit)
    parts = [whole, [row.tuning for row in group], [row.selection for row in group]]
    flops = [[spent.flops for spent in part if spent is not None] for part in parts]
    if any(len(known) < len(part) for known, part in zip(flops, parts, strict=True)):
        return Cell(title, MISSING, unit)
    full, tuning, selection = map(fmean, flops)
    saved = full - tuning
    return _big(title, unit, selection / saved) if saved > 0 else Cell(title, NOT_APPLICABLE, unit)


def _big(measure: str, unit: str, value: float) -> Cell:
    return Cell(measure, "0" if value == 0 else f"{value:.3g}", unit, value)


def _count(group: Sequence[ResultRow]) -> Cell:
    """Rows trained on; the text has several numbers if the seeds differ, whose mean is the value."""
    if all(row.steps.train is None for row in group):
        return Cell("rows", NOT_APPLICABLE, "rows")
    known = [row.trained for row in group if row.trained is not None]
    if len(known) < len(group):
        return Cell("rows", MISSING, "rows")
    return Cell("rows", "/".join(str(n) for n in sorted(set(known))), "rows", fmean(known))


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table, padded so that it also reads well as plain text."""
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]

    def format_line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([format_line(header), rule, *(format_line(line) for line in lines)]) + "\n"


def complete(rows: Sequence[ResultRow]) -> bool:
    """Whether no cell of the tables is missing."""
    for row in rows:
        if row.missing or row.unjudged or row.selection is None or row.tuning is None:
            return False
        if row.trained is None and row.steps.train is not None:
            return False
    return True


def mixed_versions(packages: Mapping[str, Sequence[str | None]]) -> list[str]:
    """A note if the steps behind a table weren't all made with the same versions.

    Args:
        packages: name -> versions found.
    """
    several = [f"{name} {', '.join(map(str, found))}" for name, found in sorted(packages.items()) if len(found) > 1]
    return [f"mixed versions: the steps were made with {'; '.join(several)}"] if several else []


def caption(rows: Sequence[ResultRow], notes: Sequence[str] = ()) -> str:
    """What the numbers are: metric, items, version and chance level of each task; ``notes``; and what is missing."""
    cells: dict[str, BenchmarkResult] = {}
    for row in rows:
        for name, value in row.benchmarks.items():
            cells.setdefault(name, value)
    known = facts(rows)
    text = [
        f"`{row.model}`, experiment `{row.experiment}`. Percent ± half of the 95 % interval; average: plain mean "
        f"of the benchmarks. {_seeds(rows)} Tokens and FLOPs: selection once, tuning for one run; tokens tuned on: of "
        "prompts and responses, over all epochs; last column: FLOPs of selection over those of tuning on all rows that "
        "it saves. Differences between methods: verdicts.md."
        for row in rows[:1]
    ]
    for name, cell in cells.items():
        version = cell.version
        versions = sorted({str(v) for v in version.values()}) if isinstance(version, Mapping) else [str(version)]
        line = f"- {name}: {cell.metric}, {cell.items} items, task version {', '.join(versions)}{_rows_of(cell)}"
        line += f", chance {100 * chance:g} %" if (chance := known[name].chance) is not None else ""
        line += f", group {known[name].group}" if known[name].group is not None else ""
        line += "" if known[name].higher_is_better else ", lower is better, not in the average"
        unpaired = [part.name or name for part in cell.outcomes.parts if part.values is None]
        line += f"; not by item: {', '.join(unpaired)}" if unpaired else ""
        text.append(line)
    text += [f"- {note}" for note in notes]
    for row in rows:
        label = "/".join(str(x) for x in (row.method, row.fraction, row.selection_seed, row.seed) if x is not None)
        for task, why in {**row.missing, **row.unjudged}.items():
            if why.startswith(MIXED):
                continue  # a note says it of all runs
            text.append(f"- missing: {label} {task}: {why}")
    return "\n".join(text) + "\n"


def _rows_of(cell: BenchmarkResult) -> str:
    """Which held-out rows a cell is of, how they are weighed, and which were left out."""
    text = ""
    if cell.weighting is not None:
        by_tokens = cell.weighting == BY_TOKENS
        text += ", nats a response token; " + ("each response token" if by_tokens else "each row") + " weighs the same"
        text += f", {cell.scored_tokens:,} response tokens"
        text += "".join(
            f"; rows with {what} {count} response tokens" for what, count in (cell.response_tokens or {}).items()
        )
    if cell.dropped:
        text += "; rows left out: " + ", ".join(f"{count} {reason}" for reason, count in cell.dropped.items())
    return text


def across(versions: Versions | None, found: Sequence[verdicts.Comparison]) -> list[str]:
    """Notes on compared lines that were made with other versions."""
    if versions is None:
        return []
    pairs = [(one.method, one.baseline, one.names) for one in found if one.found is not None]
    return of_pairs(versions, pairs)


def _listed(notes: Sequence[str]) -> str:
    return "".join(f"- {note}\n" for note in notes)


def _seeds(rows: Sequence[ResultRow]) -> str:
    """What the intervals say of seeds."""
    counts = {line.runs for line in lines(rows) if line.runs}
    if counts <= {1}:
        return "One training seed: intervals are over items only and say nothing of other seeds."
    single = " A line with one run has an interval over items only." if 1 in counts else ""
    return f"Intervals are over items and seeds.{single}"


_TITLES = {
    "table": "Results",
    "verdicts": "Differences from the controls",
    "held_out": "Held-out responses by length",
    "judged": "Comparisons by a judge",
    "contamination": "Benchmark items with text of the tuning rows",
}


def drop(folder: Path, names: Iterable[str]) -> None:
    """Remove tables that an earlier report had and this one hasn't."""
    for name, kind in itertools.product(names, ("md", "csv", "tex")):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


def write(
    rows: Sequence[ResultRow],
    folder: Path,
    notes: Sequence[str] = (),
    versions: Versions | None = None,
    stored: Sequence[ResultRow] | None = None,
    primary: Mapping[str, Any] | None = None,
    compared: Sequence[verdicts.Comparison] | None = None,
) -> tuple[str, Table]:
    """Write metrics.jsonl and the tables.

    Args:
        notes: lines below the first table.
        versions: what made the cells: comparisons over several are marked.
        stored: what metrics.jsonl gets, if not ``rows``.
        primary: the comparison that the experiment's config names beforehand.
        compared: ``verdicts.comparisons`` of ``rows``, where they are made already.

    Returns:
        All tables as text, and the first.

    Raises:
        RunsError: runs that can't be averaged.
        StatsError: outcomes that can't be compared.
    """
    made = _tables(rows, notes, versions, primary, verdicts.comparisons(rows) if compared is None else compared)
    drop(folder, _TITLES.keys() - made.keys())
    folder.mkdir(parents=True, exist_ok=True)
    write_result_rows(folder / FILE, stored if stored is not None else rows)
    for name, one in made.items():
        (folder / f"{name}.md").write_text(one.text, encoding="utf-8")
        write_csv(folder / f"{name}.csv", one.columns, one.numbers)
        title = f"{_TITLES[name]} of experiment {rows[0].experiment}."
        (folder / f"{name}.tex").write_text(latex(one.header, one.cells, title, f"tab:{name}"), encoding="utf-8")
    whole = "\n".join(markdown(one.header, one.cells) for one in made.values())
    return whole, (made["table"].header, made["table"].cells)


@dataclass(frozen=True)
class _Written:
    """What the files of one table hold."""

    header: list[str]
    cells: list[list[str]]
    text: str  # Markdown, with what stands around the table
    columns: Sequence[str]
    numbers: Tidy


def _tables(
    rows: Sequence[ResultRow],
    notes: Sequence[str],
    versions: Versions | None,
    primary: Mapping[str, Any] | None,
    compared: Sequence[verdicts.Comparison],
) -> dict[str, _Written]:
    """Every table that the rows give, by name."""
    notes_on_verdicts = [*weighting.weighting_dependent(rows, compared, primary), *across(versions, compared)]

    def written(
        header: list[str], cells: list[list[str]], below: str, columns: Sequence[str], numbers: Tidy
    ) -> _Written:
        return _Written(header, cells, f"{markdown(header, cells)}\n{below}", columns, numbers)

    made = {"table": written(*table(rows), caption(rows, notes), COLUMNS, tidy(rows))}
    document = verdicts.document(rows, compared, primary, _listed(notes_on_verdicts), markdown)
    header, cells = verdicts.table(compared, primary)
    made["verdicts"] = _Written(header, cells, document, verdicts.COLUMNS, verdicts.tidy(compared, primary))
    if weighting.weighted(rows):
        header, cells, numbers = weighting.table(rows)
        made["held_out"] = written(header, cells, weighting.CAPTION, weighting.COLUMNS, numbers)
    if any(row.judged or row.unjudged for row in rows):
        below = judged.CAPTION + _listed([*judged.judges(rows), *(of_judged(versions, rows) if versions else [])])
        header, cells, numbers = judged.table(rows)
        made["judged"] = written(header, cells, below, judged.COLUMNS, numbers)
    if contamination.known(rows):
        header, cells, numbers = contamination.table(rows)
        made["contamination"] = written(header, cells, contamination.caption(rows), contamination.COLUMNS, numbers)
    return made
