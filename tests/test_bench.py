"""The bench of scoring: what budget=auto needs on the pilot's matrix, and the committed numbers."""

import json
from pathlib import Path

import pytest

from experiments.scoring_cost import bench
from experiments.scoring_cost.rebuild import table
from icon_repro.methods.icon.options import IconConfig, resolved

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "results" / "scoring_cost"


def test_auto_needs_few_rows_of_those_in_use_and_finds_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_REPLAYS", 2)
    pairs, rounds, overlap = bench.auto_share(ROOT / "results" / "pilot", resolved(IconConfig()), 0.15, 48)
    assert 4 < pairs < 48 and 1 < rounds <= 5 and 0.6 < overlap <= 1


def test_committed_speed_ups_are_those_of_the_hours_beside_them() -> None:
    found = json.loads((MEASURED / "bench.json").read_text(encoding="utf-8"))
    hours = {level["name"]: level["job_s"] for level in found["levels"]}
    assert {"loop", "L1", "L2b", "L3_float32", "L3", "L4", "L5"} <= hours.keys()
    for name, seconds in hours.items():
        assert name == "loop" or found[name] == pytest.approx(hours["loop"] / seconds, abs=0.006)
    assert hours["L5"] < hours["L4"] < hours["L3"] < hours["loop"]
    passing = {name: tried["tokens_per_s"] for name, tried in found["dtype_tried"].items() if tried["passes"]}
    assert found["dtype"] == max(passing, key=lambda name: passing[name])  # chosen by measurement
    assert (MEASURED / "table.md").read_text(encoding="utf-8") == table(found)
