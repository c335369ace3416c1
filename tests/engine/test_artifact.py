"""Fingerprints cover what changes results and nothing else; a published folder is complete or absent."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from icon_repro.engine.artifact import (
    ArtifactError,
    Cost,
    NewerFormatError,
    SourceFile,
    Step,
    Store,
    StoreError,
    altered,
    ancestors,
    damage,
    differences,
    file_sha256,
    manifest,
    ordered,
    publish,
    read_record,
    verify,
)
from icon_repro.engine.folders import clear_trash, discard, set_aside
from icon_repro.engine.records import read_json
from icon_repro.engine.schema import number, unhashed


@dataclass
class Params:
    text: str = "x"
    table: dict[str, int] = field(default_factory=dict)
    path: str = unhashed("")
    later: int = number(0, legacy=0)


def step(name: str = "n", **more: Any) -> Step:
    values: dict[str, Any] = {"stage": "toy", "target": "toy:run", "version": 1, "params": Params(), **more}
    return Step(name=name, **values)


BASE: dict[str, Any] = {"files": {"f": SourceFile("/a", "00")}, "extra": {"commit": "1"}, "inputs": {"i": step()}}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "other"},
        {"target": "toy:other"},
        {"version": 2},
        {"params": Params("y")},
        {"params": Params(table={"a": 1})},
        {"params": Params(later=1)},
        {"inputs": {"i": step(version=2)}},
        {"inputs": {"i": step(inputs={"deep": step(version=2)})}},
        {"inputs": {"j": step()}},
        {"inputs": {}},
        {"files": {"f": SourceFile("/a", "01")}},
        {"extra": {"commit": "2"}},
        {"extra": {}},
    ],
    ids=str,
)
def test_fingerprint_hashed_change_gives_another(change: dict[str, Any]) -> None:
    assert step(**{**BASE, **change}).fingerprint != step(**BASE).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"params": Params(path="/elsewhere")},
        {"params": Params(later=0)},
        {"inputs": {"i": step("other", cost=Cost(5, 5))}},
        {"files": {"f": SourceFile("/b", "00")}},
        {"cost": Cost(1, 2)},
        {"resumable": True},
    ],
    ids=str,
)
def test_fingerprint_unhashed_change_gives_the_same(change: dict[str, Any]) -> None:
    assert step(**{**BASE, **change}).fingerprint == step(**BASE).fingerprint


def test_fingerprint_doesnt_depend_on_order_of_keys() -> None:
    first = step(params=Params(table={"a": 1, "ü": 2}), inputs={"i": step(), "j": step(version=2)})
    second = step(params=Params(table={"ü": 2, "a": 1}), inputs={"j": step(version=2), "i": step()})
    assert first.fingerprint == second.fingerprint


def test_fingerprint_of_known_step_is_stable() -> None:
    # this text is what stored results were named by: another one makes all of them invalid
    text = (
        '{"extra": {}, "files": {}, "inputs": {}, "params": {"table": {}, "text": "x"}, '
        '"stage": "toy", "target": "toy:run", "version": 1}'
    )
    assert step().fingerprint == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_ordered_puts_inputs_first_and_each_step_once() -> None:
    a = step("a")
    b, c = step("b", inputs={"x": a}), step("c", inputs={"x": a, "y": step("a")})
    d = step("d", inputs={"b": b, "c": c})
    found = ordered([d, c, step("a")])
    assert [s.name for s in found] == ["a", "b", "c", "d"]
    assert [s.name for s in ancestors(d)] == ["a", "b", "c"]


def test_ordered_same_name_with_other_params_are_two_steps() -> None:
    assert len(ordered([step("a"), step("a", version=2)])) == 2


def made(folder: Path, text: str = "content") -> Path:
    """An unpublished folder with a file and a nested one."""
    (folder / "nested").mkdir(parents=True)
    (folder / "file.txt").write_text(text)
    (folder / "nested" / "empty.txt").touch()
    return folder


def test_publish_leaves_complete_folder_with_manifest(tmp_path: Path) -> None:
    part, final = made(tmp_path / "x.part"), tmp_path / "x"
    assert publish(part, final, {"metrics": {"n": 1}})
    assert not part.exists()
    assert {p.name for p in final.iterdir()} == {"file.txt", "nested", "record.json"}
    record = read_record(final)
    assert record["metrics"] == {"n": 1}
    assert set(record["files"]) == {"file.txt", "nested/empty.txt"}
    assert record["files"]["file.txt"] == {"bytes": 7, "sha256": file_sha256(final / "file.txt")}
    verify(final)


def test_publish_failing_record_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    part, final = made(tmp_path / "x.part"), tmp_path / "x"
    with pytest.raises(TypeError):
        publish(part, final, {"metrics": object()})
    assert not final.exists() and not (part / "record.json").exists()
    assert publish(part, final, {})  # what was left can be published
    assert set(read_record(final)["files"]) == {"file.txt", "nested/empty.txt"}


def test_publish_second_publisher_keeps_the_first(tmp_path: Path) -> None:
    final = tmp_path / "x"
    assert publish(made(tmp_path / "x.1.part", "first"), final, {})
    assert not publish(made(tmp_path / "x.2.part", "second"), final, {})
    assert (final / "file.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_publish_foreign_folder_in_the_way_is_named_and_work_kept(tmp_path: Path) -> None:
    part, final = made(tmp_path / "x.part"), made(tmp_path / "x")
    with pytest.raises(ArtifactError, match="in the way"):
        publish(part, final, {})
    assert (part / "file.txt").is_file()


def test_verify_names_flipped_byte(tmp_path: Path) -> None:
    publish(made(tmp_path / "x.part"), tmp_path / "x", {})
    (tmp_path / "x" / "file.txt").write_text("cXntent")
    with pytest.raises(ArtifactError, match=r"file\.txt"):
        verify(tmp_path / "x")


def test_verify_names_missing_file(tmp_path: Path) -> None:
    publish(made(tmp_path / "x.part"), tmp_path / "x", {})
    (tmp_path / "x" / "nested" / "empty.txt").unlink()
    with pytest.raises(ArtifactError, match=r"empty\.txt"):
        verify(tmp_path / "x")


def cut(folder: Path) -> None:
    (folder / "file.txt").write_text("cont")


def flip(folder: Path) -> None:
    (folder / "file.txt").write_text("cXntent")


def remove(folder: Path) -> None:
    (folder / "nested" / "empty.txt").unlink()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder / "nested")


def change_record(folder: Path) -> None:
    path = folder / "record.json"
    path.write_text(path.read_text().replace('"n": 1', '"n": 3'))


def cut_record(folder: Path) -> None:
    (folder / "record.json").write_text((folder / "record.json").read_text()[:20])


def remove_record(folder: Path) -> None:
    (folder / "record.json").unlink()


@pytest.mark.parametrize(
    "harm, parts",
    [
        (cut, ["altered", "file.txt"]),
        (flip, ["altered", "file.txt"]),
        (remove, ["missing", "nested/empty.txt"]),
        (remove_folder, ["missing", "nested/empty.txt"]),
        (cut_record, ["altered", "record.json"]),
        (change_record, ["altered", "record.json"]),
        (remove_record, ["missing", "record.json"]),
        (shutil.rmtree, ["isn't there"]),
    ],
)
def test_damage_of_each_kind_is_named(tmp_path: Path, harm: Callable[[Path], None], parts: list[str]) -> None:
    final = tmp_path / "x"
    publish(made(tmp_path / "x.part"), final, {"metrics": {"n": 1}})
    assert damage(final) is None
    (final / "added.txt").touch()  # no file that anybody reads
    assert damage(final) is None
    harm(final)
    found = damage(final)
    assert found and all(part in found for part in parts)


def test_damage_of_any_byte_of_a_record_is_seen(tmp_path: Path) -> None:
    publish(made(tmp_path / "x.part"), tmp_path / "x", {"metrics": {"n": 1}})
    path = tmp_path / "x" / "record.json"
    data, value = path.read_bytes(), read_json(path)
    for place in range(0, 8 * len(data), 5):  # a bit or two of each byte
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            same = json.loads(flipped) == value
        except ValueError:
            same = False
        assert same == (damage(tmp_path / "x") is None), bytes(flipped)


def test_record_without_a_checksum_is_believed(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"format": 1, "files": {}, "metrics": {"n": 1}}')
    assert read_record(tmp_path)["metrics"] == {"n": 1}


def test_damage_contents_are_read_up_to_a_number_of_bytes_and_sizes_always(tmp_path: Path) -> None:
    part, final = made(tmp_path / "x.part"), tmp_path / "x"
    (part / "weights").write_text("w" * 100)
    publish(part, final, {})
    (final / "weights").write_text("W" * 100)
    assert damage(final, hashed_bytes=106) is None
    assert damage(final, hashed_bytes=107) == "altered since it was published (weights)"
    (final / "weights").write_text("w" * 99)
    assert damage(final, hashed_bytes=0) == "altered since it was published (weights)"
    (final / "weights").write_text("w" * 100)
    flip(final)  # the smaller file is read although both together are too much
    assert damage(final, hashed_bytes=50) == "altered since it was published (file.txt)"


def test_damage_of_some_files_only(tmp_path: Path) -> None:
    publish(made(tmp_path / "x.part"), tmp_path / "x", {"metrics": {"n": 1}})
    flip(tmp_path / "x")
    assert damage(tmp_path / "x", only={"nested/empty.txt", "of-no-step"}) is None
    assert damage(tmp_path / "x", only={"file.txt"}) == "altered since it was published (file.txt)"
    change_record(tmp_path / "x")
    assert damage(tmp_path / "x", only=set()) == "altered since it was published (record.json)"


def test_manifest_hashes_what_altered_compares(tmp_path: Path) -> None:
    folder = made(tmp_path / "x")
    (folder / "weights").write_text("w" * 100)
    (folder / "a_weights").write_text("w" * 100)
    files = manifest(folder, 107)  # the smaller ones and one of the two
    assert [name for name in sorted(files) if files[name]["sha256"]] == ["a_weights", "file.txt", "nested/empty.txt"]
    assert altered(folder, files, 107) is None
    (folder / "weights").write_text("W" * 100)
    assert altered(folder, files, 107) is None
    (folder / "a_weights").write_text("W" * 100)
    assert altered(folder, files, 107) == "altered since it was published (a_weights)"
    assert altered(folder, manifest(folder)) is None


def test_read_record_changed_number_is_refused_and_one_without_checksum_believed(tmp_path: Path) -> None:
    publish(made(tmp_path / "x.part"), tmp_path / "x", {"metrics": {"n": 1}})
    change_record(tmp_path / "x")
    with pytest.raises(ArtifactError, match=r"record\.json: altered since it was published.*run again"):
        read_record(tmp_path / "x")
    path = tmp_path / "x" / "record.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "checksum"})
    )
    assert read_record(tmp_path / "x")["metrics"] == {"n": 3}


def test_discard_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    made(tmp_path / "x")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            discard(tmp_path / "x")
    made(tmp_path / "y")
    clear_trash(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b").check_writable()
    Store(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StoreError, match="No such file"):
        Store(tmp_path / "link").check_writable()


def test_check_writable_names_paths_work_and_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=rf"paths\.work={tmp_path}/file/work: can't be written .*Not a directory"):
        Store(tmp_path / "file" / "work").check_writable()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)  # root may write anywhere
    with pytest.raises(StoreError, match=r"Permission denied.*Set paths\.work to another folder"):
        Store(tmp_path / "work").check_writable()


def test_damage_of_a_newer_format_isnt_judged(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"format": 99, "files": {}}')
    with pytest.raises(NewerFormatError, match="99"):
        damage(tmp_path)


def test_set_aside_keeps_each_under_a_name_that_isnt_a_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = step("n")
    for count in (1, 2):
        published(store, one)
        kept = set_aside(store.path(one))
        assert kept == tmp_path / "toy" / f".damaged-n-{one.fingerprint}-{count}"
        assert (kept / "record.json").is_file() and not store.path(one).exists()
    assert store.latest(step("n", version=2)) is None and store.latest(step(".damaged-n")) is None


@pytest.mark.parametrize("record, reason", [('{"format": 99, "files": {}}', "99"), ("[]", "record"), ("{}", "record")])
def test_read_record_newer_or_foreign_is_refused(tmp_path: Path, record: str, reason: str) -> None:
    (tmp_path / "record.json").write_text(record)
    with pytest.raises(ArtifactError, match=reason):
        read_record(tmp_path)


def published(store: Store, one: Step, age_s: float = 0.0) -> None:
    part = store.path(one).with_name("x.part")
    part.mkdir(parents=True)
    publish(part, store.path(one), {"hashed": one.hashed})
    then = time.time() - age_s
    os.utime(store.path(one) / "record.json", (then, then))


def test_latest_is_the_newest_of_the_same_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    new = step("n", version=9)
    assert store.latest(new) is None
    published(store, step("n", version=2), age_s=10)
    published(store, step("n", version=3), age_s=5)
    published(store, step("n", version=1), age_s=20)
    published(store, step("n-s0", version=8))
    published(store, step("n.x", version=7))
    record = store.latest(new)
    assert record and differences(record["hashed"], new.hashed) == ["version: 3 -> 9"]
    published(store, step("n", version=4))  # the listing is renewed
    record = store.latest(new)
    assert record and record["hashed"]["version"] == 4


@pytest.mark.parametrize("name", ["a[0]", "a*", "a-b-0123456789ab", "?"])
def test_latest_name_with_special_characters_finds_itself_only(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    for other in ("a0", "ax", "a", "a-b", "b"):
        published(store, step(other, version=7))
    assert store.latest(step(name)) is None
    published(store, step(name, version=2))
    record = store.latest(step(name))
    assert record and record["hashed"]["version"] == 2


def test_latest_own_and_unfinished_folders_dont_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    published(store, step("n"))
    part = made(store.path(step("n", version=2)).with_name(store.path(step("n", version=2)).name + ".part"))
    (part / "record.json").write_text("{}")
    assert store.latest(step("n")) is None


def test_differences_are_dotted_keys_with_both_values() -> None:
    old = {"params": {"a": 1, "gone": [1]}, "same": {"x": 1}}
    new = {"params": {"a": 2, "new": None}, "same": {"x": 1}}
    assert differences(old, new) == ["params.a: 1 -> 2", "params.gone: [1] -> absent", "params.new: absent -> None"]
