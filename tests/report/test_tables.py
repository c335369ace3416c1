"""The results table: cells against statistics worked out by hand, what is missing, and the files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import number, result, row, task
from scipy.stats import t as t_distribution

from icon_repro.report.judged import table as judged
from icon_repro.report.rows import ResultRow, read_result_rows, row_from
from icon_repro.report.runs import RunsError, lines, sample
from icon_repro.report.statistics import StatsError, mean
from icon_repro.report.tables import caption, complete, markdown, mixed_versions, table, write


def column(rows: list[ResultRow], name: str) -> list[str]:
    header, lines = table(rows)
    return [line[header.index(name)] for line in lines]


def half(variance: float, freedom: float) -> float:
    return float(t_distribution.ppf(0.975, freedom)) * math.sqrt(variance)


# ---------------------------------------------------------------- cells


def test_cell_of_one_run_is_its_value_and_half_the_interval_of_its_items() -> None:
    rows = [row("base", benchmarks={"arc": result("0111" * 5)})]
    assert column(rows, "arc") == [f"75.00 ± {100 * half(0.75 * 0.25 / 19, 19):.2f}"]


def test_cell_of_several_seeds_is_their_mean_with_both_kinds_of_variance() -> None:
    runs = ["0" * 40, "0" * 20 + "1" * 20, "1" * 40]
    rows = [row("icon", 0.15, seed, {"arc": result(values)}) for seed, values in enumerate(runs)]
    # items' means 1/3 and 2/3, twenty each; seeds' means 0, 0.5, 1
    items, seeds = 40 * (1 / 6) ** 2 / 39 / 40, 0.25 / 3
    cells = (120 * 0.25 - 40 * 0.5 - 3 * 40 * (1 / 6) ** 2) / (2 * 39) / 120
    both = items + seeds - cells
    width = half(both, both**2 / (items**2 / 39 + (seeds - 0.3 * cells) ** 2 / 2))  # noise counts in the error
    assert column(rows, "arc") == ["50.00 [0.00, 100.00]"]  # 124 points on either side, within what a share can be
    (line,) = lines(rows)
    own = sample(line, ["arc"])
    assert own is not None and mean(own).half_width() == pytest.approx(width, rel=1e-9)


def test_cell_of_a_metric_that_is_no_mean_over_items_has_its_standard_error() -> None:
    assert column([row("base", benchmarks={"f": number(0.3, 0.05)})], "f") == ["30.00 ± 9.80"]
    assert column([row("base", benchmarks={"f": number(0.3, None)})], "f") == ["30.00"]


def test_average_is_the_plain_mean_of_the_benchmarks() -> None:
    rows = [row("base", benchmarks={"arc": result("01" * 50), "siqa": result("0001" * 10)})]
    parts = [0.25 / 99 / 4, 0.1875 / 39 / 4]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 99 + parts[1] ** 2 / 39)
    assert column(rows, "average") == [f"37.50 ± {100 * half(sum(parts), freedom):.2f}"]


def test_average_with_a_benchmark_of_unknown_error_has_none() -> None:
    assert column([row("base", benchmarks={"arc": result("01"), "f": number(0.3, None)})], "average") == ["40.00"]


def test_groups_have_columns_of_their_own_before_the_average() -> None:
    cells = {"ifeval": result("1100"), "arc": result("1000"), "bbh": result("1110"), "own": result("1111")}
    tasks = {"ifeval": task("IF"), "arc": task("RS"), "bbh": task("RS"), "own": task()}
    rows = [row("base", benchmarks=cells, tasks=tasks)]
    assert table(rows)[0][4:11] == ["ifeval", "arc", "bbh", "own", "IF", "RS", "average"]
    assert [column(rows, name)[0].split()[0] for name in ("IF", "RS", "average")] == ["50.00", "50.00", "62.50"]
    assert column(rows, "IF") == column(rows, "ifeval")


def test_group_of_a_missing_benchmark_is_missing_and_the_others_are_there() -> None:
    tasks = {"arc": task("RS"), "ifeval": task("IF")}
    rows = [row("base", benchmarks={"arc": result("01")}, missing={"ifeval": "not run yet"}, tasks=tasks)]
    assert [column(rows, name)[0] for name in ("ifeval", "IF", "average")] == ["missing"] * 3
    assert column(rows, "RS")[0].startswith("50.00")


def test_benchmark_of_which_lower_is_better_is_apart_and_not_in_the_average() -> None:
    cells = {"arc": result("01" * 10), "held_out": result([1.5, 2.0, 2.5], "nll")}
    rows = [row("base", benchmarks=cells, tasks={"arc": task(), "held_out": task(higher=False)})]
    assert column(rows, "average") == column(rows, "arc")
    assert column(rows, "held_out (lower is better)") == [f"2.0000 ± {half(0.25 / 3, 2):.4f}"]
    assert "- held_out: nll, 3 items, task version 1, lower is better, not in the average\n" in caption(rows)


def test_lines_are_methods_and_fractions_in_order_of_first_appearance() -> None:
    rows = [
        row("base"),
        row("full", 1.0, 0),
        row("full", 1.0, 1),
        row("icon", 0.15, 0),
        row("icon", 0.05, 0),
        row("random", 0.15, 0),
        row("icon", 0.15, 1),
    ]
    header, lines = table(rows)
    assert header[:5] == ["method", "fraction", "rows", "runs", "arc"]
    found = [(line[0], line[1], line[3]) for line in lines]
    expected = [("base", "-", "-"), ("full", "1", "2"), ("icon", "0.15", "2")]
    assert found == [*expected, ("icon", "0.05", "1"), ("random", "0.15", "1")]


def test_selections_and_seeds_are_one_line_with_selections_as_the_level() -> None:
    shares = {0: "1111100000", 1: "1111111100", 2: "1100000000"}
    rows = [
        row("random", 0.15, seed, {"arc": result(values)}, selection_seed=selection)
        for selection, values in shares.items()
        for seed in (0, 1)
    ]
    pooled = [row("random", 0.15, seed, {"arc": result(values)}) for seed, values in shares.items()]
    assert column(rows, "runs") == ["6 (3 selections)"]
    assert column(rows, "arc") == column(pooled, "arc")  # two runs that are alike say no more than one


def test_close_fractions_are_separate_lines() -> None:
    assert column([row("icon", 0.01, 0), row("icon", 0.001, 0)], "fraction") == ["0.01", "0.001"]


def test_missing_benchmark_is_shown_as_missing_and_so_is_the_average() -> None:
    both = {"arc": result("01"), "siqa": result("11")}
    rows = [
        row("base", benchmarks=both),
        row("icon", 0.15, 0, {"arc": result("01")}, {"siqa": "evaluate/x failed: out of memory"}),
        row("random", 0.15, 0, {}, {"arc": "not run yet", "siqa": "not run yet"}),
        row("icon", 0.05, 0, both),
        row("icon", 0.05, 1, {"arc": result("01")}, {"siqa": "not run yet"}),
    ]
    for name, expected in (("siqa", [False, True, True, True]), ("arc", [False, False, True, False])):
        assert [cell == "missing" for cell in column(rows, name)] == expected
    assert [cell == "missing" for cell in column(rows, "average")] == [False, True, True, True]


def test_task_that_nobody_has_is_a_column_too() -> None:
    rows = [row("base", benchmarks={}, missing={"arc": "not run yet"})]
    assert column(rows, "arc") == ["missing"] and column(rows, "average") == ["missing"]


def test_costs_are_selection_once_and_tuning_per_run() -> None:
    rows = [
        row("base"),
        row("icon", 0.15, 0, selection={"tokens": 12345, "flops": 1e12}),
        row("icon", 0.15, 1, selection={"tokens": 12345, "flops": 1e12}, tuning={"tokens": 3000, "flops": 4e9}),
    ]
    assert column(rows, "selection tokens") == ["0", "1.23e+04"]
    assert column(rows, "selection FLOPs") == ["0", "1e+12"]
    assert column(rows, "tokens tuned on") == ["0", "2e+03"]
    assert column(rows, "tuning FLOPs") == ["0", "3e+09"]


def test_selection_over_saved_tuning_is_a_ratio_of_flops() -> None:
    rows = [
        row("full", 1.0, 0, tuning={"tokens": 1, "flops": 10e9}),
        row("icon", 0.15, 0, selection={"tokens": 1, "flops": 16e9}),
        row("random", 0.15, 0, selection={"tokens": 1, "flops": 0}),
        row("ifd", 0.15, 0, selection=None),
    ]
    assert column(rows, "selection / saved") == ["-", "2", "0", "missing"]


def test_unknown_costs_and_counts_are_missing() -> None:
    rows = [row("base"), row("icon", 0.15, 0, {}, {"arc": "x"}, trained=None, selection=None, tuning=None)]
    assert column(rows, "rows") == ["-", "missing"]
    for name in ("selection tokens", "selection FLOPs", "tokens tuned on", "tuning FLOPs"):
        assert column(rows, name) == ["0", "missing"]


def test_rows_that_differ_by_seed_are_all_named() -> None:
    assert column([row("icon", 0.15, 0), row("icon", 0.15, 1, trained=5)], "rows") == ["5/6"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "last, part",
    [
        (row("icon", 0.15, None), "icon: a run without a training seed"),
        (row("icon", 0.15, 0), r"two runs of seeds \(None, 0\)"),
        (row("icon", 0.15, 1, {"arc": result("0101", ids="other")}), "arc: runs differ in which items"),
        (row("icon", 0.15, 1, {"arc": result("010101")}), "arc: runs differ in items: 4 .*, 6"),
        (row("icon", 0.15, 1, {"arc": result("0101", "acc_norm")}), 'arc: runs differ in metric: "acc" .*"acc_norm"'),
        (row("icon", 0.15, 1, {"arc": result("0101", version=2)}), "arc: runs differ in version: 1 .*, 2"),
        (row("icon", 0.15, 1, {"arc": result("0101", value=float("nan"))}), "arc of evaluate/x is nan"),
    ],
)
def test_runs_that_cant_share_a_table_are_refused(last: ResultRow, part: str, tmp_path: Path) -> None:
    rows = [row("icon", 0.15, 0), last]
    with pytest.raises(RunsError, match=part):
        write(rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_outcomes_that_arent_finite_are_refused() -> None:
    bad = {
        **result([0.5, 0.5]),
        "outcomes": {"ids": "a", "parts": [{"name": "", "weight": 1.0, "values": [0.5, math.inf]}]},
    }
    with pytest.raises(StatsError, match="arc: 1 outcomes aren't finite"):
        table([row("base", benchmarks={"arc": bad})])


# ---------------------------------------------------------------- caption


def test_caption_names_each_task_and_what_is_missing() -> None:
    rows = [
        row(
            "base",
            benchmarks={"arc": result("0101"), "siqa": result("01", "acc_norm", version={"a": 1, "b": 2})},
            tasks={"arc": task("RS", 0.25), "siqa": task()},
        ),
        row("icon", 0.15, 3, {"arc": result("0101")}, {"siqa": "evaluate/x failed: out of memory"}, selection_seed=7),
    ]
    text = caption(rows)
    assert "- arc: acc, 4 items, task version 1, chance 25 %, group RS\n" in text
    assert "- siqa: acc_norm, 2 items, task version 1, 2\n" in text
    assert "- missing: icon/0.15/7/3 siqa: evaluate/x failed: out of memory\n" in text
    assert text.count("missing") == 1
    assert "`m`" in text and "`toy`" in text


def test_caption_says_what_intervals_say_of_seeds() -> None:
    one, two = row("icon", 0.15, 0), row("icon", 0.15, 1)
    assert "over items only and say nothing of other seeds" in caption([row("base"), one])
    assert "over items and seeds. A line with one run" in caption([one, two, row("random", 0.15, 0)])
    assert "A line with one run" not in caption([row("base"), one, two])


def test_caption_names_what_isnt_paired_by_item() -> None:
    assert "; not by item: mrpc\n" in caption([row("base", benchmarks={"glue": number(0.5, 0.1)})])


def test_caption_holds_notes_before_what_is_missing() -> None:
    rows = [row("icon", 0.15, 3, {"arc": result("01")}, {"siqa": "failed"})]
    assert caption(rows, ["one", "two"]).endswith("\n- one\n- two\n- missing: icon/0.15/3 siqa: failed\n")
    assert caption(rows, []) == caption(rows)


def test_mixed_versions_names_only_what_differs() -> None:
    assert mixed_versions({"torch": ["2.13.0"], "trl": [None]}) == []
    (note,) = mixed_versions({"trl": ["1.16.0", None], "numpy": ["2.4"], "torch": ["2.12.0", "2.13.0"]})
    assert "torch 2.12.0, 2.13.0; trl 1.16.0, None" in note and "numpy" not in note


@pytest.mark.parametrize(
    "last, expected",
    [
        (row("icon", 0.15, 0), True),
        (row("icon", 0.15, 0, {}, {"arc": "not run yet"}), False),
        (row("icon", 0.15, 0, selection=None), False),
        (row("icon", 0.15, 0, tuning=None), False),
        (row("icon", 0.15, 0, trained=None), False),
    ],
)
def test_complete_is_a_table_without_missing_cells(last: ResultRow, expected: bool) -> None:
    rows = [row("base"), row("full", 1.0, 0), last]
    assert complete(rows) == expected
    assert any("missing" in line for line in table(rows)[1]) != expected


# ---------------------------------------------------------------- judged


def compared(values: str, against: str = "full", **more: Any) -> dict[str, Any]:
    counts = {name: values.count(name[0]) for name in ("win", "tie", "lose")}
    return {
        **counts,
        "failed": values.count("f"),
        "judged": len(values) - values.count("f"),
        "prompts": len(values),
        "length_controlled_score": 1.05,
        "position_consistency": 0.75,
        "longer_wins": None,
        "first_preferred": None,
        "length_winners": 120.6,
        "length_losers": 80.0,
        "against": against,
        "step": "judge/x",
        "outcomes": {"ids": "abc", "parts": [{"name": "", "weight": 1.0, "values": values}]},
        **more,
    }


def test_judged_line_holds_score_interval_and_shares() -> None:
    values = "w" * 30 + "t" * 40 + "l" * 20 + "f" * 10
    _, (line,), _ = judged([row("icon", 0.15, 0, judged={"koala": compared(values)})])
    assert line[:6] == ["icon", "0.15", "1", "koala", "full", "100"]
    assert line[6:10] == ["33.3 %", "44.4 %", "22.2 %", "10.0 %"]
    assert line[10] == "1.111" and line[12:] == ["1.050", "0.75", "-", "121", "80"]
    low, high = (float(end) for end in line[11].strip("[]").split(","))
    error = math.sqrt((50 / 90 - (10 / 90) ** 2) / 90)  # of the 90 judged prompts
    assert (low, high) == pytest.approx((10 / 9 - 1.96 * error, 10 / 9 + 1.96 * error), abs=0.02)


def test_judged_pooled_sets_are_strata() -> None:
    parts = [{"name": "a", "weight": 0.5, "values": "w" * 20}, {"name": "b", "weight": 0.5, "values": "l" * 20}]
    pooled = compared("w" * 20 + "l" * 20, outcomes={"ids": "abc", "parts": parts})
    _, (line,), _ = judged([row("icon", 0.15, 0, judged={"overall": pooled})])
    assert line[10:12] == ["1.000", "[1.000, 1.000]"]  # each set is sure; which set a prompt is from isn't drawn


def test_judged_of_several_seeds_is_wider_than_over_prompts_alone() -> None:
    runs = ["w" * 60 + "l" * 40, "w" * 45 + "l" * 55, "w" * 30 + "l" * 70]
    widths = []
    for several in (runs, runs[:1]):
        rows = [row("icon", 0.15, seed, judged={"koala": compared(v)}) for seed, v in enumerate(several)]
        low, high = (float(end) for end in judged(rows)[1][0][11].strip("[]").split(","))
        widths.append(high - low)
    assert judged(rows)[1][0][2] == "1" and widths[0] > 2 * widths[1]


def test_judged_without_a_seeds_verdicts_is_missing() -> None:
    rows = [
        row("icon", 0.15, 0, judged={"koala": compared("wl")}),
        row("icon", 0.15, 1, unjudged={"koala": "not run yet"}),
    ]
    _, (line,), _ = judged(rows)
    assert line[:4] == ["icon", "0.15", "2", "koala"] and set(line[4:]) == {"missing"}
    assert not complete(rows) and "- missing: icon/0.15/1 koala: not run yet\n" in caption(rows)


# ---------------------------------------------------------------- files

ROWS = [
    row("base"),
    row("icon", 0.15, 0, {"arc": result("0111")}),
    row("random", 0.15, 0, {}, {"arc": "failed, \"quoted\"; a, b"}, trained=None),
]  # fmt: skip


def test_write_makes_the_files_of_the_tables(tmp_path: Path) -> None:
    shown, first = write(ROWS, tmp_path)
    assert first == table(ROWS)
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.jsonl",
        *(f"{name}.{kind}" for name in ("table", "verdicts") for kind in ("md", "csv", "tex")),
    }
    for name in ("table", "verdicts"):
        lines = [line for line in (tmp_path / f"{name}.md").read_text().splitlines() if line.startswith("|")]
        assert "\n".join(lines) in shown
        assert len({len(line) for line in lines}) == 1  # reads well as plain text
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == f"{markdown(*table(ROWS))}\n{caption(ROWS)}"


def test_write_judged_only_where_a_judge_was_asked(tmp_path: Path) -> None:
    write([row("icon", 0.15, 0, judged={"koala": compared("wltt")})], tmp_path)
    text = (tmp_path / "judged.md").read_text(encoding="utf-8")
    assert "| koala " in text and "bootstrap" in text and (tmp_path / "judged.csv").is_file()
    write(ROWS, tmp_path)
    assert not list(tmp_path.glob("judged.*")) and (tmp_path / "verdicts.tex").is_file()  # none of an earlier report


def test_judged_page_says_who_gave_the_verdicts(tmp_path: Path) -> None:
    def by(name: str, count: int) -> dict[str, Any]:
        return {"answered_by": {"server": "https://a/v1", "asked": "gpt-4", "named": {name: count}}}

    one, two = ({**compared("wltt"), **by(*said)} for said in (("gpt-4-0613", 8), ("gpt-4-0314", 2)))
    write([row("icon", 0.15, 0, judged={"koala": one}), row("random", 0.15, 0, judged={"koala": two})], tmp_path)
    text = (tmp_path / "judged.md").read_text(encoding="utf-8")
    assert "Judged by gpt-4 at https://a/v1 (replies name gpt-4-0314, gpt-4-0613)." in text


def test_write_metrics_are_the_rows(tmp_path: Path) -> None:
    write(ROWS, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row_from(json.loads(line)) for line in lines] == ROWS


def test_write_is_byte_stable_and_replaces_what_was_there(tmp_path: Path) -> None:
    rows = [row("icon", 0.15, 0, judged={"koala": compared("wltt")}), *ROWS[::2]]
    write(rows, tmp_path / "one")
    write([*rows, row("longest", 0.15, 0)], tmp_path / "two")
    write(read_result_rows(tmp_path / "one" / "metrics.jsonl"), tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert b"\r" not in path.read_bytes()


def test_markdown_pads_to_the_widest_cell() -> None:
    assert markdown(["a", "long"], [["wider", "x"]]) == "| a     | long |\n|-------|------|\n| wider | x    |\n"
