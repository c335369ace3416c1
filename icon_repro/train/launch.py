"""Start the processes of a training, pass on requests to stop, and end all when one has failed.

In: what the stage is given.  Out: what the first process writes, and its metrics.
Source: torchrun does the same, but takes over the signals of the process that it is called in, which belong to the
step here. As there, the launcher holds the store by which the processes find each other, on a port that is free.
A killed launcher leaves no process, see ``icon_repro.train.process``; what processes print is in the log of the step.
Known gap: one machine.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed import TCPStore

from icon_repro.engine.console import LOG
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.runtime import Interrupted, Runtime
from icon_repro.engine.schema import plain
from icon_repro.lm.load import pick_device
from icon_repro.train.options import TrainJob

MESSAGES = "processes"  # folder for what launcher and processes tell each other
TRAINING = "training"  # file that the processes make once a request to stop leaves a checkpoint
PARTNER_S = 50.0  # for all processes to start; with what comes before, less than a minute
_POLL_S = 0.1
_GRACE_S = 3.0  # after a process has failed, for the others to say why they end
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # are for the step; the processes hear of them from it


class ProcessError(RuntimeError):
    """A process of a training has failed, or can't be started."""


def in_processes(job: TrainJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Tune in ``cluster.processes`` processes; returns the metrics.

    Raises:
        Interrupted: a stop was asked for; a checkpoint is kept if training had begun.
        ProcessError: a process failed; the message is its own.
    """
    cluster = runtime.cluster
    device = pick_device(cluster.device)
    if device.type == "cuda" and (found := torch.cuda.device_count()) < cluster.processes:
        raise ProcessError(
            f"cluster.processes={cluster.processes}: torch sees {found} GPUs, and each process needs its own. Lower "
            "it, or ask for more GPUs."
        )
    folder = out / MESSAGES
    folder.mkdir()
    terminal = None
    if runtime.terminal is not None and runtime.terminal.isatty():
        terminal = runtime.terminal.fileno()
    write_json(
        folder / "job.json",
        {
            "params": plain(job),
            "inputs": {name: str(path.absolute()) for name, path in inputs.items()},
            "out": str(out.absolute()),
            "cluster": {**plain(cluster), "device": device.type},
            "cache": str(runtime.cache.absolute()),
            "label": runtime.label,
            "terminal": terminal,
            "partner_s": PARTNER_S,
        },
    )
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(cluster.processes):
            environment = _environment(number, cluster.processes, store.port, device)
            started.append(_start(folder, environment, terminal))
        _wait(started, runtime, folder / TRAINING)
        codes = [process.poll() for process in started]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    reports = [folder / f"process-{number}.json" for number in range(cluster.processes)]
    metrics: dict[str, Any] = _metrics(codes, [read_json(path) if path.is_file() else None for path in reports])
    shutil.rmtree(folder)
    return metrics


def _environment(number: int, processes: int, port: int, device: torch.device) -> dict[str, str]:
    """Environment variables of process ``number``."""
    variables = {
        **os.environ,
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the launcher's
        "DS_ACCELERATOR": device.type,
        "PYTHONUNBUFFERED": "1",  # a killed process leaves all of its lines
    }
    if device.type == "cpu":
        variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        if sys.platform == "linux":
            variables.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name needn't be known to a name server
    elif device.index is not None:  # of one process: several are refused by config.load
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index] if visible else str(device.index)
    return variables


def _start(folder: Path, environment: Mapping[str, str], terminal: int | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "icon_repro.train.process", str(folder)]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # which is handed down
    try:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, pass_fds=() if terminal is None else (terminal,)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(started: Sequence[subprocess.Popen[bytes]], runtime: Runtime, training: Path) -> None:
    """Until all processes have ended, or a moment after one has failed."""
    stop_sent, deadline = False, float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        if any(process.poll() for process in started):
            deadline = min(deadline, time.monotonic() + _GRACE_S)
        if training.exists():
            runtime.defer_stop()
        if not stop_sent and runtime.stop_requested():
            stop_sent = True
            for process in started:
                assert process.stdin is not None
                _tell(process.stdin)
        time.sleep(_POLL_S)


def _tell(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has ended
        pipe.write(b"stop\n")
        pipe.flush()


def _metrics(codes: Sequence[int | None], reports: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """The metrics of the first process.

    Args:
        codes: how each process ended; None: it was still running when another had failed.

    Raises:
        Interrupted, ProcessError: the first cause, as the others end because of it.
    """
    count = len(codes)
    failed = [report for report in reports if report is not None and report["outcome"] == "failed"]
    stopped = [report for report in reports if report is not None and report["outcome"] == "interrupted"]
    for number, code in enumerate(codes):
        if code is not None and code < 0:
            hint = "; the kernel does so when memory runs out" if -code == signal.SIGKILL else ""
            raise ProcessError(
                f"process {number} of {count} was killed by signal {-code} ({signal.strsignal(-code)}){hint}"
            )
    if failed:
        cause = min(failed, key=lambda report: float(report["at"]))
        raise ProcessError(f"process {reports.index(cause)} of {count}: {cause['error']}")
    if stopped:
        raise Interrupted(stopped[0]["error"])
    for number, (code, report) in enumerate(zip(codes, reports, strict=True)):
        if code != 0 or report is None:
            raise ProcessError(f"process {number} of {count} ended with code {code} and without a word; see the log")
    assert reports[0] is not None
    for warning in reports[0].get("warnings", []):
        LOG.warning("%s", f"{warning['source']}: {warning['text']}")
    metrics: dict[str, Any] = reports[0]["metrics"]
    return metrics
