"""Does held-out NLL by rows follow how long the selected rows are?

In: results/study_cpu/metrics.jsonl.  Out: rank correlations of the tokens tuned on with the measure, over the arms that
select, and over the selections of ``random``; printed.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from icon_repro.methods.agreement import spearman
from icon_repro.report.rows import ResultRow, read_result_rows

MEASURES = ("held_out_rows", "held_out")


def followed(rows: list[ResultRow]) -> dict[str, dict[str, float]]:
    """By measure: Spearman over arms, and over the selections of random."""
    found = {}
    for measure in MEASURES:
        arms: dict[Any, list[ResultRow]] = {}
        draws: dict[Any, list[ResultRow]] = {}
        for row in rows:
            if row.method not in ("base", "full"):
                arms.setdefault(row.method, []).append(row)
            if row.method == "random":
                draws.setdefault(row.selection_seed, []).append(row)
        found[measure] = {"arms": _rank(arms, measure), "draws of random": _rank(draws, measure)}
    return found


def _rank(groups: Mapping[Any, list[ResultRow]], measure: str) -> float:
    tokens = [fmean(row.tuning.tokens for row in rows if row.tuning is not None) for rows in groups.values()]
    return spearman(tokens, [fmean(row.benchmarks[measure].value for row in rows) for rows in groups.values()])


if __name__ == "__main__":
    for measure, values in followed(read_result_rows(Path("results/study_cpu/metrics.jsonl"))).items():
        print(f"{measure} and tokens tuned on: " + ", ".join(f"{name} {rank:.2f}" for name, rank in values.items()))
