"""Runs of a small experiment that can be disturbed: as the command line, or forked with all modules imported.

The stages' modules take 10 s and more to import. A run after each of many kills is therefore forked from a process that
has them; its workers are forked from it, as a job of Slurm forks them, and not from a fork server of its own.
"""

import contextlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cli import command, environment

from icon_repro import report
from icon_repro.__main__ import main
from icon_repro.engine.leases import read_note
from icon_repro.engine.targets import TARGETS, module_of
from icon_repro.engine.worker import follow_parent
from icon_repro.methods.kinds import kinds

COMMAND = [
    "experiment=smoke_tiny",
    "cluster.device=cpu",
    "cluster.threads=1",
    "cluster.eval_batch_size=2",
    "cluster.micro_batch_size=2",
    "cluster.checkpoint_steps=1",
    "data.candidates.size=8",
    "data.assessment.sample=4",
    "methods.icon.shard_candidates=4",
    "methods.icon.bank={lengths: [8, 64], draws: 1}",
    "~methods.longest",
    "training.global_batch_size=2",
    "evaluation.tasks.tiny.limit=4",
]
_STAGES = ("train", "evaluate", "methods", "data")
_PATIENCE_S = 600.0


@dataclass
class Driver:
    """A run that was started, the leader of a session with its workers in it."""

    process: "subprocess.Popen[bytes] | BaseProcess"
    folder: Path
    said: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def code(self) -> int | None:
        """None while it runs; negative: killed by that signal."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        return None if self.process.is_alive() else self.process.exitcode

    def wait(self) -> int:
        deadline = time.monotonic() + _PATIENCE_S
        while (code := self.code()) is None:
            assert time.monotonic() < deadline, f"still running; it said: {self.text()}"
            time.sleep(0.02)
        return code

    def text(self) -> str:
        return self.said.read_text(encoding="utf-8")

    def at(self) -> dict[str, int]:
        """Each step that a process of this run is at -> the process."""
        root = self.folder / "work" / ".attempts"
        notes = {
            path.parent.relative_to(root).as_posix(): read_note(path.parent) for path in root.glob("*/*/attempt.json")
        }
        running = {step: note["pid"] for step, note in notes.items() if note and note["outcome"] == "running"}
        return {step: pid for step, pid in running.items() if self._has(pid)}

    def members(self) -> list[int]:
        """All processes of this run that live."""
        return [pid for path in Path("/proc").glob("[0-9]*") if self._has(pid := int(path.name))]

    def _has(self, pid: int) -> bool:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            return state not in "ZX" and os.getsid(pid) == self.pid
        return False

    def kill(self, *, group: bool) -> None:
        """kill -9 of the driver, with all of its processes at once or alone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group and os.getsid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
            else:  # alone, or not yet the leader of its session
                os.kill(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def driver(folder: Path, *more: str, warm: bool = True) -> Iterator[Driver]:
    """A run in ``folder``; killed at the end of the context if it still runs."""
    folder.mkdir(exist_ok=True)
    said = folder.parent / f"{folder.name}-said-{time.monotonic_ns()}.txt"
    said.touch()
    process: Any
    if warm:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_modules())
        process = context.Process(target=_run, args=(str(folder), [*COMMAND, *more], str(said)))
        process.start()
    else:
        with said.open("wb") as file:
            process = subprocess.Popen(
                command(*COMMAND, *more),
                cwd=folder,
                env=environment(),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    started = Driver(process, folder, said)
    try:
        yield started
    finally:
        started.kill(group=True)
        for pid in started.members():  # a fork server and its steps notice a killed driver by themselves, but later
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if isinstance(process, subprocess.Popen):
            process.wait()
        else:
            process.join()


def _modules() -> list[str]:
    targets = {module_of(target) for target, _ in TARGETS.values()} | {f"icon_repro.methods.{kind}" for kind in kinds()}
    stages = sorted(name for name in targets if name.split(".")[1] in _STAGES)
    reports = [module.name for module in pkgutil.walk_packages(report.__path__, "icon_repro.report.")]
    return ["icon_repro.__main__", *stages, *reports]


def _run(folder: str, arguments: list[str], said: str) -> None:
    """The command line in a forked process."""
    threading.Thread(target=follow_parent, daemon=True).start()
    os.setsid()
    os.chdir(folder)
    descriptor = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    own = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: own("fork")  # type: ignore[assignment]
    sys.argv = ["icon_repro", *arguments]
    main()
