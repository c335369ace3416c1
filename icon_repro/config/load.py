"""Define every option of an experiment as a typed schema, and check them in one place.

In: the composed Hydra config (conf/ holds the values).  Out: a ``Config``, or one ConfigError with all problems.
``cluster``, ``paths``, ``tracking``, ``export``, ``action`` and fields marked ``unhashed`` never change results and
never enter a fingerprint. A knob without a schema here doesn't exist.
"""

import dataclasses
import difflib
import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icon_repro
from icon_repro.config.actions import Action, Keep, PlanDetail
from icon_repro.config.controls import epoch_problems, pool_problems
from icon_repro.config.unsafe import unsafe
from icon_repro.data.options import (
    DataConfig,
    Dtype,
    ModelConfig,
    ModelKind,
    RowFormat,
    RowsConfig,
    SelectFrom,
    SourceConfig,
    SourceKind,
    column_problems,
)
from icon_repro.engine.options import ATTENTION, DEVICES, ClusterConfig, PathsConfig, TrackingConfig
from icon_repro.engine.schema import SchemaError, build, nearest, number, plain, unhashed
from icon_repro.evaluate.judge.options import JudgeConfig, judge_problems, judge_sources
from icon_repro.evaluate.options import (
    EvaluationConfig,
    TaskKind,
    held_out_problems,
    limit_tasks,
    task_problems,
    task_sources,
)
from icon_repro.methods.kinds import problems_of, typed
from icon_repro.methods.select import SelectBudget
from icon_repro.train.options import TrainConfig, batch_problems, save_problems


class ConfigError(ValueError):
    """The configuration can't be run; the message lists every problem with its key."""


def conf_dir() -> Path:
    """The folder with config.yaml: inside the package in a wheel, beside it in a checkout."""
    package = Path(icon_repro.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


class Rehearse(enum.Enum):
    none = "none"
    stand_ins = "stand_ins"  # the same plan on random models and rows of ours: no network, no GPU
    real = "real"  # the real weights and data at small sizes


@dataclass
class ExportConfig:
    """Which selections action=export writes, and where."""

    method: str | None = None  # None: of all methods, those that are finished
    fraction: float | None = number(None, above=0, at_most=1)  # None: all of ``fractions``
    selection_seed: int | None = number(None, at_least=0)  # of a method with ``repeats``; None: all
    path: str | None = None  # gets a folder a selection; None: export/<name> in paths.work


class Until(enum.Enum):
    select = "select"  # scores and selections only, to compare methods
    evaluate = "evaluate"


class Unit(enum.Enum):
    selection = "selection"
    seed = "seed"
    pool = "pool"


@dataclass
class PrimaryConfig:
    """The comparison that an experiment is made for, set before its results are seen; the report opens with it."""

    measure: str  # average (of the benchmarks), or a task of which lower is better
    comparison: list[str]  # a method, and the one it is compared with
    unit: Unit = Unit.selection  # of replication
    fraction: float | None = number(None, above=0, at_most=1)  # None: each of ``fractions``


@dataclass
class Config:
    name: str  # of the experiment, and of its folder below paths.results and paths.published
    description: str  # a sentence, for the console and the page
    model: ModelConfig
    data: DataConfig
    methods: dict[str, Any]  # name -> the options of a method, as its kind below says
    training: TrainConfig
    evaluation: EvaluationConfig
    fractions: list[float] = number(above=0, at_most=1)  # of the rows, selected by each method
    # method -> fractions that it alone selects besides, e.g. for a curve; adaptive scoring isn't made for these
    more_fractions: dict[str, list[float]] = field(default_factory=dict, metadata={"above": 0, "at_most": 1})
    seeds: list[int] = number([0], at_least=0)  # of training; each selection is tuned on with each
    # for sweeps (-m seed=1,2,3): the only one of ``seeds``, and _s<seed> ends the name
    seed: int | None = field(default=None, metadata={"hash": False, "at_least": 0})
    select_from: SelectFrom = SelectFrom.candidates  # what every method ranks, and "full" tunes on
    budget: SelectBudget = SelectBudget.rows  # what ``fractions`` are of, for all methods alike
    until: Until = Until.evaluate  # where the experiment ends
    base: bool = True  # evaluate the model without tuning
    full: bool = True  # tune on all rows of select_from
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    primary: PrimaryConfig | None = unhashed(None)  # changes what a report opens with, and no result
    published: str | None = unhashed(None)  # folder in paths.experiments with paper_table*.csv, claims.yaml
    explain: str | None = unhashed(None)  # a cell of a table, for action=report: what it is made of
    action: Action = Action.run
    plan: PlanDetail = unhashed(PlanDetail.short)  # what action=plan prints
    keep: Keep = unhashed(Keep.all)  # of tuned weights, when a run is at it and by action=prune
    confirm: bool = unhashed(False)  # action=prune removes what it names
    rehearse: Rehearse = unhashed(Rehearse.none)  # see ``icon_repro.config.rehearse``; what it changes is hashed
    verbose: bool = unhashed(False)  # show details of a run
    quiet: bool = unhashed(False)  # show warnings and failures alone


_REMOVED = {"mixed_versions": "runs of mixed versions are never averaged. Leave it out; the table says which to redo."}


def load(data: Mapping[str, Any]) -> Config:
    """Check a composed config and make it typed.

    Args:
        data: nested dicts with interpolations resolved; ``OmegaConf.to_container(cfg, resolve=True)``.

    Raises:
        ConfigError: one message with all problems: unknown keys (with the nearest name), types, ranges, combinations.
    """
    problems = unsafe(data)
    problems += [f"{key}: isn't an option any more: {why}" for key, why in _REMOVED.items() if key in data]
    data = {key: value for key, value in data.items() if key not in _REMOVED}
    methods = data.get("methods")
    made: dict[str, Any] = {}
    for name, value in methods.items() if isinstance(methods, Mapping) else ():
        if isinstance(value, Mapping) and value and "kind" not in value:  # an override of a method that isn't there
            where, key = f"methods.{name}", next(iter(value))
            others = [str(other) for other in data["methods"] if other != name]
            near = difflib.get_close_matches(str(name), others, 1)
            remedy = f"Did you mean methods.{near[0]}.{key}?" if near else _how_to_add(str(name), others)
            problems.append(f"{where}.{key}: the experiment has no method {name!r}. {remedy}")
            continue
        try:
            made[name] = typed(f"methods.{name}", value)
        except SchemaError as error:
            problems += error.problems
    try:
        config = build(Config, {**data, "methods": made} if isinstance(methods, Mapping) else data)
    except SchemaError as error:
        problems += error.problems
    else:
        if config.seed is not None:
            config.name, config.seeds, config.seed = f"{config.name}_s{config.seed}", [config.seed], None
        limit_tasks(config.evaluation)
        if len(made) == len(methods or {}):  # else what is said of several methods may be wrong
            problems += _combinations(config)
    if isinstance(methods, Mapping) and not methods and data.get("fractions"):
        problems.append(
            "methods: none is there to select fractions. Name them: methods=[random,icon]; without any: fractions=[]."
        )
    if problems:
        head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration:"
        raise ConfigError("\n".join([head, *(f"  {p}" for p in problems)]))
    return config


def _how_to_add(name: str, others: Sequence[str]) -> str:
    """How an experiment with the methods ``others`` gets one of this name."""
    files = {path.stem for path in (conf_dir() / "method").glob("*.yaml")}
    if name in files:
        return f"Name it beside the others: methods=[{','.join([*others, name])}]."
    near = difflib.get_close_matches(name, sorted(files), 1, 0.6)
    if near:
        return f"Did you mean {near[0]!r}? methods=[{','.join([*others, near[0]])}] has it beside the others."
    return f"Add one under this name with its file: +method@methods.{name}=random (action=methods lists them all)."


def _combinations(config: Config) -> list[str]:
    """Problems that no single value shows."""
    problems = []
    models = {"model": config.model, **({"judge.model": config.judge.model} if config.judge.model else {})}
    for name, method in config.methods.items():
        models |= _models(f"methods.{name}", method)
    names = [config.name, config.data.name, *(model.name for model in models.values())]
    names += [config.published] if config.published is not None else []
    for name in [*names, *config.methods, *config.evaluation.tasks]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", name):
            legal = re.sub("[^A-Za-z0-9_.]+", "_", name).strip("_.") or "mine"
            problems.append(f"name {name!r}: must be letters, digits, '_' and '.', as it names folders, e.g. {legal}.")
    for reserved in {"base", "full"} & set(config.methods):
        problems.append(f"methods.{reserved}: the name is taken by the {reserved} row; choose another.")
    sources = {"data.pool.source": config.data.pool.source, "data.assessment.source": config.data.assessment.source}
    if config.data.target is not None:
        sources["data.target.source"] = config.data.target.source
        if config.select_from is not SelectFrom.pool:
            problems.append("data.target: is another pool to select from; set select_from=pool, or data.target=null.")
    sources |= task_sources(config.evaluation.tasks)
    problems += task_problems(config.evaluation.tasks)
    problems += held_out_problems(config.evaluation.tasks, config.data.pool.source.format)
    selecting: dict[str, SourceConfig] = {}
    for name, method in config.methods.items():
        selecting |= _method_sources(f"methods.{name}", method)
    problems += _seen_problems(selecting, sources)
    sources |= selecting
    sources |= {f"{where}.source": rows.source for where, rows in judge_sources(config.judge).items()}
    problems += judge_problems(config.judge, config.methods, base=config.base, full=config.full)
    needs = {SourceKind.hub: "hub_id", SourceKind.file: "path", SourceKind.registry: "registry"}
    for where, source in sources.items():
        problems += column_problems(where, source)
        if getattr(source, needs[source.kind]) is None:
            problems.append(f"{where}.{needs[source.kind]}: kind {source.kind.value} needs it.")
        if source.kind is SourceKind.hub and source.revision is None:
            problems.append(f"{where}.revision: a hub data set needs a commit (or a branch, which is then resolved).")
    for where, source in sources.items():
        if source.fields.response is None and not where.startswith("judge."):
            problems.append(f"{where}.fields.response=null: prompts alone are for judging; name the column.")
    for where in ("data.pool", "data.assessment", *(["data.target"] if config.data.target is not None else [])):
        if sources[f"{where}.source"].format is RowFormat.multiple_choice:
            problems.append(f"{where}.source.format='multiple_choice': is for benchmarks, not for {where}.")
    for where, model in models.items():
        problems += _model_problems(where, model)
    if config.training.dtype is Dtype.float16:
        problems.append("training.dtype='float16': needs loss scaling, which isn't built; use bfloat16 or float32.")
    problems += pool_problems(config.data, config.methods, config.select_from, full=config.full)
    problems += epoch_problems(config.training, config.evaluation.tasks)
    for name, method in config.methods.items():
        problems += problems_of(name, method, config)
    problems += _primary_problems(config)
    if not config.seeds:
        problems.append("seeds=[]: give at least one training seed.")
    if len(set(config.seeds)) < len(config.seeds):
        problems.append(f"seeds={config.seeds}: a seed is given twice.")
    if len(set(config.fractions)) < len(config.fractions):
        problems.append(f"fractions={config.fractions}: a fraction is given twice.")
    for name, more in config.more_fractions.items():
        if name not in config.methods:
            problems.append(f"more_fractions.{name}: no such method.{nearest(name, config.methods)}")
        if twice := sorted({one for one in more if one in config.fractions or more.count(one) > 1}):
            problems.append(f"more_fractions.{name}={more}: {twice[0]:g} is given twice, or in fractions.")
        other = getattr(config.methods.get(name), "matched_to", None)
        if other is not None and (lacking := sorted(set(more) - set(config.more_fractions.get(other, [])))):
            problems.append(f"more_fractions.{name}: follows {other}, which doesn't select {lacking[0]:g}; add it too.")
    if config.methods and not config.fractions:
        problems.append("fractions=[]: give at least one fraction to select, e.g. [0.15].")
    if config.verbose and config.quiet:
        problems.append("verbose=true, quiet=true: set one of them.")
    if config.explain is not None and config.action is not Action.report:
        problems.append(f"explain={config.explain!r}: goes with action=report, not action={config.action.value}.")
    problems += save_problems("training", config.training)
    problems += batch_problems("training", config.training.global_batch_size, config.cluster)
    problems += _process_problems(config)
    return problems


def _primary_problems(config: Config) -> list[str]:
    """Problems of the primary comparison: a measure or a method that isn't there, or one that isn't compared."""
    if config.primary is None:
        return []
    primary, problems = config.primary, []
    tasks = {name for name, task in config.evaluation.tasks.items() if task.kind is TaskKind.nll}
    if primary.measure != "average" and not any(primary.measure.startswith(task) for task in tasks):
        known = sorted({"average", *tasks})
        problems.append(f"primary.measure={primary.measure!r}: no such measure.{nearest(primary.measure, known)}")
    if len(primary.comparison) != 2:
        problems.append(f"primary.comparison={primary.comparison}: must be two methods, e.g. [icon, random].")
    for name in primary.comparison:
        if name not in config.methods:
            problems.append(
                f"primary.comparison: no method {name!r}.{nearest(name, config.methods)} Without the comparison: "
                "primary=null."
            )
    if len(primary.comparison) == 2 and primary.comparison[1] in config.methods:
        control = primary.comparison[1]
        matched = getattr(config.methods[control], "matched_to", None)
        if control not in ("random", "longest") and matched != primary.comparison[0]:
            problems.append(
                f"primary.comparison={primary.comparison}: verdicts are against random, longest, or random matched to "
                f"{primary.comparison[0]}; name one of them second."
            )
    if primary.fraction is not None and primary.fraction not in config.fractions:
        problems.append(f"primary.fraction={primary.fraction:g}: isn't in fractions={config.fractions}.")
    return problems


def _process_problems(config: Config) -> list[str]:
    """Problems of the device, and of a training in several processes."""
    problems = []
    cluster, training = config.cluster, config.training
    if not re.fullmatch(r"auto|cpu|(cuda|hpu|mps|npu|xpu)(:\d+)?", cluster.device):
        problems.append(f"cluster.device={cluster.device!r}: no device.{nearest(cluster.device, DEVICES)}")
    # others may be the hub's kernels, or of a later release: they are asked for when a model is loaded
    word = re.fullmatch(r"\w+", cluster.attention) and cluster.attention not in ATTENTION
    if word and (near := nearest(cluster.attention, ATTENTION)):
        problems.append(f"cluster.attention={cluster.attention!r}: none of transformers' own.{near}")
    if training.keep_epochs and training.deepspeed is not None:
        problems.append(
            "training.keep_epochs=true: DeepSpeed splits Adam's moments, which it keeps; set training.deepspeed=null."
        )
    if cluster.processes > 1 and re.fullmatch(r"cuda:\d+", cluster.device):
        problems.append(
            f"cluster.device={cluster.device!r}: is one GPU, and cluster.processes={cluster.processes} need one each; "
            "set cluster.device=cuda, and CUDA_VISIBLE_DEVICES to choose among them."
        )
    gpus = cluster.slurm.job("training").gpus
    if config.action is Action.submit and cluster.device != "cpu" and gpus is not None and 0 < gpus < cluster.processes:
        problems.append(
            f"cluster.processes={cluster.processes}: a job of a training has {gpus} GPU; set "
            f"cluster.slurm.training.gpus={cluster.processes}."
        )
    return problems


def _models(where: str, settings: Any) -> dict[str, ModelConfig]:
    """Every model that ``settings``, with the key ``where``, names; by its own key."""
    if isinstance(settings, ModelConfig):
        return {where: settings}
    found: dict[str, ModelConfig] = {}
    for one in dataclasses.fields(settings) if dataclasses.is_dataclass(settings) else ():
        found |= _models(f"{where}.{one.name}", getattr(settings, one.name))
    return found


def _model_problems(where: str, model: ModelConfig) -> list[str]:
    """Problems of a model with the key ``where``."""
    problems = []
    needs = {
        ModelKind.hub: "hub_id",
        ModelKind.local: "path",
        ModelKind.registry: "registry",
        ModelKind.random: "random",
    }
    if getattr(model, needs[model.kind]) is None:
        problems.append(f"{where}.{needs[model.kind]}: kind {model.kind.value} needs it.")
    if model.kind is ModelKind.hub and model.revision is None:
        problems.append(f"{where}.revision: a hub model needs a commit (or a branch, which is then resolved).")
    shape = model.random
    if shape and (shape.hidden_size % shape.heads or shape.heads % shape.kv_heads):
        problems.append(f"{where}.random: heads must divide hidden_size, and kv_heads must divide heads.")
    return problems


def _method_sources(where: str, settings: Any) -> dict[str, SourceConfig]:
    """Every source of rows that ``settings``, with the key ``where``, names; by its own key."""
    if isinstance(settings, RowsConfig):
        return {f"{where}.source": settings.source}
    found: dict[str, SourceConfig] = {}
    inner = settings if isinstance(settings, Mapping) else {}
    if dataclasses.is_dataclass(settings):
        inner = {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)}
    for name, value in inner.items():
        found |= _method_sources(f"{where}.{name}", value)
    return found


def _seen_problems(selecting: Mapping[str, SourceConfig], sources: Mapping[str, SourceConfig]) -> list[str]:
    """Problems of rows that a method selects by and that are evaluated too."""
    asked = {json.dumps(_place(s), sort_keys=True): k for k, s in sources.items() if k.startswith("evaluation.")}
    places = {where: asked.get(json.dumps(_place(source), sort_keys=True)) for where, source in selecting.items()}
    return [
        f"{where}: is the same as {found}: the selection would see what is evaluated. "
        "Use a split for development, or a source of few-shot examples."
        for where, found in places.items()
        if found is not None
    ]


def _place(source: SourceConfig) -> list[Any]:
    """Where a source's rows lie, however they are read."""
    return [source.path, source.hub_id, source.subset, source.hub_id and source.split, plain(source.registry)]
