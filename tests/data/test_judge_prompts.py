"""Prompts without responses: read, filtered, refused with an id twice; the five sets of the paper as configured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import composed

from icon_repro.config.load import load
from icon_repro.data import prepare
from icon_repro.data.options import Fields, RowFormat, RowsConfig, SourceConfig, SourceKind
from icon_repro.data.prepare import PrepareError
from icon_repro.data.rows import Example
from icon_repro.data.sources import SourceError
from icon_repro.engine.records import read_json, read_rows, write_rows
from icon_repro.engine.runtime import Runtime

FIELDS = Fields(id="id", response=None)
TURNS = Fields(id="question_id", prompt="turns", response=None, group="category")


def prepared(
    rows: list[dict[str, Any]], tmp_path: Path, runtime: Runtime, fields: Fields = FIELDS, **more: Any
) -> list[Example]:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out"
    out.mkdir()
    write_rows(path, rows)
    form = RowFormat.turns if fields is TURNS else RowFormat.alpaca
    source = SourceConfig(SourceKind.file, form, "set", path=str(path), fields=fields)
    prepare.run(RowsConfig(source, **more), {}, out, replace(runtime, files={"source": path}))
    return read_rows(out / "rows.jsonl", Example)


def test_prepare_prompts_alone_are_kept_without_responses(tmp_path: Path, runtime: Runtime) -> None:
    rows = [{"id": "b", "instruction": "Why?", "input": "Sky"}, {"id": "a", "instruction": " ", "input": ""}]
    assert prepared(rows, tmp_path, runtime) == [Example("b", "Why?", "Sky", "")]
    assert read_json(tmp_path / "out" / "report.json")["dropped"] == {"empty_prompt": {"count": 1, "first_ids": ["a"]}}


def test_prepare_prompt_with_an_id_twice_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    rows = [{"id": name, "instruction": "Why?", "input": ""} for name in ("a", "b", "b")]
    with pytest.raises(PrepareError, match=r"1 prompts have the id of another \(first: 'b'\)"):
        prepared(rows, tmp_path, runtime)


def test_prepare_id_of_two_prompts_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    rows = [{"id": "a", "instruction": text, "input": ""} for text in ("Why?", "How?")]
    with pytest.raises(PrepareError, match="id 'a' stands for two texts"):
        prepared(rows, tmp_path, runtime)


def test_prepare_same_text_under_two_ids_stays(tmp_path: Path, runtime: Runtime) -> None:
    rows = [{"id": name, "instruction": "Why?", "input": ""} for name in ("a", "b")]
    assert [row.id for row in prepared(rows, tmp_path, runtime)] == ["a", "b"]


def test_prepare_first_turn_is_the_instruction(tmp_path: Path, runtime: Runtime) -> None:
    rows = [{"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}]
    assert prepared(rows, tmp_path, runtime, TURNS) == [Example("81", "Write.", "", "", group="writing")]


@pytest.mark.parametrize("turns", [[], "Write.", [3], None])
def test_prepare_turns_that_arent_texts_are_refused(turns: Any, tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(SourceError, match="'turns'"):
        prepared([{"question_id": 81, "category": "writing", "turns": turns}], tmp_path, runtime, TURNS)


def test_sets_of_the_paper_have_the_expected_prompts(shared: Path, tmp_path: Path, runtime: Runtime) -> None:
    sets = load(composed("experiment=smoke_tiny", "judge=vicuna10")).judge.sets
    total = 0
    for name, rows in sets.items():
        out = tmp_path / name
        out.mkdir()
        path = shared / "data" / "judge" / f"{name}.jsonl"
        assert rows.source.path is not None and Path(rows.source.path).name == path.name
        metrics = prepare.run(rows, {}, out, replace(runtime, files={"source": path}))
        assert (metrics["rows"], metrics["dropped"]) == (rows.expected_rows, {})
        assert metrics["prompt_chars"] == pytest.approx(rows.expected_prompt_chars, abs=1)
        total += metrics["rows"]
    assert total == 1030
