"""Finished steps that differ from their records: what is looked at, what may be gone, what it costs."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icon_repro.engine.artifact import ArtifactError, Step, Store, publish
from icon_repro.engine.records import read_json
from icon_repro.report import checksums as intact
from icon_repro.report.checksums import DRAWN, NEEDED, Intact


@dataclass(frozen=True)
class Params:
    name: str


def step(name: str, stage: str = "score") -> Step:
    return Step(stage, name, "none:run", 1, Params(name))


def published(store: Store, name: str, *files: str, stage: str = "score", size: int = 9) -> Step:
    made = step(name, stage)
    part = store.path(made).with_name(f"{name}.part")
    part.mkdir(parents=True)
    for file in files:
        (part / file).write_bytes(b"a" * size)
    publish(part, store.path(made), {"hashed": made.hashed})
    return made


def flip(path: Path, place: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("name", sorted(NEEDED | DRAWN))
@pytest.mark.parametrize("harm", ["flip", "cut", "grow"])
def test_damaged_names_a_file_that_is_read(store: Store, name: str, harm: str) -> None:
    made = published(store, "one", *NEEDED, *DRAWN)
    assert Intact(store).damaged(made) is None
    path = store.path(made) / name
    if harm == "flip":
        flip(path)
    else:
        path.write_bytes(b"a" * (8 if harm == "cut" else 10))
    assert Intact(store).damaged(made) == f"altered since it was published ({name})"
    with pytest.raises(ArtifactError, match=rf"one-{made.fingerprint}: altered.*\({name}\)(?s:.*)run again"):
        Intact(store).check([], [made])


def test_damaged_file_that_nothing_reads_doesnt_count(store: Store) -> None:
    made = published(store, "one", "log.jsonl", "scores.jsonl")
    (store.path(made) / "log.jsonl").unlink()
    assert Intact(store).damaged(made) is None


def test_gone_files_count_where_tables_read_them(store: Store) -> None:
    made = published(store, "one", "scores.jsonl", "candidate.npy")
    (store.path(made) / "candidate.npy").unlink()
    assert Intact(store).damaged(made) is None  # a run doesn't build it again for a figure
    Intact(store).check([made], [made])
    (store.path(made) / "scores.jsonl").unlink()
    assert Intact(store).damaged(made) == "file missing (scores.jsonl)"
    Intact(store).check([], [made])
    with pytest.raises(ArtifactError, match=r"file missing \(scores\.jsonl\)"):
        Intact(store).check([made], [made])


def test_check_names_all_damaged_steps_and_passes_over_unfinished_ones(store: Store) -> None:
    steps = [published(store, f"s{number:02}", "ids.json") for number in range(14)]
    for made in steps[:2]:
        flip(store.path(made) / "ids.json")
    with pytest.raises(ArtifactError) as raised:
        Intact(store).check([], [*steps, step("unfinished")])
    assert [made.folder in str(raised.value) for made in steps] == [True] * 2 + [False] * 12
    for made in steps:
        flip(store.path(made) / "record.json")  # a letter of "checksum"
    with pytest.raises(ArtifactError, match=r"\(record\.json\)(?s:.*)and 4 more"):
        Intact(store).check([], steps)


def test_large_file_is_hashed_once_and_again_when_touched(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = published(store, "one", "vectors.npy", "ids.json", size=2**20)
    monkeypatch.setattr("icon_repro.engine.hashes._SETTLED_NS", 0)  # else what was just written isn't remembered
    Intact(store).check([], [made])
    assert {Path(name).name for name in read_json(store.root / ".hashes.json")["value"]} == {"vectors.npy", "ids.json"}
    hashed: list[Path] = []
    monkeypatch.setattr("icon_repro.engine.hashes.file_sha256", hashed.append)
    assert Intact(store).damaged(made) is None and hashed == []
    monkeypatch.undo()
    flip(store.path(made) / "vectors.npy")
    assert Intact(store).damaged(made) == "altered since it was published (vectors.npy)"


def test_small_file_is_hashed_every_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = published(store, "one", "ids.json", "rows.jsonl")
    hashed: list[Any] = []
    right = intact.file_sha256
    monkeypatch.setattr(intact, "file_sha256", lambda path: hashed.append(path.name) or right(path))
    for _ in range(2):
        Intact(store).check([], [made])
    assert sorted(hashed) == ["ids.json", "ids.json", "rows.jsonl", "rows.jsonl"]


def test_check_of_a_step_takes_under_5_ms(store: Store) -> None:
    steps = [published(store, f"s{number}", "items.json", stage="evaluate", size=4000) for number in range(200)]
    begun = time.process_time()
    Intact(store).check(steps, steps)
    assert (time.process_time() - begun) / len(steps) < 0.005
