"""experiments/NEEDS.md: every need has a proof, every named test exists, every named command composes."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from icon_repro.config.compose import composed

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "NEEDS.md"
NEEDS = 29
STATES = ("met", "partly", "not met")


@dataclass(frozen=True)
class Need:
    number: int
    text: str
    state: str
    proofs: tuple[str, ...]
    remark: str


def needs() -> list[Need]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \|", line)]
    found = []
    for line in lines:
        number, text, state, proofs, remark = (cell.strip() for cell in line.strip().strip("|").split(" | "))
        found.append(Need(int(number), text, state, tuple(re.findall(r"`([^`]+)`", proofs)), remark))
    return found


def names_of_tests(path: Path) -> set[str]:
    """Names of the test functions of a file, without importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def problem(proof: str) -> str | None:
    """What is wrong with a proof: a test as file::function, or a command line."""
    if proof.startswith("python -m icon_repro "):
        arguments = shlex.split(proof)[3:]
        (experiment,) = [one.partition("=")[2] for one in arguments if one.startswith("experiment=")]
        try:
            composed(experiment, [one for one in arguments if not one.startswith("experiment=")])
        except ValueError as error:
            return f"{proof}: {error}"
        return None
    file, _, name = proof.partition("::")
    path = ROOT / file
    if not (file.startswith("tests/") and path.is_file()):
        return f"{proof}: no such file"
    return None if name in names_of_tests(path) else f"{proof}: no such test"


def commands_of(page: str) -> list[str]:
    """Command lines in the fences of a page, for experiments of conf/."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    fences = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    lines = [line.partition("  #")[0].strip() for fence in fences for line in fence.splitlines()]
    return [line for line in lines if line.startswith("python -m icon_repro experiment=")]


@pytest.mark.parametrize("page", ["experiments/README.md", "README.md", "slurm/README.md"])
def test_commands_of_a_page_compose(page: str) -> None:
    commands = commands_of(page)
    assert len(commands) >= 3
    assert [found for command in commands if (found := problem(command))] == []


@pytest.mark.parametrize("page", ["README.md", "NEEDS.md", "CHECKLIST.md", "llama31_8b/README.md"])
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    path = PAGE.parent / page
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []


def test_needs_are_all_there_once_and_in_order() -> None:
    assert [need.number for need in needs()] == list(range(1, NEEDS + 1))
    assert len({need.text for need in needs()}) == NEEDS


@pytest.mark.parametrize("need", needs(), ids=lambda need: str(need.number))
def test_need_has_proofs_that_exist(need: Need) -> None:
    assert need.state in STATES
    assert need.proofs or need.state == "not met"
    assert [found for proof in need.proofs if (found := problem(proof))] == []


@pytest.mark.parametrize("need", [need for need in needs() if need.state != "met"], ids=lambda need: str(need.number))
def test_need_not_met_in_full_says_what_is_missing(need: Need) -> None:
    assert len(need.remark.split()) >= 5


def test_page_counts_its_states() -> None:
    counts = [sum(need.state == state for need in needs()) for state in STATES]
    last = PAGE.read_text(encoding="utf-8").strip().splitlines()[-1]
    assert last == ", ".join(f"{count} {state}" for count, state in zip(counts, STATES, strict=True)) + "."


@pytest.mark.parametrize(
    "proof, expected",
    [
        ("tests/test_needs.py::test_problem_of_a_wrong_proof_is_said", None),
        ("tests/test_needs.py::test_that_isnt_there", "no such test"),
        ("tests/nowhere.py::test_x", "no such file"),
        ("icon_repro/config/load.py::load", "no such file"),
        ("python -m icon_repro experiment=smoke fractons=[0.1]", "fractions"),
        ("python -m icon_repro experiment=smoke action=plan", None),
    ],
)
def test_problem_of_a_wrong_proof_is_said(proof: str, expected: str | None) -> None:
    found = problem(proof)
    assert found is None if expected is None else found is not None and expected in found
