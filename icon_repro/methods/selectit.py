"""SelectIT: how sure the model is when it rates a row from 1 to 5, over several wordings of the question.

In: model, rows.  Out: shards: ratings.npy, (rows, prompts) float64; scores.jsonl, mean / (1 + alpha x spread); both as
parts.
Source: Liu et al., arXiv 2402.16705 (SelectIT), and its code: probabilities of the five digits at the next position,
scaled to sum 1 and softened by a second softmax; a prompt's rating is the likeliest digit times the mean distance of
its probability from the others'; alpha 0.2.
Differs: the wording of the questions is ours: ``questions`` names a file with others, such as the released ones.
Labels and line breaks around a row are ours too (``layout``); wording and layout decide the ranking
(experiments/fidelity). Rows longer than max_length aren't rated. ``compat=published`` sets the last two. Digits are
looked up in the model's own tokenizer, and one that splits a digit is refused. The published code mixes models of
three sizes; here the model that is tuned rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.options import Dtype
from icon_repro.data.planner import PlanError
from icon_repro.data.prompts import request
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number, unhashed
from icon_repro.lm.tokens import bos_ids, text_ids
from icon_repro.methods.base import Build, Method
from icon_repro.methods.common.options import Baseline, filled
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.common.questions import QUESTIONS, QuestionsError, read_questions
from icon_repro.methods.common.shards import finite_numbers, write_shard

_DIGITS = "12345"
_QUESTION_TOKENS = 30  # about


@dataclass
class SelectitConfig:
    """SelectIT (arXiv 2402.16705): the model rates each row from 1 to 5 under five wordings of the question.

    ``compat`` sets the options after it that are left null. Wording and layout decide the ranking, and the published
    wording isn't part of this project: ``questions`` names a file with it.
    """

    kind: str = "selectit"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    layout: Baseline | None = field(default=None, metadata={"legacy": Baseline.ours})  # of question, row and answer
    max_length: int | None = number(None, at_least=0)  # tokens; longer rows aren't rated; 0: no limit. Ours: 2048
    questions: str | None = unhashed(None)  # a file of five lines; None: ours. Hashed by content
    alpha: float = number(0.2, at_least=0)  # weight of the spread over the wordings
    dtype: Dtype = Dtype.float32  # of the weights
    shard_rows: int = number(512, at_least=1)


@dataclass
class SelectitShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    selectit: SelectitConfig
    start: int
    stop: int | None


def as_compat_says(options: SelectitConfig) -> SelectitConfig:
    """``options`` with every option that ``compat`` decides filled in."""
    published = options.compat is Baseline.published
    layout = Baseline.published if published else Baseline.ours
    return filled(options, layout=layout, max_length=0 if published else 2048)


def plan(build: Build, name: str, options: SelectitConfig) -> Step:
    """Ratings in parts, then the scores."""
    options, files = as_compat_says(options), {}
    if options.questions is not None:
        files["questions"] = build.planner.file(f"methods.{name}.questions", options.questions)
        try:
            read_questions(Path(options.questions).expanduser())
        except QuestionsError as error:
            raise PlanError(f"methods.{name}.questions: {error}") from error
    used = replace(options, alpha=0.0, shard_rows=1)  # alpha is used by the scores only
    parts = build.parts(
        shard,
        name,
        options.shard_rows,
        lambda first, stop: SelectitShard(used, first, stop),
        {"model": build.model, "candidates": build.universe},
        len(QUESTIONS) * (build.row_tokens + _QUESTION_TOKENS),
        files=files,
    )
    return build.step(run, name, as_compat_says(SelectitConfig(alpha=options.alpha)), parts)


def rating(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """A prompt's rating from the probabilities of the digits.

    Args:
        probabilities: (..., 5), of the digits 1 to 5; need not sum to 1.

    Returns:
        (...), between 0 and 5.
    """
    scaled = probabilities / probabilities.sum(axis=-1, keepdims=True)
    soft = np.exp(scaled)
    soft /= soft.sum(axis=-1, keepdims=True)
    best = soft.argmax(axis=-1)
    highest = soft.max(axis=-1, keepdims=True)
    return np.asarray((best + 1) * (highest - soft).sum(axis=-1) / (soft.shape[-1] - 1))


def prompt(row: Example, question: str, layout: Baseline | None = Baseline.ours) -> str:
    """The text that ends where a digit is expected."""
    if layout is Baseline.published:
        return f"{question}\n\nInstruction:{request(row)}\nResponse:{row.response}\nThe answer is: \n"
    return f"{question}\nInstruction: {request(row)}\nResponse: {row.response}\nThe answer is:\n"


def shard(cfg: SelectitShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ratings.npy of rows ``start`` to ``stop``. Needs inputs["model"], inputs["candidates"]."""
    from icon_repro.lm.load import load_tokenizer, open_model
    from icon_repro.methods.common.digits import digit_ids, digit_probabilities

    selectit = cfg.selectit
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    questions = read_questions(runtime.files["questions"]) if "questions" in runtime.files else QUESTIONS
    ratings = np.full((len(rows), len(questions)), np.nan)
    reasons, tokens, parameters = dict[str, str](), 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        digits, start = digit_ids(tokenizer, _DIGITS), bos_ids(tokenizer)
        model, budget = open_model(inputs["model"], selectit.dtype, runtime)
        parameters = model.num_parameters()
        texts = [[start + text_ids(tokenizer, prompt(row, q, selectit.layout))[0] for q in questions] for row in rows]
        reasons = {
            row.id: f"longer than {selectit.max_length} tokens"
            for row, ids in zip(rows, texts, strict=True)
            if selectit.max_length and max(map(len, ids)) > selectit.max_length
        }
        rated = [i for i, row in enumerate(rows) if row.id not in reasons]
        with runtime.progress(len(rated) * len(questions), "rating") as progress:
            flat = [ids for i in rated for ids in texts[i]]
            probabilities = digit_probabilities(model, flat, digits, budget, progress)
            tokens = progress.tokens
        ratings[rated] = rating(probabilities).reshape(len(rated), len(questions))
    return write_shard(out, {"ratings": ratings}, rows, reasons, tokens, parameters)


def run(cfg: SelectitConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs named part-NNNN."""
    ratings, reasons = finite_numbers(inputs, "part", "ratings", "rating isn't finite")
    scores = []
    for identifier, values in ratings.items():
        mean, spread = float(values.mean()), float(values.std())
        score = mean / (1 + cfg.alpha * spread)
        scores.append(Score(identifier, score, {"rating": mean, "spread": spread}))
    return {**write_scores(out, scores, reasons), "tokens": 0, "flops": 0}


METHOD = Method(SelectitConfig, plan, "the model's own rating of the row, lowered by how much it varies over wordings")
