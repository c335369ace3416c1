"""Superfiltering.D against the plain greedy loop; what the share leaves out, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from slow_baselines import ROWS, SlowModel, planned, run_method, shards_of, step_of
from small import composed, small

from icon_repro.config.load import ConfigError
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import ordered
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.methods.ifd import diversity
from icon_repro.methods.ifd.options import OrderByDiversity, ShareConfig
from icon_repro.methods.select import SelectConfig
from icon_repro.methods.select import run as select

POOL = [
    *ROWS,
    *(Example(f"d{i}", f"Say {'so ' * i}it.", "", "a fine day it is, is it not? "[i : 3 * i + 9]) for i in range(9)),
]


def similarities(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """submodlib's, pair by pair."""
    rows, dimensions = vectors.shape
    made = np.empty((rows, rows))
    for i in range(rows):
        for j in range(rows):
            made[i, j] = np.exp(
                -np.sqrt(((vectors[i].astype(float) - vectors[j].astype(float)) ** 2).sum()) / dimensions
            )
    return made


def greedy(similarity: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """Each time the row that raises the sum of largest similarities most, all of them tried; of equal ones the first.

    Two rows that are left and cover only themselves and each other raise it by the same.
    """
    order, gains, covered = list[int](), list[float](), np.zeros(len(similarity))
    while len(order) < len(similarity):
        left = [row for row in range(len(similarity)) if row not in order]
        tried = [float(np.maximum(covered, similarity[row]).sum() - covered.sum()) for row in left]
        behind = max(tried) - np.array(tried)
        assert not ((behind > 1e-12) & (behind < 1e-7)).any(), "rounding might decide"
        best = int(np.argmax(behind <= 1e-12))
        order.append(left[best])
        gains.append(tried[best])
        covered = np.maximum(covered, similarity[left[best]])
    return order, gains


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unit", [True, False])
def test_representatives_equal_the_plain_greedy_loop(seed: int, unit: bool) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(60, 24)) + 3 * draw.normal(size=(5, 24))[draw.integers(5, size=60)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors).astype(np.float32)
    order, gains = diversity.representatives(diversity.dissimilarities(vectors, 1.0))
    expected, sums = greedy(similarities(vectors))
    assert order == expected and order != sorted(order)
    assert gains == pytest.approx(sums, abs=1e-5)


def test_dissimilarity_is_that_of_submodlibs_euclidean_metric() -> None:
    # exp(-distance / dimensions): its own test points (4.5, 13.5), (5, 13.5) and (5.5, 13.5)
    vectors = np.array([(4.5, 13.5), (5, 13.5), (5.5, 13.5)], np.float32)
    found = 1 - diversity.dissimilarities(vectors, 1.0)
    np.testing.assert_allclose(found[0], [1, np.exp(-0.25), np.exp(-0.5)], rtol=0, atol=1e-7)


def test_equal_rows_tie_and_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    single = draw.normal(size=(7, 30)).astype(np.float32)
    vectors = np.concatenate([single, single[::-1], single])
    whole = diversity.dissimilarities(vectors, 1.0)
    monkeypatch.setattr(diversity, "_BLOCK", 40)
    blocks = diversity.dissimilarities(vectors, 1.0)
    assert np.array_equal(whole, blocks) and np.array_equal(whole, whole.T)
    order, gains = diversity.representatives(whole)
    assert sorted(order[:7]) == list(range(7)), "of equal rows the first"
    assert order[7:] == sorted(order[7:]) and gains[7:] == [0.0] * 14
    assert np.all(np.diff(gains) <= 0)


def test_dissimilarities_beyond_memory_are_refused() -> None:
    vectors = np.zeros((2048, 2), np.float32)
    with pytest.raises(diversity.DiversityError, match=r"2048 rows take 0.0156 GiB, more than diversity.max_gib=0.01"):
        diversity.dissimilarities(vectors, 0.01)


def slow_ifd(slow: SlowModel) -> dict[str, float]:
    found = {}
    for row in POOL:
        text = f"{row.instruction}\n{row.input}\n" if row.input else f"{row.instruction}\n"
        answer = slow.ids(row.response)
        found[row.id] = float(np.exp(slow.nll(slow.bos + slow.ids(text), answer) - slow.nll(slow.bos, answer)))
    return found


def slow_vector(slow: SlowModel, row: Example, encoder: Path | None, limit: int) -> NDArray[np.float64]:
    text = f"{row.instruction}\n{row.input}\n" if row.input else f"{row.instruction}\n"
    if encoder is None:
        mean = slow.hidden((slow.bos + slow.ids(text + row.response))[:limit]).mean(axis=0)
    else:
        from transformers import AutoModel, AutoTokenizer

        tokenizer, model = (kind.from_pretrained(encoder / "weights") for kind in (AutoTokenizer, AutoModel))
        ids = tokenizer(text + row.response)["input_ids"]
        ids = ids if len(ids) <= limit else [*ids[: limit - 1], tokenizer.sep_token_id]
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy().mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


METHOD: dict[str, Any] = {"kind": "ifd", "ratio": "perplexity", "template": "plain", "direct": "", "shard_rows": 3}
ENCODER = {"encoder": True, "model": {"kind": "random", "name": "bert", "random": {}}}


@pytest.mark.parametrize("changes", [{}, {"max_length": 40, **ENCODER}], ids=["own model", "encoder"])
def test_superfiltering_d_equals_a_loop_over_single_texts(
    model_step: Path, encoder_step: Path, tmp_path: Path, runtime: Runtime, changes: Mapping[str, Any]
) -> None:
    share = 0.3
    method = {**METHOD, "diversity": {"share": share, **changes}}
    found = run_method(tmp_path, runtime, model_step, method, POOL, others={"bert": encoder_step})
    slow = SlowModel(model_step)
    ifd = slow_ifd(slow)
    below = sorted((i for i in ifd if ifd[i] < 1), key=lambda i: -ifd[i])
    best = sorted(below[: round(share * len(POOL))])
    assert 3 < len(best) < len(below) < len(POOL)
    rows = {row.id: row for row in POOL}
    encoder = encoder_step if changes else None
    limit = int(changes.get("max_length", 512))
    vectors = np.array([slow_vector(slow, rows[i], encoder, limit) for i in best])
    order, gains = greedy(similarities(vectors))
    assert found.ranks == [best[row] for row in order]
    for number, (row, gain) in enumerate(zip(order, gains, strict=True)):
        score = found.scores[best[row]]
        assert score.score == -number
        assert score.parts["ifd"] == pytest.approx(ifd[best[row]], abs=1e-5)
        assert score.parts["gain"] == pytest.approx(gain, abs=1e-5)
    outside = {i: "IFD isn't among the best share" for i in below if i not in best}
    above = {i: "IFD above 1" for i in ifd if i not in below}
    assert found.failures == {**outside, **above}
    assert found.metrics["failed"] == {"IFD isn't among the best share": len(outside), "IFD above 1": len(above)}


def folder(path: Path, ifd: dict[str, float]) -> dict[str, Path]:
    """Inputs of the share: rows and scores, with one more row that has no score."""
    inputs = {name: path / name for name in ("scores", "candidates")}
    for made in inputs.values():
        made.mkdir()
    write_rows(inputs["scores"] / "scores.jsonl", [Score(i, value) for i, value in ifd.items()])
    write_rows(inputs["scores"] / "failures.jsonl", [{"id": "x", "reason": "too long"}])
    rows = [Example(i, f"do {i}", "", "so") for i in [*ifd, "x"]]
    write_rows(inputs["candidates"] / "rows.jsonl", rows)
    return inputs


IFD = {"a": 0.5, "b": 0.9, "c": 1.0, "d": 0.7, "e": 0.9, "f": 1.2, "g": 0.2}


@pytest.mark.parametrize(
    "share, expected, short",
    [(0.25, ["b", "e"], 0), (0.5, ["b", "e", "d", "a"], 0), (1.0, ["b", "e", "d", "a", "g"], 3)],
)
def test_share_is_of_all_rows_and_below_one(
    tmp_path: Path, runtime: Runtime, share: float, expected: list[str], short: int
) -> None:
    metrics = diversity.share(ShareConfig(share), folder(tmp_path, IFD), tmp_path, runtime)
    assert [row.id for row in read_rows(tmp_path / "rows.jsonl", Example)] == expected
    assert (metrics["rows"], metrics["short_by"]) == (len(expected), short)


def test_share_without_a_row_below_one_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(diversity.DiversityError, match="no row of 3 has an IFD below 1"):
        diversity.share(ShareConfig(0.5), folder(tmp_path, {"a": 1.0, "b": 1.5}), tmp_path, runtime)


def test_rows_outside_the_share_have_reasons_and_a_larger_selection_is_short(tmp_path: Path, runtime: Runtime) -> None:
    inputs = folder(tmp_path, IFD)
    inputs["shard-0000"] = shard = tmp_path / "shard"
    shard.mkdir()
    write_json(shard / "ids.json", {"rows": ["b", "e", "d"], "reasons": {"e": "nothing to embed"}})
    np.save(shard / "vectors.npy", np.array([[1, 0], [np.nan, np.nan], [0, 1]], np.float32))
    metrics = diversity.run(OrderByDiversity(1.0), inputs, tmp_path, runtime)
    reasons = {row["id"]: row["reason"] for row in read_rows(tmp_path / "failures.jsonl", dict)}
    best, above = "IFD isn't among the best share", "IFD isn't below 1"
    assert reasons == {"a": best, "g": best, "c": above, "f": above, "e": "nothing to embed", "x": "too long"}
    assert metrics["rows"] == 2 and sum(metrics["failed"].values()) == 6
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    needed = {"scores": tmp_path, "universe": inputs["candidates"]}
    assert select(SelectConfig(0.5), needed, chosen, runtime)["short_by"] == 2
    assert read_json(chosen / "ids.json") == ["b", "d"]


# ---------------------------------------------------------------- plan and config


@pytest.mark.parametrize("size, total", [(20, 10), (None, None)])
def test_plan_embeds_the_share_only(tmp_path: Path, size: int | None, total: int | None) -> None:
    method = {**METHOD, "diversity": {"share": 0.5}}
    step = step_of(plan(small(tmp_path, {"methods": {"mine": method}, "data.candidates.size": size})))
    slices = [(s.params.start, s.params.stop) for s in shards_of(step, "embeddings:shard")]
    assert slices[0][0] == 0 and slices[-1][1] == total
    assert {s.inputs["rows"].label for s in shards_of(step, "embeddings:shard")} == {"score/mine-share"}
    embedded = sum(s.cost.tokens for s in shards_of(step, "embeddings:shard"))
    scored = sum(s.cost.tokens for s in shards_of(step, "answers:shard"))
    assert 0 < embedded < 0.6 * scored


def test_plan_memory_limit_isnt_hashed_and_plain_ifd_keeps_its_folder(tmp_path: Path) -> None:
    methods = {
        "plain": METHOD,
        "one": {**METHOD, "diversity": {"max_gib": 1}},
        "two": {**METHOD, "diversity": {"max_gib": 2}},
        "more": {**METHOD, "diversity": {"share": 0.3}},
    }
    found = {name: step_of(planned(tmp_path, methods), name) for name in methods}
    assert found["one"].fingerprint == found["two"].fingerprint != found["more"].fingerprint
    assert found["one"].inputs["scores"].fingerprint == found["plain"].fingerprint


def test_plan_embeds_by_the_tuned_model_unless_one_is_named(tmp_path: Path) -> None:
    for changes, tuned in (({}, True), (ENCODER, False)):
        method = {**METHOD, "pre_experienced": {"global_batch_size": 4}, "diversity": changes}
        step = step_of(planned(tmp_path, {"mine": method}))
        share = [s for s in shards_of(step, "embeddings:shard") if s.inputs["rows"].name == "mine-share"]
        assert share and all(("tuned" in s.inputs) is tuned for s in share)
        labels = [s.label for s in ordered([step])]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    "diverse, problem",
    [
        ({"encoder": True}, "diversity.encoder=true: needs diversity.model"),
        ({"share": 0}, "diversity.share=0.0: must be above 0"),
        ({"model": {"kind": "hub", "name": "x"}}, "diversity.model.hub_id: kind hub needs it"),
    ],
)
def test_config_that_cant_work_is_refused(tmp_path: Path, diverse: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"methods.mine.{problem}"):
        small(tmp_path, {"methods": {"mine": {**METHOD, "diversity": diverse}}})


def test_published_settings_are_a_file_of_their_own(tmp_path: Path) -> None:
    method = composed("experiment=smoke_tiny", "+method@methods.d=superfiltering_d")["methods"]["d"]
    step = step_of(plan(small(tmp_path, {"methods": {"mine": method}})))
    share = shards_of(step, "embeddings:shard")
    assert {s.inputs["model"].params.hub_id for s in share} == {"sentence-transformers/all-MiniLM-L6-v2"}
    (embedding,) = {str(s.params.embedding) for s in share}
    assert all(text in embedding for text in ("encoder=True", "'mean'", "normalise=True", "max_length=512"))
    assert {s.inputs["model"].name for s in shards_of(step, "answers:shard")} == {"gpt2"}
