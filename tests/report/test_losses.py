"""What was lost on the way is said where people look: below tables, in methods.md, on the console, and by a plan."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import row
from small import publish_fake, small
from test_results import METRICS, finish, planned, written

from icon_repro.config.compose import composed
from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_json, write_json
from icon_repro.experiment import plan
from icon_repro.report import contamination, selection_overlap
from icon_repro.report.compare import as_text
from icon_repro.report.losses import losses
from icon_repro.report.rows import ResultRow, read_result_rows

LOST: dict[str, dict[str, Any]] = {
    "prepare/pool-tiny": {"rows": 15, "dropped": {"empty_response": 10, "url": 5}, "short_by": 2, "alike": 3},
    "prepare/bench-tiny": {"rows": 10, "dropped": {"unreadable options": 10}},
    "prepare/order": {"rows": 12, "dropped": 3},
    "score/icon-shard-0000": {"contexts_cut": 2},
    "score/icon-shard-0001": {"contexts_cut": 1},
    "select/random-f0.25": {"selected": 6, "scored": 24, "distinct_scores": 24, "tied": 0, "tied_left_out": 0},
    "select/longest-f0.25": {"selected": 6, "scored": 24, "distinct_scores": 9, "tied": 2, "tied_left_out": 3},
    "select/icon-f0.25": {"selected": 6, "scored": 24, "distinct_scores": 1, "tied": 6, "tied_left_out": 18},
    "train/longest-f0.25-s0": {
        "rows": 3,
        "dropped": {"no response token within max_length": 3},
        "rows_cut": 3,
        "rows_with_control": 1,
    },
}


def test_losses_are_said_once_for_what_belongs_together(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    for step in experiment.steps:
        if (own := LOST.get(step.label)) is not None:
            publish_fake(step, store, {**METRICS.get(step.stage, {}), **own})
        elif step.stage == "evaluate":
            cut = 20 if "base" in step.name else 17
            publish_fake(step, store, {**METRICS["evaluate"], "items_cut": cut})
    expected = [
        "pool-tiny: 15 of 30 rows dropped (empty_response 10, url 5)",
        "pool-tiny: 2 rows fewer than asked for were there",
        "pool-tiny: 3 rows are copies of others but for spaces and capitals (kept)",
        "bench-tiny: 10 of 20 rows dropped (unreadable options 10)",
        "order: 3 rows dropped, as they share text with the assessment set",
        "icon: 3 contexts were cut to the length that is scored",
        "longest at 0.25: tied at the cut: 3 rows left out have the score of 2 selected ones; ids decide which",
        "icon at 0.25: all 24 scores are equal: ids alone decide what is selected",
        "tiny: 17 to 20 of 20 items cut to evaluation.max_length (their beginning is missing)",
        "longest at 0.25: 3 of 6 selected rows not trained on (no response token within max_length)",
        "longest at 0.25: 3 of 6 selected rows cut to training.max_length",
        "longest at 0.25: 1 of 6 selected rows hold names of control tokens, which are read as letters",
    ]
    assert sorted(losses(experiment, store)) == sorted(expected)
    finish(experiment, store)
    _, said = written(experiment, store)
    assert read_json(folder / "run.json")["losses"] == losses(experiment, store)
    table = (folder / "table.md").read_text()
    for line in expected:
        assert f"- {line}\n" in table and f"warning: {line}" in said


def test_losses_of_a_judges_answers_and_of_held_out_rows(tmp_path: Path, store: Store) -> None:
    steps = {
        "answers-icon-tiny": {"answers": 9, "failed": 1, "empty": 2, "stops": {"length": 3, "eos": 6}},
        "answers-full-tiny": {"answers": 10, "failed": 0, "empty": 0, "stops": {"eos": 10}},
    }
    config = composed("smoke_tiny", [f"paths.work={tmp_path}/work"])
    experiment = plan(config)
    answered = [step for step in experiment.steps if step.stage == "judge" and step.name.startswith("answers-")]
    for step, metrics in zip(answered, steps.values(), strict=False):
        publish_fake(step, store, metrics)
    for arm in experiment.arms[:1]:
        for step in arm.evaluations.values():
            publish_fake(step, store, {**METRICS["evaluate"], "dropped": {"too long": 4}})
    first = answered[0].name
    assert losses(experiment, store) == [
        "tiny: 4 of 24 held-out rows not scored (too long)",
        f"{first}: of 10, 3 end at generation.max_new_tokens, 2 are empty, 1 are missing",
    ]


def test_nothing_lost_says_nothing(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)  # records of an older version, too
    written(experiment, store)
    assert losses(experiment, store) == read_json(folder / "run.json")["losses"] == []


def test_methods_text_ends_with_what_was_lost() -> None:
    assert as_text("x", "m", [{"method": "icon"}], [], ["pool: 1 of 2 rows dropped"]).endswith(
        "Left out, cut or tied:\n\n- pool: 1 of 2 rows dropped\n"
    )
    assert "Left out" not in as_text("x", "m", [{"method": "icon"}], [])


def test_selecting_rows_that_are_the_benchmark_are_said(tmp_path: Path, store: Store, folder: Path) -> None:
    experiment = planned(tmp_path)
    finish(experiment, store)
    (step,) = selection_overlap.steps(experiment)
    write_json(store.path(step) / "shared.json", {"item1": ["a"], "item2": ["b"]})
    for one in (step, *experiment.shared_text.values()):
        record = read_json(store.path(one) / "record.json")
        del record["checksum"]
        write_json(store.path(one) / "record.json", {**record, "metrics": {"items": 20, "too_short": 0}})
    write_json(store.path(next(iter(experiment.shared_text.values()))) / "shared.json", {})
    written(experiment, store)
    line = "tiny: 2 of 20 items share text with the rows that decide the selection of icon"
    assert read_json(folder / "run.json")["losses"] == [line] and f"- {line}\n" in (folder / "table.md").read_text()
    cells = {cell[0]: cell[-1] for cell in contamination.table(rows_of(folder))[1]}
    assert cells == {"full": "-", "random": "-", "longest": "-", "icon": "2 of 20"}
    assert "by selecting rows:" in (folder / "contamination.md").read_text()


def rows_of(folder: Path) -> list[ResultRow]:
    return read_result_rows(folder / "metrics.jsonl")


def test_selecting_cells_of_a_line_are_means_and_may_be_missing() -> None:
    def counted(shared: int | None) -> dict[str, Any]:
        return {"arc": None if shared is None else {"items": 20, "too_short": 0, "shared": shared}}

    rows = [
        row("icon", 0.15, 0, shared_text=counted(0), shared_selecting=counted(3)),
        row("icon", 0.15, 1, shared_text=counted(0), shared_selecting=counted(4)),
        row("less", 0.15, 0, shared_text=counted(0), shared_selecting=counted(None)),
        row("random", 0.15, 0, shared_text=counted(0), shared_selecting=None),
    ]
    header, cells, _ = contamination.table(rows)
    assert header[-1] == "arc: by selecting rows" and [cell[-1] for cell in cells] == ["3.5 of 20", "missing", "-"]


QUESTION = "Which of these does the old gardener of the village carry home on the last day of May?"


@pytest.mark.parametrize("response", ["a spade", ""])  # a row that a filter leaves out is one of the set, too
def test_plan_says_it_before_anything_is_built(tmp_path: Path, store: Store, response: str) -> None:
    bench, assess = tmp_path / "bench.jsonl", tmp_path / "assess.jsonl"
    bench.write_text(json.dumps({"question": QUESTION, "options": "A. a spade\nB. a hat", "answer": "A"}))
    rows = [
        {"instruction": QUESTION, "input": "", "output": response},
        {"instruction": "x", "input": "", "output": "y"},
    ]
    assess.write_text("\n".join(json.dumps({**one, "group": "g"}) for one in rows))
    files = {"evaluation.tasks.tiny.source.path": str(bench), "data.assessment.source.path": str(assess)}
    (line,) = selection_overlap.planned(plan(small(tmp_path / "work", files)), store)
    assert line.startswith("tiny: 1 of 1 items share text with prepare/assessment-tiny")
    assert list(selection_overlap.planned(plan(small(tmp_path / "work")), store)) == []
