"""A file with METHOD outside the package: shards, options, seeds, plan and meaning as a built-in; what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from slow_baselines import planned, run_method, shards_of, step_of
from small import composed

import icon_repro
from icon_repro.config.load import ConfigError, load
from icon_repro.data.planner import PlanError
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import kinds
from icon_repro.methods.external import ExternalConfig, ExternalError
from icon_repro.methods.kinds import MethodError, method, method_of

LENGTH = """
from dataclasses import dataclass

import numpy as np

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows
from icon_repro.methods.base import Method, Options, repeats_field, reseed_by
from icon_repro.methods.common.outcome import write_scores


@dataclass
class LengthOptions(Options):
    sign: int = 1
    noise: float = 0.0
    seed: int = 0
    repeats: int = repeats_field()


def plan(build, name, options):
    return build.step(run, name, options, {"candidates": build.universe}, version=3)


def run(options: LengthOptions, inputs, out, runtime):
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)
    noise = options.noise * np.random.default_rng(options.seed).random(len(rows))
    scores = [Score(row.id, options.sign * float(len(row.response)) + x) for row, x in zip(rows, noise)]
    return {**write_scores(out, scores, {}), "tokens": 0, "flops": 0}


def problems(where, options, setting):
    return [f"{where}.sign=0: must not be 0; set 1 or -1."] if options.sign == 0 else []


METHOD = Method(LengthOptions, plan, "characters of the response", problems, reseed_by("seed"))
"""


def file(folder: Path, content: str = LENGTH) -> str:
    path = folder / "mine.py"
    path.write_text(content, encoding="utf-8")
    return str(path)


def refused(folder: Path, content: str, **options: Any) -> str:
    """What is said of a file when its experiment is loaded."""
    path = file(folder, content)
    with pytest.raises(ConfigError) as error:
        load({**composed("experiment=smoke_tiny"), "methods": {"mine": external(path, **options)}})
    return str(error.value)


def external(path: str, **options: Any) -> dict[str, Any]:
    return {"kind": "external", "path": path, "options": options}


def test_selectit_copied_out_of_the_package_gives_the_scores_of_the_built_in(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    source = Path(icon_repro.__file__).parent / "methods" / "selectit.py"
    path = shutil.copy(source, tmp_path / "my_selector.py")
    settings = {"alpha": 0.3, "shard_rows": 3}
    built_in = run_method(tmp_path / "in", runtime, model_step, {"kind": "selectit", **settings})
    copied = run_method(tmp_path / "out", runtime, model_step, external(str(path), **settings))
    assert copied.scores == built_in.scores and copied.failures == built_in.failures and copied.scores
    assert len(shards_of(copied.step, "external:step")) == len(shards_of(built_in.step, "selectit:shard")) + 1 > 2
    for options in (ExternalConfig(path=str(path)), method("selectit").options()):
        assert method_of(options).meaning_of(options).startswith("the model's own rating")


def test_external_method_repeats_with_its_own_seeds(tmp_path: Path) -> None:
    path = file(tmp_path)
    steps = planned(tmp_path, {"mine": external(path, seed=5, repeats=2, noise=0.1)}).steps
    found = {step.name: step for step in steps if step.target.endswith("external:step")}
    assert found.keys() == {"mine-r5", "mine-r6"}
    assert [step.params.params.seed for _, step in sorted(found.items())] == [5, 6]
    assert {step.version for step in found.values()} == {3} and len({s.fingerprint for s in found.values()}) == 2


def test_external_method_hashes_content_and_hashed_options(tmp_path: Path) -> None:
    def fingerprint(content: str = LENGTH, **options: Any) -> str:
        path = file(tmp_path, content)
        return step_of(planned(tmp_path / "work", {"mine": external(path, **options)})).fingerprint

    first = fingerprint()
    assert fingerprint(sign=1) == first != fingerprint(sign=-1)
    assert fingerprint(LENGTH + "# a longer file\n") != first == fingerprint()


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"sing": 1}, ["methods.mine.options.sing: unknown key. Did you mean 'sign'?"]),
        ({"sign": "up"}, ["methods.mine.options.sign='up': must be int"]),
        ({"sign": 0}, ["methods.mine.options.sign=0: must not be 0"]),
        ({"repeats": 0}, ["methods.mine.options.repeats=0: must be at least 1"]),
    ],
)
def test_external_method_options_are_checked(tmp_path: Path, options: dict[str, Any], parts: list[str]) -> None:
    said = refused(tmp_path, LENGTH, **options)
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("import numpy", "import not_here", ["mine.py:4: can't be imported", "No module named 'not_here'"]),
        ("def plan(build, name, options):", "def plan(build, name):", ["plan(build, name, options)", "Expected is"]),
        ("def plan(", "def plan((", ["mine.py:20: can't be imported (SyntaxError"]),
        ("sign: int = 1", "sign = 1", ["LengthOptions.sign has no type", "sign: int = 1"]),
        ("@dataclass\nclass LengthOptions(Options)", "class LengthOptions", ["isn't a dataclass"]),
        ("LengthOptions(Options)", "LengthOptions", ["has no field kind; derive it from Options"]),
        ("METHOD = Method(", "METHOD = tuple((", ["METHOD is", "not a Method(...)", "METHOD = Method(LengthOptions"]),
        ("    repeats: int = repeats_field()\n", "", ["has reseed", "add repeats: int = repeats_field()"]),
        ('"characters of the response"', '""', ["meaning='' of METHOD must say"]),
    ],
)
def test_external_method_file_that_is_wrong_is_refused(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    content = LENGTH.replace(old, new, 1)
    content = content.replace('reseed_by("seed"))', 'reseed_by("seed")))') if "tuple((" in new else content
    said = refused(tmp_path, content)
    assert all(part in said for part in ["methods.mine.path: mine.py:", *parts]), said


def test_repeats_of_a_method_without_a_seed_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"methods.longest.repeats=3: kind longest has no seed"):
        load(composed("experiment=smoke_tiny", "methods.longest={kind: longest, repeats: 3}"))
    said = refused(tmp_path, LENGTH.replace(', reseed_by("seed")', ""), repeats=3)
    assert "mine.py" in said and "methods.mine.options.repeats" in said and "has no seed" in said


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "def run(options: LengthOptions, inputs, out",
            "def run(options: LengthOptions, out",
            r"mine.py:\d+: run.*runtime",
        ),
        ("options: LengthOptions, inputs", "options, inputs", r"mine.py:\d+: options of run\(\) has no dataclass"),
        ("build.step(run,", "build.stop(run,", r"mine.py:\d+: plan\(\) raised AttributeError"),
        ("return build.step(", "build.step(", r"plan\(\) of mine.py gave None; it must give the step"),
    ],
)
def test_external_plan_that_cant_be_used_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        planned(tmp_path, {"mine": external(file(tmp_path, LENGTH.replace(old, new, 1)))})


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("    noise = ", "    1 / 0\n    noise = ", r"mine.py:26: run\(\) raised ZeroDivisionError: division by zero"),
        ('    return {**write_scores(out, scores, {}), "tokens": 0', "    return {", r"must return a dict with tokens"),
    ],
)
def test_external_step_that_fails_names_its_line(
    model_step: Path, tmp_path: Path, runtime: Runtime, old: str, new: str, message: str
) -> None:
    content = LENGTH.replace(old, new, 1).replace("return {,", "return {")
    with pytest.raises(ExternalError, match=message):
        run_method(tmp_path, runtime, model_step, external(file(tmp_path, content)))


def test_kind_of_a_file_without_method_says_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.py").write_text("X = 1\n")
    monkeypatch.setattr(kinds, "_FOLDER", tmp_path)
    with pytest.raises(MethodError, match=r"empty.py:1: defines no METHOD(.|\n)*METHOD = Method"):
        method("empty")
    with pytest.raises(MethodError, match="unknown method"):
        method("emptier")
