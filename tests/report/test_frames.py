"""Results as pandas frames: what is stored is in them, typed; other versions and other folders are refused by name."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_up_runs import result, row
from test_presentation import IDS, made

import icon_repro
from icon_repro.report import frames
from icon_repro.report.frames import OpenError
from icon_repro.report.results import report
from icon_repro.report.rows import write_result_rows

ROOT = Path(__file__).parents[2]
FRAMES = ("runs", "values", "judged", "items", "selections", "scores", "samples")
COMMITTED = sorted(path for path in (ROOT / "results").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_every_committed_folder_opens(folder: Path) -> None:
    found = icon_repro.open_results(folder)
    assert found.name == folder.name
    assert found.tables or found.documents
    for name in FRAMES:
        frame = getattr(found, name)
        assert name in found.absent or not frame.empty, name
        assert list(frame.columns[: len(frames.COLUMNS[name])]) == list(frames.COLUMNS[name])
        kinds = {column: str(frame[column].dtype) for column in frames.COLUMNS[name]}
        assert kinds == frames.COLUMNS[name], name
    for values in found.values.groupby("run"):
        assert not values[1].benchmark.duplicated().any()


def test_values_and_items_are_those_of_metrics() -> None:
    found = icon_repro.open_results(ROOT / "results" / "study_cpu")
    lines = [json.loads(line) for line in (found.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(found.runs) == len(lines)
    known = found.values[found.values.missing.isna()]
    for run, benchmark, value in zip(known.run, known.benchmark, known.value, strict=True):
        assert lines[run]["benchmarks"][benchmark]["value"] == value
    items = found.items[found.items.benchmark == "held_out"]
    weighted = (items.value * items["size"]).groupby(items.run).sum() / items["size"].groupby(items.run).sum()
    stored = known[known.benchmark == "held_out"].set_index("run").value
    pd.testing.assert_series_equal(weighted, stored, check_names=False, rtol=1e-6)
    assert items.groupby("run").items_id.nunique().eq(1).all() and items.group.notna().any()


def test_selections_of_the_study_are_those_of_its_samples() -> None:
    found = icon_repro.open_results(ROOT / "results" / "study_cpu")
    assert "ifd, less, ppl_low, rds" in found.absent["selections"]
    assert found.selections.groupby("step", observed=True).size().eq(154).all()
    assert set(found.selections.step) <= set(found.steps) and found.selections.step.nunique() == 7
    best = found.samples[(found.samples.end == "highest") & found.samples.method.isin(found.selections.method)]
    joined = best.merge(found.selections, on=["method", "id"], suffixes=("", "_of_selection"))
    assert len(joined) == 10 and (joined["rank"] == joined["rank_of_selection"]).all()


def test_a_fresh_run_has_selections_and_scores_by_id(tmp_path: Path) -> None:
    experiment, store = made(tmp_path)
    report(experiment, store, lambda text: None)
    found = icon_repro.open_results(tmp_path / "outputs" / experiment.config.name)
    assert {"selections", "scores", "runs", "values"}.isdisjoint(found.absent)
    for arm in experiment.arms:
        if arm.select is not None:
            own = found.selections[found.selections.step == arm.select.folder]
            assert list(own[own.method == arm.method].sort_values("rank").id) == IDS[:3]
    scores = found.scores[found.scores.method == "icon"]
    assert list(scores.sort_values("score", ascending=False).id) == IDS
    chosen = found.selections.merge(found.scores, on=["method", "id"], suffixes=("", "_score"))
    assert len(chosen) == len(found.selections)
    trained = found.runs[found.runs.select_step.notna()]
    assert set(trained.select_step) <= set(found.selections.step)
    first = (found.folder / "selections.parquet").read_bytes()
    (found.folder / "selections.parquet").unlink()
    report(experiment, store, lambda text: None)
    assert (found.folder / "selections.parquet").read_bytes() == first


def test_judged_items_are_points_and_parts_of_scores_are_columns(tmp_path: Path) -> None:
    outcomes = {"ids": "p", "parts": [{"name": "", "weight": 1.0, "values": "wtlf"}]}
    counts = {"prompts": 4, "judged": 3, "win": 1, "tie": 1, "lose": 1, "failed": 1}
    others = ("length_controlled_score", "position_consistency", "first_preferred")
    lengths = ("longer_wins", "length_winners", "length_losers")
    cell = {**counts, **dict.fromkeys((*others, *lengths)), "against": "full", "step": "judge/x", "outcomes": outcomes}
    rows = [row("full", None, 0), row("icon", 0.1, 0, {"arc": result("011")}, judged={"mt": cell})]
    write_result_rows(tmp_path / "metrics.jsonl", rows)
    (tmp_path / "run.json").write_text('{"format": 1, "config": {"name": "toy"}, "steps": []}')
    found = icon_repro.open_results(tmp_path)
    prompts = found.items[found.items.benchmark == "mt"]
    assert list(prompts.value)[:3] == [1.0, 0.5, 0.0] and prompts.value.isna().sum() == 1
    assert list(found.items[(found.items.benchmark == "arc") & (found.items.run == 1)].value) == [0.0, 1.0, 1.0]
    assert found.judged.loc[0, ["run", "set", "win", "failed"]].tolist() == [1, "mt", 1, 1]


@pytest.mark.parametrize(
    "file, text, expected",
    [
        ("run.json", '{"format": 99}', "run.json: format 99, this version of icon_repro reads 1: .* Update icon_repro"),
        ("run.json", '{"config": {}}', "format None, .* another version wrote it. Make it again with action=report"),
        (
            "metrics.jsonl",
            '{"experiment": "x", "colour": 1}\n',
            "metrics.jsonl:1: colour: unknown key.*another version",
        ),
        ("metrics.jsonl", None, "run.json is there and metrics.jsonl isn't"),
        ("selections.parquet", "not parquet", "selections.parquet: can't be read"),
    ],
)
def test_a_folder_of_another_version_is_refused_by_name(
    file: str, text: str | None, expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(ROOT / "results" / "smoke", folder)
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(OpenError, match=expected):
        icon_repro.open_results(folder)


def test_tables_of_another_format_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(ROOT / "results" / "smoke", folder)
    pd.DataFrame({"id": ["a"]}).to_parquet(folder / "scores.parquet")
    with pytest.raises(OpenError, match=r"scores\.parquet: format none, this version of icon_repro reads 1"):
        icon_repro.open_results(folder)


def test_no_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OpenError, match="no such folder"):
        icon_repro.open_results(tmp_path / "none")
    with pytest.raises(OpenError, match="no results are in it"):
        icon_repro.open_results(tmp_path)
