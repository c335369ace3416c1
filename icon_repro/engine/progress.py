"""Show the progress of a long loop: a bar on a terminal, plain lines in a log.

A step's output goes to its log file; the bar goes to the terminal that the run was started from, if it is one.
"""

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

_LINE_EVERY_S = 15.0


class Progress:
    """Counts units of work; use as a context manager and call ``advance``.

    Args:
        label: what is done, e.g. "score/icon-shard-000".
        total: number of units.
        unit: name of one unit, e.g. "pair".
        terminal: stream for the bar; a bar is drawn only if it is a terminal. None: no bar.
    """

    def __init__(self, label: str, total: int, unit: str, terminal: TextIO | None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.tokens = 0, 0
        self._peak_tokens_s: float | None = None
        self._started = self._printed = time.monotonic()
        show = terminal is not None and terminal.isatty()
        self._bar = tqdm(total=total, desc=label, unit=unit, file=terminal or sys.stderr, disable=not show, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def peak(self, flops_s: float, flops_per_token: float) -> None:
        """Let the lines say which share of the device's peak the tokens make."""
        self._peak_tokens_s = flops_s / flops_per_token

    def advance(self, units: int = 1, tokens: int = 0) -> None:
        """Note ``units`` more, and the tokens that went through the model for them."""
        self.done += units
        self.tokens += tokens
        now = time.monotonic()
        if self.tokens:
            self._bar.set_postfix_str(self._speed(max(now - self._started, 1e-9)), refresh=False)
        self._bar.update(units)
        if now - self._printed >= _LINE_EVERY_S or self.done >= self.total:
            self._printed = now
            print(self.line(now), flush=True)

    def line(self, now: float) -> str:
        """One plain line: done, share, throughput, remaining time."""
        seconds = max(now - self._started, 1e-9)
        rate = self.done / seconds
        text = f"{self.label}: {self.done}/{self.total} {self.unit} ({self.done / max(self.total, 1):.0%}), "
        text += f"{rate:.2f} {self.unit}/s"
        if self.tokens:
            text += f", {self._speed(seconds)}"
        return text + (f", {(self.total - self.done) / rate:.0f} s left" if rate else "")

    def _speed(self, seconds: float) -> str:
        rate = self.tokens / seconds
        share = f" ({rate / self._peak_tokens_s:.0%} of peak)" if self._peak_tokens_s else ""
        return f"{rate:,.0f} tokens/s{share}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
