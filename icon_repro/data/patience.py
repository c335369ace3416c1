"""Try again what a hub refuses for the moment: it is busy, restarts, or cuts a connection.

In: what reads from a hub.  Out: its result; the last error, if all tries fail, or at once if waiting mends nothing.
huggingface_hub and datasets try some requests again and others not: one 503 in a download of hours ended the step.
What was downloaded before the fault is in their cache, so a try goes on where the last one ended.
"""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from icon_repro.engine.console import LOG

T = TypeVar("T")
PAUSES_S = (1.0, 2.0, 4.0, 15.0, 60.0)  # before each further try
_PASSING = frozenset({408, 425, 429, *range(500, 600)})
# a connection that was there; where none can be made, there is no network, and waiting mends nothing
_CUT = ("ReadError", "ReadTimeout", "RemoteProtocolError", "ChunkedEncodingError", "IncompleteRead", "ProtocolError")


def patiently(read: Callable[[], T], what: str) -> T:
    """The result of ``read``, which is called again after faults that may pass.

    Args:
        what: is read, for the log.
    """
    for pause_s in PAUSES_S:
        try:
            return read()
        except Exception as error:
            if not passing(error):
                raise
            LOG.warning("%s", f"{what}: {_short(error)}; tried again after {pause_s:g} s")
        time.sleep(pause_s)
    return read()


def passing(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is a fault that may pass."""
    for one in _chain(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if status is not None:
            return status in _PASSING
        if type(one).__name__ in _CUT:
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = set[int]()
    left: BaseException | None = error
    while left is not None and id(left) not in seen:
        seen.add(id(left))
        yield left
        left = left.__cause__ or left.__context__


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
