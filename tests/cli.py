"""The command line as a process, from a folder that isn't the repository's."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    error: str
    cpu_s: float  # of the process and all that it waited for


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "icon_repro", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **more}


def icon_repro(folder: Path, *arguments: str, **more: str) -> Done:
    """Run the command line in ``folder``; ``more`` goes to its environment."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = os.times()
    out, error = process.communicate(timeout=300)
    after = os.times()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return Done(process.returncode, out, error, cpu_s)
