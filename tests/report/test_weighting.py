"""Tables of held-out rows by length, verdicts that depend on weights, and rows that keep what runs share once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import changed, result, row, task, with_cell

from icon_repro.engine.records import RecordError, read_lines
from icon_repro.evaluate.held_out_measures import RowFacts, cells
from icon_repro.report import verdicts, weighting
from icon_repro.report.figures.experiment_figures import differences
from icon_repro.report.rows import SAME, ResultRow, read_result_rows, write_result_rows
from icon_repro.report.tables import caption, table, write

TOKENS = [3] * 20 + [40] * 60 + [400] * 20
FACTS = RowFacts([f"{i:03}" for i in range(100)], TOKENS, [f"g{i % 5}" for i in range(100)])
METRICS = {"metric": "nll", "version": 1, "dropped": {"too long": 4, "no response token": 1}}


def cell(shift_of_short: float, seed: int) -> dict[str, dict[str, Any]]:
    """A run whose short rows have ``shift_of_short`` nats more than others have, and all of them noise."""
    noise = np.random.default_rng(seed).normal(0, 0.01, 100)
    values = {i: 2.0 + (shift_of_short if t < 10 else 0) + e for i, t, e in zip(FACTS.ids, TOKENS, noise, strict=True)}
    return {name: {**made, "step": "evaluate/x"} for name, made in cells("held", values, FACTS, METRICS, 10).items()}


def runs(shift_of_short: float = 3.0) -> list[ResultRow]:
    tasks = {name: task(higher=False) for name in ("held", "held_rows", "held_short")}
    shifts = {"random": 0.0, "icon": shift_of_short}
    return [
        row(method, 0.15, seed, {**cell(shift, 7 * seed + place)}, tasks=tasks)
        for place, (method, shift) in enumerate(shifts.items())
        for seed in (0, 1, 2)
    ]


def test_table_bins_are_by_tokens_and_say_their_size() -> None:
    header, made, numbers = weighting.table(runs())
    assert header == ["task", "method", "fraction", "by tokens", "by rows", "short rows", "1-9 tokens", "10-29 tokens",
                      "30-99 tokens", "100-299 tokens", "300 and more"]  # fmt: skip
    total = sum(TOKENS)
    assert made[0] == ["held", "rows", "-", "80", "100", "20", "20", "0", "60", "0", "20"]
    shares = [f"{100 * part / total:.1f} %" for part in (10400, total, 60, 60, 0, 2400, 0, 8000)]
    assert made[1] == ["held", "share of tokens", "-", *shares]
    icon = {line["measure"]: line for line in numbers if line["method"] == "icon"}
    assert list(icon) == ["by tokens", "by rows", "short rows", "1-9 tokens", "30-99 tokens", "300 and more"]
    assert [made[3][place].split()[0] for place in (3, 4, 5)] == [
        f"{icon[name]['value']:.4f}" for name in ("by tokens", "by rows", "short rows")
    ]
    assert {name: line["items"] for name, line in icon.items()} == dict(
        zip(icon, (80, 100, 20, 20, 60, 20), strict=True)
    )
    assert [icon[name]["share of tokens"] for name in ("by rows", "short rows")] == [100, pytest.approx(6000 / total)]
    short = [float(line[6]) for line in made[2:]]
    assert short == pytest.approx([2.0, 5.0], abs=0.02) and {line[7] for line in made[2:]} == {"-"}


def test_table_of_a_missing_run_says_so() -> None:
    rows = runs()
    rows[0] = changed(rows[0], benchmarks={}, missing={"held": "not run yet"})
    _, made, numbers = weighting.table(rows)
    assert [line["status"] for line in numbers if line["method"] == "random"] == ["missing"]
    assert [line[1] for line in made] == ["rows", "share of tokens", "random", "icon"]
    assert made[2][3:] == ["missing"] * 8 and "missing" not in made[3]


@pytest.mark.parametrize(
    "shift, sentence",
    [
        (3.0, "held: icon at 0.15 against random depends on the weights: not distinguishable by tokens, worse by rows"),
        (0.0, "held: every verdict is the same by tokens and by rows"),
    ],
)
def test_verdict_that_depends_on_the_weights_is_named(shift: float, sentence: str, tmp_path: Path) -> None:
    rows = runs(shift)
    assert weighting.weighting_dependent(rows, verdicts.comparisons(rows)) == [sentence]
    write(rows, tmp_path)
    assert f"- {sentence}\n" in (tmp_path / "verdicts.md").read_text(encoding="utf-8")
    assert {path.suffix for path in tmp_path.glob("held_out.*")} == {".md", ".csv", ".tex"}


def test_two_held_out_tasks_have_measures_of_their_own() -> None:
    rows: list[ResultRow] = [
        replace(
            one,
            tasks={**one.tasks, "web": one.tasks["held"], "web_rows": one.tasks["held"]},
            benchmarks={**one.benchmarks, "web": one.benchmarks["held"], "web_rows": one.benchmarks["held_rows"]},
        )
        for one in runs()
    ]
    assert weighting.weighted(rows) == ["held", "web"]
    measures = list(dict.fromkeys(one.measure for one in verdicts.comparisons(rows)))
    assert measures == ["held", "held_rows", "held_short", "web", "web_rows"]
    made = weighting.table(rows)[1]
    assert [line[0] for line in made] == ["held"] * 4 + ["web"] * 4 and made[4][5] == made[6][5] == "-"
    assert len(weighting.weighting_dependent(rows, verdicts.comparisons(rows))) == 2


def test_results_have_a_column_by_tokens_alone_for_each_task() -> None:
    header, _ = table(runs())
    assert [name for name in header if "held" in name] == ["held (lower is better)"]


def test_caption_says_unit_weights_and_rows_left_out() -> None:
    text = caption(runs())
    out = "rows left out: 4 too long, 1 no response token\n"
    unit = "lower is better, not in the average"
    start = "task version 1, nats a response token"
    assert f"- held: nll, 80 items, {start}; each response token weighs the same, 10,400 response tokens" in text
    assert f"- held_rows: nll, 100 items, {start}; each row weighs the same, 10,460 response tokens" in text
    assert "rows with at least 10 response tokens" in text and "rows with fewer than 10 response tokens" in text
    assert text.count(unit) == 3 and out.strip() in text


def test_tables_without_held_out_rows_have_no_table_of_them(tmp_path: Path) -> None:
    write(runs(), tmp_path)
    write([row("icon", 0.15, 0, {"arc": result("0101")})], tmp_path)
    assert not list(tmp_path.glob("held_out.*"))


# ---------------------------------------------------------------- metrics.jsonl


def stored(path: Path) -> list[dict[str, Any]]:
    return [line for _, line in read_lines(path)]


def test_stored_rows_keep_sizes_and_groups_once_and_are_made_whole(tmp_path: Path) -> None:
    rows = runs()
    write_result_rows(tmp_path / "a", rows)
    parts = [line["benchmarks"]["held"]["outcomes"]["parts"][0] for line in stored(tmp_path / "a")]
    assert isinstance(parts[0]["sizes"], list) and [part["sizes"] for part in parts[1:]] == [SAME] * 5
    assert [part["groups"] for part in parts[1:]] == [SAME] * 5
    again = read_result_rows(tmp_path / "a")
    assert again == rows
    write_result_rows(tmp_path / "b", again)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_stored_rows_of_other_items_keep_their_own(tmp_path: Path) -> None:
    rows = runs()[:2]
    outcomes = rows[1].benchmarks["held"].outcomes
    part = outcomes.parts[0]
    other = {"ids": outcomes.ids, "parts": [{**vars(part), "sizes": [size + 1 for size in part.sizes or ()]}]}
    rows[1] = with_cell(rows[1], "held", outcomes=other)
    write_result_rows(tmp_path / "a", rows)
    assert read_result_rows(tmp_path / "a") == rows


def test_stored_rows_without_the_first_are_refused(tmp_path: Path) -> None:
    write_result_rows(tmp_path / "a", runs())
    lines = (tmp_path / "a").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "a").write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(RecordError, match="no row has the groups of 'held' that others refer to"):
        read_result_rows(tmp_path / "a")


def test_figure_of_differences_has_a_panel_by_tokens_alone() -> None:
    (panel,) = differences(runs()).panels
    assert panel.title == "held" and panel.x_label.endswith("; lower is better")


def test_primary_comparison_is_compared_as_the_table_has_it() -> None:
    """A primary comparison isn't corrected for the others: the sentence says the verdict of the table."""
    rows = runs(3.0)
    compared = verdicts.comparisons(rows)
    for measure in ("held", "held_rows"):
        primary = {"measure": measure, "comparison": ["icon", "random"], "fraction": None}
        table = {
            (str(line["measure"]), str(line["method"])): str(line["verdict"])
            for line in verdicts.tidy(compared, primary)
            if line["against"] == "random"
        }
        (sentence,) = weighting.weighting_dependent(rows, compared, primary)
        assert f": {table['held', 'icon']} by tokens, {table['held_rows', 'icon']} by rows" in sentence
