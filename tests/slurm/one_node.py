"""What the tests on a real Slurm share: paths for its jobs, its queue, waiting."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOYS = ROOT / "tests" / "engine"
PATHS = os.pathsep.join(map(str, (ROOT, TOYS)))

sys.path.insert(0, str(TOYS))  # toy_stages


def queue() -> list[str]:
    """Living jobs as ``ID STATE``, an array's tasks apart."""
    done = subprocess.run(["squeue", "-h", "-r", "--me", "-o", "%i %T"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def until(condition: Callable[[], object], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s; queue: {queue()}"
        time.sleep(0.2)
