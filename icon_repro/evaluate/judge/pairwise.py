"""Judge the answers of two models to the same prompts, A's and B's, each pair in both orders.

In: prompts, answers of A and of B.  Out: verdicts.jsonl (``outcomes.Verdict``), failures.jsonl {id, reason}, metrics.
Judges: ``endpoint`` here, a chat model behind an OpenAI-compatible server; ``evaluate.judge.local`` and
``evaluate.judge.likelihood``.
A prompt that a model has no answer to, or an order without a readable reply, is a failure: no verdict, never a tie.
``pooled`` counts the verdicts of several sets as one.
Known gap: none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge.answers import Failure, ModelAnswer
from icon_repro.evaluate.judge.comparison import Verdict, outcome, summary
from icon_repro.evaluate.judge.options import EndpointJudge, PooledSets
from icon_repro.evaluate.judge.protocols import FORMS, messages
from icon_repro.lm.answered_by import joined, write_answered_by
from icon_repro.lm.endpoint import Request, ask, note_answered_by

FORWARD, BACKWARD = "forward", "backward"  # A's answer is shown first, B's is


class JudgeError(ValueError):
    """The answers can't be compared."""


@dataclass(frozen=True)
class Pair:
    """A prompt with the answers of A and B."""

    id: str
    row: Example
    a: str
    b: str

    @property
    def question(self) -> str:
        return f"{self.row.instruction}\n\n{self.row.input}".strip()

    def shown(self, order: str) -> tuple[str, str]:
        """Both answers in this order."""
        return (self.a, self.b) if order == FORWARD else (self.b, self.a)


@dataclass(frozen=True)
class Opinion:
    """What a judge said of a pair in one order: points of the answers shown first and second, or why there are none."""

    points: tuple[float, float] | None
    reason: str = ""
    parts: Mapping[str, float] | None = None


def pairs(inputs: Mapping[str, Path]) -> tuple[list[Pair], list[Failure]]:
    """Prompts that both models have answered, and those that one has recorded a failure for.

    Raises:
        JudgeError: a model has neither an answer nor a failure for a prompt, or answers to others; names the model.
    """
    rows = {row.id: row for row in read_rows(inputs["prompts"] / "rows.jsonl", Example)}
    answers, failures = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    for side in ("a", "b"):
        folder = inputs[side]
        answers[side] = {row.id: row.answer for row in read_rows(folder / "answers.jsonl", ModelAnswer)}
        failures[side] = {row.id: row.reason for row in read_rows(folder / "failures.jsonl", Failure)}
        known = answers[side].keys() | failures[side].keys()
        if missing := sorted(rows.keys() - known):
            raise JudgeError(
                f"model {side.upper()} ({folder.name}) has no answer to {len(missing)} of {len(rows)} prompts (first: "
                f"{missing[0]!r}). Delete that folder and run again, so that both models answer the same prompts."
            )
        if unknown := sorted(known - rows.keys()):
            raise JudgeError(
                f"model {side.upper()} ({folder.name}) has answers to {len(unknown)} prompts that aren't in the set "
                f"(first: {unknown[0]!r}). Delete that folder and run again."
            )
    answered, failed = [], []
    for name, row in sorted(rows.items()):
        reasons = [f"no answer of {s.upper()}: {failures[s][name]}" for s in ("a", "b") if name in failures[s]]
        if reasons:
            failed.append(Failure(name, "; ".join(reasons)))
        else:
            answered.append(Pair(name, row, answers["a"][name], answers["b"][name]))
    return answered, failed


def endpoint(cfg: EndpointJudge, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Ask a judge behind a server. Needs inputs prompts, a, b; replies.jsonl in ``out`` has every reply."""
    compared, failed = pairs(inputs)
    requests = [
        Request(f"{pair.id}:{order}", messages(cfg.protocol, pair.question, *pair.shown(order)))
        for pair in compared
        for order in (FORWARD, BACKWARD)
    ]
    with runtime.progress(len(requests), "reply") as progress:
        replies = ask(requests, cfg.endpoint, out, FORMS[cfg.protocol].parse, progress.advance)
    said = {answer.key: Opinion(answer.value, str(answer.reason)) for answer in replies}
    metrics = conclude(out, compared, failed, lambda pair, order: said[f"{pair.id}:{order}"])
    asked = sum(answer.asked for answer in replies)
    return {**metrics, "answered_by": note_answered_by(out, cfg.endpoint), "asked": asked, "tokens": 0, "flops": 0}


def pooled(cfg: PooledSets, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """All verdicts of the inputs (one a set) as one comparison; ids get their set's name before them."""
    verdicts, failures = list[Verdict](), list[Failure]()
    for name in sorted(inputs):
        read = read_rows(inputs[name] / "verdicts.jsonl", Verdict)
        verdicts += [replace(verdict, id=f"{name}:{verdict.id}") for verdict in read]
        failed = read_rows(inputs[name] / "failures.jsonl", Failure)
        failures += [replace(failure, id=f"{name}:{failure.id}") for failure in failed]
    whose = joined(inputs[name] for name in sorted(inputs))
    if whose is not None:
        write_answered_by(out, whose)
    known = {} if whose is None else {"answered_by": whose}
    return {**_write(out, verdicts, failures, ordered=cfg.ordered), **known, "tokens": 0, "flops": 0}


def conclude(
    out: Path,
    compared: Sequence[Pair],
    failed: Sequence[Failure],
    said: Callable[[Pair, str], Opinion],
    *,
    ordered: bool = True,
) -> dict[str, Any]:
    """Verdicts from what was said in both orders: written to ``out``, and in numbers.

    Args:
        failed: prompts that weren't judged.
        said: of a pair in an order.
        ordered: whether the judge saw an order.

    Raises:
        JudgeError: no verdict at all.
    """
    verdicts, failures = list[Verdict](), list(failed)
    for pair in compared:
        both = {order: said(pair, order) for order in (FORWARD, BACKWARD)}
        points = {order: one.points for order, one in both.items() if one.points is not None}
        if len(points) < len(both):
            reasons = {order: one.reason for order, one in both.items() if one.points is None}
            texts = [f"{order}: {text}" if ordered else text for order, text in reasons.items()]
            failures.append(Failure(pair.id, "; ".join(dict.fromkeys(texts))))
            continue
        parts = {f"{order}_{key}": value for order, one in both.items() for key, value in (one.parts or {}).items()}
        forward, backward = list(points[FORWARD]), list(points[BACKWARD])[::-1]
        lengths = [len(pair.a), len(pair.b)]
        verdicts.append(Verdict(pair.id, outcome(forward, backward), forward, backward, lengths, parts))
    return _write(out, verdicts, failures, ordered=ordered)


def _write(out: Path, verdicts: Sequence[Verdict], failures: Sequence[Failure], *, ordered: bool) -> dict[str, Any]:
    if not verdicts:
        first = f" (first: {failures[0].id!r}: {failures[0].reason})" if failures else ""
        raise JudgeError(f"none of {len(failures)} prompts has a verdict{first}; look at the judge's replies.")
    write_rows(out / "verdicts.jsonl", verdicts)
    write_rows(out / "failures.jsonl", failures)
    return summary(verdicts, len(failures), ordered=ordered)
