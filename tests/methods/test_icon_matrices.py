"""Shards to scores: an obvious loop for every control, what is refused and how it is named, and what it takes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icon_folders import write_bank, write_baseline, write_shard

from icon_repro.data.rows import Score
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon import score
from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.matrices import IconScoreError, Matrices
from icon_repro.methods.icon.options import Compat, Control, EmptyPair, IconConfig, resolved

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES, ROWS = [f"c{i}" for i in range(5)], [f"a{i}" for i in range(7)]
LENGTHS = [4, 16, 64]
CONTEXTS = dict(zip(CANDIDATES, [3, 5, 16, 40, 100], strict=True))


@pytest.fixture
def numbers() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "zero": generator.gamma(4, 0.3, 7),
        "candidate": generator.gamma(4, 0.3, (5, 7)).astype(np.float32),
        "control": generator.gamma(4, 0.3, (5, 7)).astype(np.float32),
        "bank": generator.gamma(4, 0.3, (3, 2, 7)).astype(np.float32),
    }


def stored(tmp_path: Path, numbers: dict[str, Any], control: Control = Control.per_candidate) -> dict[str, Path]:
    """Inputs of the aggregation: two shards, and what the control needs."""
    inputs = {"baseline": write_baseline(tmp_path / "baseline", numbers["zero"], ROWS)}
    if control is Control.bank:
        inputs["bank"] = write_bank(tmp_path / "bank", numbers["bank"], LENGTHS, CONTEXTS, ROWS)
    names = ["candidate", *(["control"] if control in (Control.per_candidate, Control.per_pair) else [])]
    for name in names:
        prefix = "shard" if name == "candidate" else name
        for number, part in enumerate((slice(0, 3), slice(3, 5))):
            label = f"{prefix}-{number:04d}"
            inputs[label] = write_shard(tmp_path / label, numbers[name][part], CANDIDATES[part], ROWS, name)
    return inputs


def run(tmp_path: Path, inputs: dict[str, Path], runtime: Runtime, cfg: IconConfig) -> list[Score]:
    (tmp_path / "out").mkdir()
    score.run(cfg, inputs, tmp_path / "out", runtime)
    return read_rows(tmp_path / "out" / "scores.jsonl", Score)


def slow(numbers: dict[str, Any], control: Any, epsilon: float, skip_nan: bool = False) -> dict[str, dict[str, float]]:
    """The paper's formulas, one pair after the other."""
    result = {}
    for c, name in enumerate(CANDIDATES):
        task = []
        for i in range(len(ROWS)):
            better = math.exp(control[c][i]) - math.exp(float(numbers["candidate"][c, i]))
            task.append(better / (math.exp(numbers["zero"][i]) + epsilon))
        kept = [t for t in task if not (skip_nan and math.isnan(t))]
        mean = sum(kept) / len(kept)
        variance = sum((t - mean) ** 2 for t in kept) / (len(kept) - 1)
        result[name] = {
            "score": mean,
            "variance": variance,
            "standard_error": math.sqrt(variance / len(kept)),
            "consistency": sum(t > 0 for t in task) / len(task),
            "coverage": sum(t > 0.5 for t in task) / len(task),
            "significance": 2 / (1 + math.exp(-50 * mean)) - 1 if abs(mean) <= 0.5 else math.copysign(1, mean),
        }
    return result


@pytest.mark.parametrize("control", Control)
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_scores_equal_an_obvious_loop(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any], control: Control, epsilon: float
) -> None:
    found = run(tmp_path, stored(tmp_path, numbers, control), runtime, IconConfig(control=control, epsilon=epsilon))
    after_control = {
        Control.none: np.tile(numbers["zero"], (5, 1)),
        Control.bank: bank_control(numbers["bank"], LENGTHS, list(CONTEXTS.values())),
    }.get(control, np.asarray(numbers["control"], np.float64))
    expected = slow(numbers, after_control, epsilon)
    assert [row.id for row in found] == CANDIDATES
    for row in found:
        assert {"score": row.score, **row.parts} == pytest.approx(expected[row.id], rel=1e-9, abs=1e-12)


def test_scores_leave_pairs_out_that_are_not_scored(tmp_path: Path, runtime: Runtime, numbers: dict[str, Any]) -> None:
    numbers["zero"][2] = numbers["candidate"][:, 2] = numbers["control"][:, 2] = np.nan
    inputs = stored(tmp_path, numbers)
    found = run(tmp_path, inputs, runtime, IconConfig(compat=Compat.official))
    expected = slow(numbers, np.asarray(numbers["control"], np.float64), 1e-6, skip_nan=True)
    for row in found:
        assert {"score": row.score, **row.parts} == pytest.approx(expected[row.id], rel=1e-9, abs=1e-12)


def test_scores_dont_depend_on_the_order_of_a_shards_rows(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any]
) -> None:
    cfg = IconConfig(control=Control.bank)
    usual = run(tmp_path, stored(tmp_path, numbers, Control.bank), runtime, cfg)
    turned = stored(tmp_path / "turned", numbers, Control.bank)
    order = [3, 1, 6, 0, 2, 5, 4]
    for name in ("shard-0000", "shard-0001"):
        values = np.load(turned[name] / "candidate.npy")[:, order]
        np.save(turned[name] / "candidate.npy", values)
        ids = read_json(turned[name] / "ids.json")
        write_json(turned[name] / "ids.json", {**ids, "assessment": [ROWS[i] for i in order]})
    found = run(tmp_path / "turned", turned, runtime, cfg)
    assert [row.score for row in found] == pytest.approx([row.score for row in usual], abs=1e-14)


def test_scores_of_an_empty_shard_are_none(tmp_path: Path, runtime: Runtime, numbers: dict[str, Any]) -> None:
    inputs = stored(tmp_path, numbers, Control.bank)
    inputs["shard-0002"] = write_shard(tmp_path / "empty", np.empty((0, 7)), [], ROWS)
    assert [row.id for row in run(tmp_path, inputs, runtime, IconConfig())] == CANDIDATES


def test_scores_carry_what_the_check_of_the_dtype_found(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any]
) -> None:
    inputs = stored(tmp_path, numbers, Control.none)
    (tmp_path / "dtype").mkdir()
    write_json(tmp_path / "dtype" / "dtype.json", {"dtype": "bfloat16", "tried": {}})
    (tmp_path / "out").mkdir()
    cfg = IconConfig(control=Control.none)
    metrics = score.run(cfg, {**inputs, "dtype": tmp_path / "dtype"}, tmp_path / "out", runtime)
    assert metrics["dtype_check"] == {"dtype": "bfloat16", "tried": {}}
    assert metrics["rows"] == 5 and metrics["assessment"] == 7
    assert "dtype_check" not in score.run(cfg, inputs, tmp_path / "out", runtime)


# ---------------------------------------------------------------- what is refused


def alter(folder: Path, **changes: Any) -> None:
    """Change ids.json, or the array of that name."""
    for name, value in changes.items():
        if name in ("candidates", "assessment"):
            write_json(folder / "ids.json", {**read_json(folder / "ids.json"), name: value})
        else:
            np.save(folder / f"{name}.npy", value)


@pytest.mark.parametrize(
    "where, changes, message",
    [
        ("shard-0001", {"assessment": ["a0", "new", "a2", "a3", "a4", "a5", "a6"]}, r"1 assessment rows.*'new'"),
        ("shard-0000", {"assessment": ROWS[:6]}, r"\(3, 7\) values for 3 x 6"),
        ("shard-0001", {"candidate": np.zeros((1, 7), np.float32)}, r"\(1, 7\) values for 2 x 7"),
        ("shard-0001", {"candidate": np.zeros(14, np.float32)}, r"\(14,\) values for 2 x 7"),
        ("control-0001", {"control": np.zeros((1, 7), np.float32)}, r"control-0001: \(1, 7\) values for 2 x 7"),
        ("control-0001", {"candidates": ["c4", "c3"]}, "control-0001: its ids differ"),
        ("control-0000", {"assessment": ROWS[::-1]}, "control-0000: its ids differ"),
        ("control-0000", {"control": np.full((3, 7), np.inf, np.float32)}, "candidate c0 and assessment row a0"),
    ],
    ids=str,
)
def test_altered_shard_is_refused_and_named(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any], where: str, changes: dict[str, Any], message: str
) -> None:
    inputs = stored(tmp_path, numbers)
    alter(inputs[where], **changes)
    with pytest.raises(IconScoreError, match=message):
        run(tmp_path, inputs, runtime, IconConfig(control=Control.per_candidate))


@pytest.mark.parametrize("control", [Control.bank, Control.none])
@pytest.mark.parametrize("rows", [ROWS[:6], [*ROWS[:6], "a5"], [*ROWS, "a5"]], ids=["fewer", "twice", "more"])
def test_mean_over_other_rows_than_the_baselines_is_refused(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any], control: Control, rows: list[str]
) -> None:
    inputs = stored(tmp_path, numbers, control)
    alter(inputs["shard-0001"], assessment=rows, candidate=np.ones((2, len(rows)), np.float32))
    with pytest.raises(IconScoreError, match="c3: its assessment rows aren't the baseline's 7, each once"):
        run(tmp_path, inputs, runtime, IconConfig(control=control))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("control", [Control.bank, Control.none, Control.per_candidate])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_pair_that_is_not_finite_is_refused_with_both_ids(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any], control: Control, value: float
) -> None:
    numbers["candidate"][3, 5] = value
    inputs = stored(tmp_path, numbers, control)
    with pytest.raises(IconScoreError, match=r"candidate c3 and assessment row a5.*float32"):
        run(tmp_path, inputs, runtime, IconConfig(control=control))


def test_infinite_pair_is_refused_where_pairs_may_be_left_out(
    tmp_path: Path, runtime: Runtime, numbers: dict[str, Any]
) -> None:
    numbers["candidate"][3, 5] = np.inf
    cfg = IconConfig(control=Control.none, empty_pairs=EmptyPair.nan)
    with pytest.raises(IconScoreError, match="candidate c3 and assessment row a5"):
        run(tmp_path, stored(tmp_path, numbers, Control.none), runtime, cfg)


def test_bank_of_other_candidates_or_rows_is_refused(tmp_path: Path, runtime: Runtime, numbers: dict[str, Any]) -> None:
    inputs = stored(tmp_path, numbers, Control.bank)
    cfg = IconConfig()
    contexts = {name: length for name, length in CONTEXTS.items() if name != "c4"}
    inputs["bank"] = write_bank(tmp_path / "fewer", numbers["bank"], LENGTHS, contexts, ROWS)
    with pytest.raises(IconScoreError, match="'c4'"):
        run(tmp_path, inputs, runtime, cfg)
    inputs["bank"] = write_bank(tmp_path / "turned", numbers["bank"], LENGTHS, CONTEXTS, ROWS[::-1])
    with pytest.raises(IconScoreError, match="turned: its assessment rows differ"):
        Matrices(resolved(cfg), inputs)
    inputs["bank"] = write_bank(tmp_path / "short", numbers["bank"][:2], LENGTHS, CONTEXTS, ROWS)
    with pytest.raises(IconScoreError, match=r"short: \(2, 2, 7\) values for 3 lengths and 7"):
        Matrices(resolved(cfg), inputs)


def test_joined_shards_of_different_rows_are_refused(tmp_path: Path, numbers: dict[str, Any]) -> None:
    inputs = stored(tmp_path, numbers, Control.none)
    matrices = Matrices(resolved(IconConfig(control=Control.none)), inputs)
    whole = matrices.joined(inputs, "shard")
    assert whole.candidates == CANDIDATES and whole.columns.tolist() == list(range(7))
    task = (np.exp(numbers["zero"]) - np.exp(numbers["candidate"].astype(float))) / (np.exp(numbers["zero"]) + 1e-6)
    np.testing.assert_allclose(whole.task, task, rtol=0, atol=1e-12)
    alter(inputs["shard-0001"], assessment=ROWS[::-1])
    with pytest.raises(IconScoreError, match="'shard' have different assessment rows"):
        matrices.joined(inputs, "shard")
    assert matrices.joined(inputs, "round00").candidates == []


# ---------------------------------------------------------------- what it takes

AGGREGATE = """
import json, re, sys, time
from pathlib import Path
from icon_repro.engine.options import ClusterConfig; from icon_repro.methods.icon.options import Control, IconConfig
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon import score

def peak():  # not getrusage's: that of a new process begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

root = Path(sys.argv[1])
inputs = {folder.name: folder for folder in root.iterdir()}
before, clock = peak(), time.process_time()
(root / "out").mkdir()
score.run(IconConfig(control=Control(sys.argv[2])), inputs, root / "out", Runtime(ClusterConfig(), root))
print(json.dumps({"seconds": time.process_time() - clock, "bytes": peak() - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from Linux' /proc")
def test_aggregation_of_the_papers_matrix_takes_2_seconds_and_45_mb_on_disk(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [f"a{i:04d}" for i in range(1020)]
    write_baseline(tmp_path / "baseline", generator.random(1020), rows)
    for number in range(50):
        candidates = [f"c{number * 100 + i:05d}" for i in range(100)]
        for prefix, name in (("shard", "candidate"), ("control", "control")):
            values = generator.random((100, 1020), dtype=np.float32)
            write_shard(tmp_path / f"{prefix}-{number:04d}", values, candidates, rows, name)
    stored = sum(path.stat().st_size for path in tmp_path.glob("*/*.npy"))
    assert 40e6 < stored <= 45e6
    done = subprocess.run(
        [sys.executable, "-c", AGGREGATE, str(tmp_path), "per_candidate"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout.splitlines()[-1])
    assert took["bytes"] < 0.5e9
    assert took["seconds"] < 2
    assert len(read_rows(tmp_path / "out" / "scores.jsonl", Score)) == 5000
