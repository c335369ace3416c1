"""Write one model's greedy answers to a set of prompts; or take those of a server, or of a reference.

In: prompts (rows.jsonl); model and maybe a train step (``run``), an endpoint (``served``), or nothing more
(``reference``: the rows' own responses).  Out: answers.jsonl {id, answer, tokens, stop}, failures.jsonl {id, reason}.
The prompt is that of tuning, as bare text; a server gets instruction and input as a user's message. ``stop`` is eos or
length (cut at ``max_new_tokens``); of a server it isn't known, and a reference has none.
Finished batches lie in parts/ of the unfinished folder, so that another attempt does only what is missing.
Known gap: none.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from icon_repro.data.cost import forward_flops
from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.console import say
from icon_repro.engine.records import RecordError, read_rows, read_sealed, write_rows, write_sealed
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge.options import GenerationConfig, ReferenceAnswers, ServedAnswers
from icon_repro.lm.endpoint import Request, ask, note_answered_by
from icon_repro.lm.generate import Continuation, greedy
from icon_repro.lm.load import load_tokenizer, load_tuned, positions_of, prepare_device
from icon_repro.lm.tokens import bos_ids, text_ids

UNKNOWN, STORED = "unknown", "stored"  # how an answer ends that isn't ours


class AnswersError(ValueError):
    """No prompt can be answered."""


@dataclass(frozen=True)
class ModelAnswer:
    """One answer; ``tokens`` without an end token, None where another tokenizer made them."""

    id: str
    answer: str
    tokens: int | None
    stop: str


@dataclass(frozen=True)
class Failure:
    """A prompt without an answer, or without a verdict, and why."""

    id: str
    reason: str


def run(cfg: GenerationConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Answer. Needs inputs["model"], inputs["prompts"]; inputs["tuned"] is a train step."""
    rows = read_rows(inputs["prompts"] / "rows.jsonl", Example)
    tokenizer = load_tokenizer(inputs["model"])
    start = bos_ids(tokenizer)
    prompts = {row.id: start + text_ids(tokenizer, alpaca_prompt(row))[0] for row in rows}
    cluster = runtime.cluster
    model = load_tuned(inputs["model"], inputs.get("tuned"), cfg.dtype, prepare_device(cluster), cluster.attention)
    room = min(cfg.max_length, positions_of(model) or cfg.max_length) - cfg.max_new_tokens
    failures = [
        Failure(name, f"the prompt has {len(ids)} tokens; with {cfg.max_new_tokens} more, {room} fit")
        for name, ids in prompts.items()
        if len(ids) > room
    ]
    names = [name for name, ids in prompts.items() if len(ids) <= room]
    known = _finished(out / "parts")
    with runtime.progress(len(names), "answer") as progress:
        progress.advance(sum(name in known for name in names))

        def done(batch: Mapping[int, Continuation]) -> None:
            fresh = []
            for index, found in batch.items():
                text = str(tokenizer.decode(found.ids, skip_special_tokens=True))
                fresh.append(ModelAnswer(names[index], text, len(found.ids), found.stop))
            _keep(out / "parts", fresh)
            known.update({answer.id: answer for answer in fresh})
            progress.advance(len(fresh), sum(len(prompts[a.id]) + (a.tokens or 0) for a in fresh))

        # batches are made of all prompts, finished or not, so that a prompt has the same neighbours in every attempt
        greedy(
            model,
            tokenizer,
            [prompts[name] for name in names],
            cfg.max_new_tokens,
            cluster.eval_batch_size,
            done,
            skip=lambda index: names[index] in known,
        )
    answers = [known[name] for name in names]
    metrics = write_answers(out, answers, failures)
    shutil.rmtree(out / "parts", ignore_errors=True)
    tokens = sum(len(prompts[answer.id]) + (answer.tokens or 0) for answer in answers)
    return {**metrics, "tokens": tokens, "flops": forward_flops(model.num_parameters(), tokens)}


def served(cfg: ServedAnswers, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Ask a server for answers. Needs inputs["prompts"]."""
    rows = read_rows(inputs["prompts"] / "rows.jsonl", Example)
    requests = [
        Request(row.id, [{"role": "user", "content": f"{row.instruction}\n\n{row.input}".strip()}]) for row in rows
    ]
    with runtime.progress(len(requests), "answer") as progress:
        replies = ask(requests, cfg.endpoint, out, str, progress.advance, cut_is_read=True)  # as ours is
    answers = [ModelAnswer(a.key, a.value, None, UNKNOWN) for a in replies if a.value is not None]
    failures = [Failure(a.key, str(a.reason)) for a in replies if a.value is None]
    asked = sum(answer.asked for answer in replies)
    whose = note_answered_by(out, cfg.endpoint)
    return {**write_answers(out, answers, failures), "answered_by": whose, "asked": asked, "tokens": 0, "flops": 0}


def reference(cfg: ReferenceAnswers, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Take the rows' own responses. Needs inputs["prompts"]."""
    rows = read_rows(inputs["prompts"] / "rows.jsonl", Example)
    answers = [ModelAnswer(row.id, row.response, None, STORED) for row in rows]
    return {**write_answers(out, answers, []), "tokens": 0, "flops": 0}


def write_answers(out: Path, answers: Sequence[ModelAnswer], failures: Sequence[Failure]) -> dict[str, Any]:
    """Write answers.jsonl and failures.jsonl, by id; returns what they hold in numbers.

    Raises:
        AnswersError: there is no answer.
    """
    if not answers:
        first = f" (first: {failures[0].id!r}: {failures[0].reason})" if failures else ""
        raise AnswersError(f"none of {len(failures)} prompts has an answer{first}.")
    write_rows(out / "answers.jsonl", sorted(answers, key=lambda answer: answer.id))
    write_rows(out / "failures.jsonl", sorted(failures, key=lambda failure: failure.id))
    return {
        "answers": len(answers),
        "failed": len(failures),
        "empty": sum(not answer.answer.strip() for answer in answers),
        "stops": dict(Counter(answer.stop for answer in answers)),
        "answer_chars": round(fmean(len(answer.answer) for answer in answers), 1),
    }


def _keep(folder: Path, answers: Sequence[ModelAnswer]) -> None:
    """Store a finished batch durably, under a name of its own."""
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256("\n".join(answer.id for answer in answers).encode()).hexdigest()[:16]
    write_sealed(folder / f"{name}.json", [asdict(answer) for answer in answers])


def _finished(folder: Path) -> dict[str, ModelAnswer]:
    """Answers that earlier attempts have stored; a damaged file is named, and its prompts are answered again."""
    stored: dict[str, ModelAnswer] = {}
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            stored |= {row["id"]: ModelAnswer(**row) for row in read_sealed(file)}
        except RecordError as error:
            say(f"{error} Its prompts are answered again.")
    return stored
