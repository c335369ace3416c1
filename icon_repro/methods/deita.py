"""DEITA: complex prompts with good responses, without rows that lie near a better one.

In: two scorers, rows, embeddings of the rows.  Out: shards: ratings.npy, (rows,) float64; scores.jsonl, complexity x
quality of the rows that are kept, both as parts; failures.jsonl names the better row that one was too near to.
Source: Liu et al., arXiv 2312.15685 (DEITA), and its code hkust-nlp/deita@b279f2c: a rating is the mean of 1 to 6 under
the probabilities of these digits right after the question; rows are walked by score, highest first, and kept if no
cosine to a row kept before is above 0.9; a row's vector is the last token's last hidden state.
Differs: digits are looked up in the scorer's own tokenizer, a missing one is refused (the code takes 3.0). The walk
goes over all rows, so that selections of all fractions are nested. Rows are embedded by the model that is tuned, in
tuning's template, unless ``embedding`` names another. A row has one turn: of a longer chat the last response is rated,
the rest is its prompt (the code adds up the turns).
Known gap: not run with the published scorers, which need a hub. All vectors are held in memory.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.options import Dtype, ModelConfig
from icon_repro.data.prompts import Template, complexity_question, quality_question, request
from icon_repro.data.rows import Example, Score, best_first
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number
from icon_repro.lm.tokens import bos_ids, readable, text_ids
from icon_repro.methods.base import Build, Method
from icon_repro.methods.common.embeddings import joined
from icon_repro.methods.common.options import EmbeddedText, EmbeddingConfig, PoolingKind
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.common.shards import finite_numbers, write_shard

_DIGITS = "123456"
_BLOCK = 1024  # rows whose cosines are computed at once
_KEPT_BLOCK = 8192  # kept rows in one matrix product
_TOO_NEAR = "too near to a better row"


_QUESTION_TOKENS = 35  # around a row in the questions, about


@dataclass
class DeitaConfig:
    """DEITA (arXiv 2312.15685): complexity times quality by two scorers, without rows too near to a better one."""

    kind: str = "deita"
    complexity: ModelConfig = field(kw_only=True)  # scorer of the prompt
    quality: ModelConfig = field(kw_only=True)  # scorer of prompt and response
    embedding: ModelConfig | None = None  # None: the model that is tuned; the paper takes Mistral-7B
    threshold: float = number(0.9, at_least=-1, at_most=1)  # largest cosine to a better row that is kept
    template: Template = Template.alpaca  # of the embedded text
    max_length: int = number(2048, at_least=8)  # tokens; longer questions aren't scored, longer embedded texts are cut
    dtype: Dtype = Dtype.float32  # of the weights
    shard_rows: int = number(512, at_least=1)


class DeitaQuestion(enum.Enum):
    complexity = "complexity"  # of the prompt
    quality = "quality"  # of the response to it


@dataclass
class DeitaShard:
    """One scorer's ratings of rows ``start`` to ``stop`` (exclusive)."""

    question: DeitaQuestion
    max_length: int
    dtype: Dtype
    start: int
    stop: int | None


@dataclass
class DeitaFilter:
    """Rows by score, without those too near to a better one."""

    threshold: float


_QUESTIONS = {DeitaQuestion.complexity: complexity_question, DeitaQuestion.quality: quality_question}


class DeitaError(ValueError):
    """Shards don't belong together."""


def plan(build: Build, name: str, options: DeitaConfig) -> Step:
    """Embeddings and both scorers' ratings, then the scores of rows that aren't too near to a better one."""
    embedding = EmbeddingConfig(
        EmbeddedText.row, PoolingKind.last, options.template, max_length=options.max_length, dtype=options.dtype
    )
    inputs = build.embeddings(embedding, options.shard_rows, options.embedding, f"methods.{name}.embedding")
    scorers = {
        DeitaQuestion.complexity: (options.complexity, build.prompt_tokens),
        DeitaQuestion.quality: (options.quality, build.row_tokens),
    }
    for question, (config, row_tokens) in scorers.items():
        model = build.planner.model(config, f"methods.{name}.{question.value}")

        def params(first: int, stop: int | None, question: DeitaQuestion = question) -> DeitaShard:
            return DeitaShard(question, options.max_length, options.dtype, first, stop)

        inputs |= build.parts(
            shard,
            name,
            options.shard_rows,
            params,
            {"model": model, "candidates": build.universe},
            min(row_tokens + _QUESTION_TOKENS, options.max_length),
            label=question.value,
            model=config,
        )
    return build.step(run, name, DeitaFilter(options.threshold), inputs)


def expected_rating(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean rating.

    Args:
        probabilities: (..., 6), of the digits 1 to 6; need not sum to 1.

    Returns:
        (...), from 1 to 6.
    """
    levels = np.arange(1, probabilities.shape[-1] + 1)
    return np.asarray((probabilities @ levels) / probabilities.sum(axis=-1))


def walk(vectors: NDArray[np.float32], threshold: float) -> tuple[list[int], dict[int, tuple[int, float]], int]:
    """Keep each row whose cosines to all rows kept before are at most ``threshold``.

    Args:
        vectors: (rows, size), each of length 1, the best row first.

    Returns:
        Numbers of the rows kept; of each other row the nearest kept before it, with the cosine; how many cosines were
        computed.
    """
    kept: list[int] = []
    removed: dict[int, tuple[int, float]] = {}
    cosines = 0
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        nearest = np.full(len(block), -1)
        largest = np.full(len(block), -np.inf, np.float32)
        for first in range(0, len(kept), _KEPT_BLOCK):
            numbers = np.array(kept[first : first + _KEPT_BLOCK])
            _update(nearest, largest, block @ vectors[numbers].T, numbers)
            cosines += len(block) * len(numbers)
        among = block @ block.T
        cosines += among.size
        for i in range(len(block)):
            if largest[i] > threshold:
                removed[start + i] = (int(nearest[i]), float(largest[i]))
                continue
            kept.append(start + i)
            _update(nearest[i + 1 :], largest[i + 1 :], among[i + 1 :, [i]], np.array([start + i]))
    return kept, removed, cosines


def _update(
    nearest: NDArray[np.int64],
    largest: NDArray[np.float32],
    cosines: NDArray[np.float32],
    numbers: NDArray[np.int64],
) -> None:
    """Note in place which of the rows ``numbers`` (columns) lies nearest; of equal ones the first stays."""
    best = cosines.argmax(axis=1)
    cosine = np.minimum(cosines[np.arange(len(cosines)), best], np.float32(1))  # rounding gives a bit more for a copy
    nearer = cosine > largest
    nearest[nearer], largest[nearer] = numbers[best[nearer]], cosine[nearer]


def shard(cfg: DeitaShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ratings.npy of rows ``start`` to ``stop``. Needs inputs["model"], a scorer, and inputs["candidates"]."""
    from icon_repro.lm.load import load_tokenizer, open_model
    from icon_repro.methods.common.digits import digit_ids, digit_probabilities

    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    ratings = np.full(len(rows), np.nan)
    reasons, tokens, parameters = dict[str, str](), 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        digits, start = digit_ids(tokenizer, _DIGITS), bos_ids(tokenizer)
        model, budget = open_model(inputs["model"], cfg.dtype, runtime)
        parameters = model.num_parameters()
        texts = [start + text_ids(tokenizer, _QUESTIONS[cfg.question](row))[0] for row in rows]
        for row, ids in zip(rows, texts, strict=True):
            asked = [request(row), *([row.response] if cfg.question is DeitaQuestion.quality else [])]
            if len(ids) > cfg.max_length:
                reasons[row.id] = f"{cfg.question.value}: longer than {cfg.max_length} tokens"
            elif any(text.strip() and not readable(tokenizer, text_ids(tokenizer, text)[0]) for text in asked):
                reasons[row.id] = f"{cfg.question.value}: text that the tokenizer can't read"
        present = [i for i, row in enumerate(rows) if row.id not in reasons]
        with runtime.progress(len(present), "row") as progress:
            probabilities = digit_probabilities(model, [texts[i] for i in present], digits, budget, progress)
            tokens = progress.tokens
        ratings[present] = expected_rating(probabilities)
    return write_shard(out, {"ratings": ratings}, rows, reasons, tokens, parameters)


def run(cfg: DeitaFilter, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs named shard-, complexity- and quality-NNNN."""
    ids, vectors, reasons = joined(inputs, "shard")
    ratings = dict[DeitaQuestion, dict[str, float]]()
    for question in DeitaQuestion:
        rated, failed = finite_numbers(inputs, question.value, "ratings", f"{question.value}: rating isn't finite")
        if other := {*ids, *reasons} ^ {*rated, *failed}:
            raise DeitaError(
                f"{len(other)} rows have either a vector or a rating of {question.value}, not both (first: "
                f"{min(other)!r}); delete the shards and run again."
            )
        reasons |= failed
        ratings[question] = {i: float(value) for i, value in rated.items() if i not in reasons}
    complexity, quality = ratings[DeitaQuestion.complexity], ratings[DeitaQuestion.quality]
    scored = {i: complexity[i] * quality[i] for i in ids if i not in reasons}
    order = best_first(scored)
    place = {identifier: number for number, identifier in enumerate(ids)}
    kept, removed, cosines = walk(vectors[[place[i] for i in order]], cfg.threshold)
    details = {order[i]: f"cosine {cosine:.4f} to {order[other]}" for i, (other, cosine) in removed.items()}
    reasons |= dict.fromkeys(details, _TOO_NEAR)
    parts = {i: {"complexity": complexity[i], "quality": quality[i]} for i in scored}
    scores = [Score(order[i], scored[order[i]], parts[order[i]]) for i in kept]
    outcome = write_scores(out, scores, reasons, details)
    return {**outcome, "tokens": 0, "flops": 2.0 * vectors.shape[1] * cosines}


METHOD = Method(DeitaConfig, plan, "rated complexity times rated quality; rows too near to a better one have no score")
