"""What missing steps may take, against sums by hand."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_stages import toy

from icon_repro.engine.artifact import Cost, Step, Store
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import write_json
from icon_repro.report.pace import Pace, pace, spelled, told

HERE = {"device": "cpu", "threads": 2, "processes": 1}
CLUSTER = ClusterConfig(device="cpu", threads=2)


def steps(folder: Path, kind: str, *flops: float) -> list[Step]:
    made = [toy(folder, f"{kind}{place}", target=f"toy_stages:{kind}") for place in range(len(flops))]
    return [replace(step, cost=Cost(tokens=1, flops=one)) for step, one in zip(made, flops, strict=True)]


def finish(store: Store, step: Step, seconds: float, **cluster: object) -> None:
    folder = store.path(step)
    folder.mkdir(parents=True)
    host = cluster.pop("host", socket.gethostname())
    record = {"format": 1, "files": {}, "wall_s": seconds, "host": host, "cluster": {**HERE, **cluster}}
    write_json(folder / "record.json", record)


def test_seconds_are_the_median_rate_of_each_kind_times_what_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    training, scoring = steps(tmp_path, "training", 1e12, 2e12, 4e12, 8e12, 2e12), steps(tmp_path, "scoring", 1e9, 3e9)
    for step, seconds in zip(training[:3], (10, 40, 40), strict=True):  # 10, 20 and 10 s for 1e12
        finish(store, step, seconds)
    finish(store, scoring[0], 5)
    found = pace([*training, *scoring], store, CLUSTER)
    assert found == Pace(
        seconds=pytest.approx(10 * 10 + 5 * 3),
        low=pytest.approx(115),
        high=pytest.approx(215),
        measured_on=4,
        unknown=[],
    )
    assert told(found) == [
        "time: about 1.9 min (1.9 min to 3.6 min) of one process, by 4 finished steps of the same kinds"
    ]


def test_steps_of_another_device_or_thread_count_are_no_measure(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    a, b, missing = steps(tmp_path, "training", 1e12, 1e12, 1e12)
    finish(store, a, 10, device="cuda")
    finish(store, b, 10, threads=1)
    found = pace([a, b, missing], store, CLUSTER)
    assert found.measured_on == 0 and found.unknown == [missing] and told(found) == []
    assert pace([a, b, missing], store, replace(CLUSTER, threads=1)).seconds == pytest.approx(10)


def test_kind_that_never_ran_is_named_and_not_guessed(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    training, other = steps(tmp_path, "training", 1e12, 1e12), steps(tmp_path, "scoring", 1e12, 1e12)
    finish(store, training[0], 3)
    found = pace([*training, *other], store, CLUSTER)
    assert found.seconds == pytest.approx(3) and found.unknown == other
    assert told(found)[0].endswith("; not in it, as none of their kind is finished on this device: 2 of toy")


def test_kind_of_which_some_have_no_operations_is_measured_in_tokens_or_steps(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    made = steps(tmp_path, "shard", 1e12, 0, 0)
    finish(store, made[0], 60)
    assert pace(made, store, CLUSTER).seconds == pytest.approx(120)  # each has one token
    without = [replace(step, cost=Cost()) for step in made[1:]]
    assert pace([made[0], *without], store, CLUSTER).seconds == pytest.approx(120)


def test_steps_that_ask_an_endpoint_are_measured_by_tokens_or_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    (other, *asked) = [
        replace(step, cost=Cost(tokens))
        for step, tokens in zip(
            [*steps(tmp_path, "select", 0), *steps(tmp_path, "endpoint", 0, 0)], (0, 100, 300), strict=True
        )
    ]
    finish(store, other, 1)
    missing = replace(other, name="other")
    assert pace([other, missing, *asked], store, CLUSTER).unknown == asked
    finish(store, asked[0], 10)
    assert pace([other, missing, *asked], store, CLUSTER).seconds == pytest.approx(1 + 30)


def test_device_is_its_kind_and_processes_count_for_training_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    a, b = steps(tmp_path, "scoring", 1e12, 1e12)
    finish(store, a, 10, device="cuda:0")
    four = ClusterConfig(device="cuda:1", threads=2, processes=4)
    assert pace([a, b], store, four).seconds == pytest.approx(10)
    trained, untrained = (replace(step, target="icon_repro.train:run") for step in (a, b))
    trained = replace(trained, stage="score")  # as LESS's warm-up
    finish(store, trained, 10, device="cuda")
    assert pace([trained, untrained], store, four).measured_on == 0


@pytest.mark.parametrize("left", [{"device": "auto"}, {"threads": None}])
def test_device_left_to_torch_is_that_of_this_host_if_it_was_used(tmp_path: Path, left: dict[str, Any]) -> None:
    store, here = Store(tmp_path / "work"), replace(CLUSTER, **left)
    a, b, c = steps(tmp_path, "scoring", 1e12, 1e12, 1e12)
    finish(store, a, 10, host="another", **left)
    assert pace([a, b, c], store, here).seconds == pytest.approx(20)
    finish(store, b, 3, **left)
    assert pace([a, b, c], store, here).seconds == pytest.approx(3)


def test_selector_in_a_file_of_its_own_is_named_until_one_has_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    mine = replace(toy(tmp_path, "mine"), target="icon_repro.methods.external:run")
    assert pace([mine], store, CLUSTER).unknown == [mine]


def test_steps_without_operations_count_with_their_seconds(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    made = steps(tmp_path, "selecting", 0, 0, 0)
    finish(store, made[0], 2)
    assert pace(made, store, CLUSTER).seconds == pytest.approx(4)


def test_nothing_to_do_says_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    (step,) = steps(tmp_path, "training", 1e12)
    finish(store, step, 2)
    assert told(pace([step], store, CLUSTER)) == []


def test_record_that_isnt_one_measures_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    damaged, done, missing = steps(tmp_path, "training", 1e12, 1e12, 1e12)
    finish(store, damaged, 2)
    finish(store, done, 5)
    (store.path(damaged) / "record.json").write_text("{}", encoding="utf-8")
    assert pace([damaged, done, missing], store, CLUSTER).seconds == pytest.approx(5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.042, "0.042 s"), (44.6, "45 s"), (60, "1 min"), (5 * 3600 + 400, "5.1 h"), (4e6, "1100 h")]
)
def test_spelled(seconds: float, text: str) -> None:
    assert spelled(seconds) == text
