"""Rows in files, and their sources."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icon_repro.data.options import Fields, RowFormat, SourceConfig, SourceKind
from icon_repro.data.rows import Example, content_id


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (dicts, or lines as they stand) to a JSONL file."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def file_source() -> Callable[..., SourceConfig]:
    def make(format: RowFormat = RowFormat.alpaca, **fields: Any) -> SourceConfig:
        return SourceConfig(SourceKind.file, format, name="rows", path="rows", fields=Fields(**fields))

    return make


@pytest.fixture
def example() -> Callable[..., Example]:
    def make(instruction: str, response: str = "yes", input: str = "", **more: Any) -> Example:
        return Example(
            **{"id": content_id(instruction, input, response), **more},
            instruction=instruction,
            input=input,
            response=response,
        )

    return make
