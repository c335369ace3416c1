"""SelectIT: ratings against the formula as a loop, the whole stage against single texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_baselines import ROWS, SlowModel, run_method, shards_of
from transformers import LlamaModel

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.tokens import TokenError
from icon_repro.methods import selectit
from icon_repro.methods.common.outcome import NoScoreError
from icon_repro.methods.common.questions import QUESTIONS
from icon_repro.methods.common.shards import ShardError
from icon_repro.methods.selectit import SelectitConfig, SelectitShard


def slow_rating(probabilities: list[float]) -> float:
    """The likeliest level, from 1, times its mean distance from the others, after a softmax of scaled probabilities."""
    scaled = [p / sum(probabilities) for p in probabilities]
    soft = [np.exp(p) / sum(np.exp(q) for q in scaled) for p in scaled]
    level = max(range(5), key=lambda i: soft[i])
    return float((level + 1) * sum(soft[level] - soft[i] for i in range(5)) / 4)


def test_rating_equals_the_formula_as_a_loop() -> None:
    draw = np.random.default_rng(0)
    values = draw.dirichlet(np.ones(5) / 2, (30, 5)) * draw.uniform(1e-6, 1, (30, 5, 1))
    found = selectit.rating(values)
    assert found.shape == (30, 5)
    for place in np.ndindex(30, 5):
        assert found[place] == pytest.approx(slow_rating(values[place].tolist()), abs=1e-12)
    assert (found >= 0).all() and (found <= 5).all()


def test_rating_written_out() -> None:
    certain = (np.e - 1) / (np.e + 4)  # softmax of (1, 0, 0, 0, 0): distance of the first from each other
    values = [[0.0, 0, 0, 0, 7e-9], [3e-3, 0, 0, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]]
    assert selectit.rating(np.array(values)) == pytest.approx([5 * certain, certain, 0.0])


def test_prompt_is_question_row_and_a_line_break() -> None:
    assert selectit.prompt(ROWS[1], "How good?") == (
        "How good?\nInstruction: Add the numbers.\n3 and 4\nResponse: The sum of 3 and 4 is 7.\nThe answer is:\n"
    )
    assert selectit.prompt(ROWS[0], "Q") == "Q\nInstruction: Name a colour.\nResponse: Red.\nThe answer is:\n"


def slow_ratings(slow: SlowModel, row: Example) -> list[float]:
    digits = [slow.tokenizer.convert_tokens_to_ids(digit) for digit in "12345"]
    found = []
    for question in QUESTIONS:
        ids = slow.bos + slow.ids(selectit.prompt(row, question))
        found.append(slow_rating(np.exp(slow.log_probabilities(ids)[-1])[digits].tolist()))
    return found


@pytest.mark.parametrize("alpha", [0.2])
def test_selectit_equals_a_batch_1_loop(model_step: Path, tmp_path: Path, runtime: Runtime, alpha: float) -> None:
    slow = SlowModel(model_step)
    found = run_method(tmp_path, runtime, model_step, {"kind": "selectit", "alpha": alpha, "shard_rows": 4})
    expected = {}
    for row in ROWS:
        ratings = slow_ratings(slow, row)
        mean = sum(ratings) / 5
        spread = (sum((rating - mean) ** 2 for rating in ratings) / 5) ** 0.5
        expected[row.id] = mean / (1 + alpha * spread)
        assert found.scores[row.id].score == pytest.approx(expected[row.id], abs=1e-5)
        assert found.scores[row.id].parts == pytest.approx({"rating": mean, "spread": spread}, abs=1e-5)
    assert found.ranks == sorted(expected, key=lambda i: -expected[i])
    assert len(shards_of(found.step, "selectit:shard")) == 2 and not found.failures
    tokens = sum(len(slow.bos + slow.ids(selectit.prompt(row, q))) for row in ROWS for q in QUESTIONS)
    assert sum(m["tokens"] for label, m in found.all_metrics.items() if "part" in label) == tokens


def test_selectit_long_row_is_left_out_with_the_reason(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    slow = SlowModel(model_step)
    lengths = {r.id: max(len(slow.bos + slow.ids(selectit.prompt(r, q))) for q in QUESTIONS) for r in ROWS}
    limit = sorted(lengths.values())[3]  # the longest wording decides; as long as the limit is short enough
    found = run_method(tmp_path, runtime, model_step, {"kind": "selectit", "max_length": limit})
    whole = run_method(tmp_path / "whole", runtime, model_step, {"kind": "selectit"})
    reason = f"longer than {limit} tokens"
    assert found.failures == {i: reason for i, length in lengths.items() if length > limit}
    assert 0 < len(found.failures) < len(ROWS)
    assert found.metrics["failed"] == {reason: len(found.failures)}
    for identifier, score in found.scores.items():
        assert score.score == pytest.approx(whole.scores[identifier].score, abs=1e-5)
    with pytest.raises(NoScoreError, match="longer than 8 tokens: 7"):
        run_method(tmp_path / "none", runtime, model_step, {"kind": "selectit", "max_length": 8})


def shard(folder: Path, runtime: Runtime, model: Path, rows: list[Example], **changes: Any) -> dict[str, Any]:
    write_rows(folder / "rows.jsonl", rows)
    cfg = SelectitShard(SelectitConfig(**changes), 0, None)
    return selectit.shard(cfg, {"model": model, "candidates": folder}, folder, runtime)


def test_shard_text_longer_than_the_positions_is_refused(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    rows = [*ROWS[:2], Example("long", "x", "", "Red. " * 4096)]
    with pytest.raises(TokenError, match=r"the model has 4096 positions. Lower max_length"):
        shard(tmp_path, runtime, model_step, rows, max_length=100_000)


def test_shard_out_of_memory_halves_the_batch(
    tiny_model: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").symlink_to(tiny_model)
    (tmp_path / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    shard(tmp_path, runtime, tmp_path, ROWS[:3])
    expected = np.load(tmp_path / "ratings.npy")
    forward, sizes = LlamaModel.forward, list[int]()

    def full(self: Any, *arguments: Any, **named: Any) -> Any:
        sizes.append(len(named["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *arguments, **named)

    monkeypatch.setattr(LlamaModel, "forward", full)
    shard(tmp_path, runtime, tmp_path, ROWS[:3])
    probes = 2  # of how the head works
    assert max(sizes) > 2 and sum(size for size in sizes if size <= 2) == 15 + probes
    np.testing.assert_allclose(np.load(tmp_path / "ratings.npy"), expected, rtol=0, atol=1e-5)


def test_shard_names_its_rows(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    inputs = {"model": model_step, "candidates": tmp_path}
    selectit.shard(SelectitShard(SelectitConfig(), 1, 3), inputs, tmp_path, runtime)
    assert read_json(tmp_path / "ids.json") == {"rows": ["c2", "c3"], "reasons": {}}
    assert np.load(tmp_path / "ratings.npy").shape == (2, 5)
    metrics = selectit.shard(SelectitShard(SelectitConfig(), 7, None), inputs, tmp_path, runtime)
    assert metrics == {"rows": 0, "failed": 0, "tokens": 0, "flops": 0}


def part_in(folder: Path, rows: list[str], ratings: list[list[float]], reasons: Mapping[str, str]) -> dict[str, Path]:
    write_json(folder / "ids.json", {"rows": rows, "reasons": dict(reasons)})
    np.save(folder / "ratings.npy", np.array(ratings))
    return {"part-0000": folder}


def test_run_mean_over_one_plus_the_spread(tmp_path: Path, runtime: Runtime) -> None:
    ratings: list[list[float]] = [[1, 2, 3, 4, 5], [np.nan] * 5, [1, 1, np.nan, 1, 1], [2, 2, 2, 2, 2]]
    inputs = part_in(tmp_path, ["a", "b", "c", "d"], ratings, {"b": "longer than 9 tokens"})
    selectit.run(SelectitConfig(alpha=0.5), inputs, tmp_path, runtime)
    found = {row.id: row.score for row in read_rows(tmp_path / "scores.jsonl", Score)}
    assert found == {"a": pytest.approx(3 / (1 + 0.5 * 2**0.5)), "d": 2.0}
    failures = {row["id"]: row["reason"] for row in read_rows(tmp_path / "failures.jsonl", dict)}
    assert failures == {"b": "longer than 9 tokens", "c": "rating isn't finite"}


def test_run_other_number_of_ratings_than_rows_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ShardError, match="1 ratings of 2 rows; delete it"):
        selectit.run(SelectitConfig(), part_in(tmp_path, ["a", "b"], [[1.0] * 5], {}), tmp_path, runtime)
