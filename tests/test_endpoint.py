"""The client of chat endpoints against a local server that fails as told, and against kill -9."""

import dataclasses
import io
import itertools
import json
import logging
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from ask_driver import number
from fault_server import BABBLE, LINE_FAULTS, REPLY_FAULTS, Body, FaultServer, closed_port

from icon_repro.data.options import TokensField
from icon_repro.engine.records import read_json
from icon_repro.engine.schema import plain
from icon_repro.lm.answered_by import is_asked, same_model
from icon_repro.lm.endpoint import Answer, BudgetError, Request, ask, estimate, note_answered_by, spent
from icon_repro.lm.endpoint_http import EndpointError, retry_after, unreachable
from icon_repro.lm.options import EndpointConfig, endpoint_problems
from icon_repro.lm.replies import RepliesError

DRIVER = Path(__file__).with_name("ask_driver.py")
CANARY = "sk-canary-9f1c5d77"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def settings(url: str, model: str = "toy", **changes: Any) -> EndpointConfig:
    quick: dict[str, Any] = {"concurrency": 16, "retries": 20, "backoff_s": 0.001, "max_wait_s": 1.0, "timeout_s": 20.0}
    return EndpointConfig(model, base_url=url, **{**quick, **changes})


def questions(count: int, start: int = 0) -> list[Request]:
    return [Request(f"k{i}", [{"role": "user", "content": f"say {i}"}]) for i in range(start, start + count)]


def stored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines()]


def drive(server: FaultServer, folder: Path, count: int, concurrency: int) -> subprocess.Popen[str]:
    """Asks in a process of its own, where it doesn't wait for the server's threads."""
    command = [sys.executable, str(DRIVER), server.url, str(folder), str(count), str(concurrency)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> tuple[str, dict[str, Any]]:
    """What a process of ``drive`` printed, and its last line."""
    out, _ = process.communicate()
    assert process.returncode == 0
    return out, json.loads(out.splitlines()[-1])


def test_ask_connection_that_stays_taken_after_a_time_out_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, stuck = httpx.AsyncClient.post, list[httpx.AsyncClient]()

    async def taken(self: httpx.AsyncClient, *arguments: Any, **named: Any) -> httpx.Response:
        stuck.append(self) if not stuck else None
        if self is stuck[0]:
            raise httpx.PoolTimeout("its only place is taken")
        return await post(self, *arguments, **named)

    monkeypatch.setattr(httpx.AsyncClient, "post", taken)
    with FaultServer() as server:
        answers = ask(questions(2), settings(server.url, concurrency=1, retries=2), tmp_path, number)
    assert [answer.value for answer in answers] == [0.0, 1.0] and stuck[0].is_closed


def test_ask_2000_requests_at_30_percent_faults_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    kinds = [*(kind for kind in LINE_FAULTS if kind != "hang"), *LINE_FAULTS]
    with FaultServer(rate=0.3, seed=3, kinds=kinds, hang_s=30.0) as server:
        _, found = result(drive(server, tmp_path, 2000, 32))
    assert found["right"] and found["done"] == 2000
    assert server.answered == {f"say {i}": 1 for i in range(2000)}
    assert set(server.faults) == set(LINE_FAULTS) and min(server.faults.values()) > 20
    assert sum(server.asked.values()) == 2000 + sum(server.faults.values())
    assert Counter(row["key"] for row in stored(tmp_path)) == {f"k{i}": 1 for i in range(2000)}


def test_ask_replies_without_use_are_asked_again_then_counted_with_the_reason(tmp_path: Path) -> None:
    with FaultServer(rate=0.5, seed=1, kinds=REPLY_FAULTS) as server:
        answers = ask(questions(200), settings(server.url, reasks=2), tmp_path, number)
    reasons = {
        "empty": "the model gave no text (finish reason stop)",
        "null": "the model gave no text (finish reason stop)",
        "refusal": "the model refused",
        "babble": "invalid literal for int() with base 10: 'weather.'",
    }
    texts = {"empty": "", "null": "", "refusal": "I can't help with that.", "babble": BABBLE}
    for i, answer in enumerate(answers):
        kinds = [server.fault(f"say {i}", n) for n in range(3)]
        asked = next((n for n, kind in enumerate(kinds, start=1) if kind is None), 3)
        last = kinds[asked - 1]
        if last is None:
            assert answer == Answer(f"k{i}", f"say {i}", i, None, asked)
        else:
            assert answer == Answer(f"k{i}", texts[last], None, reasons[last], 3)
        assert server.asked[f"say {i}"] == server.answered[f"say {i}"] == asked
    failed = [answer for answer in answers if answer.value is None]
    assert 5 < len(failed) < 60 and len({answer.reason for answer in failed}) == 3


def test_ask_again_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    with FaultServer(rate=0.5, kinds=REPLY_FAULTS) as server:
        first = ask(questions(50), settings(server.url), tmp_path, number)
        tries = sum(server.asked.values())
        again = ask(questions(50), settings(server.url, concurrency=2), tmp_path, number)
        assert again == first and sum(server.asked.values()) == tries
        more = ask([*questions(10, start=50), *questions(50)], settings(server.url), tmp_path, number)
    assert more[10:] == first and sum(server.asked[f"say {i}"] for i in range(50)) == tries
    assert ask(questions(50), settings(server.url), tmp_path, number) == first  # closed: needs neither server nor key


def test_ask_kill_9_loses_no_stored_reply_and_asks_only_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    kinds = [kind for kind in LINE_FAULTS if kind != "hang"]
    with FaultServer(rate=0.3, seed=5, kinds=kinds) as server:
        before: set[str] = set()
        for part in (100, 250):
            with drive(server, tmp_path, 400, 16) as process:
                while not path.exists() or path.read_bytes().count(b"\n") < part:
                    assert process.poll() is None
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            kept = {json.loads(line)["key"] for line in whole.splitlines()}
            assert len(kept) >= part and before < kept < {f"k{i}" for i in range(400)}
            with path.open("wb") as file:
                file.write(whole + b'\n{"digest": "torn in the mid')
            before = kept
        asked = server.asked.copy()
        out, found = result(drive(server, tmp_path, 400, 16))
        assert found["right"] and found["done"] == 400 and "a torn last line of 27 bytes is cut off" in out
        again = {key for key, count in server.asked.items() if count > asked[key]}
        assert again == {f"say {i}" for i in range(400) if f"k{i}" not in before}
        assert sum(server.answered.values()) <= 400 + 2 * 16  # replies under way when it was killed
    assert Counter(row["key"] for row in stored(tmp_path)) == {f"k{i}": 1 for i in range(400)}


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_ask_torn_last_line_is_cut_off_and_asked_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "replies.jsonl"
    with FaultServer() as server:
        first = ask(questions(5), settings(server.url, concurrency=1), tmp_path, number)
        data = path.read_bytes()
        path.write_bytes(data[:-cut])
        assert ask(questions(5), settings(server.url), tmp_path, number) == first
    assert server.answered == {**{f"say {i}": 1 for i in range(4)}, "say 4": 2}
    assert path.read_bytes().startswith(data[: data.rfind(b"\n", 0, -1) + 1]) and len(stored(tmp_path)) == 5


def test_ask_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with FaultServer() as server:
        ask(questions(3), settings(server.url), tmp_path, number)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
        with pytest.raises(RepliesError, match=r"replies.jsonl:2: isn't a reply"):
            ask(questions(3), settings(server.url), tmp_path, number)
        path.write_bytes(lines[0] + lines[1].replace(b'"text": "', b'"text": "1') + lines[2])
        with pytest.raises(RepliesError, match=r"replies.jsonl:2: isn't a reply \(altered since it was written\)"):
            ask(questions(3), settings(server.url), tmp_path, number)
    assert sum(server.asked.values()) == 3


@pytest.mark.parametrize(
    "changes, again",
    [
        ({"model": "other"}, True),
        ({"temperature": 0.5}, True),
        ({"max_tokens": 9}, True),
        ({"seed": 4}, True),
        ({"concurrency": 1, "timeout_s": 9.0, "price_in": 1.0, "reasks": 0}, False),
    ],
    ids=str,
)
def test_ask_reply_to_another_question_or_setting_isnt_served(
    tmp_path: Path, changes: dict[str, Any], again: bool
) -> None:
    with FaultServer() as server:
        ask(questions(1), settings(server.url), tmp_path, number)
        other = [Request("k0", [{"role": "user", "content": "say 7"}])]
        assert ask(other, settings(server.url), tmp_path, number)[0].value == 7
        assert ask(questions(1), settings(server.url, **changes), tmp_path, number)[0].value == 0
    assert server.answered == {"say 0": 1 + again, "say 7": 1}


def test_ask_same_text_under_two_keys_is_two_questions(tmp_path: Path) -> None:
    requests = [Request(key, [{"role": "user", "content": "say 3"}]) for key in ("there", "back")]
    with FaultServer() as server:
        assert [a.key for a in ask(requests, settings(server.url), tmp_path, number)] == ["there", "back"]
        assert server.answered == {"say 3": 2}
        with pytest.raises(EndpointError, match="keys of requests are there twice \\(first: 'back'\\)"):
            ask([*requests, requests[1]], settings(server.url), tmp_path, number)


def test_ask_sends_settings_and_a_seed_that_moves_when_asked_again(tmp_path: Path) -> None:
    with FaultServer(lambda body: str(body["seed"])) as server:

        def third(text: str) -> str:
            if text != "42":
                raise ValueError("not yet")
            return text

        found = ask(questions(1), settings(server.url, seed=40, temperature=0.25, max_tokens=33), tmp_path, third)
    assert found == [Answer("k0", "42", "42", None, 3)]
    message = {"role": "user", "content": "say 0"}
    common = {"model": "toy", "messages": [message], "temperature": 0.25, "max_tokens": 33}
    assert server.bodies == [{**common, "seed": seed} for seed in (40, 41, 42)]


def test_ask_lone_surrogates_go_there_and_back(tmp_path: Path) -> None:
    requests = [Request("k", [{"role": "user", "content": "half \ud83d of a smile, größer\u2028"}])]
    with FaultServer() as server:
        for _ in range(2):
            (answer,) = ask(requests, settings(server.url), tmp_path, str)
            assert answer.value == requests[0].messages[0]["content"]
    assert sum(server.answered.values()) == 1 and "größer" in (tmp_path / "replies.jsonl").read_text()


def test_ask_error_that_isnt_the_replys_goes_on_after_the_replies_are_stored(tmp_path: Path) -> None:
    def broken(text: str) -> int:
        raise KeyError("a defect of the reader")

    with FaultServer() as server:
        with pytest.raises(KeyError, match="defect"):
            ask(questions(1), settings(server.url), tmp_path, broken)
        assert ask(questions(1), settings(server.url), tmp_path, number)[0].value == 0
    assert server.answered == {"say 0": 1}


def test_ask_keeps_to_the_number_at_a_time(tmp_path: Path) -> None:
    with FaultServer(delay_s=0.02) as server:
        ask(questions(40), settings(server.url, concurrency=3), tmp_path, number)
    assert server.most_at_once == 3


@pytest.mark.parametrize("kind", ["limit", "limit_wait", "limit_date", "hang"])
def test_ask_waits_longer_each_time(tmp_path: Path, kind: str) -> None:
    with FaultServer(kinds=[kind], rate=1.0) as server:
        changes = {"retries": 4, "backoff_s": 0.05, "timeout_s": 0.1, "max_unanswered": 1.0}
        (answer,) = ask(questions(1), settings(server.url, **changes), tmp_path, number)
    assert answer.reply is None and answer.asked == 0 and str(answer.reason).startswith("no reply (")
    times = [moment for _, moment in server.arrivals]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    patience = 0.1 if kind == "hang" else 0.0
    assert len(pauses) == 4
    for n, pause in enumerate(pauses):
        assert pause >= patience + 0.5 * 0.05 * 2**n - 0.01
    assert pauses[3] > pauses[0] + 0.1


def test_ask_waits_as_the_server_asks_and_ends_when_that_is_too_long(tmp_path: Path) -> None:
    with FaultServer(kinds=["limit_wait"], rate=0.5, seed=2, wait="0.3") as server:
        failing = [i for i in range(20) if server.fault(f"say {i}", 0) and not server.fault(f"say {i}", 1)]
        ask(questions(1, start=failing[0]), settings(server.url), tmp_path, number)
        assert server.arrivals[1][1] - server.arrivals[0][1] >= 0.29
        with pytest.raises(EndpointError, match=r"asks to wait 0.3 s \(HTTP 429\), more than max_wait_s=0.1"):
            ask(questions(1, start=failing[1]), settings(server.url, max_wait_s=0.1), tmp_path, number)


def test_retry_after_seconds_and_dates() -> None:
    assert retry_after(None) is None and retry_after("soon") is None and retry_after("nan") is None
    assert retry_after("7") == 7.0 and retry_after("0.5") == 0.5 and retry_after("-3") == 0.0
    date = formatdate(time.time() + 90, usegmt=True)
    assert retry_after(date) == pytest.approx(90, abs=2)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    "status, error, message",
    [
        (400, {"message": "temperature isn't known here"}, r"Set judge\.endpoint\.temperature=null"),
        (
            400,
            {"param": "max_tokens", "message": "no"},
            r"judge\.endpoint\.max_tokens_field=max_completion_tokens ",
        ),
        (422, {"detail": [{"loc": ["body", "max_tokens"]}]}, r"endpoint\.max_tokens_field=max_completion_tokens"),
        (
            400,
            {"message": "max_tokens is too large: 512. This model supports at most 64 completion tokens."},
            r"Lower judge\.endpoint\.max_tokens=512",
        ),
        (400, {"message": "a system text isn't"}, r"endpoint\.temperature=null and .*endpoint\.extra"),
        (400, {"message": "temperature isn't known here"}, "HTTP 400: .*temperature isn't known here"),
        (401, {"message": "who are you"}, "HTTP 401: the key in OPENAI_API_KEY is missing or wrong"),
        (403, {}, "HTTP 403: the key in OPENAI_API_KEY may not use 'toy'"),
        (404, {"message": "model not found"}, "HTTP 404: there is no model 'toy'"),
        (302, {}, "HTTP 302: not understood"),
        (429, {"code": "insufficient_quota"}, "HTTP 429: the account has nothing left to spend"),
    ],
)
def test_ask_refusal_of_all_requests_ends_at_once(tmp_path: Path, status: int, error: Body, message: str) -> None:
    with FaultServer(status=status, error=error) as server:
        with pytest.raises(EndpointError, match=message):
            ask(questions(300), settings(server.url), tmp_path, number)
        assert sum(server.asked.values()) <= 2 * 16
    assert stored(tmp_path) == []


# FastAPI has no envelope: a text, a list of what isn't valid and where, or whatever the server puts there
@pytest.mark.parametrize(
    ("status", "detail", "message"),
    [
        (
            404,
            "Not Found",
            r"HTTP 404: there is no model 'toy', or no such path \(Not Found\); base_url mostly ends with",
        ),
        (401, "Invalid API key", r"HTTP 401: the key in OPENAI_API_KEY is missing or wrong \(Invalid API key\)"),
        (
            422,
            [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "seed"],
                    "msg": "Extra inputs are not permitted",
                    "input": 1,
                },
                {"type": "missing", "loc": ["body", "messages", 0, "name"], "msg": "Field required"},
            ],
            r"\(seed: Extra inputs are not permitted; messages.0.name: Field required\)\. "
            r"Set judge\.endpoint\.seed=null",
        ),
        (400, {"message": "temperature must be 1", "code": 7}, r"\(temperature must be 1\)\. Set .*temperature=null"),
        (400, {"error": {"message": "unknown role", "param": "messages"}}, r"\(unknown role\)\. Fields are left out"),
        (418, "teapot", r"HTTP 418: not understood \(teapot\)"),
    ],
    ids=str,
)
def test_ask_error_in_detail_is_read(tmp_path: Path, status: int, detail: Any, message: str) -> None:
    with FaultServer(status=status, whole={"detail": detail}) as server, pytest.raises(EndpointError, match=message):
        ask(questions(30), settings(server.url, seed=1), tmp_path, number)
    assert sum(server.asked.values()) <= 2 * 16 and stored(tmp_path) == []


def test_ask_request_that_a_filter_refuses_has_that_answer_and_isnt_asked_again(tmp_path: Path) -> None:
    with FaultServer(status=400, error={"code": "content_filter"}) as server:
        answers = ask(questions(3), settings(server.url), tmp_path, number)
        assert ask(questions(3), settings(server.url), tmp_path, number) == answers
        assert sum(server.asked.values()) == 3
    assert {a.reason for a in answers} == {"the endpoint refuses the request (content_filter)"}


# as servers send them: OpenAI, vLLM (two versions), SGLang, TGI, llama.cpp, Ollama, Gemini (in a list), FastAPI
TOO_LONG = [
    (400, {"error": {"code": "context_length_exceeded", "message": "too long"}}),
    (400, {"error": {"code": 400, "message": "This model's maximum context length is 9 tokens."}}),
    (
        400,
        {"object": "error", "message": "The decoder prompt (length 12) is longer than the maximum model length of 9."},
    ),
    (
        400,
        {"object": "error", "message": "The input (12 tokens) is longer than the model's context length (9 tokens)."},
    ),
    (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 9.",
            "error_type": "validation",
        },
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (12 tokens) exceeds the available context size (9 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_ctx": 9,
            }
        },
    ),
    (400, {"error": "the input length exceeds the context length"}),
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (12) exceeds the maximum number of tokens allowed",
                }
            }
        ],
    ),
    (400, {"detail": "The prompt is too long: 12 tokens."}),
    (413, {"detail": "Payload Too Large"}),
    (413, "<html>no JSON</html>"),
]


@pytest.mark.parametrize(("status", "whole"), TOO_LONG, ids=str)
def test_ask_request_that_is_longer_than_the_context_says_so_once_and_can_be_asked_of_a_longer_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, whole: Any
) -> None:
    with FaultServer(status=status, whole=whole) as server:
        paid = settings(server.url, price_in=1.0, price_out=1.0, max_unanswered=1.0)
        answers = ask(questions(3), paid, tmp_path, number)
        assert server.asked == {f"say {i}": 1 for i in range(3)}  # waiting or asking again mends nothing
        assert spent(tmp_path, paid).cost == 0
        remedy = "start the server with a longer context, lower endpoint.max_tokens=512, or leave out long rows"
        assert {a.reason for a in answers} == {
            f"the endpoint refuses the request (context_length_exceeded): {remedy}"  # no numbers: it is counted
        }
        assert f"3 of 3 requests are longer than the context of toy at {server.url}" in caplog.text
        assert ("(it says: " in caplog.text) is not isinstance(whole, str)
        none_allowed = dataclasses.replace(paid, max_unanswered=0.0)  # so that a step isn't finished without them
        with pytest.raises(EndpointError, match=rf"3 of 3 requests have no reply .*{remedy}.*max_unanswered"):
            ask(questions(3), none_allowed, tmp_path, number)
        server.status = None  # started anew with a longer one
        assert [a.value for a in ask(questions(3), none_allowed, tmp_path, number)] == [0, 1, 2]


def test_ask_reply_that_the_servers_context_ends_says_so_and_not_to_raise_max_tokens(tmp_path: Path) -> None:
    with FaultServer(lambda body: {"content": "7 8 and so", "finish_reason": "length"}) as server:  # 7 tokens
        (answer,) = ask(questions(1), settings(server.url, reasks=0), tmp_path, str)
        assert str(answer.reason).startswith("cut short (finish reason length) before max_tokens=512: start the server")
        server.reply = lambda body: "9"
        (again,) = ask(questions(1), settings(server.url, reasks=0), tmp_path, str)
    assert again.value == "9"


def test_ask_endpoint_that_cant_be_reached_ends_early(tmp_path: Path) -> None:
    started = time.monotonic()
    with closed_port() as url, pytest.raises(EndpointError, match=r"127.0.0.1:\d+/v1 can't be reached \(ConnectError"):
        ask(questions(2000), settings(url, backoff_s=0.05), tmp_path, number)
    assert time.monotonic() - started < 5


def test_unreachable_names_each_address_that_takes_no_connection_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    started = time.monotonic()
    with FaultServer(token="another") as server, FaultServer(rate=1.0, kinds=["reset"]) as cut, closed_port() as url:
        assert unreachable([settings(server.url), settings(cut.url)]) == []  # an error says that it is there
        (text,) = unreachable([settings(url), settings(server.url), settings(url, "other")])
        assert not server.asked
    assert text.startswith(f"{url} can't be reached (ConnectError") and "judge=none" in text
    assert time.monotonic() - started < 5 and CANARY not in text


def test_ask_endpoint_that_answers_no_longer_ends_before_all_are_tried(tmp_path: Path) -> None:
    with FaultServer(rate=1.0, kinds=["error", "reset"]) as server:
        with pytest.raises(
            EndpointError, match=r"answers no longer: (1[6-9]|2\d|3[01]) requests in a row have no reply after 3 tries"
        ):
            ask(questions(2000), settings(server.url, retries=2), tmp_path, number)
        assert sum(server.asked.values()) <= 3 * 2 * 16


def test_ask_request_without_a_reply_is_named_and_only_it_is_asked_again(tmp_path: Path) -> None:
    with FaultServer() as server:
        server.fault = lambda key, n: "error" if key == "say 3" and n < 3 else None  # type: ignore[method-assign]
        few = settings(server.url, retries=2)
        with pytest.raises(EndpointError, match=r"1 of 30 requests have no reply \(first: 'k3'; no reply \(HTTP 500\)"):
            ask(questions(30), few, tmp_path, number)
        allowed = ask(questions(30), dataclasses.replace(few, max_unanswered=0.05), tmp_path, number)
    assert [a.value for a in allowed] == list(range(30))
    assert server.asked == {**{f"say {i}": 1 for i in range(30)}, "say 3": 4}


def test_ask_share_without_a_reply_can_be_allowed(tmp_path: Path) -> None:
    with FaultServer() as server:
        server.fault = lambda key, n: "error" if key == "say 3" else None  # type: ignore[method-assign]
        answers = ask(questions(30), settings(server.url, retries=1, max_unanswered=0.05), tmp_path, number)
    assert answers[3] == Answer("k3", None, None, "no reply (HTTP 500)", 0)
    assert [a.value for a in answers if a.key != "k3"] == [i for i in range(30) if i != 3]


PRICES = {"price_in": 2.0, "price_out": 10.0}  # a request: 11 tokens in and 7 out as counted: 92 millionths


def test_estimate_counts_calls_tokens_and_cost() -> None:
    requests = [Request("a", [{"role": "system", "content": "x" * 40}, {"role": "user", "content": "y" * 60}])] * 3
    found = estimate(requests, settings("http://localhost/v1", max_tokens=100, **PRICES))
    assert (found.calls, found.tokens_in, found.tokens_out_at_most) == (3, 3 * (10 + 4 + 15 + 4), 300)
    assert found.cost == pytest.approx((99 * 2 + 300 * 10) / 1e6)
    assert str(found) == "3 calls, about 99 tokens in, at most 300 out, cost at most 0.003198"


def test_ask_estimate_above_the_budget_asks_nothing(tmp_path: Path) -> None:
    with FaultServer() as server:
        paid = settings(server.url, max_tokens=100, max_cost=0.01, **PRICES)
        with pytest.raises(BudgetError, match=r"10 calls.*cost at most 0\.0101,.*above max_cost=0.01"):
            ask(questions(10), paid, tmp_path, number)
        assert not server.asked
        ask(questions(9), paid, tmp_path, number)
        assert sum(server.answered.values()) == 9
        found = spent(tmp_path, paid)
        assert (found.calls, found.tokens_in, found.tokens_out_at_most) == (9, 99, 63)
        assert found.cost == pytest.approx(9 * 92e-6)
        with pytest.raises(BudgetError, match=r"after 0\.000828 spent"):  # what was spent counts
            ask(questions(19), paid, tmp_path, number)


@pytest.mark.parametrize(
    ("changes", "cost"),
    [
        ({}, 12.0),
        ({"prices_of": "toy at https://api.example/v1"}, 12.0),
        ({"prices_of": "toy at https://api.example/v1", "base_url": "https://api.example/v1/"}, 12.0),
        ({"prices_of": "toy at https://api.example/v1", "base_url": "http://localhost:8000/v1"}, 0.0),
        ({"prices_of": "toy at https://api.example/v1", "model": "toy-mini"}, 0.0),
    ],
)
def test_prices_are_those_of_a_model_at_a_server(changes: dict[str, Any], cost: float) -> None:
    endpoint = EndpointConfig(**{"model": "toy", "base_url": "https://api.example/v1", **PRICES, **changes})
    assert endpoint.cost(1e6, 1e6) == cost
    assert plain(endpoint, hashed_only=True) == plain(dataclasses.replace(endpoint, prices_of=None), hashed_only=True)
    # one of one's own charges nothing: a budget holds whatever it answers
    limited = dataclasses.replace(endpoint, max_cost=1.0)
    assert (endpoint_problems("judge", limited) == []) is (cost > 0 or endpoint.local)


def test_ask_spent_budget_ends_with_the_replies_stored(tmp_path: Path) -> None:
    with FaultServer() as server:
        # the estimate of a request, 10 + 10 millionths, is far below what it takes in the end
        paid = settings(server.url, max_tokens=1, concurrency=4, max_cost=100 * 22e-6, **PRICES)
        with pytest.raises(BudgetError, match=r"spent of max_cost=0.0022: 7\d of 100 requests aren't answered"):
            ask(questions(100), paid, tmp_path, number)
        kept = len(stored(tmp_path))
        assert 24 <= kept <= 24 + 4 and kept == sum(server.answered.values())
        rest = ask(questions(100), dataclasses.replace(paid, max_cost=1.0), tmp_path, number)
    assert [answer.value for answer in rest] == list(range(100)) and set(server.answered.values()) == {1}


def test_ask_tokens_that_the_endpoint_doesnt_count_are_estimated(tmp_path: Path) -> None:
    with FaultServer(lambda body: "x" * 40, count_tokens=False) as server:
        ask(questions(1), settings(server.url), tmp_path, str)
    (row,) = stored(tmp_path)
    assert (row["tokens_in"], row["tokens_out"], row["counted"]) == (5, 10, False)


def test_stored_reply_says_what_came_and_when(tmp_path: Path) -> None:
    with FaultServer() as server:
        ask(questions(1), settings(server.url), tmp_path, number)
    (row,) = stored(tmp_path)
    assert (
        len(row.pop("digest")) == 32
        and len(row.pop("checksum")) == 64
        and abs(row.pop("time") - time.time()) < 60
        and 0 < row.pop("seconds") < 10
    )
    assert row == {
        "key": "k0",
        "text": "say 0",
        "finish": "stop",
        "model": "toy",
        "tokens_in": 11,
        "tokens_out": 7,
        "counted": True,
        "refused": False,
        "server": server.url,
    }


def test_ask_without_a_key_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = settings("https://judge.example/v1", api_key_env="JUDGE_KEY")
    for value in (None, "", "  "):
        if value is not None:
            monkeypatch.setenv("JUDGE_KEY", value)
        with pytest.raises(EndpointError, match="the environment variable JUDGE_KEY isn't set"):
            ask(questions(1), far, tmp_path, number)


@pytest.mark.parametrize("trouble", ["none", "wrong", "echo", "error", "cut", "line break"])
def test_key_is_in_no_file_message_log_or_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{CANARY}\nx" if trouble == "line break" else f"{CANARY}\n")
    caplog.set_level(logging.DEBUG)
    more: dict[str, Any] = {
        "none": {"token": CANARY},
        "wrong": {"token": "another"},  # the server repeats what it was given
        "echo": {"reply": lambda body: f"Bearer {CANARY} 3"},
        "error": {"status": 400, "error": {"message": f"bad header: Bearer {CANARY}"}},
        "cut": {"rate": 1.0, "kinds": ["cut", "reset", "hang"]},
        "line break": {},
    }[trouble]
    output, raised, answers = io.StringIO(), "", ""
    with FaultServer(**more) as server, redirect_stdout(output), redirect_stderr(output):
        try:
            answers = repr(ask(questions(4), settings(server.url, retries=1, timeout_s=0.2), tmp_path, number))
        except EndpointError as error:
            whole = traceback.TracebackException.from_exception(error, capture_locals=True)
            frames = [frame for frame in whole.stack if "/icon_repro/" in frame.filename]  # not those of this test
            whole.stack = traceback.StackSummary.from_list(frames)
            raised = "".join(whole.format())
    assert bool(raised) == (trouble not in ("none", "echo")), raised
    assert ("<key>" in answers) == (trouble == "echo")
    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for text in (files, output.getvalue(), caplog.text, raised, answers):
        assert CANARY not in text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"base_url": "api.example/v1"}, "base_url: must be like https://host:port/v1"),
        ({"base_url": f"https://me:{CANARY}@api.example/v1"}, "base_url: must hold no user, password or query"),
        ({"base_url": f"https://api.example/v1?key={CANARY}"}, "base_url: must hold no user, password or query"),
        ({"base_url": "http://host:port/v1"}, "base_url: must be like"),
        ({"api_key_env": CANARY}, "api_key_env: must be the name of an environment variable"),
        ({"extra": {"max_tokens": 9}}, "extra.max_tokens: has a key of its own"),
        ({"max_cost": 1.0}, "max_cost=1: needs price_in and price_out"),
        (
            {
                "max_cost": 1.0,
                **PRICES,
                "prices_of": "toy at http://elsewhere/v1",
                "base_url": "https://api.example/v1",
            },
            "max_cost=1: price_in and price_out are those of toy at http://elsewhere/v1. Set those of toy at https://api",
        ),
    ],
)
def test_endpoint_problems_are_found_without_repeating_a_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (problem,) = endpoint_problems("judge", dataclasses.replace(EndpointConfig("toy"), **changes))
    assert f"judge.{message}" in problem and CANARY not in problem
    with pytest.raises(EndpointError, match=message.replace("(", r"\(")):
        ask(questions(1), dataclasses.replace(EndpointConfig("toy"), **changes), tmp_path, number)


@pytest.mark.parametrize(
    ("asked", "named", "same"),
    [
        ("gpt-4", "gpt-4", True),
        ("gpt-4", "gpt-4-0613", True),
        ("GPT-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4", "gpt-4-0613", True),
        ("claude-x-latest", "claude-x-20241022", True),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M@main", True),
        ("gpt-4", "gpt-4-stub", False),
        ("gpt-4", "gpt-4o", False),
        ("gpt-4", "gpt-4o-2024-08-06", False),
        ("gpt-4", "gpt-4-turbo-2024-04-09", False),
        ("gpt-4-0613", "gpt-4", False),
        ("gpt-4-0613", "gpt-4-0314", False),
        ("org/model", "other/model", False),
    ],
)
def test_dated_names_are_of_the_same_model_and_others_arent(asked: str, named: str, same: bool) -> None:
    assert same_model(asked, named) is same


@pytest.mark.parametrize(
    ("url", "named", "taken"),
    [
        ("http://127.0.0.1:8000/v1", "llama3", True),
        ("http://127.0.0.1:8000/v1", "llama", False),
        ("http://127.0.0.1:8000/v1", "llama3:8b-stub", False),
        ("http://127.0.0.1:8000/v1", "", False),
        ("https://models.example.org/v1", "llama3", False),
    ],
)
def test_a_server_on_this_machine_may_leave_out_the_variant(url: str, named: str, taken: bool) -> None:
    assert is_asked(EndpointConfig("llama3:8b", base_url=url), named) is taken


def test_reply_of_another_model_is_refused_and_not_stored(tmp_path: Path) -> None:
    with FaultServer(named="toy-stub") as server:
        told = r"asked for 'toy', and its reply names 'toy-stub'.*model: toy-stub.*served_as: toy-stub"
        with pytest.raises(EndpointError, match=told):
            ask(questions(3), settings(server.url), tmp_path, number)
        assert stored(tmp_path) == []
        # each remedy works
        by_name = tmp_path / "by_name"
        by_name.mkdir()
        assert [one.value for one in ask(questions(3), settings(server.url, "toy-stub"), by_name, number)] == [0, 1, 2]
        renamed = settings(server.url, served_as="toy-stub")
        assert [one.value for one in ask(questions(3), renamed, tmp_path, number)] == [0, 1, 2]
    assert note_answered_by(tmp_path, renamed) == {"server": server.url, "asked": "toy", "named": {"toy-stub": 3}}
    assert read_json(tmp_path / "answered_by.json") == note_answered_by(tmp_path, renamed)


def test_stored_replies_of_another_model_arent_read(tmp_path: Path) -> None:
    with FaultServer(named="toy-stub") as server:
        ask(questions(2), settings(server.url, served_as="toy-stub"), tmp_path, number)
        server.named = "toy-0613"
        ask(questions(2), settings(server.url), tmp_path, number)
        assert server.answered == {"say 0": 2, "say 1": 2}


def test_a_servers_own_name_keeps_its_replies_when_it_moves(tmp_path: Path) -> None:
    with FaultServer() as first:
        ask(questions(2), settings(first.url, server="mine"), tmp_path, number)
    with FaultServer() as second:
        ask(questions(2), settings(second.url, server="mine"), tmp_path, number)
        assert not second.answered
        ask(questions(2), settings(second.url), tmp_path, number)
        assert sum(second.answered.values()) == 2


def test_settings_that_change_no_reply_arent_hashed() -> None:
    hashed = plain(EndpointConfig("toy"), hashed_only=True)
    # max_unanswered too: raising it, as the message about missing replies says, must find those that are there
    assert sorted(hashed) == ["max_tokens", "model", "reasks", "seed", "temperature"]
    # who answers is; by the name of a server that may move
    elsewhere = plain(EndpointConfig("toy", base_url="http://a/v1/"), hashed_only=True)
    assert elsewhere == {**hashed, "base_url": "http://a/v1"}
    named = plain(EndpointConfig("toy", base_url="http://a/v1", server="mine"), hashed_only=True)
    assert named == {**hashed, "base_url": "mine"}


@pytest.mark.parametrize(
    "url, local",
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.3/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://api.example/v1", False),
        ("http://10.0.0.1/v1", False),
        ("https://localhost.example/v1", False),
    ],
)
def test_endpoint_on_this_machine_needs_no_key(url: str, local: bool) -> None:
    assert EndpointConfig("toy", base_url=url).local is local


def test_overhead_of_a_request_is_below_5_ms(tmp_path: Path) -> None:
    with FaultServer() as server:
        _, found = result(drive(server, tmp_path, 500, 8))
    assert found["right"] and found["cpu_ms"] < 5, found


def test_ask_reply_that_is_cut_is_asked_again_then_counted(tmp_path: Path) -> None:
    def cut(body: Body) -> Any:
        return {"content": "7 8 and so", "finish_reason": "length"}

    with FaultServer(cut) as server:
        (answer,) = ask(questions(1), settings(server.url, reasks=1, max_tokens=7), tmp_path, str)
        (read,) = ask(questions(1), settings(server.url, reasks=1, max_tokens=7), tmp_path, str, cut_is_read=True)
    assert (answer.value, answer.asked) == (None, 2)
    assert answer.reason == "cut short (finish reason length); raise max_tokens=7"
    assert read.value == "7 8 and so"


def test_ask_signs_of_a_chat_template_in_a_text_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["say 1 <|im_end|>", "say 2 [/INST]", "say 3 </s>", "say 4 <b>|x|</b> [INS]", "say 5"]
    asked = [Request(f"k{i}", [{"role": "user", "content": text}]) for i, text in enumerate(texts)]
    with FaultServer(lambda body: "1") as server:
        ask(asked, settings(server.url), tmp_path, number)
    assert "3 of 5 requests hold signs as those of a chat template" in caplog.text


@pytest.mark.parametrize("finish", ["content_filter", "error", "tool_calls", "model_length", "SAFETY", "abort"])
def test_ask_reply_that_something_else_has_ended_is_unread(tmp_path: Path, finish: str) -> None:
    with FaultServer(lambda body: {"content": "7 8 and so", "finish_reason": finish}) as server:
        (answer,) = ask(questions(1), settings(server.url, reasks=1), tmp_path, str)
    assert (answer.value, answer.asked) == (None, 2) and f"(finish reason {finish})" in str(answer.reason)


@pytest.mark.parametrize("finish", [None, "", "stop", "STOP", "eos_token", "end_turn", "COMPLETE"])
def test_ask_reply_that_is_whole_in_the_words_of_any_server_is_read(tmp_path: Path, finish: str | None) -> None:
    with FaultServer(lambda body: {"content": "7 8", "finish_reason": finish}) as server:
        (answer,) = ask(questions(1), settings(server.url), tmp_path, str)
    assert answer.value == "7 8"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "no such user", "code": 401}, "HTTP 401: the key in OPENAI_API_KEY is missing or wrong"),
        ({"message": "pay", "code": "insufficient_quota"}, "nothing left to spend"),
        ({"message": "upstream is busy"}, r"HTTP 200 with an error: upstream is busy"),
    ],
)
def test_ask_error_in_the_place_of_a_reply_says_what_it_is(tmp_path: Path, error: Body, message: str) -> None:
    with (
        FaultServer(status=200, error=error) as server,
        pytest.raises(EndpointError, match=message),
    ):
        ask(questions(1), settings(server.url, retries=1), tmp_path, number)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("http_proxy", "ftp://x"),
        ("SSL_CERT_FILE", "/nowhere"),
        ("NO_PROXY", "[::1"),
    ],
)
def test_proxies_and_certificates_of_no_use_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for other in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    far = settings("http://192.0.2.1/v1", timeout_s=0.1)
    (line,) = unreachable([far])
    assert f"Correct or unset {name}" in line and CANARY not in line
    with pytest.raises(EndpointError, match=f"Correct or unset {name}"):
        ask(questions(1), far, tmp_path, number)


@pytest.mark.parametrize(
    ("content", "read", "reason"),
    [
        ("<think>\n9 2\n</think>\n\n3 8", "3 8", None),
        ("so 9 2\n</think>3 8", "3 8", None),
        ("<chain_of_thought>9 2</chain_of_thought>3 8", "3 8", None),
        ("<|START_THINKING|>9 2<|END_THINKING|>3 8", "3 8", None),
        ("&lt;think&gt;9 2&lt;/think&gt;3 8", "3 8", None),
        ([{"type": "thinking", "thinking": "9 2", "text": "9 2"}, {"type": "text", "text": "3 8"}], "3 8", None),
        ("<think>9 2", None, "the model gave thoughts alone (finish reason stop); raise max_tokens"),
        ([{"type": "thinking", "text": "9 2"}], None, "the model gave no text (finish reason stop)"),
    ],
)
def test_ask_thoughts_are_taken_away_first(tmp_path: Path, content: Any, read: str | None, reason: str | None) -> None:
    said = {"content": content, "reasoning_content": "5 5", "reasoning": "5 5"}
    with FaultServer(lambda body: said) as server:
        (answer,) = ask(questions(1), settings(server.url, reasks=0), tmp_path, str)
    assert (answer.value, answer.reason) == (read, reason)


def test_ask_sends_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    changes = {"temperature": None, "max_tokens_field": TokensField.max_completion_tokens, "extra": {"top_k": 1}}
    with FaultServer() as server:
        ask(questions(1), settings(server.url, **changes), tmp_path, number)
    (body,) = server.bodies
    assert body == {"model": "toy", "messages": body["messages"], "max_completion_tokens": 512, "top_k": 1}


def test_ask_replies_of_another_server_arent_served(tmp_path: Path) -> None:
    with FaultServer(lambda body: "1") as one, FaultServer(lambda body: "2") as other:
        assert [ask(questions(1), settings(s.url), tmp_path, number)[0].value for s in (one, other, one)] == [1, 2, 1]
    assert sum(one.asked.values()) == sum(other.asked.values()) == 1
