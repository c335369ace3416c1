"""Let one process at a time build a step (a claim), and note how the latest attempt went.

In: the attempt's folder, ``<work>/.attempts/<step>``.  Out: ``claim`` (a lease), ``attempt.json`` (host, process,
outcome, error).
Known gap: a claim is a lease (filelock): a holder that is suspended for longer than the lease may be overtaken. It then
ends itself, and as each attempt of a non-resumable step writes to a folder of its own, nothing is mixed.
"""

import contextlib
import math
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from icon_repro.engine.console import say
from icon_repro.engine.records import RecordError, read_json, write_json

LOST = 5  # exit code of a worker whose claim was taken
_SKEW_S = 5.0
_REAPED_S = 5.0  # until a process that has ended is reaped by its parent
_NOTED = {"host", "pid", "lease_s", "outcome", "error"}  # keys of attempt.json that are read


def take_claim(attempt: Path, lease_s: float) -> SoftFileLease | None:
    """The claim, held; None if another process holds it.

    All who want a claim must go by the same lease. One that was taken with another ``cluster.lease_s`` keeps its own.
    """
    leases = [lease_s]
    if warning := clock_warning(attempt):
        say(f"warning: {warning}")
    if note := read_note(attempt):
        leases.append(note["lease_s"])
    for duration in leases:
        # a dead holder on another host is known only by watching its claim for a whole lease
        patience = 2 * duration if claim_age(attempt) > duration else 0.0
        if note and note["host"] == socket.gethostname() and not alive(note["pid"]):
            patience = max(patience, _REAPED_S)  # the lease takes a zombie for a living holder
        lease = SoftFileLease(attempt / "claim", lease_duration=duration, on_compromise=_lost, timeout=patience)
        try:
            lease.acquire()
        except LeaseSettingsMismatch:
            continue
        except Timeout:
            return None
        return lease
    return None


def read_note(attempt: Path) -> dict[str, Any] | None:
    """What the latest attempt at a step has noted; None if there was none, or its note can't be read.

    The note says nothing of a result: what can't be read is written anew by the next attempt.
    """
    try:
        note = read_json(attempt / "attempt.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecordError as error:
        say(f"warning: {error}")
        return None
    if not isinstance(note, dict) or not note.keys() >= _NOTED:
        say(f"warning: {attempt / 'attempt.json'}: isn't the note of an attempt")
        return None
    return note


def claim_age(attempt: Path) -> float:
    """Seconds since the holder of the claim last showed that it lives; -inf if nobody holds it."""
    try:
        return time.time() - (attempt / "claim").stat().st_mtime
    except FileNotFoundError:
        return -math.inf


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that its parent hasn't asked after (a zombie) doesn't."""
    with contextlib.suppress(OSError):
        # "pid (name) state ..": a name may hold anything, brackets too
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:1]
        if state in (["Z"], ["X"]):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def clock_warning(attempt: Path) -> str:
    """What is wrong if the claim's holder writes times that lie in this host's future; empty if nothing is."""
    age = claim_age(attempt)
    if math.isinf(age) or age > -_SKEW_S:
        return ""
    return (
        f"{attempt / 'claim'} is of a time {-age:.0f} s ahead of {socket.gethostname()}'s clock. If its holder is "
        "killed, that is noticed so much later. Set the clocks of hosts and file server (ntp)."
    )


def write_note(attempt: Path, note: Mapping[str, Any]) -> None:
    # a full disk must hide neither the error that it caused nor a step that was published
    with contextlib.suppress(OSError):
        write_json(attempt / "attempt.json", note)


def _lost(compromise: Any) -> None:
    """Another host took the claim: stop at once, before anything is written."""
    sys.stderr.write(f"claim lost ({compromise.reason}); stopping\n")
    sys.stderr.flush()
    os._exit(LOST)
