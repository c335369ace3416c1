"""Running a plan: each step once, failures stay where they are, and a rerun takes up what is missing."""

import ast
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease
from toy_stages import diamond, toy

from icon_repro.engine.artifact import SourceFile, Step, Store, StoreError, damage, verify
from icon_repro.engine.options import ClusterConfig, Executor
from icon_repro.engine.records import read_json
from icon_repro.engine.run import Summary, git_state, run, status

HERE = Path(__file__).parent


@pytest.fixture(params=["process", "inline"])
def cluster(request: pytest.FixtureRequest) -> ClusterConfig:
    return ClusterConfig(device="cpu", executor=Executor(request.param))


@pytest.fixture
def process() -> ClusterConfig:
    return ClusterConfig(device="cpu")


def go(folder: Path, cluster: ClusterConfig, steps: Sequence[Step], lines: list[str] | None = None) -> Summary:
    say: Callable[[str], Any] = print if lines is None else lines.append
    return run(steps, Store(folder / "work"), cluster, folder / "cache", say)


def journal(folder: Path) -> list[str]:
    """Texts of the steps that ran, in order, from outside the store."""
    path = folder / "journal.txt"
    return [" ".join(line.split()[::2]) for line in path.read_text().splitlines()] if path.exists() else []


def shut(folder: Path, name: str) -> Path:
    gate = folder / f"gate-{name}"
    gate.touch()
    return gate


def names(labels: Sequence[str]) -> str:
    return "".join(sorted(label.removeprefix("toy/") for label in labels))


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def left_over(folder: Path) -> list[str]:
    """What a clean run leaves none of: unfinished folders, trash, claims, temporary files."""
    work = folder / "work"
    return [str(p) for pattern in ("*.part", ".trash-*", "claim*", "*.tmp", "spec*") for p in work.rglob(pattern)]


@contextlib.contextmanager
def driver(folder: Path, trouble: str) -> Iterator[subprocess.Popen[str]]:
    """A run of the toy plan in a process of its own."""
    command = [sys.executable, str(HERE / "toy_driver.py"), str(folder), trouble]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as started:
        try:
            yield started
        finally:
            started.kill()


def summary_of(started: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 0, output
    return dict(json.loads(output.splitlines()[-1]))


def test_run_builds_once_and_second_run_does_no_work(tmp_path: Path, cluster: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    store = Store(tmp_path / "work")
    first = go(tmp_path, cluster, steps)
    assert names(first.built) == "abcde" and not first.failed and not first.cached
    assert (store.path(steps[3]) / "text.txt").read_text() == "ab" + "ac" + "d"
    second = go(tmp_path, cluster, diamond(tmp_path))
    assert names(second.cached) == "abcde" and not second.built
    assert journal(tmp_path) == ["a", "b", "c", "d", "e"]
    assert left_over(tmp_path) == []
    for step in steps:
        verify(store.path(step))


def test_run_record_says_what_was_run(tmp_path: Path, process: ClusterConfig) -> None:
    a = toy(tmp_path, "a")
    b = toy(tmp_path, "b", a)
    go(tmp_path, process, [a, b])
    record = Store(tmp_path / "work").record(b)
    assert record["label"] == "toy/b" and record["fingerprint"] == b.fingerprint and record["hashed"] == b.hashed
    assert record["inputs"] == {"a": a.folder} and record["metrics"] == {"tokens": 12.0}
    assert record["packages"]["torch"] and record["python"] and record["host"] and "deepspeed" in record["packages"]


def test_run_changed_step_rebuilds_it_and_what_needs_it(tmp_path: Path, process: ClusterConfig) -> None:
    go(tmp_path, process, diamond(tmp_path))
    a = toy(tmp_path, "a")
    b, c = toy(tmp_path, "b", a, text="B"), toy(tmp_path, "c", a, resumable=True)
    d = toy(tmp_path, "d", b, c)
    store = Store(tmp_path / "work")
    assert "params.text: b -> B" in status(b, store).why
    assert "inputs.b" in status(d, store).why
    assert names(go(tmp_path, process, [a, b, c, d]).built) == "bd"


def test_run_failure_blocks_only_what_needs_it(tmp_path: Path, cluster: ClusterConfig) -> None:
    gate = shut(tmp_path, "b")
    steps = diamond(tmp_path)
    lines: list[str] = []
    summary = go(tmp_path, cluster, steps, lines)
    assert names(summary.built) == "ace" and summary.blocked == ["toy/d"]
    assert "ValueError: the gate is shut" in summary.failed["toy/b"]
    log = Store(tmp_path / "work").attempt(steps[1]) / "log.txt"
    (said,) = [line for line in lines if "FAILED" in line]
    assert "the gate is shut" in said and str(log) in said
    assert "Traceback" in log.read_text() and "ValueError: the gate is shut" in log.read_text()
    gate.unlink()
    again = go(tmp_path, cluster, steps)
    assert names(again.built) == "bd" and names(again.cached) == "ace"
    assert journal(tmp_path) == ["a", "b", "c", "e", "b", "d"]
    assert left_over(tmp_path) == []


def test_run_line_of_each_step_counts_up(tmp_path: Path, cluster: ClusterConfig) -> None:
    shut(tmp_path, "b")
    lines: list[str] = []
    go(tmp_path, cluster, diamond(tmp_path), lines)
    assert [line[1:4] for line in lines] == ["1/5", "2/5", "3/5", "4/5", "5/5"]


def test_run_stage_that_calls_exit_fails_with_its_message(tmp_path: Path, cluster: ClusterConfig) -> None:
    shut(tmp_path, "a")
    summary = go(tmp_path, cluster, diamond(tmp_path, "exit"))
    assert "left by exit" in summary.failed["toy/a"] and names(summary.built) == "e"


def test_run_process_that_leaves_without_result_is_a_failure(tmp_path: Path, process: ClusterConfig) -> None:
    shut(tmp_path, "a")
    summary = go(tmp_path, process, diamond(tmp_path, "leave"))
    assert "code 0" in summary.failed["toy/a"]
    assert names(summary.built) == "e" and names(summary.blocked) == "bcd"


def test_run_killed_child_is_reported_and_rerun_succeeds(tmp_path: Path, process: ClusterConfig) -> None:
    gates = [shut(tmp_path, "b"), shut(tmp_path, "c")]
    steps = diamond(tmp_path, "kill")
    store = Store(tmp_path / "work")
    summary = go(tmp_path, process, steps)
    assert set(summary.failed) == {"toy/b", "toy/c"} and names(summary.built) == "ae"
    assert "Killed" in summary.failed["toy/b"] and "memory" in summary.failed["toy/b"]
    assert "last words" in (store.attempt(steps[1]) / "log.txt").read_text()
    assert status(steps[1], store).state == "interrupted"
    (stale,) = [p for p in store.path(steps[1]).parent.iterdir() if p.name.startswith("b-")]
    for gate in gates:
        gate.unlink()
    again = go(tmp_path, process, steps)
    assert names(again.built) == "bcd"
    assert not stale.exists()
    # only the resumable step sees what its killed attempt left
    assert journal(tmp_path)[-3:] == ["b", "c resumed", "d"]
    assert left_over(tmp_path) == []


def test_run_missing_input_outside_the_plan_fails(tmp_path: Path, cluster: ClusterConfig) -> None:
    summary = go(tmp_path, cluster, diamond(tmp_path)[3:4])
    assert "input 'b' isn't there" in summary.failed["toy/d"]


def test_run_changed_source_file_is_refused(tmp_path: Path, cluster: ClusterConfig) -> None:
    path = tmp_path / "source.jsonl"
    path.write_text("{}")
    planned = toy(tmp_path, "a")
    step = Step("toy", "a", planned.target, 1, planned.params, files={"source": SourceFile(str(path), "0" * 64)})
    summary = go(tmp_path, cluster, [step])
    assert str(path) in summary.failed["toy/a"] and "changed" in summary.failed["toy/a"]


@pytest.mark.parametrize("target", ["toy_broken:run", "toy_absent:run", "toy_stages:absent"])
def test_run_stage_that_cant_be_imported_fails_alone(
    tmp_path: Path, cluster: ClusterConfig, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_broken.py").write_text("raise RuntimeError('broken library')")
    monkeypatch.syspath_prepend(tmp_path)
    summary = go(tmp_path, cluster, [toy(tmp_path, "a", target=target), toy(tmp_path, "b")])
    assert names(summary.built) == "b"
    assert ("broken library" if "broken" in target else "absent") in summary.failed["toy/a"]


def test_run_stage_that_breaks_the_fork_server_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "toy_broken.py").write_text("raise RuntimeError('broken library')")
    code = f"""
from pathlib import Path
from toy_stages import toy
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.artifact import Store
from icon_repro.engine.run import run
folder = Path({str(tmp_path)!r})
steps = [toy(folder, "a", target="toy_broken:run"), toy(folder, "b")]
print(run(steps, Store(folder / "work"), ClusterConfig(device="cpu"), folder, print))
"""
    paths = os.pathsep.join(map(str, (tmp_path, HERE, HERE.parents[1])))  # so that the fork server can import it too
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "built=['toy/b']" in done.stdout and "'toy/a': 'RuntimeError: broken library'" in done.stdout, done


def test_run_what_several_steps_import_late_is_imported_once(tmp_path: Path) -> None:
    (tmp_path / "toy_heavy.py").write_text("import os\nPID = os.getpid()\n")
    body = "import os\n\ndef run(params: object, inputs, out, runtime):\n    import toy_heavy\n"
    body += "    return {'imported_by': toy_heavy.PID, 'own': os.getpid()}\n"
    (tmp_path / "toy_late.py").write_text(body)
    code = f"""
from pathlib import Path
from toy_stages import toy
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.artifact import Store
from icon_repro.engine.run import run
import sys
folder, store = Path({str(tmp_path)!r}), Store(Path({str(tmp_path)!r}) / "work")
steps = [toy(folder, name, target="toy_late:run") for name in "abc"[: int(sys.argv[1])]]
run(steps, store, ClusterConfig(device="cpu"), folder, lambda line: None)
print([store.record(step)["metrics"] for step in steps], "toy_heavy" in sys.modules)
"""
    paths = os.pathsep.join(map(str, (tmp_path, HERE, HERE.parents[1])))
    environment = {**os.environ, "PYTHONPATH": paths}
    for count in ("3", "1"):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        done = subprocess.run([sys.executable, "-c", code, count], capture_output=True, text=True, env=environment)
        metrics = ast.literal_eval(done.stdout.rpartition(" ")[0])
        assert done.stdout.rstrip().endswith("False") and len(metrics) == int(count), done
        shared = {one["imported_by"] for one in metrics} - {one["own"] for one in metrics}
        assert len(shared) == (1 if count == "3" else 0)  # one step alone may not need it


def test_run_store_that_cant_be_written_is_refused_at_once(tmp_path: Path, cluster: ClusterConfig) -> None:
    (tmp_path / "work").write_text("a file")
    with pytest.raises(StoreError, match=rf"paths\.work={tmp_path}/work: can't be written"):
        go(tmp_path, cluster, [toy(tmp_path, "a"), toy(tmp_path, "b")])
    assert journal(tmp_path) == []


def test_run_output_of_all_kinds_is_in_the_log(
    tmp_path: Path, process: ClusterConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    shut(tmp_path, "a")
    step = toy(tmp_path, "a", trouble="talk")
    go(tmp_path, process, [step], [])
    log = (Store(tmp_path / "work").attempt(step) / "log.txt").read_text()
    for kind in ("print", "descriptor 1", "descriptor 2", "a child"):
        assert f"said by {kind}\n" in log
    assert "said by" not in "".join(capfd.readouterr())


def test_run_killed_driver_takes_its_child_along_and_rerun_finishes(tmp_path: Path, process: ClusterConfig) -> None:
    gate = shut(tmp_path, "c")
    steps = diamond(tmp_path, "wait")
    store = Store(tmp_path / "work")
    with driver(tmp_path, "wait") as started:
        until(lambda: "c" in journal(tmp_path))
        assert status(steps[2], store).state == "running"
        child = int((tmp_path / "journal.txt").read_text().split()[-1])
        started.kill()
        started.wait()
        until(lambda: not runs(child))
    until(lambda: status(steps[2], store).state == "interrupted")  # once the fork server has reaped it
    gate.unlink()
    again = go(tmp_path, process, steps)
    assert names(again.built) == "cde" and names(again.cached) == "ab"
    assert journal(tmp_path) == ["a", "b", "c", "c resumed", "d", "e"]
    assert left_over(tmp_path) == []


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_run_two_drivers_at_once_build_each_step_once(tmp_path: Path) -> None:
    for name in "abcde":
        shut(tmp_path, name)
    with driver(tmp_path, "pause") as one, driver(tmp_path, "pause") as two:
        first, second = summary_of(one), summary_of(two)
    assert sorted(journal(tmp_path)) == ["a", "b", "c", "d", "e"]
    assert names([*first["built"], *second["built"]]) == "abcde"
    for found in (first, second):
        assert names([*found["built"], *found["cached"]]) == "abcde"
        assert not found["failed"] and not found["blocked"]
    assert left_over(tmp_path) == []


def test_run_busy_step_is_waited_for_and_used(tmp_path: Path, process: ClusterConfig) -> None:
    gate = shut(tmp_path, "a")
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            gate.unlink()  # the other one goes on only now

    steps = diamond(tmp_path, "wait")[:2]
    with driver(tmp_path, "wait") as started:
        until(lambda: "a" in journal(tmp_path))
        # without b: the other driver may or may not be first there
        summary = run([steps[0]], Store(tmp_path / "work"), process, tmp_path, say)
        other = summary_of(started)
    assert summary.cached == ["toy/a"] and not summary.built and "toy/a" in other["built"]
    assert journal(tmp_path).count("a") == 1
    assert any("waiting" in line for line in lines)


@pytest.mark.parametrize("lease_s", [4.0, 600.0])
def test_run_claim_of_dead_process_on_another_host_is_taken_after_its_lease(tmp_path: Path, lease_s: float) -> None:
    cluster = ClusterConfig(device="cpu", lease_s=lease_s, executor=Executor.inline)
    step = toy(tmp_path, "a")
    store = Store(tmp_path / "work")
    attempt = store.attempt(step)
    attempt.mkdir(parents=True)
    claim = attempt / "claim"
    lease = SoftFileLease(claim, lease_duration=4.0)
    lease.acquire()
    marker = claim.read_text()
    lease.release()
    assert socket.gethostname() in marker
    claim.write_text(marker.replace(socket.gethostname(), "elsewhere"))
    note = {"host": "elsewhere", "pid": 1, "outcome": "running", "error": None, "lease_s": 4.0}
    (attempt / "attempt.json").write_text(json.dumps(note))
    assert status(step, store).state == "running"
    lines: list[str] = []
    summary = go(tmp_path, cluster, [step], lines)
    assert summary.built == ["toy/a"] and "waiting" in lines[0]


def test_run_claim_of_a_live_process_with_another_lease_is_waited_for(tmp_path: Path, cluster: ClusterConfig) -> None:
    step = toy(tmp_path, "a")
    attempt = Store(tmp_path / "work").attempt(step)
    attempt.mkdir(parents=True)
    lease = SoftFileLease(attempt / "claim", lease_duration=cluster.lease_s + 1)
    lease.acquire()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            lease.release()

    summary = run([step], Store(tmp_path / "work"), cluster, tmp_path, say)
    assert summary.built == ["toy/a"] and not summary.failed
    assert any("waiting" in line for line in lines)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def cut_record(path: Path) -> None:
    record = path.with_name("record.json")
    record.write_bytes(record.read_bytes()[:100])


def remove_record(path: Path) -> None:
    path.with_name("record.json").unlink()


def set_aside(folder: Path) -> list[Path]:
    return sorted((folder / "work").glob("*/.damaged-*"))


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink, cut_record])
def test_run_damaged_input_is_set_aside_and_only_it_is_built_again(
    tmp_path: Path, cluster: ClusterConfig, harm: Callable[[Path], None]
) -> None:
    steps = diamond(tmp_path)
    a, b, c, d, _ = steps
    store = Store(tmp_path / "work")
    go(tmp_path, cluster, steps)
    shutil.rmtree(store.path(d))
    text = store.path(b) / "text.txt"
    harm(text)
    kept = text.read_bytes() if text.exists() else None
    lines: list[str] = []
    summary = go(tmp_path, cluster, steps, lines)
    assert names(summary.built) == "bd" and names(summary.cached) == "ace"
    assert not summary.failed and not summary.blocked
    assert journal(tmp_path)[5:] == ["b", "d"]
    assert (store.path(d) / "text.txt").read_text() == "abacd"
    (aside,) = set_aside(tmp_path)
    assert aside.name == f".damaged-b-{b.fingerprint}-1"
    assert ((aside / "text.txt").read_bytes() if kept is not None else None) == kept
    file = "record.json" if harm is cut_record else "text.txt"
    (said,) = [line for line in lines if "set aside" in line]
    assert said.startswith("toy/b: ") and f"({file})" in said and "built again" in said and "\n" not in said
    for step in (a, b, c, d):
        verify(store.path(step))
    assert left_over(tmp_path) == []
    assert names(go(tmp_path, cluster, steps).cached) == "abcde"


def test_run_damaged_inputs_of_damaged_inputs_are_built_again(tmp_path: Path, cluster: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    a, b, c, d, _ = steps
    store = Store(tmp_path / "work")
    go(tmp_path, cluster, steps)
    shutil.rmtree(store.path(d))
    for step in (a, b, c):
        flip(store.path(step) / "text.txt")
    summary = go(tmp_path, cluster, steps)
    assert names(summary.built) == "abcd" and summary.cached == ["toy/e"]
    assert (store.path(d) / "text.txt").read_text() == "abacd"
    assert len(set_aside(tmp_path)) == 3


def test_run_folder_that_lost_its_record_is_set_aside(tmp_path: Path, cluster: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    go(tmp_path, cluster, steps)
    store = Store(tmp_path / "work")
    remove_record(store.path(steps[0]) / "text.txt")
    summary = go(tmp_path, cluster, steps)
    assert names(summary.built) == "a" and names(summary.cached) == "bcde"
    (aside,) = set_aside(tmp_path)
    assert (aside / "text.txt").read_text() == "a"


def test_run_cached_result_of_a_damaged_input_stays(tmp_path: Path, cluster: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    a, b, *_ = steps
    store = Store(tmp_path / "work")
    go(tmp_path, cluster, steps)
    flip(store.path(a) / "text.txt")
    assert names(go(tmp_path, cluster, steps).cached) == "abcde"
    shutil.rmtree(store.path(b))
    summary = go(tmp_path, cluster, steps)
    assert names(summary.built) == "ab" and names(summary.cached) == "cde"
    assert journal(tmp_path)[5:] == ["a", "b"]


def test_run_damaged_result_that_the_caller_looks_at_is_built_again(tmp_path: Path, cluster: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    store = Store(tmp_path / "work")
    go(tmp_path, cluster, steps)
    flip(store.path(steps[3]) / "text.txt")
    lines: list[str] = []
    summary = run(steps, store, cluster, tmp_path, lines.append, lambda step: damage(store.path(step)))
    assert names(summary.built) == "d" and names(summary.cached) == "abce"
    assert lines[0] == "toy/d: altered since it was published (text.txt); set aside and built again"
    assert len(set_aside(tmp_path)) == 1
    verify(store.path(steps[3]))


def test_run_damaged_result_of_another_step_alone_is_looked_at(tmp_path: Path, process: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    store = Store(tmp_path / "work")
    go(tmp_path, process, steps)
    looked: list[str] = []

    def check(step: Step) -> str | None:
        looked.append(step.name)
        return None

    shutil.rmtree(store.path(steps[1]))
    assert names(run(steps, store, process, tmp_path, print, check).built) == "b"
    assert looked == ["a", "c", "d", "e"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "h"}'])
def test_run_note_of_an_attempt_that_cant_be_read_is_written_anew(
    tmp_path: Path, cluster: ClusterConfig, text: str
) -> None:
    store, step = Store(tmp_path / "work"), toy(tmp_path, "a")
    note = store.attempt(step) / "attempt.json"
    note.parent.mkdir(parents=True)
    note.write_text(text)
    assert status(step, store).state == "missing"
    assert go(tmp_path, cluster, [step]).built == ["toy/a"]
    assert read_json(note)["outcome"] == "built"


def test_run_damaged_input_outside_the_plan_is_named_and_left(tmp_path: Path, cluster: ClusterConfig) -> None:
    a, b, *_ = diamond(tmp_path)
    store = Store(tmp_path / "work")
    go(tmp_path, cluster, [a])
    flip(store.path(a) / "text.txt")
    summary = go(tmp_path, cluster, [b])
    assert "input 'a' is damaged" in summary.failed["toy/b"] and "text.txt" in summary.failed["toy/b"]
    assert str(store.path(a)) in summary.failed["toy/b"] and status(b, store).state == "failed"
    assert set_aside(tmp_path) == []
    assert names(go(tmp_path, cluster, [a, b]).built) == "ab"


def test_run_input_damaged_twice_in_a_run_is_a_failure(tmp_path: Path, cluster: ClusterConfig) -> None:
    steps = diamond(tmp_path)
    store = Store(tmp_path / "work")
    text = store.path(steps[0]) / "text.txt"

    def say(line: str) -> None:
        if "] toy/a: " in line:
            flip(text)

    summary = run(steps, store, cluster, tmp_path, say)
    assert "input 'a' is damaged" in summary.failed["toy/b"] and "built again in this run" in summary.failed["toy/b"]
    assert names([*summary.failed, *summary.blocked]) == "bcd" and names(summary.built) == "ae"
    assert sorted(journal(tmp_path)) == ["a", "a", "e"]
    assert len(set_aside(tmp_path)) == 1
    assert names(go(tmp_path, cluster, steps).built) == "abcd"
    assert len(set_aside(tmp_path)) == 2


def test_run_two_drivers_and_a_damaged_input_build_it_again_once(tmp_path: Path, process: ClusterConfig) -> None:
    for name in "abcde":
        shut(tmp_path, name)
    store = Store(tmp_path / "work")
    plan = diamond(tmp_path, "pause")
    go(tmp_path, process, plan)
    for step in plan[1:]:
        shutil.rmtree(store.path(step))
    flip(store.path(plan[0]) / "text.txt")
    with driver(tmp_path, "pause") as one, driver(tmp_path, "pause") as two:
        first, second = summary_of(one), summary_of(two)
    assert journal(tmp_path)[:5] == ["a", "b", "c", "d", "e"]
    assert sorted(journal(tmp_path)[5:]) == ["a", "b", "c", "d", "e"]
    for found in (first, second):
        assert names([*found["built"], *found["cached"]]) == "abcde"
        assert not found["failed"] and not found["blocked"]
    assert len(set_aside(tmp_path)) == 1
    assert (store.path(plan[3]) / "text.txt").read_text() == "abacd"
    assert left_over(tmp_path) == []


def test_status_of_each_state(tmp_path: Path, process: ClusterConfig) -> None:
    store = Store(tmp_path / "work")
    step = toy(tmp_path, "a")
    assert status(step, store).state == "missing"
    gate = shut(tmp_path, "a")
    go(tmp_path, process, [step])
    failed = status(step, store)
    assert (failed.state, failed.why) == ("failed", "ValueError: the gate is shut")
    assert Path(failed.log).is_file()
    with driver(tmp_path, "wait") as started:
        until(lambda: journal(tmp_path).count("a") == 2)
        running = status(step, store)
        assert running.state == "running" and socket.gethostname() in running.why
        started.kill()
        started.wait()
        until(lambda: status(step, store).state != "running")
    assert status(step, store).state == "interrupted"
    gate.unlink()
    go(tmp_path, process, [step])
    assert status(step, store).state == "cached"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB at <tmp_path>/work."""
    folder = tmp_path / "work"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small file system is needed, and there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a small file system can't be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("trouble", ["fill_disk", "write_much"])
def test_run_full_disk_is_named_and_rerun_succeeds(
    tmp_path: Path, small_disk: Path, cluster: ClusterConfig, trouble: str
) -> None:
    gate = shut(tmp_path, "b")
    steps = [toy(tmp_path, "a"), toy(tmp_path, "b", trouble=trouble)]
    store = Store(small_disk)
    summary = go(tmp_path, cluster, steps)
    assert names(summary.built) == "a"
    assert "OSError" in summary.failed["toy/b"] and "No space left" in summary.failed["toy/b"]
    assert not store.path(steps[1]).exists()
    assert status(steps[1], store).state in ("failed", "interrupted")
    verify(store.path(steps[0]))
    gate.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert names(go(tmp_path, cluster, steps).built) == "b"
    verify(store.path(steps[1]))
    assert left_over(tmp_path) == []


def test_run_error_on_a_full_disk_that_doesnt_say_so_is_explained(
    tmp_path: Path, cluster: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut(tmp_path, "a")
    inline = replace(cluster, executor=Executor.inline)
    assert go(tmp_path, inline, [toy(tmp_path, "a")]).failed["toy/a"].startswith("ValueError: the gate is shut")
    free = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    said = go(tmp_path, inline, [toy(tmp_path, "a")]).failed["toy/a"]
    assert "the gate is shut" in said and f"No space left on the disk of {tmp_path}/work: 4,096 bytes" in said


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as at a terminal: a shell's background jobs, and what they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_run_interrupt_stops_child_and_passes_on(tmp_path: Path, process: ClusterConfig) -> None:
    shut(tmp_path, "a")
    with driver(tmp_path, "wait") as started:
        until(lambda: "a" in journal(tmp_path))
        child = int((tmp_path / "journal.txt").read_text().split()[-1])
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=30) != 0
        until(lambda: not runs(child))
    step = toy(tmp_path, "a", trouble="wait")
    until(lambda: status(step, Store(tmp_path / "work")).state == "interrupted")


@pytest.mark.usefixtures("interruptible")
def test_run_interrupt_while_a_child_starts_leaves_nobody(
    tmp_path: Path, process: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut(tmp_path, "a")
    start = ForkServerProcess.start

    def interrupted(self: ForkServerProcess) -> None:
        start(self)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ForkServerProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, process, [toy(tmp_path, "a", trouble="wait")])
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_run_and_status_of_2000_cached_or_changed_steps_take_under_2_seconds(
    tmp_path: Path, process: ClusterConfig
) -> None:
    def many(text: str) -> list[Step]:
        first = toy(tmp_path, "first", text=text)
        return [first, *(toy(tmp_path, f"s{number:04d}", first) for number in range(2000))]

    store = Store(tmp_path / "work")
    for step in many("old"):
        store.path(step).mkdir(parents=True)
        record = {"format": 1, "files": {}, "hashed": step.hashed}
        (store.path(step) / "record.json").write_text(json.dumps(record))
    clock = time.process_time()
    assert len(go(tmp_path, process, many("old")).cached) == 2001
    states = [status(step, store) for step in many("new")]
    assert time.process_time() - clock < 4  # under 2 s on a core of one's own
    assert all("changed" in found.why for found in states)


def test_git_state_outside_a_checkout_is_unknown(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "dirty": None}


def test_git_state_is_that_of_the_folder_whatever_gits_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "file").touch()
    for arguments in (["init"], ["add", "file"], ["commit", "-m", "first"]):
        git(*arguments)
    right = git_state(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook of another repository
    assert git_state(tmp_path) == right and right["commit"] is not None


def test_git_state_package_installed_inside_another_checkout_is_unknown(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "tracked").write_text("1")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "module.py").write_text("1")
    subprocess.run([*git, "add", "tracked"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    assert git_state(tmp_path / "installed") == {"commit": None, "dirty": None}
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "tracked").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


def test_git_state_is_dirty_by_code_and_conf_not_by_results_or_pages(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    names = ("results/smoke/table.csv", "results/study/run.json", "README.md", "conf/README.md")
    for name in (*names, "conf/config.yaml", "package/results/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    for name in names:
        (tmp_path / name).write_text("2")
    assert git_state(tmp_path / "package")["dirty"] is False
    for name in ("conf/config.yaml", "package/results/code.py"):
        (tmp_path / name).write_text("2")
        assert git_state(tmp_path / "package")["dirty"] is True
        (tmp_path / name).write_text("1")


def test_attempt_file_is_json_for_other_tools(tmp_path: Path, process: ClusterConfig) -> None:
    step = toy(tmp_path, "a")
    go(tmp_path, process, [step])
    assert read_json(Store(tmp_path / "work").attempt(step) / "attempt.json")["outcome"] == "built"
