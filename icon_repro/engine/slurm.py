"""Send the missing steps to Slurm as job arrays, and say how the jobs of a plan stand.

In: a plan's steps, a store.  Out: one array for each level, stage and resource class; ``<work>/.submit`` holds task
lists (one worker's spec a line), the batch script, logs, and jobs.json: which job each step was sent with.
Arrays depend with ``afterany`` on those that build their inputs: Slurm's word for a job's end isn't to be relied on
(a preempted job counts as TIMEOUT, a forgotten one as done), so the worker looks whether its inputs are there.
Source: own; sbatch's manual.
"""

import contextlib
import getpass
import json
import os
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.jobs import Sent, SubmitError, call, command, living, read_jobs, write_jobs
from icon_repro.engine.leases import read_note
from icon_repro.engine.options import ClusterConfig, SlurmConfig, SlurmJob
from icon_repro.engine.run import git_state
from icon_repro.engine.worker import make_spec

_PATIENCE_S = 180.0  # for another submission
_STOP_SHARE = 0.8  # of the signal's lead time: what a step that is asked to stop has for it
_SKEW_S = 5.0
_REMEDIES = (
    ("invalid partition", "Set cluster.slurm.partition; sinfo lists them."),
    ("account", "Set cluster.slurm.account and cluster.slurm.partition to a pair that you may use."),
    ("invalid qos", "Set cluster.slurm.qos."),
    ("time limit", "Lower cluster.slurm.time_min; sinfo shows each partition's limit."),
    ("invalid job array", "Lower cluster.slurm.max_array_size (scontrol show config: MaxArraySize, less one)."),
    ("configuration is not available", "Lower cluster.slurm.gpus, cpus or memory_gb to what a node has."),
    ("memory", "Lower cluster.slurm.memory_gb."),
    ("contact slurm controller", "Is this a login node, and the cluster up? scontrol ping says so."),
)


@dataclass(frozen=True)
class Array:
    """Steps that one sbatch call sends."""

    level: int
    stage: str
    kind: str  # resource class
    steps: list[Step]


def resource_class(step: Step) -> str:
    """Which part of ``cluster.slurm`` a step's job asks by: selection is what needs no model."""
    if step.stage == "judge":
        return "judging"
    if step.stage == "evaluate":
        return "evaluation"
    if step.target.endswith((".train:run", ".selector:train")):
        return "training"
    return "scoring" if any(needed.stage == "model" for needed in step.inputs.values()) else "selection"


def arrays(steps: Sequence[Step], largest: int) -> list[Array]:
    """``steps`` by level (longest path among them), stage and class, in arrays of at most ``largest``.

    Args:
        steps: inputs before what needs them.
    """
    levels: dict[str, int] = {}
    groups: dict[tuple[int, str, str], list[Step]] = {}
    for step in steps:
        level = 1 + max((levels.get(needed.folder, 0) for needed in step.inputs.values()), default=0)
        levels[step.folder] = level
        groups.setdefault((level, step.stage, resource_class(step)), []).append(step)
    return [
        Array(*key, steps=group[first : first + largest])
        for key, group in sorted(groups.items())
        for first in range(0, len(group), largest)
    ]


def submit(steps: Sequence[Step], store: Store, cluster: ClusterConfig, cache: Path, say: Callable[[str], None]) -> int:
    """Send the missing steps that no living job has; returns how many. Prints what was sent and how to follow it.

    Args:
        steps: inputs before what needs them (``artifact.ordered``).
        say: gets lines for the user.

    Raises:
        SubmitError: nothing can be sent, or sbatch refused; what was sent before that is stored, and goes on.
    """
    slurm = cluster.slurm
    git = git_state(Path(__file__).parent)
    if git["dirty"] and not slurm.allow_dirty:
        raise SubmitError(
            "the checkout has uncommitted changes, and results would name a commit that didn't make them. Commit them "
            "(git status shows them), or set cluster.slurm.allow_dirty=true."
        )
    command("sbatch")
    folder = store.root.absolute() / ".submit"
    with _lock(folder):
        _check_clock(folder, say)
        sent = read_jobs(store)
        alive = living(sent)
        suspects = _suspects(steps, store)
        missing = [step for step in steps if step.folder in suspects or not store.complete(step)]
        waiting = [step for step in missing if step.folder in alive]
        todo = [step for step in missing if step.folder not in alive]
        say(f"{len(steps)} steps: {len(steps) - len(missing)} there, {len(waiting)} in jobs, {len(todo)} to send")
        for lost in _lost(todo, store, sent):
            say(f"  {lost}")
        groups = arrays(todo, slurm.max_array_size)
        for group in groups:
            _check_time(group, slurm)
        if not todo:
            return 0
        now = {s.folder: replace(sent[s.folder], job=alive[s.folder].job) for s in waiting}
        done = {step.folder for step in steps} - {step.folder for step in missing}  # needs no entry any more
        known = {folder: job for folder, job in sent.items() if folder not in done} | now
        submission = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        place = folder / submission
        (place / "logs").mkdir(parents=True)
        script = _script(place, slurm)
        inputs = dict(now)  # jobs that build inputs of what follows
        for number, group in enumerate(groups):
            name = f"icon_repro-{submission}-{number:03d}"
            entries = {
                step.folder: Sent(name, task, submission, "", str(place / "logs" / f"{number:03d}-{task}.txt"))
                for task, step in enumerate(group.steps)
            }
            specs = [_spec(step, store, cluster, cache, git, submission, inputs, suspects) for step in group.steps]
            tasks = place / f"{number:03d}.jsonl"
            _write_lines(tasks, specs)
            known |= entries
            write_jobs(folder, known)  # before sbatch: if its answer is lost, the array's name tells the jobs
            needed = {inputs[s.folder].job for step in group.steps for s in step.inputs.values() if s.folder in inputs}
            try:
                job = _sbatch(_options(slurm, group, name, place, number, needed), script, tasks)
            except SubmitError as error:
                before = f"\n  The {number} arrays sent before go on; submit again sends the rest." if number else ""
                raise SubmitError(f"{error}{before}") from error
            entries = {step: replace(entry, job=job) for step, entry in entries.items()}
            known |= entries
            inputs |= entries
            write_jobs(folder, known)
            after = f" after {', '.join(sorted(needed, key=int))}" if needed else ""
            say(f"  job {job}: level {group.level}, {group.stage}, {group.kind}, {len(group.steps)} tasks{after}")
        jobs = sorted({inputs[step.folder].job for step in todo}, key=int)
        say(f"Follow:  squeue -u {getpass.getuser()}    or the same command with action=status")
        say(f"Logs:    {place / 'logs'}    (steps: {store.root.absolute() / '.attempts'})")
        say(f"Cancel:  scancel {' '.join(jobs)}")
        say("When they have ended: action=submit sends what failed or was lost, action=report makes the tables.")
        say(f"If jobs end at once without a log, nodes don't see the work folder: srun ls -d {store.root.absolute()}")
        return len(todo)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One submission at a time; others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SubmitError(
            f"paths.work={folder.parent}: can't be written ({error.strerror}). Choose a folder that is shared by all "
            "nodes, with paths.work=..."
        ) from error
    lock = SoftFileLease(folder / "lock", lease_duration=60.0, timeout=_PATIENCE_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise SubmitError(f"{folder / 'lock'}: another submission is at it; try again when it is done.") from error
    try:
        yield
    finally:
        lock.release()


def _check_clock(folder: Path, say: Callable[[str], None]) -> None:
    """Warn if the file server's clock isn't this host's: claims are judged by the times of files."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        os.utime(file.name)
        ahead = os.stat(file.name).st_mtime - time.time()  # noqa: PTH116
    if abs(ahead) > _SKEW_S:
        say(
            f"warning: the clock of paths.work's file server is {ahead:+.0f} s off this host's. Killed jobs may be "
            "noticed late, or steps taken from slow ones. Set the clocks (ntp)."
        )


def _suspects(steps: Sequence[Step], store: Store) -> set[str]:
    """Published steps that a failed one found damaged: they are sent too, and their workers look."""
    planned = {step.folder for step in steps}
    suspects: set[str] = set()
    for step in steps:
        if not store.complete(step) and (note := read_note(store.attempt(step))):
            suspects |= planned & set(note.get("damaged", {}))
    return suspects


def _lost(todo: Sequence[Step], store: Store, sent: Mapping[str, Sent]) -> Iterator[str]:
    """A line for each step whose job is gone without having begun it, the first few of them."""
    begun = {step.folder for step in todo if (store.attempt(step) / "attempt.json").is_file()}
    gone = [s for s in todo if s.folder in sent and sent[s.folder].job and s.folder not in begun]
    for step in gone[:3]:
        yield f"job {sent[step.folder].label} ended without a word on {step.label}; its log: {sent[step.folder].log}"
    if len(gone) > 3:
        yield f"... and {len(gone) - 3} more: do the nodes see {store.root.absolute()}, and start Python?"


def _check_time(group: Array, slurm: SlurmConfig) -> None:
    """Refuse a time limit that the array's steps can't keep."""
    job = slurm.job(group.kind)
    where = f"cluster.slurm.{group.kind}.time_min={job.time_min}"
    if job.time_min is None:
        return
    if job.time_min * 60 < slurm.signal_s + 60:
        raise SubmitError(
            f"{where}: steps are asked to stop cluster.slurm.signal_s={slurm.signal_s} s before the limit, which "
            "leaves under a minute. Raise time_min, or lower signal_s."
        )
    if job.flops_per_s is None:
        return
    longest = max((s for s in group.steps if not s.resumable), key=lambda s: s.cost.flops, default=None)
    seconds = 0.0 if longest is None else longest.cost.flops / job.flops_per_s
    if longest is not None and seconds > job.time_min * 60 - slurm.signal_s:
        raise SubmitError(
            f"{where}: {longest.label} takes about {seconds / 60:.0f} min at {group.kind}.flops_per_s="
            f"{job.flops_per_s:g}, and can't be resumed. Raise time_min, or make shards smaller."
        )


def _spec(
    step: Step,
    store: Store,
    cluster: ClusterConfig,
    cache: Path,
    git: Mapping[str, Any],
    submission: str,
    inputs: Mapping[str, Sent],
    suspects: set[str],
) -> dict[str, Any]:
    slurm = cluster.slurm
    sent = {name: inputs[s.folder].submission for name, s in step.inputs.items() if s.folder in inputs}
    job = {
        "submission": submission,
        "sent": sent,
        "input_wait_s": slurm.input_wait_s,
        "stop_s": _STOP_SHARE * slurm.signal_s,
        "max_requeues": slurm.max_requeues,
    }
    return make_spec(step, store, cluster, cache, git, suspect=step.folder in suspects, job=job)


def _script(place: Path, slurm: SlurmConfig) -> Path:
    """The batch script: the user's set-up lines, then Python, which gets Slurm's signals as the job's own process."""
    python = shlex.quote(slurm.python or sys.executable)
    lines = ["#!/bin/bash", *slurm.setup, f'exec {python} -m icon_repro.engine.task "$1" "$SLURM_ARRAY_TASK_ID"']
    path = place / "job.sh"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _options(slurm: SlurmConfig, group: Array, name: str, place: Path, number: int, needed: set[str]) -> list[str]:
    job = slurm.job(group.kind)
    at_once = f"%{job.array_parallelism}" if job.array_parallelism else ""
    options = [
        "--parsable",
        f"--job-name={name}",
        f"--array=0-{len(group.steps) - 1}{at_once}",
        f"--output={_escaped(str(place / 'logs'))}/{number:03d}-%a.txt",
        "--open-mode=append",  # else a requeued job's first log is lost
        "--requeue",
        f"--signal=B:USR1@{slurm.signal_s}",
    ]
    if needed:
        options.append(f"--dependency=afterany:{':'.join(sorted(needed, key=int))}")
    return [*options, *_resources(job)]


def _resources(job: SlurmJob) -> Iterator[str]:
    if job.time_min is not None:
        yield f"--time={job.time_min}"
    for name in ("partition", "account", "qos"):
        if (value := getattr(job, name)) is not None:
            yield f"--{name}={value}"
    if job.gpus:
        yield f"--gpus-per-node={job.gpus}"
    if job.cpus is not None:
        yield f"--cpus-per-task={job.cpus}"
    if job.memory_gb is not None:
        yield f"--mem={job.memory_gb}G"
    yield from job.options or []


def _escaped(path: str) -> str:
    """``path`` in sbatch's file name patterns."""
    return path.replace("%", "%%")


def _sbatch(options: Sequence[str], script: Path, tasks: Path) -> str:
    done = call([command("sbatch"), *options, str(script), str(tasks)])
    if done.returncode != 0:
        said = done.stderr.strip()
        remedy = next((text for sign, text in _REMEDIES if sign in said.lower()), "See man sbatch.")
        raise SubmitError(f"sbatch refused: {said}\n  {remedy}\n  options: {shlex.join(options)}")
    # "id" or "id;cluster"; sites print more before and after it
    ids = re.findall(r"^\s*(?:Submitted batch job )?(\d+)(?:;\S+)?(?: on cluster \S+)?\s*$", done.stdout, re.M)
    if not ids:
        raise SubmitError(
            f"sbatch printed no job's id: {' '.join((done.stdout + done.stderr).split())[:300]!r}. The job may be "
            "queued: see squeue, and cancel it before you submit again."
        )
    return str(ids[-1])


def _write_lines(path: Path, values: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
