"""Make one request to a chat endpoint: it gives a reply, a fault that may pass, or an error that will not.

In: settings, the key from the environment, what to send.  Out: ``Completion`` or ``Fault``.
The key is put into the request's header and nowhere else, and taken out of all texts that leave this module.
"""

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from icon_repro.lm.endpoint_refusals import QUOTA, TOO_LONG, explain, read_refusal, refused_for, too_long
from icon_repro.lm.options import EndpointConfig

_CONNECT_S = 10.0
_TRIED_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})


class EndpointError(RuntimeError):
    """The endpoint can't be used, or left too many requests without a reply. Replies so far are stored."""


@dataclass(frozen=True)
class Completion:
    """A reply, with the tokens that the endpoint counted."""

    text: str  # of a refused request what the endpoint says of it
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
        refusal = read_refusal(content)
        if status == 200:  # of some servers, errors of those behind them
            code = refusal.code
            status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 429 if code == QUOTA else 200
            if status == 200:
                said = refusal.short or code
                return Fault(f"HTTP 200 with an error: {said}" if said else "damaged reply")
        if status in _TRIED_AGAIN and refusal.code != QUOTA:
            said = ": the server's context is full" if too_long(refusal) else ""  # of all its slots together
            return Fault(f"HTTP {status}{said}", retry_after(response.headers.get("Retry-After")))
        if why := refused_for(status, refusal):
            return Completion(refusal.short, why, None, 0 if why == TOO_LONG else None, 0, refused=True)
        raise EndpointError(
            f"{self._endpoint.base_url}: {explain(self._endpoint, status, refusal)} The replies so far are stored."
        )

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
