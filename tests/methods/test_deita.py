"""DEITA: ratings and the filter against loops, the whole stage against single texts, a scorer's files, and the plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from numpy.typing import NDArray
from slow_baselines import ROWS, Ran, SlowModel, planned, run_method, shards_of, step_of
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from icon_repro.data.options import Dtype, ModelConfig, ModelKind, RandomShape
from icon_repro.data.prompts import alpaca_prompt, complexity_question, quality_question
from icon_repro.data.rows import Example, Score
from icon_repro.data.weights import run as make_model
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_tokenizer
from icon_repro.lm.tokens import TokenError, bos_ids, text_ids
from icon_repro.methods import deita
from icon_repro.methods.common.digits import digit_ids
from icon_repro.methods.common.outcome import NoScoreError
from icon_repro.methods.common.shards import ShardError
from icon_repro.methods.deita import DeitaFilter, DeitaQuestion, DeitaShard


def config(name: str, seed: int) -> dict[str, Any]:
    return {"kind": "random", "name": name, "random": {"seed": seed}, "parameters": seed}


COMPLEXITY, QUALITY, EMBEDDING = config("complexity", 11), config("quality", 12), config("embedding", 13)
METHOD = {"kind": "deita", "complexity": COMPLEXITY, "quality": QUALITY}


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models with other weights than the one that is tuned."""
    made = {}
    for one in (COMPLEXITY, QUALITY, EMBEDDING):
        folder = made[one["name"]] = tmp_path_factory.mktemp(one["name"])
        shape = RandomShape(seed=one["random"]["seed"])
        runtime: Any = None  # a random model needs none
        make_model(ModelConfig(ModelKind.random, name=one["name"], random=shape), {}, folder, runtime)
    return made


# ---------------------------------------------------------------- ratings


def test_expected_rating_equals_the_softmax_over_the_digits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 9))
    whole = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)  # three more tokens in the vocabulary
    found = deita.expected_rating(whole[:, :6])
    for row, value in zip(logits[:, :6], found, strict=True):
        total = sum(np.exp(logit) for logit in row)
        assert value == pytest.approx(sum((s + 1) * np.exp(logit) / total for s, logit in enumerate(row)), abs=1e-12)
    assert (found > 1).all() and (found < 6).all()


def test_expected_rating_written_out() -> None:
    values = [[0, 0, 0, 0, 0, 1e-9], [0.5, 0, 0, 0, 0, 0], [0.1] * 6, [0.2, 0.6, 0, 0, 0, 0]]
    assert deita.expected_rating(np.array(values)) == pytest.approx([6, 1, 3.5, 1.75])


def test_questions_are_the_scorers_own() -> None:
    head = "You are a helpful assistant. Please identify the "
    assert complexity_question(ROWS[1]) == (
        f"{head}complexity score of the following user query. \n##Query: Add the numbers.\n3 and 4  \n##Complexity: "
    )
    assert quality_question(ROWS[0]) == (
        f"{head}quality score of the Response corresponding to the Question. \n #Question#:\nName a colour.\n"
        "#Response#:\nRed. \n##Quality: "
    )
    braces = Example("b", "{x}", "", "{request}")
    assert "{x}" in complexity_question(braces) and "#Response#:\n{request} \n" in quality_question(braces)


def test_scorer_with_nothing_but_a_sentencepiece_model_can_be_read(tmp_path: Path) -> None:
    """The published scorers have no tokenizer.json."""
    weights = tmp_path / "weights"
    LlamaForCausalLM(
        LlamaConfig(vocab_size=352, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(weights)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([complexity_question(row) for row in ROWS] + ["1 2 3 4 5 6 7 8 9 0"] * 9),
        model_prefix=str(weights / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(weights / "tokenizer_config.json", {**settings, "add_bos_token": True, "add_eos_token": False})
    write_json(tmp_path / "model.json", {"hub_id": None, "commit": None})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.convert_ids_to_tokens(digit_ids(tokenizer, "123456")) == list("123456")
    assert bos_ids(tokenizer) == [1]
    assert tokenizer.convert_ids_to_tokens(text_ids(tokenizer, complexity_question(ROWS[0]))[0][-2:]) == [":", "▁"]


# ---------------------------------------------------------------- the filter


def slow_walk(vectors: NDArray[np.float32], threshold: float) -> tuple[list[int], dict[int, tuple[int, float]]]:
    kept, removed = list[int](), dict[int, tuple[int, float]]()
    for row, vector in enumerate(vectors):
        cosines = {other: min(1.0, float(vector @ vectors[other])) for other in kept}
        nearest = max(cosines, key=lambda other: cosines[other], default=None)
        if nearest is not None and cosines[nearest] > threshold:
            removed[row] = (nearest, cosines[nearest])
        else:
            kept.append(row)
    return kept, removed


def unit(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("rows, block, kept_block", [(1, 4, 3), (50, 50, 9), (61, 7, 5), (61, 1, 1), (61, 1024, 8192)])
def test_walk_equals_a_loop_over_rows(monkeypatch: pytest.MonkeyPatch, rows: int, block: int, kept_block: int) -> None:
    monkeypatch.setattr(deita, "_BLOCK", block)
    monkeypatch.setattr(deita, "_KEPT_BLOCK", kept_block)
    draw = np.random.default_rng(rows)
    vectors = unit(draw.normal(size=(rows, 5)))
    for threshold in (-1.0, 0.0, 0.5, 0.8, 0.95, 1.0):
        kept, removed, cosines = deita.walk(vectors, threshold)
        expected = slow_walk(vectors, threshold)
        assert kept == expected[0]
        assert {row: other for row, (other, _) in removed.items()} == {r: o for r, (o, _) in expected[1].items()}
        for row, (_, cosine) in removed.items():
            assert cosine == pytest.approx(expected[1][row][1], abs=1e-6)
        assert sorted([*kept, *removed]) == list(range(rows)) and cosines >= rows


def test_walk_a_row_near_to_a_removed_one_only_is_kept() -> None:
    degrees = np.radians([0, 20, 40, 41, 0])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    kept, removed, _ = deita.walk(vectors, 0.9)  # cos 20 = 0.94, cos 40 = 0.77
    assert kept == [0, 2]
    assert removed == {
        1: (0, pytest.approx(0.9397, abs=1e-4)),
        3: (2, pytest.approx(0.9998, abs=1e-4)),
        4: (0, 1.0),
    }


def test_walk_copies_stay_at_threshold_one() -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(30, 64)))
    assert len(deita.walk(np.concatenate([vectors, vectors]), 1.0)[0]) == 60  # though some give 1.0000001


# ---------------------------------------------------------------- the whole stage


def slow_rating(slow: SlowModel, question: str) -> float:
    digits = [slow.tokenizer.convert_tokens_to_ids(digit) for digit in "123456"]
    found = np.exp(slow.log_probabilities(slow.bos + slow.ids(question))[-1][digits])
    return float(sum((s + 1) * p for s, p in enumerate(found)) / sum(found))


def slow_vectors(slow: SlowModel, rows: Sequence[Example]) -> NDArray[np.float32]:
    states = [slow.hidden(slow.bos + slow.ids(alpaca_prompt(row) + row.response))[-1] for row in rows]
    return unit(np.array(states))


def ran(folder: Path, runtime: Runtime, model: Path, scorers: dict[str, Path], **more: Any) -> Ran:
    return run_method(folder, runtime, model, {**METHOD, **more}, others=scorers)


def between(vectors: NDArray[np.float32]) -> float:
    """A threshold that no cosine comes near to, and that removes some rows."""
    cosines = np.sort((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)])
    gaps = np.diff(cosines)[len(cosines) // 3 :]
    place = int(gaps.argmax()) + len(cosines) // 3
    return float((cosines[place] + cosines[place + 1]) / 2)


@pytest.mark.parametrize("own", [False, True])
def test_deita_equals_a_batch_1_loop(
    model_step: Path, scorers: dict[str, Path], tmp_path: Path, runtime: Runtime, own: bool
) -> None:
    complexity, quality = SlowModel(scorers["complexity"]), SlowModel(scorers["quality"])
    first = {row.id: slow_rating(complexity, complexity_question(row)) for row in ROWS}
    second = {row.id: slow_rating(quality, quality_question(row)) for row in ROWS}
    order = sorted(ROWS, key=lambda row: -first[row.id] * second[row.id])
    vectors = slow_vectors(SlowModel(scorers["embedding"] if own else model_step), order)
    threshold = between(vectors)
    kept, removed = slow_walk(vectors, threshold)
    assert kept and removed
    more = {"embedding": EMBEDDING} if own else {}
    found = ran(tmp_path, runtime, model_step, scorers, threshold=threshold, shard_rows=4, **more)
    assert found.ranks == [order[i].id for i in kept]
    for i in kept:
        identifier = order[i].id
        parts = {"complexity": first[identifier], "quality": second[identifier]}
        assert found.scores[identifier].parts == pytest.approx(parts, abs=1e-5)
        assert found.scores[identifier].score == pytest.approx(first[identifier] * second[identifier], abs=1e-5)
    assert found.failures.keys() == {order[i].id for i in removed}
    for i, (other, cosine) in removed.items():
        reason, _, nearest = found.failures[order[i].id].rpartition(" to ")
        assert nearest == order[other].id and reason.startswith("too near to a better row: cosine ")
        assert float(reason.split()[-1]) == pytest.approx(cosine, abs=1e-4)
    assert found.metrics["failed"] == {"too near to a better row": len(removed)}
    assert len(shards_of(found.step, "deita:shard")) == 4
    tokens = sum(len(complexity.bos + complexity.ids(complexity_question(row))) for row in ROWS)
    assert sum(m["tokens"] for label, m in found.all_metrics.items() if "mine-complexity" in label) == tokens


def test_deita_long_rows_are_left_out_with_the_reason(
    tiny_step: Path, scorers: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    slow = SlowModel(scorers["quality"])
    lengths = {
        row.id: [len(slow.bos + slow.ids(ask(row))) for ask in (complexity_question, quality_question)] for row in ROWS
    }
    limit = sorted(length for _, length in lengths.values())[3]
    found = ran(tmp_path, runtime, tiny_step, scorers, threshold=1.0, max_length=limit)
    expected = {
        i: f"{'quality' if q > limit else 'complexity'}: longer than {limit} tokens"
        for i, (c, q) in lengths.items()
        if max(c, q) > limit
    }
    assert found.failures == expected and 0 < len(expected) < len(ROWS)
    whole = ran(tmp_path / "whole", runtime, tiny_step, scorers, threshold=1.0)
    for identifier, score in found.scores.items():
        assert score.score == pytest.approx(whole.scores[identifier].score, abs=1e-5)
    with pytest.raises(NoScoreError, match="quality: longer than 8 tokens: 7"):
        ran(tmp_path / "none", runtime, tiny_step, scorers, max_length=8)


def test_shard_text_that_the_scorer_cant_read_is_a_failure(tmp_path: Path, runtime: Runtime) -> None:
    """A tokenizer without bytes knows what the questions are made of, and nothing else."""
    letters = sorted({*complexity_question(ROWS[0]), *quality_question(ROWS[0]), *"123456"})
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["?", *letters])}, merges=[], unk_token="?"))
    weights = tmp_path / "weights"
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", pad_token="?").save_pretrained(weights)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(letters) + 1, **shape)).save_pretrained(weights)
    write_json(tmp_path / "model.json", {"hub_id": None, "commit": None})
    rows = [ROWS[0], Example("prompt", "色", "", "Red."), Example("response", "Name a colour.", "", "赤青")]
    write_rows(tmp_path / "rows.jsonl", rows)
    expected = {"prompt": "text that the tokenizer can't read", "response": "text that the tokenizer can't read"}
    for question, failed in ((DeitaQuestion.complexity, ["prompt"]), (DeitaQuestion.quality, list(expected))):
        cfg = DeitaShard(question, 2048, Dtype.float32, 0, None)
        deita.shard(cfg, {"model": tmp_path, "candidates": tmp_path}, tmp_path, runtime)
        reasons = read_json(tmp_path / "ids.json")["reasons"]
        assert reasons == {i: f"{question.value}: {expected[i]}" for i in failed}
        assert np.isfinite(np.load(tmp_path / "ratings.npy")).tolist() == [row.id not in failed for row in rows]


@pytest.fixture
def tiny_step(tmp_path: Path, tiny_model: Path) -> Path:
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "weights").symlink_to(tiny_model)
    write_json(folder / "model.json", {"hub_id": None, "commit": None})
    return folder


def test_shard_question_longer_than_the_positions_is_refused(tiny_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    write_rows(tmp_path / "rows.jsonl", [Example("long", "x", "", "Red. " * 4096)])
    cfg = DeitaShard(DeitaQuestion.quality, 100_000, Dtype.float32, 0, None)
    with pytest.raises(TokenError, match=r"the model has 4096 positions. Lower max_length"):
        deita.shard(cfg, {"model": tiny_step, "candidates": tmp_path}, tmp_path, runtime)


def parts_in(
    folder: Path, ratings: dict[str, float], reasons: dict[str, str], vectors: NDArray[np.float32] | None = None
) -> dict[str, Path]:
    """Complexity and quality of ``ratings`` (the same), one shard each; vectors at right angles if not given."""
    inputs = {}
    for name in ("complexity-0000", "quality-0000", "shard-0000"):
        inputs[name] = folder / name
        inputs[name].mkdir(parents=True)
        failed = {} if name.startswith("shard") else reasons
        write_json(inputs[name] / "ids.json", {"rows": list(ratings), "reasons": failed})
        np.save(inputs[name] / "ratings.npy", np.array(list(ratings.values())))
    np.save(
        inputs["shard-0000"] / "vectors.npy", np.eye(len(ratings), dtype=np.float32) if vectors is None else vectors
    )
    return inputs


def scores_of(folder: Path, inputs: dict[str, Path], runtime: Runtime, threshold: float = 0.9) -> dict[str, float]:
    deita.run(DeitaFilter(threshold), inputs, folder, runtime)
    return {row.id: row.score for row in read_rows(folder / "scores.jsonl", Score)}


def test_run_equal_scores_the_smaller_id_stays(tmp_path: Path, runtime: Runtime) -> None:
    same = np.ones((3, 1), np.float32)
    inputs = parts_in(tmp_path, {"b": 2.0, "c": 3.0, "a": 3.0}, {}, same)
    assert scores_of(tmp_path, inputs, runtime) == {"a": 9.0}
    failures = {row["id"]: row["reason"] for row in read_rows(tmp_path / "failures.jsonl", dict)}
    assert failures == dict.fromkeys(["b", "c"], "too near to a better row: cosine 1.0000 to a")


def test_run_row_without_a_rating_hides_no_other(tmp_path: Path, runtime: Runtime) -> None:
    same = np.ones((3, 1), np.float32)
    inputs = parts_in(tmp_path, {"a": 3.0, "b": 2.0, "c": np.nan}, {"a": "quality: longer than 9 tokens"}, same)
    assert scores_of(tmp_path, inputs, runtime) == {"b": 4.0}
    failures = {row["id"]: row["reason"] for row in read_rows(tmp_path / "failures.jsonl", dict)}
    assert failures["a"].endswith("longer than 9 tokens") and failures["c"].endswith("rating isn't finite")


def test_run_shards_of_other_rows_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    inputs = parts_in(tmp_path, {"a": 3.0, "b": 2.0}, {})
    np.save(inputs["quality-0000"] / "ratings.npy", np.zeros(3))
    with pytest.raises(ShardError, match="3 ratings of 2 rows; delete it"):
        scores_of(tmp_path, inputs, runtime)
    write_json(inputs["quality-0000"] / "ids.json", {"rows": ["a", "b", "x"], "reasons": {}})
    with pytest.raises(deita.DeitaError, match=r"1 rows have either a vector or a rating of quality.*'x'"):
        scores_of(tmp_path, inputs, runtime)


# ---------------------------------------------------------------- the plan


def planned_shards(work: Path, **more: Any) -> dict[str, set[str]]:
    step = step_of(planned(work, {"mine": {**METHOD, **more}}))
    found = {"embeddings": {s.folder for s in shards_of(step, "embeddings:shard")}}
    for question in ("complexity", "quality"):
        found[question] = {s.folder for s in shards_of(step, "deita:shard") if question in s.name}
    assert all(found.values())
    return {**found, "scores": {step.folder}}


@pytest.mark.parametrize(
    "change, rebuilt",
    [
        ({"threshold": 0.5}, ""),
        ({"template": "plain"}, "embeddings"),
        ({"embedding": EMBEDDING}, "embeddings"),
        ({"complexity": EMBEDDING}, "complexity"),
        ({"quality": EMBEDDING}, "quality"),
        ({"max_length": 99}, "embeddings complexity quality"),
        ({"dtype": "bfloat16"}, "embeddings complexity quality"),
    ],
    ids=str,
)
def test_plan_only_what_a_setting_changes_is_rebuilt(tmp_path: Path, change: dict[str, Any], rebuilt: str) -> None:
    before, after = planned_shards(tmp_path), planned_shards(tmp_path, **change)
    for name in before:
        if name in [*rebuilt.split(), "scores"]:
            assert not before[name] & after[name], name
        else:
            assert before[name] == after[name], name


def test_plan_costs_count_each_scorers_parameters(tmp_path: Path) -> None:
    step = step_of(planned(tmp_path, {"mine": METHOD}))
    for shard in shards_of(step, "deita:shard"):
        assert shard.cost.flops == 2 * (11 if "complexity" in shard.name else 12) * shard.cost.tokens > 0
