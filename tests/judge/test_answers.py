"""Answers of models against a slow loop; resuming, failures, servers and references."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_server import FaultServer

from icon_repro.data.options import Dtype
from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge import answers
from icon_repro.evaluate.judge.answers import AnswersError, Failure, ModelAnswer
from icon_repro.evaluate.judge.options import GenerationConfig, ReferenceAnswers, ServedAnswers
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.options import EndpointConfig

_ASKED = ["Name a colour.", "Translate.", "Why?", "Say " + "so " * 40, "3 + 4"]
ROWS = [Example(f"p{i}", text, "Der Himmel ist blau." if i == 1 else "", "") for i, text in enumerate(_ASKED)]
CONFIG = GenerationConfig(max_new_tokens=10, max_length=512)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", ROWS)
    return folder


def fresh(tmp_path: Path) -> Path:
    folder = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    folder.mkdir()
    return folder


def with_batch(tmp_path: Path, size: int) -> Runtime:
    return Runtime(ClusterConfig(device="cpu", eval_batch_size=size), tmp_path / "cache", terminal=None)


def read(out: Path) -> list[ModelAnswer]:
    return read_rows(out / "answers.jsonl", ModelAnswer)


def slow(model_step: Path) -> list[ModelAnswer]:
    tokenizer = load_tokenizer(model_step)
    model = load_model(model_step, Dtype.float32, torch.device("cpu"))
    made = []
    for row in ROWS:
        ids, new, stop = tokenizer(alpaca_prompt(row))["input_ids"], list[int](), "length"
        for _ in range(CONFIG.max_new_tokens):
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                stop = "eos"
                break
            new.append(token)
        made.append(ModelAnswer(row.id, tokenizer.decode(new, skip_special_tokens=True), len(new), stop))
    return made


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_run_answers_equal_a_slow_loop(model_step: Path, prompts: Path, tmp_path: Path, batch: int) -> None:
    out, expected = fresh(tmp_path), slow(model_step)
    metrics = answers.run(CONFIG, {"model": model_step, "prompts": prompts}, out, with_batch(tmp_path, batch))
    assert read(out) == expected
    assert (metrics["answers"], metrics["failed"]) == (len(ROWS), 0)
    assert sum(metrics["stops"].values()) == len(ROWS)
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "failures.jsonl"]


def test_run_long_prompt_is_a_counted_failure(model_step: Path, prompts: Path, tmp_path: Path) -> None:
    tokenizer, out = load_tokenizer(model_step), fresh(tmp_path)
    lengths = {row.id: len(tokenizer(alpaca_prompt(row))["input_ids"]) for row in ROWS}
    longest = max(lengths, key=lengths.__getitem__)
    config = replace(CONFIG, max_length=lengths[longest] - 1 + CONFIG.max_new_tokens)
    metrics = answers.run(config, {"model": model_step, "prompts": prompts}, out, with_batch(tmp_path, 2))
    assert [row.id for row in read(out)] == sorted(set(lengths) - {longest})
    failures = read_rows(out / "failures.jsonl", Failure)
    assert [failure.id for failure in failures] == [longest] and str(lengths[longest]) in failures[0].reason
    assert (metrics["answers"], metrics["failed"]) == (len(ROWS) - 1, 1)


def test_run_every_prompt_too_long_is_an_error(model_step: Path, prompts: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, max_length=CONFIG.max_new_tokens + 1)
    with pytest.raises(AnswersError, match="none of 5 prompts"):
        answers.run(config, {"model": model_step, "prompts": prompts}, fresh(tmp_path), with_batch(tmp_path, 2))


def test_run_after_a_crash_answers_only_what_is_missing(
    model_step: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, whole, out = {"model": model_step, "prompts": prompts}, fresh(tmp_path), fresh(tmp_path)
    answers.run(CONFIG, inputs, whole, with_batch(tmp_path, 2))
    kept = answers._keep

    def crash(folder: Path, made: Any) -> None:
        kept(folder, made)
        raise KeyboardInterrupt

    monkeypatch.setattr(answers, "_keep", crash)
    with pytest.raises(KeyboardInterrupt):
        answers.run(CONFIG, inputs, out, with_batch(tmp_path, 2))
    assert not (out / "answers.jsonl").exists()
    made: list[str] = []

    def note(folder: Path, new: Any) -> None:
        made.extend(answer.id for answer in new)
        kept(folder, new)

    monkeypatch.setattr(answers, "_keep", note)
    answers.run(CONFIG, inputs, out, with_batch(tmp_path, 2))
    assert len(made) == len(ROWS) - 2
    assert (out / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()


def test_run_damaged_batch_of_a_crashed_attempt_is_answered_again(
    model_step: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, whole, out = {"model": model_step, "prompts": prompts}, fresh(tmp_path), fresh(tmp_path)
    answers.run(CONFIG, inputs, whole, with_batch(tmp_path, 2))
    for answer in read(whole):
        answers._keep(out / "parts", [answer])
    stored = sorted((out / "parts").glob("*.json"))
    for path in stored[:2]:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"id": "p', '"id": "q'), encoding="utf-8")
    answers.run(CONFIG, inputs, out, with_batch(tmp_path, 2))
    assert (out / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    said = capsys.readouterr().out
    assert all(f"{path}: altered since it was written" in said for path in stored[:2]) and said.count("altered") == 2


def test_reference_takes_the_rows_own_responses(tmp_path: Path, prompts: Path, runtime: Runtime) -> None:
    write_rows(prompts / "rows.jsonl", [replace(row, response=f"answer to {row.id}") for row in ROWS])
    out = fresh(tmp_path)
    answers.reference(ReferenceAnswers(), {"prompts": prompts}, out, runtime)
    assert [(a.id, a.answer, a.stop) for a in read(out)] == [(r.id, f"answer to {r.id}", "stored") for r in ROWS]


def test_served_answers_come_from_the_server_and_failures_are_counted(
    tmp_path: Path, prompts: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = fresh(tmp_path)

    def reply(body: dict[str, Any]) -> str:
        text = str(body["messages"][-1]["content"])
        return "" if text == "Why?" else f"You said: {text}"

    with FaultServer(reply, rate=0.3, seed=1) as server:
        endpoint = EndpointConfig(
            "toy", base_url=server.url, backoff_s=0.001, timeout_s=0.5, max_wait_s=1.0, retries=20
        )
        params = ServedAnswers(endpoint, expected_calls=5, expected_tokens_in=1, expected_tokens_out=1)
        metrics = answers.served(params, {"prompts": prompts}, out, runtime)
    assert {a.id: a.answer for a in read(out)} == {
        row.id: f"You said: {row.instruction}\n\n{row.input}".strip() for row in ROWS if row.instruction != "Why?"
    }
    assert [f.id for f in read_rows(out / "failures.jsonl", Failure)] == ["p2"]
    assert (metrics["answers"], metrics["failed"]) == (4, 1)
