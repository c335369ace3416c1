"""action=publish: results of a run become the committed ones, if their numbers give them; else nothing changes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import icon_repro
from test_results import contents, finish, planned, written

from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_json, write_json
from icon_repro.report.publish import publish
from icon_repro.report.results import ResultsError, note_selections, place_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, store: Store) -> Callable[..., Any]:
    """Make the experiment's steps and its report; with the changes given."""

    def made(without: str = "nothing", **changes: Any) -> Any:
        settings = {key.replace("_", ".", 1): value for key, value in changes.items()}
        experiment = planned(tmp_path, {"paths.published": str(tmp_path / "results"), **settings})
        finish(experiment, store, without)
        written(experiment, store)
        return experiment

    return made


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    return tmp_path / "results" / "smoke_tiny"


def test_publish_copies_what_a_run_wrote_and_verify_finds_no_difference(
    run: Callable[..., Any], tmp_path: Path, folder: Path, committed: Path
) -> None:
    experiment = run()
    assert place_of(experiment.config) == folder
    lines: list[str] = []
    assert publish(experiment, lines.append) == committed
    assert contents(committed) == contents(folder)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["smoke_tiny"]
    assert "published from" in lines[-1] and "git add" in lines[-1] and len(lines) == 1
    done = icon_repro(tmp_path, "action=verify")
    assert done.code == 0 and "0 differences" in done.out
    shutil.rmtree(folder)
    assert place_of(experiment.config) == committed


def test_publish_of_tables_that_their_numbers_do_not_give_changes_nothing(
    run: Callable[..., Any], folder: Path, committed: Path
) -> None:
    experiment = run()
    publish(experiment, lambda line: None)
    before = contents(committed)
    table = folder / "table.md"
    table.write_text(table.read_text(encoding="utf-8").replace("icon", "noci"), encoding="utf-8")
    with pytest.raises(ResultsError, match=r"isn't what its numbers give\. Make it anew(.|\n)*table\.md:"):
        publish(experiment, lambda line: None)
    assert contents(committed) == before


def test_publish_replaces_what_reports_make_and_keeps_what_a_study_added(
    run: Callable[..., Any], folder: Path, committed: Path
) -> None:
    experiment = run()
    (committed / "incomplete").mkdir(parents=True)
    (committed / "incomplete" / "table.md").write_text("x")
    for name in ("judged.csv", "length.csv"):  # the first is a table of reports, which this one hasn't
        (committed / name).write_text("x\n")
    publish(experiment, lambda line: None)
    assert set(contents(committed)) == {*contents(folder), "length.csv"}


def test_publish_of_incomplete_results_leaves_the_complete_ones(
    run: Callable[..., Any], folder: Path, committed: Path
) -> None:
    publish(run(), lambda line: None)
    before = contents(committed)
    shutil.rmtree(folder)
    publish(run(seeds=[0, 1], without="evaluate/icon"), lambda line: None)
    after = contents(committed)
    assert {name: after[name] for name in before} == before
    assert "incomplete/run.json" in after


def test_publish_beside_another_configuration_is_refused(
    run: Callable[..., Any], folder: Path, committed: Path
) -> None:
    publish(run(), lambda line: None)
    shutil.rmtree(folder)
    other = run(model_random={"seed": 7})
    with pytest.raises(ResultsError, match=r"results of another configuration(.|\n)*model\.random\.seed: 0 -> 7"):
        publish(other, lambda line: None)


@pytest.mark.parametrize("part", ["incomplete", "selections"])
def test_publish_beside_incomplete_results_or_selections_of_another_configuration_is_refused(
    run: Callable[..., Any], folder: Path, committed: Path, part: str
) -> None:
    def one(**changes: Any) -> Any:
        if part == "incomplete":
            return run(seeds=[0, 1], without="evaluate/icon", **changes)
        experiment = run(**changes)
        shutil.rmtree(folder)
        folder.mkdir()
        for path in (ROOT / "results" / "methods_cpu").glob("methods*.*"):
            shutil.copy(path, folder)
        note_selections(experiment)
        return experiment

    publish(one(), lambda line: None)
    assert "selected.json" in contents(committed) or part == "incomplete"
    shutil.rmtree(folder)
    other = one(model_random={"seed": 7})
    with pytest.raises(ResultsError, match=r"results of another configuration(.|\n)*seed: 0 -> 7"):
        publish(other, lambda line: None)


def test_publish_says_what_uncommitted_code_made(run: Callable[..., Any], folder: Path) -> None:
    experiment = run()
    run_file = folder / "run.json"
    write_json(run_file, {**read_json(run_file), "git": [{"commit": "c0ffee", "dirty": True}]})
    lines: list[str] = []
    publish(experiment, lines.append)
    assert "uncommitted changes of commit c0ffee" in lines[0]


def test_publish_of_results_of_another_configuration_than_the_command_is_refused(
    run: Callable[..., Any], tmp_path: Path, committed: Path
) -> None:
    run()
    other = planned(tmp_path, {"paths.published": str(tmp_path / "results"), "model.random": {"seed": 7}})
    with pytest.raises(ResultsError, match=r"results of another configuration(.|\n)*model\.random\.seed: 0 -> 7"):
        publish(other, lambda line: None)
    assert not committed.exists()


def test_what_a_publish_moved_away_comes_back(
    run: Callable[..., Any], committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = run()
    publish(experiment, lambda line: None)
    (committed / "length.csv").write_text("a study's own\n")  # it exists nowhere else
    before, rename = contents(committed), Path.rename

    def full(path: Path, target: Path) -> Path:
        if target == committed and path.name == committed.name:
            raise OSError("no space left")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="no space left"):
            publish(experiment, lambda line: None)
    assert contents(committed) == before

    place = committed.with_name(".publishing-smoke_tiny")  # as a process leaves it that is killed between the renames
    place.mkdir()
    committed.rename(place / "old")
    publish(experiment, lambda line: None)
    assert contents(committed) == before
    assert [path.name for path in committed.parent.iterdir()] == ["smoke_tiny"]


def test_publishes_of_two_experiments_leave_each_other_alone(run: Callable[..., Any], committed: Path) -> None:
    experiment = run()
    other = committed.with_name(".publishing-other") / "old" / "table.md"
    other.parent.mkdir(parents=True)
    other.write_text("x")
    publish(experiment, lambda line: None)
    assert other.read_text() == "x"
