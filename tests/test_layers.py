"""Imports go downward only, stages don't import each other, and planning needs no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icon_repro

ROOT = Path(icon_repro.__file__).parent

# a module, or a package with all below it -> layer; the longest entry that fits counts
LAYERS = {
    "schema": 0,
    "config": 0,
    "config_cluster": 0,
    "config_compose": 1,
    "config_controls": 0,
    "config_data": 0,
    "config_unsafe": 0,
    "config_baselines": 0,
    "config_common": 0,
    "config_icon": 0,
    "config_methods": 0,
    "config_evaluation": 0,
    "records": 0,
    "questions": 0,
    "prompts": 0,
    "overlap": 1,
    "stats": 1,
    "estimates": 1,
    "levels": 1,
    "outcomes": 1,
    "reliability": 1,
    "items": 1,
    "cost": 0,
    "held_out_measures": 1,
    "model_files": 1,
    "thoughts": 1,
    "engine.artifact": 1,
    "engine.tracking": 1,
    "engine.wandb_sender": 1,
    "engine.progress": 1,
    "engine.notices": 1,
    "engine.environment": 1,
    "engine.runtime": 1,
    "lm": 2,
    "replies": 2,
    "endpoint": 2,
    "endpoint_http": 2,
    "data": 3,
    "methods": 3,
    "select": 3,
    "row_tokens": 3,
    "train": 3,
    "requirements": 1,
    "evaluate": 3,
    "held_out": 3,
    "judge": 3,
    "report": 3,
    "engine.targets": 1,
    "engine.worker": 4,
    "engine.plan": 4,
    "engine.run": 4,
    "engine.jobs": 4,
    "engine.slurm": 4,
    "engine.task": 4,
    "engine.collect": 4,
    "engine.made_with": 4,
    "engine.intact": 4,
    "engine.tracked": 4,
    "shared_text": 4,
    "results": 5,
    "presentation": 4,
    "gathering": 4,
    "verify": 5,
    "explain": 5,
    "compare": 5,
    "export": 5,
    "export_card": 5,
    "__main__": 5,
    "engine.plan_icon": 4,
    "engine.plan_methods": 4,
    "engine.plan_shards": 4,
    "engine.plan_less": 4,
    "engine.less_notes": 4,
    "engine.plan_judge": 4,
    "engine.plan_selections": 4,
    "engine.planner": 4,
    "engine.pace": 4,
    "rebuilt": 5,
    "remade": 5,
    "intervals": 1,
}
STAGES = 3
SHARED_BY_METHODS = "methods.common"
PACKAGES = {"", "engine", "methods"}  # their __init__ holds a docstring only


def layer(module: str) -> int | None:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (found := LAYERS.get(".".join(parts[:length]))) is not None:
            return found
    return None


def stage(module: str) -> str:
    """The stage that a module of the stage layer belongs to; each method is one of its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "methods" else parts[0]


def shared(module: str, target: str) -> bool:
    return module.startswith("methods.") and stage(target) == SHARED_BY_METHODS


def imported(tree: ast.AST, module: str, modules: set[str]) -> set[str]:
    """Names (without the package's) of all of our modules that ``module`` imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.removeprefix("icon_repro.") for name in names if name.startswith("icon_repro.")}
    return {name for name in found if name in modules and name != module}


def violations(sources: dict[str, str]) -> list[str]:
    """Each import that goes up or from one stage to another, and each cycle."""
    problems = []
    edges = {name: imported(ast.parse(text), name, set(sources)) for name, text in sources.items()}
    for module, targets in sorted(edges.items()):
        own = layer(module)
        if own is None:
            if module not in PACKAGES or targets:
                problems.append(f"{module}: has no layer; add it to LAYERS")
            continue
        for target in sorted(targets - PACKAGES):
            other = layer(target)
            if other is None:
                continue  # reported as a module of its own
            if other > own:
                problems.append(f"{module} (layer {own}) imports {target} (layer {other}): upward")
            elif own == other == STAGES and stage(module) != stage(target) and not shared(module, target):
                problems.append(f"{module} imports {target}: another stage")
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


def package() -> dict[str, str]:
    """Source of every module by its name without the package's."""
    sources = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def test_package_imports_go_down_only() -> None:
    assert violations(package()) == []


@pytest.mark.parametrize(
    "module, source, expected",
    [
        ("lm.load", "from icon_repro.train import run", "upward"),
        ("config", "def f():\n    import icon_repro.engine.artifact", "upward"),
        ("engine.artifact", "if True:\n    from icon_repro.engine import run", "upward"),
        ("train", "from icon_repro import select", "another stage"),
        ("train", "from icon_repro.data.prepare import rows", "another stage"),
        ("methods.icon.score", "import icon_repro.methods.random", "another stage"),
        ("methods.random", "from icon_repro.data import prepare", "another stage"),
        ("methods.common", "from icon_repro.methods.random import x", "another stage"),
        ("unknown", "", "no layer"),
        ("schema", "from icon_repro.records import x", "cycle"),
        ("methods.random", "from icon_repro.methods.common import x", None),
        ("methods.icon.score", "from icon_repro.methods.icon.pairs import x", None),
        ("train", "from icon_repro.lm.load import x\nfrom icon_repro.engine.artifact import y", None),
        ("__main__", "from icon_repro.engine.run import x\nfrom icon_repro.train import y", None),
    ],
)
def test_violations_of_a_made_up_package(module: str, source: str, expected: str | None) -> None:
    names = "config data.prepare train select lm.load engine.run engine.artifact methods.common methods.icon.pairs"
    sources = dict.fromkeys([*names.split(), "methods.random"], "")
    sources |= {"records": "from icon_repro.schema import x", "schema": "", module: source}
    found = violations(sources)
    assert (expected is None and not found) or (expected and len(found) == 1 and expected in found[0]), found


def test_package_doesnt_import_the_studies() -> None:
    found = [name for name, text in package().items() if re.search(r"^\s*(from|import) experiments\b", text, re.M)]
    assert found == []


@pytest.mark.parametrize("module", ["config", "config_compose", "engine.plan", "engine.run", "verify"])
def test_import_doesnt_load_torch(module: str) -> None:
    if module not in package():
        pytest.skip(f"icon_repro.{module} isn't there yet")
    code = f"import sys, icon_repro.{module}; print(*({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
