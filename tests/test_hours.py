"""GPU hours: by hand on one step of each kind, and the committed tables are what plan and measurement give."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import small

from experiments.llama31_8b.hours import MEASURED, Speed, by_method, hours, levels, main, speed, text
from icon_repro.config.load import Config
from icon_repro.engine.artifact import Cost, Step
from icon_repro.engine.records import read_json
from icon_repro.engine.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]
RATE = Speed(pairs_per_s=50.0, flops_per_s=1e12, training_flops_per_s=2e12)


def config(tmp_path: Path) -> Config:
    made = small(tmp_path)
    made.model.parameters = 8_030_261_248 // 2
    made.data.assessment.expected_prompt_chars, made.data.assessment.expected_response_chars = 300, 100
    return made


def step(target: str, stage: str, name: str = "x", **cost: Any) -> Step:
    target = TARGETS[target][0] if target in TARGETS else f"icon_repro.methods.{target}"
    return Step(stage, name, target, 1, None, cost=Cost(**cost))


def test_speed_is_what_was_measured_and_what_is_assumed() -> None:
    measured = {"peak_tflops": 800.0, "shared": {"pairs_per_s": 90.0, "tokens_per_s": 25_000.0}}
    found = speed(measured, 0.25)
    assert found == Speed(90.0, 2 * 8_030_261_248 * 25_000.0, 200e12)


@pytest.mark.parametrize(
    "made, checkpointing, expected",
    [
        # 1e6 tokens are 10,000 rows of 100; half the parameters take half the time
        (step("icon.pairs:shard", "score", tokens=1e6, flops=9e9), False, 10_000 / 50 / 2),
        (step("icon.pairs:control_shard", "score", tokens=1e6, flops=9e9), True, 10_000 / 50 / 2),
        (step("answers", "score", tokens=1e6, flops=3e15), True, 3000),
        (step("evaluate", "evaluate", tokens=1e6, flops=3e15), False, 3000),
        (step("train", "train", tokens=1e6, flops=3e15), False, 1500),
        (step("train", "train", tokens=1e6, flops=3e15), True, 2000),
        (step("icon.selector:train", "score", tokens=1e6, flops=3e15), True, 1500),
        (step("select", "select"), True, 0),
    ],
)
def test_hours_of_each_kind_of_step(tmp_path: Path, made: Step, checkpointing: bool, expected: float) -> None:
    settings = config(tmp_path)
    settings.cluster.gradient_checkpointing = checkpointing
    assert hours([made], settings, RATE) == pytest.approx(expected / 3600)


def test_hours_count_a_shared_step_once(tmp_path: Path) -> None:
    one, other = (step("answers", "score", name, flops=3.6e15) for name in "ab")
    assert hours([one, other, one], config(tmp_path), RATE) == pytest.approx(2)


def page() -> str:
    shown = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    return shown.partition("<!-- hours -->\n")[2].partition("\n<!-- end -->")[0]


def test_committed_hours_are_those_of_plan_and_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT.parent / "shared" / "data" / "assessment_1020.jsonl").is_file():
        pytest.skip("the authors' assessment rows aren't in ../shared")
    monkeypatch.chdir(ROOT)
    made = text("llama31_8b", MEASURED, 0.4, [f"paths.work={tmp_path}"])
    assert made.strip() == page().strip(), "put the tables of hours.py into the page"


def test_committed_hours_of_full_scoring_are_pairs_over_pairs_a_second() -> None:
    measured = read_json(ROOT / MEASURED)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page().splitlines() if line.startswith("|")]
    found = {line[0]: line for line in lines}
    pairs = 5000 * 1020
    bank, own = (pairs / measured[name]["pairs_per_s"] / 3600 for name in ("shared", "exact"))
    assert float(found["noise bank (default)"][2]) == pytest.approx(bank, rel=0.05)
    assert float(found["a random text for every candidate"][2]) == pytest.approx(own, rel=0.05)


def test_levels_and_methods_of_a_small_experiment(tmp_path: Path) -> None:
    rate = speed({"peak_tflops": 1.0, "shared": {"pairs_per_s": 10.0, "tokens_per_s": 100.0}}, 0.5)
    found = levels("smoke_tiny", rate, [f"paths.work={tmp_path}"])
    pairs = [float(line[1]) for line in found]
    assert len(found) == 5 and pairs[0] >= pairs[1] > pairs[2] > 0
    from icon_repro.experiment import plan

    assert [line[0] for line in by_method(plan(small(tmp_path)), rate)] == ["longest", "random", "icon"]


def test_main_share_out_of_range_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"peak_tflops": 1.0, "shared": {"pairs_per_s": 1.0, "tokens_per_s": 1.0}}))
    with pytest.raises(SystemExit):
        main(["--measured", str(file), "--training-share", "0"])
    assert "--training-share=0: must be in (0, 1]" in capsys.readouterr().err
