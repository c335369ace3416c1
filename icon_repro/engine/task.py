"""Run one task of a Slurm array: ``python -m icon_repro.engine.task TASKS INDEX`` runs the step of line INDEX.

In: a file with a worker's spec in each line.  Out: a published step, or an attempt that says why not; an exit code.
Needs neither Hydra nor a plan. The step runs in a child: this process stays free to answer signals.
SIGUSR1 comes before the time limit: the step is stopped, and the job requeued. SIGTERM comes when the job is preempted
(Slurm requeues it) or cancelled: the step is stopped.
Known gap: a preempted job has Slurm's GraceTime or KillWait for its checkpoint, and is killed then.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine import worker
from icon_repro.engine.console import say
from icon_repro.engine.environment import UnfitProcessError, clean, find_home, stand_up
from icon_repro.engine.jobs import SubmitError, call, command
from icon_repro.engine.run import git_state
from icon_repro.engine.runtime import Stop
from icon_repro.engine.targets import TARGETS

_POLL_S = 0.5
_BUSY_S = 5.0
_LOOKS = 5  # for the task list, a second apart
_GRACE_S = 600.0  # a preempted job is killed within that


class TaskError(RuntimeError):
    """A task can't start on this node."""


def read_task(tasks: Path, index: int) -> dict[str, Any]:
    """The spec in line ``index`` of a task list.

    Raises:
        TaskError: there is no such line, or the node doesn't see the work folder.
    """
    host = socket.gethostname()
    for _ in range(_LOOKS):
        if tasks.is_file():
            break
        time.sleep(1)
    else:
        raise TaskError(
            f"{tasks} isn't there on {host}: paths.work must be on a file system that all nodes share. "
            f"Look with: srun -w {host} ls -d {tasks.parent}"
        )
    with tasks.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number == index:
                spec: dict[str, Any] = json.loads(line)
                break
        else:
            raise TaskError(f"{tasks} has no line {index}: the array is larger than its list. Submit again.")
    if not Path(spec["root"]).is_dir():
        raise TaskError(f"{spec['root']} isn't there on {host}: paths.work must be shared by all nodes.")
    planned, versions = spec["hashed"]["version"], dict(TARGETS.values())
    if versions.get(spec["target"], planned) != planned:
        raise TaskError(
            f"{spec['label']}: sent as version {planned} of {spec['target']}, which is {versions[spec['target']]} in "
            f"the code on {host}. The code was changed after the submission: submit again."
        )
    return spec


def run_task(spec: Mapping[str, Any]) -> int:
    """Run the step of ``spec`` and answer Slurm's signals; returns the exit code, 0 if the step is there."""
    asked = list[int]()
    for number in worker.STOPS:
        signal.signal(number, lambda number, _: asked.append(number))
    state = git_state(Path(__file__).parent)
    # git: the code that runs; sent: that of the submission
    spec = {**spec, "git": state if state["commit"] else spec["git"], "sent": worker.sent_by(spec)}
    started = time.monotonic()
    say(f"{spec['label']} on {socket.gethostname()}, {time.ctime()}, restart {_restarts()}")
    outcome, waiting_said = _attempt(spec, asked), False
    while outcome.code == worker.BUSY and not asked:
        if not waiting_said:
            say("another process is at it; waiting")
        waiting_said = True
        time.sleep(_BUSY_S)
        outcome = _attempt(spec, asked)
    if outcome.code in (worker.BUILT, worker.CACHED):
        done = "built" if outcome.code == worker.BUILT else "is there"
        say(f"{spec['label']}: {done} after {time.monotonic() - started:.1f} s")
        return 0
    log = Path(spec["root"]) / ".attempts" / spec["folder"] / "log.txt"
    if not asked:
        name = {worker.BLOCKED: "blocked"}.get(outcome.code, "FAILED")
        say(f"{spec['label']}: {name}: {outcome.error}\n  log: {log}")
        return outcome.code
    names = ", ".join(signal.Signals(number).name for number in asked)
    say(f"{spec['label']}: stopped on {names}: {outcome.error or 'it had not begun'}")
    if asked[0] == signal.SIGUSR1:
        limit = spec["job"]["max_requeues"]
        say(requeue(limit if spec["resumable"] else min(limit, 1)))
    elif _state() == "RUNNING":  # preempted with a grace time: a job that ends within it isn't requeued
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
    return worker.INTERRUPTED


def _attempt(spec: Mapping[str, Any], asked: Sequence[int]) -> worker.Outcome:
    """Run the step in a child; once ``asked`` has a signal, stop the child, and kill it when its time is over."""
    context = multiprocessing.get_context("fork")  # nothing heavy is imported here, and there are no threads
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker.child, args=(spec, sender), name=spec["label"])
    signal.pthread_sigmask(signal.SIG_BLOCK, worker.STOPS)  # the child lifts it when it has handlers of its own
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, worker.STOPS)
    sender.close()
    deadline = math.inf
    while process.is_alive():
        if asked and math.isinf(deadline):
            deadline = time.monotonic() + spec["job"]["stop_s"]
            process.terminate()
        if time.monotonic() > deadline:
            process.kill()
        process.join(_POLL_S)
    return worker.outcome_of(process, receiver)


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))  # unset on the first run


def _job() -> str:
    """This job's id, ``array_task`` in an array; empty outside Slurm."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def requeue(limit: int) -> str:
    """Have Slurm run this job again, at most ``limit`` times; returns what came of it."""
    job = _job()
    if not job:
        return "not requeued: this isn't a job of Slurm. Run the same command again."
    if _restarts() >= limit:
        return (
            f"job {job} isn't requeued: it has been restarted {_restarts()} times. If its time limit is too short, "
            "raise cluster.slurm.time_min, or make shards smaller; then submit again."
        )
    try:
        done = call([command("scontrol"), "requeue", job])
    except SubmitError as error:  # Slurm's programs need not be on PATH where its jobs run
        return f"job {job} could not be requeued: {error} Submit again."
    if done.returncode != 0:
        return f"job {job} could not be requeued: {done.stderr.strip()}. Submit again."
    return f"job {job} requeued"


def _state() -> str:
    """Slurm's word for this job's state; empty if it can't say."""
    job = _job()
    if not job:
        return ""
    try:
        said = call([command("squeue"), "-h", "-j", job, "-o", "%T"]).stdout
    except SubmitError:
        return ""
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip().isupper()), "")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let Slurm's signals and Ctrl-C raise Interrupted in a run of several steps, so that it ends the one at work."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, *worker.STOPS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry of the batch script."""
    try:
        stand_up()
    except UnfitProcessError as fault:
        sys.exit(f"error: {fault}")
    clean()
    find_home()
    try:
        spec = read_task(Path(sys.argv[1]), int(sys.argv[2]))
    except TaskError as error:
        sys.exit(f"error: {error}")
    sys.exit(run_task(spec))


if __name__ == "__main__":
    main()
