"""Define steps and their fingerprints, and publish their results as folders that are complete or absent.

A step's result lies in ``<work>/<stage>/<name>-<fingerprint>``. It is written as ``.part``, ``record.json`` comes last,
and a rename publishes it: a folder without ``.part`` is complete. Attempts (claim, log, outcome) lie apart, in
``<work>/.attempts/<stage>/<name>-<fingerprint>``. A folder found damaged becomes ``.damaged-<name>-<fingerprint>-<n>``.
A record holds the checksums of the step's files and its own; one that was written before it held its own is believed.
Source: own design; compared with exca, snakemake and submitit before it was chosen.
Known gap: the rename of a folder is atomic on POSIX file systems only.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from icon_repro.engine.folders import discard, files_of, open_to_umask, sync, sync_folder
from icon_repro.engine.records import RecordError, read_json, seal_holds, sealed, write_json
from icon_repro.engine.schema import plain

FORMAT = 1  # of record.json
HASHED_BYTES = 256 * 2**20  # of an input that are read again before it is used
MISSING = "isn't there"
# keys of records that hold no checksum: with another key, it is one whose "checksum" was altered
_WITHOUT_CHECKSUM = frozenset(
    {"cluster", "files", "files_read", "fingerprint", "format", "git", "hashed", "host", "inputs", "label", "metrics"}
    | {"packages", "peak_rss_mb", "platform", "python", "started", "wall_s"}
)


class ArtifactError(ValueError):
    """A published folder is damaged, or was written by a newer version."""


class StoreError(ArtifactError):
    """The work folder can't be written."""


class NewerFormatError(ArtifactError):
    """A published folder was written by a newer version: it isn't damaged."""


@dataclass(frozen=True)
class Cost:
    """What a step takes: tokens through the model and floating point operations (2 for a multiply-add)."""

    tokens: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True)
class SourceFile:
    """A file from outside the store that a step reads; only its content counts."""

    path: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the plan.

    ``target`` names the function; ``engine.targets`` imports it only when the step runs. ``params`` is the dataclass
    instance that it takes; its hashed fields, ``version`` and the inputs' fingerprints make the fingerprint.
    """

    stage: str
    name: str
    target: str
    version: int
    params: Any
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    files: Mapping[str, SourceFile] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)  # hashed facts, e.g. the commit of a branch
    cost: Cost = field(default_factory=Cost)
    resumable: bool = False  # what an attempt left in .part is of use to the next
    where: str = ""  # key of the configuration that says what is read, for messages; not hashed
    as_sets: tuple[str, ...] = ()  # inputs of whose lists the order means nothing to the step; see ``engine.twins``
    carried: tuple[str, ...] = ()  # inputs that the fingerprint leaves out: it holds what their content comes from

    @property
    def hashed(self) -> dict[str, Any]:
        """Everything that the fingerprint covers, readable; ``plan`` compares it with older records."""
        return {
            "stage": self.stage,
            "target": self.target,
            "version": self.version,
            "params": plain(self.params, hashed_only=True),
            "inputs": {name: step.fingerprint for name, step in self.inputs.items() if name not in self.carried},
            "files": {name: file.sha256 for name, file in self.files.items()},
            "extra": dict(self.extra),
        }

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hex digits of the sha256 over the canonical JSON of ``hashed``."""
        text = json.dumps(self.hashed, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def label(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def folder(self) -> str:
        return f"{self.stage}/{self.name}-{self.fingerprint}"


def ordered(steps: Iterable[Step]) -> list[Step]:
    """All steps and what they need, inputs first, each fingerprint once; the order is that of first mention."""
    seen: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.folder not in seen:
            for needed in step.inputs.values():
                visit(needed)
            seen[step.folder] = step

    for step in steps:
        visit(step)
    return list(seen.values())


def ancestors(step: Step) -> list[Step]:
    """What ``step`` needs, directly or not, without itself."""
    return ordered(step.inputs.values())


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(key: str, folder: Path) -> None:
    """Try to write to ``folder``, or where it would be made; leaves everything as it was.

    Args:
        key: of the configuration, that names the folder.

    Raises:
        StoreError: says why it can't be done.
    """
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    probe = there / f".probe-{uuid.uuid4().hex}"
    try:
        try:
            probe.write_text("x", encoding="utf-8")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{key}={folder}: can't be written ({error.strerror}). Set {key} to another folder, or make room."
        ) from error


class Store:
    """The work folder: where steps lie and what is known about them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, tuple[int, dict[str, list[Path]]]] = {}  # stage -> time of change, folders by name

    def path(self, step: Step) -> Path:
        return self.root / step.folder

    def attempt(self, step: Step) -> Path:
        """Folder with claim, log and outcome of the latest attempt."""
        return self.root / ".attempts" / step.folder

    def check_writable(self) -> None:
        """Try to write there.

        Raises:
            StoreError: says why it can't be done.
        """
        check_writable("paths.work", self.root)

    def complete(self, step: Step) -> bool:
        return (self.path(step) / "record.json").is_file()

    def record(self, step: Step) -> dict[str, Any]:
        return read_record(self.path(step))

    def latest(self, step: Step) -> dict[str, Any] | None:
        """Record of the newest published step of the same name and another fingerprint."""
        folders = [f for f in self._published(step.stage).get(step.name, []) if f != self.path(step)]
        return read_record(max(folders, key=lambda f: (f / "record.json").stat().st_mtime_ns)) if folders else None

    def _published(self, stage: str) -> dict[str, list[Path]]:
        """Published folders of ``stage`` by step name; listed again only when the stage's folder has changed."""
        root = self.root / stage
        if not root.is_dir():
            return {}
        changed = root.stat().st_mtime_ns
        if stage not in self._listings or self._listings[stage][0] != changed:
            names: dict[str, list[Path]] = {}
            for folder in root.iterdir():
                match = re.fullmatch(r"(.+)-[0-9a-f]{12}", folder.name)
                if match and (folder / "record.json").is_file():
                    names.setdefault(match[1], []).append(folder)
            self._listings[stage] = (changed, names)
        return self._listings[stage][1]


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a published folder.

    Raises:
        NewerFormatError: it was written by a newer version of this project.
        ArtifactError: it isn't a record, or was altered.
    """
    record = read_json(folder / "record.json")
    if not isinstance(record, dict) or not {"format", "files"} <= set(record):
        raise ArtifactError(f"{folder}/record.json: isn't a step's record. Delete {folder} and run again.")
    if not (seal_holds(record) or record.keys() <= _WITHOUT_CHECKSUM):
        raise ArtifactError(f"{folder}/record.json: altered since it was published. Delete {folder} and run again.")
    if record["format"] > FORMAT:
        raise NewerFormatError(
            f"{folder}/record.json: format {record['format']}, this version reads up to {FORMAT}. Update icon_repro."
        )
    return record


def publish(
    part: Path, final: Path, record: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]] | None = None
) -> bool:
    """Complete ``part`` with record.json and rename it to ``final``, durably.

    Args:
        files: sizes and checksums of its files, where they are known.

    Returns:
        False if another process published the same step first; its result is kept and ``part`` removed.
    """
    open_to_umask(part)
    sync(part)
    write_json(part / "record.json", sealed({**record, "format": FORMAT, "files": files or manifest(part)}))
    sync_folder(part)
    try:
        part.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not (final / "record.json").is_file():
            raise ArtifactError(f"{final} is in the way, without a record.json. Move it away and run again.") from error
        discard(part)
        return False
    sync_folder(final.parent)
    return True


def damage(
    folder: Path,
    hashed_bytes: float = HASHED_BYTES,
    only: Container[str] | None = None,
    lacking: Container[str] = (),
    sha256: Callable[[Path], str] = file_sha256,
) -> str | None:
    """How a published folder differs from its record; None if it doesn't. Files that it doesn't name don't count.

    Args:
        hashed_bytes, lacking, sha256: see ``altered``.
        only: names of the files that count; None: all.

    Raises:
        NewerFormatError: this version can't tell.
    """
    try:
        files = read_record(folder)["files"]
    except NewerFormatError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return "file missing (record.json)" if folder.exists() else MISSING
    except (ArtifactError, RecordError):
        return "altered since it was published (record.json)"
    counted = {name: file for name, file in files.items() if only is None or name in only}
    return altered(folder, counted, hashed_bytes, lacking, sha256)


def manifest(folder: Path, hashed_bytes: float = math.inf) -> dict[str, dict[str, Any]]:
    """Size and sha256 of each file in ``folder`` by its name, without record.json.

    Args:
        hashed_bytes: see ``altered``; what goes beyond has no sha256.
    """
    files: dict[str, dict[str, Any]] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": None} for path in files_of(folder)
    }
    for name in _first(files, hashed_bytes):
        files[name]["sha256"] = file_sha256(folder / name)
    return files


def altered(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    hashed_bytes: float = HASHED_BYTES,
    lacking: Container[str] = (),
    sha256: Callable[[Path], str] = file_sha256,
) -> str | None:
    """How ``folder`` differs from a manifest; None if it doesn't.

    Args:
        hashed_bytes: names and sizes are compared always; contents of the smallest files first, up to so many bytes
            together. Of the rest (a model's weights) a change that leaves the size as it was goes unseen.
        lacking: names of files that needn't be there.
        sha256: gives a file's checksum.
    """
    hashed = _first(files, hashed_bytes)
    for name, expected in sorted(files.items(), key=lambda item: item[1]["bytes"]):
        try:
            same = (folder / name).stat().st_size == expected["bytes"]
            same = same and (name not in hashed or sha256(folder / name) == expected["sha256"])
        except (FileNotFoundError, NotADirectoryError):
            if name in lacking:
                continue
            return f"file missing ({name})"
        if not same:
            return f"altered since it was published ({name})"
    return None


def _first(files: Mapping[str, Mapping[str, Any]], most_bytes: float) -> set[str]:
    """Names of the smallest files, up to so many bytes together."""
    order = sorted(files, key=lambda name: (files[name]["bytes"], name))
    sums = itertools.accumulate(files[name]["bytes"] for name in order)
    return {name for name, total in zip(order, sums, strict=True) if total <= most_bytes}


def verify(folder: Path) -> None:
    """Compare a published folder with all checksums in its record.

    Raises:
        ArtifactError: names the first file that is missing or altered.
    """
    if difference := damage(folder, math.inf):
        raise ArtifactError(f"{folder}: {difference}. Delete it and run again.")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Dotted keys whose values differ, as ``key: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changes = []
        for key in sorted(set(old) | set(new)):
            changes += differences(old.get(key, "absent"), new.get(key, "absent"), f"{where}.{key}" if where else key)
        return changes
    return [] if old == new else [f"{where}: {old} -> {new}"]
