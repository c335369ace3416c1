"""What other commands than a report committed is made again from the numbers beside it; a changed cell is named."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import row, without
from paper_runs import judged, run, run_json
from test_pilot import write_pilot
from test_released import write_data

from experiments.method_cost import rebuild as method_cost
from experiments.pilot.pilot import analyse
from experiments.released_selections.released import main as analyse_released
from experiments.scoring_cost import rebuild as scoring_cost
from icon_repro.engine.records import write_json, write_rows
from icon_repro.report.compare import as_text, read_lines_of
from icon_repro.report.outputs import write_all
from icon_repro.report.rebuild import figures_of_rows
from icon_repro.report.verify import verify

REPOSITORY = Path(__file__).resolve().parents[2]
TIMING = {"what": "ifd", "model": "m", "rows": 3, "tokens": 70, "loop_s": 3.0, "ours_s": 2.0, "ratio": 1.5}
LEVEL = {"pairs": 4, "tokens": 90, "sample_s": 2.0, "job_s": 7200.0}
LEVELS = {"L1": 2.5, "levels": [{"name": "loop", "what": "a", **LEVEL}, {"name": "L1", "what": "b", **LEVEL}]}
EACH: list[dict[str, Any]] = [
    {"method": "longest", "scored": 12, "spearman with length": 1.0, "tokens": 0, "MB": 0.0571},
    {"method": "ifd", "scored": 9, "spearman with length": 0.123456789, "tokens": 2e13, "MB": None},
]
PAIRS: list[dict[str, Any]] = [{"method": "longest", "and": "ifd", "spearman": -0.5, "overlap at 0.15": 0.25}]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_timings(folder: Path) -> None:
    lines = [{**TIMING, "difference": 1e-7}]
    write_rows(folder / "metrics.jsonl", lines)
    (folder / "table.md").write_text(method_cost.table(lines), encoding="utf-8")


def write_levels(folder: Path) -> None:
    write_json(folder / "bench.json", LEVELS)
    (folder / "table.md").write_text(scoring_cost.table(LEVELS), encoding="utf-8")


def write_methods(folder: Path) -> None:
    write_csv(folder / "methods.csv", EACH)
    write_csv(folder / "methods_agreement.csv", PAIRS)
    (folder / "methods.md").write_text(as_text("toy", "m", EACH, PAIRS), encoding="utf-8")


def said(root: Path, **more: Any) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return verify(root / "results", REPOSITORY / "experiments", lines.append, root / "data", **more), lines


@pytest.mark.parametrize(
    "write, study, table, cell, changed, not_covered",
    [
        (write_timings, "method_cost", "table.md", "1.50", "1.60", "metrics.jsonl: was measured"),
        (write_levels, "scoring_cost", "table.md", "2.50", "2.60", "*.json: were measured"),
        (write_methods, "toy", "methods.md", "0.123", "0.124", "methods.csv, methods_agreement.csv: need the scores"),
    ],
    ids=["timings", "levels", "methods"],
)
def test_verify_table_is_made_again_from_the_numbers_beside_it(
    tmp_path: Path, write: Any, study: str, table: str, cell: str, changed: str, not_covered: str
) -> None:
    folder = tmp_path / "results" / study
    folder.mkdir(parents=True)
    write(folder)
    same, lines = said(tmp_path)
    assert same and lines[-1].startswith("1 results folders, 1 files made again, 0 differences")
    assert any(line.startswith(f"not covered: {folder}: {not_covered}") for line in lines)
    text = (folder / table).read_text(encoding="utf-8")
    assert cell in text
    (folder / table).write_text(text.replace(cell, changed), encoding="utf-8")
    same, lines = said(tmp_path)
    assert not same and any(line.startswith(f"differs: {folder / table}:") and changed in line for line in lines)


def test_verify_methods_without_their_title_is_a_difference(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "toy"
    folder.mkdir(parents=True)
    write_methods(folder)
    (folder / "methods.md").write_text("# Mine\n", encoding="utf-8")
    same, lines = said(tmp_path)
    assert not same and any("can't be made again: RebuiltError" in line for line in lines)


def test_read_lines_of_gives_the_numbers_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "methods.csv", EACH)
    assert read_lines_of(tmp_path / "methods.csv") == EACH


def test_verify_pilot_is_made_again_from_its_matrices(tmp_path: Path) -> None:
    folder = write_pilot(tmp_path / "results" / "pilot", c=20, n=24)
    analyse(folder, pictures=False)
    same, lines = said(tmp_path)
    made = [
        path
        for path in folder.iterdir()
        if path.suffix in (".csv", ".md") or path.name in ("summary.json", "figures.json")
    ]
    assert same and lines[-1].startswith(f"1 results folders, {len(made)} files made again, 0 differences"), lines
    (folder / "extra.csv").write_text("x\n", encoding="utf-8")
    path = folder / "length.csv"
    lines_of_csv = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines_of_csv[:3], lines_of_csv[2], *lines_of_csv[4:]]), encoding="utf-8")
    same, lines = said(tmp_path)
    differs = [line for line in lines if line.startswith("differs: ")]
    assert not same and len(differs) == 2
    assert differs[0].startswith(f"differs: {path}:4: stored ") and "extra.csv: stored, and what is" in differs[1]
    assert said(tmp_path, quick=True)[1][0] == (
        f"not covered: {folder}: left out, as it takes long; action=verify makes it again"
    )


def test_verify_pilot_whose_matrix_was_changed_is_a_difference(tmp_path: Path) -> None:
    folder = write_pilot(tmp_path / "results" / "pilot", c=20, n=24)
    analyse(folder, pictures=False)
    (folder / "control.npy").unlink()
    same, lines = said(tmp_path)
    assert not same and any("can't be made again: PilotError" in line and "control.npy" in line for line in lines)


def test_verify_released_needs_the_data_that_it_is_about(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    folder = tmp_path / "results" / "released_selections"
    assert analyse_released(["--stored", "--data", str(data), "--out", str(folder)]) == 0
    same, lines = said(tmp_path)
    assert same and lines[-1].startswith("1 results folders, ") and "0 differences" in lines[-1], lines
    assert any("8 pictures" in line or "4 pictures" in line for line in lines)
    path = folder / "nesting.csv"
    path.write_text(path.read_text(encoding="utf-8") + "x\n", encoding="utf-8")
    assert any(line.startswith(f"differs: {path}:") for line in said(tmp_path)[1])
    (data / "released_subsets.csv").unlink()
    lines = said(tmp_path)[1]
    assert any("needs released_subsets.csv" in line for line in lines) and "nothing was verified" in lines[-2]


STUDIES = sorted(path.parent.name for path in (REPOSITORY / "experiments").glob("*/rebuild.py"))


def test_every_committed_folder_of_a_study_has_its_rebuild() -> None:
    others = {folder.name for folder in (REPOSITORY / "results").iterdir() if not any(folder.rglob("run.json"))}
    assert set(STUDIES) == {"method_cost", "pilot", "price", "released_selections", "scoring_cost"}
    other = {"faults", "methods_cpu", "fidelity", "statistics"}  # no tables, action=compare, their own commands
    assert others - other == set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_verify_folder_that_lacks_what_its_study_needs_is_not_covered(tmp_path: Path, study: str) -> None:
    folder = tmp_path / "results" / study
    folder.mkdir(parents=True)
    (folder / "table.md").write_text("x\n", encoding="utf-8")
    same, lines = said(tmp_path)
    assert not same and lines[0].startswith(f"not covered: {folder}: has no ")


def test_verify_without_the_studies_says_where_they_would_be(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "method_cost"
    folder.mkdir(parents=True)
    write_timings(folder)
    lines: list[str] = []
    assert not verify(tmp_path / "results", tmp_path / "experiments", lines.append)
    study = tmp_path / "experiments" / "method_cost" / "rebuild.py"
    assert lines[0].startswith(f"not covered: {folder}: not a report's tables; its own command makes it. {study} would")
    assert "verify in a checkout, or set paths.experiments" in lines[0]


@pytest.mark.parametrize("text", ["x = 1\n", "import not_installed_here\n", "def rebuild(:\n"])
def test_verify_study_whose_rebuild_cant_be_used_is_a_difference(tmp_path: Path, text: str) -> None:
    folder, study = tmp_path / "results" / "toy", tmp_path / "experiments" / "toy"
    folder.mkdir(parents=True)
    study.mkdir(parents=True)
    (folder / "table.md").write_text("x\n", encoding="utf-8")
    (study / "rebuild.py").write_text(text, encoding="utf-8")
    lines: list[str] = []
    assert not verify(tmp_path / "results", tmp_path / "experiments", lines.append)
    (line,) = [line for line in lines if line.startswith("differs: ")]
    assert f"{study / 'rebuild.py'}: can't be used" in line and "rebuild(folder, data)" in line


def test_verify_points_of_figures_are_made_again_from_the_rows(tmp_path: Path) -> None:
    rows = [
        run("full", 1.0, 0, 0.4),
        run("icon", 0.15, 0, 0.6, judged=judged("wwlt", "full")),
        run("random", 0.15, 0, 0.5, judged=judged("wllt", "full")),
    ]
    for place, one in enumerate(rows):
        shown = {name: replace(cell, first_preferred=0.5) for name, cell in one.judged.items()}
        rows[place] = replace(one, judged=shown)
    folder, content = tmp_path / "results" / "toy", run_json(rows, published=None)
    write_all(rows, content, tmp_path / "experiments", folder)
    write_json(folder / "run.json", content)
    (folder / "figures").mkdir()
    figures_of_rows(rows, content, tmp_path / "experiments", folder / "figures")
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {"differences.csv", "judged.csv", "scale.csv", "pareto.csv", "position.csv"}
    (folder / "figures" / "tsne.csv").write_text("x\n")
    same, lines = said(tmp_path)
    assert same and any(f"{folder}/figures: tsne.csv: need scores, selections or vectors" in line for line in lines)
    path = folder / "figures" / "pareto.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("icon", "ours"), encoding="utf-8")
    same, lines = said(tmp_path)
    assert not same and any(line.startswith(f"differs: {path}:") for line in lines)


def test_verify_figure_that_the_rows_dont_give_is_a_difference(tmp_path: Path) -> None:
    rows = [without(row("base"), "arc", "not run yet")]
    folder, content = tmp_path / "results" / "toy", run_json(rows, published=None)
    write_all(rows, content, tmp_path / "experiments", folder)
    write_json(folder / "run.json", content)
    (folder / "figures").mkdir()
    (folder / "figures" / "scale.csv").write_text("panel\n")
    same, lines = said(tmp_path)
    assert not same and any("scale.csv: stored, and a report of these rows has none" in line for line in lines)
