"""The whole of the smallest experiment: once through, again, with a failing method, and killed on the way."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli import Done, command, environment, icon_repro

from icon_repro.engine.artifact import verify
from icon_repro.engine.records import read_json

COMMAND = ["experiment=smoke_tiny", "judge=none", "cluster.device=cpu", "cluster.threads=1"]
CANARY = "canary0123456789canary0123456789canary01"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder in which the experiment has been run once, each step in a process of its own; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, icon_repro(folder, *COMMAND, "cluster.executor=process")


@pytest.fixture(scope="module")
def broken(finished: tuple[Path, Done], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A copy of the finished folder without what icon and the tables wrote, in which icon has then failed."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(finished[0] / "work", folder / "work", symlinks=True)
    for root in (folder / "work", folder / "work" / ".attempts"):
        for made in root.glob("*/icon*"):
            shutil.rmtree(made)
    # the model has 4096 positions
    return folder, icon_repro(
        folder, *COMMAND, f"methods.icon.separator={'x' * 5000}", f"paths.results={folder}/failed"
    )


def steps(finished: tuple[Path, Done]) -> int:
    """Number of steps of the experiment."""
    return len(records(finished[0]))


def records(folder: Path) -> dict[str, int]:
    """Published step -> time of its record."""
    found = (folder / "work").glob("*/*/record.json")
    return {path.parent.relative_to(folder / "work").as_posix(): path.stat().st_mtime_ns for path in found}


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    methods = dict.fromkeys(line["method"] for line in lines)
    return {name: {one["measure"]: one["value"] for one in lines if one["method"] == name} for name in methods}


def results(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "results" / "smoke_tiny").iterdir() if p.is_file()}


def matrices(folder: Path) -> dict[str, bytes]:
    """Everything that scoring with icon wrote."""
    paths = [path for kind in ("npy", "jsonl") for path in (folder / "work" / "score").glob(f"icon*/*.{kind}")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def left_over(folder: Path) -> list[Path]:
    patterns = ("*.part", ".trash-*", "claim*", "*.tmp")
    return [path for pattern in patterns for path in (folder / "work").rglob(pattern)]


def test_first_run_builds_all_and_writes_the_table(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert done.code == 0, done.out + done.error
    assert f"{steps(finished)} built, 0 cached, 0 failed, 0 blocked" in done.out
    tables = {f"{name}.{kind}" for name in ("table", "verdicts", "contamination") for kind in ("md", "csv", "tex")}
    shown = results(folder)
    frames = ("selections.parquet", "scores.parquet")
    assert set(shown) == {*tables, "metrics.jsonl", "run.json", "samples.jsonl", "index.html", *frames}
    rows = table(folder / "results" / "smoke_tiny")
    assert list(rows) == ["base", "full", "random", "longest", "icon"]
    text = b"".join(shown[name] for name in shown if name not in ("index.html", "samples.jsonl", *frames)).decode()
    assert "missing" not in text.replace('"missing": {}', "")
    assert [rows[method].get("rows") for method in rows] == [None, "24", "6", "6", "6"]
    for method, row in rows.items():
        assert 0 <= float(row["tiny"]) <= 100
        assert (float(row["selection tokens"]) > 0) == (method == "icon")
        assert (float(row["tokens tuned on"]) > 0) == (method != "base")
    assert left_over(folder) == []
    for step in records(folder):
        verify(folder / "work" / step)
    for word in (str(folder), socket.gethostname(), str(Path.home())):
        assert f'"{word}' not in text and f"{word}/" not in text


def test_first_run_scores_every_candidate_once(finished: tuple[Path, Done]) -> None:
    score = finished[0] / "work" / "score"
    (scores,) = list(score.glob("icon-*/scores.jsonl"))
    found = [json.loads(line) for line in scores.read_text().splitlines()]
    (candidates,) = (finished[0] / "work" / "prepare").glob("candidates-*/rows.jsonl")
    ids = [json.loads(line)["id"] for line in candidates.read_text().splitlines()]
    assert sorted(row["id"] for row in found) == sorted(ids) and len(set(ids)) == 24
    assert len({row["score"] for row in found}) == 24 and np.isfinite([row["score"] for row in found]).all()


def test_second_run_does_no_work(finished: tuple[Path, Done]) -> None:
    folder, _ = finished
    before, tables, kept = records(folder), results(folder), matrices(folder)
    done = icon_repro(folder, *COMMAND)
    assert done.code == 0 and f"0 built, {steps(finished)} cached, 0 failed, 0 blocked" in done.out
    assert done.cpu_s < 2 or icon_repro(folder, *COMMAND).cpu_s < 3  # a busy machine gives more than one chance
    assert (records(folder), results(folder), matrices(folder)) == (before, tables, kept)


def test_changed_value_is_named_by_plan(finished: tuple[Path, Done]) -> None:
    done = icon_repro(finished[0], *COMMAND, "action=plan", "plan=full", "training.learning_rate=1e-3")
    lines = {line.split()[1]: line for line in done.out.splitlines()}
    changed = "changed since the last build: params.train.learning_rate: 0.0002 -> 0.001"
    assert lines["train/icon-f0.25-s0"].startswith("missing ") and changed in lines["train/icon-f0.25-s0"]
    assert "changed since the last build: inputs.tuned: " in lines["evaluate/icon-f0.25-s0-tiny"]
    assert all(
        lines[label].startswith("cached ") for label in ("score/icon", "select/icon-f0.25", "evaluate/base-tiny")
    )
    assert f"{steps(finished)} steps: {steps(finished) - 8} cached, 8 to do" in done.out
    assert "\nwarning: results/smoke_tiny holds results of another configuration; 4 of 5 would be lost" in done.out
    assert "\n  training.learning_rate: 0.0002 -> 0.001" in done.out


def test_report_to_wandb_offline_keeps_the_key_out_of_all_files(finished: tuple[Path, Done], tmp_path: Path) -> None:
    folder, _ = finished
    homes = {name: str(tmp_path) for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    command = [*COMMAND, "action=report", "tracking=wandb", f"paths.results={tmp_path}"]
    for said in (" runs logged (offline); send them with: wandb sync", "W&B: nothing new (offline)"):
        done = icon_repro(folder, *command, WANDB_MODE="offline", WANDB_API_KEY=CANARY, **homes)
        assert done.code == 0 and said in done.out
        assert CANARY not in done.out + done.error
    logs = sorted((folder / "work" / ".wandb" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) > 15  # of scores, selections, trainings, evaluations and the report
    text = b"".join(log.read_bytes() for log in logs)
    for part in (b"smoke_tiny-select-icon-f0.25", b"ids.json", b"icon-0.25-0/tiny", b"train/loss", b"learning_rate"):
        assert part in text
    for path in [*folder.rglob("*"), *tmp_path.rglob("*")]:
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_failing_method_leaves_the_others_and_names_the_reason(
    finished: tuple[Path, Done], broken: tuple[Path, Done]
) -> None:
    folder, done = broken
    assert done.code == 1
    assert "failed: score/icon-shard-0000: TokenError" in done.out and "max_context_tokens" in done.out
    assert re.search(r"[34] failed, 4 blocked", done.out) and "Traceback" not in done.out + done.error
    assert {path.name for path in (folder / "failed" / "smoke_tiny").iterdir()} == {"incomplete"}
    assert "cells are missing" in done.out
    good = table(finished[0] / "results" / "smoke_tiny")
    found = table(folder / "failed" / "smoke_tiny" / "incomplete")
    assert list(found) == list(good)
    for method in ("base", "full", "random", "longest"):
        assert found[method] == good[method]
    assert {found["icon"][name] for name in ("rows", "tiny", "average", "selection tokens")} == {""}
    text = (folder / "failed" / "smoke_tiny" / "incomplete" / "table.md").read_text(encoding="utf-8")
    assert re.search(r"^- missing: icon/0\.25/0 tiny: score/icon-\S+ failed: TokenError: ", text, re.MULTILINE)


def shard_is_under_way(folder: Path, name: str) -> bool:
    notes = (folder / "work" / ".attempts" / "score").glob(f"{name}-*/attempt.json")
    return any(read_json(note)["outcome"] == "running" for note in notes)


def test_mended_and_killed_run_loses_one_shard_at_most_and_ends_with_the_same_bytes(
    finished: tuple[Path, Done], broken: tuple[Path, Done]
) -> None:
    folder, _ = broken
    killed = subprocess.Popen(
        command(*COMMAND), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not shard_is_under_way(folder, "icon-shard-0001"):
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    before = records(folder)
    assert [name for name in before if "icon-shard-0000" in name]
    assert not [name for name in before if "icon-shard-0001" in name], "it was over before it could be killed"
    assert left_over(folder)
    for _ in range(30):  # init needs a moment to reap the orphans
        status = icon_repro(folder, *COMMAND, "action=status")
        if "running" not in status.out:
            break
    assert "interrupted score/icon-shard-0001: " in status.out
    done = icon_repro(folder, *COMMAND)
    assert done.code == 0, done.out + done.error
    assert f"{steps(finished) - len(before)} built, {len(before)} cached, 0 failed, 0 blocked" in done.out
    after = records(folder)
    assert after.keys() == records(finished[0]).keys()
    assert all(after[name] == moment for name, moment in before.items())
    logs = {name: folder / "work" / ".attempts" / name / "log.txt" for name in sorted(after) if "icon-shard" in name}
    assert [log.read_text().count(": attempt by process") for log in logs.values()] == [1, 2, 1]
    assert not [path for path in left_over(folder) if any(name in path.as_posix() for name in after)]
    assert matrices(folder) == matrices(finished[0]) and len(matrices(folder)) > len(logs)
    good, found = results(finished[0]), results(folder)
    runs = [json.loads(files.pop("run.json")) for files in (good, found)]
    assert found == good
    assert {**runs[0], "git": None} == {**runs[1], "git": None}  # somebody may have committed between the two


def test_damaged_shard_is_built_again_alone_with_the_same_bytes(finished: tuple[Path, Done], tmp_path: Path) -> None:
    shutil.copytree(finished[0] / "work", tmp_path / "work", symlinks=True)
    before = records(tmp_path)
    (shard,) = [name for name in before if "/icon-shard-0001-" in name]
    (scores,) = [name for name in before if re.fullmatch(r"score/icon-[0-9a-f]{12}", name)]
    matrix = next((tmp_path / "work" / shard).glob("*.npy"))
    matrix.write_bytes(matrix.read_bytes()[:-8])
    shutil.rmtree(tmp_path / "work" / scores)
    done = icon_repro(tmp_path, *COMMAND)
    assert done.code == 0 and f"2 built, {steps(finished) - 2} cached" in done.out, done.out + done.error
    said = f"score/icon-shard-0001: altered since it was published ({matrix.name}); set aside and built again"
    assert said in done.out.splitlines()
    (aside,) = (tmp_path / "work" / "score").glob(".damaged-*")
    assert aside.name == f".damaged-{Path(shard).name}-1"
    shutil.rmtree(aside)
    after = records(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {shard, scores} and set(after) == set(before)
    assert matrices(tmp_path) == matrices(finished[0])


def test_ctrl_c_ends_a_run_with_one_line(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*COMMAND, "cluster.executor=process"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "work").glob("model/*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "stopped by SIGINT; the same command goes on from here"
