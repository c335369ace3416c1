"""The README and the experiments' pages show what the stored results say, and name only what exists."""

import dataclasses
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cli import icon_repro

from icon_repro.config.reference import reference, renewed
from icon_repro.methods.kinds import kinds, method
from icon_repro.report import outputs as written
from icon_repro.report import summary
from icon_repro.report.rows import read_result_rows
from icon_repro.report.verdicts import comparisons

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


def test_readme_shows_the_table_that_the_main_job_ends_with() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = shown.partition("<!-- results/smoke: the table of its end -->\n")[2].partition("<!-- end -->")[0]
    folder = ROOT / "results" / "smoke"
    rows = read_result_rows(folder / "metrics.jsonl")
    made = summary.table(summary.told(rows, comparisons(rows)), 100)
    assert shown.strip("\n").splitlines() == ["```", *made, "```"]
    held_out = {line.split()[0]: line for line in made if " held_out " in line}
    assert "worse" in held_out["base"] and "better" in held_out["full"]  # what the text beside it says


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert 60 < len(lines) <= 120


def commands_in(page: str) -> list[str]:
    """Command lines in the blocks of a page, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python -m icon_repro", "make ", "printf "))]


@pytest.mark.parametrize("page", ["README.md", "conf/README.md", "icon_repro/methods/README.md"])
def test_commands_of_a_page_are_planned(page: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "shortest.py").write_text("def score(rows, options, inputs, runtime):\n    return {}\n")
    if (shared := ROOT.parent / "shared").is_dir():
        (tmp_path / "shared").symlink_to(shared)
    planned = 0
    for command in commands_in(page):
        words = shlex.split(command)
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        elif words[0] == "printf":
            subprocess.run(["sh", "-c", command], cwd=folder, check=True)
        elif "--cfg" in words:
            assert icon_repro(folder, *words[3:]).code == 0
        elif not {"action=verify", "action=diff"} & set(words):  # test_verify.py and test_diff.py run these
            arguments = [one for one in words[3:] if not one.startswith("action=")]
            done = icon_repro(folder, *arguments, "action=plan")
            if shared.is_dir() or "../shared" not in done.error:
                assert done.code == 0 and "steps" in done.out, (command, done.error)
                planned += 1
    assert planned >= 2


def test_readme_selector_scores_the_short_responses_higher(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = [line for line in text.splitlines() if line.startswith("printf ")]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    command_of_a_run = ["experiment=smoke_tiny", "until=select", "methods.mine={kind: external, path: shortest.py}"]
    assert icon_repro(tmp_path, *command_of_a_run, "~methods.icon", "judge=none").code == 0
    (scores,) = (tmp_path / "work" / "score").glob("mine-*/scores.jsonl")
    (rows,) = (tmp_path / "work" / "prepare").glob("candidates-*/rows.jsonl")
    lengths = {row["id"]: len(row["response"]) for row in map(json.loads, rows.read_text().splitlines())}
    found = [json.loads(line) for line in scores.read_text().splitlines()]
    assert found and all(row["score"] == -lengths[row["id"]] for row in found)


def test_key_reference_is_what_the_schemas_say() -> None:
    page = (ROOT / "conf" / "README.md").read_text(encoding="utf-8")
    assert renewed(page) == page, "run python -m icon_repro.config.reference conf/README.md"


def test_key_reference_has_every_key_with_its_range_and_comment() -> None:
    page = reference()
    assert [line for line in page.splitlines() if re.fullmatch(r"\| `.* \|  \|", line)] == []  # without a meaning
    for schema, key, parts in (
        ("### Experiment", "fractions", ["list of number", "required", "> 0 and <= 1", "selected by each method"]),
        ("### data: DataConfig", "pool", ["[RowsConfig](#rowsconfig)", "rows to select from"]),
        ("### methods.NAME, kind: less", "dimensions", ["integer", "`8192`", ">= 64", "multiple of 64"]),
        ("### paths: PathsConfig", "published", ["`results`", "action=publish"]),
    ):
        section = page.partition(f"{schema}\n")[2].partition("\n### ")[0]
        (line,) = [line for line in section.splitlines() if line.startswith(f"| `{key}` |")]
        assert all(part in line for part in parts), line
    for kind in kinds():
        section = page.partition(f"### methods.NAME, kind: {kind}\n")[2].partition("\n### ")[0]
        fields = {field.name for field in dataclasses.fields(method(kind).options)} - {"kind"}
        assert fields == set(re.findall(r"^\| `(\w+)` \|", section, re.M))
    for anchor in re.findall(r"\]\(#([a-z0-9_-]+)\)", page):
        titles = re.findall(r"^### (.+)$", page, re.M)
        assert anchor in {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


PAGES = ["README.md", "conf/README.md", "icon_repro/README.md", "icon_repro/methods/README.md"]
PAGES += ["icon_repro/evaluate/README.md", "experiments/README.md", "slurm/README.md", "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", [*PAGES, *(f"experiments/{n}/README.md" for n in COMMITTED)])
def test_page_links_and_experiments_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert (ROOT / page).parent.joinpath(link).exists(), link
    for name in set(re.findall(r"experiment=([a-z0-9_]+)", text)) - set(re.findall(r"^name: (\w+)$", text, re.M)):
        assert (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file(), name
