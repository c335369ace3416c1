"""``action=compare``: show how methods agree, with each other and with length, and what each costs.

In: stored scores and selections.  Out: in results/<name>/ methods.md, methods_agreement.csv, methods.csv, losses.json.
Rank correlation is Spearman's over the rows that both methods score; overlap is the share of the smaller selection that
is in both; length is the response's in characters. Methods that rank no row in common have no correlation.
"""

import csv
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icon_repro.config.load import Until
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.experiment import Experiment
from icon_repro.methods.agreement import overlap, spearman
from icon_repro.methods.ids import IdsConfig
from icon_repro.report.checksums import Intact
from icon_repro.report.console_tables import fitted, terminal_width
from icon_repro.report.losses import losses
from icon_repro.report.presentation import present
from icon_repro.report.results import ResultsError, writing
from icon_repro.report.tables import markdown

LOSSES = "losses.json"  # what was left out, cut or tied, in sentences


class CompareError(ResultsError):
    """Fewer than two methods have scores."""


def compare(experiment: Experiment, store: Store, say: Callable[[str], None], *, figures: bool = True) -> None:
    """Write the comparison of all methods whose scores and selections are there.

    Args:
        figures: make figures and page too, where the experiment ends with selections.

    Raises:
        CompareError: fewer than two methods have scores.
        ArtifactError: steps are damaged in what is read of them.
    """
    selects = [arm.select for arm in experiment.arms if arm.select is not None and store.complete(arm.select)]
    read = [step for select in selects for step in (select, select.inputs["scores"], select.inputs["universe"])]
    Intact(store).check(read, experiment.steps)
    scores: dict[str, dict[str, float]] = {}
    selected: dict[str, dict[float, list[str]]] = {}
    steps: dict[str, Step] = {}
    lengths: dict[str, dict[str, float]] = {}  # by the folder of the rows that a method ranks: pools have their own
    for arm in experiment.arms:
        if arm.select is None or arm.fraction is None or not store.complete(arm.select):
            continue
        ranked = arm.select.inputs["scores"]
        name = arm.method if arm.selection_seed is None else f"{arm.method}-r{arm.selection_seed}"
        if name not in scores:
            scores[name] = {row.id: row.score for row in read_rows(store.path(ranked) / "scores.jsonl", Score)}
            steps[name] = arm.select
        selected.setdefault(name, {})[arm.fraction] = read_json(store.path(arm.select) / "ids.json")
        universe = arm.select.inputs["universe"]
        if universe.folder not in lengths:
            rows = read_rows(store.path(universe) / "rows.jsonl", Example)
            lengths[universe.folder] = {row.id: float(len(row.response)) for row in rows}
    if len(scores) < 2:
        raise CompareError(
            f"{len(scores)} methods have scores; two are needed to compare. Run the experiment, or mend what failed in "
            "it (action=status says what and why)."
        )
    folder = Path(experiment.config.paths.results) / experiment.config.name
    with writing(store, experiment.config.name):
        folder.mkdir(parents=True, exist_ok=True)
        each = [
            _method(name, scores[name], selected[name], lengths[step.inputs["universe"].folder], step, store)
            for name, step in steps.items()
        ]
        pairs = [_pair(a, b, scores, selected) for a, b in itertools.combinations(scores, 2)]
        _write(folder / "methods.csv", each)
        _write(folder / "methods_agreement.csv", pairs)
        lost = [*_not_compared(experiment, store), *losses(experiment, store)]
        write_json(folder / LOSSES, lost)
        text = as_text(experiment.config.name, experiment.config.model.name, each, pairs, lost)
        (folder / "methods.md").write_text(text, encoding="utf-8")
        say("\n".join([*on_console(each, pairs), *lost, f"{folder}/methods.md, methods.csv, methods_agreement.csv"]))
        if figures and experiment.config.until is Until.select:  # else they come with the results
            present(experiment, store, [], folder, say)


def _not_compared(experiment: Experiment, store: Store) -> list[str]:
    """A line for each method of which a selection isn't there: it failed, or wasn't run."""
    absent = [arm.method for arm in experiment.arms if arm.select is not None and not store.complete(arm.select)]
    return [
        f"{name}: not compared, or not at each fraction, as its selection isn't there; action=status says why"
        for name in dict.fromkeys(absent)
    ]


def as_text(
    name: str, model: str, each: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], lost: Sequence[str] = ()
) -> str:
    """methods.md, from the lines of methods.csv and methods_agreement.csv, and of losses.json."""
    head = f"# Methods of `{name}`, `{model}`"
    below = "".join(f"- {line}\n" for line in lost)
    below = f"\nLeft out, cut or tied:\n\n{below}" if lost else ""
    return f"{head}\n\n{_table(each)}\nSpearman and overlap of the selections:\n\n{_table(pairs)}{below}"


def on_console(each: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> list[str]:
    """The same tables as a terminal shows them."""
    lines: list[str] = []
    for rows, names in ((each, 1), (pairs, 2)):
        header = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_cell(row.get(name)) for name in header] for row in rows]
        lines += [*fitted(header, cells, terminal_width(), names), ""]
    return lines


def read_lines_of(path: Path) -> list[dict[str, Any]]:
    """What ``compare`` wrote to a csv, with its numbers as they were."""

    def value(text: str) -> Any:
        if not text:
            return None
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    with path.open(encoding="utf-8", newline="") as file:
        return [{name: value(text) for name, text in line.items()} for line in csv.DictReader(file)]


def _method(
    name: str,
    scores: dict[str, float],
    selected: dict[float, list[str]],
    lengths: dict[str, float],
    select: Step,
    store: Store,
) -> dict[str, Any]:
    """Scored rows, correlation with length, mean length of each selection, and cost of a method."""
    scored = select.inputs["scores"]
    given = scored.inputs.get("selection")  # of a matched control: another method's, whose cost is told there
    others = {step.folder for step in ancestors(given)} if given is not None else set()
    scoring = [step for step in ancestors(select) if step.stage == "score" and step.folder not in others]
    records = [store.record(step) for step in scoring]
    chosen = given is not None or isinstance(scored.params, IdsConfig)  # rows that aren't in it didn't fail
    row: dict[str, Any] = {
        "method": name,
        "scored": len(scores),
        "without score": None if chosen else len(lengths) - len(scores),
        "spearman with length": _rank(scores, lengths),
    }
    for fraction, ids in sorted(selected.items()):
        row[f"characters at {fraction:g}"] = sum(lengths[i] for i in ids) / len(ids)
    row |= {
        "tokens": sum(record["metrics"].get("tokens", 0) for record in records),
        "FLOPs": sum(record["metrics"].get("flops", 0) for record in records),
        "seconds": sum(record["wall_s"] for record in records),
        "MB": sum(file["bytes"] for record in records for file in record["files"].values()) / 1e6,
    }
    return row


def _pair(
    a: str, b: str, scores: dict[str, dict[str, float]], selected: dict[str, dict[float, list[str]]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": a, "and": b, "spearman": _rank(scores[a], scores[b])}
    for fraction in sorted(selected[a].keys() & selected[b].keys()):
        row[f"overlap at {fraction:g}"] = overlap(selected[a][fraction], selected[b][fraction])
    return row


def _rank(a: dict[str, float], b: dict[str, float]) -> float | None:
    both = sorted(a.keys() & b.keys())
    if len(both) < 2:
        return None
    correlation = spearman([a[i] for i in both], [b[i] for i in both])
    return None if math.isnan(correlation) else correlation


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return markdown(names, [[_cell(row.get(name)) for name in names] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
