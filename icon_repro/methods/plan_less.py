"""The steps of LESS: warm-up, gradients of rows and targets after each of its epochs, scores.

In: a LessConfig.  Out: the step with the scores.
What a step doesn't use is set to a fixed value before it is hashed: another value of it leaves the step as it is.
"""

from dataclasses import dataclass, replace
from typing import Any

from icon_repro.data.cost import tokens_of, training_flops
from icon_repro.data.options import RowFormat
from icon_repro.engine.artifact import Cost, Step
from icon_repro.methods.base import Shards
from icon_repro.methods.less_notes import notes
from icon_repro.methods.options import (
    AdamFormula,
    Direction,
    LessConfig,
    LessExact,
    LessMeans,
    LessProducts,
    LessProjection,
    LessShard,
    RandomConfig,
    SelectConfig,
    ShotMean,
    TargetTemplate,
    less_resolved,
)
from icon_repro.train.options import TrainConfig, TrainJob, Tuning


def less_scores(shards: Shards, assessment: Step, name: str, method: LessConfig) -> Step:
    """The step with the scores of LESS; ``assessment`` holds the targets unless the method names others."""
    method = less_resolved(method)
    data = shards.planner.config.data
    if (data.selected_from if shards.whole else data.pool).source.format is RowFormat.prompt_response:
        method = replace(method, target_template=TargetTemplate.as_is)  # as tuning takes the rows
    warmup = _warmup(shards, name, method)
    pool = _pool(shards, method)
    targets = _targets(shards, assessment, name, method)
    shards.planner.notes += notes(f"methods.{name}", method, shards.planner.config)
    if method.projection is LessProjection.exact:
        return _exact(shards, name, method, warmup, targets, pool)
    return _projected(shards, name, method, warmup, targets, pool)


def _warmup(shards: Shards, name: str, method: LessConfig) -> Step:
    """The training whose epochs gradients are taken after."""
    planner, parameters = shards.planner, shards.planner.config.model.parameters
    ranked = planner.step(
        "random",
        "score",
        f"{name}-warmup",
        RandomConfig(seed=method.warmup_seed),
        inputs={"candidates": shards.universe},
    )
    chosen = planner.step(
        "select",
        "select",
        f"{name}-warmup",
        SelectConfig(method.warmup_fraction),
        inputs={"scores": ranked, "universe": shards.universe},
    )
    training = TrainConfig(
        Tuning.lora,
        method.learning_rate,
        epochs=float(method.epochs),
        global_batch_size=method.global_batch_size,
        max_length=method.max_length,
        dtype=method.dtype,
        lora=method.lora,
        keep_epochs=True,
    )
    length = min(shards.row_tokens, method.max_length)
    tokens = planner.expected(shards.whole) * method.warmup_fraction * length * method.epochs
    return planner.step(
        "train",
        "score",
        f"{name}-warmup-training",
        TrainJob(training, method.warmup_seed),
        inputs={"model": shards.model, "candidates": shards.universe, "ids": chosen},
        cost=Cost(tokens, training_flops(parameters, tokens, frozen=True)),
        resumable=True,
    )


@dataclass(frozen=True)
class _Part:
    """Rows that one step reads after each epoch."""

    label: str
    rows: Step
    tokens: float
    start: int = 0
    stop: int | None = None


def _targets(shards: Shards, assessment: Step, name: str, method: LessConfig) -> list[_Part]:
    planner, parts = shards.planner, []
    for task, rows in (method.targets or {"": planner.config.data.assessment}).items():
        row = min(tokens_of(rows.expected_prompt_chars + rows.expected_response_chars), method.max_length)
        count = min(rows.sample or rows.expected_rows, rows.expected_rows) * row
        where = f"methods.{name}.targets.{task}"
        step = planner.rows(where, f"{name}-target-{task}", rows) if task else assessment
        parts.append(_Part(f"target-{task}" if task else "assessment", step, count))
    return parts


def _pool(shards: Shards, method: LessConfig) -> list[_Part]:
    length = min(shards.row_tokens, method.max_length)
    return [
        _Part(f"shard-{number:04d}", shards.universe, (end - first) * length, first, stop)
        for number, (first, end, stop) in enumerate(shards.planner.slices(method.shard_rows, shards.whole))
    ]


def _own(method: LessConfig) -> LessConfig:
    """What steps on rows of the pool use; the rest is set to fixed values, or is in the warm-up's fingerprint."""
    return replace(
        method,
        targets={},
        target_template=TargetTemplate.as_is,
        shot_mean=ShotMean.cosines,
        warmup_fraction=1.0,
        warmup_seed=0,
        epochs=1,
        learning_rate=1.0,
        global_batch_size=1,
        shard_rows=1,
    )


def _step(
    shards: Shards, name: str, target: str, label: str, params: Any, part: _Part, warmup: Step, **more: Step
) -> Step:
    """A step on the rows of ``part`` after an epoch of the warm-up."""
    planner = shards.planner
    inputs = {"model": shards.model, "warmup": warmup, "rows": part.rows, **more}
    cost = Cost(part.tokens, training_flops(planner.config.model.parameters, part.tokens, frozen=True))
    return planner.step(target, "score", f"{name}-{label}", params, inputs=inputs, cost=cost)


def _exact(
    shards: Shards, name: str, method: LessConfig, warmup: Step, targets: list[_Part], pool: list[_Part]
) -> Step:
    """Mean gradients of the targets, then products of the rows' with them."""
    own = replace(_own(method), dimensions=64, projection_seed=0)
    shots = replace(own, adam=AdamFormula.code, target_template=method.target_template, shot_mean=method.shot_mean)
    steps: dict[str, Step] = {"warmup": warmup}
    for epoch in range(1, method.epochs + 1):
        means = {
            part.label: _step(
                shards, name, "less_means", f"epoch{epoch}-{part.label}", LessMeans(shots, epoch), part, warmup
            )
            for part in targets
        }
        for part in pool:
            label, params = f"epoch{epoch}-{part.label}", LessProducts(own, epoch, part.start, part.stop)
            steps[label] = _step(shards, name, "less_products", label, params, part, warmup, **means)
    return shards.planner.step("less_exact", "score", name, LessExact(method.epochs), inputs=steps)


def _projected(
    shards: Shards, name: str, method: LessConfig, warmup: Step, targets: list[_Part], pool: list[_Part]
) -> Step:
    """Projected gradients of targets and rows, stored."""
    own = _own(method)
    shots = replace(own, adam=AdamFormula.code, target_template=method.target_template)
    steps: dict[str, Step] = {"warmup": warmup}
    for epoch in range(1, method.epochs + 1):
        for less, direction, parts in ((shots, Direction.sgd, targets), (own, Direction.adam, pool)):
            for part in parts:
                label, params = f"epoch{epoch}-{part.label}", LessShard(less, direction, epoch, part.start, part.stop)
                steps[label] = _step(shards, name, "less_shard", label, params, part, warmup)
    final = LessConfig(
        adam=AdamFormula.code,
        projection=LessProjection.rademacher,
        target_template=TargetTemplate.as_is,
        shot_mean=method.shot_mean,
        epochs=method.epochs,
        dimensions=method.dimensions,
    )
    return shards.planner.step("less", "score", name, final, inputs=steps)
