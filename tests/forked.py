"""Processes of a training, forked from a server that has imported the stage: a start takes no seconds."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from icon_repro.train import process


class Forked:
    """A process as ``subprocess.Popen`` shows it, but forked from a server that has imported the stage."""

    def __init__(self, folder: Path, environment: Mapping[str, str], terminal: int | None) -> None:
        reader, writer = os.pipe()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([process.__name__, "deepspeed"])
        self.process = context.Process(target=_forked, args=(folder, dict(environment), DupFd(reader)))
        self.process.start()
        os.close(reader)
        self.stdin = os.fdopen(writer, "wb")
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> None:
        self.process.join()


def _forked(folder: Path, environment: Mapping[str, str], reader: Any) -> None:
    os.environ.update(environment)
    os.dup2(reader.detach(), 0)
    sys.stdin = os.fdopen(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
    os._exit(process.main(folder))
