"""The results table: arithmetic against numbers worked out by hand, what is missing, and the files."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from icon_repro.report.tables import caption, cell, complete, markdown, mixed_versions, table, write


def result(value: float, stderr: float | None = 0.03, **more: Any) -> dict[str, Any]:
    return {
        "value": value,
        "stderr": stderr,
        "metric": "acc",
        "items": 20,
        "version": 1.0,
        "step": "evaluate/x",
        **more,
    }


def row(
    method: str,
    fraction: float | None = None,
    seed: int | None = None,
    benchmarks: dict[str, Any] | None = None,
    missing: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    tuned = method != "base"
    return {
        "experiment": "toy",
        "model": "m",
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "benchmarks": benchmarks if benchmarks is not None else {"arc": result(0.5)},
        "missing": missing or {},
        "selected": 6 if fraction else None,
        "trained": 6 if tuned else None,
        "selection": {"tokens": 0, "flops": 0},
        "tuning": {"tokens": 1000 if tuned else 0, "flops": 2e9 if tuned else 0},
        "steps": {"select": None, "train": "train/x" if tuned else None},
        **more,
    }


def column(rows: list[dict[str, Any]], name: str) -> list[str]:
    header, lines = table(rows)
    return [line[header.index(name)] for line in lines]


def test_cell_of_one_seed_is_its_value_and_error() -> None:
    assert cell([result(0.4, 0.02)]) == (0.4, 0.02)


def test_cell_of_several_seeds_joins_items_and_seeds() -> None:
    # values 0.4, 0.5, 0.6: variance 0.01, a third of it for the mean; mean of the squared errors (9 + 16 + 25) / 3
    mean, error = cell([result(0.4, 0.03), result(0.5, 0.04), result(0.6, 0.05)])
    assert mean == pytest.approx(0.5, abs=1e-15)
    assert error == pytest.approx(math.sqrt((0.0009 + 0.0016 + 0.0025) / 3 + 0.01 / 3), abs=1e-15)
    assert error == pytest.approx(0.0707106781, abs=1e-9)


def test_cell_of_equal_seeds_has_the_error_of_the_items() -> None:
    mean, error = cell([result(0.5, 0.1)] * 4)
    assert (mean, error) == (0.5, pytest.approx(0.1, abs=1e-15))


def test_cell_without_error_in_one_seed_has_none() -> None:
    assert cell([result(0.4), result(0.6, None)]) == (0.5, None)
    assert cell([result(0.4, None)]) == (0.4, None)


def test_cell_with_an_error_of_zero_keeps_it() -> None:
    assert cell([result(1.0, 0.0)]) == (1.0, 0.0)


def test_table_shows_percent_and_average_over_tasks() -> None:
    rows = [row("base", benchmarks={"arc": result(0.30, 0.03), "siqa": result(0.50, 0.04)})]
    assert column(rows, "arc") == ["30.00 ± 3.00"]
    assert column(rows, "average") == ["40.00 ± 2.50"]  # sqrt(3^2 + 4^2) / 2


def test_table_average_of_a_task_without_error_has_none() -> None:
    rows = [row("base", benchmarks={"arc": result(0.30, 0.03), "siqa": result(0.50, None)})]
    assert column(rows, "siqa") == ["50.00"] and column(rows, "average") == ["40.00"]


def test_table_lines_are_methods_and_fractions_in_order_of_first_appearance() -> None:
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
    assert header[:5] == ["method", "fraction", "rows", "seeds", "arc"]
    found = [(line[0], line[1], line[3]) for line in lines]
    expected = [("base", "-", "-"), ("full", "1", "2"), ("icon", "0.15", "2")]
    assert found == [*expected, ("icon", "0.05", "1"), ("random", "0.15", "1")]


def test_table_close_fractions_are_separate_lines() -> None:
    rows = [row("icon", 0.01, 0), row("icon", 0.001, 0)]
    assert column(rows, "fraction") == ["0.01", "0.001"]


def test_table_missing_benchmark_is_shown_as_missing_and_so_is_the_average() -> None:
    rows = [
        row("base", benchmarks={"arc": result(0.3), "siqa": result(0.4)}),
        row("icon", 0.15, 0, {"arc": result(0.3)}, {"siqa": "evaluate/x failed: out of memory"}),
        row("random", 0.15, 0, {}, {"arc": "not run yet", "siqa": "not run yet"}),
    ]
    assert column(rows, "siqa") == ["40.00 ± 3.00", "missing", "missing"]
    assert column(rows, "arc") == ["30.00 ± 3.00", "30.00 ± 3.00", "missing"]
    assert column(rows, "average") == ["35.00 ± 2.12", "missing", "missing"]


def test_table_cell_of_several_seeds_is_missing_if_one_seed_is() -> None:
    rows = [row("icon", 0.15, 0), row("icon", 0.15, 1, {}, {"arc": "not run yet"})]
    assert column(rows, "arc") == ["missing"]


def test_table_task_that_nobody_has_is_a_column_too() -> None:
    rows = [row("base", benchmarks={}, missing={"arc": "not run yet"})]
    assert column(rows, "arc") == ["missing"] and column(rows, "average") == ["missing"]


def test_table_costs_are_selection_once_and_tuning_per_seed() -> None:
    rows = [
        row("base"),
        row("icon", 0.15, 0, selection={"tokens": 12345, "flops": 1e12}),
        row("icon", 0.15, 1, selection={"tokens": 12345, "flops": 1e12}, tuning={"tokens": 3000, "flops": 4e9}),
    ]
    assert column(rows, "selection tokens") == ["0", "1.23e+04"]
    assert column(rows, "selection FLOPs") == ["0", "1e+12"]
    assert column(rows, "tuning tokens") == ["0", "2e+03"]
    assert column(rows, "tuning FLOPs") == ["0", "3e+09"]


def test_table_unknown_costs_and_counts_are_missing() -> None:
    rows = [row("base"), row("icon", 0.15, 0, {}, {"arc": "x"}, trained=None, selection=None, tuning=None)]
    assert column(rows, "rows") == ["-", "missing"]
    for name in ("selection tokens", "selection FLOPs", "tuning tokens", "tuning FLOPs"):
        assert column(rows, name) == ["0", "missing"]


def test_table_rows_that_differ_by_seed_are_all_named() -> None:
    assert column([row("icon", 0.15, 0), row("icon", 0.15, 1, trained=5)], "rows") == ["5/6"]


def test_caption_names_each_task_and_what_is_missing() -> None:
    rows = [
        row("base", benchmarks={"arc": result(0.3, version=2.0), "siqa": result(0.4, metric="acc_norm", items=7)}),
        row("icon", 0.15, 3, {"arc": result(0.3)}, {"siqa": "evaluate/x failed: out of memory"}),
    ]
    text = caption(rows)
    assert "- arc: acc, 20 items, task version 2.0\n" in text
    assert "- siqa: acc_norm, 7 items, task version 1.0\n" in text
    assert "- missing: icon/0.15/3 siqa: evaluate/x failed: out of memory\n" in text
    assert text.count("missing") == 1
    assert "`m`" in text and "`toy`" in text


def test_caption_holds_notes_before_what_is_missing() -> None:
    rows = [row("icon", 0.15, 3, {"arc": result(0.3)}, {"siqa": "failed"})]
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
def test_complete_is_a_table_without_missing_cells(last: dict[str, Any], expected: bool) -> None:
    rows = [row("base"), row("full", 1.0, 0), last]
    assert complete(rows) == expected
    assert any("missing" in line for line in table(rows)[1]) != expected


ROWS = [
    row("base"),
    row("icon", 0.15, 0, {"arc": result(0.123456)}),
    row("random", 0.15, 0, {}, {"arc": "failed, \"quoted\"; a, b"}, trained=None),
]  # fmt: skip


def test_write_markdown_and_csv_hold_the_same_cells(tmp_path: Path) -> None:
    shown = write(ROWS, tmp_path)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text == f"{shown}\n{caption(ROWS)}"
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # reads well as plain text
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert set("".join(cells.pop(1))) == {"-"}
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == cells
    header, values = table(ROWS)
    assert cells == [header, *values]


def test_write_metrics_are_the_rows(tmp_path: Path) -> None:
    write(ROWS, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_write_is_byte_stable_and_replaces_what_was_there(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "one")
    write([*ROWS, row("longest", 0.15, 0)], tmp_path / "two")
    write(json.loads(json.dumps(ROWS)), tmp_path / "two")
    for name in ("metrics.jsonl", "table.md", "table.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert b"\r" not in (tmp_path / "one" / name).read_bytes()


def test_markdown_pads_to_the_widest_cell() -> None:
    assert markdown(["a", "long"], [["wider", "x"]]) == "| a     | long |\n|-------|------|\n| wider | x    |\n"
