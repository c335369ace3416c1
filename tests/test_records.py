"""JSON and JSON lines: what is read, what is refused with its place, what a failed write leaves."""

import json
from pathlib import Path

import pytest

from icon_repro.data.rows import Example, Score, content_id
from icon_repro.engine.records import (
    RecordError,
    read_json,
    read_lines,
    read_rows,
    read_sealed,
    write_json,
    write_rows,
    write_sealed,
)


@pytest.mark.parametrize(
    "line, reason",
    [(b'{"id": "b", "score"', "malformed"), (b"[1, 2]", "list"), (b'"text"', "str"), (b"{'id': 'b'}", "malformed")],
)
def test_read_lines_bad_line_names_file_and_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n\n' + line + b'\n{"id": "c"}\n')
    with pytest.raises(RecordError) as caught:
        list(read_lines(path))
    assert f"{path}:3" in str(caught.value) and reason in str(caught.value)


def test_read_lines_not_utf8_names_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"id": "café"}\n'.encode("latin-1"))
    with pytest.raises(RecordError, match=r"rows\.jsonl.*UTF-8"):
        list(read_lines(path))


def test_read_lines_bom_blank_lines_and_line_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"id": "a\u2028b"}\r\n\n{"id": "c"}'.encode())
    assert list(read_lines(path)) == [(1, {"id": "a\u2028b"}), (3, {"id": "c"})]


@pytest.mark.parametrize("row", [{"id": "a"}, {"id": "a", "score": 1.0, "extra": 2}])
def test_read_rows_other_fields_name_file_and_line(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(RecordError) as caught:
        read_rows(path, Score)
    assert f"{path}:1" in str(caught.value)


def test_write_rows_read_rows_give_equal_rows(tmp_path: Path) -> None:
    rows = [Example("1", "Überschrift\n\u2028", "", "  ", group="g"), Example("2", '"', "\t", "\ud800".strip("\ud800"))]
    assert write_rows(tmp_path / "rows.jsonl", rows) == 2
    assert read_rows(tmp_path / "rows.jsonl", Example) == rows


def test_write_rows_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_rows(tmp_path / "rows.jsonl", [Score("a", float("nan"))])


@pytest.mark.parametrize("bad", [object(), float("nan"), {"a": {1, 2}}])
def test_write_json_failing_dump_leaves_old_file_only(tmp_path: Path, bad: object) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises((TypeError, ValueError)):
        write_json(path, ["long " * 10_000, bad])
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_read_json_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text('{"a": 1')
    with pytest.raises(RecordError, match=r"value\.json"):
        read_json(path)


def test_sealed_value_comes_back_and_no_flipped_byte_gives_another(tmp_path: Path) -> None:
    path, value = tmp_path / "value.json", {"b": [1, 0.1, None, "Ü\ud800"[:1]], "a": {"x": True}}
    write_sealed(path, value)
    assert read_sealed(path) == value
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            assert read_sealed(path) == value  # between tokens
        except RecordError as error:
            assert str(path) in str(error) and "altered" in str(error)
            continue
        assert data[place : place + 1].isspace()


def test_sealed_keys_that_arent_texts_are_read_as_texts(tmp_path: Path) -> None:
    write_sealed(tmp_path / "value.json", {2: "b", 10: "a"})
    assert read_sealed(tmp_path / "value.json") == {"2": "b", "10": "a"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"value": 1}', '{"checksum": "0", "value": 1}'])
def test_read_sealed_without_its_checksum_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "value.json").write_text(text)
    with pytest.raises(RecordError, match=r"value\.json.*altered.*Delete the file"):
        read_sealed(tmp_path / "value.json")


def test_content_id_equals_released_ids(shared: Path) -> None:
    path = shared / "data" / "alpaca_released_union.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} isn't there")
    rows = [row for _, row in read_lines(path)]
    foreign = [r for r in rows if not (r["instruction"] + r["input"] + r["output"]).isascii()]
    assert foreign
    for row in [*foreign, *rows[:200]]:
        assert content_id(row["instruction"], row["input"], row["output"]) == row["id"]


def test_content_id_keeps_fields_apart() -> None:
    assert len({content_id("a", "b", ""), content_id("a", "", "b"), content_id("ab", "", "")}) == 3
