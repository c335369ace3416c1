"""A step's target is a name: its function may move and stored steps stay; one that is gone names the version to use."""

import importlib
import inspect
import json
import pkgutil
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small import small
from toy_stages import diamond, toy
from toy_stages import run as toy_run

from icon_repro import methods
from icon_repro.engine import targets
from icon_repro.engine.artifact import Store
from icon_repro.engine.options import ClusterConfig, Executor
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import plain
from icon_repro.engine.targets import TARGETS, TargetError, function_of, module_of, target_of
from icon_repro.engine.worker import StepError, make_spec, work
from icon_repro.experiment import plan
from icon_repro.methods.base import OUTSIDE
from icon_repro.methods.kinds import kinds

INLINE = ClusterConfig(device="cpu", executor=Executor.inline)
GIT = {"commit": "c0ffee", "dirty": False}


PLANS = json.loads((Path(__file__).parents[1] / "golden" / "plans.json").read_text(encoding="utf-8"))
PLANNED = {group.partition(" ")[2] for plan in PLANS.values() for group in plan["groups"]}


def step_functions() -> dict[str, str]:
    """Target of each function of a method that has a step's parameters -> where it is."""
    found = {}
    for module in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}."):
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            first, *names = [*inspect.signature(function).parameters, ""]
            step = first in ("cfg", "options") and names == ["inputs", "out", "runtime", ""]
            if step and function.__module__ == module.name:
                found[target_of(function)] = f"{module.name}:{name}"
    return found


def test_every_step_function_is_planned_by_an_experiment_or_a_world(tmp_path: Path) -> None:
    assert {target for target, _ in TARGETS.values()} <= PLANNED
    # steps of a file outside the package are planned in tests/methods/test_external_method.py
    known = {target for target in PLANNED if module_of(target).startswith(methods.__name__)} | {OUTSIDE}
    for kind in kinds():  # a new method need be in no world: its kind alone plans its steps
        if not any(f"{module_of(target)}.".startswith(f"{methods.__name__}.{kind}.") for target in known):
            steps = plan(small(tmp_path, {"methods": {"new": {"kind": kind}}, "until": "select"})).steps
            known |= {step.target for step in steps if step.stage == "score"}
    assert step_functions().keys() == known


@pytest.mark.parametrize("target", sorted({*PLANNED, *(target for target, _ in TARGETS.values()), OUTSIDE}))
def test_target_of_every_step_is_a_function_that_a_worker_can_call(target: str) -> None:
    function = function_of(target)
    parameters = list(inspect.signature(function).parameters.values())
    assert [parameter.kind for parameter in parameters] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 4
    params, inputs, out, runtime = list(typing.get_type_hints(function).values())[:4]
    assert all(hasattr(kind, "__dataclass_fields__") for kind in typing.get_args(params) or (params,)), params
    assert (inputs, out, runtime) == (Mapping[str, Path], Path, Runtime)


def test_moved_targets_are_targets_of_the_plan() -> None:
    assert set(targets.MOVED) - PLANNED == set()


def test_target_of_a_moved_function_is_its_old_name() -> None:
    for target in PLANNED:
        assert target_of(function_of(target)) == target
    with pytest.raises(TargetError, match=r"toy_stages:run: isn't a function of icon_repro; define the step"):
        target_of(toy_run)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """toy_stages:run is gone from where its target says; its function is toy_home:build."""
    home = types.ModuleType("toy_home")
    home.build = toy_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_home", home)
    monkeypatch.delattr("toy_stages.run")
    monkeypatch.setitem(targets.MOVED, "toy_stages:run", "toy_home:build")


def built(folder: Path, *more: Any) -> tuple[str, str]:
    """Names of the toy steps that a run built, and of those that it found."""
    summary = run([*diamond(folder), *more], Store(folder / "work"), INLINE, folder / "cache", print)
    assert not summary.failed and not summary.blocked
    return tuple("".join(sorted(s.removeprefix("toy/") for s in part)) for part in (summary.built, summary.cached))  # type: ignore[return-value]


def test_moved_function_leaves_the_store_cached_and_runs_what_is_missing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert built(tmp_path) == ("abcde", "")
    request.getfixturevalue("moved")
    assert built(tmp_path, toy(tmp_path, "f")) == ("f", "abcde")
    assert module_of("toy_stages:run") == "toy_home" and module_of("other:run") == "other"


def spec_of(folder: Path, target: str) -> dict[str, Any]:
    step = toy(folder, "a", target=target)
    return make_spec(step, Store(folder / "work"), INLINE, folder / "cache", GIT)


def test_queued_spec_of_a_moved_function_still_runs(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spec = spec_of(tmp_path, "toy_stages:run")
    request.getfixturevalue("moved")
    assert work(spec) == 0
    assert (tmp_path / "work" / spec["folder"] / "text.txt").read_text() == "a"


@pytest.mark.parametrize("target", ["toy_stages:gone", "toy_gone:run", "toy_stages.gone:run", "icon_repro.gone:run"])
def test_target_without_function_says_which_version_can_run_it(tmp_path: Path, target: str) -> None:
    spec = {**spec_of(tmp_path, target), "sent": {"version": "0.0.7", "commit": "abad1dea"}}
    with pytest.raises(StepError) as error:
        work(spec)
    for part in (f"toy/a: target '{target}'", "gone'", "icon_repro 0.0.7 at commit abad1dea", "submit again"):
        assert part in str(error.value)


def test_target_without_function_in_a_spec_of_an_older_version_names_the_commit(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "toy_gone:run")
    assert spec.pop("sent")["commit"] == "c0ffee"
    with pytest.raises(StepError, match="can run it: commit c0ffee"):
        work(spec)


def test_target_whose_module_needs_what_isnt_installed_is_an_import_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_needy.py").write_text("import not_installed_here\n")
    (tmp_path / "toy_wrong.py").write_text("import json\njson.gone\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        function_of("toy_needy:run")
    with pytest.raises(AttributeError, match="gone") as error:
        function_of("toy_wrong:run")
    assert not isinstance(error.value, TargetError)


def test_fingerprint_holds_the_name_not_the_place(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = [step.folder for step in diamond(tmp_path)]
    request.getfixturevalue("moved")
    assert [step.folder for step in diamond(tmp_path)] == before
    assert plain(diamond(tmp_path)[0].hashed)["target"] == "toy_stages:run"
