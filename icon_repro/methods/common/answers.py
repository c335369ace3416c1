"""Compute mean NLLs of a pool's responses, a shard of rows at a time: for perplexity, IFD and Superfiltering.

In: model, maybe as a train step tuned it, rows.  Out: <part>.npy for each part asked for, (rows,) float64, nats per
token, NaN where a row has none; ids.json with the ids and, of rows that aren't scored, the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.prompts import PROMPTS
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.tokens import Encoded, bos_ids, joint_ids, readable, text_ids
from icon_repro.methods.common.options import AnswerPart, AnswersConfig, AnswersShard, LongRows, Tokenise
from icon_repro.methods.common.shards import read_shards, write_shard


@dataclass(frozen=True)
class Answers:
    """NLLs of all rows, joined by id; rows without a value have a reason."""

    ids: list[str]
    parts: dict[AnswerPart, NDArray[np.float64]]  # (rows,), NaN where there is a reason
    reasons: dict[str, str]


def _after(tokenizer: Any, start: list[int], before: str, answer: str, how: Tokenise) -> Encoded:
    """``answer`` after ``start`` and ``before``; without either, its first token can't be scored."""
    if how is Tokenise.joint:
        ids, place = joint_ids(tokenizer, before, answer)
    else:
        ids = text_ids(tokenizer, before)[0]
        place = len(ids)
        ids = ids + text_ids(tokenizer, answer)[0]
    return Encoded(start + ids, max(1, len(start) + place))


def _cut(item: Encoded, limit: int) -> Encoded:
    """The first ``limit`` tokens; without an answer token if there is none among them."""
    ids = item.ids[: max(0, limit)]
    return Encoded(ids, min(item.answer_start, len(ids)), len(item.ids) - len(ids))


def encoded(row: Example, cfg: AnswersConfig, tokenizer: Any) -> dict[AnswerPart, Encoded] | str:
    """The texts of a row as ids; or why it isn't scored. Unless ``long_rows`` cuts, only a prompt alone is cut."""
    start = bos_ids(tokenizer)
    text = PROMPTS[cfg.template](row)
    prompt, answer = text_ids(tokenizer, text)[0], text_ids(tokenizer, row.response)[0]
    if not answer:
        return "response without tokens"
    if not readable(tokenizer, answer) or (text.strip() and not readable(tokenizer, prompt)):
        return "prompt or response that the tokenizer can't read"
    conditioned = _after(tokenizer, start, text, row.response, cfg.tokenise)
    direct = _after(tokenizer, start, cfg.direct, row.response, cfg.tokenise)
    alone = start + prompt
    if cfg.parts != [AnswerPart.prompt]:
        if cfg.long_rows is LongRows.drop and len(conditioned.ids) > cfg.max_length:
            return f"longer than {cfg.max_length} tokens"
        if cfg.long_rows is LongRows.cut:
            left = cfg.max_length - len(alone)
            room = direct.answer_start if cfg.direct_room is None else cfg.direct_room
            conditioned, direct = _cut(conditioned, cfg.max_length), _cut(direct, left + room)
            if left < 1 or not conditioned.answer_tokens:
                return f"prompt of {cfg.max_length} tokens or more"
            if direct.answer_tokens > left:  # Cherry_LLM's code leaves the row out: its constant fits Llama's tokenizer
                return f"its response alone takes more than what the prompt leaves of {cfg.max_length} tokens"
    by_part = {
        AnswerPart.conditioned: conditioned,
        AnswerPart.direct: direct,
        AnswerPart.whole: Encoded(conditioned.ids, 1, conditioned.cut),
        AnswerPart.prompt: Encoded(alone[: cfg.max_length], 1, max(0, len(alone) - cfg.max_length)),
    }
    wanted = {part: by_part[part] for part in cfg.parts}
    if any(item.answer_tokens < 1 for item in wanted.values()):
        return "no token can be scored: a single token with nothing before it"
    return wanted


def shard(cfg: AnswersShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score rows ``start`` to ``stop``.

    Needs inputs["model"], inputs["candidates"]; may have inputs["tuned"], a train step.
    """
    from icon_repro.lm.load import load_tokenizer, open_model
    from icon_repro.lm.mean_nll import mean_nll_alone

    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    tokens = parameters = cut = 0
    reasons: dict[str, str] = {}
    nlls = {part: np.full(len(rows), np.nan) for part in cfg.answers.parts}
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        texts = [encoded(row, cfg.answers, tokenizer) for row in rows]
        reasons = {row.id: item for row, item in zip(rows, texts, strict=True) if isinstance(item, str)}
        cut = sum(any(text.cut for text in item.values()) for item in texts if not isinstance(item, str))
        model, budget = open_model(inputs["model"], cfg.answers.dtype, runtime, inputs.get("tuned"))
        parameters = model.num_parameters()
        pad = tokenizer.pad_token_id
        assert isinstance(pad, int)
        with runtime.progress(len(rows) * len(nlls), "row") as progress:
            for part, values in nlls.items():
                items = [None if isinstance(item, str) else item[part] for item in texts]
                values[:] = mean_nll_alone(model, pad, items, budget, progress)
            tokens = progress.tokens
    numbers = {part.value: values for part, values in nlls.items()}
    return {**write_shard(out, numbers, rows, reasons, tokens, parameters), "rows_cut": cut}


def joined(inputs: Mapping[str, Path], parts: Sequence[AnswerPart], prefix: str = "shard") -> Answers:
    """All shards (inputs named ``<prefix>-NNNN``) as one.

    Raises:
        ShardError: a row is in two shards, or a shard's numbers don't fit its ids.
    """
    ids: list[str] = []
    reasons: dict[str, str] = {}
    values: dict[AnswerPart, NDArray[np.float64]] = {}
    for part in parts:
        shards = list(read_shards(inputs, prefix, part.value))
        ids = [identifier for shard in shards for identifier in shard.ids]
        reasons = {identifier: reason for shard in shards for identifier, reason in shard.reasons.items()}
        values[part] = np.concatenate([shard.numbers for shard in shards]) if shards else np.empty(0)
    return Answers(ids, values, reasons)


def scored(answers: Answers, score: Callable[[int], Score | str]) -> tuple[list[Score], dict[str, str]]:
    """Scores of the rows that have NLLs, and why the others have none.

    Args:
        score: of the row at a place, or why it has none.
    """
    scores, reasons = list[Score](), dict(answers.reasons)
    for place, identifier in enumerate(answers.ids):
        if identifier not in answers.reasons:
            outcome = score(place)
            if isinstance(outcome, str):
                reasons[identifier] = outcome
            else:
                scores.append(outcome)
    return scores, reasons
