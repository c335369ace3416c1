"""Tables beside the paper's: cells against statistics and arithmetic by hand, what is missing and why, csv, LaTeX."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from made_up_runs import changed, number, without
from paper_runs import judged, published_csv, run

from icon_repro.report.latex import LatexError, escaped, latex
from icon_repro.report.paper.measures import results_of
from icon_repro.report.paper.paper_tables import PaperCell, PaperTable, paper_tables
from icon_repro.report.paper.paper_text import write_paper_tables
from icon_repro.report.paper.published import BENCHMARKS, GROUPS, SETS, read_published
from icon_repro.report.rows import ResultRow, row_as_stored
from icon_repro.report.runs import lines, sample
from icon_repro.report.statistics import mean
from icon_repro.report.tables import write

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
PAPER = [("full", 1.0, "v1", 40.0), ("icon", 0.01, "v1", 20.0), ("icon", 0.15, "v1", 50.0)]


def made(rows: list[ResultRow], folder: Path, table: str = "table1", paper: Any = None) -> PaperTable:
    published_csv(folder, table, PAPER if paper is None else paper)
    (found,) = paper_tables(results_of(rows), read_published(folder))
    return found


def cell(table: PaperTable, name: str) -> PaperCell:
    (found,) = [cell for line in table.lines for cell in line.cells if cell.name == f"{table.name}/llama31_8b/{name}"]
    return found


ROWS = [
    run("full", 1.0, 0, 0.4, tuning={"tokens": 1, "flops": 4e12}),
    run("icon", 0.15, 0, 0.5, tuning={"tokens": 1, "flops": 0.7e12}, selection={"tokens": 1, "flops": 9e12}),
    run("icon", 0.15, 1, 0.6, tuning={"tokens": 1, "flops": 0.9e12}, selection={"tokens": 1, "flops": 9e12}),
    run("longest", 0.15, 0, 0.45),
]


def test_cell_is_ours_with_interval_beside_the_papers(tmp_path: Path) -> None:
    table = made(ROWS, tmp_path)
    found = cell(table, "icon-0.15/mmlu")
    (line,) = [line for line in lines(ROWS) if line.label == "icon-0.15"]
    own = sample(line, ["mmlu"])
    assert own is not None
    assert found.ours == pytest.approx(100 * fmean(row.benchmarks["mmlu"].value for row in line.rows))
    assert found.half == pytest.approx(100 * mean(own).half_width())
    assert (found.runs, found.paper) == (2, 50.0)
    assert found.difference == pytest.approx(found.ours - 50)
    assert list(found.steps) == [row.benchmarks["mmlu"].step for row in line.rows]


def test_groups_and_average_are_means_of_the_papers_benchmarks(tmp_path: Path) -> None:
    table = made(ROWS, tmp_path)
    values = {name: cell(table, f"full/{name}").ours for name in BENCHMARKS}
    for group, names in GROUPS.items():
        assert cell(table, f"full/{group.lower()}_avg").ours == pytest.approx(fmean(values[n] for n in names))
    assert cell(table, "full/avg").ours == pytest.approx(fmean(values.values()))
    assert len(cell(table, "full/avg").steps) == 12
    assert cell(table, "icon-0.15/if_avg").paper == 50.0


def test_group_means_of_the_paper_are_of_its_printed_cells() -> None:
    (table,) = [
        t for t in paper_tables(results_of(ROWS), read_published(EXPERIMENTS / "llama31_8b")) if t.name == "table1"
    ]
    assert cell(table, "icon-0.15/if_avg").paper == pytest.approx((21.16 + 29.89) / 2)
    assert cell(table, "icon-0.15/flops_share").paper == pytest.approx(8.37 / 40.12)
    assert cell(table, "icon-0.15/avg").difference == pytest.approx(cell(table, "icon-0.15/avg").ours - 43.37)


def test_flops_are_tuning_alone_and_with_selection_and_compared_as_shares(tmp_path: Path) -> None:
    table = made(ROWS, tmp_path)
    assert cell(table, "icon-0.15/flops_e12").ours == pytest.approx(0.8)
    assert cell(table, "icon-0.15/total_e12").ours == pytest.approx(9.8)
    assert cell(table, "icon-0.15/flops_share").ours == pytest.approx(0.2)
    assert cell(table, "icon-0.15/total_share").ours == pytest.approx(2.45)
    assert cell(table, "icon-0.15/flops_e12").difference is None
    assert cell(table, "icon-0.15/flops_share").difference == pytest.approx(0.2 - 50 / 40)


def test_average_without_a_known_error_has_no_interval(tmp_path: Path) -> None:
    rows = [run("full", 1.0, 0, 0.4)]
    cells = row_as_stored(rows[0])["benchmarks"]
    rows[0] = changed(rows[0], benchmarks={**cells, "glue": {**number(0.3, None), "step": "evaluate/glue-1"}})
    found = cell(made(rows, tmp_path), "full/kn_avg")
    assert found.half is None and found.ours is not None and not found.missing


@pytest.mark.parametrize(
    "change, name, reason",
    [
        ({}, "icon-0.01/mmlu", "icon isn't run at fraction 0.01"),
        ({"names": BENCHMARKS[:1] + BENCHMARKS[2:]}, "full/alpaca_eval", "not in this experiment (judge=paper adds"),
        ({"names": BENCHMARKS[:1] + BENCHMARKS[2:]}, "full/avg", "alpaca_eval: not in this experiment"),
        ({"tuning": None}, "full/flops_e12", "tuning isn't finished"),
        ({"model": "smollm2"}, "full/mmlu", "this experiment's model is smollm2"),
    ],
)
def test_missing_cell_says_why(tmp_path: Path, change: dict[str, Any], name: str, reason: str) -> None:
    rows = [run(r.method, r.fraction, r.seed, 0.5, **change) for r in (ROWS[0], ROWS[1])]
    found = cell(made(rows, tmp_path), name)
    assert found.ours is None and found.difference is None and reason in found.missing
    assert found.paper is not None


def test_missing_run_of_several_says_how_many(tmp_path: Path) -> None:
    rows = [run("icon", 0.15, 0, 0.5), run("icon", 0.15, 1, 0.5)]
    rows[1] = without(rows[1], "mmlu", "evaluate/x failed: out of memory")
    table = made(rows, tmp_path)
    expected = "evaluate/x failed: out of memory (1 of 2 runs)"
    assert cell(table, "icon-0.15/mmlu").missing == expected
    assert cell(table, "icon-0.15/avg").missing == f"mmlu: {expected}"
    assert cell(table, "full/mmlu").missing == "no 'full' in this experiment"


def test_table2_has_our_other_methods_of_the_same_fraction_too(tmp_path: Path) -> None:
    table = made(ROWS, tmp_path, "table2", [("icon", 0.15, "v1", 43.0), ("less", 0.15, "aaai", 42.0)])
    assert [(line.label, line.version) for line in table.lines] == [
        ("icon-0.15", "v1"),
        ("less-0.15", "aaai"),
        ("longest-0.15", ""),
    ]
    assert cell(table, "longest-0.15/avg").ours is not None and cell(table, "longest-0.15/avg").paper is None
    assert cell(table, "less-0.15/avg").missing == "no 'less' in this experiment"


LETTERS = "wwwwwwlltt"  # of LESS against ICon: 1.4, so ICon's is 0.6


def test_table3_is_icons_score_whichever_side_was_judged(tmp_path: Path) -> None:
    opponents = [("less", 0.15, "aaai", 1.0), ("random", 0.15, "aaai", 1.4)]
    rows = [run("icon", 0.15, 0, 0.5), run("less", 0.15, 0, 0.5, judged=judged(LETTERS, "icon"))]
    table = made(rows, tmp_path, "table3", opponents)
    for name in SETS:
        assert cell(table, f"less-0.15/{name}").ours == pytest.approx(0.6)
    assert cell(table, "less-0.15/koala").steps == ["judge/icon-koala-000000000000"]
    assert cell(table, "random-0.15/koala").missing == "no 'random' in this experiment"
    mirrored = [
        run("icon", 0.15, 0, 0.5, judged=judged(LETTERS.translate(str.maketrans("wl", "lw")), "less")),
        run("less", 0.15, 0, 0.5),
    ]
    other = cell(made(mirrored, tmp_path, "table3", opponents), "less-0.15/koala")
    first = cell(table, "less-0.15/koala")
    assert other.ours == pytest.approx(first.ours) and other.half == pytest.approx(first.half)


def test_table3_without_its_comparison_says_what_makes_it(tmp_path: Path) -> None:
    rows = [run("icon", 0.15, 0, 0.5, judged=judged(LETTERS, "full")), run("less", 0.15, 0, 0.5)]
    found = cell(made(rows, tmp_path, "table3", [("less", 0.15, "aaai", 1.0)]), "less-0.15/overall")
    assert found.missing == "the judge compares with full; judge.opponents={less: icon} compares with icon too"
    planned = {"judge": {"against": "full", "sets": {"koala": {}}}}
    plain = [run("icon", 0.15, 0, 0.5), run("less", 0.15, 0, 0.5)]
    published = read_published(tmp_path)
    (before,) = paper_tables(results_of(plain, planned), published)  # nothing is judged yet
    assert cell(before, "less-0.15/overall").missing == found.missing
    found = cell(made(plain, tmp_path, "table3", [("less", 0.15, "aaai", 1.0)]), "less-0.15/overall")
    assert "no comparison on overall by a judge" in found.missing


# ---------------------------------------------------------------- files


def written(rows: list[ResultRow], folder: Path) -> Path:
    write_paper_tables(paper_tables(results_of(rows), read_published(EXPERIMENTS / "llama31_8b")), "toy", folder)
    return folder


def test_csv_has_a_line_a_cell_and_no_number_without_its_interval(tmp_path: Path) -> None:
    with (written(ROWS, tmp_path) / "paper_table1.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    found = rows["table1/llama31_8b/icon-0.15/mmlu"]
    assert (found["runs"], found["paper"], found["version"]) == ("2", "52.3", "v1")
    assert float(found["low"]) < float(found["ours"]) < float(found["high"])
    assert float(found["difference"]) == pytest.approx(float(found["ours"]) - 52.3, abs=1e-3)
    assert found["steps"].split() == [row.benchmarks["mmlu"].step for row in ROWS[1:3]]
    absent = rows["table1/llama31_8b/icon-0.05/mmlu"]
    assert absent["ours"] == absent["difference"] == "" and "isn't run at fraction 0.05" in absent["missing"]
    assert len(rows) == 5 * 20


def test_markdown_has_ours_the_papers_and_the_difference(tmp_path: Path) -> None:
    text = (written(ROWS, tmp_path) / "paper_table1.md").read_text(encoding="utf-8")
    numbers = [line.split("|")[5].strip() for line in text.splitlines() if line.startswith("| llama31_8b")]
    assert numbers == ["ours", "paper, arXiv v1", "difference"] * 5
    assert "- missing: llama31_8b/icon-0.05 all: icon isn't run at fraction 0.05\n" in text
    assert len(re.findall(r"\| missing +(?=\|)", text)) == 3 * 20  # three percentages that weren't run


def _tables(folder: Path) -> list[Path]:
    return sorted(written(ROWS, folder).glob("paper*.tex"))


def test_latex_is_well_formed(tmp_path: Path) -> None:
    paths = _tables(tmp_path)
    assert [path.stem for path in paths] == ["paper_table1", "paper_table2", "paper_table3"]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert text.isascii()
        columns = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", text)
        assert columns is not None
        body = text[text.index("\\toprule") : text.index("\\bottomrule")]
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert len(rows) > 10
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1
            assert not re.search(r"(?<!\\)[%#_]", row)
        assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
        assert re.findall(r"\\begin\{(\w+\*?)\}", text) == re.findall(r"\\end\{(\w+\*?)\}", text)[::-1]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex isn't installed")
def test_latex_compiles(tmp_path: Path) -> None:
    ugly = latex(["a_b", "50 % & more"], [["[0.1, 0.2]", "x^2 ~ {y} \\z $ #1"], ["*", "<0.001 ± 1"]], "c_1 & 2 %", "t")
    (tmp_path / "ugly.tex").write_text(ugly, encoding="utf-8")
    write([*ROWS[:2], changed(ROWS[3], judged=judged(LETTERS, "full"))], tmp_path)  # table, verdicts, judged
    inputs = "\n".join(f"\\input{{{path.name}}}" for path in sorted([*_tables(tmp_path), *tmp_path.glob("[a-z]*.tex")]))
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n\\begin{document}\n"
    (tmp_path / "main.tex").write_text(f"{head}{inputs}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 1000


def test_latex_of_uneven_rows_or_unknown_signs_is_refused() -> None:
    with pytest.raises(LatexError, match="row 1 has 1 cells, the header 2"):
        latex(["a", "b"], [["1", "2"], ["1"]], "c", "t")
    with pytest.raises(LatexError, match="isn't ASCII"):
        escaped("\u00e9")
