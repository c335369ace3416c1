"""Tables and figures of what is known of the authors' released selections.

In: released_subsets.csv and the union of their rows; the numbers of steps that ``released`` took over.
Out: a csv for each finding, summary.md, summary.json; figures as png, svg and csv, their texts in figures.json.
The same inputs give the same bytes. What needs numbers that aren't there says "not run".
"""

import csv
import math
from pathlib import Path
from typing import Any

from experiments.released_selections.released_data import POOL, load, read_embeddings, read_measures
from experiments.released_selections.released_figures import length_panels, map_panels, overlap_panels, score_panels
from experiments.released_selections.released_findings import (
    SEED,
    Finding,
    find_contents,
    find_duplicates,
    find_length,
    find_models,
    find_nesting,
    find_tasks,
)
from experiments.released_selections.released_scores import find_diversity, find_scores
from icon_repro.engine.artifact import file_sha256
from icon_repro.engine.records import read_json, write_json
from icon_repro.report.figures.draw import write_described, write_figure, write_points
from icon_repro.report.figures.series import Panel, rounded
from icon_repro.report.intervals import Interval
from icon_repro.report.tables import markdown

SCORES, EMBEDDINGS = (
    "released_selections",
    ("released_embeddings", "study_cpu"),
)  # of the latter the first that is there
NOT_RUN = "Not run: the steps of experiment={} aren't there."
NOTE = f"""\
Intervals are 95 %: Wilson's for shares, DeLong's for AUCs, normal for means; of what is drawn (200 times at random) the
range of the draws. They treat rows as drawn at random. "By chance": two random selections from the {POOL:,} rows of the
pool, or as many random rows of the union. The union holds the released selections' rows and no others, so that "the
rest" isn't the rest of the pool; and a mixture of unlike selections is more varied than each of them. Lengths are in
characters. Numbers: the csv files; made by `python experiments/released_selections/released.py`.
"""


def analyse(data: Path, out: Path, *, pictures: bool = True) -> str:
    """Write every finding and figure; returns the summary as text.

    Args:
        pictures: False leaves out the png and svg files.
    """
    released = load(data)
    measures, embedded = read_measures(out, released), read_embeddings(out, released)
    length = find_length(released)
    found = [
        find_contents(released),
        find_nesting(released),
        find_models(released),
        length,
        find_tasks(released),
        _missing("diversity", "Do selections lose kinds of texts?", EMBEDDINGS[0])
        if embedded is None
        else find_diversity(released, embedded),
        _missing("scores", "What are IFD and perplexity of the selected rows?", SCORES)
        if measures is None
        else find_scores(released, measures),
        find_duplicates(released),
    ]
    share = "Share of one released selection (row) that is in another (column)"
    figures: dict[str, tuple[str, str, list[Panel]]] = {  # title, finding that it shows, panels
        "overlap": (share, "nesting", overlap_panels(released)),
        "lengths": ("Length of released selections", "length", length_panels(released, length)),
    }
    if measures is not None:
        figures["ifd"] = ("IFD and perplexity under SmolLM2-135M", "scores", score_panels(released, measures))
    if embedded is not None:
        title = f"{len(embedded.places):,} rows: selected and the rest"
        figures["tsne"] = (title, "diversity", map_panels(released, embedded))
    texts = {finding.name: finding.text for finding in found}
    write_described(out, [(name, title, texts[shows], panels) for name, (title, shows, panels) in figures.items()])
    for name, (title, _, panels) in figures.items():
        if pictures:
            write_figure(out, name, title, panels, svg=True)
        else:
            write_points(out, name, panels)
    for finding in found:
        _write_table(out / f"{finding.name}.csv", finding)
    stored = [path for path in (out / "measures.csv", out / "embeddings.npy", out / "embeddings.csv") if path.is_file()]
    inputs = [data / "released_subsets.csv", data / "alpaca_released_union.jsonl", *stored]
    steps = read_json(out / "steps.json") if (out / "steps.json").is_file() else {}
    write_json(
        out / "summary.json",
        {
            "seed": SEED,
            "pool": POOL,
            "inputs": {path.name: file_sha256(path) for path in inputs},
            "steps": steps,
            "findings": {finding.name: finding.text for finding in found},
        },
    )
    parts = [f"# The authors' released selections, {len(released.rows):,} rows\n\n{NOTE}"]
    for finding in found:
        table = f"\n{_table(finding)}" if finding.lines else ""
        parts.append(f"## {finding.question}\n\n{finding.text}\n{table}")
    parts.append(
        "## Figures\n\n" + "\n".join(f"![{title}]({name}.png)" for name, (title, *_) in figures.items()) + "\n"
    )
    text = "\n".join(parts)
    (out / "summary.md").write_text(text, encoding="utf-8")
    return text


def _missing(name: str, question: str, experiment: str) -> Finding:
    return Finding(name, question, [], NOT_RUN.format(experiment))


def _columns(finding: Finding) -> list[str]:
    return list(dict.fromkeys(name for line in finding.lines for name in line))


def _table(finding: Finding) -> str:
    names = _columns(finding)
    return markdown(names, [[_cell(line.get(name)) for name in names] for line in finding.lines])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Interval):
        if math.isnan(value.value):
            return "-"
        ends = "unknown" if math.isnan(value.low) else f"{value.low:.3g}, {value.high:.3g}"
        return f"{value.value:.3g} [{ends}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write_table(path: Path, finding: Finding) -> None:
    """A line a row; an interval has three columns."""
    names = _columns(finding)
    wide = {name for line in finding.lines for name, value in line.items() if isinstance(value, Interval)}
    header = [part for n in names for part in ([n, f"{n} low", f"{n} high"] if n in wide else [n])]

    def cells(value: Any, name: str) -> list[Any]:
        if isinstance(value, Interval):
            ends = (value.value, value.low, value.high)
            return ["" if math.isnan(end) else rounded(end) for end in ends]
        return [rounded(value) if isinstance(value, float) else "" if value is None else value] + (
            ["", ""] if name in wide else []
        )

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not names:
            writer.writerow([finding.text])
            return
        writer.writerows([header, *([c for n in names for c in cells(line.get(n), n)] for line in finding.lines)])
