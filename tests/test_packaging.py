"""The wheel is complete without the repository, and the lock file fits pyproject.toml."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def declared() -> list[Requirement]:
    """The runtime dependencies and those of all extras, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def locked() -> dict[str, Version]:
    """Canonical name -> exact version, from requirements.lock."""
    versions: dict[str, Version] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        name = canonicalize_name(requirement.name)
        assert name not in versions, f"{name} stands twice in requirements.lock"
        versions[name] = Version(pin.version)
    return versions


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


def test_wheel_built_from_checkout_holds_package_and_conf_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"icon_repro/conf/config.yaml", "icon_repro/__main__.py", "icon_repro/py.typed"} <= names
    assert {f"icon_repro/report/page.{kind}" for kind in ("html", "css", "js")} <= names
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"icon_repro"}
    in_repository = {f"icon_repro/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert in_repository <= names


def test_conf_dir_without_repository_lies_inside_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", "from icon_repro.config.load import conf_dir; print(conf_dir().resolve())"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = Path(ran.stdout.strip())
    assert found.is_relative_to(site.resolve()), found
    assert (found / "config.yaml").is_file()


def test_lock_every_declared_dependency_is_pinned_within_its_bounds() -> None:
    versions = locked()
    wrong = [
        f"{requirement}: locked {versions.get(canonicalize_name(requirement.name))}"
        for requirement in declared()
        if (version := versions.get(canonicalize_name(requirement.name))) is None
        or not requirement.specifier.contains(version, prereleases=True)
    ]
    assert wrong == []


# compared with, or measured, where they are installed; the last by make test-judge, beside the environment
OPTIONAL = {"bergson", "coverage", "dattri", "vllm", "xllamacpp"}


def imported(folder: Path) -> set[str]:
    """Names of the packages that the modules in ``folder`` import, inside functions too."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    own = {"icon_repro", "experiments", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    return {name.partition(".")[0] for name in names} - own - OPTIONAL - set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder, extras", [("icon_repro", []), ("experiments", ["dev"]), ("tests", ["dev"])])
def test_declared_is_every_package_that_is_imported(folder: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    found = packages_distributions()
    undeclared = [p for p in imported(ROOT / folder) if not {canonicalize_name(name) for name in found[p]} & names]
    assert undeclared == []


# imported by others, for what this package does with them
ELSEWHERE = {
    "immutabledict": "lm-eval's IFEval",
    "nltk": "lm-eval's IFEval",
    "sentencepiece": "transformers, for models with nothing but tokenizer.model",
}


def test_imported_is_every_package_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    found = packages_distributions()
    used = {canonicalize_name(name) for module in imported(ROOT / "icon_repro") for name in found[module]}
    assert names - used == set(ELSEWHERE)
    tools = {canonicalize_name(Requirement(line).name) for line in project["optional-dependencies"]["dev"]}
    assert names.isdisjoint(tools)


def pythons() -> list[str]:
    """The Pythons from 3.11 on that this machine has, each version once."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin"))
    found = {name: str(folder / name) for folder in folders for name in PYTHONS if (folder / name).is_file()}
    return [found[name] for name in PYTHONS if name in found and _answers(found[name])]


def _answers(python: str) -> bool:
    """A shim of a version manager may stand for a Python that isn't chosen."""
    return subprocess.run([python, "--version"], capture_output=True).returncode == 0


PYTHONS = [f"python3.{minor}" for minor in range(11, 15)]


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_wheel_is_compiled_by_every_python(wheel: Path, tmp_path: Path, python: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [python, "-W", "error", "-m", "compileall", "-q", str(tmp_path / "icon_repro")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stdout + done.stderr


# what --version, --help and a plan import, with all that it needs; torch comes with the first step
LIGHT = [
    "hydra-core",
    "omegaconf",
    "antlr4-python3-runtime",
    "numpy",
    "pyyaml",
    "filelock",
    "httpx",
    "tqdm",
    "packaging",
]


@pytest.mark.network
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_wheel_plans_in_every_python(wheel: Path, tmp_path: Path, python: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def call(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(python, "-m", "venv", str(tmp_path / "venv"))
    own = str(tmp_path / "venv" / "bin" / "python")
    versions = locked()
    call(own, "-m", "pip", "install", "-q", *(f"{name}=={versions[name]}" for name in LIGHT))
    call(own, "-m", "pip", "install", "-q", "--no-deps", str(wheel))
    assert call(own, "-m", "icon_repro", "--version").startswith("icon_repro ")
    planned = call(own, "-m", "icon_repro", "experiment=smoke_tiny", "judge=none", "tracking=none", "action=plan")
    assert re.search(r"^\d+ steps: 0 cached", planned, re.MULTILINE)


def test_lock_antlr_runtime_is_the_one_hydra_can_read() -> None:
    # omegaconf's grammar is compiled for antlr 4.9; lm-eval[math] would bring 4.11, and Hydra then fails at import
    assert locked()["antlr4-python3-runtime"].release[:2] == (4, 9)
    assert {requirement.name for requirement in declared() if requirement.extras} == set()


def test_citation_has_the_packages_version_licence_and_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2505.05327" and len(paper["authors"]) == 5
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
