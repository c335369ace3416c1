"""What missing steps may take, against sums by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from toy_stages import toy

from icon_repro.config import ClusterConfig
from icon_repro.engine.artifact import Cost, Step, Store
from icon_repro.engine.pace import Pace, pace, spelled, told
from icon_repro.records import write_json

HERE = {"device": "cpu", "threads": 2, "processes": 1}
CLUSTER = ClusterConfig(device="cpu", threads=2)


def steps(folder: Path, kind: str, *flops: float) -> list[Step]:
    made = [toy(folder, f"{kind}{place}", target=f"toy_stages:{kind}") for place in range(len(flops))]
    return [replace(step, cost=Cost(tokens=1, flops=one)) for step, one in zip(made, flops, strict=True)]


def finish(store: Store, step: Step, seconds: float, **cluster: object) -> None:
    folder = store.path(step)
    folder.mkdir(parents=True)
    record = {"format": 1, "files": {}, "wall_s": seconds, "cluster": {**HERE, **cluster}}
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
    assert told(found)[0].endswith("; not in it, as none of their kind is finished: 2 of toy")


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
