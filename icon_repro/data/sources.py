"""Read the raw rows of a source, and turn them into examples.

In: a SourceConfig (file, registry package or hub data set).  Out: rows with the place each came from.
Formats: alpaca (a row may lack the input); prompt_response (a finished prompt, no template is applied); turns: the
first of a list of a user's turns; messages: the last assistant turn is the response and what follows it is left out.
A lone user turn before it is the instruction as it stands; with a system message or earlier turns, all turns are joined
by blank lines, each under a line "System:", "User:" or "Assistant:". Turns are {role, content}, or {from, value} as
ShareGPT has them; content may be a list of texts. A column that says more of a row (a system text, earlier turns,
tools, images) isn't read: a row with one is refused, unless ``fields.left_out`` names it.
Differs: nothing known.  Known gap: messages with content other than text (images, tool calls) are refused.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.data.files import RowError, SourceError, file_rows, files_read
from icon_repro.data.options import Fields, RowFormat, SourceConfig, SourceKind
from icon_repro.data.patience import patiently
from icon_repro.data.registry import fetch
from icon_repro.data.rows import Example, content_id
from icon_repro.data.stand_ins import stand_in_rows
from icon_repro.engine.runtime import Runtime

__all__ = ["HubError", "RowError", "SourceError", "read_all", "read_examples", "read_raw"]

# as ShareGPT and others call them
_ROLES = {"system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant"}
_ROLES |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant")
_TURNS = "a list of {role, content} (or {from, value}) with an assistant turn after a user turn"
_INPUTS = {"input", "inputs", "input_text", "context"}  # what may hold an input under another name
_ANSWERS = {"output", "outputs", "response", "answer", "completion", "target", "chosen", "rejected", "label"}
# what others read beside prompt and response
_MORE = ("system", "system_prompt", "history", "tools", "image", "images", "videos", "audios")
_MORE_OF_A_TURN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "images", "audio")
_UNLEARNED = ("weight", "train", "loss", "loss_mask")  # of an answer that isn't to be learned: 0 or false
_NEAR = 0.5


class HubError(SourceError):
    """A hub data set can't be had."""


def read_examples(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, Example]]:
    """Yield (place, example). Errors as in ``read_all``.

    Raises:
        RowError: a row can't be read.
    """
    for place, row in read_all(source, runtime):
        if isinstance(row, RowError):
            raise row
        yield place, row


def read_all(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, Example | RowError]]:
    """Yield (place, example or why it can't be read), the place as "file:line" or "file, row n" from 1.

    Raises:
        SourceError: a missing or unreadable file.
        HubError: the hub can't be reached, or has no such data set, commit, subset or split.
    """
    for place, row in _rows(source, runtime):
        try:
            yield place, row if isinstance(row, RowError) else _example(source, place, row)
        except RowError as error:
            yield place, error


def read_raw(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) as stored. Errors as in ``read_examples``."""
    for place, row in _rows(source, runtime):
        if isinstance(row, RowError):
            raise row
        yield place, row


def _rows(source: SourceConfig, runtime: Runtime) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    if source.kind is SourceKind.hub:
        yield from _hub_rows(source, runtime)
        return
    if source.kind is SourceKind.stand_in:
        yield from stand_in_rows(source)
        return
    if source.kind is SourceKind.registry:
        assert source.registry is not None  # load() checks it
        paths = [fetch(source.registry, runtime.cache, source.licence)]
    else:
        paths = files_read(runtime.files)
    for path in paths:
        yield from file_rows(path)


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
        read = partial(
            datasets.load_dataset,
            source.hub_id,
            source.subset,
            split=source.split,
            revision=commit,
            download_config=datasets.DownloadConfig(max_retries=0),
        )
        table = patiently(read, where)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise HubError(
            f"{where}: can't be loaded from the hub ({type(error).__name__}: {str(error)[:300]}). Check the names and "
            "connect to the network (a gated set needs a login), or download it and set kind: file and path."
        ) from error
    if others := other_commits([table], commit):
        raise HubError(
            f"{where}: the hub can't be reached, and datasets' cache holds {source.hub_id} at {', '.join(others)}. "
            "Connect to the network, or set that commit as revision."
        )
    for number, row in enumerate(table, start=1):
        yield f"{where}, row {number}", dict(row)


def other_commits(tables: Iterable[Any], commit: str) -> list[str]:
    """At which other commits the tables that datasets has loaded are.

    Without the hub, datasets takes the latest that its cache holds, whatever commit it is asked for.
    """
    folders = {Path(file["filename"]).parent.name for table in tables for file in table.cache_files}
    return sorted(folders - {commit})


def _example(source: SourceConfig, place: str, row: Mapping[str, Any]) -> Example:
    fields = source.fields
    _check_nothing_more(row, fields, place)
    input = ""
    if source.format is RowFormat.alpaca:
        instruction = _text(row, fields.instruction, place, "instruction", fields)
        response = _response(row, fields, place)
        input = _input(row, fields, place)
    elif source.format is RowFormat.prompt_response:
        instruction = _text(row, fields.prompt, place, "prompt", fields)
        response = _response(row, fields, place)
    elif source.format is RowFormat.turns:
        instruction, response = _first_turn(row, fields, place), _response(row, fields, place)
    elif source.format is RowFormat.messages:
        key = fields.messages
        if key == "messages" and key not in row and "conversations" in row:  # ShareGPT's name
            key = "conversations"
        turns = _value(row, key, place, "messages", fields)
        instruction, response = _conversation(turns, f"{place}: {key!r}", fields)
    else:
        raise SourceError(f"{place}: format {source.format.value} has no response; it is for benchmarks.")
    return Example(
        id=content_id(instruction, input, response)
        if fields.id is None
        else _name(row, fields.id, place, "id", fields),
        instruction=instruction,
        input=input,
        response=response,
        group=group_of(source, row, place),
        ready=source.format is RowFormat.prompt_response,
    )


def _check_nothing_more(row: Mapping[str, Any], fields: Fields, place: str) -> None:
    """Refuse a row that says more than is read of it."""
    if more := _more(row, _MORE, fields):
        raise RowError(
            f"{place}: the column {more[0]!r} says more of the row, and isn't read: what it says would be lost. Put it "
            "into the prompt (as a turn of messages, say), or leave it out: "
            f"source.fields.left_out=[{','.join(more)}].",
            f"{more[0]!r} isn't read",
        )


def _more(said: Mapping[str, Any], names: Iterable[str], fields: Fields) -> list[str]:
    """Which of ``names`` hold something that would be lost."""
    known = _used(fields) | set(fields.left_out)
    return [name for name in names if not _empty(said.get(name)) and name not in known]


def _empty(value: Any) -> bool:
    """Whether a value says nothing: null, spaces, empty lists of empty lists, and such as text."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    inner = value.values() if isinstance(value, dict) else value
    return value is None or (isinstance(value, (list, dict)) and all(map(_empty, inner)))


def _response(row: Mapping[str, Any], fields: Fields, place: str) -> str:
    return "" if fields.response is None else _text(row, fields.response, place, "response", fields)


def _input(row: Mapping[str, Any], fields: Fields, place: str) -> str:
    """The input of a row; empty where it is null, or where rows have none.

    Raises:
        RowError: it may stand under another name; a missing one would be lost without a word.
    """
    if fields.input is None or (fields.input in row and row[fields.input] is None):
        return ""
    if fields.input != "input" or "input" in row:
        return _text(row, fields.input, place, "input", fields)
    if other := [name for name in row if name.lower() in _INPUTS and name not in _used(fields)]:
        raise RowError(
            f"{place}: no column 'input', but {other[0]!r}. Set source.fields.input={other[0]}, or null if rows have "
            "no input.",
            "no column 'input'",
        )
    return ""


def _first_turn(row: Mapping[str, Any], fields: Fields, place: str) -> str:
    key = fields.prompt
    turns = _value(row, key, place, "prompt", fields)
    if not isinstance(turns, list) or not turns:
        kind = type(turns).__name__
        raise RowError(
            f"{place}: {key!r} must be a list of turns, found {kind}. Set source.fields.prompt.", f"{key} is {kind}"
        )
    return _checked(turns[0], f"{place}: {key!r}, turn 1", key)


def group_of(source: SourceConfig, row: Mapping[str, Any], place: str) -> str:
    """The group that a row as stored is in."""
    return "" if source.fields.group is None else _name(row, source.fields.group, place, "group", source.fields)


def _used(fields: Fields) -> set[str]:
    """Columns that have a meaning already."""
    names = (fields.id, fields.instruction, fields.input, fields.response, fields.prompt, fields.messages, fields.group)
    return {name for name in names if name is not None}


def _value(row: Mapping[str, Any], key: str, place: str, field: str, fields: Fields) -> Any:
    """A column's value.

    Args:
        field: of ``source.fields``, which names the column.
    """
    if key not in row:
        # neither a column with another meaning nor, in a prompt, one that may hold the answer
        free = [
            name for name in row if name not in _used(fields) and (name.lower() in _ANSWERS) == (field == "response")
        ]
        near = difflib.get_close_matches(key, free, n=1, cutoff=_NEAR) or (free if len(free) == 1 else [])
        hint = f" Did you mean {near[0]!r}?" if near else ""
        none = " (null if rows have none)" if field in ("input", "id", "group") else ""
        raise RowError(
            f"{place}: no column {key!r}.{hint} Columns: {', '.join(row)}. Set source.fields.{field}{none}.",
            f"no column {key!r}",
        )
    return row[key]


def _text(row: Mapping[str, Any], key: str, place: str, field: str, fields: Fields) -> str:
    return _checked(_value(row, key, place, field, fields), f"{place}: {key!r}", key)


def _checked(value: Any, where: str, name: str) -> str:
    """``value``, if it is text.

    Args:
        name: of the value, in the reason.
    """
    if not isinstance(value, str):
        kind = type(value).__name__
        reason = f"{name} is {'null' if value is None else kind}"
        raise RowError(f"{where} must be text, found {kind}. Mend or remove the row.", reason)
    if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        raise RowError(
            f"{where} holds half of a surrogate pair, which isn't Unicode text. Mend or remove the row.",
            f"{name} isn't Unicode",
        )
    return value


def _name(row: Mapping[str, Any], key: str, place: str, field: str, fields: Fields) -> str:
    """An id or group: text or an integer."""
    value = _value(row, key, place, field, fields)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value == "":
        raise RowError(f"{place}: {key!r} is empty. Mend or remove the row.", f"{key} is empty")
    return _checked(value, f"{place}: {key!r}", key)


def _conversation(turns: Any, where: str, fields: Fields) -> tuple[str, str]:
    """Prompt and response of a list of {role, content} or {from, value}."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        kind = type(turns).__name__
        raise RowError(f"{where} must be {_TURNS}, found {kind}. Set source.fields.messages.", f"turns are {kind}")
    spoken = []
    for number, turn in enumerate(turns, start=1):
        at = f"{where}, turn {number}"
        names = ("role", "content") if "role" in turn or "from" not in turn else ("from", "value")
        if missing := [name for name in names if name not in turn]:
            raise RowError(
                f"{at}: no {missing[0]!r}, only {', '.join(turn) or 'nothing'}. A turn is {{role, content}} or "
                "{from, value}. Mend or remove the row.",
                f"a turn without {missing[0]}",
            )
        if more := _more(turn, _MORE_OF_A_TURN, fields):
            raise RowError(
                f"{at}: {more[0]!r} isn't read: what it says would be lost. Put it into the turn's text, or leave it "
                f"out: source.fields.left_out=[{','.join(more)}].",
                f"{more[0]!r} of a turn isn't read",
            )
        said = _checked(turn[names[0]], f"{at}: {names[0]!r}", "a role")
        role = _ROLES.get(said.lower())
        if role is None:
            raise RowError(
                f"{at}: role {said!r} isn't one of {', '.join(_ROLES)}. Mend or remove the row.", f"role {said!r}"
            )
        spoken.append((role, _checked(_joined(turn[names[1]]), f"{at}: {names[1]!r}", "a turn's text")))
    answers = [place for place, (role, _) in enumerate(spoken) if role == "assistant"]
    before = spoken[: answers[-1]] if answers else []
    if not any(role == "user" for role, _ in before):
        kind = ", ".join(r for r, _ in spoken) or "none"
        raise RowError(f"{where} must be {_TURNS}, found roles: {kind}.", "no assistant turn after a user turn")
    response = spoken[answers[-1]][1]
    if marks := [name for name in _UNLEARNED if turns[answers[-1]].get(name, 1) in (0, "0")]:
        raise RowError(
            f"{where}: {marks[0]} of the last assistant turn says that it isn't to be learned. Mend or remove the row.",
            f"the last answer has {marks[0]} 0",
        )
    if len(before) == 1:
        return before[0][1], response
    return "\n\n".join(f"{role.capitalize()}:\n{text}" for role, text in before), response


def _joined(content: Any) -> Any:
    """The text of a content that is a list of texts alone; any other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    read = [text for text in texts if isinstance(text, str)]
    return "\n".join(read) if len(read) == len(texts) else content
