"""The controls random and longest: what their order depends on, and what it must not depend on."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import longest, random
from icon_repro.methods.longest import LongestConfig
from icon_repro.methods.random import RandomConfig

ROWS = [Example(f"r{i:02d}", "Say it.", "", "yes " * length) for i, length in enumerate([3, 1, 7, 1, 5, 9, 2, 8])]


@pytest.fixture
def score(tmp_path: Path, runtime: Runtime) -> Callable[..., list[Score]]:
    def make(config: RandomConfig | LongestConfig, rows: list[Example] = ROWS) -> list[Score]:
        write_rows(tmp_path / "rows.jsonl", rows)
        inputs = {"candidates": tmp_path}
        if isinstance(config, RandomConfig):
            metrics = random.run(config, inputs, tmp_path, runtime)
        else:
            metrics = longest.run(config, inputs, tmp_path, runtime)
        assert metrics == {"rows": len(rows), "tokens": 0, "flops": 0}
        return read_rows(tmp_path / "scores.jsonl", Score)

    return make


@pytest.mark.parametrize("config", [RandomConfig(seed=3), LongestConfig()], ids=["random", "longest"])
def test_scores_are_of_the_candidates_and_dont_depend_on_row_order(
    score: Callable[..., list[Score]], config: RandomConfig | LongestConfig
) -> None:
    first = score(config)
    assert sorted(row.id for row in first) == sorted(row.id for row in ROWS)
    turned = score(config, ROWS[::-1])
    assert {row.id: row.score for row in first} == {row.id: row.score for row in turned}


def test_random_seed_decides_the_scores(score: Callable[..., list[Score]]) -> None:
    one, again, other = (score(RandomConfig(seed=seed)) for seed in (3, 3, 4))
    assert one == again
    assert [row.score for row in one] != [row.score for row in other]
    assert all(0 <= row.score < 1 for row in one) and len({row.score for row in one}) == len(ROWS)


def test_random_doesnt_look_at_the_texts(score: Callable[..., list[Score]]) -> None:
    others = [Example(row.id, "Another", "text", "no") for row in ROWS]
    assert score(RandomConfig(seed=3)) == score(RandomConfig(seed=3), others)


def test_random_doesnt_favour_early_ids(score: Callable[..., list[Score]]) -> None:
    rows = [Example(f"{i:04d}", "x", "", "y") for i in range(1000)]
    best = sorted(score(RandomConfig(seed=0), rows), key=lambda row: -row.score)[:200]
    mean = sum(int(row.id) for row in best) / len(best)
    assert 420 < mean < 580  # 499.5, standard error 18


def test_longest_counts_the_characters_of_the_response(score: Callable[..., list[Score]]) -> None:
    rows = [Example("a", "a long instruction " * 9, "", "kurz"), Example("b", "x", "", "größer")]
    assert score(LongestConfig(), rows) == [Score("a", 4.0), Score("b", 6.0)]


# ---------------------------------------------------------------- random with another selection's lengths


LENGTHS = {f"r{i:03d}": 10 + i for i in range(200)}  # ten deciles of 20 rows
SELECTED = [f"r{i:03d}" for i in (3, 5, 180, 181, 182, 183, 184, 199)]  # 2 of the first decile, 6 of the last


def counts(characters: Mapping[str, int], ids: Iterable[str]) -> list[int]:
    """Rows in each decile, by rank: for lengths that all differ."""
    rank = {row: number for number, row in enumerate(sorted(characters, key=lambda row: characters[row]))}
    found = [0] * 10
    for row in ids:
        found[rank[row] * 10 // len(rank)] += 1
    return found


def test_matched_draws_as_many_rows_of_each_decile_as_the_selection_holds() -> None:
    for seed in range(20):
        drawn, forced = random.draw_matched(LENGTHS, SELECTED, np.random.default_rng(seed))
        assert counts(LENGTHS, drawn) == [2, 0, 0, 0, 0, 0, 0, 0, 0, 6]
        assert (len(drawn), forced) == (len(SELECTED), 0)


def test_matched_draws_every_row_of_a_decile_equally_often() -> None:
    draws = 2000
    found = Counter(
        row for seed in range(draws) for row in random.draw_matched(LENGTHS, SELECTED, np.random.default_rng(seed))[0]
    )
    assert len(found) == 40  # selected rows among them
    for row, count in found.items():
        share = 0.1 if row < "r100" else 0.3
        assert abs(count / draws - share) < 5 * (share * (1 - share) / draws) ** 0.5, row


def test_matched_rows_of_one_length_are_in_one_decile() -> None:
    characters = {f"r{i:02d}": 7 for i in range(30)} | {f"s{i:02d}": 50 + i for i in range(10)}
    for seed in range(5):
        drawn, _ = random.draw_matched(characters, ["r03", "r29", "s09"], np.random.default_rng(seed))
        assert sorted(characters[row] == 7 for row in drawn) == [False, True, True]


def test_matched_decile_that_is_selected_whole_is_counted_as_forced() -> None:
    selected = [*(f"r{i:03d}" for i in range(180, 200)), "r000"]
    drawn, forced = random.draw_matched(LENGTHS, selected, np.random.default_rng(0))
    assert forced == 20 and counts(LENGTHS, drawn) == [1, 0, 0, 0, 0, 0, 0, 0, 0, 20]


@pytest.mark.parametrize(
    "selected, says",
    [
        (
            [f"r{i:03d}" for i in range(180, 200)],
            "of 20 rows holds every row of each decile.*smaller fraction",
        ),
        (["r000", "x", "q"], "2 selected rows aren't among the 200 rows to draw from .first: 'q'"),
    ],
    ids=["no choice", "unknown row"],
)
def test_matched_control_that_cant_be_drawn_says_why(selected: list[str], says: str) -> None:
    with pytest.raises(random.MatchedError, match=says):
        random.draw_matched(LENGTHS, selected, np.random.default_rng(0))


def test_matched_step_scores_the_rows_drawn_and_not_by_row_order(tmp_path: Path, runtime: Runtime) -> None:
    rows = [Example(row, "x", "", "y" * length) for row, length in LENGTHS.items()]
    results = []
    for order in (rows, rows[::-1]):
        write_rows(tmp_path / "rows.jsonl", order)
        write_json(tmp_path / "ids.json", SELECTED)
        config = RandomConfig(seed=4, matched_to="longest")
        metrics = random.matched(config, {"candidates": tmp_path, "selection": tmp_path}, tmp_path, runtime)
        results.append(read_rows(tmp_path / "scores.jsonl", Score))
    assert results[0] == results[1] and all(0 <= row.score < 1 for row in results[0])
    both = len({row.id for row in results[0]} & set(SELECTED))
    assert metrics == {"rows": 200, "drawn": 8, "also_selected": both, "forced": 0, "tokens": 0, "flops": 0}
