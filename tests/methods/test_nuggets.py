"""Nuggets: anchors and golden scores against a loop over single texts; cut anchors, too few rows, parts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from slow_baselines import ROWS, Ran, SlowModel, run_method, shards_of

from icon_repro.data.prompts import labelled_prompt
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import nuggets
from icon_repro.methods.common.clusters import ClustersError
from icon_repro.methods.common.outcome import NoScoreError
from icon_repro.methods.nuggets import AnchorsConfig, NuggetsConfig, NuggetsShard

METHOD: dict[str, Any] = {"kind": "nuggets", "anchors": {"count": 3, "seed": 1}}


def nearest_to_centres(slow: SlowModel, count: int, seed: int, limit: int) -> list[str]:
    """Ids of the rows nearest to the centres of K-means over means of hidden states; the smaller id if equally near."""
    rows = sorted(ROWS, key=lambda row: row.id)
    texts = [(slow.bos + slow.ids(labelled_prompt(row) + row.response))[:limit] for row in rows]
    vectors = np.array([slow.hidden(ids).mean(axis=0) for ids in texts])
    found = KMeans(count, random_state=seed, n_init=10).fit(vectors)
    distances = np.linalg.norm(vectors[:, None] - found.cluster_centers_[None], axis=2)
    return sorted(rows[np.flatnonzero(column < column.min() + 1e-4)[0]].id for column in distances.T)


def golden(slow: SlowModel, anchors: list[str], cfg: NuggetsConfig) -> dict[str, list[bool]]:
    """For each row: whether each anchor is helped, its own left out."""
    rows = {row.id: row for row in ROWS}
    helped = dict[str, list[bool]]()
    for row in ROWS:
        shot = slow.ids(labelled_prompt(row) + row.response)[: cfg.shot_tokens] + slow.ids(cfg.separator)
        helped[row.id] = []
        for anchor in anchors:
            prompt = slow.ids(labelled_prompt(rows[anchor]))
            answer = slow.ids(rows[anchor].response)[: cfg.anchor_tokens - len(prompt)]
            alone = slow.nll(slow.bos + prompt, answer)
            after = slow.nll(slow.bos + shot + prompt, answer)
            assert abs(after - alone) > 2e-5  # else rounding might decide
            if anchor != row.id:
                helped[row.id].append(after < alone)
    return helped


def anchors_of(found: Ran) -> list[str]:
    return [row.id for row in read_rows(found.folders["score/mine-anchors"] / "rows.jsonl", Example)]


@pytest.mark.parametrize("changes", [{}, {"anchor_tokens": 60, "shot_tokens": 9, "max_length": 20, "separator": " "}])
def test_nuggets_equals_a_loop_over_single_texts(
    model_step: Path, tmp_path: Path, runtime: Runtime, changes: Mapping[str, Any]
) -> None:
    slow = SlowModel(model_step)
    found = run_method(tmp_path, runtime, model_step, {**METHOD, **changes, "shard_rows": 3})
    cfg = nuggets.as_compat_says(replace(NuggetsConfig(), **changes))
    anchors = anchors_of(found)
    assert anchors == nearest_to_centres(slow, 3, 1, cfg.max_length)
    expected = golden(slow, anchors, cfg)
    assert {i: len(values) for i, values in expected.items()} == {r.id: 3 - (r.id in anchors) for r in ROWS}
    assert found.scores == {
        i: Score(i, pytest.approx(sum(values) / len(values)), {"anchors": len(values)})  # type: ignore[arg-type]
        for i, values in expected.items()
    }
    assert found.metrics["anchors"] == 3 and not found.failures
    parts = [metrics for label, metrics in found.all_metrics.items() if "part" in label]
    assert sum(m["pairs"] for m in parts) == 3 * len(ROWS)
    shots = sum(len(slow.ids(labelled_prompt(r) + r.response)[: cfg.shot_tokens]) for r in ROWS)
    assert sum(m["tokens"] for m in parts) > shots


def test_nuggets_parts_and_order_of_rows_have_no_influence(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    parts = run_method(tmp_path / "parts", runtime, model_step, {**METHOD, "shard_rows": 4})
    whole = run_method(tmp_path / "whole", runtime, model_step, METHOD, ROWS[::-1])
    assert len(shards_of(parts.step, "nuggets:shard")) == 2
    assert len(shards_of(whole.step, "nuggets:shard")) == 1
    assert anchors_of(parts) == anchors_of(whole)
    assert parts.scores == whole.scores and parts.ranks == whole.ranks


def test_nuggets_more_anchors_than_rows_is_refused(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ClustersError, match=r"anchors.count=8: there are only 7 rows.*fewer clusters"):
        run_method(tmp_path, runtime, model_step, {**METHOD, "anchors": {"count": 8}})


def test_nuggets_all_rows_may_be_anchors(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    found = run_method(tmp_path, runtime, model_step, {**METHOD, "anchors": {"count": 7}})
    assert anchors_of(found) == sorted(row.id for row in ROWS)
    assert {score.parts["anchors"] for score in found.scores.values()} == {6.0}


def test_nuggets_only_anchor_has_nothing_to_help(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    found = run_method(tmp_path, runtime, model_step, {**METHOD, "anchors": {"count": 1}})
    assert found.failures == {anchors_of(found)[0]: "no anchor to be shown before"}
    assert len(found.scores) == len(ROWS) - 1 and {s.score for s in found.scores.values()} <= {0.0, 1.0}


# ---------------------------------------------------------------- single steps


def rows_in(folder: Path, rows: list[Example]) -> Path:
    folder.mkdir()
    write_rows(folder / "rows.jsonl", rows)
    return folder


def test_shard_anchor_whose_response_is_cut_away_is_left_out(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    slow = SlowModel(model_step)
    long = Example("long", "Name a colour. " * 9, "", "Red.")
    limit = len(slow.ids(labelled_prompt(long)))
    assert len(slow.ids(labelled_prompt(ROWS[3]))) < limit
    inputs = {
        "model": model_step,
        "candidates": rows_in(tmp_path / "candidates", ROWS[:2]),
        "anchors": rows_in(tmp_path / "anchors", [ROWS[3], long]),
    }
    cfg = NuggetsConfig(anchor_tokens=limit)
    nuggets.shard(NuggetsShard(cfg, 0, None), inputs, tmp_path, runtime)
    helped = np.load(tmp_path / "helped.npy")
    assert helped[:, 1].tolist() == [-1, -1] and set(helped[:, 0].tolist()) <= {0, 1}
    nuggets.shard(NuggetsShard(replace(cfg, anchor_tokens=limit + 1), 0, None), inputs, tmp_path, runtime)
    assert set(np.load(tmp_path / "helped.npy").ravel().tolist()) <= {0, 1}
    with pytest.raises(nuggets.NuggetsError, match="no anchor has a response token within 8 tokens"):
        nuggets.shard(NuggetsShard(replace(cfg, anchor_tokens=8), 0, None), inputs, tmp_path, runtime)


def test_shard_beyond_the_last_row_is_empty(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    rows = rows_in(tmp_path / "rows", ROWS[:2])
    inputs = {"model": model_step, "candidates": rows, "anchors": rows}
    metrics = nuggets.shard(NuggetsShard(NuggetsConfig(), 2, 4), inputs, tmp_path, runtime)
    assert metrics == {"rows": 0, "pairs": 0, "contexts_cut": 0, "tokens": 0, "flops": 0}
    assert np.load(tmp_path / "helped.npy").shape == (0, 2)


def vectors_in(folder: Path, ids: list[str], vectors: list[list[float]]) -> dict[str, Path]:
    shard = folder / "shard"
    shard.mkdir()
    write_json(shard / "ids.json", {"rows": ids, "reasons": {}})
    np.save(shard / "vectors.npy", np.array(vectors, np.float32))
    return {"candidates": rows_in(folder / "candidates", [Example(i, "x", "", "y") for i in ids]), "shard-0000": shard}


def chosen(folder: Path) -> list[str]:
    return [row.id for row in read_rows(folder / "rows.jsonl", Example)]


def test_anchors_are_the_rows_nearest_to_the_centres(tmp_path: Path, runtime: Runtime) -> None:
    groups = {"a": 0.0, "b": 10.0, "c": 20.0}
    ids = [f"{name}{i}" for name in groups for i in range(3)]
    vectors = [[groups[i[0]] + 0.5 * (int(i[1]) - 1), 1.0] for i in ids]  # of each group, 1 lies in the middle
    metrics = nuggets.anchors(AnchorsConfig(3), vectors_in(tmp_path, ids, vectors), tmp_path, runtime)
    assert chosen(tmp_path) == ["a1", "b1", "c1"]
    assert metrics == {"anchors": 3, "short_by": 0, "tokens": 0, "flops": 0}


def test_anchors_of_two_rows_in_a_cluster_the_smaller_id_not_rounding_decides(tmp_path: Path, runtime: Runtime) -> None:
    draw = np.random.default_rng(0)
    for trial in range(40):
        pair, far = draw.normal(size=(2, 8)), 100 + draw.normal(size=8)
        folder = tmp_path / str(trial)
        folder.mkdir()
        inputs = vectors_in(folder, ["b", "a", "c"], [*pair.tolist(), far.tolist()])
        nuggets.anchors(AnchorsConfig(2), inputs, folder, runtime)
        assert chosen(folder) == ["a", "c"]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_anchors_equal_vectors_give_fewer_and_the_smallest_id(tmp_path: Path, runtime: Runtime) -> None:
    inputs = vectors_in(tmp_path, ["d", "b", "c", "a"], [[0, 0], [0, 0], [1, 1], [1, 1]])
    metrics = nuggets.anchors(AnchorsConfig(3), inputs, tmp_path, runtime)
    assert chosen(tmp_path) == ["a", "b"]
    assert (metrics["anchors"], metrics["short_by"]) == (2, 1)


def parts_in(folder: Path, parts: list[tuple[list[str], list[str], list[list[int]]]]) -> dict[str, Path]:
    inputs = {}
    for number, (rows, anchors, helped) in enumerate(parts):
        inputs[f"part-{number:04d}"] = made = folder / f"part-{number:04d}"
        made.mkdir()
        write_json(made / "ids.json", {"rows": rows, "anchors": anchors})
        np.save(made / "helped.npy", np.array(helped, np.int8).reshape(-1, len(helped[0]) if helped else 0))
    return inputs


def test_golden_score_is_the_share_of_the_anchors_that_are_scored(tmp_path: Path, runtime: Runtime) -> None:
    parts = [
        (["r1", "r2"], ["x", "y", "z"], [[1, 0, 1], [-1, 0, 1]]),
        (["r3", "r4"], ["x", "y", "z"], [[-1, -1, -1], [0, 0, -1]]),
    ]
    metrics = nuggets.run(NuggetsConfig(), parts_in(tmp_path, parts), tmp_path, runtime)
    assert read_rows(tmp_path / "scores.jsonl", Score) == [
        Score("r1", pytest.approx(2 / 3), {"anchors": 3.0}),  # type: ignore[arg-type]
        Score("r2", 0.5, {"anchors": 2.0}),
        Score("r4", 0.0, {"anchors": 2.0}),
    ]
    assert metrics["failed"] == {"no anchor to be shown before": 1} and metrics["anchors"] == 3


@pytest.mark.parametrize(
    "second",
    [(["r2"], ["x", "z"], [[1, 0]]), (["r2", "r3"], ["x", "y"], [[1, 0]]), (["r2"], ["x", "y"], [[1]])],
    ids=str,
)
def test_parts_that_dont_belong_together_are_refused(tmp_path: Path, runtime: Runtime, second: Any) -> None:
    inputs = parts_in(tmp_path, [(["r1"], ["x", "y"], [[1, 0]]), second])
    with pytest.raises(nuggets.NuggetsError, match="part-0001: other anchors, or other numbers than ids"):
        nuggets.run(NuggetsConfig(), inputs, tmp_path, runtime)


def test_run_without_parts_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(NoScoreError, match="there are no rows"):
        nuggets.run(NuggetsConfig(), {}, tmp_path, runtime)


def test_shard_names_its_rows_and_anchors(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    inputs = {
        "model": model_step,
        "candidates": rows_in(tmp_path / "candidates", ROWS),
        "anchors": rows_in(tmp_path / "anchors", [ROWS[1], ROWS[3]]),
    }
    nuggets.shard(NuggetsShard(NuggetsConfig(), 1, 3), inputs, tmp_path, runtime)
    assert read_json(tmp_path / "ids.json") == {"rows": ["c2", "c3"], "anchors": ["c2", "c1"]}
    assert np.load(tmp_path / "helped.npy")[0, 0] == -1  # a row says nothing about itself
