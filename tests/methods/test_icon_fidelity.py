"""The check of the dtype: what counts as a difference of scores, what is written, and what is chosen."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from icon_folders import write_texts

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm import load
from icon_repro.lm.load import load_model
from icon_repro.lm.low_precision import LowPrecisionError
from icon_repro.lm.nll import NonFiniteError
from icon_repro.methods.icon import fidelity, pairs
from icon_repro.methods.icon.fidelity import Trials, compared
from icon_repro.methods.icon.options import (
    AutoConfig,
    Budget,
    Control,
    EmptyPair,
    FidelityConfig,
    IconConfig,
    IconShard,
    ScoreDtype,
)

CFG = FidelityConfig()
CANDIDATES = [
    Example(f"c{i}", "Name a colour.", "", f"It is {word}.") for i, word in enumerate(["red", "blue", "green"])
]
ASSESSMENT = [
    Example(f"a{i}", "Name an animal.", "", f"{i} dogs" + " and a cat" * (i % 3), group="xy"[i % 2]) for i in range(8)
]


@pytest.fixture
def exact() -> np.ndarray:
    """(100, 200) contributions: effects of candidates and rows, cells of spread 1."""
    generator = np.random.default_rng(0)
    return 0.3 * generator.standard_normal((100, 1)) + generator.standard_normal((100, 200))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((100, 200))


# ---------------------------------------------------------------- differences


@pytest.mark.parametrize("rows", [10, 200, 1020])
@pytest.mark.parametrize("size, passes", [(0.0, True), (0.2, True), (0.3, True), (0.4, False), (1.0, False)])
def test_compared_noise_of_pairs_passes_up_to_a_third_of_theirs_at_any_number_of_rows(
    exact: np.ndarray, noise: np.ndarray, size: float, passes: bool, rows: int
) -> None:
    noise = noise - noise.mean(axis=1, keepdims=True)  # nothing of it is a candidate's own
    found = compared(exact, exact + size * noise, rows, CFG)
    assert found["passes"] is passes
    assert found["standard_error"] == pytest.approx(1 / math.sqrt(rows), rel=0.03)
    assert found["rms"] == pytest.approx(size / math.sqrt(rows), rel=0.05, abs=1e-12)


@pytest.mark.parametrize("rows, passes", [(10, True), (100, True), (1000, False)])
def test_compared_a_candidates_own_bias_does_not_average_away(exact: np.ndarray, rows: int, passes: bool) -> None:
    own = 0.02 * np.random.default_rng(2).standard_normal((100, 1))
    found = compared(exact, exact + own, rows, CFG)
    assert found["rms"] == pytest.approx(own.std(ddof=1), rel=1e-6)
    assert found["passes"] is passes  # standard errors of 0.32, 0.1, 0.032
    assert found["largest"] == pytest.approx(np.abs(own - own.mean()).max())


def test_compared_what_all_candidates_share_is_no_difference(exact: np.ndarray, noise: np.ndarray) -> None:
    shifts = 7.0 + 3 * np.random.default_rng(3).standard_normal((1, 200))
    usual, shifted = (
        compared(exact, exact + 0.1 * noise, 500, CFG),
        compared(exact, exact + 0.1 * noise + shifts, 500, CFG),
    )
    assert shifted["rms"] == pytest.approx(usual["rms"], rel=1e-9) and shifted["passes"]
    assert shifted["largest"] == pytest.approx(usual["largest"], rel=1e-9)


def test_compared_limit_is_the_configs(exact: np.ndarray, noise: np.ndarray) -> None:
    found = exact + 0.2 * noise
    assert compared(exact, found, 200, FidelityConfig(max_rms=0.5))["passes"]
    assert not compared(exact, found, 200, FidelityConfig(max_rms=0.1))["passes"]


def test_compared_ranks_of_equal_scores_are_unknown() -> None:
    found = compared(np.ones((4, 8)), np.ones((4, 8)), 8, CFG)
    assert found["spearman"] is None and found["passes"]


# ---------------------------------------------------------------- what is tried


@pytest.fixture
def inputs(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").symlink_to(tiny_model)
    (model / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    texts = {
        name: write_texts(tmp_path / name, rows) for name, rows in (("order", CANDIDATES), ("assessment", ASSESSMENT))
    }
    return {"model": model, **texts}


def check(
    inputs: Mapping[str, Path], tmp_path: Path, runtime: Runtime, dtype: ScoreDtype, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is written, and the metrics."""
    (tmp_path / "out").mkdir()
    icon = IconConfig(dtype=dtype, fidelity=FidelityConfig(candidates=3, rows=6), **more)
    metrics = fidelity.run(IconShard(icon, 0, None), inputs, tmp_path / "out", runtime)
    return read_json(tmp_path / "out" / "dtype.json"), metrics


@pytest.mark.parametrize("control", [Control.bank, Control.none])
def test_run_compares_the_dtype_asked_for_with_float32(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, control: Control
) -> None:
    scored: dict[ScoreDtype, np.ndarray] = {}
    usual = Trials.scored

    def remembered(self: Trials, dtype: ScoreDtype) -> tuple[Any, float]:
        found = usual(self, dtype)
        scored[dtype] = found[0]
        return found

    monkeypatch.setattr(Trials, "scored", remembered)
    said, metrics = check(inputs, tmp_path, runtime, ScoreDtype.bfloat16, control=control)
    assert said["dtype"] == metrics["dtype"] == "bfloat16"  # whatever was found
    assert (said["candidates"], said["rows"], said["rows_in_use"]) == (3, 6, 8)
    assert list(said["tried"]) == ["bfloat16", "float32"]
    tried = said["tried"]["bfloat16"]
    assert all(matrix.shape == (3, 6) for matrix in scored.values())
    differences = np.abs(scored[ScoreDtype.bfloat16] - scored[ScoreDtype.float32])
    assert 0 < differences.max() < 0.2
    expected = compared(
        scored[ScoreDtype.float32], scored[ScoreDtype.bfloat16], 8, FidelityConfig(candidates=3, rows=6)
    )
    assert {name: tried[name] for name in expected} == expected
    assert tried["tokens_per_s"] > 0 and said["tried"]["float32"]["tokens_per_s"] > 0
    assert metrics["tokens"] > 0 and metrics["flops"] > 0


def test_run_float32_contributions_are_those_of_the_shards(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    """With the control of a text of each candidate's own, the sample is a part of what the method scores."""
    icon = IconConfig(control=Control.per_candidate)
    for name, step in (("candidate", pairs.shard), ("control", pairs.control_shard)):
        (tmp_path / name).mkdir()
        step(IconShard(icon, 0, None), inputs, tmp_path / name, runtime)
    after, control = (np.load(tmp_path / name / f"{name}.npy") for name in ("candidate", "control"))
    (tmp_path / "base").mkdir()
    pairs.baseline(icon, inputs, tmp_path / "base", runtime)
    zero = np.load(tmp_path / "base" / "nll.npy")
    with runtime.progress(1, "pair") as progress:
        trials = Trials(pairs.resolved(icon), CANDIDATES, ASSESSMENT[:5], inputs, runtime, progress)
        found, _ = trials.scored(ScoreDtype.float32)
    expected = (np.exp(control.astype(float)) - np.exp(after.astype(float))) / (np.exp(zero) + 1e-6)
    np.testing.assert_allclose(found, expected[:, :5], rtol=0, atol=1e-4)


def test_run_auto_on_a_cpu_writes_the_fastest_that_passes(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    said, metrics = check(inputs, tmp_path, runtime, ScoreDtype.auto)
    assert set(said["tried"]) == {"float32", "bfloat16", "int8"}
    passing = {name: tried["tokens_per_s"] for name, tried in said["tried"].items() if tried["passes"]}
    assert said["dtype"] == metrics["dtype"] == max(passing, key=lambda name: passing[name])


def faked(
    monkeypatch: pytest.MonkeyPatch, speeds: dict[str, float], far: dict[str, float], device: str = "cpu"
) -> list[str]:
    """Trials with given speeds and differences from float32, in units of a cell's spread; returns what is scored."""
    exact = np.random.default_rng(0).standard_normal((40, 60))
    other = np.random.default_rng(1).standard_normal((40, 60))
    scored: list[str] = []

    def score(self: Trials, dtype: ScoreDtype) -> tuple[np.ndarray, float]:
        scored.append(dtype.value)
        if math.isinf(far.get(dtype.value, 0.0)):
            raise NonFiniteError(f"pairs in {dtype.value}")
        return exact + far.get(dtype.value, 0.0) * other, speeds[dtype.value]

    monkeypatch.setattr(Trials, "speed", lambda self, dtype: speeds[dtype.value])
    monkeypatch.setattr(Trials, "scored", score)
    monkeypatch.setattr(fidelity, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(fidelity, "unsupported", lambda low, device: None if low.value in speeds else "not here")
    return scored


@pytest.mark.parametrize(
    "device, speeds, far, chosen, tried",
    [
        ("cpu", {"float32": 10, "bfloat16": 9}, {}, "float32", []),
        ("cpu", {"float32": 10, "bfloat16": 10.5}, {}, "float32", []),  # not worth a look
        ("cpu", {"float32": 10, "bfloat16": 30}, {"bfloat16": 0.1}, "bfloat16", ["float32", "bfloat16"]),
        ("cpu", {"float32": 10, "bfloat16": 30}, {"bfloat16": 1.0}, "float32", ["float32", "bfloat16"]),
        ("cpu", {"float32": 10, "bfloat16": 30}, {"bfloat16": math.inf}, "float32", ["float32", "bfloat16"]),
        ("cpu", {"float32": 10, "bfloat16": 9, "int8": 20}, {"int8": 0.1}, "int8", ["float32", "int8"]),
        ("cpu", {"float32": 10, "bfloat16": 30, "int8": 12}, {}, "bfloat16", ["float32", "bfloat16", "int8"]),
        ("cpu", {"float32": 10, "bfloat16": 9, "int8": 20}, {"int8": 1.0}, "float32", ["float32", "int8"]),
        (
            "cuda",
            {"float32": 10, "bfloat16": 30, "float16": 30, "float8": 50},
            {"float8": 0.1},
            "float8",
            ["float32", "bfloat16", "float16", "float8"],
        ),
        (
            "cuda",
            {"float32": 10, "bfloat16": 30, "float16": 40},
            {"bfloat16": 0.1, "float16": 0.01},
            "float16",
            ["float32", "bfloat16", "float16"],
        ),
        (
            "cuda",
            {"float32": 10, "bfloat16": 30, "float16": 40},
            {"bfloat16": 0.1, "float16": math.inf},
            "bfloat16",
            ["float32", "bfloat16", "float16"],
        ),
        ("cuda", {"float32": 10, "bfloat16": 9, "float16": 40}, {"float16": 1.0}, "float32", ["float32", "float16"]),
    ],
)
def test_run_auto_chooses_the_fastest_near_enough(
    inputs: dict[str, Path],
    tmp_path: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    speeds: dict[str, float],
    far: dict[str, float],
    chosen: str,
    tried: list[str],
) -> None:
    scored = faked(monkeypatch, speeds, far, device)
    said, _ = check(inputs, tmp_path, runtime, ScoreDtype.auto)
    assert said["dtype"] == chosen and scored == tried
    assert set(said["tried"]) == set(speeds)
    for name, found in said["tried"].items():
        assert found["passes"] is (name == "float32" or (name in tried and far.get(name, 0.0) <= 0.2))
        assert found["passes"] or math.isinf(far.get(name, 0)) or "tokens_per_s" in found
        if not found["passes"] and name not in tried:
            assert found["why"] == "not faster than float32"
        if math.isinf(far.get(name, 0.0)):
            assert found["why"] == f"pairs in {name}"


def test_run_dtype_that_gives_nan_is_not_chosen_and_says_why(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path, dtype: Dtype, *more: Any) -> Any:
        model = load_model(folder, dtype, *more)
        if dtype is Dtype.bfloat16:
            with torch.no_grad():
                model.get_output_embeddings().weight[0] = float("nan")
        return model

    monkeypatch.setattr(load, "load_model", broken)
    for dtype, chosen in ((ScoreDtype.auto, "float32"), (ScoreDtype.bfloat16, "bfloat16")):
        (tmp_path / dtype.value).mkdir()
        said, _ = check(inputs, tmp_path / dtype.value, runtime, dtype)
        assert said["dtype"] == chosen
        assert said["tried"]["bfloat16"]["passes"] is False and "NaN" in said["tried"]["bfloat16"]["why"]
    monkeypatch.setattr(load, "load_model", lambda folder, dtype, *more: broken(folder, Dtype.bfloat16, *more))
    with pytest.raises(NonFiniteError):  # nothing to compare with
        (tmp_path / "both").mkdir()
        check(inputs, tmp_path / "both", runtime, ScoreDtype.bfloat16)


def test_precision_that_was_asked_for_and_isnt_there_is_refused(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    with pytest.raises(LowPrecisionError, match=r"dtype=float8: .* Set dtype=auto, bfloat16 or float32\."):
        check(inputs, tmp_path, runtime, ScoreDtype.float8)


def test_auto_goes_on_where_a_model_cant_be_lowered(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: Any, low: Any) -> int:
        raise LowPrecisionError("dtype=int8: no linear layer")

    monkeypatch.setattr(pairs, "lower", refused)
    said, _ = check(inputs, tmp_path, runtime, ScoreDtype.auto)
    assert said["tried"]["int8"] == {"passes": False, "why": "dtype=int8: no linear layer"}
    assert said["dtype"] != "int8"


def test_int8_pairs_are_near_float32s_and_not_the_same(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    said, _ = check(inputs, tmp_path, runtime, ScoreDtype.int8)
    assert said["dtype"] == "int8" and 0 < said["tried"]["int8"]["largest"] < 0.1
    found, flops = [], set()
    for dtype in (ScoreDtype.int8, ScoreDtype.float32):
        (tmp_path / dtype.value).mkdir()
        metrics = pairs.shard(IconShard(IconConfig(dtype=dtype), 0, 1), inputs, tmp_path / dtype.value, runtime)
        flops.add(metrics["flops"] / metrics["tokens"])
        found.append(np.load(tmp_path / dtype.value / "candidate.npy"))
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1
    assert len(flops) == 1  # the model is the same


def test_run_leaves_rows_out_that_are_not_scored(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    rows = [*ASSESSMENT[:5], Example("short", "Say it.", "", "a")]
    inputs["assessment"] = write_texts(tmp_path / "short", rows)
    cfg = {"skip_first_tokens": True, "empty_pairs": EmptyPair.nan}
    said, _ = check(inputs, tmp_path, runtime, ScoreDtype.bfloat16, **cfg)
    assert said["rows"] == 6 and math.isfinite(said["tried"]["bfloat16"]["rms"])


@pytest.mark.parametrize("chosen", [Dtype.bfloat16, Dtype.float32])
def test_auto_pairs_are_scored_in_the_dtype_that_was_chosen(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, chosen: Dtype
) -> None:
    (tmp_path / "dtype").mkdir()
    (tmp_path / "dtype" / "dtype.json").write_text(f'{{"dtype": "{chosen.value}"}}', encoding="utf-8")
    matrices = []
    for icon, more in (
        (IconConfig(dtype=ScoreDtype.auto), {"dtype": tmp_path / "dtype"}),
        (IconConfig(dtype=ScoreDtype(chosen.value)), {}),
    ):
        out = tmp_path / icon.dtype.value
        out.mkdir()
        pairs.shard(IconShard(icon, 0, 1), {**inputs, **more}, out, runtime)
        matrices.append(np.load(out / "candidate.npy"))
    assert np.array_equal(*matrices)


def test_auto_a_busy_moment_decides_nothing_and_all_turns_are_kept(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, {"float32": 10.0, "bfloat16": 8.0}, {"bfloat16": 0.1})
    turns = {
        ScoreDtype.float32: iter([10.0, 9.0, 11.0]),
        ScoreDtype.bfloat16: iter([8.0, 24.0, 20.0]),
    }  # first one under load
    monkeypatch.setattr(Trials, "speed", lambda self, dtype: next(turns[dtype]))
    said, _ = check(inputs, tmp_path, runtime, ScoreDtype.auto)
    assert said["dtype"] == "bfloat16"
    assert said["tried"]["bfloat16"]["turns"] == [8.0, 24.0, 20.0] and said["tried"]["bfloat16"]["tokens_per_s"] == 24
    assert said["tried"]["float32"]["turns"] == [10.0, 9.0, 11.0] and said["tried"]["float32"]["tokens_per_s"] == 11


@pytest.mark.parametrize(
    ("few", "rows"), [(None, 8), (AutoConfig(rows=7), 7), (AutoConfig(first_rows=4, rows=4), 4)], ids=str
)
def test_check_is_at_the_number_of_rows_that_a_candidate_can_meet(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, few: AutoConfig | None, rows: int
) -> None:
    more = {"budget": Budget.auto, "auto": few} if few else {}
    said, _ = check(inputs, tmp_path, runtime, ScoreDtype.bfloat16, **more)
    assert said["rows_in_use"] == rows
