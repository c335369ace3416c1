"""Ask OpenAI-compatible chat endpoints: a reply is stored before it is read, and never asked for again.

In: requests, settings, a function that reads a reply, the folder of a resumable step.  Out: answers in the order of the
requests; replies.jsonl in the folder, from which another call asks only for what is missing.
Rate limits, failures of the server, time-outs, cut connections and damaged replies are tried again, after the pause
that the server asks for, or an exponentially growing, seeded one if that is longer. A wrong key, model or request ends
the call at once.
Known gap: ``max_cost`` counts replies; requests under way when it is reached are still paid for, and so are tries whose
reply got lost.
"""

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from icon_repro.data.cost import tokens_of
from icon_repro.engine.console import LOG, say
from icon_repro.lm.answered_by import answered_by, is_asked, write_answered_by
from icon_repro.lm.endpoint_http import Completion, Connection, EndpointError, Fault, Key, connections
from icon_repro.lm.endpoint_refusals import TOO_LONG, longer_context, told_too_long
from icon_repro.lm.options import EndpointConfig, endpoint_problems
from icon_repro.lm.replies import Replies, Reply
from icon_repro.lm.stand_in_endpoint import stand_ins
from icon_repro.lm.thoughts import without_thoughts

T = TypeVar("T")
_MESSAGE_TOKENS = 4  # that a chat template puts around a message, about
# finish reasons, in small letters: of a reply that its limit has cut, and of a whole one; after others (content_filter,
# error, tool_calls) what was said so far is no answer
_CUT = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length", "model_context_window_exceeded")
_WHOLE = ("stop", "stop_sequence", "end_turn", "eos", "eos_token", "end", "complete", "completed", "done", "", "null")
# what templates mark turns with: a server may read it as its own, in a text too
_MARKS = re.compile(r"<\|[A-Za-z][\w ]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos)>")
_CONNECT_TRIES = 3  # while nothing at all has come from the endpoint


class BudgetError(EndpointError):
    """The cost is, or would be, above ``max_cost``. Replies so far are stored."""


@dataclass(frozen=True)
class Request:
    """One question. Keys are unique among the requests of a folder."""

    key: str
    messages: list[dict[str, str]]  # {role, content}


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came of a request."""

    key: str
    reply: str | None  # text of the last reply; None: there was no reply
    value: T | None  # read from the last reply
    reason: str | None  # why there is no value
    asked: int  # replies


@dataclass(frozen=True)
class ExpectedCost:
    """What requests take if none is asked again, before any is sent."""

    calls: int
    tokens_in: int
    tokens_out_at_most: int
    cost: float  # at most

    def __str__(self) -> str:
        text = f"{self.calls:,} calls, about {self.tokens_in:,} tokens in, at most {self.tokens_out_at_most:,} out"
        return f"{text}, cost at most {self.cost:.4g}"


def estimate(requests: Sequence[Request], endpoint: EndpointConfig) -> ExpectedCost:
    """Calls, tokens (from characters) and cost of asking each request once."""
    tokens_in = round(sum(_tokens(request) for request in requests))
    tokens_out = len(requests) * endpoint.max_tokens
    return ExpectedCost(len(requests), tokens_in, tokens_out, endpoint.cost(tokens_in, tokens_out))


def spent(folder: Path, endpoint: EndpointConfig) -> ExpectedCost:
    """What the replies stored in ``folder`` took."""
    replies = Replies(folder / "replies.jsonl")
    replies.close()
    cost = endpoint.cost(replies.tokens_in, replies.tokens_out)
    return ExpectedCost(replies.calls, replies.tokens_in, replies.tokens_out, cost)


def _tokens(request: Request) -> float:
    return sum(tokens_of(len(message["content"])) + _MESSAGE_TOKENS for message in request.messages)


def note_answered_by(folder: Path, endpoint: EndpointConfig) -> dict[str, Any]:
    """Who gave the replies stored in ``folder``, written to a file of it; refusals without a text name nobody."""
    replies = Replies(folder / "replies.jsonl")
    replies.close()
    note = answered_by(endpoint, replies.models)
    write_answered_by(folder, note)
    return note


def _nothing(done: int) -> None:
    pass


def ask(
    requests: Sequence[Request],
    endpoint: EndpointConfig,
    folder: Path,
    parse: Callable[[str], T],
    advance: Callable[[int], None] = _nothing,
    *,
    cut_is_read: bool = False,
) -> list[Answer[T]]:
    """Ask what ``folder`` holds no reply to yet.

    Args:
        folder: of a resumable step; its replies.jsonl is added to.
        parse: reads a reply without its thoughts; raises ValueError for one that can't be read. The request is then
            asked again, up to ``endpoint.reasks`` times, and after that has the error's text as its reason.
        advance: is told how many more requests are done.
        cut_is_read: a reply that ends at ``max_tokens`` counts; else it is one that can't be read.

    Returns:
        An answer for each request, in their order.

    Raises:
        EndpointError: bad settings, key missing or refused, no such model, endpoint that can't be reached, more than
            ``endpoint.max_unanswered`` of the requests without a reply after all tries, or too long for the server.
        BudgetError: the estimate of what is missing, or what was spent, is above ``endpoint.max_cost``.
        RepliesError: the stored replies are damaged.
    """
    if problems := endpoint_problems("endpoint", endpoint):
        raise EndpointError(" ".join(problems))
    if repeated := [key for key, count in Counter(request.key for request in requests).items() if count > 1]:
        raise EndpointError(f"{len(repeated)} keys of requests are there twice (first: {repeated[0]!r}).")
    store = Replies(folder / "replies.jsonl")
    try:
        if store.cut:
            say(f"{store.path.name}: a torn last line of {store.cut} bytes is cut off")
        if marked := sum(any(_MARKS.search(m["content"]) for m in request.messages) for request in requests):
            LOG.warning(
                "%s",
                f"{marked} of {len(requests)} requests hold signs as those of a chat template (<|im_end|>): the server "
                "may read them as its own.",
            )
        asked = [_Asked(request, endpoint, store, parse, cut_is_read=cut_is_read) for request in requests]
        missing = [one for one in asked if one.answer is None]
        advance(len(asked) - len(missing))
        if missing:
            key = Key.read(endpoint)
            expected = estimate([one.request for one in missing], endpoint)
            before = endpoint.cost(store.tokens_in, store.tokens_out)
            say(f"{endpoint.model} at {endpoint.base_url}: {expected}; {store.calls:,} replies are there")
            if endpoint.max_cost is not None and before + expected.cost > endpoint.max_cost:
                raise BudgetError(
                    f"{expected}, after {before:.4g} spent: above max_cost={endpoint.max_cost:g}. Ask for less, lower "
                    "max_tokens, or raise max_cost."
                )
            asyncio.run(_Client(endpoint, store, key, advance).run(missing))
            if said := [one.last for one in missing if one.too_long]:
                LOG.warning("%s", told_too_long(endpoint, said, len(requests)))
            unanswered = [one.answer for one in missing if one.answer is not None and (one.unanswered or one.too_long)]
            if len(unanswered) > endpoint.max_unanswered * len(requests):
                causes = ", ".join(f"{text}: {n}" for text, n in Counter(a.reason for a in unanswered).most_common(5))
                raise EndpointError(
                    f"{len(unanswered)} of {len(requests)} requests have no reply (first: {unanswered[0].key!r}; "
                    f"{causes}). The other replies are stored: run again to ask these alone, or allow a share with "
                    "max_unanswered."
                )
    finally:
        store.close()
    answers = [one.answer for one in asked]
    assert all(answer is not None for answer in answers)
    return [answer for answer in answers if answer is not None]


class _Asked(Generic[T]):
    """A request, the replies to it, and its answer once it is settled."""

    def __init__(
        self,
        request: Request,
        endpoint: EndpointConfig,
        store: Replies,
        parse: Callable[[str], T],
        *,
        cut_is_read: bool,
    ) -> None:
        self.request, self._endpoint, self._parse, self._cut_is_read = request, endpoint, parse, cut_is_read
        sent: dict[str, Any] = {
            "model": endpoint.model,
            "messages": request.messages,
            endpoint.max_tokens_field.value: endpoint.max_tokens,
            **endpoint.extra,
        }
        if endpoint.temperature is not None:
            sent["temperature"] = endpoint.temperature
        if endpoint.seed is not None:
            sent["seed"] = endpoint.seed
        self._sent = sent
        self.digest = hashlib.sha256(_json(sent, sort_keys=True)).hexdigest()[:32]
        self.count, self.last = 0, ""
        self.answer: Answer[T] | None = None
        self.unanswered = self.too_long = False
        for reply in store.of(request.key, self.digest, endpoint.server_name):
            # the server may have a longer context by now: what was too long is asked again, once a call
            if self.answer is None and is_asked(endpoint, reply.model) and not self._short_context(reply):
                self.take(reply)

    def _short_context(self, reply: Reply) -> bool:
        """Whether the server's context was too short for the request, or for the reply."""
        if reply.refused:
            return reply.finish == TOO_LONG
        ended = (reply.finish or "").lower() in _CUT and not self._cut_is_read
        return ended and reply.counted and 0 < reply.tokens_out < self._endpoint.max_tokens

    def body(self) -> bytes:
        """What to send next."""
        shift = {"seed": self._sent["seed"] + self.count} if "seed" in self._sent else {}
        return _json({**self._sent, **shift})

    def reply(self, said: Completion, seconds: float) -> Reply:
        """What to store of what was said, after ``seconds``."""
        counted = said.tokens_in is not None and said.tokens_out is not None
        return Reply(
            digest=self.digest,
            key=self.request.key,
            text=said.text,
            finish=said.finish,
            model=said.model,
            tokens_in=round(_tokens(self.request)) if said.tokens_in is None else said.tokens_in,
            tokens_out=round(tokens_of(len(said.text))) if said.tokens_out is None else said.tokens_out,
            counted=counted,
            time=round(time.time(), 3),
            seconds=round(seconds, 3),
            refused=said.refused,
            server=self._endpoint.server_name,
        )

    def take(self, reply: Reply) -> None:
        """Read the next reply; settles the request if it can be read or was the last to be asked for."""
        self.count, self.last = self.count + 1, reply.text
        value, reason = None, None
        finish = "" if reply.finish is None else reply.finish.lower()
        if reply.refused:
            reason = f"the endpoint refuses the request ({reply.finish})"
            reason += f": {longer_context(self._endpoint)}" if reply.finish == TOO_LONG else ""
        elif reply.finish == "refusal":
            reason = "the model refused"
        elif finish not in (*_CUT, *_WHOLE):
            reason = f"the model was stopped (finish reason {reply.finish})"
        elif finish in _CUT and not self._cut_is_read:
            reason = f"cut short (finish reason {reply.finish}); raise max_tokens={self._endpoint.max_tokens}"
            if self._short_context(reply):
                most = f"max_tokens={self._endpoint.max_tokens}"
                reason = f"cut short (finish reason {reply.finish}) before {most}: {longer_context(self._endpoint)}"
        elif not reply.text.strip():
            reason = f"the model gave no text (finish reason {reply.finish})"
        elif not (text := without_thoughts(reply.text)):
            reason = f"the model gave thoughts alone (finish reason {reply.finish}); raise max_tokens"
        else:
            try:
                value = self._parse(text)
            except ValueError as error:
                reason = str(error)
        self.too_long = reply.refused and reply.finish == TOO_LONG
        if reason is None or reply.refused or self.count > self._endpoint.reasks:
            self.answer = Answer(self.request.key, reply.text, value, reason, self.count)

    def give_up(self, reason: str) -> None:
        """Settle the request without a reply that could be read."""
        self.answer = Answer(self.request.key, self.last if self.count else None, None, reason, self.count)
        self.unanswered = True


def _another(endpoint: EndpointConfig, named: str) -> str:
    return (
        f"{endpoint.base_url}: was asked for {endpoint.model!r}, and its reply names {named!r}: what another model "
        f"says isn't taken. Ask for that one (model: {named}), or, if it is another name of the same model, set "
        f"served_as: {named} beside model. The replies so far are stored."
    )


def _json(value: Any, **more: Any) -> bytes:
    # a lone surrogate becomes its JSON escape
    return json.dumps(value, ensure_ascii=False, **more).encode("utf-8", "backslashreplace")


class _Client:
    """Asks all requests of one call, some at a time."""

    def __init__(self, endpoint: EndpointConfig, store: Replies, key: Key, advance: Callable[[int], None]) -> None:
        self._endpoint, self._store, self._key, self._advance = endpoint, store, key, advance
        self._heard = False  # anything at all from the endpoint
        self._given_up = 0  # requests in a row
        self._faults: Counter[str] = Counter()

    async def run(self, missing: list[_Asked[Any]]) -> None:
        queue = iter(missing)
        connect = stand_ins if self._endpoint.stand_in else connections
        opened = connect(self._endpoint, self._key, min(self._endpoint.concurrency, len(missing)))
        workers = [asyncio.create_task(self._work(queue, connection)) for connection in opened]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for worker in workers:
                worker.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
            await self._store.drain()
            for connection in opened:
                await connection.close()
        if self._faults:
            say("tried again: " + ", ".join(f"{w}: {n:,}" for w, n in self._faults.most_common()))
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error
        if left := sum(one.answer is None for one in missing):
            raise BudgetError(
                f"{self._spent():.4g} spent of max_cost={self._endpoint.max_cost:g}: {left} of {len(missing)} requests "
                "aren't answered. The replies are stored: raise max_cost and run again to ask the rest."
            )

    async def _work(self, queue: Iterator[_Asked[Any]], connection: Connection) -> None:
        for one in queue:
            while one.answer is None:
                if self._over_budget():
                    return
                await self._reply(connection, one)
            self._advance(1)

    def _spent(self) -> float:
        return self._endpoint.cost(self._store.tokens_in, self._store.tokens_out)

    def _over_budget(self) -> bool:
        return self._endpoint.max_cost is not None and self._spent() > self._endpoint.max_cost

    async def _reply(self, connection: Connection, one: _Asked[Any]) -> None:
        """Get one reply, store it, read it; or give the request up after all tries."""
        body, tries = one.body(), 0
        while True:
            started = time.monotonic()
            received = await connection.send(body)
            if isinstance(received, Completion):
                if not is_asked(self._endpoint, received.model):
                    raise EndpointError(_another(self._endpoint, str(received.model)))
                reply = one.reply(received, time.monotonic() - started)
                await self._store.add(reply)
                self._heard, self._given_up = True, 0
                one.take(reply)
                return
            tries += 1
            self._faults[received.what] += 1
            self._heard = self._heard or not received.unconnected
            if not self._heard and tries >= min(_CONNECT_TRIES, self._endpoint.retries + 1):
                raise EndpointError(
                    f"{self._endpoint.base_url} can't be reached ({received.what}, {tries} tries). Check base_url, and "
                    "that the server runs. The replies so far are stored."
                )
            if tries > self._endpoint.retries:
                self._give_up(one, f"no reply ({received.what})")
                return
            await asyncio.sleep(self._pause(received, one.digest, tries))

    def _give_up(self, one: _Asked[Any], reason: str) -> None:
        one.give_up(reason)
        self._given_up += 1
        if self._given_up >= max(2, self._endpoint.concurrency):
            raise EndpointError(
                f"{self._endpoint.base_url} answers no longer: {self._given_up} requests in a row have no reply after "
                f"{self._endpoint.retries + 1} tries each (last: {reason}). The replies so far are stored: run again "
                "to ask the rest."
            )

    def _pause(self, fault: Fault, digest: str, tries: int) -> float:
        """Seconds before the next try, after ``tries`` of them."""
        longest = self._endpoint.max_wait_s
        if fault.wait_s is not None and fault.wait_s > longest:
            raise EndpointError(
                f"{self._endpoint.base_url} asks to wait {fault.wait_s:.6g} s ({fault.what}), more than max_wait_s="
                f"{longest:g}. The replies so far are stored: run again later, or raise max_wait_s."
            )
        jitter = random.Random(f"{digest}:{tries}").uniform(0.5, 1.0)
        backoff = min(longest, self._endpoint.backoff_s * 2.0 ** min(tries - 1, 60)) * jitter
        return max(backoff, fault.wait_s or 0.0)  # "Retry-After: 0" would else use up all tries at once
