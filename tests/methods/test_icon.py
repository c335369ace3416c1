"""ICon's shards and bank against a batch-1 loop, what a split, a batch or a full memory must not change, its scores."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icon_repro.data.options import Dtype
from icon_repro.data.prompts import scoring_prompt
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm import load, mean_nll
from icon_repro.lm.budget import OutOfMemoryError
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.nll import NonFiniteError
from icon_repro.lm.tokens import TokenError, bos_ids
from icon_repro.methods.icon import matrices, pairs, score
from icon_repro.methods.icon.control import noise_ids
from icon_repro.methods.icon.options import BankConfig, Control, IconConfig, IconShard

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
CONFIG = IconConfig(seed=3, control=Control.per_candidate)
BANK = IconConfig(seed=3, bank=BankConfig(lengths=[4, 32, 64, 256, 1024], draws=2))


@pytest.fixture
def inputs(tmp_path: Path, model_step: Path) -> dict[str, Path]:
    made = {"model": model_step}
    for name, rows in {"order": CANDIDATES, "assessment": ASSESSMENT}.items():
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "rows.jsonl", rows)
        made[name] = tmp_path / name
    return made


one_model = pytest.mark.parametrize("model_step", ["bos"], indirect=True)

STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "candidate": pairs.shard,
    "control": pairs.control_shard,
    "bank": pairs.bank,
}


def run_shard(
    inputs: dict[str, Path],
    out: Path,
    runtime: Runtime,
    cfg: IconConfig,
    start: int,
    stop: int | None,
    name: str = "candidate",
) -> Any:
    """Metrics of the step that writes ``name``.npy."""
    out.mkdir(exist_ok=True)
    return STEPS[name](IconShard(cfg, start, stop), inputs, out, runtime)


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


def test_shards_and_baseline_equal_a_batch_1_loop(
    inputs: dict[str, Path], model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    model, tokenizer = load_model(model_step, Dtype.float32, torch.device("cpu")), load_tokenizer(model_step)
    metrics = {n: run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 3, n) for n in ("candidate", "control")}
    (tmp_path / "base").mkdir()
    pairs.baseline(CONFIG, inputs, tmp_path / "base", runtime)
    found = {name: np.load(tmp_path / "shard" / f"{name}.npy", mmap_mode="r") for name in metrics}
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
        tokens += len(own)
    for name in metrics:
        assert found[name].dtype == np.float32
        assert metrics[name]["pairs"] == 9
        assert metrics[name]["tokens"] > tokens
    assert metrics["candidate"]["tokens"] == metrics["control"]["tokens"]
    assert read_json(tmp_path / "shard" / "ids.json") == {
        "candidates": ["c1", "c2", "c3"],
        "assessment": ["a1", "a2", "a3"],
    }
    assert read_json(tmp_path / "base" / "ids.json") == {"assessment": ["a1", "a2", "a3"], "groups": ["x", "y", "x"]}


def test_bank_equals_a_batch_1_loop_over_the_lengths_around_the_candidates(
    inputs: dict[str, Path], model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    model, tokenizer = load_model(model_step, Dtype.float32, torch.device("cpu")), load_tokenizer(model_step)
    metrics = run_shard(inputs, tmp_path / "bank", runtime, BANK, 0, 3, "bank")
    described = read_json(tmp_path / "bank" / "bank.json")
    texts = {row.id: scoring_prompt(row) + row.response for row in CANDIDATES}
    own = {i: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for i, text in texts.items()}
    assert described["contexts"] == own
    lengths = described["lengths"]
    assert lengths == [length for length in BANK.bank.lengths if lengths[0] <= length <= lengths[-1]]
    assert lengths[0] <= min(own.values()) < lengths[1] and lengths[-2] < max(own.values()) <= lengths[-1]
    found = np.load(tmp_path / "bank" / "bank.npy")
    assert found.shape == (len(lengths), 2, 3) and found.dtype == np.float32
    for b, d, j in itertools.product(range(len(lengths)), range(2), range(3)):
        noise = noise_ids(tokenizer, lengths[b], BANK.seed, f"bank:{lengths[b]}:{d}")
        assert found[b, d, j] == pytest.approx(slow_mean_nll(model, tokenizer, noise, ASSESSMENT[j]), abs=1e-5)
    assert metrics["pairs"] == found.size and metrics["contexts"] == 2 * len(lengths)
    assert read_json(tmp_path / "bank" / "ids.json") == {"assessment": ["a1", "a2", "a3"]}


@one_model
def test_bank_texts_of_a_length_stay_as_they_are_with_more_lengths_and_draws(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    run_shard(inputs, tmp_path / "few", runtime, BANK, 0, 3, "bank")
    longer = IconConfig(seed=3, bank=BankConfig(lengths=[4, 16, 32, 48, 64, 256, 1024], draws=3))
    run_shard(inputs, tmp_path / "more", runtime, longer, 0, 3, "bank")
    lengths = {name: read_json(tmp_path / name / "bank.json")["lengths"] for name in ("few", "more")}
    found = {name: np.load(tmp_path / name / "bank.npy") for name in lengths}
    shared = [length for length in lengths["few"] if length in lengths["more"]]
    assert len(shared) >= 2
    few, more = ([lengths[name].index(length) for length in shared] for name in ("few", "more"))
    assert np.array_equal(found["few"][few], found["more"][more, :2])


def test_shards_of_three_candidates_are_bit_identical_to_one(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    for name in ("candidate", "control"):
        run_shard(inputs, tmp_path / "whole", runtime, CONFIG, 0, 3, name)
        whole = np.load(tmp_path / "whole" / f"{name}.npy")
        for parts in (((0, 1), (1, 3)), ((0, 1), (1, 2), (2, None))):
            for start, stop in parts:
                out = tmp_path / f"{start}-{stop}"
                run_shard(inputs, out, runtime, CONFIG, start, stop, name)
                assert np.array_equal(whole[start:stop], np.load(out / f"{name}.npy"))


@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_shard_batch_size_has_no_influence(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, budget: int
) -> None:
    configs = {"candidate": CONFIG, "control": CONFIG, "bank": BANK}
    for name, cfg in configs.items():
        run_shard(inputs, tmp_path / "usual", runtime, cfg, 0, 3, name)
    runtime.cluster.score_batch_tokens = budget
    for name, cfg in configs.items():
        run_shard(inputs, tmp_path / "other", runtime, cfg, 0, 3, name)
        usual, other = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("usual", "other"))
        np.testing.assert_allclose(usual, other, rtol=0, atol=1e-5)


@one_model
def test_shard_of_a_sequence_scores_what_it_asks_for_and_nothing_else(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    run_shard(inputs, tmp_path / "whole", runtime, CONFIG, 0, 3)
    (tmp_path / "sequence").mkdir()
    write_json(tmp_path / "sequence" / "sequence.json", {"rows": ["a3", "a1"], "active": ["c3", "c1"]})
    metrics = run_shard({**inputs, "sequence": tmp_path / "sequence"}, tmp_path / "part", runtime, CONFIG, 0, 3)
    whole, part = (np.load(tmp_path / name / "candidate.npy") for name in ("whole", "part"))
    np.testing.assert_allclose(part, whole[np.ix_([0, 2], [2, 0])], rtol=0, atol=1e-5)
    assert read_json(tmp_path / "part" / "ids.json") == {"candidates": ["c1", "c3"], "assessment": ["a3", "a1"]}
    assert metrics["pairs"] == 4


@one_model
@pytest.mark.parametrize("name", ["candidate", "control"])
@pytest.mark.parametrize("sequence", [None, {"rows": [], "active": []}, {"rows": ["a1"], "active": ["c1"]}], ids=str)
def test_shard_without_pairs_needs_no_model(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, name: str, sequence: dict[str, Any] | None
) -> None:
    del inputs["model"]
    if sequence is not None:
        (tmp_path / "sequence").mkdir()
        write_json(tmp_path / "sequence" / "sequence.json", sequence)
        inputs["sequence"] = tmp_path / "sequence"
    start = 3 if sequence is None else 1
    metrics = run_shard(inputs, tmp_path / "shard", runtime, CONFIG, start, None, name)
    assert np.load(tmp_path / "shard" / f"{name}.npy").size == 0
    ids = read_json(tmp_path / "shard" / "ids.json")
    assert ids["candidates"] == [] and ids["assessment"] == (sequence["rows"] if sequence else ["a1", "a2", "a3"])
    assert metrics["pairs"] == metrics["tokens"] == metrics["flops"] == 0


@one_model
@pytest.mark.parametrize("name", ["candidate", "control", "bank"])
def test_shard_weights_that_give_nan_name_the_context(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*arguments: Any) -> Any:
        model = load_model(*arguments)
        with torch.no_grad():
            model.get_output_embeddings().weight[0] = float("nan")
        return model

    monkeypatch.setattr(load, "load_model", broken)
    said = {"candidate": "candidate context of c1", "control": "control context of c1", "bank": "noise of .* draw 0"}
    with pytest.raises(NonFiniteError, match=said[name]):
        run_shard(inputs, tmp_path / "shard", runtime, BANK if name == "bank" else CONFIG, 0, 3, name)


# ---------------------------------------------------------------- memory

MANY = [Example(f"m{i}", "Name an animal.", "", "A dog" + " and a cat" * (i % 3)) for i in range(16)]
CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def limited(monkeypatch: pytest.MonkeyPatch, fits: int, error: Exception) -> list[int]:
    """Let batches of more than ``fits`` rows run out of memory; returns the sizes of all batches to come."""
    sizes: list[int] = []
    whole = mean_nll.answer_nll

    def answer_nll(model: Any, rows: Any, *more: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > fits:
            raise error
        return whole(model, rows, *more)

    monkeypatch.setattr(mean_nll, "answer_nll", answer_nll)
    return sizes


@one_model
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_SAYS), MemoryError()])
def test_out_of_memory_gives_the_same_matrix_and_a_smaller_budget(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write_rows(inputs["assessment"] / "rows.jsonl", MANY)
    run_shard(inputs, tmp_path / "usual", runtime, CONFIG, 0, 2)
    remembered = runtime.cache / "score_batch_tokens.json"
    assert not remembered.exists()
    limited(monkeypatch, 3, error)
    metrics = run_shard(inputs, tmp_path / "less", runtime, CONFIG, 0, 2)
    assert metrics["pairs"] == 32
    usual, less = (np.load(tmp_path / name / "candidate.npy") for name in ("usual", "less"))
    np.testing.assert_allclose(usual, less, rtol=0, atol=1e-5)
    (budget,) = read_json(remembered).values()
    assert 1024 % budget == 0 and budget < 1024
    sizes = limited(monkeypatch, 100, error)
    run_shard(inputs, tmp_path / "again", runtime, CONFIG, 0, 2)  # a new engine takes the budget that was found
    assert max(sizes) <= 3
    assert np.array_equal(np.load(tmp_path / "again" / "candidate.npy")[1], less[1])


@one_model
def test_out_of_memory_once_loses_no_more_than_half_of_the_budget(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, tokenizer = Example("s00", "Name an animal.", "", "A dog"), load_tokenizer(inputs["model"])
    texts = (scoring_prompt(row), row.response)
    width = 1 + sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    write_rows(inputs["assessment"] / "rows.jsonl", [replace(row, id=f"s{i:02d}") for i in range(32)])
    runtime.cluster.score_batch_tokens = 8 * width  # four batches of 8
    sizes = limited(monkeypatch, 4, MemoryError())
    run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 1)
    assert list(read_json(runtime.cache / "score_batch_tokens.json").values()) == [4 * width]
    assert sizes == [8, *[4] * 8]


@one_model
def test_out_of_memory_of_a_single_row_says_what_to_lower(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = limited(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemoryError, match=r"single row.*max_context_tokens"):
        run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 3)
    assert sizes[-1] == 1


@one_model
def test_out_of_memory_is_all_that_is_caught(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = limited(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_shard(inputs, tmp_path / "shard", runtime, CONFIG, 0, 3)
    assert len(sizes) == 1 and not (runtime.cache / "score_batch_tokens.json").exists()


# ---------------------------------------------------------------- limits


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
    np.testing.assert_allclose(matrices.task_scores(candidate, control, zero_shot, 0.0), [[0.5, -0.5]], atol=1e-12)


def aggregate(tmp_path: Path, runtime: Runtime, cfg: IconConfig, candidate: Any) -> list[Score]:
    base, shard, control, out = (tmp_path / name for name in ("base", "shard", "control", "out"))
    for folder in (base, shard, control, out):
        folder.mkdir()
    np.save(base / "nll.npy", np.log([4.0, 4.0]))
    write_json(base / "ids.json", {"assessment": ["a1", "a2"], "groups": ["", ""]})
    np.save(shard / "candidate.npy", np.asarray(candidate, np.float32))
    np.save(control / "control.npy", np.log([[4.0, 6.0], [8.0, 8.0]]).astype(np.float32))
    for folder in (shard, control):
        write_json(folder / "ids.json", {"candidates": ["c1", "c2"], "assessment": ["a1", "a2"]})
    score.run(cfg, {"baseline": base, "shard-0000": shard, "control-0000": control}, out, runtime)
    return read_rows(out / "scores.jsonl", Score)


def test_score_is_the_mean_with_its_error(tmp_path: Path, runtime: Runtime) -> None:
    one, two = aggregate(tmp_path, runtime, CONFIG, np.log([[2.0, 4.0], [2.0, 4.0]]))
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
        aggregate(tmp_path, runtime, CONFIG, [[0.0, 0.0], [np.nan, 0.0]])
