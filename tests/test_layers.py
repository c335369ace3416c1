"""The package is ten rooms on nine floors: a room imports rooms of lower floors only, and planning needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import icon_repro

ROOT = Path(icon_repro.__file__).parent
PACKAGE = "icon_repro"
FLOORS = {
    "__main__": 9,
    "report": 8,
    "experiment": 7,
    "config": 6,
    "methods": 5,
    "train": 4,
    "evaluate": 4,
    "lm": 3,
    "data": 2,
    "engine": 1,
}


def package() -> dict[str, str]:
    """Source of every module by its name without the package's; the package's own head is no room."""
    sources = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text(encoding="utf-8")
    return {name: text for name, text in sources.items() if name}


def imported(module: str, text: str, modules: set[str]) -> set[str]:
    """Names of our modules that ``module`` imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}
    return {name for name in found if name in modules and name != module}


def violations(sources: dict[str, str]) -> list[str]:
    """Each import that goes up or sideways, each module outside the rooms, and each cycle of modules."""
    problems = []
    edges = {module: imported(module, text, set(sources)) for module, text in sources.items()}
    for module, targets in sorted(edges.items()):
        room = module.partition(".")[0]
        if room not in FLOORS:
            problems.append(f"{module}: is in none of the rooms")
            continue
        for target in sorted(targets):
            other = target.partition(".")[0]
            if other != room and FLOORS.get(other, 0) >= FLOORS[room]:
                way = "sideways" if FLOORS[other] == FLOORS[room] else "upwards"
                problems.append(f"{module} (floor {FLOORS[room]}) imports {target} (floor {FLOORS[other]}): {way}")
    return [*problems, *(f"cycle: {' -> '.join(cycle)}" for cycle in cycles(edges))]


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(edges[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def test_imports_go_down_only() -> None:
    assert violations(package()) == []


def test_there_are_ten_rooms() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize(
    "module, source, expected",
    [
        ("lm.load", "from icon_repro.train.step import run", "upwards"),
        ("config.load", "def f():\n    import icon_repro.experiment", "upwards"),
        ("engine.run", "if True:\n    from icon_repro.data import rows", "upwards"),
        ("train.step", "from icon_repro.evaluate.step import run", "sideways"),
        ("methods.random", "from icon_repro import experiment", "upwards"),
        ("unknown", "", "none of the rooms"),
        ("data.rows", "from icon_repro.data.prompts import x", "cycle"),
        ("methods.random", "from icon_repro.methods.icon.pairs import x", None),
        ("train.step", "from icon_repro.lm.load import x\nfrom icon_repro.engine.run import y", None),
        ("__main__", "from icon_repro.engine.run import x\nfrom icon_repro.train.step import y", None),
    ],
)
def test_violations_of_a_made_up_package(module: str, source: str, expected: str | None) -> None:
    names = "experiment config.load data.rows train.step evaluate.step lm.load engine.run methods.icon.pairs"
    sources = dict.fromkeys([*names.split(), "methods.random"], "")
    sources |= {"data.prompts": "from icon_repro.data.rows import x", module: source}
    found = violations(sources)
    assert (expected is None and not found) or (expected and len(found) == 1 and expected in found[0]), found


@pytest.mark.parametrize("module", ["config.compose", "experiment", "engine.run", "__main__"])
def test_import_doesnt_load_torch(module: str) -> None:
    code = f"import sys, icon_repro.{module}; print(*({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
