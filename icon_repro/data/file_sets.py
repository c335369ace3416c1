"""Find the files of rows that a path stands for: one file, a folder or a pattern.

In: a path.  Out: the files, by name, and what kind each is.
A folder from which a part would be left out, or in which several data sets lie, is refused: see ``files_of``.
Known gap: none.
"""

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from glob import glob
from pathlib import Path

SEPARATED = {".csv": ",", ".tsv": "\t"}
_TEXT, TABLES, _PACKED = (".jsonl", ".ndjson", ".json", *SEPARATED), (".parquet", ".arrow"), (".gz", ".zst")
# of files with rows that can't be read as they are: packed otherwise, or a download that isn't finished
_UNREAD = (".bz2", ".xz", ".lz4", ".zip", ".7z", ".br", ".snappy", ".incomplete", ".part", ".aria2", ".crdownload")
# JSON that lies beside rows and holds none
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_SPLIT = re.compile(r"(?:^|[-_./])(train|training|test|testing|validation|valid|val|dev|eval)(?=[-_./\d]|$)", re.I)
_SPLITS = {"training": "train", "testing": "test", "valid": "validation", "val": "validation", "dev": "validation"}
KNOWN = ".jsonl, .json, .csv, .tsv (these also with .gz or .zst), .parquet or .arrow"
_SHARD = re.compile(r"(?P<before>.*\D)(?P<number>\d{5})-of-(?P<count>\d{5})(?P<after>\D[^/]*)", re.S)


class SourceError(ValueError):
    """A source can't be read; the message names place and key."""


def files_of(path: str, split: str = "train") -> list[Path]:
    """The files that a path stands for, by name: itself, those of a folder, or those that a pattern fits.

    Args:
        split: which files of a folder are meant, where their names say train, test and so on.

    Raises:
        SourceError: there is no such file; or a folder holds several data sets, or a part of one.
    """
    whole = Path(path).expanduser()
    if whole.is_file():
        return [whole]
    if whole.is_dir():
        of_split = _of_split(whole, [p for p in _shown(whole) if _holds_rows(p)], split)
        if not of_split:
            raise SourceError(f"{path!r}: a folder without a file of rows ({KNOWN}). Give the file's own path.")
        _check_subsets(whole, of_split)
        _check_shards(of_split)
        return of_split
    if any(sign in path for sign in "*?["):
        found = [Path(p) for p in sorted(glob(str(whole), recursive=True))]  # noqa: PTH207
        matches = [path for path in found if not path.is_dir() and not _is_lost(path)]
        if not matches:
            raise SourceError(f"{path!r}: no file fits this pattern (looked in {Path.cwd()}).")
        _check_shards(matches, str(whole))
        return matches
    raise SourceError(f"{path!r}: no such file (looked in {Path.cwd()}).")


def _shown(folder: Path) -> list[Path]:
    """What lies in a folder, in its folders too, without hidden things.

    Raises:
        SourceError: a folder in it can't be looked into, or is a link to one elsewhere.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: can't be read ({error.strerror}). Check the folder's permissions.")

    shown = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        links = [path for name in folders if (path := Path(place) / name).is_symlink()]
        if linked := next((link for link in links if any(path.is_file() for path in link.rglob("*"))), None):
            raise SourceError(
                f"{linked}: is a link to a folder, whose files would be left out. Give a pattern that reaches into it "
                f"({linked.parent}/*/*.jsonl), or the path of the folder itself."
            )
        shown += [Path(place) / name for name in names if not name.startswith((".", "_"))]
    return sorted(shown)


def _holds_rows(path: Path) -> bool:
    """Whether a file of a folder is one of rows.

    Raises:
        SourceError: it is, and can't be read.
    """
    unpacked = path.with_suffix("")
    if path.suffix.lower() in _UNREAD and kind_of(unpacked) is not None and not unpacked.exists():
        raise SourceError(
            f"{path}: seems to hold rows, and can't be read as it is: it would be left out. Unpack it or download it "
            "again, move it away, or give a pattern of the files that are meant."
        )
    return path.name not in _ABOUT and kind_of(path) is not None and not _is_lost(path)


def _is_lost(path: Path) -> bool:
    """False.

    Raises:
        SourceError: the path is a link to a file that isn't there.
    """
    if path.exists():
        return False
    raise SourceError(f"{path}: is a link to a file that isn't there. Download or copy the data set again.")


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """Those of ``files`` whose names are of ``split``; all, if no name says a split."""
    named: dict[str, list[Path]] = {}
    for path in files:
        match = _SPLIT.search(path.relative_to(folder).as_posix())
        name = match[1].lower() if match else ""
        named.setdefault(_SPLITS.get(name, name), []).append(path)
    if set(named) <= {""}:
        return files
    wanted = _SPLITS.get(split, split)
    if wanted not in named:
        raise SourceError(
            f"{str(folder)!r}: holds the splits {', '.join(sorted(filter(None, named)))}, not source.split={split!r}. "
            "Set source.split, or give a pattern of the files that are meant."
        )
    suffixes = {path.suffix for path in named[wanted]}
    if alike := [path.relative_to(folder).as_posix() for path in named.get("", []) if path.suffix in suffixes]:
        raise SourceError(
            f"{str(folder)!r}: {len(alike)} files name no split beside those of {wanted!r} (first: {alike[0]}), and "
            "would be left out. Give a pattern of the files that are meant, or move the others away."
        )
    return named[wanted]


def _check_subsets(folder: Path, files: Sequence[Path]) -> None:
    """Refuse rows in several subfolders that aren't named after splits: subsets of a hub data set, most likely."""
    subsets = set()
    for path in files:
        parts = path.relative_to(folder).parent.parts
        subsets.add("/".join(part for part in parts if not _SPLIT.fullmatch(part)))
    if len(subsets) > 1:
        names = ", ".join(sorted(subsets)[:5]) if "" not in subsets else f"itself and {', '.join(sorted(subsets)[1:6])}"
        raise SourceError(
            f"{str(folder)!r}: rows lie in {len(subsets)} folders in it ({names}): subsets, or one data set? Give the "
            f"folder of one, or a pattern for all ({folder}/**/*{files[0].suffix})."
        )


def _check_shards(files: Sequence[Path], pattern: str | None = None) -> None:
    """Refuse a part of a data set whose files say how many they are (train-00000-of-00002).

    Args:
        pattern: only files that it fits are missed.
    """
    numbers: dict[tuple[str, int, str], set[int]] = {}
    for path in files:
        if match := _SHARD.fullmatch(str(path)):
            numbers.setdefault((match["before"], int(match["count"]), match["after"]), set()).add(int(match["number"]))
    for (before, count, after), found in numbers.items():
        first = 1 if count in found else 0
        for number in range(first, first + count):
            name = f"{before}{number:05}-of-{count:05}{after}"
            if number not in found and (pattern is None or fnmatch(name, pattern)):
                raise SourceError(
                    f"{name}: isn't there; the names of the files beside it say that there are {count}. Download the "
                    "data set again, or give a pattern of the files that are meant."
                )


def kind_of(path: Path) -> str | None:
    """The suffix that says how to read the file; None if none does."""
    name = path.name.lower()
    for packed in _PACKED:
        if name.endswith(packed):
            plain = Path(name.removesuffix(packed)).suffix
            return plain if plain in _TEXT else None
    suffix = Path(name).suffix
    return suffix if suffix in (*_TEXT, *TABLES) else None
