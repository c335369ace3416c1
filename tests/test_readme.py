"""The README and the experiments' pages show what the stored results say, and name only what exists."""

import json
import re
from pathlib import Path

import pytest

from icon_repro.report import outputs as written
from icon_repro.report.rows import read_result_rows

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = sorted(path.parent.name for path in (ROOT / "results").glob("*/run.json"))


def test_results_of_the_main_job_are_committed() -> None:
    assert "smoke" in COMMITTED


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_table_is_what_the_rows_give(name: str, tmp_path: Path) -> None:
    folder = ROOT / "results" / name
    rows = read_result_rows(folder / "metrics.jsonl")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    written.write_all(rows, run, ROOT / "experiments", tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert {"table.md", "table.csv", "verdicts.md", "verdicts.csv", "metrics.jsonl"} <= set(made)
    for file in made:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_rows_hold_every_method_and_seed_and_no_gap(name: str) -> None:
    folder = ROOT / "results" / name
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    config = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]
    untouched = {name for name in ("base", "full") if config[name]}
    assert {row["method"] for row in rows} == untouched | set(config["methods"])
    assert {row["seed"] for row in rows if row["method"] != "base"} == set(config["seeds"])
    assert not any(row["missing"] for row in rows)


def test_readme_shows_the_table_of_the_main_job() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = shown.partition("<!-- results/smoke/table.md -->\n")[2].partition("<!-- end -->")[0]
    stored = (ROOT / "results" / "smoke" / "table.md").read_text(encoding="utf-8")
    assert shown.strip()
    assert stored.startswith(shown.strip() + "\n")


@pytest.mark.parametrize("page", ["README.md", "slurm/README.md", *(f"experiments/{n}/README.md" for n in COMMITTED)])
def test_page_links_and_experiments_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert (ROOT / page).parent.joinpath(link).exists(), link
    for name in re.findall(r"experiment=([a-z0-9_]+)", text):
        assert (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file(), name
