"""The committed rows of study_cpu with the response tokens and group of each held-out row, and its tables from them.

Command: ``python experiments/study_cpu/reanalyse.py``, at the top of the repository, with the data in ../shared; the
tokenizer comes as in ``conf/model/smollm2.yaml``; no model is run. The NLLs were measured when only their mean over
rows was reported, and stay as they are. That the rows are the same is shown by the hash of their ids in each stored
row: another selection or order of rows is refused.
Out: results/study_cpu: metrics.jsonl, and the tables, figures and page made of it; printed: differences from random
under each weight.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.config.compose import composed
from icon_repro.config.load import Config
from icon_repro.data import candidates, prepare, weights
from icon_repro.data.options import CandidatesSize
from icon_repro.data.planner import Planner
from icon_repro.engine.records import read_json
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.held_out import facts
from icon_repro.evaluate.held_out_measures import FACTS, RowFacts, cells, names, read_facts
from icon_repro.evaluate.items import mean
from icon_repro.evaluate.options import HeldOutRowsJob
from icon_repro.report.remade import remake
from icon_repro.report.rows import FILE, ResultRow, read_result_rows, row_as_stored, row_from
from icon_repro.report.runs import Line, decoded, lines

TASK = "held_out"
_FEW = (3, 10)  # response tokens of rows whose part in a difference is shown


class ReanalysisError(ValueError):
    """The stored rows aren't those of the data at hand."""


def facts_of(config: Config, work: Path) -> RowFacts:
    """Response tokens and groups of the held-out rows, by the project's own stages."""
    runtime = Runtime(config.cluster, Path(config.paths.cache).expanduser())
    planner = Planner(config)
    task = config.evaluation.tasks[TASK]
    assert task.rows is not None
    sources = {"pool": config.data.pool, "assessment": config.data.assessment, "rows": task.rows}
    places = {name: work / name for name in (*sources, "model", "order", "candidates", "facts")}
    for place in places.values():
        place.mkdir()
    for name, rows in sources.items():
        found = planner.source(name, rows.source)
        runtime.files = {key: Path(file.path) for key, file in found.get("files", {}).items()}
        prepare.run(rows, {}, places[name], runtime)
    candidates.run(config.data.candidates.order, places, places["order"], runtime)
    candidates.head(CandidatesSize(config.data.candidates.size), places, places["candidates"], runtime)
    weights.run(config.model, {}, places["model"], runtime)
    job = HeldOutRowsJob(TASK, max_length=config.evaluation.max_length, template=task.template)
    facts(job, places, places["facts"], runtime)
    return read_facts(read_json(places["facts"] / FACTS))


def measured(rows: Sequence[ResultRow], found: RowFacts, short_tokens: int) -> list[ResultRow]:
    """The rows with a cell for each measure of the held-out task.

    Raises:
        ReanalysisError: a row's NLLs are of other rows than ``found``.
    """
    made = []
    for row in rows:
        stored = row_as_stored(row)
        cell = stored["benchmarks"][TASK]
        if "weighting" in cell:
            raise ReanalysisError(f"{cell['step']}: has its measures by tokens already; restore {FILE} to do it again.")
        if cell["outcomes"]["ids"] != found.digest:
            raise ReanalysisError(
                f"{cell['step']}: its NLLs are of items {cell['outcomes']['ids']}, the data at hand give "
                f"{found.digest} ({len(found.ids)} rows). Use the data, tokenizer and conf/evaluation/study.yaml that "
                "it was made with."
            )
        (part,) = row.benchmarks[TASK].outcomes.parts
        if abs(mean(cell["outcomes"]) - cell["value"]) > 1e-7:
            raise ReanalysisError(f"{cell['step']}: its NLLs have the mean {mean(cell['outcomes'])}, not its value.")
        values = dict(zip(found.ids, decoded(part).tolist(), strict=True))
        metrics = {key: value for key, value in cell.items() if key != "outcomes"}
        own = names(TASK, found, short_tokens)
        changed = {
            "tasks": {**stored["tasks"], **dict.fromkeys(own, stored["tasks"][TASK])},
            "benchmarks": {**stored["benchmarks"], **cells(TASK, values, found, metrics, short_tokens)},
        }
        made.append(row_from({**stored, **changed}))
    return made


def shown(rows: Sequence[ResultRow], found: RowFacts, short_tokens: int) -> list[str]:
    """Each method's difference from random: by rows, what few short rows bring of it, and by tokens."""
    sizes = np.asarray(found.tokens, np.float64)
    own = {line.method: _means(line) for line in lines(rows)}
    few = {most: sizes <= most for most in _FEW}
    counts = ", ".join(f"{chosen.sum()} of at most {most} tokens" for most, chosen in few.items())
    text = [f"{len(sizes)} rows, {int(sizes.sum())} response tokens; {counts}"]
    for method, values in own.items():
        difference = values - own["random"]
        if method == "random":
            continue
        shares = [f"{100 * difference[own].sum() / difference.sum():.0f} %" for own in few.values()]
        long = sizes >= short_tokens
        text.append(
            f"{method} - random: by rows {difference.mean():+.4f} (of these rows: {', '.join(shares)}), by tokens "
            f"{np.average(difference, weights=sizes):+.4f}, of rows of {short_tokens} tokens and more "
            f"{np.average(difference[long], weights=sizes[long]):+.4f}"
        )
    return text


def _means(line: Line) -> Any:
    """NLL of each row in the order of the ids, over the runs of each selection and then over selections."""
    selections: dict[Any, list[Any]] = {}
    for row in line.rows:
        values = decoded(row.benchmarks[TASK].outcomes.parts[0])
        selections.setdefault(row.selection_seed, []).append(values)
    return np.mean([np.mean(runs, axis=0) for runs in selections.values()], axis=0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/study_cpu"))
    parser.add_argument("--show", action="store_true", help="print the differences only")
    given = parser.parse_args(arguments)
    config = composed("study_cpu", [])
    rows = read_result_rows(given.results / FILE)
    with tempfile.TemporaryDirectory() as work:
        found = facts_of(config, Path(work))
    short_tokens = config.evaluation.tasks[TASK].short_tokens
    again = measured(rows, found, short_tokens)
    print("\n".join(shown(rows, found, short_tokens)))
    if not given.show:
        print(remake(given.results, Path(config.paths.experiments), again))


if __name__ == "__main__":
    main()
