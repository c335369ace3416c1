"""Command line: ``python -m icon_repro [experiment=NAME] [action=run|plan|submit|status|report|...] [KEY=VALUE]``.

In: Hydra's config from conf/ with overrides.  Out: steps under paths.work, tables under paths.results.
"""

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from icon_repro.config.actions import Action
from icon_repro.config.arguments import open_overrides
from icon_repro.config.compose import register_resolvers, typed
from icon_repro.config.help import FETCHED, help_text, version_text
from icon_repro.config.json_schema import json_schema
from icon_repro.config.load import Config, ConfigError, Rehearse, Until, conf_dir
from icon_repro.config.unsafe import unsafe_files
from icon_repro.data.options import ModelConfig, SourceConfig
from icon_repro.data.planner import PlanError
from icon_repro.data.weights import WeightsError, download
from icon_repro.engine.artifact import ArtifactError, Step, Store
from icon_repro.engine.console import LOG, say, set_level
from icon_repro.engine.environment import UnfitProcessError, clean, find_home, stand_up
from icon_repro.engine.jobs import SubmitError, living, read_jobs, with_job
from icon_repro.engine.pruning import renew
from icon_repro.engine.records import RecordError
from icon_repro.engine.run import run, status
from icon_repro.engine.runtime import Interrupted
from icon_repro.engine.slurm import submit
from icon_repro.engine.task import requeue, stoppable
from icon_repro.engine.tracking import TrackingError, wandb_mode
from icon_repro.evaluate.judge.plan import expected_calls
from icon_repro.experiment import Experiment, only_read, plan
from icon_repro.report import plan_text, prune
from icon_repro.report.checksums import Intact
from icon_repro.report.collect import estimate
from icon_repro.report.console_tables import terminal_width
from icon_repro.report.pace import pace, told
from icon_repro.report.preflight import lost_models, missing_steps, preflight
from icon_repro.report.remaining import Remaining
from icon_repro.report.results import ResultsError, check, note_selections, place_of, report, writing
from icon_repro.report.settings import Otherwise, otherwise, public
from icon_repro.report.wandb_runs import log_experiment

# first parts of keys that decide no number
_NO_SETTINGS = {"action", "cluster", "confirm", "experiment", "explain", "export", "hydra", "keep", "name", "paths"}
_NO_SETTINGS |= {"plan", "quiet", "tracking", "verbose"}


def main() -> None:
    """Entry of the console script and of ``python -m icon_repro``."""
    try:
        stand_up()
    except UnfitProcessError as fault:
        sys.exit(f"error: {fault}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that isn't UTF-8 shows another sign, rather than fail
    try:
        _main()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:  # while no step is at work
        print("stopped by SIGINT; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):  # Hydra's own takes seconds to list its groups
        print(help_text(conf_dir()), end="")
        sys.exit(0)
    if "action=diff" in sys.argv[1:]:  # takes two folders, and no configuration
        from icon_repro.report import diff  # pandas takes a second to import

        sys.exit(diff.main([argument for argument in sys.argv[1:] if argument != "action=diff"]))
    if "--version" in sys.argv[1:]:
        print(version_text())
        sys.exit(0)
    try:
        if problems := unsafe_files(sys.argv[1:]):
            raise ConfigError("\n".join(problems))
        given = [*sys.argv[1:]]
        sys.argv[1:] = open_overrides(given, conf_dir())
    except ConfigError as error:
        sys.exit(f"error: {error}")
    if removed := clean():
        print(f"warning: taken out of the environment for this run: {', '.join(removed)}", file=sys.stderr)
    if changed := find_home():
        print(f"warning: {changed}", file=sys.stderr)
    register_resolvers()
    codes: list[int] = []

    def job(raw: DictConfig) -> None:  # an exit here would end a sweep at its first failure
        try:
            codes.append(_run(raw, given))
        except BrokenPipeError:  # Hydra would show it as an error of the program
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            codes.append(128 + signal.SIGPIPE)

    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    sys.exit(max(codes, default=0))


def _run(raw: DictConfig, given: Sequence[str]) -> int:
    """One job; returns its exit code. What the user can mend is one clear message, not a traceback."""
    actions: dict[Action, Callable[[Experiment, Store], int]] = {
        Action.run: partial(_action_run, given),
        Action.plan: _action_plan,
        Action.submit: _action_submit,
        Action.status: _action_status,
        Action.report: partial(_action_report, given),
        Action.compare: _action_compare,
        Action.export: _action_export,
        Action.publish: _action_publish,
        Action.fetch: partial(_action_run, given),
        Action.prune: _action_prune,
    }
    problems = (
        ConfigError,
        PlanError,
        WeightsError,
        ResultsError,
        TrackingError,
        ArtifactError,
        RecordError,
        SubmitError,
        OmegaConfBaseException,
    )
    try:
        config = typed(raw, given)
        set_level(verbose=config.verbose, quiet=config.quiet)
        if config.action is Action.verify:
            return _action_verify(config)
        if config.action in (Action.methods, Action.models, Action.data, Action.benchmarks, Action.schema):
            return _list(config)
        if config.action is Action.diff:
            raise ConfigError("action=diff: give it as written here, with two folders: action=diff results/a results/b")
        if config.explain is not None and config.action is Action.report:
            return _explain(config, config.explain)
        wandb_mode(config.tracking)  # refuses what it doesn't know before any work is done
        experiment, store = plan(config), Store(Path(config.paths.work))
        code = actions[config.action](experiment, store)
        if config.rehearse is not Rehearse.none and config.action is Action.run and code < 128:
            from icon_repro.report.rehearsal import ending  # claims take a moment to import

            LOG.info("%s", "\n".join(ending(experiment, store, raw)))
        return code
    except problems as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except (ImportError, MemoryError) as error:
        LOG.debug("%s", "", exc_info=True)
        print(
            f"error: {type(error).__name__}: {error}. A package can't be loaded: is memory limited (ulimit -v), or the "
            "installation not whole? verbose=true shows where.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: {error}. Check the file's place and permissions; finished steps are kept.", file=sys.stderr)
            return 1
        print(f"error: {error}. Make room and run again: finished steps are kept.", file=sys.stderr)
        return 1


def _list(config: Config) -> int:
    from icon_repro.report import catalogue

    listed: dict[Action, Callable[[], list[str]]] = {
        Action.methods: lambda: catalogue.methods(config, conf_dir()),
        Action.models: lambda: catalogue.models(conf_dir()),
        Action.data: lambda: catalogue.data(conf_dir()),
        Action.benchmarks: lambda: catalogue.benchmarks(conf_dir()),
    }
    if config.action is Action.schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    for line in listed[config.action]():
        print(*wrap(line, terminal_width(), subsequent_indent=" " * 4) or [""], sep="\n")
    return 0


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise PlanError("\n".join(problems))


def _action_run(given: Sequence[str], experiment: Experiment, store: Store) -> int:
    config = experiment.config
    fetching = config.action is Action.fetch
    experiment = only_read(experiment) if fetching else experiment
    _refuse(preflight(experiment, store, in_sweep=_in_sweep()))
    say(f"{config.name}: {config.description.strip()}")
    missing = missing_steps(experiment, store)
    expected = estimate(missing)
    say(
        f"{len(experiment.steps)} steps, {len(missing)} to do"
        + (f", about {plan_text.amount(expected)}" if expected.tokens else "")
    )
    remaining = Remaining(experiment.steps, store, config.cluster)
    beforehand = [*filter(None, [remaining.first()]), *expected_calls(missing), *_licences(missing), *experiment.notes]
    for line in [*beforehand, *([] if fetching or not missing else plan_text.unsaid(experiment))]:
        say(line)
    _renew(experiment, store)
    for model in lost_models(experiment, experiment.steps if fetching else missing, store):
        say(f"{model.text}: a finished step has read it, and the hub's cache here lacks it: downloaded again")
        download(model.hub_id, model.commit, model.where)
    intact, remove = Intact(store), prune.Remover(experiment, store)

    def said(line: str) -> None:
        for text in [line, *remove()]:
            say(text)

    try:
        with stoppable():
            cache = Path(config.paths.cache)
            summary = run(experiment.steps, store, config.cluster, cache, said, intact.damaged, remaining)
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from here", file=sys.stderr)
        if stop.number == signal.SIGUSR1:
            print(requeue(config.cluster.slurm.max_requeues), file=sys.stderr)
        return 128 + stop.number
    intact.save()
    for label, why in summary.failed.items():
        LOG.warning("  failed: %s: %s", label, why)
    say(
        f"{len(summary.built)} built, {len(summary.cached)} cached, {len(summary.failed)} failed, "
        f"{len(summary.blocked)} blocked"
    )
    if fetching and not summary.failed:
        say(FETCHED.format(work=store.root, cache=config.paths.cache))
    finished = 0 if fetching else _action_report(given, experiment, store)
    return 1 if summary.failed else finished


def _licences(steps: Sequence[Step]) -> list[str]:
    """A line for each model and data set that ``steps`` read for the first time."""
    lines = []
    for step in steps:
        source = getattr(step.params, "source", step.params)
        if isinstance(source, (ModelConfig, SourceConfig)):
            lines.append(f"  {step.label} reads {source.name}: licence {source.licence}")
    return ["First use of:", *lines] if lines else []


def _action_plan(experiment: Experiment, store: Store) -> int:
    missing = missing_steps(experiment, store)
    print(*plan_text.lines(experiment, store, missing, preflight(experiment, store, in_sweep=_in_sweep())), sep="\n")
    return 0


def _action_prune(experiment: Experiment, store: Store) -> int:
    print(*prune.lines(experiment, store), sep="\n")
    return 0


def _action_compare(experiment: Experiment, store: Store) -> int:
    from icon_repro.report.compare import compare  # scipy takes a second to import

    check(experiment)  # it writes to the folder of results
    compare(experiment, store, say)
    return 0


def _action_export(experiment: Experiment, store: Store) -> int:
    from icon_repro.report.export import export  # pyarrow takes a while to import

    overrides = [override.lstrip("+") for override in HydraConfig.get().overrides.task]
    export(experiment, store, overrides, print, _otherwise(experiment.config))
    return 0


def _otherwise(config: Config) -> Otherwise | None:
    """What this command sets otherwise than the experiment's file; a rehearsal says so by itself."""
    hydra_config = HydraConfig.get()
    experiment = hydra_config.runtime.choices.get("experiment")
    others = (one.lstrip("+~").split("=")[0].split(".")[0] for one in hydra_config.overrides.task)
    if experiment is None or config.rehearse is not Rehearse.none or not set(others) - _NO_SETTINGS:
        return None
    return otherwise(experiment, config, typed(hydra.compose("config", [f"experiment={experiment}"]), real=True))


def _renew(experiment: Experiment, store: Store) -> None:
    for step in renew(experiment.steps, store):
        say(f"{step.label}: its weights were removed and are needed: built again")


def _action_submit(experiment: Experiment, store: Store) -> int:
    config = experiment.config
    missing = missing_steps(experiment, store)
    _refuse(preflight(experiment, store, in_sweep=_in_sweep()))
    _renew(experiment, store)
    if submit(experiment.steps, store, config.cluster, Path(config.paths.cache), say):
        for line in [*expected_calls(missing), *plan_text.unsaid(experiment), *_licences(missing)]:
            say(line)
    return 0


def _action_status(experiment: Experiment, store: Store) -> int:
    counts: dict[str, int] = {}
    sent, asked = read_jobs(store), True
    try:
        alive = living(sent)
    except SubmitError as error:
        print(f"warning: {error} What follows is known from files alone.")
        alive, asked = {}, False
    for step in experiment.steps:
        state = with_job(status(step, store), sent.get(step.folder), alive.get(step.folder), asked=asked)
        counts[state.state] = counts.get(state.state, 0) + 1
        if state.state == "queued":
            print(f"{state.state:<12}{step.label}: {state.why}")
        elif state.state not in ("cached", "missing"):
            print(f"{state.state:<12}{step.label}: {state.why}\n            log: {state.log}{_last_line(state.log)}")
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    for line in told(pace(experiment.steps, store, experiment.config.cluster)):
        print(line)
    return 0


def _last_line(log: str) -> str:
    path = Path(log)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return f"\n            {lines[-1]}" if lines else ""


def _action_report(given: Sequence[str], experiment: Experiment, store: Store) -> int:
    config = experiment.config
    if config.until is Until.select:
        code = _action_compare(experiment, store)
        if code == 0:
            note_selections(experiment)
        say(log_experiment(experiment, store, public(config), [], None, Path(config.paths.results) / config.name))
        return code
    report(experiment, store, say, arguments=given, otherwise=_otherwise(experiment.config))
    return 0


def _action_publish(experiment: Experiment, store: Store) -> int:
    from icon_repro.report.publish import publish  # scipy and jinja2 take a second to import

    with writing(store, experiment.config.name):
        publish(experiment, say)
    return 0


def _action_verify(config: Config) -> int:
    from icon_repro.report.verify import verify  # scipy and jinja2 take a second to import

    return 0 if verify(Path(config.paths.published), Path(config.paths.experiments), print) else 1


def _explain(config: Config, cell: str) -> int:
    from icon_repro.report.explain import ExplainError, explain  # scipy takes a second to import

    paths = config.paths
    try:
        explain(cell, place_of(config), Path(paths.work), Path(paths.experiments), print)
    except ExplainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
