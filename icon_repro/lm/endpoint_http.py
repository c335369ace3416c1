"""Make one request to a chat endpoint: it gives a reply, a fault that may pass, or an error that will not.

In: settings, the key from the environment, what to send.  Out: ``Completion`` or ``Fault``.
The key is put into the request's header and nowhere else, and taken out of all texts that leave this module.
"""

import asyncio
import contextlib
import json
import os
import re
import ssl
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from icon_repro.data.options import TokensField
from icon_repro.lm.options import EndpointConfig

_WHERE = "judge.served, methods.<name>.endpoint"  # other endpoints of a configuration
_CONNECT_S = 10.0
_TRIED_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
_QUOTA = "insufficient_quota"  # a 429 that no waiting mends
# of status 400, 413 and 422: this request is at fault, others may pass
_REFUSED = {
    "content_filter": "content_filter",
    "context_length_exceeded": "context_length_exceeded",
    "maximum context length": "context_length_exceeded",  # in the message of servers that send no code
}


class EndpointError(RuntimeError):
    """The endpoint can't be used, or left too many requests without a reply. Replies so far are stored."""


@dataclass(frozen=True)
class Completion:
    """A reply, with the tokens that the endpoint counted."""

    text: str
    finish: str | None  # "refusal": the text is one
    model: str | None
    tokens_in: int | None = None
    tokens_out: int | None = None
    refused: bool = False  # the request isn't accepted, and won't be


@dataclass(frozen=True)
class Fault:
    """A try that gave nothing, and may be repeated."""

    what: str
    wait_s: float | None = None  # as the server asks
    unconnected: bool = False


class Key(httpx.Auth):
    """Adds the key to each request, and takes it out of texts; printing one shows nothing of it."""

    def __init__(self, key: str) -> None:
        self._value = key

    @classmethod
    def read(cls, endpoint: EndpointConfig) -> "Key":
        """The key in the environment.

        Raises:
            EndpointError: there is none, and the endpoint isn't on this machine; or it can't be one.
        """
        name = endpoint.api_key_env
        key = cls(os.environ.get(name, "").strip())  # no local variable holds it: tracebacks may show them
        if not key._value and not endpoint.local:
            raise EndpointError(f"the environment variable {name} isn't set: {endpoint.base_url} needs a key.")
        if not all("!" <= character <= "~" for character in key._value):
            raise EndpointError(f"the environment variable {name} holds characters that no key has; set it anew.")
        return key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._value:
            request.headers["Authorization"] = f"Bearer {self._value}"
        yield request

    def redact(self, data: bytes) -> bytes:
        return data.replace(self._value.encode(), b"<key>") if self._value else data


class Connection:
    """A connection that carries one request at a time.

    A client of its own: one that many share looks through all of its connections at every request.
    """

    def __init__(self, endpoint: EndpointConfig, key: Key, tls: ssl.SSLContext) -> None:
        self._endpoint, self._key, self._tls = endpoint, key, tls
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._client = self._made()

    def _made(self) -> httpx.AsyncClient:
        endpoint = self._endpoint
        with _network_named(endpoint):
            return httpx.AsyncClient(
                auth=self._key,
                verify=self._tls,
                limits=httpx.Limits(max_connections=1),
                timeout=httpx.Timeout(endpoint.timeout_s, connect=min(_CONNECT_S, endpoint.timeout_s)),
                trust_env=not endpoint.local,  # proxies
            )

    async def close(self) -> None:
        await self._client.aclose()

    async def _renew(self) -> None:
        """Take another client: one whose request was given up may hold its only place for good."""
        old, self._client = self._client, self._made()
        with contextlib.suppress(Exception):  # it may be in any state
            await old.aclose()

    async def send(self, body: bytes) -> Completion | Fault:
        """Send ``body`` once.

        Raises:
            EndpointError: the endpoint refuses in a way that concerns all requests.
        """
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                response = await self._client.post(
                    self._url, content=body, headers={"Content-Type": "application/json"}
                )
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            await self._renew()
            return Fault("time-out")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            await self._renew()
            return Fault(f"{type(error).__name__}{f': {error}' if str(error) else ''}", unconnected=True)
        except httpx.RequestError:
            await self._renew()
            return Fault("connection cut")
        try:
            content = json.loads(self._key.redact(response.content))  # a server may repeat what it was given
        except (ValueError, RecursionError):
            content = None
        status = response.status_code
        if status == 200 and (isinstance(content, dict) and content.get("choices")):
            return self._read(content)
        code, message, field = _error(content)
        if status == 200:  # of some servers, errors of those behind them
            status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 429 if code == _QUOTA else 200
            if status == 200:
                said = " ".join(message.split())[:100] or code
                return Fault(f"HTTP 200 with an error: {said}" if said else "damaged reply")
        if status in _TRIED_AGAIN and code != _QUOTA:
            return Fault(f"HTTP {status}", retry_after(response.headers.get("Retry-After")))
        if status in (400, 413, 422):
            for sign, name in _REFUSED.items():
                if sign == code or sign in message:
                    return Completion("", name, None, refused=True)
        raise EndpointError(self._explain(status, code, message, field))

    def _read(self, content: Any) -> Completion | Fault:
        """The reply in the JSON of a response with status 200."""
        try:
            choice = content["choices"][0]
            text, finish = _content(choice["message"].get("content")), choice.get("finish_reason")
            refusal, usage = choice["message"].get("refusal"), content.get("usage")
        except (TypeError, KeyError, IndexError, AttributeError):
            return Fault("damaged reply")
        if not isinstance(text, str | None):
            return Fault("damaged reply")
        if not text and isinstance(refusal, str) and refusal:
            text, finish = refusal, "refusal"
        model = content.get("model")
        return Completion(
            text or "",
            finish if isinstance(finish, str) else None,
            model if isinstance(model, str) else None,
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )

    def _remedy(self, about: str) -> str:
        """Which key of the endpoint's settings mends a request that isn't taken.

        Args:
            about: the field that the server names, or its whole message.
        """
        name = self._endpoint.max_tokens_field.value
        other = next(one.value for one in TokensField if one.value != name)
        if re.search(rf"\b{name}\b", about):
            return f"Set judge.endpoint.max_tokens_field={other} (or of the endpoint that is asked: {_WHERE})."
        if "temperature" in about and self._endpoint.temperature is not None:
            return f"Set judge.endpoint.temperature=null: it is then not sent (or of: {_WHERE})."
        if re.search(r"\bseed\b", about) and self._endpoint.seed is not None:
            return f"Set judge.endpoint.seed=null: it is then not sent (or of: {_WHERE})."
        for field in self._endpoint.extra:
            if field in about:
                return f"Remove {field!r} from endpoint.extra, or give it another value."
        return (
            "Fields are left out with endpoint.temperature=null and endpoint.seed=null, renamed with "
            "endpoint.max_tokens_field, and added with endpoint.extra."
        )

    def _explain(self, status: int, code: str, message: str, field: str) -> str:
        endpoint = self._endpoint
        said = " ".join(message.split())[:300]
        remedy = {
            400: f"the request isn't what it takes ({said}). {self._remedy(field or message)}",
            422: f"the request isn't what it takes ({said}). {self._remedy(field or message)}",
            401: f"the key in {endpoint.api_key_env} is missing or wrong. Set the environment variable.",
            403: f"the key in {endpoint.api_key_env} may not use {endpoint.model!r}.",
            404: f"there is no model {endpoint.model!r}, or no such path; base_url mostly ends with /v1.",
            429: "the account has nothing left to spend.",
        }
        text = remedy.get(status, f"not understood ({said}).")
        return f"{endpoint.base_url}: HTTP {status}: {text} The replies so far are stored."


def _content(content: Any) -> Any:
    """A message's text: a string, or a list of parts, of which those that aren't text (thoughts) are left out."""
    if not isinstance(content, list):
        return content
    texts = [part if isinstance(part, str) else part.get("text") for part in content if _is_text(part)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in (None, "text", "output_text"))


@contextlib.contextmanager
def _network_named(endpoint: EndpointConfig) -> Iterator[None]:
    """Have an error in making a client name the variables that proxies and certificates are set by."""
    try:
        yield
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        read = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
        names = ", ".join(name for name in os.environ if name.upper() in read)
        raise EndpointError(
            f"{endpoint.base_url}: what the environment says of proxies and certificates can't be used ({error}). "
            f"Correct or unset {names}."
        ) from error


def unreachable(endpoints: Iterable[EndpointConfig]) -> list[str]:
    """A line for each of ``endpoints`` that takes no connection; sends no key, and nothing that costs.

    Any answer, an error too, or a connection that is cut says that somebody is there.
    """
    reason_of_url: dict[str, str | None] = {}
    for endpoint in endpoints:
        if not endpoint.stand_in and endpoint.base_url not in reason_of_url:
            reason_of_url[endpoint.base_url] = _no_connection(endpoint)
    return [
        f"{url} can't be reached ({why}). Check base_url, and that the server runs; or leave out what asks it until "
        "then (judge=none, ~methods.alpagasus): what is finished is kept."
        for url, why in reason_of_url.items()
        if why is not None
    ]


def _no_connection(endpoint: EndpointConfig) -> str | None:
    why = None
    try:
        with _network_named(endpoint):
            opened = httpx.Client(timeout=min(_CONNECT_S, endpoint.timeout_s), trust_env=not endpoint.local)
    except EndpointError as error:
        return str(error).removeprefix(f"{endpoint.base_url}: ")
    with opened as client:
        for _ in range(2):
            try:
                client.get(endpoint.base_url.rstrip("/") + "/models")
                return None
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                why = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
            except httpx.RequestError:
                return None
    return why


def connections(endpoint: EndpointConfig, key: Key, count: int) -> list[Connection]:
    """``count`` connections, to be closed by the caller."""
    with _network_named(endpoint):
        tls = httpx.create_ssl_context()  # slow to make: one for all
    return [Connection(endpoint, key, tls) for _ in range(count)]


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def _error(content: Any) -> tuple[str, str, str]:
    """Code and message of an error's JSON, and the field of the request that it is about; empty where there is none."""
    error = content.get("error") if isinstance(content, dict) else None
    if error is None and isinstance(content, dict):
        error = content  # some servers have no envelope
    if isinstance(error, str):
        return "", error, ""
    if not isinstance(error, dict):
        return "", "", ""
    message = error.get("message") or error.get("detail") or ""
    text = message if isinstance(message, str) else json.dumps(message)
    return str(error.get("code") or ""), text, str(error.get("param") or "")


def retry_after(value: str | None) -> float | None:
    """Seconds to wait from a Retry-After header: a number, or an HTTP date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None
