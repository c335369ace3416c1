"""Config to steps: pure, without torch and without importing a stage.

In: a checked Config.  Out: an ``Experiment``: its steps in an order that can be run, and what each row is made of.
This is where stages meet: they don't know one another, only the files of their inputs.
"""

from dataclasses import dataclass, field

from icon_repro.config import Config
from icon_repro.config_data import CandidatesSize, TrainJob, Tuning
from icon_repro.config_evaluation import EvaluationJob
from icon_repro.config_methods import IconConfig, SelectConfig, SelectFrom, TuningSaved
from icon_repro.cost import forward_flops, tokens_of, training_flops
from icon_repro.engine.artifact import Cost, Step, ordered
from icon_repro.engine.plan_icon import icon_scores
from icon_repro.engine.plan_methods import Methods
from icon_repro.engine.planner import Planner
from icon_repro.records import selected_count


@dataclass(frozen=True)
class Arm:
    """One row of the results: a model tuned on a selection (or not tuned), and its evaluations."""

    method: str  # base, full, or a name in ``methods``
    fraction: float | None
    seed: int | None
    select: Step | None
    train: Step | None
    evaluations: dict[str, Step]


@dataclass(frozen=True)
class Experiment:
    """The plan of one experiment."""

    config: Config
    steps: list[Step]
    arms: list[Arm]
    full_tuning: Cost  # of one model on all rows, whether or not that is among the arms
    warnings: list[str] = field(default_factory=list)


def plan(config: Config) -> Experiment:
    """The experiment's steps.

    Raises:
        PlanError: a local file is missing.
    """
    planner = Planner(config)
    data, training = config.data, config.training
    model = planner.model(config.model)
    pool, assessment = planner.rows("pool", data.pool), planner.rows("assessment", data.assessment)
    both = {"pool": pool, "assessment": assessment}
    order = planner.step("order", "prepare", "order", data.candidates.order, inputs=both)
    whole = config.select_from is SelectFrom.pool
    universe = planner.step(
        "candidates",
        "prepare",
        "universe" if whole else "candidates",
        CandidatesSize(None if whole else data.candidates.size),
        inputs={"order": order},
    )
    benchmarks = {
        name: planner.step(
            "benchmark",
            "prepare",
            f"bench-{name}",
            task.source,
            **planner.source(f"evaluation.tasks.{name}.source", task.source),
        )
        for name, task in config.evaluation.tasks.items()
        if task.source is not None
    }
    size = planner.expected(whole)
    row_tokens = tokens_of(data.pool.expected_prompt_chars + data.pool.expected_response_chars)

    def evaluate(label: str, train: Step | None) -> dict[str, Step]:
        evaluation, made = config.evaluation, {}
        for name, task in evaluation.tasks.items():
            inputs = {"model": model, "tuned": train, "rows": benchmarks.get(name)}
            job = EvaluationJob(
                name=name, task=task, dtype=evaluation.dtype, max_length=evaluation.max_length, seed=evaluation.seed
            )
            needed = {key: step for key, step in inputs.items() if step is not None}
            tokens = min(task.limit or task.expected_items, task.expected_items) * task.expected_item_tokens
            cost = Cost(tokens, forward_flops(config.model.parameters, tokens))
            made[name] = planner.step("evaluate", "evaluate", f"{label}-{name}", job, inputs=needed, cost=cost)
        return made

    def tune(label: str, seed: int, select: Step | None, rows: float) -> Step:
        tokens = rows * min(row_tokens, training.max_length) * training.epochs
        frozen = training.tuning is Tuning.lora
        return planner.step(
            "train",
            "train",
            label,
            TrainJob(training, seed),
            inputs={"model": model, "candidates": universe, **({"ids": select} if select else {})},
            cost=Cost(tokens, training_flops(config.model.parameters, tokens, frozen=frozen)),
            resumable=True,
        )

    arms = []
    if config.base:
        arms.append(Arm("base", None, None, None, None, evaluate("base", None)))
    if config.full:
        for seed in config.seeds:
            train = tune(f"full-s{seed}", seed, None, size)
            arms.append(Arm("full", 1.0, seed, None, train, evaluate(f"full-s{seed}", train)))
    methods = Methods(planner, model, universe, assessment, whole=whole)
    for name, method in config.methods.items():
        if isinstance(method, IconConfig):
            frozen = training.tuning is Tuning.lora
            saved = TuningSaved(training.epochs, training.max_length, frozen, max(config.fractions))
            scores = icon_scores(planner, name, method, model, order, assessment, config.fractions, saved)
        else:
            scores = dict.fromkeys(config.fractions, methods.scores(name, method))
        for fraction in config.fractions:
            part = f"{name}-f{fraction:g}"
            inputs = {"scores": scores[fraction], "universe": universe}
            select = planner.step("select", "select", part, SelectConfig(fraction), inputs=inputs)
            for seed in config.seeds:
                train = tune(f"{part}-s{seed}", seed, select, selected_count(fraction, size))
                arms.append(Arm(name, fraction, seed, select, train, evaluate(f"{part}-s{seed}", train)))
    planner.hashes.save()
    wanted = [s for arm in arms for s in (arm.select, arm.train, *arm.evaluations.values()) if s is not None]
    return Experiment(
        config,
        ordered([model, pool, assessment, universe, *wanted]),
        arms,
        tune("full", 0, None, size).cost,
        planner.warnings,
    )
