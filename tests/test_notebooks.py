"""Notebooks run from top to bottom, and show what is stored in them.

Their cells are plain Python, so no Jupyter is needed here: cells run one after the other in one namespace, and what
they print and the text of their last expression are compared with the stored output. After a change:
UPDATE_NOTEBOOKS=1 python -m pytest -n 0 tests/test_notebooks.py
"""

import ast
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("experiments/*/*.ipynb"))


def executed(notebook: dict[str, Any]) -> list[str]:
    """The text that each code cell gives."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    texts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                _run("".join(cell["source"]), scope)
            texts.append(shown.getvalue())
    return texts


def _run(source: str, scope: dict[str, Any]) -> None:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), scope)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)
        if value is not None:
            print(value)


def stored(notebook: dict[str, Any]) -> list[str]:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_and_shows_what_is_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    texts = executed(notebook)
    if os.environ.get("UPDATE_NOTEBOOKS"):
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, (cell, text) in enumerate(zip(cells, texts, strict=True), start=1):
            lines = text.splitlines(keepends=True)
            cell["execution_count"] = number
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert texts == stored(notebook)
    assert sum(bool(text) for text in texts) >= 4  # a notebook that shows nothing tests nothing


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["results_as_data.ipynb"]


def test_a_cell_that_fails_or_shows_something_else_is_seen() -> None:
    def cell(source: str) -> dict[str, Any]:
        return {"cells": [{"cell_type": "code", "source": [source]}]}

    assert executed(cell("x = 2\nx + 1")) == ["3\n"]
    with pytest.raises(ZeroDivisionError):
        executed(cell("1 / 0"))
