"""action=verify: what a report wrote is made again to the byte; every kind of difference is named with its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import icon_repro
from paper_runs import judged, published_csv, run, run_json

from icon_repro.engine.records import read_json, write_json
from icon_repro.report import page
from icon_repro.report.outputs import write_all
from icon_repro.report.verify import verify

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = [
    run("full", 1.0, 0, 0.4),
    run("icon", 0.15, 0, 0.6, judged=judged("wwlt", "full")),
    run("icon", 0.15, 1, 0.7, judged=judged("wwlt", "full")),
    run("random", 0.15, 0, 0.5, judged=judged("wllt", "full")),
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder as a report writes it, with all kinds of tables and the page."""
    experiments = tmp_path / "experiments"
    published_csv(experiments / "toy", "table1", [("full", 1.0, "v1", 40.0), ("icon", 0.15, "v1", 50.0)])
    published_csv(experiments / "toy", "table3", [("random", 0.15, "aaai", 1.4)])
    claim = "- {id: a, text: t, source: s, measure: mmlu, arm: icon-0.15, against: [full]}\n"
    (experiments / "toy" / "claims.yaml").write_text(claim, encoding="utf-8")
    folder = tmp_path / "results" / "toy"
    content = run_json(ROWS)
    write_all(ROWS, content, experiments, folder)
    write_json(folder / "run.json", content)
    page.write(folder, folder / "index.html")
    return tmp_path / "results"


def said(results: Path) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return verify(results, results.parent / "experiments", lines.append), lines


def test_verify_of_a_report_makes_every_file_again(results: Path) -> None:
    same, lines = said(results)
    names = {path.name for path in (results / "toy").iterdir()}
    assert {"table.md", "verdicts.csv", "judged.tex", "paper_table1.tex", "paper_table3.csv", "claims.md"} <= names
    assert same and lines == [f"1 results folders, {len(names) - 1} files made again, 0 differences, 0 not covered"]


@pytest.mark.parametrize(
    "name", ["table.md", "table.csv", "verdicts.md", "judged.tex", "paper_table1.csv", "claims.md", "index.html"]
)
def test_verify_changed_table_is_named_with_its_first_line(results: Path, name: str) -> None:
    path = results / "toy" / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[2] = f"more {lines[2]}"
    path.write_text("".join(lines), encoding="utf-8")
    same, told = said(results)
    assert not same
    found = [line for line in told if line.startswith(f"differs: {path}:")]
    assert len(found) == 1 and found[0].startswith(f"differs: {path}:3: stored 'more ") and "made again" in found[0]


def _append(path: Path, text: str = "x\n") -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def _change_config(folder: Path) -> None:
    content = read_json(folder / "run.json")
    content["config"]["name"] = "other"
    write_json(folder / "run.json", content)


def _change_steps(folder: Path) -> None:
    content = read_json(folder / "run.json")
    content["results"] = content["results"][1:]
    write_json(folder / "run.json", content)


def _change_value(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"flops": 2000000000.0', '"flops": 3000000000.0', 1), encoding="utf-8")


def _change_published(folder: Path) -> None:
    path = folder.parents[1] / "experiments" / "toy" / "paper_table1.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("50.0", "51.0"), encoding="utf-8")


def _add_key(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('{"experiment"', '{"extra": 1, "experiment"', 1))


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "table.tex").unlink(), "table.tex: isn't there"),
    (lambda folder: (folder / "metrics.jsonl").unlink(), "metrics.jsonl: isn't there, and table.md is"),
    (lambda folder: (folder / "run.json").unlink(), "rows without run.json"),
    (_add_key, "metrics.jsonl:1: extra: unknown key"),
    (lambda folder: _append(folder / "table.md"), "made again nothing"),
    (lambda folder: _append(folder / "metrics.jsonl", "{\n"), "malformed JSON"),
    (lambda folder: (folder / "metrics.jsonl").write_text(""), "holds no rows"),
    (lambda folder: (folder / "run.json").write_text("{}"), "can't be made again: KeyError"),
    (lambda folder: (folder / "paper_table2.md").write_text("x"), "stored, and a report of these rows has none"),
    (_change_config, "beside the config of 'other'"),
    (_change_steps, "is in metrics.jsonl and not in run.json"),
    (_change_value, "table.csv:"),
    (_change_published, "paper_table1.csv:22: stored "),
]


@pytest.mark.parametrize("damage, part", DAMAGE, ids=[part for _, part in DAMAGE])
def test_verify_damage_is_a_difference(results: Path, damage: Callable[[Path], Any], part: str) -> None:
    damage(results / "toy")
    same, lines = said(results)
    assert not same and any(line.startswith("differs: ") and part in line for line in lines), lines


def test_verify_rows_of_an_older_version_are_a_difference(results: Path) -> None:
    path = results / "toy" / "metrics.jsonl"
    path.write_text('{"experiment": "toy", "method": "base", "benchmarks": {}, "steps": {}}\n', encoding="utf-8")
    same, lines = said(results)
    assert not same and any("metrics.jsonl:1: model: isn't there" in x for x in lines)


def test_verify_what_other_commands_make_is_listed_as_not_covered(results: Path) -> None:
    (results / "toy" / "index.html").unlink()  # it shows what is in the folder
    (results / "toy" / "methods.md").write_text("x")
    (results / "bench").mkdir()
    (results / "bench" / "table.md").write_text("x")
    (results / "bench" / "metrics.jsonl").write_text('{"what": "ifd", "seconds": 3}\n')
    same, lines = said(results)
    first, second = [line for line in lines if line.startswith("not covered: ")]
    assert same and first.startswith(f"not covered: {results}/bench: not a report's tables; its own command makes it")
    assert second == f"not covered: {results}/toy/methods.md: needs more than the rows; its own command makes it"


def test_verify_of_nothing_fails(tmp_path: Path) -> None:
    same, lines = said(tmp_path / "results")
    assert not same and "nothing was verified" in lines[0]


def test_verify_command_exits_with_1_on_a_difference(results: Path) -> None:
    done = icon_repro(results.parent, "action=verify")
    assert done.code == 0 and "0 differences" in done.out, done.error
    _append(results / "toy" / "table.md")
    done = icon_repro(results.parent, "action=verify")
    assert done.code == 1 and "table.md:" in done.out and not done.error


def test_verify_of_the_repositorys_results() -> None:
    lines: list[str] = []
    same = verify(REPOSITORY / "results", REPOSITORY / "experiments", lines.append, quick=True)
    assert same, "\n".join(lines)


@pytest.mark.slow
def test_verify_of_all_of_the_repositorys_results(shared: Path) -> None:
    lines: list[str] = []
    same = verify(REPOSITORY / "results", REPOSITORY / "experiments", lines.append, shared / "data")
    assert same, "\n".join(lines)
    assert not [line for line in lines if "its own command makes it" in line or "takes long" in line]
