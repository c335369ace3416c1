"""``compat=published`` against what the methods' own published code computes (../shared/golden/methods/README.md)."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import SETTINGS, assessment, candidates, golden, model_step, published
from slow_baselines import Ran, run_method

from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.runtime import Runtime


def ran(shared: Path, folder: Path, runtime: Runtime, method: dict[str, Any]) -> Ran:
    model = model_step(shared, folder / "model")
    return run_method(folder, runtime, model, method, candidates(shared), assessment(shared), expected_rows=24)


@pytest.fixture(scope="module")
def theirs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """What ``compat=published`` makes of a method, computed once."""

    @functools.cache
    def run(name: str) -> Ran:
        folder = tmp_path_factory.mktemp(name)
        runtime = Runtime(ClusterConfig(device="cpu"), cache=folder / "cache", terminal=None)
        return ran(shared, folder, runtime, published(name))

    return run


def by_score(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda i: (-scores[i], i))


def test_published_ifd_is_that_of_cherry_llm(shared: Path, theirs: Callable[[str], Ran]) -> None:
    expected = golden(shared, "ifd.json")
    found = theirs("ifd")
    assert found.scores.keys() == expected.keys() and not found.failures
    assert sum(metrics.get("rows_cut", 0) for metrics in found.all_metrics.values()) == 2
    for i, value in expected.items():
        assert found.scores[i].score == pytest.approx(value["score"], abs=1e-5)
        assert found.scores[i].parts["direct"] == pytest.approx(value["direct"], abs=1e-5)
        assert found.scores[i].parts["conditioned"] == pytest.approx(value["cond"], abs=1e-5)
    assert found.ranks == by_score({i: value["score"] for i, value in expected.items()})


def test_published_superfiltering_is_that_of_its_code(shared: Path, theirs: Callable[[str], Ran]) -> None:
    expected = golden(shared, "superfiltering.json")
    found = theirs("superfiltering")
    assert found.scores.keys() == expected.keys() and not found.failures
    for i, value in expected.items():
        assert found.scores[i].score == pytest.approx(value["score"], rel=1e-5)
        assert found.scores[i].parts["direct"] == pytest.approx(np.log(value["direct"]), abs=1e-5)
        assert found.scores[i].parts["conditioned"] == pytest.approx(np.log(value["cond"]), abs=1e-5)
    assert found.ranks == by_score({i: value["score"] for i, value in expected.items()})


def test_published_rds_takes_rows_in_the_order_of_its_code(shared: Path, theirs: Callable[[str], Ran]) -> None:
    assert theirs("rds").ranks == golden(shared, "rds_order.json")


def test_published_nuggets_of_own_anchors_is_that_of_its_code(shared: Path, theirs: Callable[[str], Ran]) -> None:
    found = theirs("nuggets")
    assert {i: score.score for i, score in found.scores.items()} == golden(shared, "nuggets_own_anchors.json")
    assert {score.parts["anchors"] for score in found.scores.values()} == {8.0}


def test_published_nuggets_of_given_anchors_is_that_of_its_code(shared: Path, tmp_path: Path, runtime: Runtime) -> None:
    ids = str(shared / "golden" / "methods" / "nuggets_anchor_ids.json")
    found = ran(shared, tmp_path, runtime, published("nuggets", anchors={"ids": ids}))
    assert {i: score.score for i, score in found.scores.items()} == golden(shared, "nuggets_given_anchors.json")
    assert {score.parts["anchors"] for score in found.scores.values()} == {8.0}


def test_published_selectit_with_the_released_questions(shared: Path, tmp_path: Path, runtime: Runtime) -> None:
    expected = golden(shared, "selectit_released_questions.json")
    questions = os.environ.get("SELECTIT_QUESTIONS")
    if questions is None:
        pytest.skip(
            "the released questions aren't part of this project: set SELECTIT_QUESTIONS to a file with the first 5"
        )
    found = ran(shared, tmp_path, runtime, published("selectit", questions=questions))
    assert {i: score.score for i, score in found.scores.items()} == pytest.approx(expected, abs=1e-5)
    assert found.ranks == by_score(expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_our_default_ranks_otherwise_than_the_published_code(
    shared: Path, tmp_path: Path, runtime: Runtime, theirs: Callable[[str], Ran], name: str
) -> None:
    """Else the tests above would hold without ``compat``."""
    assert theirs(name).ranks != ran(shared, tmp_path, runtime, SETTINGS[name]).ranks


def test_given_anchors_that_arent_rows_are_named(shared: Path, tmp_path: Path, runtime: Runtime) -> None:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(["086feb2af986f2d9", "nobody"]))
    with pytest.raises(
        ValueError, match=r"ids.json: 1 of 2 ids aren't among the 24 rows.*first: 'nobody'.*select_from"
    ):
        ran(shared, tmp_path, runtime, published("nuggets", anchors={"ids": str(path)}))
