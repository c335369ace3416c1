"""The subset of a score file: size, ties, nesting, and what is refused."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.select import (
    SelectBudget,
    SelectConfig,
    SelectionError,
    run,
    told,
    top_fraction,
    within_tokens,
)


@pytest.mark.parametrize(
    "fraction, expected",
    [
        (1e-9, ["b"]),  # at least one
        (0.25, ["b"]),
        (0.5, ["b", "a"]),
        (0.7, ["b", "a", "c"]),  # 2.8 rows
        (1, ["b", "a", "c", "d"]),
    ],
)
def test_top_fraction_ties_go_to_smaller_id(fraction: float, expected: list[str]) -> None:
    assert top_fraction({"c": 0.5, "b": 0.9, "a": 0.5, "d": 0.0}, fraction) == expected


@pytest.mark.parametrize("fraction, size", [(0.01, 50), (0.05, 250), (0.1, 500), (0.15, 750)])
def test_top_fraction_sizes_of_the_paper(fraction: float, size: int) -> None:
    assert len(top_fraction({f"{i:04d}": 0.0 for i in range(5000)}, fraction)) == size


def test_top_fraction_smaller_is_the_head_of_larger() -> None:
    draw = random.Random(1)
    scores = {f"{i:03d}": draw.choice([-1.5, 0.0, 0.25, 2.0]) for i in range(101)}  # many ties
    shuffled = dict(draw.sample(sorted(scores.items()), len(scores)))
    whole = top_fraction(scores, 1.0)
    assert sorted(whole) == sorted(scores)
    for fraction in (0.01, 0.05, 0.1, 0.15, 0.5, 0.99):
        part = top_fraction(shuffled, fraction)
        assert part == whole[: len(part)]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.2, math.nan, math.inf])
def test_top_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(SelectionError, match=rf"fraction={fraction}: must be in \(0, 1\]"):
        top_fraction({"a": 1.0}, fraction)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_top_fraction_score_that_isnt_finite_is_named(bad: float) -> None:
    with pytest.raises(SelectionError, match=r"2 of 4 scores aren't finite \(first: id 'b'\).*NaN"):
        top_fraction({"a": 1.0, "z": bad, "b": math.nan, "c": 0.0}, 0.5)


def test_top_fraction_no_scores_is_refused() -> None:
    with pytest.raises(SelectionError, match="no scores"):
        top_fraction({}, 0.5)


@pytest.mark.parametrize(
    "fraction, universe, expected",
    [
        (0.25, 8, ["b", "a"]),
        (0.5, 8, ["b", "a", "c", "d"]),
        (0.75, 8, ["b", "a", "c", "d"]),  # all that have a score
        (0.1, 4, ["b"]),  # at least one
        (0.25, 4, ["b"]),
        (0.75, 1000, ["b", "a", "c", "d"]),
    ],
)
def test_top_fraction_is_of_all_rows_scored_or_not(fraction: float, universe: int, expected: list[str]) -> None:
    assert top_fraction({"c": 0.5, "b": 0.9, "a": 0.5, "d": 0.0}, fraction, universe) == expected


def select(
    folder: Path, runtime: Runtime, scores: list[Score], universe: str = "abcd", fraction: float = 0.5
) -> tuple[Any, dict[str, Any]]:
    """Ids and metrics; the rows to select from are called as the letters of ``universe``."""
    write_rows(folder / "scores.jsonl", scores)
    write_rows(folder / "rows.jsonl", [Example(letter, "x", "", "y") for letter in universe])
    metrics = run(SelectConfig(fraction), {"scores": folder, "universe": folder}, folder, runtime)
    return read_json(folder / "ids.json"), metrics


def no_ties(scored: int) -> dict[str, int]:
    return {"distinct_scores": scored, "tied": 0, "tied_left_out": 0}


def test_run_counts_rows_that_are_tied_at_the_cut(tmp_path: Path, runtime: Runtime) -> None:
    scores = [Score(name, score) for name, score in zip("abcdef", (3.0, 2.0, 2.0, 2.0, 2.0, 1.0), strict=True)]
    ids, metrics = select(tmp_path, runtime, scores, "abcdef", 0.5)
    assert ids == ["a", "b", "c"]
    assert (metrics["distinct_scores"], metrics["tied"], metrics["tied_left_out"]) == (3, 2, 2)
    assert told(metrics) == ["tied at the cut: 2 rows left out have the score of 2 selected ones; ids decide which"]


def test_run_constant_scores_are_said(tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    ids, metrics = select(tmp_path, runtime, [Score(name, 0.5) for name in "dcba"], "abcd", 0.5)
    assert ids == ["a", "b"]
    assert told(metrics) == ["all 4 scores are equal: ids alone decide what is selected"]
    assert told(metrics)[0] in caplog.text


def test_told_of_a_step_of_an_older_version_is_what_it_counted() -> None:
    assert told({"rows": 9, "scored": 5, "selected": 5, "short_by": 0}) == []
    assert told({"rows": 9, "scored": 1, "selected": 1, "short_by": 2})[0].startswith("2 rows fewer")


def test_run_writes_the_ids_best_first(tmp_path: Path, runtime: Runtime) -> None:
    scores = [Score("a", -1.0), Score("b", 3.0, {"direct": 1.0}), Score("c", 2.0), Score("d", 0.0)]
    metrics = {"rows": 4, "scored": 4, "selected": 2, "short_by": 0, **no_ties(4)}
    assert select(tmp_path, runtime, scores) == (["b", "c"], metrics)


def test_run_fraction_is_of_all_rows_when_some_have_no_score(tmp_path: Path, runtime: Runtime) -> None:
    scores = [Score("a", -1.0), Score("f", 3.0), Score("c", 2.0)]
    metrics = {"rows": 6, "scored": 3, "selected": 2, "short_by": 0, **no_ties(3)}
    assert select(tmp_path, runtime, scores, "fbcdea", 0.33) == (["f", "c"], metrics)


def test_run_says_how_many_are_missing(tmp_path: Path, runtime: Runtime) -> None:
    scores = [Score("a", -1.0), Score("f", 3.0)]
    metrics = {"rows": 6, "scored": 2, "selected": 2, "short_by": 3, **no_ties(2)}
    assert select(tmp_path, runtime, scores, "abcdef", 0.75) == (["f", "a"], {**metrics, "short_by": 2})
    assert select(tmp_path, runtime, scores, "abcdef", 0.9) == (["f", "a"], metrics)


def test_run_scored_ids_that_no_row_has_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    scores = [Score("z", 1.0), Score("a", 1.0), Score("y", 2.0)]
    with pytest.raises(SelectionError, match=r"2 scored ids aren't among the rows to select from \(first: 'y'\)"):
        select(tmp_path, runtime, scores)
    assert not (tmp_path / "ids.json").exists()


def test_run_id_with_two_scores_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(SelectionError, match="1 ids have more than one score"):
        select(tmp_path, runtime, [Score("a", 1.0), Score("b", 1.0), Score("a", 2.0)])
    assert not (tmp_path / "ids.json").exists()


# ---------------------------------------------------------------- a budget of tokens


@pytest.mark.parametrize(
    "allowed, expected",
    [
        (0, "a"),  # at least one
        (4, "a"),
        (14.9, "a"),  # 10 is nearer than 20
        (15, "a"),  # equally near: the fewer
        (15.1, "ab"),
        (20, "ab"),
        (21, "abc"),  # 21, with a row of one token
        (30, "abc"),  # of 21 and 71
        (999, "abcd"),  # all
    ],
)
def test_within_tokens_comes_nearest_to_what_is_allowed(allowed: float, expected: str) -> None:
    assert within_tokens("abcd", {"d": 50, "b": 10, "a": 10, "c": 1}, allowed) == list(expected)


def select_tokens(folder: Path, runtime: Runtime, scores: list[Score], tokens: dict[str, int]) -> dict[str, Any]:
    write_rows(folder / "scores.jsonl", scores)
    write_rows(folder / "rows.jsonl", [Example(name, "x", "", "y") for name in "abcdef"])
    write_json(folder / "tokens.json", tokens)
    config = SelectConfig(0.5, SelectBudget.tokens)
    return run(config, {"scores": folder, "universe": folder, "tokens": folder}, folder, runtime)


TOKENS = {"a": 10, "b": 40, "c": 20, "d": 10, "e": 30, "f": 10}  # half of the rows has 60 on average


def test_run_budget_of_tokens_is_what_a_random_selection_has_on_average(tmp_path: Path, runtime: Runtime) -> None:
    short = [Score(name, score) for name, score in zip("adfceb", (6.0, 5.0, 4.0, 3.0, 2.0, 1.0), strict=True)]
    facts = {"rows": 6, "scored": 6, "token_budget": 60, **no_ties(6)}
    found = select_tokens(tmp_path, runtime, short, TOKENS)
    assert (found, read_json(tmp_path / "ids.json")) == (facts | {"selected": 4, "selected_tokens": 50}, list("adfc"))
    found = select_tokens(tmp_path, runtime, [Score(row.id, -row.score) for row in short], TOKENS)
    assert (found, read_json(tmp_path / "ids.json")) == (facts | {"selected": 2, "selected_tokens": 70}, list("be"))


def test_run_budget_of_tokens_mean_over_all_random_selections(tmp_path: Path, runtime: Runtime) -> None:
    every = [sum(TOKENS[name] for name in three) for three in itertools.combinations("abcdef", 3)]
    found = select_tokens(tmp_path, runtime, [Score("a", 1.0)], TOKENS)
    assert found["token_budget"] == sum(every) / len(every)
    assert found["selected_tokens"] == 10  # rows without a score can't be selected


def test_run_budget_of_tokens_that_the_scored_rows_cant_fill_is_said(tmp_path: Path, runtime: Runtime) -> None:
    scored = [Score(name, float(place)) for place, name in enumerate("ab")]
    found = select_tokens(tmp_path, runtime, scored, dict(zip("abcdef", [1, 2, 60, 60, 60, 60], strict=True)))
    assert found["short_by_tokens"] == pytest.approx(found["token_budget"] - 3, abs=1)
    assert told(found)[0].endswith("tokens fewer than the budget: too few rows have a score")


def test_run_row_without_a_number_of_tokens_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(SelectionError, match=r"2 rows have no number of tokens \(first: 'e'\)"):
        select_tokens(tmp_path, runtime, [Score("a", 1.0)], dict.fromkeys("abcd", 1))
