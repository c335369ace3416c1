"""Stages of a toy plan, for the tests of the engine; imported by worker processes too."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icon_repro.engine.artifact import Step
from icon_repro.engine.runtime import Interrupted, Runtime
from icon_repro.engine.schema import unhashed


@dataclass
class Toy:
    text: str
    journal: str = unhashed("")  # outside the store; gets one line each time that the stage runs
    gate: str = unhashed("")  # while this file exists, the stage does what is called ``trouble``
    trouble: str = unhashed("fail")


def run(params: Toy, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, float]:
    """Write text.txt: the texts of the inputs and one's own. A checkpoint left by an earlier attempt is noted."""
    with Path(params.journal).open("a") as journal:
        resumed = " resumed" if (out / "checkpoint").exists() else ""
        journal.write(f"{params.text} {os.getpid()}{resumed}\n")
    (out / "checkpoint").write_text("1")
    if params.gate and Path(params.gate).exists():
        if params.trouble in ("save", "stubborn"):
            _save(runtime, Path(params.gate), stubborn=params.trouble == "stubborn")
        else:
            TROUBLES[params.trouble](out, Path(params.gate))
    before = [(inputs[name] / "text.txt").read_text() for name in sorted(inputs)]
    (out / "text.txt").write_text("".join(before) + params.text)
    return {"tokens": 12.0}


def _save(runtime: Runtime, gate: Path, stubborn: bool) -> None:
    """Go on until asked to stop, as training does."""
    runtime.defer_stop()
    deadline = time.monotonic() + 150
    while gate.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
        if runtime.stop_requested() and not stubborn:
            raise Interrupted("asked to stop; saved")


def _fail(out: Path, gate: Path) -> None:
    raise ValueError("the gate is shut\nsecond line")


def _kill(out: Path, gate: Path) -> None:
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def _leave(out: Path, gate: Path) -> None:
    os._exit(0)


def _exit(out: Path, gate: Path) -> None:
    raise SystemExit("left by exit")


def _wait(out: Path, gate: Path) -> None:
    deadline = time.monotonic() + 30
    while gate.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _pause(out: Path, gate: Path) -> None:
    time.sleep(0.1)


def _slow(out: Path, gate: Path) -> None:
    print("toy/slow: 3/4 row (75%)")
    time.sleep(2)


def _talk(out: Path, gate: Path) -> None:
    print("said by print")
    os.write(1, b"said by descriptor 1\n")
    os.write(2, b"said by descriptor 2\n")
    subprocess.run(["sh", "-c", "echo said by a child"], check=True)


def _fill_disk(out: Path, gate: Path) -> None:
    """Leave no room for the record: the stage itself ends well."""
    block = 65536
    with (out / "data").open("wb", buffering=0) as file:
        while block:
            try:
                file.write(b"x" * block)
            except OSError:
                block //= 2
    for number in range(1000):  # names need room too
        try:
            (out / f"{number}").write_text("x")
        except OSError:
            (out / f"{number}").unlink(missing_ok=True)
            break
    (out / "text.txt").unlink(missing_ok=True)


def _write_much(out: Path, gate: Path) -> None:
    (out / "data").write_bytes(b"x" * 4_000_000)


TROUBLES = {
    "fail": _fail,
    "kill": _kill,
    "leave": _leave,
    "exit": _exit,
    "wait": _wait,
    "pause": _pause,
    "slow": _slow,
    "talk": _talk,
    "fill_disk": _fill_disk,
    "write_much": _write_much,
}


def toy(
    folder: Path,
    name: str,
    *inputs: Step,
    text: str | None = None,
    trouble: str = "fail",
    resumable: bool = False,
    target: str = "toy_stages:run",
) -> Step:
    """A step ``toy/<name>``; the file ``<folder>/gate-<name>`` makes its trouble happen."""
    journal, gate = str(folder / "journal.txt"), str(folder / f"gate-{name}")
    params = Toy(text or name, journal, gate, trouble)
    return Step("toy", name, target, 1, params, {s.name: s for s in inputs}, resumable=resumable)


def diamond(folder: Path, trouble: str = "fail") -> list[Step]:
    """a -> b, c (c resumable) -> d, and e apart."""
    a = toy(folder, "a", trouble=trouble)
    b, c = toy(folder, "b", a, trouble=trouble), toy(folder, "c", a, trouble=trouble, resumable=True)
    return [a, b, c, toy(folder, "d", b, c, trouble=trouble), toy(folder, "e", trouble=trouble)]
