"""LESS: rows whose gradients point where those of the targets do; warm-up, gradients after each of its epochs, scores.

The steps are in ``projected`` and ``exact``; torch is too heavy for a plan, so that their functions stand here by name.
What a step doesn't use is set to a fixed value before it is hashed: another value of it leaves the step as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from icon_repro.data.cost import tokens_of, training_flops
from icon_repro.data.options import RowFormat
from icon_repro.engine.artifact import Cost, Step
from icon_repro.methods import random
from icon_repro.methods.base import Build, Method, Setting, reseed_by
from icon_repro.methods.less.notes import notes, tasks_of
from icon_repro.methods.less.options import (
    AdamFormula,
    Direction,
    LessConfig,
    LessExact,
    LessMeans,
    LessProducts,
    LessProjection,
    LessShard,
    ShotMean,
    TargetTemplate,
    less_resolved,
)
from icon_repro.methods.select import SelectConfig
from icon_repro.train.options import TrainConfig, TrainJob, Tuning, batch_problems


def plan(build: Build, name: str, options: LessConfig) -> Step:
    """The assessment rows are the targets unless the method names others."""
    options = less_resolved(options)
    data = build.planner.config.data
    if (data.selected_from if build.whole else data.pool).source.format is RowFormat.prompt_response:
        options = replace(options, target_template=TargetTemplate.as_is)  # as tuning takes the rows
    warmup = _warmup(build, name, options)
    pool = _pool(build, options)
    targets = _targets(build, name, options)
    build.planner.notes += notes(f"methods.{name}", options, build.planner.config)
    if options.projection is LessProjection.exact:
        return _exact(build, name, options, warmup, targets, pool)
    return _projected(build, name, options, warmup, targets, pool)


def problems(where: str, options: LessConfig, setting: Setting) -> list[str]:
    """Problems of the warm-up's batch, the projection and the names of targets."""
    texts = []
    for task in options.targets:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", task):
            texts.append(f"{where}.targets: name {task!r} must be letters, digits, '_' and '.', as it names folders.")
    if options.dimensions % 64:
        texts.append(f"{where}.dimensions={options.dimensions}: must be a multiple of 64.")
    return texts + batch_problems(where, options.global_batch_size, setting.cluster)


def _warmup(build: Build, name: str, method: LessConfig) -> Step:
    """The training whose epochs gradients are taken after."""
    planner, parameters = build.planner, build.planner.config.model.parameters
    seeded = random.RandomConfig(seed=method.warmup_seed)
    ranked = build.step(random.run, f"{name}-warmup", seeded, {"candidates": build.universe})
    chosen = planner.step(
        "select",
        "select",
        f"{name}-warmup",
        SelectConfig(method.warmup_fraction),
        inputs={"scores": ranked, "universe": build.universe},
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
    length = min(build.row_tokens, method.max_length)
    tokens = build.rows * method.warmup_fraction * length * method.epochs
    return planner.step(
        "train",
        "score",
        f"{name}-warmup-training",
        TrainJob(training, method.warmup_seed),
        inputs={"model": build.model, "candidates": build.universe, "ids": chosen},
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
    tasks: int = 1  # among targets


def _targets(build: Build, name: str, method: LessConfig) -> list[_Part]:
    planner, parts = build.planner, []
    for task, rows in (method.targets or {"": planner.config.data.assessment}).items():
        row = min(tokens_of(rows.expected_prompt_chars + rows.expected_response_chars), method.max_length)
        count = min(rows.sample or rows.expected_rows, rows.expected_rows) * row
        where = f"methods.{name}.targets.{task}"
        step = planner.rows(where, f"{name}-target-{task}", rows) if task else build.assessment
        parts.append(_Part(f"target-{task}" if task else "assessment", step, count, tasks=tasks_of(rows) or 1))
    return parts


def _pool(build: Build, method: LessConfig) -> list[_Part]:
    length = min(build.row_tokens, method.max_length)
    return [
        _Part(f"shard-{number:04d}", build.universe, (end - first) * length, first, stop)
        for number, (first, end, stop) in enumerate(build.planner.slices(method.shard_rows, build.whole))
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
    build: Build,
    target: str,
    name: str,
    params: Any,
    part: _Part,
    warmup: Step,
    *,
    version: int = 1,
    means: Mapping[str, Step] | None = None,
) -> Step:
    """A step on the rows of ``part`` after an epoch of the warm-up."""
    inputs = {"model": build.model, "warmup": warmup, "rows": part.rows, **(means or {})}
    cost = Cost(part.tokens, training_flops(build.planner.config.model.parameters, part.tokens, frozen=True))
    return build.step(f"icon_repro.methods.{target}", name, params, inputs, version=version, cost=cost)


def _exact(build: Build, name: str, method: LessConfig, warmup: Step, targets: list[_Part], pool: list[_Part]) -> Step:
    """Mean gradients of the targets, then products of the rows' with them."""
    of_rows = replace(_own(method), dimensions=64, projection_seed=0)
    shots = replace(of_rows, adam=AdamFormula.code, target_template=method.target_template, shot_mean=method.shot_mean)
    steps: dict[str, Step] = {"warmup": warmup}
    for epoch in range(1, method.epochs + 1):
        means = {
            part.label: _step(build, "less_exact:means", f"{name}-epoch{epoch}-{part.label}", params, part, warmup)
            for part in targets
            for params in [LessMeans(shots, epoch, part.tasks)]
        }
        for part in pool:
            label, params = f"epoch{epoch}-{part.label}", LessProducts(of_rows, epoch, part.start, part.stop)
            steps[label] = _step(build, "less_exact:shard", f"{name}-{label}", params, part, warmup, means=means)
    return build.step("icon_repro.methods.less_exact:run", name, LessExact(method.epochs), steps)


def _projected(
    build: Build, name: str, method: LessConfig, warmup: Step, targets: list[_Part], pool: list[_Part]
) -> Step:
    """Projected gradients of targets and rows, stored."""
    of_rows = _own(method)
    shots = replace(of_rows, adam=AdamFormula.code, target_template=method.target_template)
    steps: dict[str, Step] = {"warmup": warmup}
    for epoch in range(1, method.epochs + 1):
        for less, direction, parts in ((shots, Direction.sgd, targets), (of_rows, Direction.adam, pool)):
            for part in parts:
                label, params = f"epoch{epoch}-{part.label}", LessShard(less, direction, epoch, part.start, part.stop)
                # 2: lengths of targets
                steps[label] = _step(build, "less:shard", f"{name}-{label}", params, part, warmup, version=2)
    final = LessConfig(
        adam=AdamFormula.code,
        projection=LessProjection.rademacher,
        target_template=TargetTemplate.as_is,
        shot_mean=method.shot_mean,
        epochs=method.epochs,
        dimensions=method.dimensions,
    )
    return build.step("icon_repro.methods.less:run", name, final, steps, version=2)  # 2: tasks come with the targets


METHOD = Method(
    LessConfig,
    plan,
    "how far the row's gradient points where those of the target rows do (LESS)",
    problems,
    reseed_by("warmup_seed"),
    less_resolved,
)
