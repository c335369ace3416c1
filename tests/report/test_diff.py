"""What changed between two results folders: settings, numbers beyond their intervals, verdicts, selections by id."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli import icon_repro as command
from made_up_runs import changed, result, row, solved

from icon_repro.engine.records import write_json
from icon_repro.report.diff import Difference, compared, main, text
from icon_repro.report.frames import open_results
from icon_repro.report.outputs import write_all
from icon_repro.report.row_tables import SelectionRows, write_selections
from icon_repro.report.rows import ResultRow

ITEMS = 400
IDS = [f"id{place:02}" for place in range(20)]


def folder(place: Path, rows: Sequence[ResultRow], chosen: Sequence[str] | None = None, **config: object) -> Path:
    """A results folder of made-up rows."""
    place.mkdir(parents=True)
    steps = sorted({step for own in rows for step in own.cell_steps})
    run = {"format": 1, "config": {"name": "toy", **config}, "steps": steps, "results": steps, "git": []}
    run |= {"packages": {"torch": ["2.13.0"]}, "sources": {}}
    write_all(rows, run, place / "none", place)
    write_json(place / "run.json", run)
    if chosen is not None:
        step = str(rows[-1].steps.select)
        write_selections(place, [SelectionRows("icon", 0.25, None, None, step, chosen)])
    return place


def runs(share: float, select: str, *, ids: str = "abc", seed: int = 0) -> list[ResultRow]:
    """Base, and ICon with two training seeds: base is the same always."""
    cells = [{"arc": result(solved(0.5, ITEMS, seed + 9), ids=ids)}]
    cells += [{"arc": result(solved(share, ITEMS, seed + place), ids=ids)} for place in range(2)]
    steps = {"select": f"select/icon-f0.25-{select}", "train": "train/x"}
    return [row("base", benchmarks=cells[0]), *(row("icon", 0.25, s, cells[s + 1], steps=steps) for s in range(2))]


def of(one: Path, two: Path) -> Difference:
    return compared(open_results(one), open_results(two))


def test_the_same_folder_has_no_difference(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", runs(0.5, "s"), IDS[:5], batch=4)
    found = of(one, one)
    assert not (found.settings or found.versions or found.numbers or found.selections or found.verdicts)
    assert found.compared == 2 and found.same_selections == 1
    assert "Numbers (2 compared: 2 the same, 0 within their interval, 0 beyond it)" in text(found)


def test_a_number_beyond_its_interval_is_named_and_one_within_is_counted(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", runs(0.5, "s"), batch=4)
    near = folder(tmp_path / "b", [*runs(0.5, "s")[:2], changed(runs(0.505, "s")[2])], batch=4)
    far = folder(tmp_path / "c", runs(0.7, "s"), batch=8)
    (within,) = of(one, near).numbers
    assert not within.beyond and within.low < 0 < within.high
    (beyond,) = of(one, far).numbers
    assert beyond.beyond and beyond.line == "icon-0.25" and beyond.measure == "arc"
    assert beyond.low < beyond.new - beyond.old < beyond.high and beyond.low > 0.1
    shown = text(of(one, far))
    assert "batch: 4 -> 8" in shown and "1 beyond it" in shown
    assert f"{100 * beyond.old:.2f} -> {100 * beyond.new:.2f}" in shown
    assert "1 within their interval" in text(of(one, near)) and "icon-0.25" not in text(of(one, near))
    assert max(map(len, shown.splitlines())) <= 100


def test_numbers_of_other_items_are_compared_by_their_own_intervals(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", runs(0.5, "s"))
    other = folder(tmp_path / "b", runs(0.5, "s", ids="xyz", seed=50))
    single = folder(tmp_path / "d", runs(0.5, "s")[:2])
    far = folder(tmp_path / "c", runs(0.9, "s", ids="xyz")[:2])
    assert all(number.p is None and not number.beyond for number in of(one, other).numbers)
    assert [number.line for number in of(single, far).numbers if number.beyond] == ["icon-0.25"]
    assert "intervals apart" in text(of(single, far))


def test_selections_say_what_came_and_what_went(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", runs(0.5, "s1"), IDS[:5])
    two = folder(tmp_path / "b", runs(0.5, "s2"), IDS[2:8])
    (change,) = of(one, two).selections
    assert (change.old_rows, change.new_rows, change.both) == (5, 6, 3)
    assert change.gone == ("id00", "id01") and change.come == ("id05", "id06", "id07")
    assert "icon-0.25: 5 -> 6 rows, overlap 60%, 2 out, 3 in (out: id00, id01; in: id05, id06, id07)" in text(
        of(one, two)
    )
    reordered = folder(tmp_path / "c", runs(0.5, "s3"), IDS[4::-1])
    assert of(one, reordered).same_selections == 1 and not of(one, reordered).selections
    without = folder(tmp_path / "d", runs(0.5, "s4"))
    assert "another selection; its ids aren't stored in the new folder" in text(of(one, without))


def test_lines_and_benchmarks_of_one_folder_alone_are_named(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", runs(0.5, "s"))
    two = folder(tmp_path / "b", [*runs(0.5, "s")[:1], row("rds", 0.25, 0, {"arc": result(solved(0.5, ITEMS, 1))})])
    found = of(one, two)
    assert list(found.only_old) == ["line icon-0.25"] and list(found.only_new) == ["line rds-0.25"]


def test_a_verdict_that_turns_is_named(tmp_path: Path) -> None:
    def pair(share: float) -> list[ResultRow]:
        def arm(method: str, own: float) -> list[ResultRow]:
            cells = [{"arc": result(solved(own, ITEMS, seed))} for seed in range(3)]
            return [row(method, 0.25, seed, cells[seed], selection_seed=seed) for seed in range(3)]

        return [*arm("random", 0.5), *arm("icon", share)]

    found = of(folder(tmp_path / "a", pair(0.5)), folder(tmp_path / "b", pair(0.8)))
    (turned,) = found.verdicts
    assert turned.startswith("average: icon-0.25 against random: ") and turned.endswith("-> better")


def test_a_folder_is_compared_with_a_commit_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *arguments], check=True, capture_output=True)

    git("init", "-q")
    place = folder(tmp_path / "results" / "toy", runs(0.5, "s1"), IDS[:5], batch=4)
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    shutil.rmtree(place)
    folder(place, runs(0.7, "s2"), IDS[2:8], batch=8)
    for old in ("HEAD", f"HEAD:{place}"):
        assert main([old, str(place)]) == 0
        shown = capsys.readouterr().out
        assert "batch: 4 -> 8" in shown and "1 beyond it" in shown and "2 out, 3 in" in shown
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    assert main(["HEAD~1", f"HEAD:{place}", "--all"]) == 0
    assert "batch: 4 -> 8" in capsys.readouterr().out
    for old, told in (("HEAD~9", "no such commit"), ("nowhere", "no such commit")):
        assert main([old, str(place)]) == 1
        assert told in capsys.readouterr().err
    assert main(["HEAD", "HEAD~1"]) == 1
    assert "neither is a folder" in capsys.readouterr().err


def test_command_says_what_changed_and_refuses_another_version(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", runs(0.5, "s1"), batch=4)
    two = folder(tmp_path / "b", runs(0.5, "s1"), batch=8)
    done = command(tmp_path, "action=diff", str(one), str(two))
    assert done.code == 0 and "batch: 4 -> 8" in done.out
    (two / "run.json").write_text(json.dumps({"format": 7}))
    done = command(tmp_path, "action=diff", str(one), str(two))
    assert done.code == 1 and "format 7, this version of icon_repro reads 1" in done.error
    assert "Traceback" not in done.error
