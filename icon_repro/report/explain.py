"""``action=report explain=<cell>``: show what a cell of a table is made of.

In: results/<name>/ (metrics.jsonl, run.json), the work folder if it is there.  Out: lines for each run behind the cell:
its id, step folders, the commit and packages they were made with, hashes of the data they read, and the config.
A cell is ``icon-0.15/piqa`` of the results table (a benchmark, a group, average, or a cost), or, beside the paper's,
``table1/llama31_8b/icon-0.15/mmlu``.
The results alone say which steps these are, and all commits, packages and data of the experiment; which of them a step
had is in its record in the work folder. What isn't known is said.
Known gap: none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import ArtifactError, read_record
from icon_repro.engine.records import RecordError, read_json
from icon_repro.engine.schema import nearest
from icon_repro.lm.answered_by import KEY, told
from icon_repro.report.outputs import PROBLEMS, beside_the_paper
from icon_repro.report.paper.measures import StoredResults, results_of
from icon_repro.report.paper.paper_tables import PaperCell
from icon_repro.report.paper.paper_text import tidy
from icon_repro.report.rows import ResultRow, read_result_rows
from icon_repro.report.runs import Line
from icon_repro.report.tables import TUNED_ON, grouped, table
from icon_repro.report.versions import separated

_COSTS = {"selection tokens", "selection FLOPs", TUNED_ON, "tuning FLOPs", "selection / saved", "rows"}


class ExplainError(ValueError):
    """No such cell, or no results to explain."""


@dataclass(frozen=True)
class Explained:
    """A cell: what it shows, and the run and step folders behind it."""

    name: str
    shown: Sequence[str]
    steps: Sequence[tuple[ResultRow, Sequence[str]]] = field(default_factory=list)  # of each run
    settings: Sequence[str] = ()  # keys of the config that bear on it


def explain(name: str, folder: Path, work: Path, experiments: Path, say: Callable[[str], None]) -> None:
    """Say what the cell ``name`` is made of.

    Args:
        folder: results/<experiment>; its incomplete/ is read where there is no complete table.

    Raises:
        ExplainError: see the class.
    """
    place = folder if (folder / "metrics.jsonl").is_file() else folder / "incomplete"
    if not (place / "metrics.jsonl").is_file() or not (place / "run.json").is_file():
        raise ExplainError(f"{folder}: holds no metrics.jsonl with run.json. Run the experiment, or action=report.")
    run = read_json(place / "run.json")
    try:
        rows = read_result_rows(place / "metrics.jsonl")
        results = results_of(separated(rows, run)[0], run["config"])
        cells = _cells(results, run, experiments)
    except (*PROBLEMS, RecordError) as error:
        raise ExplainError(f"{place}: {error}") from error
    if name not in cells:
        raise ExplainError(f"explain={name}: no such cell in {place}.{nearest(name, _near(name, cells))}")
    for line in _told(cells[name](), run, place, work):
        say(line)


def _near(name: str, cells: Mapping[str, Any]) -> list[str]:
    """The cells that may be meant: of the same line, else of the same column, else all."""
    line, _, column = name.rpartition("/")
    same = [cell for cell in cells if cell.rpartition("/")[0] == line]
    return same or [cell for cell in cells if cell.rpartition("/")[2] == column] or list(cells)


def _cells(results: StoredResults, run: Mapping[str, Any], experiments: Path) -> dict[str, Callable[[], Explained]]:
    """Every cell by name."""
    explained_by_name: dict[str, Callable[[], Explained]] = {}
    header, body = table(results.rows)
    groups = {str(group): names for group, names in grouped(results.rows).items() if group is not None}
    everything = [name for names in grouped(results.rows).values() for name in names]
    for line, shown in zip(results.lines.values(), body, strict=True):
        for column, text in zip(header[2:], shown[2:], strict=True):
            key = column.removesuffix(" (lower is better)")
            names = groups.get(key, everything if key == "average" else [key])
            explained_by_name[f"{line.label}/{key}"] = _general(f"{line.label}/{key}", line, key, text, names)
    for one in beside_the_paper(results, run, experiments):
        tidied = iter(tidy(one))
        for paper_line in one.lines:
            at = results.lines.get((paper_line.method, paper_line.fraction))
            for cell in paper_line.cells:
                explained_by_name[cell.name] = _beside(cell, at, next(tidied), results)
    return explained_by_name


def _general(name: str, line: Line, column: str, text: str, names: Sequence[str]) -> Callable[[], Explained]:
    def made() -> Explained:
        runs = []
        for row in line.rows:
            its_steps = [row.benchmarks[n].step for n in names if n in row.benchmarks] if column not in _COSTS else []
            runs.append((row, its_steps))
        lacking = {f"{n}: {row.missing[n]}" for row in line.rows for n in names if n in row.missing}
        why = [f"missing: {reason}" for reason in sorted(lacking)] if text == "missing" else []
        return Explained(name, [f"shows: {text}", *why], runs, _settings(line.method, names))

    return made


def _beside(
    cell: PaperCell, line: Line | None, tidied: Sequence[str], results: StoredResults
) -> Callable[[], Explained]:
    def made() -> Explained:
        _, _, _, label, column, ours, low, high, runs, paper, version, difference, missing, _ = tidied
        shown = [f"ours: {ours or 'missing'}" + (f" [{low}, {high}]" if low else "") + f", {runs} runs"]
        shown += [f"missing: {missing}"] if missing else []
        shown.append(f"paper: {paper} ({version}), difference {difference or '-'}" if paper else "paper: none")
        steps = set(cell.steps)
        owners = line.rows if line is not None else []
        behind = [(row, [step for step in cell.steps if step in _of(row)]) for row in owners]
        rest = steps - {step for _, own in behind for step in own}
        if rest:  # verdicts that ICon's rows hold
            behind = [(row, [s for s in cell.steps if s in _of(row)]) for row in results.rows if steps & _of(row)]
        return Explained(cell.name, shown, behind, _settings(label.rpartition("-")[0] or label, [column]))

    return made


def _of(row: ResultRow) -> set[str]:
    """All step folders that a row names."""
    return {*row.cell_steps, *(step for step in (row.steps.select, row.steps.train) if step is not None)}


def _settings(method: str, names: Sequence[str]) -> list[str]:
    """Keys of the config that bear on a method's benchmarks."""
    tasks = [f"evaluation.tasks.{name}" for name in names]
    return ["model", "data", "select_from", f"methods.{method}", "training", *tasks]


def _told(cell: Explained, run: Mapping[str, Any], place: Path, work: Path) -> list[str]:
    lines = [cell.name, *(f"  {text}" for text in cell.shown)]
    folders = {folder.rpartition("-")[2]: folder for folder in run["steps"]}
    experiment = run["config"]["name"]
    data: dict[str, str] = {}
    unknown = []
    for row, steps in cell.steps:
        seeds = [f"selection seed {row.selection_seed}"] if row.selection_seed is not None else []
        seeds += [f"seed {row.seed}"] if row.seed is not None else []
        lines.append(
            f"run {row.method}"
            + (f" at {row.fraction:g}" if row.fraction is not None else "")
            + "".join(f", {seed}" for seed in seeds)
        )
        for step in [*(s for s in (row.steps.select, row.steps.train) if s is not None), *steps]:
            value = [f", value {one.value:.6g}" for one in row.benchmarks.values() if one.step == step]
            lines.append(f"  {step}{''.join(value)}")
            lines.append(f"    run id: {experiment}-{step.rpartition('-')[2]}")
            record = _record(work, step)
            if record is None:
                unknown.append(step)
                continue
            lines += _of_record(record)
            data |= _data(step, work, folders)
    lines.append("data, as read (sha256 of files, commits):" if not unknown else "data:")
    if unknown:
        lines.append(
            f"  which of these the cell read isn't known, as {work} doesn't hold {unknown[0]} (and all it "
            f"needs; {len(unknown)} steps); the experiment read:"
        )
        its_labels = {step.rpartition("-")[0] for _, steps in cell.steps for step in steps}
        data = {
            f"{label}, {name}": str(value)
            for label, facts in run["sources"].items()
            if label in its_labels or label.partition("/")[0] not in ("evaluate", "judge")  # not those of other cells
            for name, value in facts.items()
        }
    lines += [f"  {label}: {value}" for label, value in sorted(data.items())] or ["  nothing from outside"]
    if unknown:
        states = ", ".join(f"{one['commit']}{' (dirty)' if one['dirty'] else ''}" for one in run["git"])
        lines.append(f"commit: not known by step; of the experiment: {states or 'none'}")
        lines.append("packages: not known by step; of the experiment:")
        lines += [f"  {name} {', '.join(map(str, found))}" for name, found in sorted(run["packages"].items())]
    lines.append(f"config (the whole of it: {place / 'run.json'}):")
    for key in cell.settings:
        if (value := _value(run["config"], key)) is not None:
            asked = value.get("deepspeed") if key == "training" else None
            shown = {name: one for name, one in value.items() if name != "deepspeed"} if key == "training" else value
            lines.append(f"  {key}: {json.dumps(shown, sort_keys=True, ensure_ascii=False)}")
            if asked is not None:  # nothing is shared by one process that offloads nothing
                lines.append(f"  training.deepspeed, as asked for; a run says what was used: {json.dumps(asked)}")
    return lines


def _record(work: Path, step: str) -> dict[str, Any] | None:
    try:
        return read_record(work / step)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ArtifactError, RecordError) as error:
        raise ExplainError(str(error)) from error


def _of_record(record: Mapping[str, Any]) -> list[str]:
    git = record["git"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(record["packages"].items()))
    metrics = record["metrics"]
    whose = told([metrics[KEY]]) if KEY in metrics else ""
    return [
        *([f"    answered by: {whose}"] if whose else []),
        *([f"    tuned: {_shared_by(metrics)}"] if "zero_stage" in metrics else []),
        f"    commit: {git['commit']}{' (dirty)' if git['dirty'] else ''}",
        f"    packages: python {record['python']}, {packages}",
        f"    config: {json.dumps(record['hashed']['params'], sort_keys=True, ensure_ascii=False)}",
    ]


def _shared_by(metrics: Mapping[str, Any]) -> str:
    """By how many processes a training was done, and how they shared it, which may be otherwise than configured."""
    count, stage = metrics["processes"], metrics["zero_stage"]
    return f"in {count} process{'es' if count > 1 else ''}, {f'ZeRO-{stage}' if stage else 'without DeepSpeed'}"


def _data(step: str, work: Path, folders: Mapping[str, str]) -> dict[str, str]:
    """What a step and all that it needs read from outside: step and name -> sha256 or commit."""
    content: dict[str, str] = {}
    waiting, seen = [step], {step}
    while waiting:
        folder = waiting.pop()
        record = _record(work, folder)
        if record is None:
            content[folder] = "its record isn't in the work folder: what it and its inputs read isn't known"
            continue
        hashed = record["hashed"]
        for name, value in {**hashed["files"], **hashed["extra"]}.items():
            content[f"{folder}, {name}"] = str(value)
        if (archive := _registry(hashed["params"])) is not None:
            content[f"{folder}, {archive['package']} {archive['version']} from a package registry"] = archive["sha256"]
        for fingerprint in hashed["inputs"].values():
            inner = folders.get(fingerprint, fingerprint)
            if inner not in seen:
                seen.add(inner)
                waiting.append(inner)
    return content


def _registry(params: Any) -> Mapping[str, str] | None:
    """The released package that a preparing step reads its rows or model from."""
    if not isinstance(params, Mapping):
        return None
    if isinstance(params.get("registry"), Mapping):
        return dict(params["registry"])
    return _registry(params.get("source"))


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
