"""ICon's shards against a batch-1 loop, its control, its aggregation, and what a resumed run must give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icon_repro.config import Control, IconConfig, IconShard
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.tokens import TokenError, bos_ids
from icon_repro.methods.icon import pairs, score
from icon_repro.methods.icon.control import noise_ids
from icon_repro.prompts import scoring_prompt
from icon_repro.records import Example, Score, read_json, read_rows, write_json, write_rows

CANDIDATES = [
    Example("c1", "Name a colour.", "", "Red."),
    Example("c2", "Add the numbers.", "3 and 4", "The sum of 3 and 4 is 7."),
    Example("c3", "Say why the sky is blue.", "", "Because air scatters blue light. " * 4),
]
ASSESSMENT = [
    Example("a1", "Name an animal.", "", "A dog", group="x"),
    Example("a2", "### Question:\nWhat is 2 + 2?\n\n### Response:", "", "4", group="y", ready=True),
    Example("a3", "Translate.", "Guten Tag", "Good day to you, and to all who are with you.", group="x"),
]
CONFIG = IconConfig(seed=3)


@pytest.fixture
def inputs(tmp_path: Path, model_step: Path) -> dict[str, Path]:
    made = {"model": model_step}
    for name, rows in {"order": CANDIDATES, "assessment": ASSESSMENT}.items():
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "rows.jsonl", rows)
        made[name] = tmp_path / name
    return made


def run_shard(inputs: dict[str, Path], out: Path, runtime: Runtime, cfg: IconConfig, start: int, stop: int) -> Any:
    out.mkdir()
    return pairs.shard(IconShard(cfg, start, stop), inputs, out, runtime)


def slow_mean_nll(model: Any, tokenizer: Any, context: list[int] | None, row: Example) -> float:
    """Batch 1, no cache, all logits: the text layout written out."""
    ids = bos_ids(tokenizer)
    if context is not None:
        ids = ids + context + tokenizer("\n\n\n", add_special_tokens=False)["input_ids"]
    ids = ids + tokenizer(scoring_prompt(row), add_special_tokens=False)["input_ids"]
    answer = tokenizer(row.response, add_special_tokens=False)["input_ids"]
    labels = [-100] * len(ids) + answer
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids + answer]), labels=torch.tensor([labels])).loss)


def test_shard_and_baseline_equal_a_batch_1_loop(
    inputs: dict[str, Path], model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    model, tokenizer = load_model(model_step, CONFIG.dtype, torch.device("cpu")), load_tokenizer(model_step)
    metrics = run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 3)
    (tmp_path / "base").mkdir()
    pairs.baseline(CONFIG, inputs, tmp_path / "base", runtime)
    found = {name: np.load(tmp_path / "shard" / f"{name}.npy", mmap_mode="r") for name in ("candidate", "control")}
    zero_shot = np.load(tmp_path / "base" / "nll.npy")
    tokens = 0
    for i, candidate in enumerate(CANDIDATES):
        own = tokenizer(scoring_prompt(candidate) + candidate.response, add_special_tokens=False)["input_ids"]
        noise = noise_ids(tokenizer, len(own), CONFIG.seed, candidate.id)
        assert len(noise) == len(own)
        for j, row in enumerate(ASSESSMENT):
            assert found["candidate"][i, j] == pytest.approx(slow_mean_nll(model, tokenizer, own, row), abs=1e-5)
            assert found["control"][i, j] == pytest.approx(slow_mean_nll(model, tokenizer, noise, row), abs=1e-5)
            assert zero_shot[j] == pytest.approx(slow_mean_nll(model, tokenizer, None, row), abs=1e-5)
        tokens += 2 * len(own)
    assert metrics["pairs"] == 2 * 9
    assert metrics["tokens"] > tokens
    assert read_json(tmp_path / "shard" / "ids.json")["candidates"] == ["c1", "c2", "c3"]


def test_shard_slices_are_bit_identical_to_the_whole(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    run_shard(inputs, tmp_path / "whole", runtime, CONFIG, 0, 3)
    for start, stop in ((0, 1), (1, 3)):
        run_shard(inputs, tmp_path / f"part{start}", runtime, CONFIG, start, stop)
        for name in ("candidate", "control"):
            whole = np.load(tmp_path / "whole" / f"{name}.npy")[start:stop]
            assert np.array_equal(whole, np.load(tmp_path / f"part{start}" / f"{name}.npy"))


@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_shard_batch_size_has_no_influence(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, budget: int
) -> None:
    run_shard(inputs, tmp_path / "usual", runtime, CONFIG, 0, 3)
    runtime.cluster.score_batch_tokens = budget
    run_shard(inputs, tmp_path / "other", runtime, CONFIG, 0, 3)
    usual, other = (np.load(tmp_path / name / "candidate.npy") for name in ("usual", "other"))
    np.testing.assert_allclose(usual, other, rtol=0, atol=1e-5)


def test_shard_long_candidate_is_cut_and_counted(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    tokenizer = load_tokenizer(inputs["model"])
    lengths = [
        len(tokenizer(scoring_prompt(c) + c.response, add_special_tokens=False)["input_ids"]) for c in CANDIDATES
    ]
    limit = sorted(lengths)[1] - 1
    metrics = run_shard(inputs, tmp_path / "shard", runtime, IconConfig(max_context_tokens=limit), 0, 3)
    assert metrics["contexts_cut"] == 2
    assert metrics["tokens_cut"] == sum(max(length - limit, 0) for length in lengths)


def test_shard_more_tokens_than_positions_is_refused(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    write_rows(inputs["order"] / "rows.jsonl", [Example("c1", "word " * 6000, "", "Red.")])
    with pytest.raises(TokenError, match=r"4096 positions.*max_context_tokens"):
        run_shard(inputs, tmp_path / "shard", runtime, IconConfig(max_context_tokens=100_000), 0, 1)


def test_shard_prompt_without_tokens_needs_a_bos(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    write_rows(inputs["assessment"] / "rows.jsonl", [Example("a9", "", "", "An answer", ready=True)])
    if bos_ids(load_tokenizer(inputs["model"])):
        run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 1)
    else:
        with pytest.raises(TokenError, match="a9"):
            run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 1)


def test_noise_ids_depend_on_seed_and_candidate_only(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    one = noise_ids(tokenizer, 50, 0, "c1")
    assert one == noise_ids(tokenizer, 50, 0, "c1")
    assert one != noise_ids(tokenizer, 50, 1, "c1")
    assert one != noise_ids(tokenizer, 50, 0, "c2")
    assert noise_ids(tokenizer, 0, 0, "c1") == []


def test_task_scores_follow_the_formula() -> None:
    candidate, control, zero_shot = np.log([[2.0, 8.0]]), np.log([[4.0, 6.0]]), np.log([4.0, 4.0])
    np.testing.assert_allclose(score.task_scores(candidate, control, zero_shot, 0.0), [[0.5, -0.5]], atol=1e-12)


def aggregate(tmp_path: Path, runtime: Runtime, cfg: IconConfig, candidate: Any) -> list[Score]:
    base, shard, out = (tmp_path / name for name in ("base", "shard", "out"))
    for folder in (base, shard, out):
        folder.mkdir()
    np.save(base / "nll.npy", np.log([4.0, 4.0]))
    write_json(base / "ids.json", {"assessment": ["a1", "a2"]})
    np.save(shard / "candidate.npy", np.asarray(candidate, np.float32))
    np.save(shard / "control.npy", np.log([[4.0, 6.0], [8.0, 8.0]]).astype(np.float32))
    write_json(shard / "ids.json", {"candidates": ["c1", "c2"], "assessment": ["a1", "a2"]})
    score.run(cfg, {"baseline": base, "shard-0000": shard}, out, runtime)
    return read_rows(out / "scores.jsonl", Score)


def test_score_is_the_mean_with_its_error(tmp_path: Path, runtime: Runtime) -> None:
    one, two = aggregate(tmp_path, runtime, IconConfig(), np.log([[2.0, 4.0], [2.0, 4.0]]))
    assert one.score == pytest.approx(0.5, abs=1e-5)
    assert two.score == pytest.approx(1.25, abs=1e-5)
    assert two.parts["standard_error"] == pytest.approx(0.25, abs=1e-5)
    assert two.parts["coverage"] == 1.0
    assert one.parts["consistency"] == 1.0


def test_score_without_control_compares_with_the_baseline(tmp_path: Path, runtime: Runtime) -> None:
    one, _ = aggregate(tmp_path, runtime, IconConfig(control=Control.none), np.log([[2.0, 4.0], [2.0, 4.0]]))
    assert one.score == pytest.approx(0.25, abs=1e-5)


def test_score_pair_that_is_not_finite_is_named(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(score.IconScoreError, match="candidate c2 and assessment row a1"):
        aggregate(tmp_path, runtime, IconConfig(), [[0.0, 0.0], [np.nan, 0.0]])
