"""Reproduce "ICon: In-Context Contribution for Automatic Data Selection" and compare data-selection methods."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icon_repro.report.frames import Results

__version__ = "0.1.0"

# `python -m icon_repro` looks for modules in the current folder first, where a user's random.py or datasets.py would
# be taken for the library of that name
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[0] != str(Path(__file__).parent.parent):
    del sys.path[0]


def open_results(folder: "str | Path") -> "Results":
    """Open a results folder as pandas frames: runs, values, items, scores, selections (``icon_repro.report.frames``).

    Raises:
        OpenError: no such folder, nothing that is known in it, or another version of icon_repro wrote it.
    """
    from icon_repro.report import frames  # pandas takes a second to import

    return frames.open_results(folder)
