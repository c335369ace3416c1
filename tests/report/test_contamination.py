"""The table of contamination: counted in stored steps, shown as means over runs."""

import csv
from pathlib import Path

from made_up_runs import row
from test_results import finish, planned, written

from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_json, write_json
from icon_repro.report import contamination
from icon_repro.report.rows import ResultRow
from icon_repro.report.tables import write


def shared(count: int, short: int = 0) -> dict[str, int]:
    return {"items": 20, "too_short": short, "shared": count}


def test_cells_are_means_over_runs_and_untuned_models_have_none(tmp_path: Path) -> None:
    rows: list[ResultRow] = [
        row("base", shared_text=None),
        row("full", 1.0, 0, shared_text={"arc": shared(9, 2), "piqa": shared(0)}),
        row("random", 0.15, 0, shared_text={"arc": shared(1, 2), "piqa": shared(0)}),
        row("random", 0.15, 1, shared_text={"arc": shared(2, 2), "piqa": shared(0)}),
        row("icon", 0.15, 0, shared_text={"arc": shared(3, 2), "piqa": None}),
        row("less", 0.15, 0, shared_text=None),
    ]
    header, cells, numbers = contamination.table(rows)
    assert header == ["method", "fraction", "arc", "piqa"]
    assert cells == [
        ["full", "1", "9 of 20", "0 of 20"],
        ["random", "0.15", "1.5 of 20", "0 of 20"],
        ["icon", "0.15", "3 of 20", "missing"],
        ["less", "0.15", "missing", "missing"],
    ]
    assert [(line["method"], line["measure"], line["value"], line["items"], line["status"]) for line in numbers] == [
        *[("full", "arc", 9, 20, ""), ("full", "piqa", 0, 20, "")],
        *[("random", "arc", 1.5, 20, ""), ("random", "piqa", 0, 20, "")],
        *[("icon", "arc", 3, 20, ""), ("icon", "piqa", None, None, "missing")],
        *[("less", "arc", None, None, "missing"), ("less", "piqa", None, None, "missing")],
    ]
    assert contamination.caption(rows).endswith("Items that are too short to tell: arc 2.\n")
    write(rows, tmp_path)
    assert "| random | 0.15     | 1.5 of 20 |" in (tmp_path / "contamination.md").read_text()


def test_rows_without_a_comparison_of_texts_give_no_table(tmp_path: Path) -> None:
    rows = [row("base"), row("icon", 0.15, 0)]
    assert not contamination.known(rows) and not contamination.known([row("icon", 0.15, 0, shared_text={"arc": None})])
    write(rows, tmp_path)
    assert not (tmp_path / "contamination.md").exists()


def test_report_counts_the_items_that_share_text_with_selected_rows(
    tmp_path: Path,
    store: Store,
    folder: Path,
) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    chosen = {arm.method: arm.select for arm in experiment.arms if arm.select is not None}
    selected = {"random": ["r1", "r2"], "longest": ["r3"], "icon": ["r9"]}
    for method, ids in selected.items():
        write_json(store.path(chosen[method]) / "ids.json", ids)
    (step,) = experiment.shared_text.values()
    write_json(store.path(step) / "shared.json", {"item1": ["r1", "r3"], "item2": ["r2"], "item3": ["r7"]})
    record = read_json(store.path(step) / "record.json")
    record["metrics"] = {"items": 20, "too_short": 0}
    del record["checksum"]
    write_json(store.path(step) / "record.json", record)
    written(experiment, store)
    with (folder / "contamination.csv").open(encoding="utf-8", newline="") as file:
        tuned = [line for line in csv.DictReader(file) if "selecting" not in line["measure"]]
    counts = {line["method"]: (line["value"], line["items"]) for line in tuned}
    assert counts == {"full": ("3", "20"), "random": ("2", "20"), "longest": ("1", "20"), "icon": ("0", "20")}
    assert step.folder in read_json(folder / "run.json")["steps"]
