"""Read rows from users' files: JSON, JSON lines, CSV, Parquet, Arrow.

In: a path.  Out: rows with their places, and in the place of one that can't be read a ``RowError``.
A byte order mark is skipped; JSON and JSON lines are told apart by what the file begins with. CSV has the columns'
names in its first row, and cells are text as they stand. Text may be packed (.gz, .zst).
Known gap: a compressed file is read as a stream, a JSON list as a whole.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from icon_repro.data.file_sets import KNOWN, SEPARATED, TABLES, SourceError, kind_of
from icon_repro.data.model_files import lfs_problem

# what other files begin with
_BEGINS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "Parquet", b"PK\x03\x04": "a zip archive"}
_BEGINS |= {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"ARROW1": "an Arrow file", b"\xff\xff\xff\xff": "an Arrow stream"}
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_MOST_TEXT = 2**31 - 1  # bytes of a cell


class RowError(SourceError):
    """One row can't be read, others may be.

    Args:
        reason: in a few words, the same for equal faults of other rows.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


Row = tuple[str, dict[str, Any] | RowError]  # place, and the row or why there is none


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of one file.

    Raises:
        SourceError: the file as a whole can't be read.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file. Correct the source's path; it is relative to the working directory.")
    kind = kind_of(path)
    if kind is None:
        raise SourceError(f"{path}: suffix {path.suffix!r} isn't known. Use {KNOWN}.")
    try:
        if problem := lfs_problem(path):
            raise SourceError(problem)
        yield from _table_rows(path, kind) if kind in TABLES else _text_rows(path, kind)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: can't be read ({error}). Check the file and its permissions.") from error


def user_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of one file with their places, where none may be missing.

    Raises:
        SourceError: the file, or one of its rows, can't be read.
    """
    for place, row in file_rows(path):
        if isinstance(row, RowError):
            raise row
        yield place, row


def user_text(path: Path) -> str:
    """A user's file as text, without a byte order mark.

    Raises:
        SourceError: it isn't UTF-8, or can't be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from error
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error}). Check the file and its permissions.") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _text_rows(path: Path, kind: str) -> Iterator[Row]:
    with _opened(path) as file:
        start = file.read(4096)
    if other := next((name for sign, name in _BEGINS.items() if start.startswith(sign)), None):
        raise SourceError(f"{path}: holds {other}, not text. Unpack the file, or give its name the suffix for that.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise SourceError(f"{path}: is UTF-16 or UTF-32. Convert the file to UTF-8.")
    if kind in SEPARATED:
        yield from _separated_rows(path, SEPARATED[kind])
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _list_rows(path)
    elif _first_line_is_whole(start):
        yield from _line_rows(path)
    else:
        raise SourceError(f"{path}: must hold a JSON list of rows, or a JSON object a line.")


def _separated_rows(path: Path, separator: str) -> Iterator[Row]:
    csv.field_size_limit(_MOST_TEXT)
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names) or "" in names:
                raise SourceError(f"{path}: its first row must name the columns, each once, found {names}.")
            for number, cells in enumerate(filter(None, reader), start=1):
                place = f"{path}, row {number}"
                if len(cells) == len(names):
                    yield place, dict(zip(names, cells, strict=True))
                else:
                    message = f"{place}: has {len(cells)} cells, the first row {len(names)}. Mend or remove the row."
                    yield place, RowError(message, "cells are missing or too many")
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from error
        except csv.Error as error:
            raise SourceError(
                f"{path}, line {reader.line_num}: malformed ({error}). A cell with quotes in it stands in quotes, each "
                "of its own doubled. Mend the file."
            ) from error


def _first_line_is_whole(start: bytes) -> bool:
    """Whether the file may have a row a line: what is one JSON object over many lines has "{" alone on its first."""
    first = start.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0].strip()
    return first != b"{"


def _list_rows(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        try:
            rows = json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_Pairs.read)
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from error
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}: not valid JSON ({error}). Mend the file.") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", _object(row, f"{path}, row {number}")


def _line_rows(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield place, RowError(f"{place}: not UTF-8 ({error}). Convert the file to UTF-8.", "not UTF-8")
                continue
            if not text.strip():
                continue
            try:
                row = json.loads(text, object_pairs_hook=_Pairs.read)
            except (ValueError, RecursionError) as error:
                message = f"{place}: malformed JSON ({error}). Mend or remove the line."
                yield place, RowError(message, "malformed JSON")
                continue
            yield place, _object(row, place)


class _Pairs(dict[str, Any]):
    """A JSON object in which a key stands twice, or that holds one: json itself would keep the last value alone."""

    twice = ""

    @classmethod
    def read(cls, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        by_key = dict(pairs)
        twice = [value.twice for _, value in pairs if isinstance(value, cls)]
        twice += [
            inner.twice
            for value in by_key.values()
            if isinstance(value, list)
            for inner in value
            if isinstance(inner, cls)
        ]
        if len(by_key) < len(pairs):
            twice.append(Counter(key for key, _ in pairs).most_common(1)[0][0])
        if not twice:
            return by_key
        with_repeats = cls(by_key)
        with_repeats.twice = twice[0]
        return with_repeats


def _object(row: Any, place: str) -> dict[str, Any] | RowError:
    if isinstance(row, _Pairs):
        message = f"{place}: the key {row.twice!r} is there twice in one object. Mend or remove the row."
        return RowError(message, "a key twice")
    if isinstance(row, dict):
        return row
    return RowError(f"{place}: a JSON object is needed, found {type(row).__name__}.", "not a JSON object")


def _table_rows(path: Path, kind: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    number = 0
    try:
        if kind == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                for row in _of_batches(file.iter_batches()):
                    number += 1
                    yield f"{path}, row {number}", row
        else:
            with pyarrow.OSFile(str(path)) as stream, pyarrow.ipc.open_stream(stream) as reader:
                for row in _of_batches(reader):
                    number += 1
                    yield f"{path}, row {number}", row
                stream.seek(max(0, stream.size() - len(_ARROW_END)))
                if stream.read() != _ARROW_END:  # pyarrow takes the end of a file that is cut for the rows' own
                    raise ValueError("the file is cut short")
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:  # the latter: of damaged texts
        name = "Parquet" if kind == ".parquet" else "an Arrow stream"
        raise SourceError(f"{path}: not readable as {name} after row {number} ({error}). Replace the file.") from error


def _of_batches(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def files_read(files: Mapping[str, Path]) -> list[Path]:
    """The files of a step's source, in the order of ``files_of``."""
    return [files[name] for name in sorted(files) if name == "source" or name.startswith("source.")]
