"""Read why a chat endpoint refuses a request, in the words of the servers in use, and say what mends it.

In: the JSON of an error and its status.  Out: ``Refusal``; whether this request alone is at fault; a remedy.
Shapes: {"error": {message, code, type, param}} (OpenAI, vLLM, llama.cpp), the same without the envelope, or in a list
(Gemini), {"error": "text"} (Ollama, TGI), {"detail": "text"} and {"detail": [{loc, msg}]} (FastAPI).
Known gap: a server that cuts a long prompt without a word (Ollama does) can't be told from one that reads it whole.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icon_repro.data.options import TokensField
from icon_repro.lm.options import EndpointConfig

QUOTA = "insufficient_quota"  # a 429 that no waiting mends
FILTERED, TOO_LONG = "content_filter", "context_length_exceeded"
_WHERE = "judge.served, methods.<name>.endpoint"  # other endpoints of a configuration
# in codes, types and messages of OpenAI, vLLM, SGLang, TGI, llama.cpp, Ollama, Mistral, Anthropic and Gemini
_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum (?:context|model) length|max_model_len|context window"
    r"|(?:available|model's|the) context (?:size|length)|context size (?:has been )?exceeded"
    r"|(?:prompt|input|request) is too (?:long|large)|exceeds the maximum number of tokens"
    r"|inputs?`? (?:tokens )?\+ `?max_new_tokens`? must be|must have less than \d+ tokens",
    re.I,
)
_TOO_MANY = re.compile(r"too large|at most|less than|greater than|exceed|maximum", re.I)
_SHOWN = 200  # characters of what a server says


@dataclass(frozen=True)
class Refusal:
    """What a server says of a request that it doesn't take; empty where it says nothing."""

    code: str = ""
    kind: str = ""
    message: str = ""
    field: str = ""  # of the request, that it is about

    @property
    def short(self) -> str:
        """The message in one line."""
        return " ".join(self.message.split())[:_SHOWN]


def read_refusal(content: Any) -> Refusal:
    """What the JSON of an error says.

    Args:
        content: any JSON value; None where the body was none.
    """
    if isinstance(content, list) and content:
        content = content[0]
    if not isinstance(content, dict):
        return Refusal()
    error = content.get("error")
    error = content if error is None else error  # some servers have no envelope
    if isinstance(error, dict) and error.get("message") is None and error.get("detail") is not None:
        error = {**error, **_details(error["detail"])}
    if isinstance(error, str):
        error = {"message": error, "type": content.get("error_type")}
    if not isinstance(error, dict):
        return Refusal()
    code, kind, message, field = (error.get(name) for name in ("code", "type", "message", "param"))
    text = message if isinstance(message, str) else "" if message is None else str(message)
    return Refusal(_text(code), _text(kind), text, _text(field))


def _details(detail: Any) -> Mapping[str, Any]:
    """FastAPI's ``detail`` as the fields that others send: a text, an object, or a list of what isn't valid."""
    if isinstance(detail, str):
        return {"message": detail}
    if isinstance(detail, dict):
        return detail["error"] if isinstance(detail.get("error"), dict) else detail
    found = [one for one in detail if isinstance(one, dict)] if isinstance(detail, list) else []
    places = [[str(part) for part in one.get("loc") or () if part != "body"] for one in found]
    texts = [
        ": ".join([".".join(at), _text(one.get("msg"))]).strip(": ") for at, one in zip(places, found, strict=True)
    ]
    return {"message": "; ".join(texts), "param": next((place[0] for place in places if place), None)}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def refused_for(status: int, refusal: Refusal) -> str:
    """Why this request is refused where others may pass: ``FILTERED`` or ``TOO_LONG``; else empty."""
    if status not in (400, 413, 422):
        return ""
    if FILTERED in (refusal.code, refusal.kind) or FILTERED in refusal.message:
        return FILTERED
    return TOO_LONG if status == 413 or too_long(refusal) else ""


def too_long(refusal: Refusal) -> bool:
    """Whether the request, or its reply, is longer than the server's context."""
    return any(map(_LONG.search, (refusal.code, refusal.kind, refusal.message)))


def longer_context(endpoint: EndpointConfig) -> str:
    """What mends a request that is longer than the server's context."""
    lower = f"lower endpoint.max_tokens={endpoint.max_tokens}"
    return f"start the server with a longer context, {lower}, or leave out long rows"


def told_too_long(endpoint: EndpointConfig, said: Sequence[str], of: int) -> str:
    """A line on requests of ``of`` that were too long; ``said`` of each by the server."""
    first = f" (it says: {said[0]})" if said[0] else ""
    where = f"the context of {endpoint.model} at {endpoint.base_url}{first}"
    return f"{len(said)} of {of} requests are longer than {where} and have no reply: {longer_context(endpoint)}."


def explain(endpoint: EndpointConfig, status: int, refusal: Refusal) -> str:
    """A refusal that concerns all requests, with the key that mends it."""
    said = f" ({refusal.short})" if refusal.short else ""
    remedy = {
        400: f"the request isn't what it takes{said}. {_remedy(endpoint, refusal)}",
        422: f"the request isn't what it takes{said}. {_remedy(endpoint, refusal)}",
        401: f"the key in {endpoint.api_key_env} is missing or wrong{said}. Set the environment variable.",
        403: f"the key in {endpoint.api_key_env} may not use {endpoint.model!r}{said}.",
        404: f"there is no model {endpoint.model!r}, or no such path{said}; base_url mostly ends with /v1.",
        405: f"there is no such path{said}; base_url mostly ends with /v1.",
        429: f"the account has nothing left to spend{said}.",
    }
    return f"HTTP {status}: {remedy.get(status, f'not understood{said}.')}"


def _remedy(endpoint: EndpointConfig, refusal: Refusal) -> str:
    """Which key of the endpoint's settings mends a request that isn't taken."""
    about = refusal.field or refusal.message
    name = endpoint.max_tokens_field.value
    other = next(one.value for one in TokensField if one.value != name)
    if re.search(rf"\b{name}\b", about):
        if _TOO_MANY.search(refusal.message):
            return (
                f"Lower judge.endpoint.max_tokens={endpoint.max_tokens} (or of the endpoint that is asked: {_WHERE})."
            )
        return f"Set judge.endpoint.max_tokens_field={other} (or of the endpoint that is asked: {_WHERE})."
    if "temperature" in about and endpoint.temperature is not None:
        return f"Set judge.endpoint.temperature=null: it is then not sent (or of: {_WHERE})."
    if re.search(r"\bseed\b", about) and endpoint.seed is not None:
        return f"Set judge.endpoint.seed=null: it is then not sent (or of: {_WHERE})."
    for field in endpoint.extra:
        if field in about:
            return f"Remove {field!r} from endpoint.extra, or give it another value."
    return (
        "Fields are left out with endpoint.temperature=null and endpoint.seed=null, renamed with "
        "endpoint.max_tokens_field, and added with endpoint.extra."
    )
