"""No change of code changes what a stored step is called, unless a commit says which meaning changed.

Every experiment of conf/ and every world of ``worlds`` is planned. The names of the planned step folders (they
end in the steps' fingerprints) are compared with tests/golden/plans.json, and every step that a committed result names
must be in the plan of its experiment. When a meaning was changed on purpose, write the file anew and commit it with the
change; the diff shows which steps will run again:

    UPDATE_PLANS=1 python -m pytest -n 0 tests/engine/test_guard.py
"""

import copy
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from small import composed
from worlds import WORLDS, World

from icon_repro.config.load import load
from icon_repro.data import revisions
from icon_repro.engine.artifact import Step
from icon_repro.experiment import plan

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "plans.json"
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
NAMES = {*EXPERIMENTS, *(f"world {world}" for world in WORLDS)}


def committed_results(pattern: str) -> list[Path]:
    """Files of results/ that git tracks: runs of one's own lie there too."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", f"results/**/{pattern}"], capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


REPORTS = sorted(path.parent for path in committed_results("run.json"))
STEP = re.compile(r"[a-z_]+/[^/]+-[0-9a-f]{12}")
UPDATE = "UPDATE_PLANS" in os.environ


@pytest.fixture(autouse=True)
def same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of conf/ are relative to the checkout, and no hub or cache says which commit a branch is at."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(revisions, "resolve_revision", lambda *_, **__: (None, "a test asks no hub"))


def planned(experiment: str, work: Path) -> list[Step]:
    """The steps of an experiment as its file has it; skips the test where data of ../shared isn't there."""
    raw = copy.deepcopy(composed(f"experiment={experiment}"))
    for path in strings(raw):
        if path.startswith("../shared/") and not Path(path).exists():
            pytest.skip(f"{path} isn't there, and the plan of {experiment} holds its checksum")
    config = load(raw)
    config.paths.work = str(work)
    return plan(config).steps


def strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from (text for item in value.values() for text in strings(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in strings(item))


def described(steps: Sequence[Step]) -> dict[str, Any]:
    """How many steps there are and a digest of their folders' names: of all, and of each stage and target.

    A group's second digest covers what its steps are apart from their inputs: where it changes lies the cause.
    """
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(f"{step.stage} {step.target}", []).append(step)
    return {
        "steps": len(steps),
        "sha256": digest(step.folder for step in steps),
        "groups": {
            name: f"{len(some)} {digest(step.folder for step in some)} {digest(map(without_inputs, some))}"
            for name, some in groups.items()
        },
    }


def digest(texts: Iterable[str]) -> str:
    """First 16 hex digits of the sha256 of the sorted texts, one a line."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


def without_inputs(step: Step) -> str:
    """What a step is hashed by, except for its inputs' fingerprints."""
    return json.dumps({**step.hashed, "inputs": sorted(step.hashed["inputs"]), "name": step.name}, sort_keys=True)


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line for each group of steps that differs, causes first."""
    causes, followers = list[str](), list[str]()
    for name in [*now["groups"], *(group for group in before["groups"] if group not in now["groups"])]:
        old, new = (one["groups"].get(name, "0 none none").split() for one in (before, now))
        if old[2] != new[2]:
            causes.append(f"{name}: changed itself, {old[0]} steps then, {new[0]} now")
        elif old != new:
            followers.append(f"{name}: an input changed")
    return causes + followers


def expect_as_before(name: str, steps: Sequence[Step]) -> None:
    """Compare with the committed digests; in a run that updates them, write this one."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    now = described(steps)
    if UPDATE:
        golden = {key: value for key, value in {**golden, name: now}.items() if key in NAMES}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
        pytest.skip("wrote the digests, compared nothing")
    assert name in golden, f"{GOLDEN} doesn't know {name}; add it: UPDATE_PLANS=1 (this file's docstring)"
    why = "stored steps would run again. If their meaning has changed, say so in the commit; see this file's docstring"
    assert changes(golden[name], now) == [], why
    assert golden[name] == now, why


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_guard_step_folders_of_experiment_are_the_committed_ones(experiment: str, tmp_path: Path) -> None:
    expect_as_before(experiment, planned(experiment, tmp_path))


@pytest.mark.parametrize("world", WORLDS)
def test_guard_step_folders_of_world_are_the_committed_ones(world: str, tmp_path: Path) -> None:
    expect_as_before(f"world {world}", World(tmp_path, world).steps({}))


def test_guard_golden_file_holds_these_plans_and_no_others() -> None:
    assert set(json.loads(GOLDEN.read_text(encoding="utf-8"))) == NAMES


def test_guard_names_what_changed_with_the_cause_first(tmp_path: Path) -> None:
    world = World(tmp_path, "tuned")
    before, now = described(world.steps({})), described(world.steps({"training.epochs": 2}))
    assert changes(before, before) == []
    assert changes(before, now) == [
        "train icon_repro.train:run: changed itself, 2 steps then, 2 now",
        "evaluate icon_repro.evaluate:run: an input changed",
        "evaluate icon_repro.held_out:run: an input changed",
    ]


def steps_named(path: Path) -> set[str]:
    """Every step folder that a committed file of results names."""
    text = path.read_text(encoding="utf-8")
    values = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    return {text for text in strings(values) if STEP.fullmatch(text)}


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: str(folder.relative_to(ROOT / "results")))
def test_guard_steps_of_committed_reports_are_planned_by_their_experiment(folder: Path, tmp_path: Path) -> None:
    experiment = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]["name"]
    named = steps_named(folder / "metrics.jsonl") | steps_named(folder / "run.json")
    assert named, f"{folder} names no step"
    assert named - {step.folder for step in planned(experiment, tmp_path)} == set()


def test_guard_steps_of_other_committed_results_are_planned(tmp_path: Path) -> None:
    files = [path for path in committed_results("*.json*") if path.parent not in REPORTS]
    named = {str(path.relative_to(ROOT)): found for path in files if (found := steps_named(path))}
    assert {"results/pilot/steps.json", "results/released_selections/steps.json"} <= set(named)
    folders = {step.folder for name in EXPERIMENTS for step in planned(name, tmp_path)}
    assert {path: found - folders for path, found in named.items() if found - folders} == {}
