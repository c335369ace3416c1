"""Inputs that nobody thought of: readers, replies, verdicts and configurations end with a value or a named error.

A few hundred of each in ``make test``; with FUZZ=10000 as many as that:

    FUZZ=10000 python -m pytest -n 0 tests/test_fuzz.py
"""

import copy
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import composed

from icon_repro.config.load import Config, ConfigError, load
from icon_repro.data.options import Fields, RowFormat, SourceConfig, SourceKind
from icon_repro.data.rows import Example
from icon_repro.data.sources import RowError, SourceError, read_all
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import sealed
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge.readings import VerdictError, parse_scores, parse_verdict
from icon_repro.lm.replies import Replies, RepliesError
from icon_repro.lm.thoughts import without_thoughts

MANY = int(os.environ.get("FUZZ", "200"))
pytestmark = pytest.mark.timeout(max(600, MANY))  # seconds: a tenth of one for an input, and time to shrink a failure
quick = settings(
    max_examples=MANY,
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)

# ---------------------------------------------------------------- files of rows

NAMES = ["instruction", "input", "output", "messages", "conversations", "prompt", "role", "content", "from", "value"]
SAID = st.sampled_from(["user", "assistant", "human", "gpt", "system", "text", "", "\ud800", "Say hi.", "\x00", "é"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | SAID
KEYS = st.sampled_from([*NAMES, "type", "text"]) | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
TURN = st.fixed_dictionaries({"role": SAID, "content": LEAVES}) | st.fixed_dictionaries({"from": SAID, "value": LEAVES})
ROW = st.dictionaries(st.sampled_from(NAMES), st.lists(TURN, max_size=4) | VALUES, max_size=5)
FORMATS = [RowFormat.alpaca, RowFormat.prompt_response, RowFormat.turns, RowFormat.messages]
FIELDS = [Fields(), Fields(id="value"), Fields(input=None), Fields(response=None), Fields(group="role", prompt="input")]


def lines(rows: list[Any]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Rows as files have them, sound or damaged."""
    rows = draw(st.lists(ROW | VALUES, max_size=4))
    data = draw(st.sampled_from([lines(rows), json.dumps(rows).encode(), json.dumps(rows, indent=1).encode()]))
    data = (
        draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"version https://git-lfs.github.com/spec/v1\n"]))
        + data
    )
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 5)) :]
    return draw(st.sampled_from([data, data, data.decode("utf-8", "replace").encode("utf-16"), gzip.compress(data)]))


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Parquet, whole or damaged."""
    texts = draw(st.lists(st.sampled_from([None, "", "Say hi.", "é"]), min_size=1, max_size=3))
    columns = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    stream = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table({name: pyarrow.array(texts, pyarrow.string()) for name in columns}), stream
    )
    data = bytearray(stream.getvalue())
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=3)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def read(data: bytes, suffix: str, format: RowFormat, fields: Fields) -> None:
    """Every row of a file, or the error that says why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(data)
        runtime = Runtime(ClusterConfig(), Path(folder), files={"source": path}, terminal=None)
        source = SourceConfig(SourceKind.file, format, "fuzz", path=str(path), fields=fields)
        try:
            for place, row in read_all(source, runtime):
                assert place
                assert isinstance(row, Example) or (isinstance(row, RowError) and row.reason)
                if isinstance(row, Example):
                    (row.instruction + row.input + row.response + row.id + row.group).encode()
        except SourceError as error:
            assert str(error)


@quick
@given(
    contents(),
    st.sampled_from([".jsonl", ".json", ".jsonl.gz", ".json.zst", ".ndjson", ".csv", ".tsv.gz"]),
    st.sampled_from(FORMATS),
    st.sampled_from(FIELDS),
)
def test_text_files_give_rows_or_named_errors(data: bytes, suffix: str, format: RowFormat, fields: Fields) -> None:
    read(data, suffix, format, fields)


@quick
@given(tables() | st.binary(max_size=40), st.sampled_from([".parquet", ".arrow"]), st.sampled_from(FORMATS))
def test_tables_give_rows_or_named_errors(data: bytes, suffix: str, format: RowFormat) -> None:
    read(data, suffix, format, Fields())


# ---------------------------------------------------------------- replies

PIECES = [
    "<think>",
    "</think>",
    "[THINK]",
    "<reasoning a='b'>",
    "<|channel|>final<|message|>",
    "<|channel|>analysis",
    "<|end|>",
]
PIECES += [
    "8",
    "9",
    "10",
    "0",
    "3,5",
    "7.5",
    "1e9",
    "-1",
    "٣",
    "²",
    "/",
    "/10",
    ",",
    " ",
    "\n",
    ":",
    "=",
    "|",
    "*",
    "**",
]
PIECES += [
    "Assistant 1",
    "Assistant 2",
    "model A",
    "Scores",
    "score",
    "and",
    "because",
    "[[A]]",
    "[[b]]",
    "[[C]]",
    "out of 10",
]
REPLY = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join) | st.text(max_size=60)


@quick
@given(REPLY)
def test_verdicts_are_within_their_scale_or_refused(text: str) -> None:
    for parse in (parse_scores, parse_verdict):
        try:
            found = parse(text)
        except VerdictError as error:
            assert str(error)
        else:
            scores = found if isinstance(found, tuple) else ()
            assert found in ("A", "B", "C") or all(score == 0 or 1 <= score <= 10 for score in scores)


@quick
@given(REPLY)
def test_a_text_after_thoughts_is_all_that_is_read(text: str) -> None:
    left = without_thoughts(text)
    assert left == "" or all(part in text for part in left.split("\n"))
    for hidden in (f"<think>9 2{text.replace('<', '').replace('[', '').replace('◁', '')}</think>", "9 2 </think>"):
        assert "9 2" not in without_thoughts(f"{hidden}\n\n3 8")


STORED = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("digest", "key", "text", "finish", "checksum", "tokens_in", "server", "new"), VALUES),
)


@quick
@given(
    st.lists(
        st.one_of(STORED, STORED.map(sealed), VALUES).map(lambda value: json.dumps(value).encode())
        | st.binary(max_size=12),
        max_size=4,
    )
)
def test_stored_replies_are_read_or_named(stored: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replies.jsonl"
        path.write_bytes(b"\n".join(stored))
        try:
            Replies(path).close()
        except RepliesError as error:
            assert "replies.jsonl:" in str(error)


# ---------------------------------------------------------------- configurations


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key of a configuration, as a path."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inside for place in ((*above, key), *places(one, (*above, key)))]


SETTINGS = ["", "???", "none", "a/b", "../x", "0", "null", "é", "_target_", "base", "full", "icon"]
CHANGED = VALUES | st.sampled_from([*SETTINGS, 0, -1, 1, 2, 10**12, 0.5, 1e308, [], {}, [1, 1], [0.1, 0.1], {"x": {}}])


@pytest.fixture(scope="module", params=["smoke_tiny", "smoke"])
def whole(request: pytest.FixtureRequest) -> dict[str, Any]:
    return composed(f"experiment={request.param}")


@quick
@given(st.data())
def test_configurations_are_typed_or_refused_by_name(whole: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(changed)))
        inside = changed
        for key in place[:-1]:
            inside = inside[key]
        change: Callable[[], Any] = data.draw(st.sampled_from([lambda: data.draw(CHANGED), dict, list]))
        if data.draw(st.booleans()):
            inside[place[-1]] = change()
        elif isinstance(inside, dict):
            inside[data.draw(KEYS | st.integers())] = inside.pop(place[-1])
        if not places(changed):
            return
    try:
        assert isinstance(load(changed), Config)
    except ConfigError as error:
        assert str(error)
