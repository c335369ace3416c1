"""The steps of every method but ICon: rows that all methods rank, to scores.

A step of NLLs bears no method's name: methods that need the same share it.
"""

from dataclasses import replace
from typing import Any

from icon_repro.config import AnswerPart, AnswersConfig, AnswersShard, IfdConfig, ModelConfig, PerplexityConfig
from icon_repro.cost import forward_flops
from icon_repro.engine.artifact import Cost, Step
from icon_repro.engine.planner import Planner

_PASSES = {AnswerPart.conditioned: 1.0, AnswerPart.direct: 0.8, AnswerPart.whole: 1.0}  # of a row's tokens, about


def method_scores(
    planner: Planner, name: str, method: Any, model: Step, universe: Step, row_tokens: float, *, whole: bool
) -> Step:
    """The step with the scores of ``method``.

    Args:
        universe: the rows that all methods rank.
        row_tokens: as many as the plan expects of each row.
        whole: the rows are the pool, not the candidates.
    """
    if not isinstance(method, (PerplexityConfig, IfdConfig)):
        return planner.step(method.kind, "score", name, method, inputs={"candidates": universe})
    scorer, config = model, planner.config.model
    if isinstance(method, PerplexityConfig):
        answers = AnswersConfig([method.text], method.template, "", method.max_length, method.dtype)
    else:
        parts = [AnswerPart.conditioned, AnswerPart.direct]
        answers = AnswersConfig(parts, method.template, method.direct, method.max_length, method.dtype)
        if method.proxy is not None:
            scorer, config = planner.model(method.proxy), method.proxy
    shards = _answers(planner, answers, config, scorer, universe, row_tokens, method.shard_rows, whole=whole)
    own = replace(method, shard_rows=type(method)().shard_rows)
    if isinstance(own, IfdConfig):
        own = replace(own, proxy=None)
    return planner.step(method.kind, "score", name, own, inputs=shards)


def _answers(
    planner: Planner,
    answers: AnswersConfig,
    model: ModelConfig,
    scorer: Step,
    universe: Step,
    row_tokens: float,
    size: int,
    *,
    whole: bool,
) -> dict[str, Step]:
    """Shards of NLLs over all rows."""
    passes = sum(_PASSES[part] for part in answers.parts)
    made = {}
    for number, (first, end, stop) in enumerate(planner.slices(size, whole)):
        tokens = (end - first) * min(row_tokens, answers.max_length) * passes
        made[f"shard-{number:04d}"] = planner.step(
            "answers",
            "score",
            f"answers-{model.name}-{'-'.join(part.value for part in answers.parts)}-{number:04d}",
            AnswersShard(answers, first, stop),
            inputs={"model": scorer, "candidates": universe},
            cost=Cost(tokens, forward_flops(model.parameters, tokens)),
        )
    return made
