"""Rows that a tokenizer can't read, and texts that are empty: failures with their reason, in NLLs and embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_baselines import ROWS, SlowModel, run_method

from icon_repro.data.prompts import Template
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.common import answers, embeddings
from icon_repro.methods.common.options import (
    AnswerPart,
    AnswersConfig,
    AnswersShard,
    EmbeddedText,
    EmbeddingConfig,
    EmbeddingShard,
    PoolingKind,
)
from icon_repro.methods.ifd import pre_experienced
from icon_repro.methods.ifd.options import ChoiceConfig

WORDS = ["name", "a", "colour", "red", "green", "blue", "the", "sky", "is", "why", "because", "of", "air"]
READABLE = [
    Example("r1", "name a colour", "", "red"),
    Example("r2", "why is the sky blue", "", "because of the air"),
    Example("r3", "name the sky", "a colour", "the sky is blue green"),
]
UNKNOWN = Example("u1", "name a colour", "", "赤 青")
UNKNOWN_PROMPT = Example("u2", "色 は", "", "red")
PARTLY = Example("p1", "name a 色", "", "red 赤")
REASON = "prompt or response that the tokenizer can't read"


@pytest.fixture(scope="module")
def words_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model step with a random Llama that knows a few words; every other one is [UNK]."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("words")
    vocabulary = {token: i for i, token in enumerate(["[UNK]", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="</s>").save_pretrained(
        folder / "weights"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder / "weights")
    (folder / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return folder


PROXY = {"kind": "random", "name": "words", "random": {}}
SUPERFILTERING = {"kind": "ifd", "ratio": "perplexity", "template": "plain", "direct": "", "drop_above_one": False}


def test_proxy_that_cant_read_a_row_fails_it_with_the_reason(
    model_step: Path, words_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    rows = [*READABLE, UNKNOWN, UNKNOWN_PROMPT, PARTLY]
    method = {**SUPERFILTERING, "direct": "the", "proxy": PROXY}
    found = run_method(tmp_path, runtime, model_step, method, rows, others={"words": words_step})
    assert found.failures == {"u1": REASON, "u2": REASON}
    assert found.metrics["failed"] == {REASON: 2}
    slow = SlowModel(words_step)
    for row in (*READABLE, PARTLY):
        text = f"{row.instruction}\n{row.input}\n" if row.input else f"{row.instruction}\n"
        ratio = slow.nll(slow.ids(text), slow.ids(row.response)) - slow.nll(slow.ids("the"), slow.ids(row.response))
        assert found.scores[row.id].score == pytest.approx(np.exp(ratio), abs=1e-5)


def embedded(
    folder: Path, runtime: Runtime, model: Path, rows: list[Example], **changes: Any
) -> tuple[dict[str, str], Any, dict[str, Any]]:
    """Reasons, vectors and metrics of a shard of all rows."""
    (folder / "rows").mkdir(parents=True)
    write_rows(folder / "rows" / "rows.jsonl", rows)
    wanted: dict[str, Any] = {"text": EmbeddedText.row, "pooling": PoolingKind.mean, "template": Template.plain}
    cfg = EmbeddingShard(EmbeddingConfig(**{**wanted, **changes}), 0, None)
    metrics = embeddings.shard(cfg, {"model": model, "rows": folder / "rows"}, folder, runtime)
    return read_json(folder / "ids.json")["reasons"], np.load(folder / "vectors.npy"), metrics


def test_embedding_of_an_empty_prompt_is_a_failure_with_or_without_a_bos(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    empty = Example("empty", "", "", "Red.", ready=True)
    rows = [*ROWS[:2], empty, ROWS[2]]
    reasons, vectors, metrics = embedded(
        tmp_path, runtime, model_step, rows, text=EmbeddedText.prompt, template=Template.scoring
    )
    assert reasons == {"empty": "nothing to embed"} and metrics["failed"] == 1
    assert np.isnan(vectors[2]).all() and np.isfinite(vectors[[0, 1, 3]]).all()


def test_empty_prompt_keeps_its_row_out_of_the_brief_experience(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    rows = [*ROWS, Example("empty", "", "", "Red.", ready=True)]
    prompts = {"text": EmbeddedText.prompt, "template": Template.scoring}
    reasons, _, _ = embedded(tmp_path / "shard", runtime, model_step, rows, **prompts)
    assert list(reasons) == ["empty"]
    inputs = {"model": model_step, "candidates": tmp_path / "shard" / "rows"}
    alone = AnswersConfig([AnswerPart.prompt], Template.scoring)
    (tmp_path / "prompt").mkdir()
    answers.shard(AnswersShard(alone, 0, None), inputs, tmp_path / "prompt", runtime)
    shards = {"shard-0000": tmp_path / "shard", "prompt-0000": tmp_path / "prompt"}
    metrics = pre_experienced.run(ChoiceConfig(2, per_cluster=99), shards, tmp_path, runtime)
    assert read_json(tmp_path / "ids.json") == sorted(row.id for row in ROWS)
    assert sum(metrics["failed"].values()) == 1


def test_embedding_of_an_unreadable_text_is_a_failure(words_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    rows = [READABLE[0], Example("u", "色 は", "", "赤 青"), PARTLY]
    reasons, vectors, _ = embedded(tmp_path, runtime, words_step, rows)
    assert reasons == {"u": "text that the tokenizer can't read"}
    assert np.isnan(vectors[1]).all() and np.isfinite(vectors[[0, 2]]).all()


def test_embedding_by_an_encoder_equals_a_loop_and_cuts_within_its_last_token(
    encoder_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (kind.from_pretrained(encoder_step / "weights") for kind in (AutoTokenizer, AutoModel))
    rows = [*READABLE, Example("long", "the sky " * 9, "", "red"), Example("none", "", "", "", ready=True)]
    rows.append(Example("u", "色", "", "赤"))
    reasons, vectors, metrics = embedded(tmp_path, runtime, encoder_step, rows, encoder=True, max_length=20)
    assert reasons == {"none": "nothing to embed", "u": "text that the tokenizer can't read"}
    cut = 0
    for row, vector in list(zip(rows, vectors, strict=True))[:4]:
        ids = tokenizer(f"{row.instruction}\n{row.input}\n{row.response}")["input_ids"]  # white space counts nothing
        if len(ids) > 20:
            cut, ids = cut + 1, [*ids[:19], tokenizer.sep_token_id]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        expected = states.mean(axis=0) / np.linalg.norm(states.mean(axis=0))
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)
    assert 0 < metrics["rows_cut"] == cut < 4
