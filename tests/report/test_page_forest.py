"""The beginning of a page: what was found, the forest of differences, how far an unfinished experiment is."""

import csv
import re
from pathlib import Path

import pytest
from made_up_runs import result, row, solved, without

from icon_repro.engine.records import write_json
from icon_repro.report import page, page_forest, tables
from icon_repro.report.figures.styles import MARKERS
from icon_repro.report.rows import ResultRow

ITEMS = 400


def arm(method: str, share: float, *, repeats: int = 3) -> list[ResultRow]:
    cells = [{"arc": result(solved(share, ITEMS, seed))} for seed in range(repeats)]
    return [row(method, 0.25, seed, cells[seed], selection_seed=seed) for seed in range(repeats)]


ROWS = [*arm("random", 0.5), *arm("longest", 0.5), *arm("icon", 0.8), *arm("ifd", 0.51)]


def folder(place: Path, rows: list[ResultRow]) -> Path:
    tables.write(rows, place)
    steps = sorted({step for own in rows for step in own.cell_steps})
    write_json(place / "run.json", {"format": 1, "config": {"name": "toy"}, "results": steps, "steps": steps})
    return place


def test_pairs_are_the_lines_of_the_verdicts_with_their_text(tmp_path: Path) -> None:
    pairs = page_forest.read_pairs(folder(tmp_path, ROWS))
    with (tmp_path / "verdicts.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(pairs) == len(lines) == 5
    shown = (tmp_path / "verdicts.md").read_text()
    for pair, line in zip(pairs, lines, strict=True):
        assert (pair.method, pair.against, pair.verdict) == (line["method"], line["against"], line["verdict"])
        difference, _, interval = pair.numbers.partition(" ")
        assert f"| {difference}" in shown and interval in shown
        assert pair.holds == (float(line["p holm"]) < 0.05)
    assert page_forest.read_pairs(tmp_path / "none") == []


def test_finding_names_what_holds_and_says_so_if_nothing_does(tmp_path: Path) -> None:
    pairs = page_forest.read_pairs(folder(tmp_path / "a", ROWS))
    assert page_forest.finding(pairs) == [
        "Better than random: icon 25 % (average).",
        "2 of 5 comparisons hold after correction for their number:",
    ]
    told, more = page_forest.held(pairs)
    assert more == 0 and len(told) == 2
    assert told[0].startswith("icon 25 % is better than random on average: +") and " points, p " in told[0]
    alike = [*arm("random", 0.5), *arm("longest", 0.5)]
    (first, second) = page_forest.finding(page_forest.read_pairs(folder(tmp_path / "b", alike)))
    assert first == "No method is shown to beat random."
    assert second.startswith("None of the 1 comparisons holds after correction") and "equal" in second
    assert page_forest.finding([]) == []
    other = [page_forest.Compared(**{**vars(pair), "measure": "other"}) for pair in pairs]
    (first, second) = page_forest.finding(other, ["other"])
    assert first == "No method is shown to beat random."  # on the measure that counts
    assert second.startswith("2 of 5 comparisons hold after correction for their number, all of them of held-out rows")
    assert page_forest.held([*other, *pairs], ["other"])[0][0] == told[0]


def test_forest_draws_each_interval_where_its_axis_has_it(tmp_path: Path) -> None:
    pairs = page_forest.read_pairs(folder(tmp_path, ROWS))
    (group,) = page_forest.forest(pairs, ["random", "longest", "icon", "ifd"])
    assert (group["unit"], group["better"], group["folded"]) == ("points", "higher is better", False)
    controls = group["controls"]
    assert isinstance(controls, list)
    assert [(one["name"], len(one["lines"])) for one in controls] == [("random", 3), ("longest", 2)]
    low, high = min(0.0, *(pair.low for pair in pairs)), max(0.0, *(pair.high for pair in pairs))
    wide = 1.1 * (high - low)
    for control in controls:
        for line in control["lines"]:
            pair, drawing = line["pair"], line["drawing"]
            ends = re.search(r'class="m\d+(?: full)?" x1="([\d.]+)%" x2="([\d.]+)%"', drawing)
            assert ends is not None
            for text, value in zip(ends.groups(), (pair.low, pair.high), strict=True):
                assert float(text) == pytest.approx(100 * (value - low + 0.05 * (high - low)) / wide, abs=0.01)
            assert (" full" in drawing) == pair.holds
            assert f'class="m{["random", "longest", "icon", "ifd"].index(pair.method)}' in drawing
    ticks = group["axis"]
    assert isinstance(ticks, list) and "0" in [tick["text"] for tick in ticks] and 2 <= len(ticks) <= 8


def test_measures_beside_the_first_are_folded_and_last(tmp_path: Path) -> None:
    pairs = page_forest.read_pairs(folder(tmp_path, ROWS))
    other = [page_forest.Compared(**{**vars(pair), "measure": "other"}) for pair in pairs]
    groups = page_forest.forest([*other, *pairs], ["icon"], beside=["other"])
    assert [(group["measure"], group["folded"]) for group in groups] == [("average", False), ("other", True)]


def test_every_marker_has_corners_and_no_two_are_alike() -> None:
    drawn = [page_forest._corners(marker) for marker in MARKERS]
    assert len(set(drawn)) == len(MARKERS) and all(len(corners.split()) >= 3 for corners in drawn)


def test_page_begins_with_the_finding_and_folds_pairs_and_numbers(tmp_path: Path) -> None:
    text = page.render(folder(tmp_path, ROWS))
    order = ['id="finding"', "Better than random: icon", 'class="forest"', 'id="table-verdicts"', 'id="table-table"']
    places = [text.index(part) for part in order]
    assert places == sorted(places) and text.index('id="table-table"') < text.index('id="costs"')
    assert "<summary>2 more pairs: minus longest</summary>" in text
    assert text.count('id="table-verdicts"') == 1 and '<details id="table-verdicts">' in text
    results = text[text.index('id="table-table"') : text.index('id="costs"')]
    assert "selection FLOPs" not in results and "Tokens and FLOPs" not in results and "<th>average</th>" in results
    assert "selection FLOPs" in text[text.index('id="costs"') :]


def test_unfinished_experiment_opens_with_what_is_there(tmp_path: Path) -> None:
    rows = [*ROWS, *(without(one, "arc", "not run yet") for one in [*arm("rds", 0.5), *arm("less", 0.5)])]
    rows[-1] = without(arm("less", 0.5)[2], "arc", "train/less failed: no memory")
    more = [without(row(f"m{place}", 0.25, 0), "arc", "not run yet") for place in range(3)]
    assert len({one.method for one in [*rows, *more]}) == 9
    text = page.render(folder(tmp_path, [*rows, *more]))
    assert "Not finished: 12 of 21 results are there; 12 of 21 runs have all of theirs." in text
    assert "<li>8 missing: not run yet</li>" in text and "<li>1 missing: train/less failed: no memory</li>" in text
    assert text.index("Not finished:") < text.index("Better than random: icon") < text.index('id="table-table"')
    results = text[text.index('id="table-table"') : text.index('id="costs"')]
    assert "<summary>5 lines without results yet</summary>" in results
    before, _, folded = results.partition("<summary>5 lines")
    assert "<td>icon</td>" in before and "<td>rds</td>" not in before and "<td>rds</td>" in folded


def test_an_experiment_without_any_result_says_so(tmp_path: Path) -> None:
    rows = [without(row(name, 0.25, 0), "arc", "not run yet") for name in ("random", "icon")]
    text = page.render(folder(tmp_path, rows))
    assert "Not finished: 0 of 2 results are there" in text and 'class="forest"' not in text
