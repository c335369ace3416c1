"""Published numbers: those of the repository against the shared originals, and what is refused, by name."""

import csv
from pathlib import Path
from statistics import fmean

import pytest
from paper_runs import published_csv

from icon_repro.report.paper.published import (
    BENCHMARKS,
    GROUPS,
    SETS,
    PublishedError,
    benchmarks_of,
    published_folder,
    read_published,
)

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.mark.parametrize("name", ["llama31_8b", "qwen25_3b", "llama2_7b", "wizardlm"])
def test_repository_tables_are_read_and_their_averages_fit(name: str) -> None:
    found = read_published(EXPERIMENTS / name)
    assert found
    for lines in found.values():
        for line in lines:
            if line.table == "table1":
                assert abs(fmean(line.values[b] for b in BENCHMARKS) - line.values["avg"]) < 0.011
            elif line.table != "table3":
                sizes = {f"{group.lower()}_avg": len(names) for group, names in GROUPS.items()}
                mean = sum(size * line.values[column] for column, size in sizes.items()) / 12
                assert abs(mean - line.values["avg"]) < 0.011
    if name == "llama31_8b":
        assert list(found) == ["table1", "table2", "table3"]
        by_method = {line.method: line for line in found["table2"]}
        assert by_method["icon"].values["avg"] - by_method["less"].values["avg"] == pytest.approx(1.48)


def test_repository_pooled_scores_fit_their_sets() -> None:
    sizes = {"vicuna": 80, "koala": 180, "wizardlm": 218, "self_instruct": 252, "lima": 300}
    for line in read_published(EXPERIMENTS / "llama31_8b")["table3"]:
        pooled = sum(size * line.values[name] for name, size in sizes.items()) / sum(sizes.values())
        assert abs(pooled - line.values["overall"]) < 3e-4  # one set of ArmoRM's is no number of 252nds: a misprint
    assert set(sizes) | {"overall"} == set(SETS)


@pytest.mark.parametrize(
    "original, table, names",
    [
        ("table1_benchmarks.csv", "table1", ["llama31_8b", "qwen25_3b", "llama2_7b"]),
        ("table2_methods.csv", "table2", ["llama31_8b"]),
        ("table3_pairwise_score.csv", "table3", ["llama31_8b"]),
        ("table4_wizardlm_transfer.csv", "table4", ["wizardlm"]),
    ],
)
def test_repository_tables_hold_every_number_of_the_originals(
    shared: Path, original: str, table: str, names: list[str]
) -> None:
    with (shared / "paper" / original).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ours = {}
    for name in names:
        for line in read_published(EXPERIMENTS / name)[table]:
            ours[line.model, line.method, line.fraction] = line
    assert len(rows) == len(ours) > 0
    for row in rows:
        line = ours[row["model"], row.get("method") or row["opponent"], float(row["fraction"])]
        assert all(float(row[column]) == value for column, value in line.values.items())
        assert line.version == row.get("version", "v1")


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("icon", "icno", r"paper_table1.csv:3: method 'icno': unknown method. Did you mean 'icon'"),
        ("mmlu", "mmul", r"column 'mmul': unknown benchmark or column. Did you mean 'mmlu'"),
        ("9.5,9.5\n", "9.5,nan\n", r"paper_table1.csv:3: flops_e12='nan': must be finite"),
        ("9.5,9.5\n", "9.5,inf\n", "must be finite"),
        ("9.5,9.5\n", "9.5,-\n", r"flops_e12='-': must be a number"),
        ("9.5,9.5\n", "9.5\n", "another number of cells"),
        ("9.5,9.5\n", "9.5,9.5,9.5\n", "another number of cells"),
        (",0.15,", ",15,", "fraction 15: must be above 0 and at most 1"),
        ("v1,llama31_8b,icon", "v7,llama31_8b,icon", "version 'v7': unknown"),
        ("icon,0.15", "full,1.0", "full at 1 is given twice"),
        (",flops_e12", "", "another number of cells|columns are missing: flops_e12"),
    ],
)
def test_published_table_with_an_error_is_refused_by_name(tmp_path: Path, old: str, new: str, part: str) -> None:
    path = published_csv(tmp_path, "table1", [("full", 1.0, "v1", 7.5), ("icon", 0.15, "v1", 9.5)])
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PublishedError, match=part):
        read_published(tmp_path)


def test_published_table_of_unknown_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "paper_table9.csv").write_text("a\n", encoding="utf-8")
    with pytest.raises(PublishedError, match=r"paper_table9.csv: is no table"):
        read_published(tmp_path)


def test_published_folder_that_isnt_there_is_refused_with_a_remedy(tmp_path: Path) -> None:
    assert published_folder({"published": None}, tmp_path) is None
    assert published_folder({}, tmp_path) is None
    with pytest.raises(PublishedError, match=r"published=toy: .*paths\.experiments"):
        published_folder({"published": "toy"}, tmp_path)


def test_columns_are_means_of_the_papers_benchmarks() -> None:
    assert benchmarks_of("avg") == BENCHMARKS and len(BENCHMARKS) == 12
    assert benchmarks_of("if_avg") == ("ifeval", "alpaca_eval")
    assert benchmarks_of("mmlu") == ("mmlu",) and benchmarks_of("flops_e12") == ()
