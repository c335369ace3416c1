"""The results table of an experiment: methods x benchmarks, with cost; Markdown and csv.

In: the rows that ``engine.collect`` makes (also stored as metrics.jsonl).  Out: table.md, table.csv, metrics.jsonl.
Each cell: mean over training seeds +- standard error. The error joins the items' (as lm-eval gives it, the same items
for each seed) and, with several seeds, the spread between seeds: sqrt(mean se^2 + var / n).
Known gap: rows are compared by eye; tests and intervals come with the statistics stage.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from icon_repro.records import write_rows

Row = Mapping[str, Any]


def cell(values: Sequence[Mapping[str, Any]]) -> tuple[float, float | None]:
    """Mean over seeds and its standard error; None where lm-eval gives none."""
    mean = fmean(v["value"] for v in values)
    errors = [v["stderr"] for v in values if v["stderr"] is not None]
    if len(errors) < len(values):
        return mean, None
    seeds = variance(v["value"] for v in values) / len(values) if len(values) > 1 else 0.0
    return mean, math.sqrt(fmean(e * e for e in errors) + seeds)


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table: a line for each method and fraction, in order of first appearance."""
    tasks = list(dict.fromkeys(t for row in rows for t in [*row["benchmarks"], *row["missing"]]))
    header = ["method", "fraction", "rows", "seeds", *tasks, "average"]
    header += ["selection tokens", "selection FLOPs", "tuning tokens", "tuning FLOPs", "selection / saved"]
    whole = [row["tuning"] for row in rows if row["method"] == "full"]
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["fraction"]), []).append(row)
    lines = []
    for (method, fraction), group in groups.items():
        line = [method, "-" if fraction is None else f"{fraction:g}", _count(group)]
        line.append(str(len(group)) if group[0]["seed"] is not None else "-")
        cells = []
        for task in tasks:
            found = [row["benchmarks"][task] for row in group if task in row["benchmarks"]]
            if len(found) < len(group):
                line.append("missing")
            else:
                cells.append(cell(found))
                line.append(_percent(*cells[-1]))
        if len(cells) == len(tasks) and cells:
            errors = [error for _, error in cells]
            joint = None if None in errors else math.sqrt(sum(e * e for e in errors if e is not None)) / len(errors)
            line.append(_percent(fmean(mean for mean, _ in cells), joint))
        else:
            line.append("missing")
        for part in ("selection", "tuning"):
            costs = [row[part] for row in group]
            if None in costs:
                line += ["missing", "missing"]
            else:  # the seeds share one selection, but each pays for its own tuning: per seed
                line += [_big(fmean(c[key] for c in costs)) for key in ("tokens", "flops")]
        line.append(_ratio(group, whole))
        lines.append(line)
    return header, lines


def _ratio(group: Sequence[Row], whole: Sequence[Any]) -> str:
    """FLOPs of selection over the FLOPs of tuning that it saves, one seed; ``-`` where nothing is selected or known."""
    if group[0]["fraction"] is None or group[0]["method"] == "full" or not whole:
        return "-"
    parts = [*whole, *(row["tuning"] for row in group), *(row["selection"] for row in group)]
    if None in parts:
        return "missing"
    saved = fmean(w["flops"] for w in whole) - fmean(row["tuning"]["flops"] for row in group)
    return _big(fmean(row["selection"]["flops"] for row in group) / saved) if saved > 0 else "-"


def _percent(mean: float, error: float | None) -> str:
    return f"{100 * mean:.2f}" if error is None else f"{100 * mean:.2f} ± {100 * error:.2f}"


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
    """Whether no cell of the table is missing."""
    for row in rows:
        if row["missing"] or row["selection"] is None or row["tuning"] is None:
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
    """What the numbers are: metric, items and lm-eval version of each task; ``notes``; and what is missing."""
    tasks: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        for name, value in row["benchmarks"].items():
            tasks.setdefault(name, value)
    text = [
        f"`{row['model']}`, experiment `{row['experiment']}`. Percent, ± standard error (items and training seeds); "
        "average: plain mean of the tasks. Tokens and FLOPs: selection once, tuning for one seed; last column: FLOPs "
        "of selection over those of tuning on all rows that it saves. A difference below about two standard errors "
        "says nothing."
        for row in rows[:1]
    ]
    text += [f"- {name}: {v['metric']}, {v['items']} items, task version {v['version']}" for name, v in tasks.items()]
    text += [f"- {note}" for note in notes]
    for row in rows:
        label = "/".join(str(x) for x in (row["method"], row["fraction"], row["seed"]) if x is not None)
        text += [f"- missing: {label} {task}: {why}" for task, why in row["missing"].items()]
    return "\n".join(text) + "\n"


def write(rows: Sequence[Row], folder: Path, notes: Sequence[str] = ()) -> str:
    """Write metrics.jsonl, table.md and table.csv; returns the table as text."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "metrics.jsonl", [dict(row) for row in rows])
    header, lines = table(rows)
    text = markdown(header, lines)
    (folder / "table.md").write_text(f"{text}\n{caption(rows, notes)}", encoding="utf-8")
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    return text
