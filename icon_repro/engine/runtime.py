"""Hold what a running step gets besides its config: device, batch sizes, cache, terminal, a request to stop.

None of it changes results.
"""

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.progress import Progress


class Interrupted(BaseException):
    """The step was asked to stop. No Exception: nothing that handles a failing row may take it for one.

    Args:
        number: of the signal; 0 if a stage raises it.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@dataclass
class Stop:
    """A request to stop, as signals make it.

    While ``deferred``, the work in progress looks at ``asked`` itself; at other times the request raises Interrupted.
    """

    asked: bool = False
    deferred: bool = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handler of a signal. Only the first one counts: a second must not disturb the end that the first began."""
        first = not self.asked
        self.asked = True
        if first and not self.deferred:
            raise Interrupted(f"stopped by {signal.Signals(number).name}", number)


@dataclass
class Runtime:
    """Settings of the machine at hand, for every stage's ``run``."""

    cluster: ClusterConfig
    cache: Path
    label: str = "step"
    files: dict[str, Path] = field(default_factory=dict)  # external files by name
    extra: dict[str, str] = field(default_factory=dict)  # hashed facts that the plan found, e.g. commit
    terminal: TextIO | None = field(default_factory=lambda: sys.stderr)
    stop: Stop = field(default_factory=Stop)
    where: str = ""  # key of the configuration that says what the step reads, for messages

    def progress(self, total: int, unit: str) -> Progress:
        return Progress(self.label, total, unit, self.terminal)

    def defer_stop(self) -> None:
        """From here on the stage looks at ``stop_requested`` itself; otherwise a request raises Interrupted at once."""
        self.stop.deferred = True

    def stop_requested(self) -> bool:
        """Whether a stage that said ``defer_stop`` should save what it has and raise Interrupted."""
        return self.stop.asked
