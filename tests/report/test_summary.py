"""What a report says at its end: the finding in words, a narrow table, and commands that work."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import result, row, task
from paper_runs import judged

from icon_repro.config.compose import composed
from icon_repro.report import statistics
from icon_repro.report.rows import ResultRow
from icon_repro.report.summary import closing, conclusion, next_commands, table, told
from icon_repro.report.verdicts import comparisons

ITEMS = np.random.default_rng(0).uniform(1.0, 3.0, 60)


def likelihood(
    method: str, shift: float, fraction: float | None = 0.25, flops: float = 2e9, seed: int = 0, **more: Any
) -> ResultRow:
    """A run whose NLL is that of 60 items, moved by ``shift`` and a little noise of its own."""
    noise = np.random.default_rng(list(method.encode())).normal(0, 0.01, ITEMS.size)
    cell = result((ITEMS + shift + noise).tolist(), metric="nll", ids="held")
    return row(
        method,
        fraction,
        None if method == "base" else 0,
        {"arc": result("0101" * 5), "held": cell},
        tasks={"arc": task(), "held": task(higher=False)},
        selection={"tokens": 0, "flops": flops - 2e9},
        **more,
    )


ROWS = [
    likelihood("base", 0.2, None),
    likelihood("full", -0.2, 1.0, 8e9),
    likelihood("random", 0.0),
    likelihood("same", 0.0),
    likelihood("icon", -0.1, flops=12e9),
    likelihood("longest", 0.1),
]


def text(rows: Sequence[ResultRow], width: int = 100, primary: dict[str, object] | None = None) -> list[str]:
    return closing(
        rows, comparisons(rows), primary, Path("outputs/toy"), ["experiment=toy"], complete=True, width=width
    )


def test_lines_compare_each_method_and_base_and_full_with_random() -> None:
    found = {(one.name, one.measure): one for one in told(ROWS, comparisons(ROWS))}
    verdicts = {name: one.verdict for (name, measure), one in found.items() if measure == "held"}
    assert verdicts == {
        "base": statistics.TestVerdict.worse,
        "full": statistics.TestVerdict.better,
        "random-0.25": None,
        "same-0.25": statistics.TestVerdict.undecided,
        "icon-0.25": statistics.TestVerdict.better,
        "longest-0.25": statistics.TestVerdict.worse,
    }
    against = found["base", "held"].against
    assert against is not None and against.count == 2  # corrected among base and full alone
    assert against.comparison.found is not None and against.comparison.found.value == pytest.approx(0.2, abs=0.01)


def test_conclusion_says_what_is_better_worse_and_not_told_apart_and_about_what() -> None:
    compared = comparisons(ROWS)
    said = list(conclusion(told(ROWS, compared), compared, None))
    assert said[0].startswith("base is the model without tuning; full is tuned on all 6 rows; each other method on")
    held = [sentence for sentence in said if sentence.startswith("held (nats per response token, lower is better)")]
    assert held == [
        "held (nats per response token, lower is better), without selection: full is better than random; base is "
        "worse than random.",
        "held (nats per response token, lower is better), selections: icon-0.25 is better than random; longest-0.25 is "
        "worse than random; same-0.25 is not distinguishable from random.",
    ]
    assert said[-1].startswith("All this is about this selection and this training seed only")


def test_table_fits_into_100_columns_and_into_narrow_terminals() -> None:
    found = told(ROWS, comparisons(ROWS))
    whole = table(found, 100)
    assert whole[0].split()[:2] == ["method", "measure"] and len(whole) == 2 + len(found)
    assert max(map(len, whole)) <= 100
    icon = next(line for line in whole if line.startswith("icon-0.25") and " held " in line)
    assert "better" in icon and icon.endswith("6")  # 12 GFLOP against random's 2
    assert "-0.1" in icon and "[-0.1" in icon
    for width in (60, 30):
        narrow = table(found, width)
        assert max(map(len, narrow)) <= width
        assert "icon-0.25, held:" in " ".join(narrow)
    assert max(len(line) for line in text(ROWS, 60) if "python" not in line and "outputs" not in line) <= 60


def test_several_fractions_compare_base_with_the_random_of_each() -> None:
    rows = [*ROWS, likelihood("random", -0.1, 0.5), likelihood("icon", -0.1, 0.5)]
    names = [one.name for one in told(rows, comparisons(rows)) if one.measure == "held"]
    assert names[:4] == ["base : random-0.25", "base : random-0.5", "full : random-0.25", "full : random-0.5"]


def test_without_random_nothing_is_compared_and_that_is_said() -> None:
    rows = [one for one in ROWS if one.method != "random"]
    lines = text(rows)
    assert any("There is no control" in line for line in lines)
    assert any(line.startswith("icon-0.25") and "better" not in line for line in lines)


def test_missing_results_are_named_and_next_is_status() -> None:
    rows = [
        ROWS[2],
        row(
            "icon",
            0.25,
            0,
            {},
            {"arc": "not run yet", "held": "not run yet"},
            tasks={"arc": task(), "held": task(higher=False)},
        ),
    ]
    found = told(rows, comparisons(rows))
    assert any("not compared, as results are missing" in one for one in conclusion(found, comparisons(rows), None))
    assert "missing" in "\n".join(table(found, 100))
    purposes = next_commands(["experiment=smoke"], found, complete=False)
    assert purposes[0][1] == "python -m icon_repro experiment=smoke action=status"


def test_primary_outcome_is_said() -> None:
    lines = " ".join(
        line.strip()
        for line in text(ROWS, primary={"measure": "held", "comparison": ["icon", "random"], "unit": "selection"})
    )
    assert "Primary outcome, set beforehand: held, icon against random" in lines and "icon: better" in lines


def test_next_commands_keep_what_was_given_and_can_be_planned() -> None:
    given = ["experiment=smoke", "name=mine", "seeds=[3]", "action=report"]
    commands = [shlex.split(command) for _, command in next_commands(given, told(ROWS, []), complete=True)]
    assert len(commands) == 3
    for words in commands:
        assert words[:3] == ["python", "-m", "icon_repro"] and "name=mine" in words
        config = composed(
            "smoke",
            [one for one in words[3:] if not one.startswith(("experiment=", "action=")) or one.startswith("explain")]
            + [one for one in words if one == "action=report"],
        )
        assert config.name == "mine"
    assert commands[2][-1] == "seeds=[0,1,2]" and "seeds=[3]" not in commands[2]
    assert "explain=longest-0.25/held" in commands[0]


@pytest.mark.parametrize("width", [100, 60])
def test_what_a_judge_says_is_a_short_table(width: int) -> None:
    verdicts = judged("w" * 6 + "t" * 2 + "l" * 2, "full", ["vicuna"])
    rows = [*ROWS[:-2], likelihood("icon", -0.1, judged=verdicts)]
    lines = text(rows, width)
    (found,) = [line for line in lines if "vicuna" in line]
    assert "1.400" in (found if width == 100 else "\n".join(lines)) and ("| icon " in found) == (width == 100)
    assert not any("vicuna" in line for line in text(ROWS, width))
