"""A local server that speaks the OpenAI chat protocol and fails as told; it counts what it was asked and answered.

A request is known by the content of its last message, or as ``key`` says. Which tries fail, and how, depends on the
seed, the request and how often it was asked before, not on the order of arrival.
"""

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# faults of the line: no reply arrives, and the client has to try again
LINE_FAULTS = (
    "limit",  # 429
    "limit_wait",  # 429 with Retry-After in seconds
    "limit_date",  # 429 with Retry-After as a date
    "error",  # 500
    "unavailable",  # 503 with a body that isn't JSON
    "hang",  # nothing is sent until long after the client's patience
    "cut",  # the connection ends in the middle of the body
    "reset",  # the connection ends before any answer
    "cut_json",  # a whole response whose body is half a JSON value
    "no_body",  # 200 with an empty body
    "error_as_200",  # an error's JSON with status 200
)
# replies without use: they arrive and cost money
REPLY_FAULTS = ("empty", "null", "refusal", "babble")
BABBLE = "As an assistant I would rather talk about the weather."
Body = dict[str, Any]


def last_content(body: Body) -> str:
    return str(body["messages"][-1]["content"])


class FaultServer:
    """Use as a context manager.

    Args:
        reply: text for a request, or a whole ``message`` object.
        rate: share of the tries that fail.
        kinds: faults, drawn evenly.
        status: answer every request with this status and ``error``, or with ``whole`` as the body, if given.
        hang_s: how long a hanging request is held.
        wait: Retry-After of kind limit_wait.
        token: the key that requests must bear, if given.
        count_tokens: replies have ``usage``.
        named: the model that replies name; None: the one that is asked.
    """

    def __init__(
        self,
        reply: Callable[[Body], str | Body] = last_content,
        *,
        rate: float = 0.0,
        kinds: Sequence[str] = LINE_FAULTS,
        seed: int = 0,
        key: Callable[[Body], str] = last_content,
        status: int | None = None,
        error: Body | None = None,
        whole: Any = None,
        headers: dict[str, str] | None = None,
        hang_s: float = 5.0,
        delay_s: float = 0.0,
        wait: str = "0",
        token: str | None = None,
        named: str | None = None,
        count_tokens: bool = True,
    ) -> None:
        self.reply, self.rate, self.kinds, self.seed, self.key = reply, rate, kinds, seed, key
        self.status, self.headers = status, headers or {}
        self.whole = {"error": error or {}} if whole is None else whole
        self.hang_s, self.delay_s, self.wait, self.token = hang_s, delay_s, wait, token
        self.count_tokens, self.named = count_tokens, named
        self.asked: Counter[str] = Counter()  # tries, by key
        self.answered: Counter[str] = Counter()  # replies sent to the end, by key
        self.faults: Counter[str] = Counter()  # by kind
        self.bodies: list[Body] = []
        self.arrivals: list[tuple[str, float]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, key: str, time_asked: int) -> str | None:
        """How the ``time_asked``-th try of a request fails, from 0; None if it doesn't."""
        draw = random.Random(ascii((self.seed, key, time_asked)))
        return draw.choice(list(self.kinds)) if draw.random() < self.rate else None

    def hold(self) -> None:
        self._closing.wait(self.hang_s)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False


def response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP response, to be sent at once: in two parts it would wait for the client's acknowledgement."""
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def completion(message: Body, body: Body, count_tokens: bool, named: str | None = None) -> bytes:
    message = dict(message)
    finish = message.pop("finish_reason", "stop")
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    made: Body = {
        "id": "chat-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": named or body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
    }
    return json.dumps({**made, "usage": usage} if count_tokens else made).encode()


def _handler(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                key = server.key(body)
                kind = server.fault(key, server.asked[key])
                server.asked[key] += 1
                server.bodies.append(body)
                server.arrivals.append((key, time.monotonic()))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                if kind is not None:
                    server.faults[kind] += 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.answer(key, kind, body)
            with server.lock:
                server.at_once -= 1

        def answer(self, key: str, kind: str | None, body: Body) -> None:
            if server.delay_s:
                time.sleep(server.delay_s)
            if self.path != "/v1/chat/completions":
                self.send(response(404, b'{"error": {"message": "no such path"}}'))
            elif server.token is not None and self.headers["Authorization"] != f"Bearer {server.token}":
                given = self.headers["Authorization"]  # some servers repeat what they were given
                self.send(response(401, json.dumps({"error": {"message": f"wrong key: {given}"}}).encode()))
            elif server.status is not None:
                body = server.whole if isinstance(server.whole, str) else json.dumps(server.whole)
                self.send(response(server.status, body.encode(), server.headers))
            elif kind in LINE_FAULTS:
                self.fail(kind, body)
            else:
                said = server.reply(body)
                message = said if isinstance(said, dict) else {"content": said}
                if kind is not None:
                    message = {
                        "empty": {"content": ""},
                        "null": {"content": None},
                        "refusal": {"content": None, "refusal": "I can't help with that."},
                        "babble": {"content": BABBLE},
                    }[kind]
                with server.lock:  # before it is sent: a client that has it may be gone before the next line
                    server.answered[key] += 1
                self.send(response(200, completion(message, body, server.count_tokens, server.named)))

        def fail(self, kind: str, body: Body) -> None:
            whole = completion({"content": "a reply that doesn't arrive"}, body, True)
            date = {"Retry-After": formatdate(time.time(), usegmt=True)}
            made = {
                "limit": response(429, b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'),
                "limit_wait": response(429, b"{}", {"Retry-After": server.wait}),
                "limit_date": response(429, b"{}", date),
                "error": response(500, b'{"error": {"message": "oops"}}'),
                "unavailable": response(503, b"<html>busy</html>"),
                "cut": response(200, whole)[:-40],
                "cut_json": response(200, whole[:-40]),
                "no_body": response(200, b""),
                "error_as_200": response(200, b'{"error": {"message": "upstream failed", "code": 502}}'),
                "hang": b"",
                "reset": b"",
            }[kind]
            if kind == "hang":
                server.hold()
            if made:
                self.send(made)
            if kind in ("cut", "reset", "hang"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def send(self, data: bytes) -> None:
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """The URL of a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
