"""Run one of several processes of a training, as ``icon_repro.train.launch`` starts them.

In: job.json of the launcher; the environment variables of torch.distributed.  Out: what ``tune`` writes;
process-<number>.json, how it ended.
Requests to stop come on standard input, whose end means that the launcher is gone: then this process ends at once.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch.distributed
from torch.distributed import TCPStore

from icon_repro.engine.notices import collected
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.runtime import Interrupted, Runtime, Stop
from icon_repro.engine.schema import build
from icon_repro.train.launch import TRAINING
from icon_repro.train.options import TrainJob
from icon_repro.train.tuning import tune


class PartnerError(RuntimeError):
    """Another process of the training doesn't start."""


@dataclass
class _Told(Runtime):
    """The runtime of a process that is told to stop by its launcher."""

    folder: Path = field(kw_only=True)

    def defer_stop(self) -> None:
        super().defer_stop()
        (self.folder / TRAINING).touch()  # until then the launcher ends the processes itself


def _listen(stop: Stop) -> None:
    """Take a request to stop for every line; a killed launcher leaves nobody writing."""
    for _ in sys.stdin:
        stop.asked = True
    os.kill(os.getpid(), signal.SIGKILL)


def meet(number: int, count: int, store: TCPStore, patience_s: float) -> None:
    """Wait until all processes of the training are there: a group of torch's would wait half an hour.

    Raises:
        PartnerError: names those that aren't.
    """
    store.set(f"here/{number}", "")
    others = {other: f"here/{other}" for other in range(count) if other != number}
    deadline = time.monotonic() + patience_s
    while missing := [other for other, key in others.items() if not store.check([key])]:
        if time.monotonic() > deadline:
            raise PartnerError(
                f"no sign of process {', '.join(map(str, missing))} of {count} for {patience_s:g} s: it hangs as it "
                "starts. Look at the log and at the machine's load, then run again; or set cluster.processes=1."
            )
        time.sleep(0.05)


def main(folder: Path) -> int:
    stop = Stop()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    faulthandler.enable()
    job = read_json(folder / "job.json")
    number = int(os.environ["RANK"])
    terminal: TextIO | None = None
    if job["terminal"] is not None and number == 0:
        terminal = os.fdopen(job["terminal"], "w", buffering=1)
    report = folder / f"process-{number}.json"
    try:
        cluster = build(ClusterConfig, job["cluster"])
        runtime = _Told(cluster, Path(job["cache"]), job["label"], terminal=terminal, stop=stop, folder=folder)
        inputs = {name: Path(path) for name, path in job["inputs"].items()}
        count, port = int(os.environ["WORLD_SIZE"]), int(os.environ["MASTER_PORT"])
        meet(
            number,
            count,
            TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, wait_for_workers=False),
            job["partner_s"],
        )
        with collected() as notices:
            metrics = tune(build(TrainJob, job["params"]), inputs, Path(job["out"]), runtime)
        torch.distributed.barrier()  # none ends while another needs it
    except Interrupted as stopped:
        write_json(report, {"outcome": "interrupted", "error": str(stopped), "at": time.time()})
        return 1
    except Exception as error:
        traceback.print_exc()
        write_json(report, {"outcome": "failed", "error": f"{type(error).__name__}: {error}", "at": time.time()})
        return 1
    write_json(report, {"outcome": "built", "metrics": metrics, "warnings": notices.rows()})
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the communication may wait for a process that has failed
