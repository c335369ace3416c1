"""A small part of the simulations behind results/statistics: experiments/statistics/coverage.py still says the same."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments" / "statistics"))

import coverage as simulation  # noqa: E402

BY_NAME = {design.name: design for design in simulation.DESIGNS}
STORED = ROOT / "results" / "statistics" / "coverage.csv"


def stored() -> dict[str, dict[str, str]]:
    with STORED.open(encoding="utf-8", newline="") as file:
        return {row["design"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    "name",
    [
        "the same by tokens, t3 tails",
        "by tokens, selections alone vary",
        "by tokens, 1 against 1, random lends",
        "5 pools, 2 seeds, 1 selection each, by tokens",
    ],
)
def test_a_small_simulation_agrees_with_the_committed_table(name: str) -> None:
    found = simulation.checked(BY_NAME[name], 1000, seed=1)
    assert found["coverage"] == pytest.approx(95, abs=3)  # 0.7 points of standard error
    assert found["coverage"] == pytest.approx(float(stored()[name]["coverage"]), abs=2.5)
    assert found["planned"] == pytest.approx(1, abs=0.15) and found["first_step"] < 1.5


def test_groups_that_arent_known_show_in_the_simulation() -> None:
    name = "wrong: groups' effects large, groups not known"
    assert simulation.checked(BY_NAME[name], 500, seed=1)["coverage"] < 70
    assert simulation.checked(replace(BY_NAME[name], grouped=True), 500, seed=1)["coverage"] > 92


def test_committed_table_has_all_designs_within_two_points_and_families_within_five_percent() -> None:
    rows = stored()
    for design in simulation.DESIGNS:
        if design.name.startswith("wrong"):
            continue
        row = rows[design.name]
        assert abs(float(row["coverage"]) - 95) <= 2, design.name
        assert float(row["planned"]) == pytest.approx(1, abs=0.15), design.name
    for design in simulation.FAMILIES:
        assert float(rows[design.name]["any false"]) <= 5 + 2 * float(rows[design.name]["error"]), design.name
