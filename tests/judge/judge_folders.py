"""Folders of answers and prompts as the judging steps find them."""

from collections.abc import Mapping
from pathlib import Path

from icon_repro.data.rows import Example
from icon_repro.engine.records import write_rows
from icon_repro.evaluate.judge.answers import Failure, ModelAnswer


def prompts(folder: Path, questions: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", [Example(name, text, "", "") for name, text in questions.items()])
    return folder


def answered(folder: Path, answers: Mapping[str, str], failed: Mapping[str, str] | None = None) -> Path:
    folder.mkdir(parents=True)
    write_rows(folder / "answers.jsonl", [ModelAnswer(name, text, 3, "eos") for name, text in answers.items()])
    write_rows(folder / "failures.jsonl", [Failure(name, why) for name, why in (failed or {}).items()])
    return folder


def fresh(tmp_path: Path) -> Path:
    folder = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    folder.mkdir()
    return folder
