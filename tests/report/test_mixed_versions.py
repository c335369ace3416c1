"""Results of mixed versions: a mean over them is refused, compared methods of other versions are marked."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from paper_runs import judged, run, run_json
from test_results import finish, planned, step_named

from icon_repro.config.load import ConfigError
from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.records import read_json, write_json
from icon_repro.experiment import Experiment
from icon_repro.report.explain import explain
from icon_repro.report.outputs import write_all
from icon_repro.report.results import report
from icon_repro.report.rows import ResultRow, read_result_rows
from icon_repro.report.runs import lines
from icon_repro.report.verify import verify
from icon_repro.report.versions import made_with, of_judged, separated, versions_of

NEW = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "trl": "1.16.0", "numpy": "2.5.2", "lm-eval": "0.4.13"}
OLD = {**NEW, "torch": "2.11.0"}
TASK = {"kind": "lm_eval", "metric": "acc", "task": "arc_easy"}


def finished(tmp_path: Path, store: Store, **changes: Any) -> Experiment:
    """Three seeds and two benchmarks, all of it made with ``NEW``."""
    experiment = planned(tmp_path, {"seeds": [0, 1, 2], "evaluation.tasks.other": TASK, **changes})
    finish(experiment, store, packages=NEW)
    return experiment


def edit(store: Store, step: Step, **changes: Any) -> None:
    """Give the step's record on disk other facts."""
    path = store.path(step) / "record.json"
    record = read_json(path)
    write_json(path, {**{key: value for key, value in record.items() if key != "checksum"}, **changes})


def reported(experiment: Experiment, store: Store) -> tuple[bool, str]:
    said: list[str] = []
    complete = report(experiment, store, said.append, figures=False)
    return complete, "\n".join(said)


def cells(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Value and status of each measure of each method."""
    return {(line["method"], line["measure"]): (line["value"], line["status"]) for line in numbers(folder, "table")}


def numbers(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def verified(tmp_path: Path) -> list[str]:
    said: list[str] = []
    verify(tmp_path / "outputs", tmp_path / "experiments", said.append)
    return [line for line in said if line.startswith("differs: ")]


def test_training_of_one_seed_under_another_torch_leaves_that_method_out_alone(
    tmp_path: Path, store: Store, folder: Path
) -> None:
    experiment = finished(tmp_path, store)
    before = reported(experiment, store)
    assert before[0] and "mixed" not in before[1]
    whole = cells(folder)
    edit(store, step_named(experiment, "train/icon-f0.25-s0"), packages=OLD)
    complete, said = reported(experiment, store)
    assert not complete and cells(folder) == whole  # the complete table stays
    found = cells(folder / "incomplete")
    assert found.keys() == whole.keys()
    for (method, measure), shown in found.items():
        lacking = method == "icon" and measure in ("tiny", "other", "average")
        assert shown == (("", "missing") if lacking else whole[method, measure]), (method, measure)
    (line,) = [line for line in said.splitlines() if "not averaged" in line]
    assert line.startswith(
        "warning: missing: icon-0.25 tiny, other: mixed versions: trained with torch 2.11 (s0), 2.13 (s1, s2)"
    )
    for part in ("Redo s0 ", "delete train/icon-f0.25-s0-*, evaluate/icon-f0.25-s0-*"):
        assert part in line
    assert line.removeprefix("warning: ") in (folder / "incomplete" / "table.md").read_text()
    lines = [line for line in numbers(folder / "incomplete", "verdicts") if line["method"] == "icon"]
    assert {(line["difference"], line["verdict"]) for line in lines} == {("", "missing")}


def test_refused_values_stay_in_the_rows_and_verify_refuses_them_again(
    tmp_path: Path, store: Store, folder: Path
) -> None:
    experiment = finished(tmp_path, store)
    edit(store, step_named(experiment, "train/icon-f0.25-s2"), packages=OLD)
    reported(experiment, store)
    rows = read_result_rows(folder / "incomplete" / "metrics.jsonl")
    icon = [row for row in rows if row.method == "icon"]
    assert [row.benchmarks["tiny"].value for row in icon] == [0.5] * 3 and all(not r.missing for r in icon)
    assert verified(tmp_path) == []
    content = read_json(folder / "incomplete" / "run.json")
    for group in content["made_with"]:  # as if all had been made with the same
        group["with"] = content["made_with"][0]["with"]
    write_json(folder / "incomplete" / "run.json", content)
    assert any("table.md:" in line for line in verified(tmp_path))


def test_explain_of_a_refused_cell_says_why(tmp_path: Path, store: Store) -> None:
    experiment = finished(tmp_path, store)
    edit(store, step_named(experiment, "train/icon-f0.25-s0"), packages=OLD)
    reported(experiment, store)
    said: list[str] = []
    explain("icon-0.25/tiny", tmp_path / "outputs" / "smoke_tiny", store.root, tmp_path / "experiments", said.append)
    assert "  missing: tiny: mixed versions: trained with torch 2.11 (s0), 2.13 (s1, s2); redo s0" in said


def test_evaluation_of_one_benchmark_under_another_version_leaves_out_that_benchmark(
    tmp_path: Path, store: Store, folder: Path
) -> None:
    experiment = finished(tmp_path, store)
    for seed in (0, 1):
        step = step_named(experiment, f"evaluate/icon-f0.25-s{seed}-other")
        edit(store, step, packages={**NEW, "lm-eval": "0.5.0"})
    reported(experiment, store)
    shown = cells(folder / "incomplete")
    assert shown["icon", "other"] == shown["icon", "average"] == ("", "missing") and shown["icon", "tiny"] == ("50", "")
    text = (folder / "incomplete" / "table.md").read_text()
    assert "icon-0.25 other: mixed versions: evaluated with lm-eval 0.4 (s2), 0.5 (s0, s1)" in text
    assert "Redo s2 with the versions of the others: delete evaluate/icon-f0.25-s2-* in" in text


def test_all_runs_trained_under_one_and_evaluated_under_another_version_are_averaged(
    tmp_path: Path, store: Store
) -> None:
    experiment = finished(tmp_path, store)
    for step in experiment.steps:
        if step.stage == "train":
            edit(store, step, packages=OLD)
    complete, said = reported(experiment, store)
    assert complete and "not averaged" not in said and "other versions" not in said


@pytest.mark.parametrize(
    "packages",
    [
        {**NEW, "torch": "2.13.1"},
        {**NEW, "numpy": "1.26.0", "datasets": "9.0"},
        {**NEW, "lm-eval": "0.9.0"},  # of a training
        {name: version for name, version in NEW.items() if name != "trl"},
        {**NEW, "deepspeed": "0.18.1"},
    ],
    ids=[
        "patch and build",
        "packages that don't compute",
        "of another stage",
        "not recorded",
        "not recorded elsewhere",
    ],
)
def test_versions_that_change_no_result_are_no_mixture(
    tmp_path: Path, store: Store, packages: Mapping[str, str]
) -> None:
    experiment = finished(tmp_path, store)
    edit(store, step_named(experiment, "train/icon-f0.25-s0"), packages=packages)
    complete, said = reported(experiment, store)
    assert complete and "not averaged" not in said and "other versions" not in said


def test_mixed_versions_are_no_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixed_versions: isn't an option any more"):
        planned(tmp_path, {"mixed_versions": "note"})


def test_compared_methods_of_other_versions_are_marked_below_the_verdicts(
    tmp_path: Path, store: Store, folder: Path
) -> None:
    experiment = finished(tmp_path, store)
    for step in experiment.steps:
        if step.stage in ("train", "evaluate") and step.name.startswith("icon-"):
            edit(store, step, packages=OLD)
    complete, _ = reported(experiment, store)
    assert complete
    notes = [line for line in (folder / "verdicts.md").read_text().splitlines() if line.startswith("- other versions")]
    told = "trained and evaluated with torch"
    assert notes == [
        f"- other versions: icon-0.25 ({told} 2.11) and {other}-0.25 ({told} 2.13): a part of their difference may be "
        "the versions'"
        for other in ("random", "longest")
    ]


def test_devices_that_differ_are_only_noted(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = finished(tmp_path, store)
    devices = {0: "cuda:1", 1: "cpu", 2: "auto"}
    for seed, device in devices.items():
        edit(store, step_named(experiment, f"train/icon-f0.25-s{seed}"), cluster={"device": device})
    complete, _ = reported(experiment, store)
    assert complete
    assert "\n- icon-0.25: trained with device cuda (s0), cpu (s1)\n" in (folder / "table.md").read_text()


def test_refused_runs_done_again_give_the_table(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = finished(tmp_path, store)
    edit(store, step_named(experiment, "train/icon-f0.25-s1"), packages=OLD)
    assert not reported(experiment, store)[0]
    edit(store, step_named(experiment, "train/icon-f0.25-s1"), packages=NEW)
    assert reported(experiment, store)[0] and not (folder / "incomplete").exists()


def test_made_with_names_the_fewest_cells(tmp_path: Path, store: Store) -> None:
    experiment = finished(tmp_path, store)
    edit(store, step_named(experiment, "train/icon-f0.25-s0"), packages=OLD)
    groups = made_with(experiment, store)
    icon = next(arm for arm in experiment.arms if arm.method == "icon" and arm.seed == 0)
    base = next(arm for arm in experiment.arms if arm.method == "base")
    assert groups[0]["cells"] is None and groups[0]["with"]["train"]["torch"] == "2.13"
    assert {tuple(group["cells"]) for group in groups[1:]} == {
        tuple(sorted(step.folder for step in arm.evaluations.values())) for arm in (icon, base)
    }
    assert [group["with"]["train"]["torch"] for group in groups[1:] if "train" in group["with"]] == ["2.11"]


def judged_run(rows: list[ResultRow], groups: list[dict[str, Any]]) -> dict[str, Any]:
    content = run_json(rows)
    return {**content, "made_with": groups}


def judged_rows(tmp_path: Path) -> list[ResultRow]:
    (tmp_path / "experiments" / "toy").mkdir(parents=True)
    claim = "- {id: a, text: t, source: s, measure: mmlu, arm: icon-0.15, against: [full]}\n"
    (tmp_path / "experiments" / "toy" / "claims.yaml").write_text(claim, encoding="utf-8")
    rows = []
    for seed in (0, 1):
        found = judged("wwlt", "full", ["vicuna"])
        found["vicuna"]["step"] = f"judge/verdicts-icon-f0.15-s{seed}-00000000000{seed}"
        steps = {"select": None, "train": f"train/icon-f0.15-s{seed}-00000000000{seed}"}
        rows.append(run("icon", 0.15, seed, 0.6 + seed / 10, judged=found, steps=steps))
    return [run("full", 1.0, 0, 0.4), *rows]


def test_comparisons_by_a_judge_of_mixed_versions_are_refused(tmp_path: Path) -> None:
    rows = judged_rows(tmp_path)
    odd = rows[1].judged["vicuna"].step
    groups = [
        {"cells": None, "with": {"judge": {"torch": "2.13"}}},
        {"cells": [odd], "with": {"judge": {"torch": "2.11"}}},
    ]
    content = judged_run(rows, groups)
    write_all(rows, content, tmp_path / "experiments", tmp_path / "out")
    (line,) = numbers(tmp_path / "out", "judged")
    assert (line["method"], line["measure"], line["value"], line["status"]) == ("icon", "winning score", "", "missing")
    text = (tmp_path / "out" / "table.md").read_text()
    assert "icon-0.15 vicuna: mixed versions: judged with torch 2.11 (s0), 2.13 (s1), not averaged. Redo s0" in text
    assert "delete judge/*-icon-f0.15-s0-* in" in text
    assert "missing" not in {status for _, status in cells(tmp_path / "out").values()}


def test_comparison_by_a_judge_whose_sides_differ_is_marked(tmp_path: Path) -> None:
    rows = judged_rows(tmp_path)
    content = judged_run(rows, [{"cells": None, "with": {"train": {"torch": "2.11 and 2.13"}}}])
    write_all(rows, content, tmp_path / "experiments", tmp_path / "out")
    note = "other versions: icon-0.15 and full: trained with torch 2.11 and 2.13"
    assert f"\n- {note}\n" in (tmp_path / "out" / "judged.md").read_text()
    versions = versions_of(content)
    assert versions is not None and of_judged(versions, rows) == [note]


def test_claim_about_methods_of_other_versions_is_marked(tmp_path: Path) -> None:
    rows = judged_rows(tmp_path)
    full = [cell.step for cell in rows[0].benchmarks.values()]
    groups = [
        {"cells": None, "with": {"train": {"torch": "2.13"}}},
        {"cells": full, "with": {"train": {"torch": "2.11"}}},
    ]
    write_all(rows, judged_run(rows, groups), tmp_path / "experiments", tmp_path / "out")
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "\n- other versions: icon-0.15 (trained with torch 2.13) and full (trained with torch 2.11): " in text


def test_separated_rows_of_unknown_versions_are_as_they_are(tmp_path: Path) -> None:
    rows = judged_rows(tmp_path)
    assert separated(rows, run_json(rows)) == (rows, []) and len(lines(rows)) == 2


def test_tables_that_a_later_report_hasnt_are_removed(tmp_path: Path) -> None:
    rows, out = judged_rows(tmp_path), tmp_path / "out"
    out.mkdir()
    for name in ("paper_table1.md", "paper_table1.tex", "paper_table2.csv", "claims.md", "claims.csv", "notes.md"):
        (out / name).write_text("of an earlier report", encoding="utf-8")
    content = judged_run(rows, [])
    content["config"]["published"] = None
    write_all(rows, content, tmp_path / "experiments", out)
    assert {path.name for path in out.glob("*.md")} == {"table.md", "verdicts.md", "judged.md", "notes.md"}
    assert not [*out.glob("paper_*"), *out.glob("claims.*")]
