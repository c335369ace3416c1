"""Run one step from a JSON spec: claim it, check its inputs, call its stage, publish.

In: a spec made by ``make_spec``.  Out: a published folder, or an attempt that says what went wrong.
Inputs are compared with their records first. A worker sets aside its own step's damaged folder only, under the claim;
it reports damaged inputs, and the run lets their workers do so.
A worker that a job of Slurm runs waits for its inputs some seconds, as a network file system may show them late.
Asked to stop (SIGTERM, SIGUSR1), training saves a checkpoint, any other step is left: it is "interrupted".
Needs neither Hydra nor the plan, so that any process on any host can do it.
"""

import contextlib
import faulthandler
import importlib.metadata
import io
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
import typing
import uuid
from collections.abc import Iterator, Mapping
from glob import escape
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from icon_repro.engine import targets, twins
from icon_repro.engine.artifact import Step, Store, damage, file_sha256, publish
from icon_repro.engine.console import say
from icon_repro.engine.environment import recorded, soft_locks
from icon_repro.engine.folders import clear_trash, discard, set_aside
from icon_repro.engine.leases import LOST, read_note, take_claim, write_note
from icon_repro.engine.notices import collected
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import write_json
from icon_repro.engine.runtime import Interrupted, Runtime, Stop
from icon_repro.engine.schema import build, plain

BUILT, FAILED, CACHED, BUSY, DAMAGED, BLOCKED, INTERRUPTED = 0, 1, 3, 4, 6, 7, 8  # exit codes of a worker; see LOST
STOPS = (signal.SIGTERM, signal.SIGUSR1)
_POLL_S = 1.0
_FULL_BYTES = 2**20  # left on a disk that is taken for full when a step fails
_NAMED = 20  # damaged inputs that one attempt reports at most: what is sent has to fit a pipe
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "trl",
    "accelerate",
    "deepspeed",
    "lm-eval",
    "datasets",
    "numpy",
)


class StepError(RuntimeError):
    """A step can't be run or has failed."""


class DamagedInputError(StepError):
    """Inputs aren't as they were published.

    Args:
        damaged: folder of each below the store -> how it differs.
    """

    def __init__(self, message: str, damaged: Mapping[str, str]) -> None:
        super().__init__(message)
        self.damaged = dict(damaged)


class BlockedError(StepError):
    """An input of a job of Slurm isn't there, and won't come."""


class Outcome(NamedTuple):
    """How an attempt ended: an exit code, the error if there was one, with DAMAGED each folder and how it differs."""

    code: int
    error: str = ""
    damaged: tuple[tuple[str, str], ...] = ()


def make_spec(
    step: Step,
    store: Store,
    cluster: ClusterConfig,
    cache: Path,
    git: Mapping[str, Any],
    *,
    suspect: bool = False,
    job: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that a worker needs to run ``step``, as JSON values.

    Args:
        suspect: the step's folder, if there is one, is checked and, if damaged, set aside and built again.
        job: of a step that is sent to Slurm (``engine.slurm``): its submission, how long it waits for inputs, and
            the submission of each input that another job builds.
    """
    return {
        "label": step.label,
        "folder": step.folder,
        "fingerprint": step.fingerprint,
        "hashed": step.hashed,
        "target": step.target,
        "params": plain(step.params),
        "inputs": {name: needed.folder for name, needed in step.inputs.items()},
        "files": {name: {"path": file.path, "sha256": file.sha256} for name, file in step.files.items()},
        "extra": dict(step.extra),
        "where": step.where,
        "resumable": step.resumable,
        "as_sets": list(step.as_sets),
        "suspect": suspect,
        "root": str(store.root.absolute()),
        "cluster": {name: value for name, value in plain(cluster).items() if name != "slurm"},
        "cache": str(cache.absolute()),
        "git": dict(git),
        "sent": {"version": _version("icon-repro"), "commit": git["commit"]},
        "job": None if job is None else dict(job),
    }


def sent_by(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Version and commit (each or None) of the code that made ``spec``; an older version noted its commit alone."""
    return dict(spec.get("sent") or {"version": None, "commit": spec["git"]["commit"]})


def work(spec: Mapping[str, Any], terminal: TextIO | None = None, stop: Stop | None = None) -> int:
    """Run the step of ``spec`` in this process.

    Returns:
        BUILT, CACHED (another process was first) or BUSY (another process is at it, or at one that does the same).

    Raises:
        BlockedError: a job's inputs aren't there.
        Interrupted: ``stop`` was asked for.
        DamagedInputError: inputs aren't there, or not as they were published.
        Exception: whatever the stage raised; the attempt records it.
    """
    root = Path(spec["root"])
    final = root / spec["folder"]
    attempt = root / ".attempts" / spec["folder"]
    if (final / "record.json").is_file() and not spec["suspect"]:
        return CACHED
    attempt.mkdir(parents=True, exist_ok=True)
    cluster = build(ClusterConfig, spec["cluster"])
    lease = take_claim(attempt, cluster.lease_s)
    if lease is None:
        return BUSY
    try:
        if final.exists():
            sound = not spec["suspect"] and (final / "record.json").is_file()
            difference = None if sound else damage(final)
            if difference is None:
                return CACHED
            say(f"{spec['label']}: {difference}; set aside as {set_aside(final).name}")
        note = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        note = {**note, "lease_s": lease.lease_duration, "submission": spec["job"] and spec["job"]["submission"]}
        say(f"{spec['label']}: attempt by process {note['pid']} on {note['host']}, {time.ctime()}")
        write_json(attempt / "attempt.json", {**note, "outcome": "running", "error": None})
        try:
            if spec["job"]:
                _await_inputs(spec, root)
            with _full_disk_named(root), twins.alone(spec, cluster.lease_s) as alone:
                built = alone and _build(spec, final, cluster, terminal, stop or Stop())
        except (Exception, SystemExit, Interrupted) as error:
            ended = {BLOCKED: "blocked", INTERRUPTED: "interrupted"}.get(failure(error).code, "failed")
            damaged = error.damaged if isinstance(error, DamagedInputError) else {}
            write_note(attempt, {**note, "outcome": ended, "error": describe(error), "damaged": damaged})
            raise
        write_note(attempt, {**note, "outcome": "built" if alone else "waiting", "error": None})
        return BUILT if built else CACHED if alone else BUSY
    finally:
        lease.release()


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def failure(error: BaseException) -> Outcome:
    """The outcome of an attempt that raised ``error``."""
    text = describe(error)[:10_000]
    if isinstance(error, DamagedInputError):
        return Outcome(DAMAGED, text, tuple(error.damaged.items()))
    kinds: dict[type[BaseException], int] = {BlockedError: BLOCKED, Interrupted: INTERRUPTED}
    return Outcome(kinds.get(type(error), FAILED), text)


@contextlib.contextmanager
def _full_disk_named(root: Path) -> Iterator[None]:
    """Have an error say that the disk is full: torch's and others' name a position in a file."""
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(root).free
        if free >= _FULL_BYTES or "no space left" in str(error).lower():
            raise
        raise StepError(f"{describe(error)} (No space left on the disk of {root}: {free:,} bytes)") from error


def _await_inputs(spec: Mapping[str, Any], root: Path) -> None:
    """Wait, as a job's worker, until all inputs are there: what the job depended on has ended, well or not.

    Raises:
        BlockedError: an input failed in the same submission, or isn't there after ``input_wait_s``.
    """
    job = spec["job"]
    deadline = time.monotonic() + job["input_wait_s"]
    while missing := {name: folder for name, folder in spec["inputs"].items() if not _there(root / folder)}:
        over = time.monotonic() >= deadline
        for name, folder in missing.items():
            why = _ended(root / ".attempts" / folder, job["sent"].get(name))
            if why or over:
                why = why or f"isn't there after {job['input_wait_s']:g} s"
                raise BlockedError(f"{spec['label']}: input {name!r} ({folder}) {why}. Submit again.")
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def _there(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.listdir(folder.parent)  # has a network file system look again  # noqa: PTH208
    return (folder / "record.json").is_file()


def _ended(attempt: Path, submission: str | None) -> str:
    """How the attempt of ``submission`` failed; empty if it hasn't, or isn't known to have."""
    note = read_note(attempt)
    if note and note["outcome"] in ("failed", "blocked") and submission and note.get("submission") == submission:
        return f"{note['outcome']} ({note['error'].splitlines()[0]})"
    return ""


def _build(spec: Mapping[str, Any], final: Path, cluster: ClusterConfig, terminal: TextIO | None, stop: Stop) -> bool:
    root = final.parent.parent
    inputs = {name: root / folder for name, folder in spec["inputs"].items()}
    _check_inputs(spec, inputs)
    files = {name: Path(file["path"]) for name, file in spec["files"].items()}
    for name, path in files.items():
        if file_sha256(path) != spec["files"][name]["sha256"]:
            raise StepError(f"{spec['label']}: file {name!r} ({path}) has changed since the plan was made. Plan again.")
    key = twins.key_of(spec, inputs)
    twin = None if key is None else twins.find(root, key, spec["folder"])
    lasting = spec["resumable"] and twin is None
    part = final.with_name(f"{final.name}.part" if lasting else f"{final.name}.{uuid.uuid4().hex[:8]}.part")
    for stale in final.parent.glob(f"{escape(final.name)}*.part"):
        if stale != part:
            discard(stale)
    clear_trash(final.parent)
    part.mkdir(parents=True, exist_ok=True)
    if twin is not None:
        say(f"{spec['label']}: as {twin}, whose inputs hold the same")
        again = twins.give_second_name(root / twin, part)
        return publish(part, final, {**again, **_named(spec), "same_as": again.get("same_as", twin)}, again["files"])
    function, params = _load(spec)
    where = spec.get("where", "")  # an older version sent none
    runtime = Runtime(cluster, Path(spec["cache"]), spec["label"], files, dict(spec["extra"]), terminal, stop, where)
    soft_locks()
    started, clock, busy = time.time(), time.monotonic(), sum(os.times()[:4])
    with collected() as notices:
        metrics = function(params, inputs, part, runtime)
    stop.deferred = True  # what remains takes less than doing the step again
    record = {
        **_named(spec),
        "cluster": dict(spec["cluster"]),
        "metrics": metrics,
        "warnings": notices.rows(),
        "environment": recorded(),
        "git": dict(spec["git"]),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "started": started,
        "wall_s": round(time.monotonic() - clock, 3),
        "cpu_s": round(sum(os.times()[:4]) - busy, 2),  # of this process and those that it waited for
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    published = publish(part, final, record)
    if key is not None:
        twins.note(root, key, spec["folder"])
    return published


def _named(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the step itself, whoever made its files."""
    return {
        "label": spec["label"],
        "fingerprint": spec["fingerprint"],
        "hashed": spec["hashed"],
        "inputs": dict(spec["inputs"]),
        "files_read": dict(spec["files"]),
    }


def _check_inputs(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    damaged, texts = dict[str, str](), list[str]()
    for name, folder in inputs.items():
        if len(damaged) == _NAMED:
            break
        if difference := damage(folder):
            damaged[spec["inputs"][name]] = difference
            there = f"is damaged ({folder}: {difference})" if folder.exists() else f"isn't there ({folder})"
            texts.append(f"input {name!r} {there}. Run the step that makes it.")
    if damaged:
        raise DamagedInputError(f"{spec['label']}: {' '.join(texts)}", damaged)


def _load(spec: Mapping[str, Any]) -> tuple[Any, Any]:
    """The stage's function and its params, typed as the function's first argument is annotated."""
    try:
        function = targets.function_of(spec["target"])
    except targets.TargetError as error:
        sent = sent_by(spec)
        facts = {"icon_repro": sent["version"], "commit": sent["commit"]}
        able = " at ".join(f"{name} {value}" for name, value in facts.items() if value) or "not recorded"
        raise StepError(
            f"{spec['label']}: {error} The version that planned it and can run it: {able}. Run it with that one, or "
            "plan and submit again with this one (the step may then have another name)."
        ) from error
    kind = next(iter(typing.get_type_hints(function).values()))
    return function, build(kind, spec["params"])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def follow_parent() -> None:
    """End with the run that started this process: a killed run leaves nobody writing.

    PR_SET_PDEATHSIG alone doesn't do it: the parent is the fork server, which lives as long as its children.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def child(spec: Mapping[str, Any], report: Connection) -> typing.NoReturn:
    """Entry of a worker process: output goes to the attempt's log; ``report`` gets the outcome and the error."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until there is a log for what a stop says
    threading.Thread(target=follow_parent, daemon=True).start()
    stop = Stop()
    try:
        for request in STOPS:
            signal.signal(request, stop.handle)
        log = Path(spec["root"]) / ".attempts" / spec["folder"] / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        terminal = os.fdopen(os.dup(2), "w", buffering=1)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            os.dup2(descriptor, number)
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)  # a killed step leaves all of its lines
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        faulthandler.enable()  # a crash in native code leaves its stack in the log
        outcome = Outcome(work(spec, terminal, stop))
    except BaseException as problem:
        stop.deferred = True
        outcome = failure(problem)
        with contextlib.suppress(OSError):  # the log may be on a full disk
            traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    report.send(outcome)  # less than a pipe holds: nobody reads before the process has ended
    sys.exit(outcome.code)


def outcome_of(process: BaseProcess, receiver: Connection) -> Outcome:
    """How an ended worker process left: by its own word, else by its exit code."""
    with receiver, contextlib.suppress(EOFError):
        if receiver.poll():
            outcome: Outcome = receiver.recv()
            return outcome
    code = process.exitcode
    if code == LOST:
        return Outcome(code, "its claim was taken by another host; was this one suspended?")
    if code is None or code >= 0:
        return Outcome(FAILED, f"its process ended with code {code} and without a word")
    hint = "; the kernel does so when memory runs out" if -code == signal.SIGKILL else ""
    return Outcome(FAILED, f"killed by signal {-code} ({signal.strsignal(-code)}){hint}")
