"""The probe: ridge regression against its slow definitions, and its steps on a small model."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_lines, read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon import probe, selector
from icon_repro.methods.icon.options import (
    ProbeConfig,
    SelectorConfig,
    SelectorJob,
    SelectorKind,
    SelectorScores,
    SelectorShard,
)
from icon_repro.methods.icon.options import SelectorTarget as Target
from icon_repro.methods.icon.ridge import PENALTIES, RidgeError, fit

READ = ProbeConfig([0.5, 1.0], Dtype.float32)  # slices of bfloat16 differ by its rounding
PROBE = SelectorConfig(kind=SelectorKind.probe, target=Target.rank, held_out=0.25, probe=READ)


def data(rows: int = 60, width: int = 20, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((rows, width))
    return features, features @ draw.standard_normal(width) / np.sqrt(width) + noise * draw.standard_normal(rows)


def slow_ridge(features: np.ndarray, targets: np.ndarray, penalty: float, new: np.ndarray) -> np.ndarray:
    """Normal equations with an intercept, on features of mean squared length 1."""
    centre = features.mean(axis=0)
    size = np.sqrt(((features - centre) ** 2).sum(axis=1).mean())
    x = (features - centre) / size
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - targets.mean()))
    return np.asarray(targets.mean() + (new - centre) / size @ weights)


@pytest.mark.parametrize(("rows", "width"), [(60, 20), (20, 60)])
def test_ridge_predicts_as_the_normal_equations(rows: int, width: int) -> None:
    features, targets = data(rows, width)
    found, _ = fit(features, targets)
    new = data(5, width, seed=1)[0]
    np.testing.assert_allclose(found.predict(new)[0], slow_ridge(features, targets, found.penalty, new), atol=1e-9)


def test_ridge_left_out_predictions_are_those_of_fits_without_the_row() -> None:
    features, targets = data()
    found, left_out = fit(features, targets)
    for row in (0, 17):
        others = np.arange(len(targets)) != row
        # the scale of the features is that of all rows, so the penalty is put on the others' scale
        centred = [features - features.mean(axis=0), features[others] - features[others].mean(axis=0)]
        sizes = [(part**2).sum(axis=1).mean() for part in centred]
        penalty = found.penalty * sizes[0] / sizes[1]
        expected = slow_ridge(features[others], targets[others], penalty, features[row : row + 1])
        assert left_out[row] == pytest.approx(expected[0], abs=1e-9)


def test_ridge_takes_the_penalty_with_the_least_left_out_error() -> None:
    clear, noisy = (fit(*data(noise=noise))[0].penalty for noise in (0.01, 3.0))
    assert clear < noisy and {clear, noisy} <= {float(p) for p in PENALTIES}


@pytest.mark.parametrize("width", [10, 300])
def test_ridge_standard_errors_are_those_of_new_rows(width: int) -> None:
    draw = np.random.default_rng(5)
    features = draw.standard_normal((1100, width))
    targets = features @ draw.standard_normal(width) / np.sqrt(width) + 0.7 * draw.standard_normal(1100)
    found, _ = fit(features[:100], targets[:100])
    predicted, errors = found.predict(features[100:])
    assert 0.85 < np.std((targets[100:] - predicted) / errors) < 1.15
    far = found.predict(20 * features[100:110])[1]
    assert (far > errors[:10]).all()


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (np.ones((4, 3)), np.arange(4.0), "4 rows to learn from: at least 8"),
        (np.ones((9, 3)), np.arange(9.0), "the same features"),
        (data()[0], np.ones(60), "nothing to learn"),
        (np.where(np.arange(60)[:, None] == 7, np.nan, data()[0]), data()[1], "first: row 7"),
        (data()[0], np.where(np.arange(60) == 7, np.nan, data()[1]), "1 targets aren't finite"),
    ],
)
def test_ridge_refuses_what_it_cant_learn_from(features: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(RidgeError, match=message):
        fit(features, targets)


def made_rows() -> list[Example]:
    draw = random.Random(0)
    rows = []
    for i in range(60):
        words = ["red" if draw.random() < i / 60 else "sky" for _ in range(draw.randint(3, 9))]
        rows.append(Example(f"r{i:02d}", f"Say {draw.randint(0, 99)}.", "", " ".join(words)))
    draw.shuffle(rows)
    return rows


ROWS = made_rows()
SCORES = {row.id: row.response.count("red") / len(row.response.split()) for row in ROWS[:48]}


def fitted(folder: Path, model: Path, runtime: Runtime, scores: dict[str, float]) -> tuple[dict[str, Path], Any]:
    for name in ("order", "scores", "selector"):
        (folder / name).mkdir(parents=True)
    write_rows(folder / "order" / "rows.jsonl", ROWS)
    write_rows(folder / "scores" / "scores.jsonl", (Score(i, value) for i, value in scores.items()))
    inputs = {"model": model, "order": folder / "order", "scores": folder / "scores"}
    metrics = probe.train(SelectorJob(PROBE, [0.25], 0), inputs, folder / "selector", runtime)
    return {**inputs, "selector": folder / "selector"}, metrics


def pool(folder: Path, inputs: dict[str, Path], runtime: Runtime, start: int, stop: int | None) -> np.ndarray:
    folder.mkdir()
    probe.pool(SelectorShard(PROBE, start, stop), inputs, folder, runtime)
    return np.load(folder / "scores.npy", allow_pickle=False)


def test_probe_learns_what_the_hidden_states_say(tmp_path: Path, model_step: Path, runtime: Runtime) -> None:
    _, metrics = fitted(tmp_path, model_step, runtime, SCORES)
    assert metrics["rows"] == 36 and metrics["held_out"] == 12 and metrics["spearman_left_out"] > 0.6
    assert metrics["spearman"] > 0.5 and metrics["tokens"] > 0
    held = [row for _, row in read_lines(tmp_path / "selector" / "held_out.jsonl")]
    assert [row["id"] for row in held] == [row.id for row in ROWS[36:48]] and all(row["error"] > 0 for row in held)


def test_probe_slices_of_the_pool_give_the_same_scores(tmp_path: Path, model_step: Path, runtime: Runtime) -> None:
    inputs, _ = fitted(tmp_path, model_step, runtime, SCORES)
    whole = pool(tmp_path / "whole", inputs, runtime, 0, None)
    parts = [pool(tmp_path / f"part{a}", inputs, runtime, a, b) for a, b in ((0, 7), (7, 40), (40, None), (60, None))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    folders = {f"pool-s0-{i:04d}": tmp_path / f"part{a}" for i, a in enumerate((0, 7, 40, 60))}
    (tmp_path / "out").mkdir()
    selector.run(SelectorScores([0.25], 1), {"scores": inputs["scores"], **folders}, tmp_path / "out", runtime)
    joined = read_rows(tmp_path / "out" / "scores.jsonl", Score)
    assert [row.id for row in joined] == [row.id for row in ROWS]
    assert all(set(row.parts) == {"error"} and row.parts["error"] > 0 for row in joined)


def test_probe_test_never_sees_held_out_scores(tmp_path: Path, model_step: Path, runtime: Runtime) -> None:
    fitted(tmp_path / "one", model_step, runtime, SCORES)
    turned = SCORES | {row.id: -SCORES[row.id] for row in ROWS[36:48]}
    fitted(tmp_path / "two", model_step, runtime, turned)
    one, two = (
        [row["predicted"] for _, row in read_lines(tmp_path / name / "selector" / "held_out.jsonl")]
        for name in ("one", "two")
    )
    assert one == two


def test_layers_are_shares_of_the_depth() -> None:
    assert probe.layer_numbers([0.25, 0.5, 0.75, 1.0], 30) == [8, 15, 22, 30]
    assert probe.layer_numbers([0.01, 0.5, 1.0], 1) == [1]


def test_pool_that_the_candidates_are_no_sample_of_is_said(
    tmp_path: Path, model_step: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, _ = fitted(tmp_path / "one", model_step, runtime, SCORES)
    found = {}
    for name in ("same", "other"):
        folder = tmp_path / name
        folder.mkdir()
        other = [Example(f"x{i}", "Say it.", "", "sky " * 60 + "!" * i) for i in range(60)]
        write_rows(folder / "rows.jsonl", ROWS if name == "same" else other)
        caplog.clear()
        (folder / "out").mkdir()
        metrics = probe.pool(SelectorShard(PROBE, 0, None), {**inputs, "order": folder}, folder / "out", runtime)
        found[name] = metrics["unlike_candidates"], "unlike the scored candidates" in caplog.text
    assert found["same"][0] < 0.3 and not found["same"][1]
    assert found["other"][0] > 0.9 and found["other"][1]
