"""What a running step is given besides its config: device, batch sizes, cache, terminal. Never changes results."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from icon_repro.config import ClusterConfig
from icon_repro.engine.progress import Progress


@dataclass
class Runtime:
    """Settings of the machine at hand, for every stage's ``run``."""

    cluster: ClusterConfig
    cache: Path
    label: str = "step"
    files: dict[str, Path] = field(default_factory=dict)  # external files by name
    extra: dict[str, str] = field(default_factory=dict)  # hashed facts that the plan found, e.g. commit
    terminal: TextIO | None = field(default_factory=lambda: sys.stderr)

    def progress(self, total: int, unit: str) -> Progress:
        return Progress(self.label, total, unit, self.terminal)
