"""A method in a file of one's own: what its function is given, what becomes of its scores, what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
from slow_baselines import ASSESSMENT, ROWS, planned, run_method, step_of
from small import composed, small

from icon_repro.config.load import ConfigError, load
from icon_repro.data.planner import PlanError
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step, Store, ordered
from icon_repro.engine.options import ClusterConfig, Executor
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.methods import external
from icon_repro.methods.common.outcome import NoScoreError
from icon_repro.methods.external import ExternalConfig, ExternalError

LENGTH = '''
"""Rows by the length of their instruction."""


def score(rows, options, inputs, runtime):
    return {row.id: options["sign"] * len(row.instruction) for row in rows}
'''


def file(folder: Path, content: str, name: str = "method.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def scores(folder: Path, runtime: Runtime, body: str, options: dict[str, Any] | None = None) -> dict[str, float]:
    """Scores that a function with the given body gives to ROWS."""
    content = "import math\nimport numpy as np\n\n\ndef score(rows, options, inputs, runtime):\n    " + body
    runtime.files = {"method": file(folder, content)}
    write_rows(folder / "rows.jsonl", ROWS)
    external.run(ExternalConfig(options=options or {}), {"candidates": folder}, folder, runtime)
    return {row.id: row.score for row in read_rows(folder / "scores.jsonl", Score)}


def failures(folder: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in read_rows(folder / "failures.jsonl", dict)}


@pytest.mark.parametrize(
    "text, part",
    [
        ("def scores(rows, options, inputs, runtime):\n    return {}\n", "has no function score(rows, options, inputs"),
        ("def score(rows):\n    return {}\n", "mine.py:1: score() must be score(rows, options, inputs, runtime)"),
        ("\ndef score(rows, options, inputs, runtime, extra):\n    return {}\n", "mine.py:2: score() must be"),
        ("def score(rows, options, inputs, runtime:\n    return {}\n", "mine.py:1: isn't Python"),
        ("class A:\n    def score(self, rows, options, inputs, runtime):\n        return {}\n", ""),
        ("from other import score\n", ""),
        ("score = lambda rows, options, inputs, runtime: {}\n", ""),
        ("def score(*given):\n    return {}\n", ""),
        ("def score(rows, options, inputs, runtime=None):\n    return {}\n", ""),
    ],
)
def test_external_function_is_looked_at_before_any_work(tmp_path: Path, text: str, part: str) -> None:
    path = file(tmp_path, text + "raise SystemExit\n", "mine.py")  # it isn't executed
    found = external.problems("methods.mine", ExternalConfig(path=str(path)), None)  # type: ignore[arg-type]
    assert [part in problem for problem in found] == ([True] if part else []), found


@pytest.mark.parametrize("sign", [1, -1])
def test_external_file_of_the_config_scores_the_rows(
    model_step: Path, tmp_path: Path, runtime: Runtime, sign: int
) -> None:
    method = {"kind": "external", "path": str(file(tmp_path, LENGTH)), "options": {"sign": sign}}
    found = run_method(tmp_path, runtime, model_step, method)
    lengths = {row.id: sign * len(row.instruction) for row in ROWS}
    assert {i: score.score for i, score in found.scores.items()} == lengths
    assert found.ranks == sorted(lengths, key=lambda i: (-lengths[i], i)) and not found.failures
    assert found.metrics == {"rows": len(ROWS), "failed": {}, "tokens": 0, "flops": 0}


def test_external_function_is_given_rows_by_id_options_and_folders(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    content = """
from icon_repro.data.rows import Example; from icon_repro.engine.records import read_rows


def score(rows, options, inputs, runtime):
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert options == {"nested": {"list": [1, 2.5, "x"]}, "none": None}
    assert sorted(inputs) == ["assessment", "candidates", "model"]
    assert (inputs["model"] / "model.json").is_file()
    assert read_rows(inputs["candidates"] / "rows.jsonl", Example) != rows  # in the order of the step
    known = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    with runtime.progress(len(rows), "row") as progress:
        progress.advance(len(rows))
    return {row.id: len(known) for row in rows}
"""
    options = {"nested": {"list": [1, 2.5, "x"]}, "none": None}
    method = {"kind": "external", "path": str(file(tmp_path, content)), "options": options}
    found = run_method(tmp_path, runtime, model_step, method)
    assert {score.score for score in found.scores.values()} == {float(len(ASSESSMENT))}


def test_external_through_plan_and_workers(tmp_path: Path) -> None:
    path = file(tmp_path, LENGTH)
    config = small(
        tmp_path / "work",
        {"methods": {"mine": {"kind": "external", "path": str(path), "options": {"sign": 1}}}},
    )
    experiment = plan(config)
    select = next(arm.select for arm in experiment.arms if arm.method == "mine")
    assert select is not None
    store, said = Store(Path(config.paths.work)), list[str]()
    summary = run(
        ordered([select]), store, ClusterConfig(device="cpu", executor=Executor.inline), tmp_path, said.append
    )
    assert not summary.failed, said
    found = read_rows(store.path(step_of(experiment)) / "scores.jsonl", Score)
    rows = read_rows(store.path(select.inputs["universe"]) / "rows.jsonl", Example)
    assert {row.id: row.score for row in found} == {row.id: len(row.instruction) for row in rows}


def test_external_composes_from_the_command_line(tmp_path: Path) -> None:
    path = file(tmp_path, LENGTH)
    override = f"methods.mine={{kind: external, path: {path}, options: {{sign: -1, more: [a, b]}}}}"
    config = load(composed("experiment=smoke_tiny", override))
    assert config.methods["mine"] == ExternalConfig(path=str(path), options={"sign": -1, "more": ["a", "b"]})
    config.paths.work = str(tmp_path)
    assert step_of(plan(config)).files["method"].path == str(path)


def test_external_without_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods.mine.path: .*needs the path"):
        load(composed("experiment=smoke_tiny", "methods.mine={kind: external}"))


def test_external_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"methods.mine.option: unknown key. Did you mean 'options'"):
        load(composed("experiment=smoke_tiny", "methods.mine={kind: external, path: x.py, option: {}}"))


# ---------------------------------------------------------------- fingerprint


def test_external_content_and_options_are_hashed_and_the_path_isnt(tmp_path: Path) -> None:
    def fingerprint(path: Path, **options: Any) -> str:
        method = {"kind": "external", "path": str(path), "options": options}
        return step_of(planned(tmp_path / "work", {"mine": method})).fingerprint

    first = fingerprint(file(tmp_path / "here", LENGTH), sign=1)
    assert fingerprint(file(tmp_path / "there", LENGTH, "another.py"), sign=1) == first
    assert fingerprint(file(tmp_path / "here", LENGTH), sign=2) != first
    changed = fingerprint(file(tmp_path / "here", LENGTH + "# another line\n"), sign=1)
    assert changed != first
    assert fingerprint(file(tmp_path / "here", LENGTH), sign=1) == first


def test_external_modules_beside_the_file_are_hashed_and_no_others(tmp_path: Path) -> None:
    def made() -> Step:
        return step_of(planned(tmp_path / "work", {"mine": {"kind": "external", "path": str(path)}}))

    path = file(tmp_path, f"from helper import sign\nfrom icon_repro.data.rows import Example\nimport math\n{LENGTH}")
    alone = made()
    assert list(alone.files) == ["method"]
    file(tmp_path, "import parts.inner\nsign = 1\n", "helper.py")
    file(tmp_path / "parts", "value = 1\n", "inner.py")
    file(tmp_path, "nobody = 'imports this'\n", "math.py")  # nor this: it has the name of a library
    first = made()
    assert sorted(first.files) == ["beside.helper.py", "beside.parts/inner.py", "method"]
    file(tmp_path / "parts", "value = 2\n", "inner.py")
    assert len({alone.fingerprint, first.fingerprint, made().fingerprint}) == 3


@pytest.mark.parametrize("path", ["nowhere.py", "."])
def test_external_file_that_isnt_there_is_refused_by_the_plan(tmp_path: Path, path: str) -> None:
    with pytest.raises(PlanError, match=r"methods.mine.path='.*': no such file \(looked in .*\)"):
        planned(tmp_path, {"mine": {"kind": "external", "path": path}})


# ---------------------------------------------------------------- what the function gives


def test_external_rows_without_a_finite_score_are_failures(tmp_path: Path, runtime: Runtime) -> None:
    body = 'return {"c1": math.nan, "c2": 3, "c3": None, "c4": -math.inf, "c5": np.float32(0.5), "c6": np.nan}'
    assert scores(tmp_path, runtime, body) == {"c2": 3.0, "c5": 0.5}
    bad, none = "score isn't finite", "no score given"
    assert failures(tmp_path) == {"c1": bad, "c3": none, "c4": bad, "c6": bad, "c7": none}


def test_external_file_says_what_scoring_cost(tmp_path: Path, runtime: Runtime) -> None:
    body = "return {row.id: 1.0 for row in rows}, "
    for given, expected in [("{'tokens': 7, 'flops': 2e9}", (7, 2e9)), ("{'tokens': 5}", (5, 0)), ("{}", (0, 0))]:
        runtime.files = {"method": file(tmp_path, f"def score(rows, options, inputs, runtime):\n    {body}{given}\n")}
        write_rows(tmp_path / "rows.jsonl", ROWS)
        metrics = external.run(ExternalConfig(), {"candidates": tmp_path}, tmp_path, runtime)
        assert (metrics["tokens"], metrics["flops"]) == expected


@pytest.mark.parametrize(
    "cost", ["{'seconds': 3}", "{'flops': -1}", "{'tokens': float('nan')}", "{'tokens': 'many'}", "7"]
)
def test_external_cost_that_cant_be_used_is_refused(tmp_path: Path, runtime: Runtime, cost: str) -> None:
    with pytest.raises(ExternalError, match=r"method.py: score\(\) gave"):
        scores(tmp_path, runtime, f"return {{row.id: 1.0 for row in rows}}, {cost}")


def test_external_scores_may_be_tensors(tmp_path: Path, runtime: Runtime) -> None:
    body = "import torch\n    return {row.id: torch.tensor(2.5) for row in rows}"
    assert scores(tmp_path, runtime, body) == {row.id: 2.5 for row in ROWS}


@pytest.mark.parametrize(
    "body, message",
    [
        ("return [1.0] * len(rows)", r"method.py: score\(\) gave list; it must give a dict of id to score"),
        ("pass", r"score\(\) gave NoneType"),
        ('return {"c1": 1, "z9": 2, "z1": 3}', r"score\(\) gave 2 ids that no row has \(first: 'z1'\)"),
        ('return {0: 1.0, "z": 2.0}', r"gave 2 ids that no row has \(first: 0\)"),
        ('return {"c1": "good"}', r"score\(\) gave 'c1' the score 'good'; it must be one number"),
        ('return {"c2": [1.0]}', r"gave 'c2' the score \[1.0\]; it must be one number"),
        ('return {"c1": 10**400}', r"gave 'c1' the score 1000+; it must be one number"),
        ('import torch; return {"c1": torch.ones(2)}', r"gave 'c1' the score tensor.*; it must be one number"),
    ],
)
def test_external_result_that_cant_be_used_is_refused(
    tmp_path: Path, runtime: Runtime, body: str, message: str
) -> None:
    with pytest.raises(external.ExternalError, match=message):
        scores(tmp_path, runtime, body)
    assert not (tmp_path / "scores.jsonl").exists()


def test_external_no_score_at_all_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(NoScoreError, match="no score given: 7"):
        scores(tmp_path, runtime, "return {}")


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "method.py",
            "def scores(rows):\n    return {}\n",
            r"method.py:1: has no function score\(.*Example: def",
        ),
        ("method.py", "score = 3\n", "has no function score"),
        ("method.txt", LENGTH, r"method.txt: isn't a Python file; give one whose name ends with .py"),
    ],
)
def test_external_file_without_the_function_is_refused(
    tmp_path: Path, runtime: Runtime, name: str, content: str, message: str
) -> None:
    runtime.files = {"method": file(tmp_path, content, name)}
    with pytest.raises(external.ExternalError, match=message):
        external.run(ExternalConfig(), {"candidates": tmp_path}, tmp_path, runtime)


def test_external_errors_of_the_file_name_its_line(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ExternalError, match=r"method.py:6: score\(\) raised ZeroDivisionError") as error:
        scores(tmp_path, runtime, "return {row.id: 1 / 0 for row in rows}")
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_external_file_may_use_dataclasses_with_annotations_as_text(tmp_path: Path, runtime: Runtime) -> None:
    content = """
from __future__ import annotations

import pickle
from dataclasses import dataclass


@dataclass
class Weight:
    value: float = 2.0


def score(rows, options, inputs, runtime):
    return {row.id: pickle.loads(pickle.dumps(Weight())).value for row in rows}
"""
    runtime.files = {"method": file(tmp_path, content)}
    write_rows(tmp_path / "rows.jsonl", ROWS)
    external.run(ExternalConfig(), {"candidates": tmp_path}, tmp_path, runtime)
    assert {row.score for row in read_rows(tmp_path / "scores.jsonl", Score)} == {2.0}


def test_external_file_may_import_what_lies_beside_it_and_no_library_is_replaced(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    file(tmp_path, "def of(row):\n    return len(row.response)\n", "beside_the_method.py")
    file(tmp_path, "raise SystemExit(9)", "fractions.py")
    found = scores(
        tmp_path, runtime, "import beside_the_method, fractions; return {r.id: beside_the_method.of(r) for r in rows}"
    )
    assert found == {row.id: len(row.response) for row in ROWS}


def test_external_options_arent_shared_with_the_config(tmp_path: Path, runtime: Runtime) -> None:
    options = {"sign": 1}
    scores(tmp_path, runtime, "options.clear()\n    return {row.id: 1 for row in rows}", options)
    assert options == {"sign": 1}
