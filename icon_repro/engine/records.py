"""Read and write JSON values and JSON lines: durably, with checksums where asked, and with named errors.

In / out: one JSON object a line, UTF-8.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
CHECKSUM = "checksum"  # key of a sealed value


class RecordError(ValueError):
    """A stored row can't be read; the message names file, line and reason."""


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as sorted, indented JSON, durably: on disk under a temporary name first, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        RecordError: the file isn't JSON; the message names it and the place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: not valid JSON ({error}). Delete or restore the file.") from error


def checksum(value: Any) -> str:
    """sha256 of a JSON value: the same before it is written and after it is read."""
    stored = json.loads(json.dumps(value))  # keys that aren't texts become texts
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with the checksum of its other keys under ``checksum``."""
    return {**value, CHECKSUM: checksum({key: one for key, one in value.items() if key != CHECKSUM})}


def seal_holds(value: Mapping[str, Any]) -> bool:
    """Whether ``value`` is as ``sealed`` gave it; False if it has no checksum."""
    return CHECKSUM in value and value[CHECKSUM] == sealed(value)[CHECKSUM]


def write_sealed(path: Path, value: Any) -> None:
    """Write ``value`` as ``write_json`` does, with its checksum."""
    write_json(path, {CHECKSUM: checksum(value), "value": value})


def read_sealed(path: Path) -> Any:
    """Read what ``write_sealed`` wrote.

    Raises:
        RecordError: the file isn't as it was written.
    """
    try:
        stored = read_json(path)
    except RecordError as error:
        raise RecordError(f"{path}: altered since it was written. Delete the file and run again.") from error
    if not isinstance(stored, dict) or stored.keys() != {CHECKSUM, "value"}:
        raise RecordError(f"{path}: has no checksum, or was altered. Delete the file and run again.")
    if stored[CHECKSUM] != checksum(stored["value"]):
        raise RecordError(f"{path}: altered since it was written. Delete the file and run again.")
    return stored["value"]


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclass instances or dicts as JSON lines; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            data = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
            file.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSONL file; blank lines are skipped.

    Raises:
        RecordError: a line isn't a JSON object; the message names file and line.
    """
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = enumerate(file, start=1)
        while True:
            number = 0
            try:
                number, line = next(lines)
                if line.strip():
                    value = json.loads(line)
                else:
                    continue
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                raise RecordError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from error
            except ValueError as error:
                raise RecordError(f"{path}:{number}: malformed JSON ({error}). Mend or remove the line.") from error
            if not isinstance(value, dict):
                raise RecordError(f"{path}:{number}: a JSON object is needed, found {type(value).__name__}.")
            yield number, value


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read a JSONL file of our own as dataclass instances.

    Raises:
        RecordError: a line is malformed or has other fields than ``kind``.
    """
    rows = []
    for number, value in read_lines(path):
        try:
            rows.append(kind(**value))
        except TypeError as error:
            raise RecordError(f"{path}:{number}: {error}; was it written by another version?") from error
    return rows
