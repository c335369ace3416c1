"""Every csv of a report holds numbers: each parses, and agrees with the cell that people read in the Markdown."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paper_runs import judged, published_csv, run, run_json

from icon_repro.engine.records import read_json
from icon_repro.report.outputs import write_all
from icon_repro.report.rows import read_result_rows

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = {
    *(
        "value",
        "low",
        "high",
        "runs",
        "selections",
        "items",
        "fraction",
        "difference",
        "p",
        "p holm",
        "share of tokens",
    ),
    *("against runs", "against selections", "detectable", "detectable low", "detectable high", "p by benchmark holm"),
    *("ours", "paper", "margin", "tolerance", "published"),
}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_markdown(path: Path) -> Iterator[dict[str, str]]:
    """The lines of every table of a Markdown file, by the titles of their columns."""
    header: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        parts = [part.strip() for part in line.strip().strip("|").split(" | ")] if line.startswith("| ") else []
        if not parts:
            header = [] if not line.startswith("|") else header
        elif not header:
            header = parts
        else:
            yield dict(zip(header, parts, strict=True))


def agrees(value: str, text: str, place: int = 0) -> bool:
    """Whether ``value`` is the number at ``place`` in ``text``, to the digits that are printed."""
    printed = re.findall(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)[place]
    shown = printed.partition("e")[0]
    digits = len(shown.partition(".")[2])
    exponent = int(printed.partition("e")[2] or 0)
    whole = 10.0 ** max(0, len(shown.split(".")[0].strip("+-")) - 3) if not digits else 1.0  # three digits of a cost
    return abs(float(value) - float(printed)) <= 0.51 * whole * 10.0 ** (exponent - digits)


@pytest.fixture(scope="module", params=["made up", "smoke", "study_cpu", "llama31_8b/incomplete"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of a report: of made-up rows with a judge and numbers of a paper, or of committed ones."""
    tmp_path = tmp_path_factory.mktemp("report")
    experiments, out = ROOT / "experiments", tmp_path / "out"
    if request.param != "made up":
        stored = ROOT / "results" / request.param
        write_all(read_result_rows(stored / "metrics.jsonl"), read_json(stored / "run.json"), experiments, out)
        return out
    experiments = tmp_path / "experiments"
    published_csv(experiments / "toy", "table1", [("full", 1.0, "v1", 40.0), ("icon", 0.15, "v1", 50.0)])
    claim = "- {id: a, text: t, source: s, measure: mmlu, arm: icon-0.15, against: [full]}\n"
    (experiments / "toy" / "claims.yaml").write_text(claim, encoding="utf-8")
    shared = {name: {"items": 60, "too_short": 0, "shared": 3} for name in ("mmlu", "bbh")}
    rows = [
        run("base", None, None, 0.3),
        *(run("full", 1.0, seed, 0.4, shared_text=shared) for seed in (0, 1)),
        *(run("icon", 0.15, seed, 0.6, judged=judged("wwlt", "full"), shared_text=shared) for seed in (0, 1)),
        *(run("random", 0.15, 0, 0.5, selection_seed=seed, shared_text=shared) for seed in (0, 1, 2)),
    ]
    write_all(rows, run_json(rows), experiments, out)
    return out


def test_every_column_of_numbers_holds_numbers(folder: Path) -> None:
    paths = sorted(folder.glob("*.csv"))
    assert {"table.csv", "verdicts.csv"} <= {path.name for path in paths}
    for path in paths:
        for line in read_csv(path):
            for column in NUMBERS & set(line):
                assert line[column] == "" or float(line[column]) is not None, (path.name, column)
            if line.get("low") and line.get("value"):
                assert float(line["low"]) <= float(line["value"]) <= float(line["high"]), (path.name, line)


def test_numbers_of_the_table_are_those_of_its_cells(folder: Path) -> None:
    lines = {(line["method"], line["fraction"], line["measure"]): line for line in read_csv(folder / "table.csv")}
    seen = 0
    for shown in read_markdown(folder / "table.md"):
        fraction = shown["fraction"].strip("-")
        for title, text in list(shown.items())[2:]:
            if title == "runs":
                continue
            line = lines.get((shown["method"], fraction, title.removesuffix(" (lower is better)")))
            if line is None:
                assert text == "-", (shown["method"], title)
                continue
            seen += 1
            if text == "missing":
                assert (line["value"], line["status"]) == ("", "missing")
            else:
                assert agrees(line["value"], text), (line, text)
            if "±" in text:
                half = (float(line["high"]) - float(line["low"])) / 2
                assert agrees(str(half), text, 1), (line, text)
    assert seen == len(lines) > 10


def test_numbers_of_the_verdicts_are_those_of_their_cells(folder: Path) -> None:
    lines = read_csv(folder / "verdicts.csv")
    table = list(read_markdown(folder / "verdicts.md"))
    assert len(lines) == len(table) > 0
    for line, shown in zip(lines, table, strict=True):
        names = ("role", "measure", "method", "fraction", "against", "runs")
        assert [line[name] for name in names] == [shown[name] for name in names]
        assert line["against runs"] == shown["its runs"]
        assert shown["verdict"] == line["verdict"] + (f" ({line['only about']} only)" if line["only about"] else "")
        if shown["difference"] == "missing":
            assert line["difference"] == ""
            continue
        assert agrees(line["difference"], shown["difference"])
        if line["p holm"]:
            assert shown["p (Holm)"] == "<0.001" or agrees(line["p holm"], shown["p (Holm)"])
            assert float(line["p"]) <= float(line["p holm"])
            for place, column in enumerate(("low", "high")):
                assert agrees(line[column], shown["95 % interval"], place), (line, shown)
            for place, column in enumerate(("detectable", "detectable low", "detectable high")):
                assert agrees(line[column], shown["detectable"], place), (line, shown)


def test_numbers_of_the_judged_are_those_of_their_cells(folder: Path) -> None:
    if not (folder / "judged.md").is_file():
        pytest.skip("this report has no judge")
    lines = read_csv(folder / "judged.csv")
    keys = ("method", "fraction", "prompts of", "measure")
    by_key = {tuple(line[key] for key in keys): line for line in lines}
    for shown in read_markdown(folder / "judged.md"):
        for title, text in shown.items():
            line = by_key.get((shown["method"], shown["fraction"].strip("-"), shown["prompts of"], title))
            if line is not None and text != "missing":
                assert agrees(line["value"], text), (line, text)
                if title == "winning score":
                    ends = shown["95 % interval"]
                    assert agrees(line["low"], ends) and agrees(line["high"], ends, 1)
            elif line is not None:
                assert (line["value"], line["status"]) == ("", "missing")


def test_numbers_of_held_out_rows_and_contamination_are_those_of_their_cells(folder: Path) -> None:
    for name, keys in (("held_out", ("task", "method", "fraction")), ("contamination", ("method", "fraction"))):
        if not (folder / f"{name}.md").is_file():
            continue
        lines = {tuple(line[key] for key in (*keys, "measure")): line for line in read_csv(folder / f"{name}.csv")}
        for shown in read_markdown(folder / f"{name}.md"):
            at = tuple(shown[key].strip("-") for key in keys)
            for title, text in shown.items():
                if (line := lines.get((*at, title))) is not None and text != "missing":
                    assert line["value"] == "" if text == "-" else agrees(line["value"], text), (name, line, text)


def test_numbers_of_claims_are_those_of_their_cells(folder: Path) -> None:
    if not (folder / "claims.md").is_file():
        pytest.skip("this report has no claims")
    lines = [line for line in read_csv(folder / "claims.csv") if line["ours"]]
    shown = {line["claim"]: line for line in read_markdown(folder / "claims.md")}
    for line in lines:
        assert line["verdict"] == shown[line["claim"]]["verdict"]
        if line["against"] and ":" not in (text := shown[line["claim"]]["ours, 95 % interval"]):
            assert agrees(line["ours"], text) and line["runs"].isdigit()
