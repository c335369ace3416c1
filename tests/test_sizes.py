"""No function of the package is longer than 80 lines, and no module longer than 400."""

import ast
from pathlib import Path

import pytest

import icon_repro

ROOT = Path(icon_repro.__file__).parent
LINES_OF_FUNCTION = 80
LINES_OF_MODULE = 400


def too_long(name: str, source: str) -> set[str]:
    """``name`` if the module is too long, and ``name: function`` for each function that is."""
    found = {name} if len(source.splitlines()) > LINES_OF_MODULE else set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > LINES_OF_FUNCTION:
                found.add(f"{name}: {node.name}")
    return found


def test_sizes_no_function_and_no_module_is_too_long() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    long = {text for name, source in sources.items() for text in too_long(name, source)}
    assert long == set(), "split them; each part gets a name and one purpose"


@pytest.mark.parametrize(
    "lines, expected", [(80, set()), (81, {"m.py: f"}), (400, {"m.py: f"}), (401, {"m.py", "m.py: f"})]
)
def test_sizes_count_from_the_def_to_the_last_line(lines: int, expected: set[str]) -> None:
    assert too_long("m.py", "def f():\n" + "    x = 1\n" * (lines - 1)) == expected
