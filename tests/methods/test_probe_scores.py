"""Predictions of a pool joined with scores, and the choice of rows near a cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icon_folders import write_bank, write_baseline

from icon_repro.data.rows import Score
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon import probe_scores
from icon_repro.methods.icon.matrices import IconScoreError, task_scores
from icon_repro.methods.icon.options import IconConfig, NearRows
from icon_repro.methods.icon.probe_scores import Ranks, joined

ROWS = [f"a{i}" for i in range(4)]


def test_ranks_are_places_among_the_candidates_with_the_scores_errors() -> None:
    ranks = Ranks([3.0, 1.0, 2.0, 2.0, 5.0])
    places, errors = ranks(np.array([1.0, 2.0, 4.0, 9.0, -1.0]), np.array([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert places.tolist() == pytest.approx([0, 0.375, 0.875, 1, 0])
    assert errors[0] == pytest.approx(0.125)  # half a place
    assert errors[2] == pytest.approx(np.hypot((1 - 0.75) / 2, 0.125))


def test_joined_is_the_mean_weighted_by_inverse_variances() -> None:
    ranks = Ranks(np.linspace(0, 1, 101).tolist())
    scored = [Score("b", 0.9, {"estimate_error": 0.2}), Score("c", 0.1, {}), Score("elsewhere", 0.5, {})]
    found = joined({"a": (0.3, 0.2), "b": (0.5, 0.1), "c": (0.6, 0.2)}, ranks, scored)
    assert found.keys() == {"a", "b", "c"} and found["a"] == (0.3, 0.2)
    place, doubt = (float(x[0]) for x in ranks(np.array([0.9]), np.array([0.2])))
    inverse = 1 / 0.1**2 + 1 / doubt**2
    assert found["b"][0] == pytest.approx((0.5 / 0.1**2 + place / doubt**2) / inverse)
    assert found["b"][1] == pytest.approx(inverse**-0.5)
    assert found["c"][0] == pytest.approx(0.1, abs=0.005)  # all of its rows were scored


def test_scores_of_the_pools_rows_make_the_ranking_better() -> None:
    draw = np.random.default_rng(0)
    truth = draw.standard_normal(300)
    ranks = Ranks(truth[:100].tolist())
    places = ranks(truth, np.zeros(300))[0]
    guessed = 0.5 + 0.5 * (places - 0.5) + 0.2 * draw.standard_normal(300)
    predicted = {str(i): (float(guessed[i]), 0.25) for i in range(300)}
    own = truth + 0.3 * draw.standard_normal(300)
    scored = [Score(str(i), float(own[i]), {"estimate_error": 0.3}) for i in range(200)]
    found = np.array([joined(predicted, ranks, scored)[str(i)][0] for i in range(300)])
    assert np.corrcoef(found, places)[0, 1] > np.corrcoef(guessed, places)[0, 1] + 0.03


class Pool:
    """Folders of a pool of 40 rows, of which the first 10 are candidates."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = np.linspace(0, 1, 40)
        self.names = [f"r{i:02d}" for i in range(40)]
        self.inputs = {name: root / name for name in ("scores", "pool-s0-0000", "pool-s0-0001")}
        for folder in self.inputs.values():
            folder.mkdir()
        scores = [Score(self.names[i], 0.1 * i, {"estimate_error": 0.02}) for i in range(10)]
        write_rows(self.inputs["scores"] / "scores.jsonl", scores)
        write_json(
            self.inputs["scores"] / "choice.json", {"chosen": ROWS[:2], "slope": 2.0, "level": 0.1, "error": 0.01}
        )
        for number, slots in enumerate((slice(0, 25), slice(25, 40))):
            folder = self.inputs[f"pool-s0-{number:04d}"]
            write_json(folder / "ids.json", {"rows": self.names[slots]})
            np.save(folder / "scores.npy", self.places[slots].astype(np.float32))
            np.save(folder / "errors.npy", np.full(len(self.places[slots]), 0.1, np.float32))

    def step(self, name: str, function: Any, cfg: NearRows, runtime: Runtime) -> dict[str, Any]:
        self.inputs[name] = self.root / name
        self.inputs[name].mkdir()
        metrics: dict[str, Any] = function(cfg, self.inputs, self.inputs[name], runtime)
        return metrics

    def shard(self, asked: dict[str, list[str]]) -> np.ndarray:
        """Baseline, bank, and a shard of the pairs asked for; returns the contributions."""
        generator = np.random.default_rng(3)
        alone, bank = 2 + generator.random(4), 2 + generator.random((2, 1, 4))
        self.inputs["baseline"] = write_baseline(self.root / "baseline", alone, ROWS)
        self.inputs["bank"] = write_bank(self.root / "bank", bank, [4, 16], {"other": 5}, ROWS)
        nll = (1.8 + 0.2 * generator.random((len(asked), 2))).astype(np.float32)
        folder = self.inputs["near-0000"] = self.root / "near-0000"
        folder.mkdir()
        np.save(folder / "candidate.npy", nll.reshape(-1))
        write_json(
            folder / "ids.json",
            {"candidates": list(asked), "assessment": list(asked.values()), "contexts": [4] * len(asked)},
        )
        control = np.broadcast_to(bank[0, 0, :2].astype(np.float32), nll.shape)
        return task_scores(nll, control, alone[:2], IconConfig().epsilon)


def test_rows_nearest_the_cut_are_chosen_but_no_candidates(tmp_path: Path, runtime: Runtime) -> None:
    pool = Pool(tmp_path)
    metrics = pool.step("near", probe_scores.near, NearRows(IconConfig(), 6, [0.25]), runtime)
    asked = read_json(tmp_path / "near" / "sequence.json")["own"]
    candidates = {row.id for row in read_rows(pool.inputs["scores"] / "scores.jsonl", Score)}
    assert len(asked) == metrics["rows"] == 6 and metrics["pairs"] == 12 and not asked.keys() & candidates
    assert all(rows == ROWS[:2] for rows in asked.values())
    scored = joined(
        {name: (float(place), 0.1) for name, place in zip(pool.names, pool.places.astype(np.float32), strict=True)},
        Ranks([0.1 * i for i in range(10)]),
        read_rows(pool.inputs["scores"] / "scores.jsonl", Score),
    )
    best = sorted((place for place, _ in scored.values()), reverse=True)
    border = (best[9] + best[10]) / 2
    apart = sorted((abs(place - border) / error, name) for name, (place, error) in scored.items())
    assert set(asked) == set([name for _, name in apart if name not in candidates][:6])


def test_scored_rows_near_the_cut_are_part_of_the_pools_scores(tmp_path: Path, runtime: Runtime) -> None:
    pool, cfg = Pool(tmp_path), NearRows(IconConfig(), 6, [0.25])
    pool.step("near", probe_scores.near, cfg, runtime)
    asked = read_json(tmp_path / "near" / "sequence.json")["own"]
    task = pool.shard(asked)
    metrics = pool.step("out", probe_scores.run, cfg, runtime)
    assert metrics["rows"] == 40 and metrics["scored"] == 10 and metrics["near"] == 6
    found = {row.id: row for row in read_rows(tmp_path / "out" / "scores.jsonl", Score)}
    ranks = Ranks([0.1 * i for i in range(10)])
    for name, each in zip(asked, task, strict=True):
        own = Score(name, 0.1 + 2.0 * float(each.mean()), {"estimate_error": 0.01})
        predicted = {name: (found[name].parts["predicted"], float(np.float32(0.1)))}
        assert (found[name].score, found[name].parts["error"]) == pytest.approx(joined(predicted, ranks, [own])[name])
    untouched = [name for name in pool.names[10:] if name not in asked]
    assert untouched and all(found[name].score == found[name].parts["predicted"] for name in untouched)
    pool.inputs["near-0000"].joinpath("ids.json").write_text(
        '{"candidates": [], "assessment": [], "contexts": []}', encoding="utf-8"
    )
    np.save(pool.inputs["near-0000"] / "candidate.npy", np.empty(0, np.float32))
    with pytest.raises(IconScoreError, match="other pairs than were asked for"):
        pool.step("again", probe_scores.run, cfg, runtime)


def test_without_rows_near_a_cut_the_candidates_scores_count(tmp_path: Path, runtime: Runtime) -> None:
    pool = Pool(tmp_path)
    metrics = pool.step("out", probe_scores.run, NearRows(IconConfig(), 0, []), runtime)
    found = {row.id: row for row in read_rows(tmp_path / "out" / "scores.jsonl", Score)}
    assert metrics["scored"] == 10 and metrics["near"] == 0
    assert found["r09"].score > 0.75 > found["r09"].parts["predicted"] + 0.5  # the best candidate
    assert found["r20"].score == found["r20"].parts["predicted"]
