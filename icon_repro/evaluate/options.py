"""Define the options of benchmarks, and the jobs that evaluation steps get."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from icon_repro.data.options import Dtype, HubData, RowFormat, RowsConfig, SourceConfig
from icon_repro.engine.schema import number, unhashed


class TaskKind(enum.Enum):
    multiple_choice = "multiple_choice"  # rows of ours as an lm-eval task, ranked by likelihood
    nll = "nll"  # NLL of the responses of rows that no method has seen
    lm_eval = "lm_eval"  # a task of lm-eval's own; its data come from the hub


class Aggregate(enum.Enum):
    """One number from the tasks of a group."""

    mean = "mean"  # each task counts the same
    weighted = "weighted"  # each item counts the same


class Settings(enum.Enum):
    """Where a task's metric, shots and filter come from."""

    published = "published"  # the paper states them
    inferred = "inferred"  # it doesn't; a comment beside them says what they are inferred from


class HeldOutTemplate(enum.Enum):
    """The prompt before a held-out response."""

    tuning = "tuning"  # that of tuning, around ready prompts too
    as_is = "as_is"  # ready prompts as they stand; other rows in the prompt of tuning


class Backend(enum.Enum):
    hf = "hf"
    vllm = "vllm"  # where it is installed; it pins torch and transformers of its own


@dataclass
class TaskConfig:
    kind: TaskKind
    metric: str  # of lm-eval, e.g. acc or acc_norm; several joined by "+": their mean
    source: SourceConfig | None = None
    task: str | None = None  # lm-eval's name of a task, group or tag, for kind lm_eval
    rows: RowsConfig | None = field(default=None, metadata={"legacy": None})  # for kind nll
    template: HeldOutTemplate = unhashed(HeldOutTemplate.tuning)  # of kind nll; enters the hash of its own steps
    # of kind nll: rows with fewer response tokens are a measure of their own; 0: all are in one
    short_tokens: int = field(default=10, metadata={"hash": False, "at_least": 0})
    epoch: int | None = number(None, at_least=1, legacy=None)  # of kind nll: weights after it; None: after the last
    filter: str = field(default="none", metadata={"legacy": "none"})  # of lm-eval, on what the model generates
    metrics: dict[str, str] = field(default_factory=dict, metadata={"legacy": {}})  # of tasks of a group that differ
    aggregate: Aggregate | None = field(default=None, metadata={"legacy": None})  # needed for a group or tag
    dataset: HubData | None = field(default=None, metadata={"legacy": None})  # None: its current state, not hashed
    files: dict[str, str] = field(default_factory=dict, metadata={"hash": False})  # split -> rows; hashed by content
    group: str | None = unhashed(None)  # of benchmarks, e.g. IF, KN, RS
    settings: Settings | None = unhashed(None)
    num_fewshot: int | None = number(None, at_least=0)  # None: the task's default
    limit: int | None = number(None, at_least=1)  # first rows of the task; None: all
    chance: float | None = field(default=None, metadata={"hash": False, "at_least": 0, "at_most": 1})
    expected_items: int = field(default=1000, metadata={"hash": False, "at_least": 1})
    expected_item_tokens: int = field(default=150, metadata={"hash": False, "at_least": 1})  # all choices together


@dataclass
class EvaluationConfig:
    """What every tuned model is measured by."""

    name: str = unhashed()  # in labels of steps
    tasks: dict[str, TaskConfig] = field(default_factory=dict)  # name of a column of the table -> benchmark
    dtype: Dtype = Dtype.float32  # of the weights
    max_length: int = number(2048, at_least=16)
    seed: int = number(1234, at_least=0)
    backend: Backend = field(default=Backend.hf, metadata={"legacy": Backend.hf})
    allow_code_execution: bool = unhashed(False)  # of code that the model wrote; ICON_REPRO_ALLOW_CODE=1 too
    # of each task at most so many items (of a group's tasks each); of kind nll so many rows, drawn at random
    limit: int | None = field(default=None, metadata={"hash": False, "at_least": 1})


def limit_tasks(evaluation: EvaluationConfig) -> None:
    """Put ``evaluation.limit`` into every task, as if it stood there: a task's own stays if it is smaller."""
    if evaluation.limit is None:
        return
    for task in evaluation.tasks.values():
        if task.kind is TaskKind.nll and task.rows is not None:
            task.rows.sample = min(task.rows.sample or evaluation.limit, evaluation.limit)
        else:
            task.limit = min(task.limit or evaluation.limit, evaluation.limit)
        task.expected_items = min(task.expected_items, evaluation.limit)


@dataclass
class HeldOutJob:
    """NLL of the responses of rows that are neither candidates nor in the assessment set."""

    name: str = unhashed()
    dtype: Dtype = field(kw_only=True)
    max_length: int = field(kw_only=True)
    template: HeldOutTemplate = field(kw_only=True, metadata={"legacy": HeldOutTemplate.as_is})
    epoch: int | None = field(default=None, kw_only=True, metadata={"legacy": None})  # see TaskConfig


@dataclass
class HeldOutRowsJob:
    """Response tokens and group of the rows that a HeldOutJob scores: the same for every tuned model."""

    name: str = unhashed()
    max_length: int = field(kw_only=True)
    template: HeldOutTemplate = field(kw_only=True)


def task_sources(tasks: Mapping[str, TaskConfig]) -> dict[str, SourceConfig]:
    """Where the rows of tasks that read our sources come from, by the source's key."""
    sources = {}
    for name, task in tasks.items():
        where = f"evaluation.tasks.{name}"
        if task.kind is TaskKind.multiple_choice and task.source is not None:
            sources[f"{where}.source"] = task.source
        choices = task.rows is not None and task.rows.source.format is RowFormat.multiple_choice  # a problem already
        if task.kind is TaskKind.nll and task.rows is not None and not choices:
            sources[f"{where}.rows.source"] = task.rows.source
    return sources


def task_problems(tasks: Mapping[str, TaskConfig]) -> list[str]:
    """What tasks lack for their kind; what is said of no single value."""
    problems = []
    for name, task in tasks.items():
        where = f"evaluation.tasks.{name}"
        if task.kind is TaskKind.lm_eval:
            if task.task is None:
                problems.append(f"{where}.task: kind lm_eval needs the name of the lm-eval task.")
            if task.dataset is not None and task.files:
                problems.append(f"{where}.dataset: the rows come from {where}.files; set one of them.")
        elif task.kind is TaskKind.nll:
            if task.rows is None:
                problems.append(f"{where}.rows: kind nll needs rows.")
            elif task.rows.source.format is RowFormat.multiple_choice:
                problems.append(f"{where}.rows.source.format='multiple_choice': has no responses to score.")
            if task.metric != "nll":
                problems.append(f"{where}.metric={task.metric!r}: must be nll for kind nll.")
        elif task.source is None:
            problems.append(f"{where}.source: kind {task.kind.value} needs a source of rows.")
        elif task.source.format is not RowFormat.multiple_choice:
            problems.append(f"{where}.source.format={task.source.format.value!r}: must be multiple_choice.")
        if task.kind is TaskKind.multiple_choice and (unknown := set(task.metric.split("+")) - {"acc", "acc_norm"}):
            problems.append(f"{where}.metric={task.metric!r}: {min(unknown)!r} isn't acc or acc_norm.")
    return problems


def held_out_problems(tasks: Mapping[str, TaskConfig], pool: RowFormat) -> list[str]:
    """Settings of held-out tasks that can't work.

    Args:
        pool: format of the rows that tuning reads.
    """
    problems = []
    for name, task in tasks.items():
        where = f"evaluation.tasks.{name}"
        if task.kind is not TaskKind.nll:
            if task.template is not HeldOutTemplate.tuning or task.short_tokens != 10:
                problems.append(f"{where}: template and short_tokens are for kind nll, not {task.kind.value}.")
            continue
        for other in (f"{name}_rows", f"{name}_short"):
            if other in tasks:
                problems.append(f"evaluation.tasks.{other}: is a measure of the held-out task {name!r}; rename it.")
        if pool is RowFormat.prompt_response and task.template is HeldOutTemplate.tuning:
            problems.append(
                f"{where}.template='tuning': the pool's rows are ready prompts, which tuning takes as they stand; set "
                "template: as_is."
            )
    return problems


@dataclass
class EvaluationJob:
    name: str = unhashed()
    task: TaskConfig = field(kw_only=True)
    dtype: Dtype = field(kw_only=True)
    max_length: int = field(kw_only=True)
    seed: int = field(kw_only=True)
    backend: Backend = field(default=Backend.hf, kw_only=True, metadata={"legacy": Backend.hf})
    allow_code_execution: bool = field(default=False, kw_only=True, metadata={"hash": False})
    # examples of a task of ours are other rows than the one that is asked; in the hash where there are some
    others_as_examples: bool = field(default=False, kw_only=True, metadata={"legacy": False})


def rows_job(job: EvaluationJob) -> EvaluationJob:
    """Of an evaluation by one of lm-eval's tasks, only what decides which data sets it reads."""
    task = TaskConfig(TaskKind.lm_eval, "", task=job.task.task, dataset=job.task.dataset, aggregate=Aggregate.mean)
    return EvaluationJob(
        job.name,
        task=task,
        dtype=Dtype.float32,
        max_length=16,
        seed=0,
        allow_code_execution=job.allow_code_execution,
    )


@dataclass
class SharedTextJob:
    """Which items of a benchmark share text with the rows that are selected from."""

    name: str = unhashed()
    ngram: int = number(at_least=1)
    limit: int | None = None  # first items of each task
    evaluation: EvaluationJob | None = None  # of lm-eval's own tasks
