"""Turn a configuration into a plan of steps, without torch and without importing a step's code.

In: a checked Config.  Out: an ``Experiment``: its steps in an order that can be run, and what each row is made of.
This is where stages meet: they don't know one another, only the files of their inputs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from icon_repro.config.actions import Action
from icon_repro.config.load import Config, Until
from icon_repro.data.cost import forward_flops, tokens_of, training_flops
from icon_repro.data.options import CandidatesSize, Dtype, SourceConfig
from icon_repro.data.planner import PlanError, Planner, counted
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
    rows_job,
)
from icon_repro.methods.base import Inputs
from icon_repro.methods.plan_selections import Selection, Selections, over_pools
from icon_repro.train.options import TrainJob, Tuning

_ASKING = (Action.run, Action.plan, Action.submit, Action.fetch)  # what only reads results never depends on a network
_CHOICES = 4  # of an item, that each go through the model with the question


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
    unresolved: list[str] = field(default_factory=list)  # keys of revisions whose commit isn't known here
    shared_text: dict[str, Step] = field(default_factory=dict)  # by benchmark: what it has in common with the rows
    held_out_rows: dict[str, Step] = field(default_factory=dict)  # by held-out task: facts of its rows
    notes: list[str] = field(default_factory=list)  # what one should know before it starts; nothing is refused
    shared_selecting: dict[str, list[Step]] = field(
        default_factory=dict
    )  # by benchmark: with rows that selections go by


def only_read(experiment: Experiment) -> Experiment:
    """The part of a plan that reads models and rows from elsewhere, benchmarks too: all that asks a network.

    It needs no accelerator and none of the steps after it, so that a machine with a network can do it for others.
    """
    stages = ("model", "prepare")
    steps = [step for step in experiment.steps if all(one.stage in stages for one in (step, *ancestors(step)))]
    return replace(experiment, steps=steps)


def _contestant(arm: Arm) -> Contestant:
    return Contestant(arm.method, arm.fraction, arm.seed, arm.selection_seed, arm.train)


def plan(config: Config) -> Experiment:
    """The experiment's steps.

    Raises:
        PlanError: a local file is missing.
    """
    return _Plan(config).experiment()


class _Plan:
    """Builds an experiment from its rows on: what is read, selected, tuned, evaluated and judged."""

    def __init__(self, config: Config) -> None:
        self.config, self.planner = config, Planner(config, ask_hub=config.action in _ASKING)
        planner, data = self.planner, config.data
        self.model = planner.model(config.model)
        self.pool = planner.rows("data.pool", f"pool-{data.name}", data.pool)
        self.assessment = planner.rows("data.assessment", f"assessment-{data.name}", data.assessment)
        self.order = self._ordered("order", self.pool)
        self.selected_from = self.order
        if data.target is not None:
            target = planner.rows("data.target", f"target-{data.target.source.name}", data.target)
            self.selected_from = self._ordered("order-target", target)
        whole = planner.whole
        self.universe = planner.step(
            "candidates",
            "prepare",
            "universe" if whole else "candidates",
            CandidatesSize(None if whole or data.candidates.size is None else data.candidates.size * data.pools),
            inputs={"order": self.selected_from},
        )
        tasks = config.evaluation.tasks
        self.benchmarks = {name: self._benchmark(name, source) for name, source in _sources(tasks).items()}
        self.kept = {name: self._kept(name, task) for name, task in tasks.items() if _reads_hub(task)}
        self.held_out = {
            name: planner.rows(f"evaluation.tasks.{name}.rows", f"bench-{name}", task.rows)
            for name, task in tasks.items()
            if task.kind is TaskKind.nll and task.rows is not None
        }
        self.size = planner.expected(whole)
        rows = data.selected_from if whole else data.pool
        self.row_tokens = tokens_of(rows.expected_prompt_chars + rows.expected_response_chars)

    def experiment(self) -> Experiment:
        """All steps, in an order that can be run, and what each row of the results is made of."""
        planner, ends_early = self.planner, self.config.until is Until.select
        tasks = {} if ends_early else self.config.evaluation.tasks
        selections = self._selections()
        arms = [*self._untouched(), *self._selected(selections)]
        if not ends_early:
            contestants = [_contestant(arm) for arm in arms]
            for arm, verdicts in zip(arms, judged(planner, self.config.judge, self.model, contestants), strict=True):
                arm.judged.update(verdicts)
        facts = {name: self._held_out_rows(name) for name in (() if ends_early else self.held_out)}
        compared = {name: self._shared_text(name, task) for name, task in tasks.items()}
        deciding = going_by((selection.step for selection in selections), self.assessment.target)
        selecting = {
            name: [
                self._shared_text(name, task, rows)
                for rows in deciding
                if rows.folder == self.assessment.folder or _target_for(rows, name)
            ]
            for name, task in tasks.items()
        }
        planner.hashes.save()
        planner.revisions.save()
        steps = [(arm.select, arm.train, *arm.evaluations.values(), *arm.judged.values()) for arm in arms]
        wanted = [step for some in steps for step in some if step is not None]
        # all that is read from outside comes first: what is wrong with it shows before anything is trained
        sources = [step for step in ordered(wanted) if step.stage in ("model", "prepare")]
        beside = [*facts.values(), *compared.values(), *(step for some in selecting.values() for step in some)]
        first = [self.model, self.pool, self.assessment, self.universe]
        return Experiment(
            self.config,
            ordered([*first, *sources, *beside, *wanted]),
            arms,
            self._tune("full", 0, None, self.size).cost,
            planner.warnings,
            planner.unresolved,
            compared,
            held_out_rows=facts,
            notes=planner.notes,
            shared_selecting=selecting,
        )

    def _ordered(self, name: str, rows: Step) -> Step:
        inputs = {"pool": rows, "assessment": self.assessment}
        return self.planner.step("order", "prepare", name, self.config.data.candidates.order, inputs=inputs)

    def _benchmark(self, name: str, source: SourceConfig) -> Step:
        """The rows of a benchmark of ours.

        Raises:
            PlanError: there are too few to be examples for each other.
        """
        shots, rows = self.config.evaluation.tasks[name].num_fewshot, counted(source)
        if shots and rows and rows[0] <= shots:
            raise PlanError(
                f"evaluation.tasks.{name}.num_fewshot={shots}: {source.path} has {rows[0]} rows, of which "
                f"{rows[0] - 1} can be examples for another. Lower it."
            )
        read = self.planner.source(f"evaluation.tasks.{name}.source", source)
        return self.planner.step("benchmark", "prepare", f"bench-{name}", source, **read)

    def _kept(self, name: str, task: TaskConfig) -> Step:
        """The data sets of one of lm-eval's tasks, read once for all models."""
        job = rows_job(self._job(name, task))
        return self.planner.step("benchmark_rows", "prepare", f"bench-{name}", job, **self._task_data(name, task))

    def _selections(self) -> list[Selection]:
        read = Inputs(self.model, self.order, self.assessment, self.selected_from)
        if self.config.data.pools == 1:
            return list(Selections(self.planner, self.config, read, self.universe, None).all())
        return list(over_pools(self.planner, self.config, read))

    def _untouched(self) -> list[Arm]:
        """The model as it is, and tuned on all rows."""
        arms: list[Arm] = []
        if self.config.until is Until.select:
            return arms
        if self.config.base:
            arms.append(Arm("base", None, None, None, None, self._evaluate("base", None)))
        for seed in self.config.seeds if self.config.full else ():
            train = self._tune(f"full-s{seed}", seed, None, self.size)
            arms.append(Arm("full", 1.0, seed, None, train, self._evaluate(f"full-s{seed}", train)))
        return arms

    def _selected(self, selections: Sequence[Selection]) -> list[Arm]:
        """An arm for each selection and training seed, or for each selection if nothing is trained."""
        arms = []
        for one in selections:
            if self.config.until is Until.select:
                arms.append(Arm(one.method, one.fraction, None, one.step, None, {}, one.seed, pool=one.pool))
                continue
            for seed in self.config.seeds:
                label = f"{one.label}-s{seed}"
                rows = selected_count(one.fraction, self.size)
                train = self._tune(label, seed, one.step, rows, one.universe)
                made = self._evaluate(label, train)
                arms.append(Arm(one.method, one.fraction, seed, one.step, train, made, one.seed, pool=one.pool))
        return arms

    def _tune(self, label: str, seed: int, select: Step | None, rows: float, candidates: Step | None = None) -> Step:
        training = self.config.training
        tokens = rows * min(self.row_tokens, training.max_length) * training.epochs
        frozen = training.tuning is Tuning.lora
        inputs = {"model": self.model, "candidates": candidates or self.universe}
        return self.planner.step(
            "train",
            "train",
            label,
            TrainJob(training, seed),
            inputs={**inputs, **({"ids": select} if select else {})},
            cost=Cost(tokens, training_flops(self.config.model.parameters, tokens, frozen=frozen)),
            resumable=True,
            as_sets=("ids",),  # trained on in an order of the seed's alone
        )

    def _evaluate(self, label: str, train: Step | None) -> dict[str, Step]:
        return {
            name: self._held_out(label, name, task, train)
            if task.kind is TaskKind.nll
            else self._evaluated(label, name, task, train)
            for name, task in self.config.evaluation.tasks.items()
        }

    def _held_out(self, label: str, name: str, task: TaskConfig, train: Step | None) -> Step:
        evaluation = self.config.evaluation
        job = HeldOutJob(
            name,
            dtype=evaluation.dtype,
            max_length=evaluation.max_length,
            template=task.template,
            epoch=task.epoch if train else None,
        )
        inputs = {**self._held_out_inputs(name), **({"tuned": train} if train else {})}
        cost = self._evaluation_cost(task)
        known = self._known_by(name)
        return self.planner.step("held_out", "evaluate", f"{label}-{name}", job, inputs=inputs, cost=cost, **known)

    def _evaluated(self, label: str, name: str, task: TaskConfig, train: Step | None) -> Step:
        inputs = {"model": self.model, "tuned": train, "rows": self.benchmarks.get(name) or self.kept.get(name)}
        return self.planner.step(
            "evaluate",
            "evaluate",
            f"{label}-{name}",
            self._job(name, task),
            inputs={key: step for key, step in inputs.items() if step is not None},
            cost=self._evaluation_cost(task),
            resumable=True,
            carried=("rows",) if name in self.kept else (),
            **self._task_data(name, task),
        )

    def _evaluation_cost(self, task: TaskConfig) -> Cost:
        items, item_tokens = task.expected_items, float(task.expected_item_tokens)
        if (source := task.rows.source if task.rows else task.source) and (rows := counted(source)):
            items, item_tokens = min(items, rows[0]), min(item_tokens, _CHOICES * tokens_of(rows[1]))
        tokens = min(task.limit or items, items) * item_tokens
        return Cost(tokens, forward_flops(self.config.model.parameters, tokens))

    def _task_data(self, name: str, task: TaskConfig) -> dict[str, Any]:
        return self.planner.task_data(f"evaluation.tasks.{name}", task.files, task.dataset)

    def _job(self, name: str, task: TaskConfig) -> EvaluationJob:
        evaluation = self.config.evaluation
        return EvaluationJob(
            name=name,
            task=task,
            dtype=evaluation.dtype,
            max_length=evaluation.max_length,
            seed=evaluation.seed,
            backend=evaluation.backend,
            allow_code_execution=evaluation.allow_code_execution,
            others_as_examples=task.kind is TaskKind.multiple_choice and bool(task.num_fewshot),
        )

    def _held_out_inputs(self, name: str) -> dict[str, Step]:
        rows = {"rows": self.held_out[name], "assessment": self.assessment, "candidates": self.universe}
        return {"model": self.model, **rows}

    def _held_out_rows(self, name: str) -> Step:
        """Facts of a held-out task's rows, the same for each model."""
        evaluation = self.config.evaluation
        job = HeldOutRowsJob(name, max_length=evaluation.max_length, template=evaluation.tasks[name].template)
        inputs, known = self._held_out_inputs(name), self._known_by(name)
        return self.planner.step("held_out_rows", "prepare", f"rows-{name}", job, inputs=inputs, **known)

    def _known_by(self, name: str) -> dict[str, Any]:
        """A hashed fact of rows of several sources with ids of their own: held-out ones were once known by these."""
        data, rows = self.config.data, self.config.evaluation.tasks[name].rows
        sets = [one for one in (rows, data.pool, data.target, data.assessment) if one is not None]
        own = [one.source for one in sets if one.source.fields.id is not None]
        places = {(one.path, one.hub_id, str(one.registry)) for one in own}
        return {"extra": {"known_by": "texts"}} if len(places) > 1 else {}

    def _shared_text(self, name: str, task: TaskConfig, selecting: Step | None = None) -> Step:
        """What a benchmark has in common with the rows to select from, or with rows that ``selecting`` holds."""
        own, kept = self.benchmarks.get(name) or self.held_out.get(name), self.kept.get(name)
        known = {"assessment": self.universe if selecting else self.assessment} if name in self.held_out else {}
        rows = own or kept
        # what decides how the model is run doesn't decide which items there are
        read = replace(self._job(name, task), dtype=Dtype.float32, max_length=16, backend=Backend.hf)
        return self.planner.step(
            "shared_text",
            "prepare",
            f"shared-{name}-{selecting.name}" if selecting else f"shared-{name}",
            SharedTextJob(name, self.config.data.candidates.order.ngram, task.limit, None if own else read),
            inputs={"candidates": selecting or self.universe, **({"rows": rows} if rows else {}), **known},
            carried=("rows",) if kept else (),
            **(self._known_by(name) if known else {} if own else self._task_data(name, task)),
        )


def _sources(tasks: Mapping[str, TaskConfig]) -> dict[str, SourceConfig]:
    """Where the rows of benchmarks come from, of those that don't read them by lm-eval."""
    return {name: task.source for name, task in tasks.items() if task.source is not None}


def _reads_hub(task: TaskConfig) -> bool:
    """Whether a task's rows are data sets that lm-eval reads from a hub."""
    return task.kind is TaskKind.lm_eval and not task.files


def going_by(selects: Iterable[Step], target: str) -> list[Step]:
    """The prepared rows by which selections are made: assessment set, targets of a method's own.

    Args:
        target: of the steps that prepare rows.
    """
    scores = (step for select in selects for step in ancestors(select) if step.stage == "score")
    rows = (step for score in scores for step in score.inputs.values() if step.target == target)
    return list({step.folder: step for step in rows}.values())


def _target_for(rows: Step, task: str) -> bool:
    """Whether rows are a method's target for a task; such rows are compared with the benchmark of that name alone."""
    return rows.name.endswith(f"-target-{task}")
