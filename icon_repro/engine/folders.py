"""Change whole folders safely: on disk before they count, set aside, or removed without ever being seen half-done.

In: a folder.  Out: the same folder, durable, under another name, or gone.
Known gap: the rename of a folder is atomic on POSIX file systems only.
"""

import itertools
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def files_of(folder: Path) -> Iterator[Path]:
    """Every file of a step's folder but its record.json, in the order of their paths."""
    return (p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / "record.json")


def sync(folder: Path) -> None:
    """Have the files below ``folder`` on disk, and the folders that name them."""
    files = list(files_of(folder))
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for parent in {folder, *(path.parent for path in files)}:
        sync_folder(parent)


def open_to_umask(folder: Path) -> None:
    """Give files the mode that the umask asks for: some libraries make them under a temporary name, with mode 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for path in files_of(folder):
        mode = path.stat().st_mode & 0o777
        if (wanted := (0o666 | mode & 0o111) & ~mask) != mode:
            path.chmod(wanted)


def set_aside(folder: Path) -> Path:
    """Give a damaged folder a name beside it that nothing takes for a result. The caller holds the step's claim."""
    for number in itertools.count(1):
        aside = folder.with_name(f".damaged-{folder.name}-{number}")
        if not aside.exists():
            break
    folder.rename(aside)
    return aside


def discard(folder: Path) -> None:
    """Remove a folder such that it is never seen half-removed under its name."""
    trash = folder.with_name(f".trash-{uuid.uuid4().hex}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)


def clear_trash(parent: Path) -> None:
    """Remove what ``discard`` left in ``parent`` when it was killed; one that is still at it doesn't mind."""
    for trash in parent.glob(".trash-*"):
        shutil.rmtree(trash, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
