"""What action=plan says of the primary comparison: from stored results, from assumed variances, with its limits."""

import dataclasses
import math
import re
import statistics
from pathlib import Path

import pytest
from made_up_runs import result, row, solved

from icon_repro.config.compose import composed
from icon_repro.config.load import PrimaryConfig
from icon_repro.report.estimates import detectable
from icon_repro.report.power import ASSUMED, primary_lines
from icon_repro.report.rows import read_result_rows, write_result_rows
from icon_repro.report.verdicts import comparisons

STUDY = composed("study_cpu", [])


def seen(line: str) -> float:
    found = re.search(r"could see ([\d.]+)", line)
    assert found is not None, line
    return float(found[1])


def test_without_results_the_assumed_variances_are_said(tmp_path: Path) -> None:
    (line,) = primary_lines(STUDY, tmp_path)
    assert line.startswith("primary: held_out, icon against random: could see ")
    assert "assumed standard deviations as in study_cpu" in line and "1 against 5 selections, 3 training seeds" in line
    count = STUDY.evaluation.tasks["held_out"].expected_items
    levels = [(0.03**2 / count, count - 1.0), (0.0012**2 * 1.2, 4.0), (0.0005**2 * 2 / 3, 2.0)]
    assert seen(line) == pytest.approx(detectable(levels), abs=1e-4)


@pytest.mark.parametrize(
    "measure, weighting, items",
    [("held_out", "tokens", 513), ("held_out_rows", "rows", 575), ("average", "average", 800)],
)
def test_assumed_deviations_are_those_of_the_committed_study(measure: str, weighting: str, items: int) -> None:
    rows = read_result_rows(Path(__file__).parents[2] / "results" / "study_cpu" / "metrics.jsonl")
    found = [
        one.found
        for one in comparisons(rows)
        if one.measure == measure and one.baseline.method == "random" and one.found is not None
    ]
    assert len(found) == 6
    spreads = {
        "items": [math.sqrt(one.items * items) for one in found],
        "selections": [math.sqrt(one.selections / 1.2) for one in found],  # one selection against five
        "seeds": [math.sqrt(one.seeds * 1.5) for one in found],  # three seeds on both sides
    }
    for level, values in spreads.items():
        assumed = ASSUMED[weighting][level]
        middle = statistics.median(values) if level != "seeds" else max(values)
        factor = 2 if level == "seeds" else 1.3
        assert assumed / factor < middle < factor * assumed, level


def test_fewer_seeds_and_selections_see_less_and_are_limited(tmp_path: Path) -> None:
    methods = {**STUDY.methods, "random": dataclasses.replace(STUDY.methods["random"], repeats=1)}
    (line,) = primary_lines(dataclasses.replace(STUDY, methods=methods, seeds=[0]), tmp_path)
    assert line.endswith("; about this selection and this training seed only")
    (two,) = primary_lines(dataclasses.replace(STUDY, seeds=[0, 1]), tmp_path)
    assert seen(two) > seen(primary_lines(STUDY, tmp_path)[0])


def test_stored_results_give_their_variances(tmp_path: Path) -> None:
    config = dataclasses.replace(
        STUDY, primary=PrimaryConfig("average", ["icon", "random"]), name="toy", seeds=[0, 1, 2]
    )
    shares = [0.4, 0.5, 0.6, 0.45, 0.55]
    rows = [
        row("random", 0.15, seed, {"arc": result(solved(x, 300, seed))}, selection_seed=s)
        for s, x in enumerate(shares)
        for seed in range(3)
    ]
    rows += [row("icon", 0.15, seed, {"arc": result(solved(0.5, 300, seed))}) for seed in range(3)]
    (tmp_path / "toy").mkdir()
    write_result_rows(tmp_path / "toy" / "metrics.jsonl", rows)
    (line,) = primary_lines(config, tmp_path / "toy")
    assert "variances of the stored results" in line and "points (95 %: " in line
    assert 20 < seen(line) < 60  # selections differ by 8 points, one against five: 4 degrees of freedom
    (more,) = primary_lines(dataclasses.replace(config, seeds=[*range(12)]), tmp_path / "toy")
    assert seen(more) == pytest.approx(seen(line), rel=0.01)  # selections, not seeds, decide here
