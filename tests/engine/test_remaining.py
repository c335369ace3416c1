"""How far a run is, from its start on, with the clock and the machine's speed given by hand."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from test_pace import CLUSTER, finish, steps
from toy_stages import diamond, toy

from icon_repro.engine import processes
from icon_repro.engine.artifact import Cost, Step, Store
from icon_repro.engine.options import ClusterConfig, Executor
from icon_repro.engine.run import run
from icon_repro.report.remaining import Remaining, _speed


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def remaining(made: list[Step], store: Store, clock: Clock, speed: float | None = 1e10) -> Remaining:
    return Remaining(made, store, CLUSTER, clock, lambda cluster: speed)


def built(watch: Remaining, clock: Clock, step: Step, seconds: float) -> str:
    clock.now += seconds
    return watch.ended(step, {"wall_s": seconds, "metrics": {}})


def test_first_guess_is_the_plans_operations_over_the_machines_speed(tmp_path: Path) -> None:
    made = [*steps(tmp_path, "training", 4e11, 4e11), *steps(tmp_path, "scoring", 2e11)]
    watch = remaining(made, Store(tmp_path / "work"), Clock())
    assert watch.seconds() == pytest.approx(100)
    assert watch.first() == "time left: about 1.7 min, guessed by this machine's speed; better known as steps end"


def test_pace_of_a_kind_is_that_of_its_own_steps_once_one_has_ended(tmp_path: Path) -> None:
    training, scoring = steps(tmp_path, "training", 4e11, 4e11, 4e11), steps(tmp_path, "scoring", 2e11)
    clock = Clock()
    watch = remaining([*training, *scoring], Store(tmp_path / "work"), clock)
    assert built(watch, clock, training[0], 100) == "29% of the run, about 4.2 min left"  # 2 x 100 s, and 50 s
    assert watch.seconds() == pytest.approx(250)
    built(watch, clock, scoring[0], 8)
    assert watch.seconds() == pytest.approx(200)
    assert built(watch, clock, training[1], 140) == "67% of the run, about 2 min left"  # the median of 100 and 140
    assert built(watch, clock, training[2], 120) == ""  # nothing is left


def test_finished_steps_of_an_earlier_run_come_before_any_guess(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    made = steps(tmp_path, "training", 1e12, 3e12)
    finish(store, made[0], 20)
    watch = remaining(made, store, Clock(), speed=None)
    assert watch.seconds() == pytest.approx(60)
    assert "guessed by finished steps of the same kinds;" in watch.first()


def test_a_device_that_nothing_ran_on_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps(tmp_path, "training", 1e12, 1e12)
    clock = Clock()
    watch = remaining(made, Store(tmp_path / "work"), clock, speed=None)
    assert watch.seconds() is None and watch.first() == "time left: known once a step has run on this device"
    assert built(watch, clock, made[0], 5) == "50% of the run, about 5 s left"
    assert _speed(ClusterConfig(device="cuda")) is None
    here = _speed(ClusterConfig(device="cpu"))
    assert here is not None and 1e8 < here < 1e15
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    assert _speed(ClusterConfig(device="auto")) is None


def test_steps_that_fail_or_are_built_elsewhere_leave_the_rest_and_measure_nothing(tmp_path: Path) -> None:
    made = steps(tmp_path, "training", 1e11, 1e11, 1e11)
    clock = Clock()
    watch = remaining(made, Store(tmp_path / "work"), clock)
    clock.now = 900
    watch.ended(made[0], None)
    assert watch.seconds() == pytest.approx(20)
    assert built(watch, clock, made[0], 5) == ""  # a step that was built again counts once


def test_nothing_to_do_says_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    (step,) = steps(tmp_path, "training", 1e12)
    finish(store, step, 2)
    assert remaining([step], store, Clock()).first() == ""


def test_a_long_step_says_what_it_and_the_run_have_left(tmp_path: Path) -> None:
    made = steps(tmp_path, "training", 4e11, 4e11)
    watch = remaining(made, Store(tmp_path / "work"), Clock())
    text = watch.during(made[0], 30)
    assert text == "toy/training0: at work for 30 s, about 10 s left; of the run about 50 s left"
    assert watch.during(made[0], 90) == "toy/training0: at work for 1.5 min; of the run about 40 s left"


@pytest.mark.parametrize(
    "metrics, text",
    [
        ({"metric": "acc", "value": 0.75, "items": 8}, "75.0"),
        ({"metric": "nll", "value": 1.83771}, "1.8377 nats"),
        ({"win_rate": 62.5, "win": 1}, "win rate 62.5"),
        ({"loss": 1.4159, "rows": 4}, "loss 1.416"),
        ({"selected": 4}, "4 rows"),
        ({"tokens": 4}, ""),
    ],
)
def test_what_a_step_found_stands_beside_it(metrics: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert remaining([], Store(tmp_path / "work"), Clock()).found({"metrics": metrics}) == text


@pytest.mark.parametrize("executor", ["process", "inline"])
def test_lines_of_a_run_say_how_far_it_is(tmp_path: Path, executor: str) -> None:
    cluster = ClusterConfig(device="cpu", executor=Executor(executor))
    made, store = [replace(step, cost=Cost(10, 1e9)) for step in diamond(tmp_path)], Store(tmp_path / "work")
    lines: list[str] = []
    run(made, store, cluster, tmp_path / "cache", lines.append, watch=Remaining(made, store, cluster))
    ended = [line for line in lines if line.startswith("[")]
    assert len(ended) == 5 and all("of the run, about " in line for line in ended[:-1])
    shares = [int(line.partition("% of the run")[0].rpartition(" ")[2]) for line in ended[:-1]]
    assert all(0 < share < 100 for share in shares) and "of the run" not in ended[-1]


def test_a_step_that_takes_long_is_told_of_with_the_last_line_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_TELL_S", 0.2)
    (tmp_path / "gate-slow").touch()
    step = toy(tmp_path, "slow", trouble="slow")
    store, cluster = Store(tmp_path / "work"), ClusterConfig(device="cpu")
    lines: list[str] = []
    watch = Remaining([step], store, cluster)
    run([step], store, cluster, tmp_path / "cache", lines.append, watch=watch)
    told = [line for line in lines if "at work for" in line]
    assert 2 <= len(told) <= 5  # after 0.2, 0.4, 0.8, 1.6 s
    assert any("\n      toy/slow: 3/4 row (75%)" in line for line in told)
