"""The script that adds response tokens and groups to the committed rows of study_cpu."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from icon_repro.evaluate.held_out_measures import RowFacts
from icon_repro.evaluate.items import digest_of
from icon_repro.report.rows import ResultRow, row_from

SCRIPT = Path(__file__).parents[1] / "experiments" / "study_cpu" / "reanalyse.py"
FACTS = RowFacts(["a", "b", "c"], [2, 40, 20], ["x", "y", "y"])


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reanalyse", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(method: str, values: list[float], **cell: Any) -> ResultRow:
    """A row as it was written when only the mean over rows was reported."""
    outcomes = {"ids": digest_of("", FACTS.ids), "parts": [{"name": "", "weight": 1.0, "values": values}]}
    held = {"metric": "nll", "value": sum(values) / 3, "items": 3, "version": 1, "step": "evaluate/x"}
    tasks = {"held_out": {"group": None, "chance": None, "higher_is_better": False}}
    facts = {"experiment": "e", "model": "m", "method": method, "fraction": 0.15, "seed": 0, "selection_seed": None}
    more: dict[str, Any] = {"selection": None, "tuning": None, "judged": {}, "tasks": tasks}
    more |= {"missing": {}, "unjudged": {}, "selected": None, "trained": None, "shared_text": None}
    more |= {"steps": {"select": None, "train": None}}
    return row_from({**facts, **more, "benchmarks": {"held_out": {**held, "outcomes": outcomes, **cell}}})


def test_measured_rows_have_their_measures_and_differences_are_shown(script: ModuleType) -> None:
    rows = [stored("random", [1.0, 1.0, 1.0]), stored("icon", [4.0, 1.1, 1.0])]
    made = script.measured(rows, FACTS, 10)
    values = {name: cell.value for name, cell in made[1].benchmarks.items()}
    assert values == pytest.approx({"held_out": (44 + 20) / 60, "held_out_rows": 6.1 / 3, "held_out_short": 4.0})
    assert made[0].tasks.keys() == values.keys()
    first, second = script.shown(rows, FACTS, 10)
    assert first == "3 rows, 62 response tokens; 1 of at most 3 tokens, 1 of at most 10 tokens"
    assert second == (
        "icon - random: by rows +1.0333 (of these rows: 97 %, 97 %), by tokens +0.1613, of rows of 10 tokens and more "
        "+0.0667"
    )


@pytest.mark.parametrize(
    "row, part",
    [
        (stored("icon", [1.0] * 3, outcomes={"ids": "0" * 16, "parts": []}), "are of items 0000000000000000, the data"),
        (stored("icon", [1.0] * 3, value=2.0), "its NLLs have the mean 1.0, not its value"),
        (stored("icon", [1.0] * 3, weighting="tokens"), "has its measures by tokens already; restore metrics.jsonl"),
    ],
)
def test_measured_rows_of_other_items_are_refused(script: ModuleType, row: ResultRow, part: str) -> None:
    with pytest.raises(script.ReanalysisError, match=part):
        script.measured([row], FACTS, 10)
