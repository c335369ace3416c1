"""The steps of LESS: warm-up, gradients of rows and targets after each of its epochs, scores.

In: a LessConfig.  Out: the step with the scores.
What a step doesn't use is set to a fixed value before it is hashed: another value of it leaves the step as it is.
"""

from dataclasses import replace

from icon_repro.config_data import TrainConfig, TrainJob, Tuning
from icon_repro.config_methods import (
    AdamFormula,
    Direction,
    LessConfig,
    LessShard,
    RandomConfig,
    SelectConfig,
    ShotMean,
)
from icon_repro.cost import tokens_of, training_flops
from icon_repro.engine.artifact import Cost, Step
from icon_repro.engine.plan_shards import Shards


def less_scores(shards: Shards, assessment: Step, name: str, method: LessConfig) -> Step:
    """The step with the scores of LESS; ``assessment`` holds the targets unless the method names others."""
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
    warmup = planner.step(
        "train",
        "score",
        f"{name}-warmup-training",
        TrainJob(training, method.warmup_seed),
        inputs={"model": shards.model, "candidates": shards.universe, "ids": chosen},
        cost=Cost(tokens, training_flops(parameters, tokens, frozen=True)),
        resumable=True,
    )
    # what other steps use is set to a fixed value: another value of it is in their fingerprints
    own = replace(
        method,
        targets={},
        shot_mean=ShotMean.cosines,
        warmup_fraction=1.0,
        warmup_seed=0,
        epochs=1,
        learning_rate=1.0,
        global_batch_size=1,
        shard_rows=1,
    )
    plain = LessShard(replace(own, adam=AdamFormula.code), Direction.sgd, 1, 0, None)
    parts: list[tuple[str, LessShard, Step, float]] = []
    for task, rows in (method.targets or {"": planner.config.data.assessment}).items():
        row = min(tokens_of(rows.expected_prompt_chars + rows.expected_response_chars), method.max_length)
        count = min(rows.sample or rows.expected_rows, rows.expected_rows) * row
        where = f"methods.{name}.targets.{task}"
        step = planner.rows(where, f"{name}-target-{task}", rows) if task else assessment
        parts.append((f"target-{task}" if task else "assessment", plain, step, count))
    for number, (first, end, stop) in enumerate(planner.slices(method.shard_rows, shards.whole)):
        adam = LessShard(own, Direction.adam, 1, first, stop)
        parts.append((f"shard-{number:04d}", adam, shards.universe, (end - first) * length))
    steps: dict[str, Step] = {"warmup": warmup}
    for epoch in range(1, method.epochs + 1):
        for label, params, needed, count in parts:
            steps[f"epoch{epoch}-{label}"] = planner.step(
                "less_shard",
                "score",
                f"{name}-epoch{epoch}-{label}",
                replace(params, epoch=epoch),
                inputs={"model": shards.model, "warmup": warmup, "rows": needed},
                cost=Cost(count, training_flops(parameters, count, frozen=True)),
            )
    final = LessConfig(
        adam=AdamFormula.code, shot_mean=method.shot_mean, epochs=method.epochs, dimensions=method.dimensions
    )
    return planner.step("less", "score", name, final, inputs=steps)
