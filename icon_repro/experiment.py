"""Config to steps: pure, without torch and without importing a stage.

In: a checked Config.  Out: an ``Experiment``: its steps in an order that can be run, and what each row is made of.
This is where stages meet: they don't know one another, only the files of their inputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from icon_repro.config.load import Config, Until
from icon_repro.data.cost import forward_flops, tokens_of, training_flops
from icon_repro.data.options import CandidatesSize, Dtype
from icon_repro.data.planner import Planner
from icon_repro.data.rows import selected_count
from icon_repro.engine.artifact import Cost, Step, ancestors, ordered
from icon_repro.evaluate.judge.plan import Contestant, judged
from icon_repro.evaluate.options import (
    Backend,
    EvaluationJob,
    HeldOutJob,
    HeldOutRowsJob,
    SharedTextJob,
    TaskConfig,
    TaskKind,
)
from icon_repro.methods.base import Inputs
from icon_repro.methods.plan_selections import Selections, over_pools
from icon_repro.train.options import TrainJob, Tuning


@dataclass(frozen=True)
class Arm:
    """One row of the results: a model tuned on a selection (or not tuned), and its evaluations."""

    method: str  # base, full, or a name in ``methods``
    fraction: float | None
    seed: int | None  # of training
    select: Step | None
    train: Step | None
    evaluations: dict[str, Step]
    selection_seed: int | None = None  # of a method that is run with several; with several pools the pool's number
    judged: dict[str, Step] = field(default_factory=dict)  # verdicts against judge.against, and references, by set
    pool: int | None = None  # that it selects from, where there are several


@dataclass(frozen=True)
class Experiment:
    """The plan of one experiment."""

    config: Config
    steps: list[Step]
    arms: list[Arm]
    full_tuning: Cost  # of one model on all rows, whether or not that is among the arms
    warnings: list[str] = field(default_factory=list)
    shared_text: dict[str, Step] = field(default_factory=dict)  # by benchmark: what it has in common with the rows
    held_out_rows: dict[str, Step] = field(default_factory=dict)  # by held-out task: facts of its rows
    notes: list[str] = field(default_factory=list)  # what one should know before it starts; nothing is refused
    shared_selecting: dict[str, list[Step]] = field(
        default_factory=dict
    )  # by benchmark: with rows that selections go by


def _contestant(arm: Arm) -> Contestant:
    return Contestant(arm.method, arm.fraction, arm.seed, arm.selection_seed, arm.train)


def plan(config: Config) -> Experiment:
    """The experiment's steps.

    Raises:
        PlanError: a local file is missing.
    """
    planner = Planner(config)
    data, training = config.data, config.training
    model = planner.model(config.model)
    pool = planner.rows("data.pool", f"pool-{data.name}", data.pool)
    assessment = planner.rows("data.assessment", f"assessment-{data.name}", data.assessment)
    both = {"pool": pool, "assessment": assessment}
    order = planner.step("order", "prepare", "order", data.candidates.order, inputs=both)
    whole = planner.whole
    selected_from = order
    if data.target is not None:
        target = planner.rows("data.target", f"target-{data.target.source.name}", data.target)
        both = {"pool": target, "assessment": assessment}
        selected_from = planner.step("order", "prepare", "order-target", data.candidates.order, inputs=both)
    universe = planner.step(
        "candidates",
        "prepare",
        "universe" if whole else "candidates",
        CandidatesSize(None if whole or data.candidates.size is None else data.candidates.size * data.pools),
        inputs={"order": selected_from},
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
    rows = data.selected_from if whole else data.pool
    row_tokens = tokens_of(rows.expected_prompt_chars + rows.expected_response_chars)

    held_out = {
        name: planner.rows(f"evaluation.tasks.{name}.rows", f"bench-{name}", task.rows)
        for name, task in config.evaluation.tasks.items()
        if task.kind is TaskKind.nll and task.rows is not None
    }

    def held_out_inputs(name: str) -> dict[str, Step]:
        return {"model": model, "rows": held_out[name], "assessment": assessment, "candidates": universe}

    held_out_rows = {
        name: planner.step(
            "held_out_rows",
            "prepare",
            f"rows-{name}",
            HeldOutRowsJob(
                name, max_length=config.evaluation.max_length, template=config.evaluation.tasks[name].template
            ),
            inputs=held_out_inputs(name),
        )
        for name in (held_out if config.until is not Until.select else ())
    }

    def job(name: str, task: TaskConfig) -> EvaluationJob:
        evaluation = config.evaluation
        return EvaluationJob(
            name=name,
            task=task,
            dtype=evaluation.dtype,
            max_length=evaluation.max_length,
            seed=evaluation.seed,
            backend=evaluation.backend,
            allow_code_execution=evaluation.allow_code_execution,
        )

    def shared_text(name: str, task: TaskConfig, selecting: Step | None = None) -> Step:
        own = benchmarks.get(name) or held_out.get(name)
        known = {"assessment": universe if selecting else assessment} if name in held_out else {}
        # what decides how the model is run doesn't decide which items there are
        read = replace(job(name, task), dtype=Dtype.float32, max_length=16, backend=Backend.hf)
        return planner.step(
            "shared_text",
            "prepare",
            f"shared-{name}-{selecting.name}" if selecting else f"shared-{name}",
            SharedTextJob(name, data.candidates.order.ngram, task.limit, None if own else read),
            inputs={"candidates": selecting or universe, **({"rows": own, **known} if own else {})},
            **({} if own else planner.task_data(f"evaluation.tasks.{name}", task.files, task.dataset)),
        )

    def evaluate(label: str, train: Step | None) -> dict[str, Step]:
        evaluation, made = config.evaluation, {}
        for name, task in evaluation.tasks.items():
            tokens = min(task.limit or task.expected_items, task.expected_items) * task.expected_item_tokens
            cost = Cost(tokens, forward_flops(config.model.parameters, tokens))
            if task.kind is TaskKind.nll:
                made[name] = planner.step(
                    "held_out",
                    "evaluate",
                    f"{label}-{name}",
                    HeldOutJob(
                        name,
                        dtype=evaluation.dtype,
                        max_length=evaluation.max_length,
                        template=task.template,
                        epoch=task.epoch if train else None,
                    ),
                    inputs={**held_out_inputs(name), **({"tuned": train} if train else {})},
                    cost=cost,
                )
                continue
            inputs = {"model": model, "tuned": train, "rows": benchmarks.get(name)}
            needed = {key: step for key, step in inputs.items() if step is not None}
            more = {
                "cost": cost,
                "resumable": True,
                **planner.task_data(f"evaluation.tasks.{name}", task.files, task.dataset),
            }
            made[name] = planner.step("evaluate", "evaluate", f"{label}-{name}", job(name, task), inputs=needed, **more)
        return made

    def tune(label: str, seed: int, select: Step | None, rows: float, candidates: Step = universe) -> Step:
        tokens = rows * min(row_tokens, training.max_length) * training.epochs
        frozen = training.tuning is Tuning.lora
        return planner.step(
            "train",
            "train",
            label,
            TrainJob(training, seed),
            inputs={"model": model, "candidates": candidates, **({"ids": select} if select else {})},
            cost=Cost(tokens, training_flops(config.model.parameters, tokens, frozen=frozen)),
            resumable=True,
        )

    arms = []
    ends_early = config.until is Until.select
    if config.base and not ends_early:
        arms.append(Arm("base", None, None, None, None, evaluate("base", None)))
    if config.full and not ends_early:
        for seed in config.seeds:
            train = tune(f"full-s{seed}", seed, None, size)
            arms.append(Arm("full", 1.0, seed, None, train, evaluate(f"full-s{seed}", train)))
    read = Inputs(model, order, assessment, selected_from)
    selections = (
        Selections(planner, config, read, universe, None).all()
        if data.pools == 1
        else over_pools(planner, config, read)
    )
    for selection in selections:
        name, fraction, select, number = selection.method, selection.fraction, selection.step, selection.pool
        if ends_early:
            arms.append(Arm(name, fraction, None, select, None, {}, selection.seed, pool=number))
        for seed in () if ends_early else config.seeds:
            label = f"{selection.label}-s{seed}"
            train = tune(label, seed, select, selected_count(fraction, size), selection.universe)
            arms.append(Arm(name, fraction, seed, select, train, evaluate(label, train), selection.seed, pool=number))
    if not ends_early:
        for arm, verdicts in zip(
            arms, judged(planner, config.judge, model, [_contestant(arm) for arm in arms]), strict=True
        ):
            arm.judged.update(verdicts)
    compared = {} if ends_early else {name: shared_text(name, task) for name, task in config.evaluation.tasks.items()}
    deciding = going_by((selection.step for selection in selections), assessment.target)
    selecting = {
        name: [
            shared_text(name, task, rows)
            for rows in deciding
            if rows.folder == assessment.folder or _target_for(rows, name)
        ]
        for name, task in (config.evaluation.tasks.items() if not ends_early else ())
    }
    planner.hashes.save()
    steps = [(arm.select, arm.train, *arm.evaluations.values(), *arm.judged.values()) for arm in arms]
    wanted = [step for some in steps for step in some if step is not None]
    # all that is read from outside comes first: what is wrong with it shows before anything is trained
    sources = [step for step in ordered(wanted) if step.stage in ("model", "prepare")]
    beside = [*compared.values(), *(step for steps_of in selecting.values() for step in steps_of)]
    return Experiment(
        config,
        ordered([model, pool, assessment, universe, *sources, *held_out_rows.values(), *beside, *wanted]),
        arms,
        tune("full", 0, None, size).cost,
        planner.warnings,
        compared,
        held_out_rows=held_out_rows,
        notes=planner.notes,
        shared_selecting=selecting,
    )


def going_by(selects: Iterable[Step], target: str) -> list[Step]:
    """The prepared rows by which selections are made: assessment set, targets of a method's own.

    Args:
        target: of the steps that prepare rows.
    """
    scores = (step for select in selects for step in ancestors(select) if step.stage == "score")
    found = (step for score in scores for step in score.inputs.values() if step.target == target)
    return list({step.folder: step for step in found}.values())


def _target_for(rows: Step, task: str) -> bool:
    """Whether rows are a method's target for a task; such rows are compared with the benchmark of that name alone."""
    return rows.name.endswith(f"-target-{task}")
