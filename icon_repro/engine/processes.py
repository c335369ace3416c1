"""Run one step in a process of its own, and stop that process with this one.

In: a worker's spec.  Out: how the attempt ended.
Steps are forked from a server that has imported what they need: torch and transformers take seconds.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from icon_repro.engine import targets, twins, worker
from icon_repro.engine.artifact import Step
from icon_repro.engine.options import ClusterConfig, Executor

_TELL_S, _TELL_AT_LEAST_S = 60.0, 900.0  # until a long step is told of, and at most between two such lines
_STOP_S = 90.0  # what a step that was asked to stop has for it


def modules_of(steps: Sequence[Step]) -> list[str]:
    """What a fork server imports for ``steps``: their modules, and what several steps of one would import themselves.

    torch and transformers take 3.4 s of a CPU, in a step without a row too.
    """
    counts = Counter(targets.module_of(step.target) for step in steps)
    late = {name for module, count in counts.items() if count > 1 for name in targets.imported_late(module)}
    return sorted({*counts, *late})


@contextlib.contextmanager
def _silent_offline() -> Iterator[None]:
    """In processes that start W&B's offline mode has its other name, "dryrun": transformers announces "offline"."""
    given = os.environ.get("WANDB_MODE")
    if given == "offline":
        os.environ["WANDB_MODE"] = "dryrun"
    try:
        yield
    finally:
        if given is not None:
            os.environ["WANDB_MODE"] = given


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Keep signals that would end this process back until the end of the block. Handlers run in the main thread only.

    A mask of the thread won't do: the fork server would inherit it, and the steps from it.
    """
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *worker.STOPS):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])  # answered by the handler that is back


def _joined(process: BaseProcess, at_work: Callable[[float], None]) -> None:
    """Wait for the end of a step, and say after 1, 2, 4.. minutes that it goes on."""
    started, due = time.monotonic(), _TELL_S
    while process.exitcode is None:
        process.join(max(0.0, started + due - time.monotonic()))
        if process.exitcode is None:
            at_work(time.monotonic() - started)
            due += min(due, _TELL_AT_LEAST_S)


def last_line(log: Path) -> str:
    """Of a log that may still grow; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return (file.read().decode("utf-8", errors="replace").splitlines() or [""])[-1]
    except OSError:
        return ""


def execute(
    spec: dict[str, Any],
    attempt: Path,
    cluster: ClusterConfig,
    stages: Sequence[str],
    at_work: Callable[[float], None] = lambda spent: None,
) -> worker.Outcome:
    """Run one step; returns how the attempt ended.

    Args:
        stages: modules that a fork server imports once, for this and other steps.
        at_work: called now and then with the seconds that it has taken so far.

    A step whose result is there under another name takes it over in this process; any other gets a fresh one, its own
    memory and log.
    """
    if twins.of(spec) is not None:
        return _in_this_process(spec, attempt)
    if cluster.executor is Executor.inline:
        try:
            return worker.Outcome(worker.work(spec, sys.stderr))
        except (Exception, SystemExit) as error:
            with contextlib.suppress(OSError):  # a full disk: the error is returned in any case
                (attempt / "log.txt").write_text(traceback.format_exc(), encoding="utf-8")
            return worker.failure(error)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__, *stages])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker.child, args=(spec, sender), name=spec["label"])
    try:
        with _held(), _silent_offline():  # a child that is only half known to this process couldn't be stopped
            for pause_s in (0.1, 0.5, 2.0, None):
                try:
                    process.start()
                    break
                except (EOFError, OSError):  # the fork server died of an import; the step's log will say so
                    if pause_s is None:
                        raise
                    context.set_forkserver_preload([worker.__name__])
                    time.sleep(pause_s)  # until it has ended, it isn't replaced
            sender.close()
        _joined(process, at_work)
    except BaseException:  # Interrupted, KeyboardInterrupt: a resumable step saves what it has
        if process.pid is None:  # it never started
            raise
        process.terminate()
        try:
            process.join(_STOP_S)
        finally:
            process.kill()
            process.join()
        raise
    return worker.outcome_of(process, receiver)


def _in_this_process(spec: Mapping[str, Any], attempt: Path) -> worker.Outcome:
    """Take over a twin's result: less work than a process is."""
    try:
        attempt.mkdir(parents=True, exist_ok=True)
        with (attempt / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            return worker.Outcome(worker.work(spec))
    except (Exception, SystemExit) as error:
        return worker.failure(error)
