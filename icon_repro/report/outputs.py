"""Write every table of an experiment, from its results folder (metrics.jsonl, run.json) and published numbers.

In: ``ResultRow``s, the content of run.json, the folder with published numbers and claims.
Out: table, verdicts, judged, contamination (md, csv, tex), tables beside the paper's, claims, metrics.jsonl.
``action=report`` writes by this, and ``action=verify`` again: nothing else may decide what a table says.
Known gap: none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.report import tables, verdicts
from icon_repro.report.paper.claims import ClaimsError, check_claims, compared_lines, read_claims, write_claims
from icon_repro.report.paper.measures import StoredResults, results_of
from icon_repro.report.paper.paper_tables import PaperTable, paper_tables
from icon_repro.report.paper.paper_text import write_paper_tables
from icon_repro.report.paper.published import PublishedError, published_folder, read_published
from icon_repro.report.rehearsal import undecided
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import RunsError
from icon_repro.report.settings import Otherwise
from icon_repro.report.statistics import StatsError
from icon_repro.report.versions import of_pairs, separated, versions_of

PROBLEMS = (RunsError, StatsError, PublishedError, ClaimsError)


@dataclass(frozen=True)
class Written:
    text: str  # all tables, to be shown
    table: tables.Table  # the first
    notes: Sequence[str]  # what a reader has to know
    compared: Sequence[verdicts.Comparison]  # each method with its controls


def write_all(rows: Sequence[ResultRow], run: Mapping[str, Any], experiments: Path, folder: Path) -> Written:
    """Write metrics.jsonl and all tables to ``folder``.

    Args:
        run: the content of run.json.
        experiments: the folder with a folder for each experiment's published numbers.

    Raises:
        RunsError: rows that don't belong together, or not to ``run``.
        StatsError: outcomes that can't be compared.
        PublishedError, ClaimsError: published numbers or claims that can't be used.
    """
    _check_steps(rows, run)
    source = published_folder(run["config"], experiments)
    published = read_published(source) if source else {}
    claims = read_claims(source) if source else []
    shown, mixed = separated(rows, run)
    versions = versions_of(run)
    notes = [*tables.mixed_versions(run["packages"]), *mixed, *run.get("losses", [])]
    noted = run.get("otherwise")  # older ones didn't note it
    otherwise = [] if noted is None else [str(Otherwise(**noted))]
    notes += otherwise if source else []
    results = results_of(shown, run["config"])
    beside = paper_tables(results, published)
    checked = undecided(check_claims(claims, results), run["config"])
    compared = verdicts.comparisons(shown)
    text, table = tables.write(shown, folder, notes, versions, rows, run["config"].get("primary"), compared)
    experiment = str(rows[0].experiment)
    stale = {path.stem for path in folder.glob("paper_table?.*")} - {f"paper_{one.name}" for one in beside}
    tables.drop(folder, stale if checked else {*stale, "claims"})
    if beside:
        text += "\n" + write_paper_tables(beside, experiment, folder)
    if checked:
        other = of_pairs(versions, compared_lines(checked, results)) if versions else []
        other = [*otherwise, *other]
        text += "\n" + write_claims(checked, experiment, folder, other) + " (claims.md)\n"
    return Written(text, table, notes, compared)


def beside_the_paper(results: StoredResults, run: Mapping[str, Any], experiments: Path) -> list[PaperTable]:
    """The tables beside the paper's, not written."""
    source = published_folder(run["config"], experiments)
    return paper_tables(results, read_published(source)) if source else []


def _check_steps(rows: Sequence[ResultRow], run: Mapping[str, Any]) -> None:
    """Refuse rows of which another run.json tells: a table would mix configurations."""
    if not rows:
        raise RunsError("no rows: the experiment has no arms. Set methods, base or full.")
    known = set(run["results"])
    for row in rows:
        if row.experiment != run["config"]["name"]:
            raise RunsError(
                f"rows of experiment {row.experiment!r} beside the config of {run['config']['name']!r}: they aren't "
                "of one report. Make both anew with action=report."
            )
        for step in row.cell_steps:
            if step not in known:
                raise RunsError(
                    f"{step} is in metrics.jsonl and not in run.json: rows of another configuration. Make both "
                    "anew with action=report."
                )
