"""Check combinations of settings that no single value shows: pools, and weights of earlier epochs.

In: parts of a checked config.  Out: problems, each with key, value, rule and remedy. See ``icon_repro.config.load``.
"""

from collections.abc import Mapping
from typing import Any

from icon_repro.data.options import DataConfig, SelectFrom
from icon_repro.evaluate.options import TaskConfig, TaskKind
from icon_repro.train.options import TrainConfig


def pool_problems(data: DataConfig, methods: Mapping[str, Any], select_from: SelectFrom, *, full: bool) -> list[str]:
    """Problems of an experiment over several disjoint pools of candidates."""
    if data.pools == 1:
        return []
    where, problems = f"data.pools={data.pools}", []
    if data.candidates.size is None:
        problems.append(f"{where}: each pool is a slice of the order; set data.candidates.size, the rows of a pool.")
    if select_from is not SelectFrom.candidates:
        problems.append(f"{where}: methods rank the candidates of each pool; set select_from=candidates.")
    if full:
        problems.append(f"{where}: full tunes on the rows of one pool only; set full=false.")
    for name, method in methods.items():
        if (repeats := getattr(method, "repeats", 1)) > 1:
            problems.append(
                f"methods.{name}.repeats={repeats}: with {where} each method selects once a pool, which takes the "
                f"place of the selection seed; set methods.{name}.repeats=1."
            )
    return problems


def epoch_problems(training: TrainConfig, tasks: Mapping[str, TaskConfig]) -> list[str]:
    """Problems of weights that a training saves of earlier epochs, and of tasks that evaluate them."""
    kept, problems = training.kept_epochs, []
    if wrong := [epoch for epoch in kept if epoch > training.epochs]:
        problems.append(f"training.kept_epochs={kept}: epoch {wrong[0]} is after the last, epochs={training.epochs:g}.")
    if len(set(kept)) < len(kept):
        problems.append(f"training.kept_epochs={kept}: an epoch is given twice.")
    if kept and training.deepspeed is not None:
        problems.append(
            f"training.kept_epochs={kept}: DeepSpeed splits the weights, which are saved; set training.deepspeed=null."
        )
    for name, task in tasks.items():
        where = f"evaluation.tasks.{name}.epoch={task.epoch}"
        if task.epoch is None:
            continue
        if task.kind is not TaskKind.nll:
            problems.append(f"{where}: is for kind nll, not {task.kind.value}; remove it.")
        if task.epoch not in kept:
            problems.append(
                f"{where}: the training saves the epochs {kept}; add it to training.kept_epochs, or set epoch=null for "
                "the last."
            )
    return problems
