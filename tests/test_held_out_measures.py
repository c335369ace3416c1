"""Measures of one held-out task: what each weighs, which rows it is of, and what is refused."""

from typing import Any

import pytest

from icon_repro.evaluate.held_out_measures import MeasuresError, RowFacts, cells, names, read_facts
from icon_repro.evaluate.items import mean

FACTS = RowFacts(["a", "b", "c", "d"], [2, 30, 10, 9], ["qa", "qa", "code", "code"])
NLL = {"a": 5.0, "b": 1.0, "c": 2.0, "d": 4.0}
METRICS = {"value": 3.0, "stderr": 0.9, "items": 4, "perplexity": 60.0, "version": 1, "dropped": {"too long": 2}}


def part(cell: dict[str, Any]) -> dict[str, Any]:
    (found,) = cell["outcomes"]["parts"]
    assert isinstance(found, dict)
    return found


def test_cells_weigh_tokens_or_rows_and_set_short_rows_apart() -> None:
    made = cells("held", NLL, FACTS, METRICS, 10)
    assert {name: (cell["value"], cell["items"], cell["weighting"]) for name, cell in made.items()} == {
        "held": (pytest.approx((30 * 1.0 + 10 * 2.0) / 40), 2, "tokens"),
        "held_rows": (pytest.approx((5 + 1 + 2 + 4) / 4), 4, "rows"),
        "held_short": (pytest.approx((2 * 5.0 + 9 * 4.0) / 11), 2, "tokens"),
    }
    assert part(made["held"])["sizes"] == [30, 10] and part(made["held"])["groups"] == ["qa", "code"]
    assert part(made["held_short"])["values"] == [5.0, 4.0] and part(made["held_short"])["sizes"] == [2, 9]
    assert "sizes" not in part(made["held_rows"]) and part(made["held_rows"])["groups"] == list(FACTS.groups)
    assert mean(made["held_rows"]["outcomes"]) == made["held_rows"]["value"]
    assert [cell["response_tokens"] for cell in made.values()] == [{"at least": 10}, {}, {"fewer than": 10}]
    assert all(cell["dropped"] == {"too long": 2} and "stderr" not in cell for cell in made.values())
    assert len({cell["outcomes"]["ids"] for cell in made.values()}) == 3


def test_cells_without_short_rows_or_groups_leave_them_out() -> None:
    made = cells("held", NLL, RowFacts(FACTS.ids, FACTS.tokens, [""] * 4), METRICS, 0)
    assert list(made) == ["held", "held_rows"] == names("held", FACTS, 0)
    assert made["held"]["value"] == pytest.approx((10 + 30 + 20 + 36) / 51)
    assert all("groups" not in part(cell) for cell in made.values())
    assert made["held"]["outcomes"]["ids"] == made["held_rows"]["outcomes"]["ids"] == FACTS.digest


def test_names_are_those_of_the_cells_and_without_facts_those_that_are_always_there() -> None:
    assert names("held", FACTS, 10) == list(cells("held", NLL, FACTS, METRICS, 10))
    assert names("held", None, 10) == ["held", "held_rows"]


def test_read_facts_sorts_by_id() -> None:
    stored = {"ids": ["b", "a"], "tokens": [3, 1], "groups": ["y", "x"]}
    assert read_facts(stored) == RowFacts(["a", "b"], [1, 3], ["x", "y"])


@pytest.mark.parametrize(
    "values, short_tokens, part_of_it",
    [
        ({**NLL, "e": 1.0}, 10, r"5 NLLs and facts of 4 rows .*\['e'\]"),
        ({key: NLL[key] for key in "abc"}, 10, r"3 NLLs and facts of 4 rows .*\['d'\]"),
        (NLL, 31, "short_tokens=31: all 4 rows are shorter .*Set it to 30 or less"),
    ],
)
def test_cells_of_other_rows_or_of_none_are_refused(
    values: dict[str, float], short_tokens: int, part_of_it: str
) -> None:
    with pytest.raises(MeasuresError, match=part_of_it):
        cells("held", values, FACTS, METRICS, short_tokens)
    if short_tokens == 31:
        assert cells("held", values, FACTS, METRICS, 30)["held"]["items"] == 1  # the remedy works
