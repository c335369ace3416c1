"""Find all that would stop the missing steps of a plan before any work or download, each with what to do about it.

In: a plan and its store.  Out: lines. Nothing is made, nothing is downloaded, and no endpoint is asked for anything
that costs; a hub is asked whether it has what isn't here, and whether this login may read it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from icon_repro.config.actions import Action
from icon_repro.data.hub_access import Repository, lost, unreadable
from icon_repro.data.options import ModelConfig, ModelKind, RowsConfig, SourceConfig, SourceKind
from icon_repro.data.revisions import offline
from icon_repro.engine.accelerators import missing_gpus
from icon_repro.engine.artifact import Step, Store, StoreError, check_writable
from icon_repro.engine.pruning import needed_again
from icon_repro.evaluate.options import EvaluationJob
from icon_repro.evaluate.requirements import has_key, missing_for
from icon_repro.experiment import Experiment
from icon_repro.lm.options import EndpointConfig
from icon_repro.report.disk import too_little, too_little_for_models
from icon_repro.report.results import ResultsError, check


def missing_steps(experiment: Experiment, store: Store) -> list[Step]:
    """The steps of a plan that aren't in the store, or whose weights were removed and are needed again."""
    again = {step.folder for step in needed_again(experiment.steps, store)}
    return [step for step in experiment.steps if step.folder in again or not store.complete(step)]


def preflight(experiment: Experiment, store: Store, *, in_sweep: bool = False) -> list[str]:
    """All that would stop the missing steps: one line each, with what to do about it.

    ``run`` and ``submit`` refuse to start when there is something, ``plan`` shows it. It looks at branches without a
    commit, results of another configuration, what benchmarks need on this machine, keys, budgets, addresses of
    endpoints, what is read from a hub, GPUs, folders that can't be written, and room on their disk.
    """
    config, missing = experiment.config, missing_steps(experiment, store)
    problems = [*experiment.warnings]
    try:
        check(experiment, in_sweep=in_sweep)
    except ResultsError as error:
        problems.append(str(error))
    problems += missing_for(missing, Path(config.paths.cache))
    endpoints = [e for step in missing if isinstance(e := getattr(step.params, "endpoint", None), EndpointConfig)]
    # one without its key is named above; a loopback address of a job is another machine's than that which submits
    if asked := [e for e in endpoints if has_key(e) and not (e.local and config.action is Action.submit)]:
        from icon_repro.lm.endpoint_http import unreachable  # httpx takes a while to import

        problems += unreachable(asked)
    problems += _hub(experiment, missing)
    if config.action is not Action.submit and not _for_slurm(experiment) and any(step.cost.flops for step in missing):
        problems += missing_gpus(config.cluster)
    folders = {"paths.results": Path(config.paths.results) / config.name}
    if missing:
        folders |= {"paths.work": store.root, "paths.cache": Path(config.paths.cache)}
    for key, folder in folders.items():
        try:
            check_writable(key, folder)
        except StoreError as error:
            problems.append(str(error))
    return [*problems, *too_little(experiment, missing)]


def _for_slurm(experiment: Experiment) -> bool:
    """Whether the plan is one of jobs that ask Slurm for GPUs, which the machine that plans needn't have."""
    return experiment.config.action is Action.plan and bool(experiment.config.cluster.slurm.gpus)


def read_from_hub(steps: Iterable[Step]) -> dict[str, Repository]:
    """What ``steps`` read from a hub, by their folder; none of those that read another step's rows."""
    found = {}
    for step in steps:
        params, commit = step.params, step.extra.get("commit")
        if commit is None or step.stage not in ("model", "prepare") or "rows" in step.inputs:
            continue
        source = params.source if isinstance(params, RowsConfig) else params
        if isinstance(source, ModelConfig) and source.kind is ModelKind.hub and source.hub_id:
            found[step.folder] = Repository(step.where, "model", source.hub_id, commit)
        elif isinstance(source, SourceConfig) and source.kind is SourceKind.hub and source.hub_id:
            found[step.folder] = Repository(step.where, "dataset", source.hub_id, commit, source.subset)
        elif isinstance(params, EvaluationJob) and params.task.dataset is not None:
            found[step.folder] = Repository(step.where, "dataset", params.task.dataset.hub_id, commit)
    return found


def used_models(experiment: Experiment, missing: Sequence[Step]) -> list[Step]:
    """Models that the missing steps are, or read; a finished one's files may have gone from the hub's cache."""
    folders = {step.folder for step in missing} | {one.folder for step in missing for one in step.inputs.values()}
    return [step for step in experiment.steps if step.stage == "model" and step.folder in folders]


def lost_models(experiment: Experiment, missing: Sequence[Step], store: Store) -> list[Repository]:
    """Models of finished steps that the missing steps read, and this machine's cache lacks."""
    finished = [step for step in used_models(experiment, missing) if store.complete(step)]
    return lost(list(read_from_hub(finished).values()))


def _hub(experiment: Experiment, missing: Sequence[Step]) -> list[str]:
    models = used_models(experiment, missing)
    folders = {step.folder for step in (*models, *missing)}
    read = read_from_hub(step for step in experiment.steps if step.folder in folders)
    if not read:
        return []
    from huggingface_hub import constants

    to_load = [step for step in models if step.folder in read and read[step.folder].absent()]
    cache = Path(constants.HF_HUB_CACHE)
    room = [] if offline() else too_little_for_models(experiment, missing, to_load, cache)
    return [*unreadable(read.values()), *room]
