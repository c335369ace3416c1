"""Collect and count what libraries warn of while a step runs, for the step's record.

In: log records and warnings of this process.  Out: ``Notice``, equal ones but for their numbers counted together.
Warnings on what will change in a later version of a library (deprecations) are for its developers, and left out.
Known gap: what a library prints, or logs from native code, is in the step's log alone.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from icon_repro.engine.console import LOG

# loggers that may hand nothing on to the root logger: libraries', and what steps themselves warn of
_LOGGERS = (
    *("transformers", "datasets", "huggingface_hub", "trl", "peft", "accelerate", "lm_eval", "lm-eval"),
    *("DeepSpeed", "deepspeed", "vllm", "torch", LOG.name),
)
_LATER = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)
# what lm-eval says of being given a model that is loaded already, and DeepSpeed of a machine without a GPU
_MEANT = (
    "`pretrained` model kwarg is not of type `str`",
    "Passed an already-initialized model through `pretrained`",
    "Setting accelerator to CPU. If you have GPU",
)
_MOST, _CHARACTERS = 20, 400  # notices of a step, characters of each


@dataclass
class Notice:
    """One warning."""

    source: str  # name of the logger, or of the module that warns
    text: str  # of its first time
    count: int = 1


class Notices(logging.Handler):
    """The warnings of this process so far; those beyond ``_MOST`` kinds are counted as one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._found: dict[tuple[str, str], Notice] = {}
        self._last: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record is self._last:  # met at the library's logger and at the root's
            return
        self._last = record
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a library's message that doesn't fit its arguments
            text = str(record.msg)
        if not text.startswith(_MEANT):
            self.add(record.name.partition(".")[0], text)

    def add(self, source: str, text: str, count: int = 1) -> None:
        """Count a warning."""
        text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:_CHARACTERS]
        key = (source, re.sub(r"\d+(?:[.,]\d+)*", "#", text))
        if key not in self._found and len(self._found) >= _MOST:
            key, source, text = ("", ""), "icon_repro", f"more than {_MOST} kinds of warnings; see the step's log"
        if key in self._found:
            self._found[key].count += count
        else:
            self._found[key] = Notice(source, text, count)

    def rows(self) -> list[dict[str, Any]]:
        """As JSON values, in the order of their first time."""
        return [{"source": n.source, "text": n.text, "count": n.count} for n in self._found.values()]


@contextmanager
def collected() -> Iterator[Notices]:
    """While open, warnings are collected; they are shown as before, too."""
    notices, shown = Notices(), warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, _LATER):
            module = re.search(r"site-packages/([^/.]+)", filename)
            notices.add(module[1] if module else category.__name__, str(message))
        shown(message, category, filename, lineno, file, line)

    loggers = [logging.getLogger(), *map(logging.getLogger, _LOGGERS)]
    for logger in loggers:
        logger.addHandler(notices)
    warnings.showwarning = show
    try:
        yield notices
    finally:
        warnings.showwarning = shown
        for logger in loggers:
            logger.removeHandler(notices)


def lines(record: Mapping[str, Any]) -> Sequence[str]:
    """The warnings of a step's record, one a line; none of a record from before they were kept."""
    texts = []
    for one in record.get("warnings", []):
        times = "" if one["count"] == 1 else f", {one['count']:,} times"
        texts.append(f"warning ({one['source']}{times}): {one['text']}")
    return texts
