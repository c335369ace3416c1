"""RDS+: queries taking turns against a naive loop, the whole stage against vectors of single texts, bad shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from slow_baselines import ASSESSMENT, ROWS, SlowModel, run_method

from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import rds
from icon_repro.methods.common.embeddings import EmbeddingsError
from icon_repro.methods.common.shards import ShardError
from icon_repro.methods.rds import RdsConfig


def naive(similarity: NDArray[Any]) -> list[int]:
    """Each query in turn looks at all rows that are left; of equal ones it takes the first."""
    left, order = list(range(len(similarity))), list[int]()
    while left:
        for query in range(similarity.shape[1]):
            if left:
                best = max(left, key=lambda row: (similarity[row, query], -row))
                left.remove(best)
                order.append(best)
    return order


@pytest.mark.parametrize("rows, queries", [(7, 3), (3, 7), (1, 4), (6, 1), (1, 1), (40, 5)])
@pytest.mark.parametrize("ties", [True, False])
def test_taken_in_turns_equals_a_naive_loop(rows: int, queries: int, ties: bool) -> None:
    draw = np.random.default_rng(rows * 10 + queries)
    for _ in range(20):
        values = draw.integers(0, 3, (rows, queries)) / 2 if ties else draw.normal(size=(rows, queries))
        assert rds.taken_in_turns(values.astype(np.float32)) == naive(values.astype(np.float32))


def test_taken_in_turns_written_out() -> None:
    similarity = np.array([[0.9, 0.9], [0.8, 0.1], [0.1, 0.7], [0.0, 0.8]])
    assert rds.taken_in_turns(similarity) == [0, 3, 1, 2]
    assert rds.taken_in_turns(similarity[:, :1]) == [0, 1, 2, 3]
    assert rds.taken_in_turns(np.zeros((3, 2))) == [0, 1, 2]


def slow_vector(slow: SlowModel, row: Example, limit: int) -> NDArray[np.float64]:
    states = slow.hidden((slow.bos + slow.ids(alpaca_prompt(row) + row.response))[:limit])
    weights = np.arange(1, len(states) + 1) / sum(range(1, len(states) + 1))
    vector = weights @ states
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("limit, size", [(2048, 2048), (110, 3)])
def test_rds_equals_vectors_of_single_texts(
    model_step: Path, tmp_path: Path, runtime: Runtime, limit: int, size: int
) -> None:
    slow = SlowModel(model_step)
    found = run_method(tmp_path, runtime, model_step, {"kind": "rds", "max_length": limit, "shard_rows": size})
    rows = sorted(ROWS, key=lambda row: row.id)
    vectors = np.array([slow_vector(slow, row, limit) for row in rows])
    similarity = vectors @ np.array([slow_vector(slow, row, limit) for row in ASSESSMENT]).T
    assert found.ranks == [rows[i].id for i in naive(similarity)]
    for place, identifier in enumerate(found.ranks):
        assert found.scores[identifier].score == -place
    for row, values in zip(rows, similarity, strict=True):
        assert found.scores[row.id].parts == {"similarity": pytest.approx(values.max(), abs=1e-5)}
    assert not found.failures
    assert found.metrics == {"rows": len(ROWS), "failed": {}, "queries": len(ASSESSMENT), "tokens": 0, "flops": 0}
    lengths = [len(slow.bos + slow.ids(alpaca_prompt(row) + row.response)) for row in [*ROWS, *ASSESSMENT]]
    made = [metrics for label, metrics in found.all_metrics.items() if "embeddings" in label]
    assert sum(metrics["rows_cut"] for metrics in made) == sum(n > limit for n in lengths)
    assert sum(metrics["tokens"] for metrics in made) == sum(min(n, limit) for n in lengths)


def test_rds_order_of_the_rows_has_no_influence(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    method = {"kind": "rds"}
    first, turned = (
        run_method(tmp_path / name, runtime, model_step, method, rows)
        for name, rows in (("first", ROWS), ("turned", ROWS[::-1]))
    )
    assert first.ranks == turned.ranks


def test_rds_more_queries_than_rows(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    found = run_method(tmp_path, runtime, model_step, {"kind": "rds"}, ROWS[:2])
    assert sorted(found.ranks) == sorted(row.id for row in ROWS[:2])


def test_rds_row_without_a_token_is_a_failure(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    rows = [*ROWS[:3], Example("void", "", "", "", ready=True)]
    found = run_method(tmp_path, runtime, model_step, {"kind": "rds"}, rows)
    assert found.failures == {"void": "nothing to embed"}, "a BOS alone says nothing"
    assert sorted(found.scores) == sorted(row.id for row in ROWS[:3])


# ---------------------------------------------------------------- shards made by hand


def by_hand(folder: Path, shards: dict[str, tuple[list[str], Sequence[Sequence[float]], dict[str, str]]]) -> Any:
    """Folders of embeddings: ids, vectors, reasons."""
    inputs = {}
    for name, (ids, vectors, reasons) in shards.items():
        inputs[name] = folder / name
        inputs[name].mkdir()
        write_json(inputs[name] / "ids.json", {"rows": ids, "reasons": reasons})
        np.save(inputs[name] / "vectors.npy", np.array(vectors, np.float32))
    return inputs


QUERY: dict[str, Any] = {"query-0000": (["q"], [[1.0, 0.0]], {})}


def test_rds_ties_go_to_the_smaller_id_across_shards(tmp_path: Path, runtime: Runtime) -> None:
    shards: Any = {
        "shard-0000": (["d", "c"], [[0.6, 0.8], [0.6, 0.8]], {}),
        "shard-0001": ([], np.empty((0, 0)), {}),
        "shard-0002": (["a", "x", "b"], [[0.6, 0.8], [np.nan, np.nan], [1.0, 0.0]], {"x": "nothing to embed"}),
    }
    rds.run(RdsConfig(), by_hand(tmp_path, shards | QUERY), tmp_path, runtime)
    found = {row.id: row for row in read_rows(tmp_path / "scores.jsonl", Score)}
    assert {i: row.score for i, row in found.items()} == {"b": 0.0, "a": -1.0, "c": -2.0, "d": -3.0}
    assert found["b"].parts == {"similarity": 1.0} and found["c"].parts == {"similarity": pytest.approx(0.6)}
    assert read_rows(tmp_path / "failures.jsonl", dict) == [{"id": "x", "reason": "nothing to embed"}]


@pytest.mark.parametrize(
    "shards, message",
    [
        (
            {"shard-0000": (["a", "b"], [[1, 0], [0, 1]], {}), "shard-0001": (["b"], [[0, 1]], {}), **QUERY},
            "1 rows are in two shards",
        ),
        ({"shard-0000": (["a", "b"], [[1, 0]], {}), **QUERY}, "shard-0000: 1 vectors of 2 rows"),
        ({"shard-0000": (["a"], [[1, 0]], {"a": "nothing to embed"}), **QUERY}, "none of 1 rows has a vector"),
        ({"shard-0000": (["a"], [[1, 0]], {}), "query-0000": ([], [], {})}, "none of 0 rows has a vector"),
    ],
    ids=["twice", "short", "none", "no query"],
)
def test_rds_shards_that_dont_fit_are_refused(tmp_path: Path, runtime: Runtime, shards: Any, message: str) -> None:
    with pytest.raises((EmbeddingsError, ShardError), match=message):
        rds.run(RdsConfig(), by_hand(tmp_path, shards), tmp_path, runtime)
