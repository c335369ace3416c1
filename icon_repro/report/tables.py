"""The results tables of an experiment: methods x benchmarks with cost, verdicts, comparisons by a judge.

In: the rows that ``report.collect`` makes (also stored as metrics.jsonl, one a run).  Out: table, verdicts and, where
there are held-out rows, held_out, where a judge was asked, judged, where texts were compared, contamination, each as
Markdown, csv and LaTeX; metrics.jsonl.
A line is a method at a fraction. A cell is the mean over its runs and half of its 95 % interval
(``icon_repro.report.statistics``).
Known gap: none.
"""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from icon_repro.evaluate.held_out_measures import BY_TOKENS
from icon_repro.report import contamination, verdicts, weighting
from icon_repro.report.latex import latex
from icon_repro.report.runs import Line, Row, averaged, facts, judged_sample, lines, lower, sample
from icon_repro.report.statistics import bootstrap, mean
from icon_repro.report.stored import FILE, write_runs
from icon_repro.report.versions import MIXED, Versions, of_judged, of_pairs

Table = tuple[list[str], list[list[str]]]

TUNED_ON = "tokens tuned on"


def table(rows: Sequence[Row]) -> Table:
    """Header and cells of the table: a line for each method and fraction, in order of first appearance.

    Raises:
        RunsError: runs that can't be averaged.
        StatsError: outcomes that aren't finite.
    """
    benchmarks, beside = averaged(rows), weighting.variants(rows)
    others = [name for name in lower(rows) if name not in beside]
    groups = {group: names for group, names in grouped(rows).items() if group is not None}
    header = ["method", "fraction", "rows", "runs", *benchmarks, *groups, "average", *map(_lower_title, others)]
    header += ["selection tokens", "selection FLOPs", TUNED_ON, "tuning FLOPs", "selection / saved"]
    whole = [row["tuning"] for row in rows if row["method"] == "full"]
    cells = []
    for line in lines(rows):
        cell = [line.method, "-" if line.fraction is None else f"{line.fraction:g}", _count(line.rows), _runs(line)]
        for names in ([name] for name in benchmarks):
            cell.append(shown(line, names))
        for names in (*groups.values(), benchmarks):
            cell.append(shown(line, names) if names else "-")
        cell += [shown(line, [name], 1, 4) for name in others]
        for part in ("selection", "tuning"):
            costs = [row[part] for row in line.rows]
            if None in costs:
                cell += ["missing", "missing"]
            else:  # the runs of a selection share it, but each pays for its own tuning: a run
                cell += [_big(fmean(c[key] for c in costs)) for key in ("tokens", "flops")]
        cell.append(_ratio(line.rows, whole))
        cells.append(cell)
    return header, cells


def grouped(rows: Sequence[Row]) -> dict[str | None, list[str]]:
    """Benchmarks in averages by group, in order of first appearance."""
    found: dict[str | None, list[str]] = {}
    known = facts(rows)
    for name in averaged(rows):
        found.setdefault(known[name]["group"], []).append(name)
    return found


def shown(line: Line, names: Sequence[str], scale: float = 100, digits: int = 2) -> str:
    """A cell: the mean over benchmarks and runs with half of its interval, if the error is known."""
    if not line.has(names):
        return "missing"
    own = sample(line, names)
    if own is None:
        return f"{scale * fmean(line.mean(name) for name in names):.{digits}f}"
    return mean(own).shown(scale, digits)


def _lower_title(name: str) -> str:
    return f"{name} (lower is better)"


def _runs(line: Line) -> str:
    selections = len(set(line.selections))
    return "-" if not line.runs else f"{line.runs}" if selections == 1 else f"{line.runs} ({selections} selections)"


JUDGED = ["method", "fraction", "runs", "prompts of", "against", "prompts", "win", "tie", "lose", "failed"]
JUDGED += ["winning score", "95 % interval", "length-controlled", "same in both orders", "longer wins"]
JUDGED += ["winners' length", "losers' length"]


_SHOWN = {"length_controlled_score": 3, "position_consistency": 2, "longer_wins": 2}  # digits, in JUDGED's order
_SHOWN |= {"length_winners": 0, "length_losers": 0}


def judged(rows: Sequence[Row]) -> Table:
    """Header and cells of the comparisons by a judge: a line for each method, fraction and set of prompts."""
    cells = []
    for line in lines(rows):
        for name in dict.fromkeys(name for row in line.rows for name in (*row["judged"], *row["unjudged"])):
            cell = [line.method, "-" if line.fraction is None else f"{line.fraction:g}", _runs(line), name]
            found = [row["judged"][name] for row in line.rows if name in row["judged"]]
            if len(found) < len(line.rows):
                cells.append([*cell, *["missing"] * (len(JUDGED) - len(cell))])
                continue
            count = sum(one["judged"] for one in found)
            cell += ["/".join(dict.fromkeys(one["against"] for one in found)), str(found[0]["prompts"])]
            cell += [f"{100 * sum(one[key] for one in found) / count:.1f} %" for key in ("win", "tie", "lose")]
            cell.append(f"{100 * sum(one['failed'] for one in found) / sum(one['prompts'] for one in found):.1f} %")
            own = judged_sample(line, name)
            low, high = bootstrap(own, np.random.default_rng(0))
            cell += [f"{mean(own).value:.3f}", f"[{low:.3f}, {high:.3f}]"]
            for key, digits in _SHOWN.items():
                known = [one[key] for one in found if one[key] is not None]
                cell.append(f"{fmean(known):.{digits}f}" if known else "-")
            cells.append(cell)
    return list(JUDGED), cells


def _ratio(group: Sequence[Row], whole: Sequence[Any]) -> str:
    """FLOPs of selection over the FLOPs of tuning that it saves, one seed; ``-`` where nothing is selected or known."""
    if group[0]["fraction"] is None or group[0]["method"] == "full" or not whole:
        return "-"
    parts = [*whole, *(row["tuning"] for row in group), *(row["selection"] for row in group)]
    if None in parts:
        return "missing"
    saved = fmean(w["flops"] for w in whole) - fmean(row["tuning"]["flops"] for row in group)
    return _big(fmean(row["selection"]["flops"] for row in group) / saved) if saved > 0 else "-"


def _big(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}"


def _count(group: Sequence[Row]) -> str:
    """Rows trained on; several numbers if the seeds differ."""
    if all(row["steps"]["train"] is None for row in group):
        return "-"
    found = {row["trained"] for row in group}
    return "missing" if None in found else "/".join(str(n) for n in sorted(found))


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table, padded so that it also reads well as plain text."""
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]

    def format_line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([format_line(header), rule, *(format_line(line) for line in lines)]) + "\n"


def complete(rows: Sequence[Row]) -> bool:
    """Whether no cell of the tables is missing."""
    for row in rows:
        if row["missing"] or row["unjudged"] or row["selection"] is None or row["tuning"] is None:
            return False
        if row["trained"] is None and row["steps"]["train"] is not None:
            return False
    return True


def mixed_versions(packages: Mapping[str, Sequence[str | None]]) -> list[str]:
    """A note if the steps behind a table weren't all made with the same versions.

    Args:
        packages: name -> versions found.
    """
    several = [f"{name} {', '.join(map(str, found))}" for name, found in sorted(packages.items()) if len(found) > 1]
    return [f"mixed versions: the steps were made with {'; '.join(several)}"] if several else []


def caption(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """What the numbers are: metric, items, version and chance level of each task; ``notes``; and what is missing."""
    cells: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        for name, value in row["benchmarks"].items():
            cells.setdefault(name, value)
    known = facts(rows)
    text = [
        f"`{row['model']}`, experiment `{row['experiment']}`. Percent ± half of the 95 % interval; average: plain mean "
        f"of the benchmarks. {_seeds(rows)} Tokens and FLOPs: selection once, tuning for one run; tokens tuned on: of "
        "prompts and responses, over all epochs; last column: FLOPs of selection over those of tuning on all rows that "
        "it saves. Differences between methods: verdicts.md."
        for row in rows[:1]
    ]
    for name, cell in cells.items():
        version = cell["version"]
        versions = sorted({str(v) for v in version.values()}) if isinstance(version, dict) else [str(version)]
        line = f"- {name}: {cell['metric']}, {cell['items']} items, task version {', '.join(versions)}{_rows_of(cell)}"
        line += f", chance {100 * known[name]['chance']:g} %" if known[name]["chance"] is not None else ""
        line += f", group {known[name]['group']}" if known[name]["group"] is not None else ""
        line += "" if known[name]["higher_is_better"] else ", lower is better, not in the average"
        unpaired = [part["name"] or name for part in cell["outcomes"]["parts"] if "values" not in part]
        line += f"; not by item: {', '.join(unpaired)}" if unpaired else ""
        text.append(line)
    text += [f"- {note}" for note in notes]
    for row in rows:
        label = "/".join(
            str(x) for x in (row["method"], row["fraction"], row["selection_seed"], row["seed"]) if x is not None
        )
        for task, why in {**row["missing"], **row["unjudged"]}.items():
            if why.startswith(MIXED):
                continue  # a note says it of all runs
            text.append(f"- missing: {label} {task}: {why}")
    return "\n".join(text) + "\n"


def _rows_of(cell: Mapping[str, Any]) -> str:
    """Which held-out rows a cell is of, how they are weighed, and which were left out."""
    text = ""
    if "weighting" in cell:
        by_tokens = cell["weighting"] == BY_TOKENS
        text += ", nats a response token; " + ("each response token" if by_tokens else "each row") + " weighs the same"
        text += f", {cell['scored_tokens']:,} response tokens"
        text += "".join(
            f"; rows with {what} {count} response tokens" for what, count in cell["response_tokens"].items()
        )
    if cell.get("dropped"):
        text += "; rows left out: " + ", ".join(f"{count} {reason}" for reason, count in cell["dropped"].items())
    return text


def across(versions: Versions | None, found: Sequence[verdicts.Comparison]) -> list[str]:
    """Notes on compared lines that were made with other versions."""
    if versions is None:
        return []
    pairs = [(one.method, one.baseline, one.names) for one in found if one.found is not None]
    return of_pairs(versions, pairs)


def _listed(notes: Sequence[str]) -> str:
    return "".join(f"- {note}\n" for note in notes)


def _seeds(rows: Sequence[Row]) -> str:
    """What the intervals say of seeds."""
    counts = {line.runs for line in lines(rows) if line.runs}
    if counts <= {1}:
        return "One training seed: intervals are over items only and say nothing of other seeds."
    single = " A line with one run has an interval over items only." if 1 in counts else ""
    return f"Intervals are over items and seeds.{single}"


_JUDGED_CAPTION = """\
Winning score: 1 + (wins - losses) / judged prompts, of the method against the other; 1 is even. Interval: 95 %, by
bootstrap over prompts, and seeds where there are several. Failed prompts (no readable verdict) are in no other share.
length-controlled: the score at answers of equal length. same in both orders: share of prompts where the judge prefers
the same answer whichever is shown first. longer wins: share of decided prompts that the longer answer wins.
Lengths of the answers that won and lost: mean, in characters. Half of a score is the win rate, ties counting half.
"""


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
    rows: Sequence[Row],
    folder: Path,
    notes: Sequence[str] = (),
    versions: Versions | None = None,
    stored: Sequence[Row] | None = None,
    primary: Mapping[str, Any] | None = None,
) -> tuple[str, Table]:
    """Write metrics.jsonl and the tables.

    Args:
        notes: lines below the first table.
        versions: what made the cells: comparisons over several are marked.
        stored: what metrics.jsonl gets, if not ``rows``.
        primary: the comparison that the experiment's config names beforehand.

    Returns:
        All tables as text, and the first.

    Raises:
        RunsError: runs that can't be averaged.
        StatsError: outcomes that can't be compared.
    """
    compared = verdicts.comparisons(rows)
    notes_on_verdicts = [*weighting.weighting_dependent(rows, compared), *across(versions, compared)]
    made = {
        "table": (table(rows), caption(rows, notes)),
        "verdicts": (verdicts.table(compared, primary), ""),
    }
    if weighting.weighted(rows):
        made["held_out"] = (weighting.table(rows, lambda line, name: shown(line, [name], 1, 4)), weighting.CAPTION)
    texts = {"verdicts": verdicts.document(rows, compared, primary, _listed(notes_on_verdicts), markdown)}
    if any(row["judged"] or row["unjudged"] for row in rows):
        made["judged"] = (judged(rows), _JUDGED_CAPTION + _listed(of_judged(versions, rows) if versions else []))
    if contamination.known(rows):
        made["contamination"] = (contamination.table(rows), contamination.caption(rows))
    drop(folder, _TITLES.keys() - made.keys())
    folder.mkdir(parents=True, exist_ok=True)
    write_runs(folder / FILE, stored if stored is not None else rows)
    for name, ((header, cells), below) in made.items():
        text = texts.get(name, f"{markdown(header, cells)}\n{below}")
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *cells])
        title = f"{_TITLES[name]} of experiment {rows[0]['experiment']}."
        (folder / f"{name}.tex").write_text(latex(header, cells, title, f"tab:{name}"), encoding="utf-8")
    return "\n".join(markdown(*found) for found, _ in made.values()), made["table"][0]
