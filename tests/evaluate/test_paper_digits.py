"""What paper12's comments say of the digits of table 1: which numbers of items they fit."""

import csv
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

CENT = Decimal("0.01")


def fits(printed: str, items: int) -> bool:
    """Whether ``printed`` is the percentage of whole ``k`` of ``items``, rounded or cut off."""
    near = int(Decimal(printed) * items / 100)
    shares = [Decimal(100 * k) / items for k in range(max(0, near - 1), min(items, near + 2) + 1)]
    return any(s.quantize(CENT, way) == Decimal(printed) for s in shares for way in (ROUND_HALF_UP, ROUND_DOWN))


def test_fits_rounded_and_cut_off() -> None:
    assert fits("27.27", 198) and not fits("27.28", 198)  # 54
    assert fits("34.71", 651) and fits("34.72", 651)  # 226 is 34.715..


@pytest.mark.parametrize(
    "column, items, rows",
    [
        ("gpqa", 198, 14),
        ("arc", 1172, 15),
        ("logiqa", 651, 15),
        ("winogrande", 1267, 15),
        ("ifeval", 541, 3),
        ("ifeval", 834, 0),
        ("musr", 756, 0),
        ("truthfulqa", 817, 1),
        ("gpqa", 448, 0),
        ("gpqa", 546, 1),
        ("logiqa", 1572, 3),
        ("bbh", 5761, 12),
        ("hellaswag", 10042, 15),
        ("mmlu", 14042, 15),
    ],
)
def test_digits_of_table_1_fit_this_number_of_items_in_so_many_rows(
    shared: Path, column: str, items: int, rows: int
) -> None:
    with (shared / "paper" / "table1_benchmarks.csv").open(encoding="utf-8") as file:
        printed = [row[column] for row in csv.DictReader(file)]
    assert len(printed) == 15 and sum(fits(value, items) for value in printed) == rows
