"""Perplexity and IFD against a batch-1 loop; rows without a score; what their shards share and don't depend on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow_baselines import ROWS, Ran, SlowModel, planned, run_method, shards_of, step_of

from icon_repro.data.prompts import PROMPTS, Template, alpaca_prompt
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import ifd, perplexity
from icon_repro.methods.common.outcome import NoScoreError
from icon_repro.methods.common.shards import ShardError
from icon_repro.methods.ifd.options import IfdConfig, Ratio
from icon_repro.methods.perplexity import Best, PerplexityConfig


@pytest.fixture(scope="module")
def slow(model_step: Path) -> SlowModel:
    return SlowModel(model_step)


def slow_nll(slow: SlowModel, row: Example, part: str, template: str = "alpaca", direct: str = "") -> float:
    """Mean NLL of a part of a row, the layout of its text written out."""
    prompt, answer = slow.ids(PROMPTS[Template(template)](row)), slow.ids(row.response)
    if part == "conditioned":
        return slow.nll(slow.bos + prompt, answer)
    if part == "direct":
        return slow.nll(slow.bos + slow.ids(direct), answer)
    return slow.nll(slow.bos, prompt + answer)


def order(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda i: (-scores[i], i))


# ---------------------------------------------------------------- perplexity


@pytest.mark.parametrize("best", ["lowest", "highest"])
@pytest.mark.parametrize("text", ["conditioned", "direct", "whole"])
def test_perplexity_equals_a_batch_1_loop(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime, text: str, best: str
) -> None:
    found = run_method(tmp_path, runtime, model_step, {"kind": "perplexity", "text": text, "best": best})
    expected = {row.id: slow_nll(slow, row, text) for row in ROWS}
    sign = 1 if best == "highest" else -1
    for identifier, nll in expected.items():
        assert found.scores[identifier].parts == {"nll": pytest.approx(nll, abs=1e-5)}
        assert found.scores[identifier].score == pytest.approx(sign * np.exp(nll), rel=1e-5)
    assert found.ranks == order({i: sign * nll for i, nll in expected.items()})
    assert found.metrics == {"rows": len(ROWS), "failed": {}, "tokens": 0, "flops": 0}


@pytest.mark.parametrize("template", ["scoring", "plain", "labelled"])
def test_perplexity_template_stands_before_the_response(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime, template: str
) -> None:
    found = run_method(tmp_path, runtime, model_step, {"kind": "perplexity", "template": template})
    for row in ROWS:
        expected = slow_nll(slow, row, "conditioned", template)
        assert found.scores[row.id].parts["nll"] == pytest.approx(expected, abs=1e-5)


def test_perplexity_rows_without_a_score_are_listed_with_their_reason(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    limit = 110
    lengths = {r.id: len(slow.bos + slow.ids(alpaca_prompt(r)) + slow.ids(r.response)) for r in ROWS}
    assert 0 < sum(n > limit for n in lengths.values()) < len(ROWS)
    rows = [*ROWS, Example("e1", "Say nothing.", "", ""), Example("e0", "Say nothing at all.", "", "")]
    found = run_method(tmp_path, runtime, model_step, {"kind": "perplexity", "max_length": limit}, rows)
    too_long = {i: f"longer than {limit} tokens" for i, n in lengths.items() if n > limit}
    assert found.failures == {"e0": "response without tokens", "e1": "response without tokens", **too_long}
    assert list(found.failures) == sorted(found.failures)
    assert sorted(found.scores) == sorted(i for i, n in lengths.items() if n <= limit)
    counts = {"response without tokens": 2, f"longer than {limit} tokens": len(too_long)}
    assert found.metrics["failed"] == counts and found.metrics["rows"] == len(found.scores)
    shards = [m for label, m in found.all_metrics.items() if "answers" in label]
    assert sum(m["rows"] for m in shards) == len(rows) and sum(m["failed"] for m in shards) == len(found.failures)


def test_perplexity_row_as_long_as_the_limit_is_scored(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    row = ROWS[2]
    length = len(slow.bos + slow.ids(alpaca_prompt(row)) + slow.ids(row.response))
    assert run_method(tmp_path, runtime, model_step, {"kind": "perplexity", "max_length": length}, [row]).ranks == [
        "c3"
    ]


def test_perplexity_no_row_left_says_why(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    rows = [Example("e1", "Say nothing.", "", ""), *ROWS[:2]]
    with pytest.raises(
        NoScoreError, match=r"no row has a score \(longer than 8 tokens: 2, response without tokens: 1\)"
    ):
        run_method(tmp_path, runtime, model_step, {"kind": "perplexity", "max_length": 8}, rows)
    assert not list(tmp_path.rglob("scores.jsonl"))


def test_perplexity_without_any_row_is_refused(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(NoScoreError, match="there are no rows"):
        run_method(tmp_path, runtime, model_step, {"kind": "perplexity"}, [])


def test_perplexity_tokens_count_what_went_through_the_model(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    found = run_method(tmp_path, runtime, model_step, {"kind": "perplexity"})
    expected = sum(len(slow.bos + slow.ids(alpaca_prompt(row)) + slow.ids(row.response)) for row in ROWS)
    shards = [m for label, m in found.all_metrics.items() if "answers" in label]
    assert sum(m["tokens"] for m in shards) == expected
    assert sum(m["flops"] for m in shards) == 2 * slow.model.num_parameters() * expected


@pytest.mark.parametrize("size", [3])
def test_shard_boundaries_change_neither_ids_nor_scores(
    model_step: Path, tmp_path: Path, runtime: Runtime, size: int
) -> None:
    rows = [*ROWS, Example("e1", "Say nothing.", "", "")]

    def run(name: str, shard_rows: int) -> Ran:
        method = {"kind": "ifd", "drop_above_one": False, "shard_rows": shard_rows}
        return run_method(tmp_path / name, runtime, model_step, method, rows)

    whole, parts = run("whole", 2048), run("parts", size)
    assert len(shards_of(whole.step, "answers:shard")) == 1 < len(shards_of(parts.step, "answers:shard"))
    assert parts.ranks == whole.ranks and parts.failures == whole.failures
    for identifier, score in whole.scores.items():
        assert parts.scores[identifier].parts == pytest.approx(score.parts, abs=1e-5)


def test_shards_beyond_the_last_row_are_empty(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    method = {"kind": "perplexity", "shard_rows": 4}
    found = run_method(tmp_path, runtime, model_step, method, ROWS[:3], expected_rows=12)
    assert sorted(found.scores) == sorted(row.id for row in ROWS[:3])
    assert [m["rows"] for label, m in sorted(found.all_metrics.items()) if "answers" in label] == [3, 0, 0]


# ---------------------------------------------------------------- IFD


@pytest.mark.parametrize("ratio", ["loss", "perplexity"])
@pytest.mark.parametrize("direct", ["", "### Response:"])
def test_ifd_equals_a_batch_1_loop(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime, direct: str, ratio: str
) -> None:
    method = {"kind": "ifd", "ratio": ratio, "direct": direct, "template": "plain", "drop_above_one": False}
    found = run_method(tmp_path, runtime, model_step, method)
    expected = {}
    for row in ROWS:
        conditioned = slow_nll(slow, row, "conditioned", "plain")
        alone = slow_nll(slow, row, "direct", direct=direct)
        expected[row.id] = conditioned / alone if ratio == "loss" else float(np.exp(conditioned) / np.exp(alone))
        parts = {"conditioned": pytest.approx(conditioned, abs=1e-5), "direct": pytest.approx(alone, abs=1e-5)}
        assert found.scores[row.id].parts == parts
        assert found.scores[row.id].score == pytest.approx(expected[row.id], abs=1e-5)
    assert found.ranks == order(expected) and not found.failures


@pytest.mark.parametrize("ratio", ["loss", "perplexity"])
def test_ifd_above_one_is_dropped_with_the_reason(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime, ratio: str
) -> None:
    found = run_method(tmp_path, runtime, model_step, {"kind": "ifd", "ratio": ratio})
    above = {
        row.id
        for row in ROWS
        if slow_nll(slow, row, "conditioned") > slow_nll(slow, row, "direct", direct="### Response:")
    }
    assert 0 < len(above) < len(ROWS)
    assert found.failures == dict.fromkeys(above, "IFD above 1")
    assert set(found.scores) == {row.id for row in ROWS} - above
    assert found.metrics["failed"] == {"IFD above 1": len(above)}


def test_ifd_single_token_without_anything_before_it_is_scored_only_after_a_bos(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    row = Example("one", "Say x.", "", "x")
    assert len(slow.ids(row.response)) == 1
    method = {"kind": "ifd", "direct": "", "drop_above_one": False}
    found = run_method(tmp_path, runtime, model_step, method, [*ROWS, row])
    if slow.bos:
        assert found.scores["one"].parts["direct"] == pytest.approx(slow.nll(slow.bos, slow.ids("x")), abs=1e-5)
    else:
        assert found.failures == {"one": "no token can be scored: a single token with nothing before it"}
    assert len(found.scores) + len(found.failures) == len(ROWS) + 1


def test_ifd_empty_prompt_loses_the_first_token_only_without_a_bos(
    slow: SlowModel, model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    rows = [Example("bare", "", "", "Red, green and blue.", ready=True)]
    found = run_method(
        tmp_path,
        runtime,
        model_step,
        {"kind": "ifd", "direct": "", "template": "scoring", "drop_above_one": False},
        rows,
    )
    assert found.scores["bare"].score == pytest.approx(1, abs=1e-6)
    ids = slow.ids(rows[0].response)
    expected = slow.nll(slow.bos, ids) if slow.bos else slow.nll(ids[:1], ids[1:])
    assert found.scores["bare"].parts["conditioned"] == pytest.approx(expected, abs=1e-5)


def test_ifd_proxy_scores_in_place_of_the_tuned_model(tmp_path: Path) -> None:
    proxy = {"kind": "random", "name": "small", "random": {"hidden_size": 32}, "parameters": 7}
    methods = {"own": {"kind": "ifd"}, "proxy": {"kind": "ifd", "proxy": proxy}}
    experiment = planned(tmp_path, methods)
    own, other = (shards_of(step_of(experiment, name), "answers:shard") for name in methods)
    assert {s.inputs["model"].label for s in own} == {"model/tiny_random"}
    assert {s.inputs["model"].label for s in other} == {"model/small"}
    assert all("small" in step.label for step in other)
    assert 0 < sum(s.cost.flops for s in other) < sum(s.cost.flops for s in own)


# ---------------------------------------------------------------- the plan, and shards made by hand


def test_low_and_top_perplexity_share_their_nlls(tmp_path: Path) -> None:
    low, top = {"kind": "perplexity", "best": "lowest"}, {"kind": "perplexity", "best": "highest"}
    experiment = planned(tmp_path, {"ppl_low": low, "ppl_top": top})
    steps = [step_of(experiment, name) for name in ("ppl_low", "ppl_top")]
    first, second = ([s.folder for s in shards_of(step, "answers:shard")] for step in steps)
    assert first == second
    assert sum(step.target.endswith("answers:shard") for step in experiment.steps) == len(first)
    assert steps[0].folder != steps[1].folder


def made_by_hand(folder: Path, shards: list[dict[str, Any]]) -> dict[str, Path]:
    """Folders of shards: ids, reasons, and a list of values for each part."""
    inputs = {}
    for number, content in enumerate(shards):
        inputs[f"shard-{number:04d}"] = made = folder / f"shard-{number:04d}"
        made.mkdir(parents=True)
        write_json(made / "ids.json", {"rows": content.pop("rows"), "reasons": content.pop("reasons", {})})
        for part, values in content.items():
            np.save(made / f"{part}.npy", np.array(values, np.float64))
    return inputs


def failures(folder: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in read_rows(folder / "failures.jsonl", dict)}


@pytest.mark.filterwarnings("ignore:overflow")
def test_perplexity_that_isnt_finite_is_a_failure(tmp_path: Path, runtime: Runtime) -> None:
    inputs = made_by_hand(tmp_path, [{"rows": ["b", "a"], "conditioned": [710.0, 0.0]}])
    perplexity.run(PerplexityConfig(best=Best.highest), inputs, tmp_path, runtime)
    assert read_rows(tmp_path / "scores.jsonl", Score) == [Score("a", 1.0, {"nll": 0.0})]
    assert failures(tmp_path) == {"b": "perplexity isn't finite"}


@pytest.mark.parametrize("drop", [True, False])
def test_ifd_limits_of_the_ratio(tmp_path: Path, runtime: Runtime, drop: bool) -> None:
    shard = {"rows": ["a", "b", "c", "d"], "conditioned": [2.0, 3.0, 1.0, 0.5], "direct": [2.0, 2.0, 2.0, 0.0]}
    metrics = ifd.run(
        IfdConfig(ratio=Ratio.loss, drop_above_one=drop), made_by_hand(tmp_path, [shard]), tmp_path, runtime
    )
    found = {row.id: row.score for row in read_rows(tmp_path / "scores.jsonl", Score)}
    assert found == ({"a": 1.0, "c": 0.5} if drop else {"a": 1.0, "b": 1.5, "c": 0.5})
    certain = {"d": "the response is certain without its prompt"}
    assert failures(tmp_path) == ({"b": "IFD above 1", **certain} if drop else certain)
    assert metrics["rows"] == len(found)


def test_row_in_two_shards_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    shards = [{"rows": ["a", "b"], "conditioned": [1.0, 2.0]}, {"rows": ["b"], "conditioned": [2.0]}]
    with pytest.raises(ShardError, match="1 rows are in two shards"):
        perplexity.run(PerplexityConfig(), made_by_hand(tmp_path, shards), tmp_path, runtime)


def test_shard_with_other_numbers_than_rows_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    shards = [{"rows": ["a", "b"], "conditioned": [1.0]}]
    with pytest.raises(ShardError, match="shard-0000: 1 conditioned of 2 rows; delete it"):
        perplexity.run(PerplexityConfig(), made_by_hand(tmp_path, shards), tmp_path, runtime)
