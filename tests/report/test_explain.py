"""action=report explain=...: runs, steps, commits, packages, data and config of a cell; from the results alone too."""

from pathlib import Path

import pytest
from cli import icon_repro
from made_up_runs import without
from paper_runs import judged, published_csv, run, run_json
from test_results import METRICS, finish, planned, written

from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_json, write_json
from icon_repro.report.explain import ExplainError, explain
from icon_repro.report.outputs import write_all
from icon_repro.report.rows import ResultRow


def told(cell: str, root: Path, name: str = "toy", results: str = "results") -> str:
    lines: list[str] = []
    explain(cell, root / results / name, root / "work", root / "experiments", lines.append)
    return "\n".join(lines)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Results beside the paper's, without a work folder."""
    rows = [
        run("full", 1.0, 0, 0.4, steps={"select": None, "train": "train/full-aaaaaaaaaaaa"}),
        run("icon", 0.15, 3, 0.6, steps={"select": "select/icon-bbbbbbbbbbbb", "train": "train/icon-cccccccccccc"}),
        run("icon", 0.15, 4, 0.7, steps={"select": "select/icon-bbbbbbbbbbbb", "train": "train/icon-dddddddddddd"}),
        run("random", 0.15, 0, 0.5, judged=judged("wllt", "icon")),
    ]
    experiments = tmp_path / "experiments"
    published_csv(experiments / "toy", "table1", [("full", 1.0, "v1", 40.0), ("icon", 0.15, "v1", 50.0)])
    published_csv(experiments / "toy", "table3", [("random", 0.15, "aaai", 1.4)])
    folder = tmp_path / "results" / "toy"
    content = run_json(rows)
    write_all(rows, content, experiments, folder)
    write_json(folder / "run.json", content)
    return tmp_path


def test_explain_from_results_alone_names_all_runs_and_says_what_isnt_known(root: Path) -> None:
    text = told("table1/llama31_8b/icon-0.15/mmlu", root)
    assert (
        "ours: " in text
        and "2 runs" in text
        and "paper: 50 (v1), difference +" in text.replace("difference 1", "difference +1")
    )
    for part in (
        "run icon at 0.15, seed 3",
        "run icon at 0.15, seed 4",
        "select/icon-bbbbbbbbbbbb",
        "train/icon-dddddddddddd",
        "evaluate/mmlu-600-000000000003",
        "run id: toy-000000000004",
        "which of these the cell read isn't known",
        f"prepare/pool-toy, source: {'ab' * 32}",
        "commit: not known by step; of the experiment: c0ffee",
        "torch 2.13.0",
        'methods.icon: {"seed": 3}',
    ):
        assert part in text, (part, text)
    assert "evaluate/arc" not in text and "train/full" not in text


@pytest.mark.parametrize(
    "cell, part",
    [
        ("icon-0.15/mmlu", "evaluate/mmlu-600-000000000003"),
        ("icon-0.15/KN", "evaluate/truthfulqa-700-000000000004"),
        ("icon-0.15/average", "evaluate/winogrande-700-000000000004"),
        ("full/tuning FLOPs", "train/full-aaaaaaaaaaaa"),
        ("table1/llama31_8b/full/flops_share", "train/full-aaaaaaaaaaaa"),
        ("table3/llama31_8b/random-0.15/koala", "judge/icon-koala-000000000000"),
    ],
)
def test_explain_any_cell_names_its_steps(root: Path, cell: str, part: str) -> None:
    assert part in told(cell, root)


@pytest.mark.parametrize(
    "cell, near",
    [
        ("icon-0.15/mmul", "'icon-0.15/mmlu'"),
        ("table1/llama31_8b/icon-0.15/mmul", "'table1/llama31_8b/icon-0.15/mmlu'"),
        ("icno-0.15/mmlu", "'icon-0.15/mmlu'"),
        ("nonsense", "Known: "),
    ],
)
def test_explain_unknown_cell_names_the_nearest(root: Path, cell: str, near: str) -> None:
    with pytest.raises(ExplainError, match="no such cell") as caught:
        told(cell, root)
    assert near in str(caught.value)


def test_explain_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match="Run the experiment, or action=report"):
        told("icon-0.15/mmlu", tmp_path)


def test_explain_missing_cell_says_why(root: Path) -> None:
    folder = root / "results" / "toy"
    content = read_json(folder / "run.json")
    rows: list[ResultRow] = [run("icon", 0.15, 3, 0.6)]
    rows[0] = without(rows[0], "mmlu", "train/icon failed: out of memory")
    write_all(rows, content, root / "experiments", folder)
    assert "missing: mmlu: train/icon failed: out of memory" in told("icon-0.15/mmlu", root)
    assert "train/icon failed: out of memory" in told("table1/llama31_8b/icon-0.15/mmlu", root)


def test_explain_with_the_work_folder_has_commit_packages_config_and_data_of_each_step(tmp_path: Path) -> None:
    experiment, store = planned(tmp_path), Store(tmp_path / "work")
    finish(experiment, store)
    assert written(experiment, store)[0] and METRICS
    text = told("icon-0.25/tiny", tmp_path, "smoke_tiny", "outputs")
    arm = next(arm for arm in experiment.arms if arm.method == "icon")
    assert arm.train is not None and arm.select is not None
    for step in (arm.evaluations["tiny"], arm.train, arm.select):
        assert step.folder in text and f"run id: smoke_tiny-{step.fingerprint}" in text
    assert text.count("commit: c0ffee") == 3 and text.count("packages: python 3.11.9, torch 2.13.0") == 3
    assert "isn't known" not in text and "data, as read" in text
    (pool,) = [step for step in experiment.steps if step.label == "prepare/pool-tiny"]
    assert f"{pool.folder}, source: {pool.files['source'].sha256}" in text
    assert '"epochs":' in text
    assert told("icon-0.25/average", tmp_path, "smoke_tiny", "outputs").count("run icon") == 1


@pytest.mark.parametrize(
    ("processes", "stage", "part"),
    [(1, 0, "tuned: in 1 process, without DeepSpeed"), (4, 3, "tuned: in 4 processes, ZeRO-3"), (1, None, None)],
)
def test_explain_says_how_a_training_was_shared_whatever_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, stage: int | None, part: str | None
) -> None:
    known = {} if stage is None else {"processes": processes, "zero_stage": stage}  # older records don't say
    monkeypatch.setitem(METRICS, "train", {**METRICS["train"], **known})  # type: ignore[arg-type]
    asked = {"training.deepspeed": {"stage": 2, "offload": False}}
    experiment, store = planned(tmp_path, asked), Store(tmp_path / "work")
    finish(experiment, store)
    written(experiment, store)
    text = told("icon-0.25/tiny", tmp_path, "smoke_tiny", "outputs")
    assert (part in text) if part is not None else ("tuned: " not in text)
    assert 'training.deepspeed, as asked for; a run says what was used: {"offload": false, "stage": 2}' in text
    assert "deepspeed" not in next(line for line in text.splitlines() if line.startswith("  training: "))


def test_explain_command_prints_or_refuses_in_one_line(root: Path) -> None:
    arguments = ["experiment=smoke_tiny", "name=toy", "action=report"]
    done = icon_repro(root, *arguments, "explain=table1/llama31_8b/icon-0.15/mmlu")
    assert done.code == 0 and "evaluate/mmlu-600-000000000003" in done.out, done.error
    done = icon_repro(root, *arguments, "explain=icon-0.15/mmul")
    assert done.code == 1 and "Did you mean 'icon-0.15/mmlu'" in done.error and not done.out
    done = icon_repro(root, "experiment=smoke_tiny", "action=plan", "explain=icon-0.15/mmlu")
    assert done.code == 1 and "explain=" in done.error and "goes with action=report" in done.error
