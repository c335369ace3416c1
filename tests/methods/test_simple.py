"""The controls random and longest: what their order depends on, and what it must not depend on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from icon_repro.config_methods import LongestConfig, RandomConfig
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import longest, random
from icon_repro.records import Example, Score, read_rows, write_rows

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
