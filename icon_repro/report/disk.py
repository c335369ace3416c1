"""Estimate how much disk a plan's results take, and say what is free; weights and gradients are nearly all of it.

In: the steps of a plan.  Out: bytes, expected from numbers of parameters alone.
Known gap: small files (rows, scores, matrices of ICon, records of benchmarks) and the trainer's checkpoints aren't
counted; the hub's own cache and datasets' lie elsewhere.
"""

import shutil
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from icon_repro.config.actions import Keep
from icon_repro.data.options import Dtype, ModelConfig, ModelKind
from icon_repro.data.random_models import count_weights
from icon_repro.engine.artifact import Step
from icon_repro.experiment import Experiment
from icon_repro.lm.sizes import hidden_width, lora_weights
from icon_repro.methods.common.options import EmbeddingShard
from icon_repro.methods.less.options import LessMeans, LessShard
from icon_repro.train.options import TrainJob, Tuning

_FLOAT32 = 4
_BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2, Dtype.float16: 2}
_STORED = 2  # of weights on a hub
_ADAM = 2  # moments of a weight


def expected_bytes(step: Step) -> float:
    """What a step's folder takes; 0 for a small one."""
    params, model = step.params, _model_of(step)
    if isinstance(params, ModelConfig):
        if params.random is not None:
            weights, heads = count_weights(params.random)
            return float(weights * _BYTES[params.random.dtype] + heads * _FLOAT32)
        return 0.0 if params.kind is ModelKind.hub else float(params.parameters * _STORED)
    if model is None:
        return 0.0
    if isinstance(params, TrainJob):
        train = params.train
        trained = model.parameters if train.tuning is Tuning.full else lora_weights(model, train.lora)[0]
        kept = round(train.epochs) * (1 + _ADAM) * _FLOAT32 if train.keep_epochs else 0
        return float(trained * (_BYTES[train.save_dtype] * (1 + len(train.kept_epochs)) + kept))
    if isinstance(params, LessMeans):
        return float(lora_weights(model, params.less.lora)[0] * params.tasks * _FLOAT32)
    if isinstance(params, (LessShard, EmbeddingShard)) and params.stop is not None:
        numbers = params.less.dimensions if isinstance(params, LessShard) else hidden_width(model)
        return float((params.stop - params.start) * numbers * _FLOAT32)
    return 0.0


def _model_of(step: Step) -> ModelConfig | None:
    given = step.inputs.get("model")
    return given.params if given is not None and isinstance(given.params, ModelConfig) else None


def downloads(steps: Iterable[Step]) -> float:
    """Bytes of the models that ``steps`` get from a hub, into its own cache."""
    models = (step.params for step in steps if isinstance(step.params, ModelConfig))
    return float(sum(model.parameters * _STORED for model in models if model.kind is ModelKind.hub))


def removable(experiment: Experiment, keep: Keep) -> set[str]:
    """Folders of the steps whose weights needn't stay once nothing in the plan needs them."""
    if keep is Keep.all:
        return set()
    selections = {arm.train.folder for arm in experiment.arms if arm.train is not None and arm.select is not None}
    tuned = {step.folder for step in experiment.steps if isinstance(step.params, TrainJob)}
    return tuned - (selections if keep is Keep.selected else set())


def most_at_once(steps: Sequence[Step], missing: Iterable[Step], may_go: Container[str]) -> float:
    """Bytes that the missing steps take at most at a time, done one after the other.

    Args:
        steps: all of the plan, in its order.
        may_go: folders of steps whose weights go once nothing needs them.
    """
    wanted = {step.folder: step for step in missing}
    left: dict[str, int] = {}  # folder -> steps that still need it
    for step in wanted.values():
        for source in step.inputs.values():
            left[source.folder] = left.get(source.folder, 0) + 1
    now = most = 0.0
    for step in (step for step in steps if step.folder in wanted):
        now += expected_bytes(step)
        most = max(most, now)
        for source in step.inputs.values():
            left[source.folder] -= 1
            if not left[source.folder] and source.folder in may_go and source.folder in wanted:
                now -= expected_bytes(source)
    return most


def free_bytes(folder: Path) -> int:
    """What the disk of a folder, or of where it would be made, has left."""
    return shutil.disk_usage(_there(folder)).free


def _there(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def too_little(experiment: Experiment, missing: Sequence[Step]) -> list[str]:
    """A line if the work folder hasn't the room that the missing steps' weights take."""
    config = experiment.config
    free, most = free_bytes(Path(config.paths.work)), peak(experiment, missing, config.keep)
    if most <= free:
        return []
    none = peak(experiment, missing, Keep.none)
    less = f"Set keep=none, which takes {size(none)} at a time, or paths.work" if none < most else "Set paths.work"
    return [
        f"paths.work={config.paths.work}: {size(free)} are free, and the weights of the missing steps take about "
        f"{size(most)}. {less} to a folder on a larger disk."
    ]


def too_little_for_models(
    experiment: Experiment, missing: Sequence[Step], to_load: Sequence[Step], cache: Path
) -> list[str]:
    """A line if the disk of the hub's cache hasn't the room for models, and for the steps' weights if they lie there.

    Args:
        to_load: model steps whose files the cache doesn't hold.
    """
    work = Path(experiment.config.paths.work)
    models, free = downloads(to_load), free_bytes(cache)
    beside = (
        peak(experiment, missing, experiment.config.keep)
        if _there(work).stat().st_dev == _there(cache).stat().st_dev
        else 0
    )
    if models + beside <= free or not models or beside > free >= models:  # the latter has a line of its own
        return []
    with_weights = f" beside the {size(beside)} of the missing steps' weights" if beside else ""
    return [
        f"{cache}: {size(free)} are free, and the models that are read from the hub take about {size(models)}"
        f"{with_weights}. Let HF_HOME name a folder on a larger disk."
    ]


def peak(experiment: Experiment, missing: Sequence[Step], keep: Keep) -> float:
    """Bytes that the missing steps take at most at a time."""
    return most_at_once(experiment.steps, missing, removable(experiment, keep))


def size(count: float) -> str:
    """Bytes for people: ``1.05 TB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
