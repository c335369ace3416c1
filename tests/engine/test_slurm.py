"""Submitting a plan to a Slurm that is played by two scripts on PATH, and the tasks that its jobs run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease
from toy_stages import diamond, toy

from icon_repro.engine import leases, slurm, task
from icon_repro.engine.artifact import Cost, Step, Store
from icon_repro.engine.jobs import Queued, Sent, SubmitError, living, read_jobs, with_job
from icon_repro.engine.options import ClusterConfig, SlurmConfig, SlurmJob
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.run import run, status
from icon_repro.engine.slurm import arrays, submit
from icon_repro.engine.worker import BLOCKED, FAILED, INTERRUPTED

HERE = Path(__file__).parent

# Both keep their state in $FAKE: next id, one JSON a call of sbatch, living jobs as squeue prints them.
SBATCH = """#!{python}
import json, os, pathlib, sys, time
fake = pathlib.Path(os.environ["FAKE"])
if (fake / "refuse").exists():
    sys.exit((fake / "refuse").read_text())
number = len(list(fake.glob("call-*"))) + 1
options = dict(o.removeprefix("--").partition("=")[::2] for o in sys.argv[1:-2])
call = {{"job": str(number), "options": options, "script": sys.argv[-2], "tasks": sys.argv[-1], "cwd": os.getcwd()}}
(fake / f"call-{{number:03d}}").write_text(json.dumps(call))
count = int(options["array"].partition("%")[0].partition("-")[2]) + 1
with (fake / "queue").open("a") as queue:
    for task in range(count):
        queue.write(f"{{number}}|{{task}}|PENDING|Resources|{{options['job-name']}}\\n")
if (fake / "die").exists():
    os.kill(os.getppid(), 9)
print(f"{{number}};cluster" if (fake / "federated").exists() else number)
"""
SQUEUE = """#!{python}
import os, pathlib, sys
fake = pathlib.Path(os.environ["FAKE"])
if (fake / "down").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
assert sys.argv[1:4] == ["-h", "-r", "--me"], sys.argv
print((fake / "queue").read_text() if (fake / "queue").exists() else "", end="")
"""
SCONTROL = """#!{python}
import os, pathlib, sys
(pathlib.Path(os.environ["FAKE"]) / "requeued").write_text(" ".join(sys.argv[1:]))
"""


@dataclass
class Fake:
    """The scripts' folder, and a store with a toy plan to send."""

    folder: Path
    work: Path
    slurm: SlurmConfig

    def calls(self) -> list[dict[str, Any]]:
        return [read_json(path) for path in sorted(self.folder.glob("call-*"))]

    def queue(self, *lines: str) -> None:
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    @property
    def store(self) -> Store:
        return Store(self.work / "work")

    def send(self, steps: list[Step], lines: list[str] | None = None, **more: Any) -> int:
        cluster = ClusterConfig(device="cpu", slurm=replace(self.slurm, **more))
        return submit(steps, self.store, cluster, self.work / "cache", print if lines is None else lines.append)

    def specs(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(call["tasks"]).read_text().splitlines()]

    def task(self, call: dict[str, Any], number: int, **more: str) -> subprocess.Popen[str]:
        """What Slurm would start for one task of an array."""
        paths = os.pathsep.join(map(str, (HERE, HERE.parents[1])))
        job = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": call["job"], "PYTHONPATH": paths}
        command = ["bash", call["script"], call["tasks"]]
        environment = {**os.environ, **job, **more}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=self.work, **output)  # type: ignore[call-overload]

    def play(self) -> list[int]:
        """Run all tasks of the latest submission in order; returns their exit codes."""
        codes = []
        submission = self.calls()[-1]["script"]
        for call in self.calls():
            if call["script"] == submission:
                for number in range(len(self.specs(call))):
                    process = self.task(call, number)
                    process.communicate(timeout=60)
                    codes.append(process.returncode)
        self.queue()
        return codes


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return Fake(folder, tmp_path, SlurmConfig(allow_dirty=True, input_wait_s=0.0))


def names(steps: list[dict[str, Any]]) -> str:
    return "".join(sorted(spec["label"].removeprefix("toy/") for spec in steps))


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def journal(folder: Path) -> list[str]:
    path = folder / "journal.txt"
    return [" ".join(line.split()[::2]) for line in path.read_text().splitlines()] if path.exists() else []


# ---------------------------------------------------------------- what is sent


def test_submit_sends_one_array_a_level_and_dependencies_are_afterany(fake: Fake) -> None:
    steps = diamond(fake.work)  # a -> b, c -> d, and e apart
    lines: list[str] = []
    assert fake.send(steps, lines) == 5
    calls = fake.calls()
    assert [names(fake.specs(call)) for call in calls] == ["ae", "bc", "d"]
    assert [call["options"]["array"] for call in calls] == ["0-1", "0-1", "0-0"]
    assert [call["options"].get("dependency") for call in calls] == [None, "afterany:1", "afterany:2"]
    for call in calls:
        options = call["options"]
        assert options["open-mode"] == "append" and "requeue" in options and options["signal"] == "B:USR1@120"
        assert options["output"].startswith(str(fake.work / "work" / ".submit"))
    text = "\n".join(lines)
    assert "5 to send" in text and "scancel 1 2 3" in text and "action=status" in text and "squeue" in text


def test_submit_depends_on_all_arrays_that_hold_an_input(fake: Fake) -> None:
    a = toy(fake.work, "a")
    b = toy(fake.work, "b", a)
    fake.send([a, b, toy(fake.work, "c", a, b)])
    assert [call["options"].get("dependency") for call in fake.calls()] == [None, "afterany:1", "afterany:1:2"]


def test_submit_sends_only_what_is_missing(fake: Fake) -> None:
    steps = diamond(fake.work)
    run(steps[:2], fake.store, ClusterConfig(device="cpu"), fake.work, print)
    assert fake.send(steps) == 3
    assert [names(fake.specs(call)) for call in fake.calls()] == ["ce", "d"]
    run(steps, fake.store, ClusterConfig(device="cpu"), fake.work, print)
    fake.queue()
    assert fake.send(steps) == 0 and len(fake.calls()) == 2


def test_submit_twice_sends_nothing_twice(fake: Fake) -> None:
    steps = diamond(fake.work)
    fake.send(steps)
    lines: list[str] = []
    assert fake.send(steps, lines) == 0
    assert len(fake.calls()) == 3 and "5 in jobs, 0 to send" in lines[0]


def test_submit_new_step_depends_on_living_jobs_of_an_earlier_submission(fake: Fake) -> None:
    steps = diamond(fake.work)
    fake.send(steps[:2])
    assert fake.send(steps) == 3
    calls = fake.calls()
    assert [names(fake.specs(call)) for call in calls] == ["a", "b", "ce", "d"]
    assert calls[2]["options"]["dependency"] == "afterany:1"
    assert calls[3]["options"]["dependency"] == "afterany:2:3"
    first, second = (Path(call["script"]).parent.name for call in (calls[0], calls[2]))
    (d,) = fake.specs(calls[3])
    assert d["job"]["submission"] == second and d["job"]["sent"] == {"b": first, "c": second}


def test_submit_answer_of_sbatch_that_was_lost_is_found_by_the_arrays_name(fake: Fake) -> None:
    code = f"""
from pathlib import Path
from toy_stages import toy
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.options import SlurmConfig
from icon_repro.engine.artifact import Store
from icon_repro.engine.slurm import submit
work = Path({str(fake.work)!r})
cluster = ClusterConfig(device="cpu", slurm=SlurmConfig(allow_dirty=True))
submit([toy(work, "a")], Store(work / "work"), cluster, work, print)
"""
    (fake.folder / "die").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parents[1])))}
    died = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL and len(fake.calls()) == 1
    (fake.folder / "die").unlink()
    a = toy(fake.work, "a")
    assert fake.send([a, toy(fake.work, "b", a)]) == 1
    assert fake.calls()[1]["options"]["dependency"] == "afterany:1"


def test_submit_job_that_is_gone_without_a_word_is_sent_again_and_said(fake: Fake) -> None:
    steps = diamond(fake.work)
    fake.send(steps)
    fake.queue("1|1|RUNNING|None|another-0", f"2|0|RUNNING|None|{fake.calls()[1]['options']['job-name']}")
    lines: list[str] = []
    assert fake.send(steps, lines) == 4  # all but b
    assert names([spec for call in fake.calls()[3:] for spec in fake.specs(call)]) == "acde"
    assert any("job 1_0 ended without a word on toy/a" in line and ".txt" in line for line in lines)


def test_submit_id_that_slurm_gave_to_another_job_isnt_ours(fake: Fake) -> None:
    a = toy(fake.work, "a")
    fake.send([a])
    fake.queue("1|0|RUNNING|None|something else")
    assert fake.send([a]) == 1


def test_submit_lines_that_a_site_adds_to_squeue_are_passed_over(fake: Fake) -> None:
    a = toy(fake.work, "a")
    fake.send([a])
    (sent,) = read_jobs(fake.store).values()
    fake.queue("*** maintenance | on Monday ***", "", f" {sent.job} |0|RUNNING|None|{sent.array}", "Quota: 3 of 5")
    assert fake.send([a]) == 0 and len(fake.calls()) == 1


def test_requeue_without_scontrol_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert "job 7 could not be requeued: scontrol isn't on PATH" in task.requeue(3)
    assert task._state() == ""


def test_submit_squeue_that_fails_stops_it(fake: Fake) -> None:
    steps = diamond(fake.work)
    fake.send(steps)
    (fake.folder / "down").touch()
    with pytest.raises(SubmitError, match=r"squeue failed.*Unable to contact"):
        fake.send(steps)
    assert len(fake.calls()) == 3


def test_submit_large_level_is_cut_into_arrays(fake: Fake) -> None:
    first = toy(fake.work, "first")
    steps = [first, *(toy(fake.work, f"s{number}", first) for number in range(7))]
    fake.send(steps, max_array_size=3)
    assert [call["options"]["array"] for call in fake.calls()] == ["0-0", "0-2", "0-2", "0-0"]
    assert {call["options"].get("dependency") for call in fake.calls()[1:]} == {"afterany:1"}
    labels = [spec["label"] for call in fake.calls() for spec in fake.specs(call)]
    assert labels == [step.label for step in steps]


def test_submit_1000_tasks_of_a_level_are_one_call(fake: Fake) -> None:
    first = toy(fake.work, "first")
    steps = [first, *(toy(fake.work, f"s{number:04d}", first) for number in range(1000))]
    assert fake.send([*steps, toy(fake.work, "last", *steps[1:])]) == 1002
    assert [call["options"]["array"] for call in fake.calls()] == ["0-0", "0-999", "0-0"]
    assert [len(fake.specs(call)) for call in fake.calls()] == [1, 1000, 1]


def test_submit_federated_answer_is_the_id_before_the_semicolon(fake: Fake) -> None:
    (fake.folder / "federated").touch()
    steps = diamond(fake.work)
    fake.send(steps)
    assert {sent.job for sent in read_jobs(fake.store).values()} == {"1", "2", "3"}


def test_arrays_are_cut_by_level_stage_and_class(tmp_path: Path) -> None:
    model = replace_stage(toy(tmp_path, "m"), "model")
    rows = replace_stage(toy(tmp_path, "p"), "prepare")
    shards = [replace_stage(toy(tmp_path, f"shard{n}", model, rows), "score") for n in range(2)]
    longest = replace_stage(toy(tmp_path, "longest", rows), "score")
    train = replace_stage(toy(tmp_path, "t", model, *shards, target="icon_repro.train:run"), "train")
    evaluate = replace_stage(toy(tmp_path, "e", model, train), "evaluate")
    steps = [model, rows, *shards, longest, train, evaluate]
    found = [(a.level, a.stage, a.kind, [s.name for s in a.steps]) for a in arrays(steps, 1000)]
    assert found == [
        (1, "model", "selection", ["m"]),
        (1, "prepare", "selection", ["p"]),
        (2, "score", "scoring", ["shard0", "shard1"]),
        (2, "score", "selection", ["longest"]),
        (3, "train", "training", ["t"]),
        (4, "evaluate", "evaluation", ["e"]),
    ]


def replace_stage(step: Step, stage: str) -> Step:
    return replace(step, stage=stage)


def test_submit_resources_of_a_class_go_before_the_common_ones(fake: Fake) -> None:
    own = SlurmJob(partition="cpu", gpus=0, time_min=30, options=["--nice=5"])
    fake.send(
        [toy(fake.work, "a")],
        partition="gpu",
        account="lab",
        qos="low",
        gpus=2,
        cpus=8,
        memory_gb=64,
        time_min=600,
        array_parallelism=4,
        selection=own,
        setup=["module load cuda"],
        python="/opt/python",
    )
    (call,) = fake.calls()
    expected = {"partition": "cpu", "account": "lab", "qos": "low", "cpus-per-task": "8", "mem": "64G", "time": "30"}
    assert expected.items() <= call["options"].items() and call["options"]["nice"] == "5"
    assert "gpus-per-node" not in call["options"] and call["options"]["array"] == "0-0%4"
    lines = Path(call["script"]).read_text().splitlines()
    assert lines[1] == "module load cuda" and lines[2].startswith("exec /opt/python -m icon_repro.engine.task ")


# ---------------------------------------------------------------- what is refused


def test_submit_uncommitted_changes_are_refused_unless_allowed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "git_state", lambda _: {"commit": "0" * 40, "dirty": True})
    with pytest.raises(SubmitError, match=r"uncommitted changes.*cluster\.slurm\.allow_dirty=true"):
        fake.send([toy(fake.work, "a")], allow_dirty=False)
    assert fake.calls() == []
    monkeypatch.setattr(slurm, "git_state", lambda _: {"commit": "0" * 40, "dirty": False})
    assert fake.send([toy(fake.work, "a")], allow_dirty=False) == 1


def test_submit_without_sbatch_is_refused(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.work))
    with pytest.raises(SubmitError, match=r"sbatch isn't on PATH.*login node"):
        fake.send([toy(fake.work, "a")])
    assert not (fake.work / "work").exists()


@pytest.mark.parametrize(
    "said, remedy",
    [
        ("sbatch: error: invalid partition specified: nosuch", "Set cluster.slurm.partition"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", "account"),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", "max_array_size"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid", "time_min"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "gpus"),
    ],
)
def test_submit_refusal_of_sbatch_is_shown_with_the_key_to_set(fake: Fake, said: str, remedy: str) -> None:
    (fake.folder / "refuse").write_text(said)
    with pytest.raises(SubmitError) as refused:
        fake.send([toy(fake.work, "a")], partition="nosuch")
    assert said in str(refused.value) and remedy in str(refused.value) and "--partition=nosuch" in str(refused.value)
    (fake.folder / "refuse").unlink()
    lines: list[str] = []
    assert fake.send([toy(fake.work, "a")], lines) == 1  # nothing was taken for sent
    assert "without a word" not in "".join(lines)


def test_submit_time_limit_that_leaves_no_time_is_refused(fake: Fake) -> None:
    with pytest.raises(SubmitError, match=r"cluster\.slurm\.selection\.time_min=2.*signal_s=120"):
        fake.send([toy(fake.work, "a")], time_min=2)
    assert fake.calls() == []


def test_submit_time_limit_shorter_than_a_shard_is_refused(fake: Fake) -> None:
    model = replace_stage(toy(fake.work, "m"), "model")
    shard = replace(toy(fake.work, "shard", model), cost=Cost(1.0, 3.6e15))
    job = {"scoring": SlurmJob(time_min=50, flops_per_s=1e12)}
    with pytest.raises(SubmitError, match=r"scoring\.time_min=50: toy/shard takes about 60 min.*make shards smaller"):
        fake.send([model, shard], **job)
    assert fake.calls() == []
    assert fake.send([model, replace(shard, resumable=True)], **job) == 2
    assert fake.send([model, shard], scoring=SlurmJob(time_min=70, flops_per_s=1e12)) == 0


def test_submit_work_folder_that_cant_be_written_is_refused(fake: Fake) -> None:
    (fake.work / "work").write_text("a file")
    with pytest.raises(SubmitError, match=r"paths\.work=.*can't be written.*shared by all nodes"):
        fake.send([toy(fake.work, "a")])


def test_submit_store_of_a_newer_version_is_refused(fake: Fake) -> None:
    fake.send([toy(fake.work, "a")])
    path = fake.work / "work" / ".submit" / "jobs.json"
    write_json(path, {**read_json(path), "format": 99})
    with pytest.raises(SubmitError, match=r"format 99.*Update icon_repro"):
        fake.send([toy(fake.work, "a")])


def test_submit_two_at_once_wait_for_each_other(fake: Fake) -> None:
    folder = fake.work / "work" / ".submit"
    folder.mkdir(parents=True)
    lock = SoftFileLease(folder / "lock", lease_duration=60.0)
    lock.acquire()
    code = f"""
from pathlib import Path
from toy_stages import diamond
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.options import SlurmConfig
from icon_repro.engine.artifact import Store
from icon_repro.engine.slurm import submit
work = Path({str(fake.work)!r})
cluster = ClusterConfig(device="cpu", slurm=SlurmConfig(allow_dirty=True))
submit(diamond(work), Store(work / "work"), cluster, work, print)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parents[1])))}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    time.sleep(1)
    assert fake.calls() == []
    lock.release()
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert [names(fake.specs(call)) for call in fake.calls()] == ["ae", "bc", "d"]


# ---------------------------------------------------------------- tasks


def test_tasks_build_the_plan_and_a_second_submission_sends_nothing(fake: Fake) -> None:
    steps = diamond(fake.work)
    fake.send(steps)
    assert fake.play() == [0] * 5
    assert (fake.store.path(steps[3]) / "text.txt").read_text() == "ab" + "ac" + "d"
    assert fake.send(steps) == 0
    assert journal(fake.work) == ["a", "e", "b", "c", "d"]
    record = fake.store.record(steps[0])
    assert "slurm" not in record["cluster"]


def test_tasks_failed_input_blocks_at_once_and_the_next_submission_goes_on(fake: Fake) -> None:
    gate = fake.work / "gate-b"
    gate.touch()
    steps = diamond(fake.work)
    fake.send(steps, input_wait_s=600.0)
    assert fake.play() == [0, 0, FAILED, 0, BLOCKED]
    assert status(steps[1], fake.store).state == "failed"
    blocked = status(steps[3], fake.store)
    assert blocked.state == "blocked" and "input 'b'" in blocked.why and "the gate is shut" in blocked.why
    gate.unlink()
    assert fake.send(steps) == 2
    assert fake.play() == [0, 0]
    assert status(steps[3], fake.store).state == "cached"
    assert journal(fake.work) == ["a", "e", "b", "c", "b", "d"]


def test_task_blocked_by_a_blocked_input_ends_within_a_second(fake: Fake) -> None:
    (fake.work / "gate-a").touch()
    a = toy(fake.work, "a")
    b = toy(fake.work, "b", a)
    fake.send([a, b, toy(fake.work, "c", b)], input_wait_s=600.0)
    assert fake.play() == [FAILED, BLOCKED, BLOCKED]
    before = os.times()
    process = fake.task(fake.calls()[2], 0)
    process.communicate(timeout=60)
    after = os.times()
    assert process.returncode == BLOCKED
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    assert cpu_s < 1


def test_task_input_that_a_file_system_shows_late_is_waited_for(fake: Fake) -> None:
    a = toy(fake.work, "a")
    b = toy(fake.work, "b", a)
    fake.send([a, b], input_wait_s=60.0)
    process = fake.task(fake.calls()[1], 0)
    attempt = fake.store.attempt(b) / "attempt.json"
    until(lambda: attempt.is_file())
    run([a], fake.store, ClusterConfig(device="cpu"), fake.work, print)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_task_failure_of_an_earlier_submission_is_no_reason_to_give_up(fake: Fake) -> None:
    gate = fake.work / "gate-a"
    gate.touch()
    a = toy(fake.work, "a")
    b = toy(fake.work, "b", a)
    fake.send([a, b])
    assert fake.play() == [FAILED, BLOCKED]
    gate.unlink()
    fake.send([a, b], input_wait_s=60.0)
    calls = fake.calls()
    process = fake.task(calls[3], 0)  # its input is late, and the old failure is what it sees first
    log = fake.store.attempt(b) / "attempt.json"
    until(lambda: read_json(log)["outcome"] == "running")
    time.sleep(0.5)
    assert fake.task(calls[2], 0).wait(timeout=60) == 0
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_task_damaged_input_is_sent_again_with_what_needs_it(fake: Fake) -> None:
    steps = diamond(fake.work)
    run(steps[:2], fake.store, ClusterConfig(device="cpu"), fake.work, print)
    text = fake.store.path(steps[1]) / "text.txt"
    text.write_text("ax")
    fake.send(steps)
    assert fake.play() == [0, 0, 6]
    assert "input 'b' is damaged" in status(steps[3], fake.store).why
    assert fake.send(steps) == 2
    assert [names(fake.specs(call)) for call in fake.calls()[2:]] == ["b", "d"]
    assert fake.play() == [0, 0]
    assert (fake.store.path(steps[3]) / "text.txt").read_text() == "abacd"


def test_task_step_that_another_process_holds_is_waited_for(fake: Fake) -> None:
    gate = fake.work / "gate-a"
    gate.touch()
    a = toy(fake.work, "a", trouble="wait")
    fake.send([a])
    both = [fake.task(fake.calls()[0], 0) for _ in range(2)]
    until(lambda: journal(fake.work))
    time.sleep(1)
    gate.unlink()
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    assert journal(fake.work) == ["a"]


@pytest.mark.parametrize("killed", [False, True])
def test_tasks_that_do_the_same_at_once_do_it_once(fake: Fake, killed: bool) -> None:
    """Two selections of the same rows are two trainings by name; the second waits, and takes the first's result."""
    steps = [replace(toy(fake.work, name, text="same", trouble="wait"), stage="train") for name in "ab"]
    gates = [fake.work / f"gate-{name}" for name in "ab"]
    for gate in gates:
        gate.touch()
    fake.send(steps)
    (call,) = fake.calls()
    first = fake.task(call, 0)
    until(lambda: journal(fake.work))
    second = fake.task(call, 1)
    until(lambda: (leases.read_note(fake.store.attempt(steps[1])) or {}).get("outcome") == "waiting")
    assert status(steps[1], fake.store).state == "missing"
    if killed:
        first.kill()
        first.communicate()
        until(lambda: status(steps[0], fake.store).state == "interrupted")
    for gate in gates:
        gate.unlink()
    for process in (first, second):
        process.communicate(timeout=60)
    assert second.returncode == 0 and first.returncode == (-signal.SIGKILL if killed else 0)
    assert journal(fake.work) == ["same"] * (2 if killed else 1)
    record = fake.store.record(steps[1])
    assert record.get("same_as") == (None if killed else steps[0].folder)
    assert [path for path in (fake.work / "work" / ".contents").rglob("*") if path.name == "claim"] == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_task_signal_stops_the_step_first(fake: Fake, number: signal.Signals) -> None:
    gate = fake.work / "gate-a"
    gate.touch()
    a = toy(fake.work, "a", trouble="wait")
    fake.send([a])
    process = fake.task(fake.calls()[0], 0)
    until(lambda: journal(fake.work))
    fake.queue()  # cancelled, or preempted without a grace time: no more in the queue
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, output
    found = status(a, fake.store)
    assert found.state == "interrupted" and "SIGTERM" in found.why
    assert not (fake.store.attempt(a) / "claim").exists()
    requeued = fake.folder / "requeued"
    if number == signal.SIGUSR1:
        assert requeued.read_text() == "requeue 1_0" and "requeued" in output
    else:
        assert not requeued.exists()
    gate.unlink()
    assert fake.task(fake.calls()[0], 0, SLURM_RESTART_COUNT="1").wait(timeout=60) == 0
    assert journal(fake.work) == ["a", "a"]


def test_task_resumable_step_is_asked_and_saves(fake: Fake) -> None:
    gate = fake.work / "gate-c"
    gate.touch()
    step = toy(fake.work, "c", trouble="save", resumable=True)
    fake.send([step])
    process = fake.task(fake.calls()[0], 0)
    until(lambda: journal(fake.work))
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "saved" in status(step, fake.store).why
    gate.unlink()
    assert fake.task(fake.calls()[0], 0).wait(timeout=60) == 0
    assert journal(fake.work) == ["c", "c resumed"]


def test_task_resumable_step_that_doesnt_stop_is_killed_and_requeued(fake: Fake) -> None:
    gate = fake.work / "gate-c"
    gate.touch()
    step = toy(fake.work, "c", trouble="stubborn", resumable=True)
    fake.send([step], signal_s=10)
    process = fake.task(fake.calls()[0], 0)
    until(lambda: journal(fake.work))
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and "Killed" in output
    assert (fake.folder / "requeued").is_file()
    gate.unlink()
    assert fake.task(fake.calls()[0], 0).wait(timeout=60) == 0


def test_task_that_meets_its_time_limit_again_and_again_isnt_requeued(fake: Fake) -> None:
    (fake.work / "gate-a").touch()
    fake.send([toy(fake.work, "a", trouble="wait")])
    process = fake.task(fake.calls()[0], 0, SLURM_RESTART_COUNT="1")
    until(lambda: journal(fake.work))
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert not (fake.folder / "requeued").exists() and "time_min" in output


def test_task_preempted_with_a_grace_time_stays_until_it_is_killed(fake: Fake) -> None:
    """A job that ends within its grace time counts as ended, and isn't requeued."""
    (fake.work / "gate-a").touch()
    fake.send([toy(fake.work, "a", trouble="wait")])
    (fake.folder / "queue").write_text("RUNNING\n")
    (fake.folder / "squeue").write_text("#!/bin/sh\necho RUNNING\n")
    process = fake.task(fake.calls()[0], 0)
    until(lambda: journal(fake.work))
    process.send_signal(signal.SIGTERM)
    step = toy(fake.work, "a", trouble="wait")
    until(lambda: status(step, fake.store).state == "interrupted")
    time.sleep(1)
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_task_killed_supervisor_leaves_nobody_writing(fake: Fake) -> None:
    (fake.work / "gate-a").touch()
    step = toy(fake.work, "a", trouble="wait")
    fake.send([step])
    process = fake.task(fake.calls()[0], 0)
    until(lambda: journal(fake.work))
    process.kill()
    process.communicate()
    until(lambda: status(step, fake.store).state == "interrupted")
    fake.queue()
    (fake.work / "gate-a").unlink()
    assert fake.send([step]) == 1 and fake.play() == [0]


def test_task_on_a_node_without_the_work_folder_says_so(fake: Fake) -> None:
    fake.send([toy(fake.work, "a")])
    (call,) = fake.calls()
    moved = {**call, "tasks": str(fake.work / "elsewhere" / "000.jsonl")}
    output, _ = fake.task(moved, 0).communicate(timeout=60)
    assert "isn't there on" in output and "paths.work must be on a file system that all nodes share" in output
    assert "Traceback" not in output


def test_task_of_changed_code_is_refused(fake: Fake) -> None:
    step = replace(toy(fake.work, "a", target="icon_repro.select:run"), version=1)
    fake.send([step])
    process = fake.task(fake.calls()[0], 0)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "version 1 of icon_repro.select:run" in output and "submit again" in output


def test_task_of_a_target_that_is_gone_names_the_commit_it_was_sent_from(fake: Fake) -> None:
    step = toy(fake.work, "a", target="icon_repro.gone:run")
    fake.send([step])
    call, *_ = fake.calls()
    path = Path(call["tasks"])
    spec = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**spec, "sent": {"version": "0.0.7", "commit": "abad1dea"}}) + "\n", encoding="utf-8")
    output, _ = fake.task(call, 0).communicate(timeout=60)
    assert "target 'icon_repro.gone:run'" in output and "icon_repro 0.0.7 at commit abad1dea" in output
    assert "FAILED" in output and status(step, fake.store).state == "failed"


def test_task_claim_of_the_future_is_warned_of(fake: Fake) -> None:
    step = toy(fake.work, "a")
    attempt = fake.store.attempt(step)
    attempt.mkdir(parents=True)
    note = {"host": "elsewhere", "pid": 1, "outcome": "running", "error": None, "lease_s": 60.0}
    write_json(attempt / "attempt.json", note)
    (attempt / "claim").touch()
    os.utime(attempt / "claim", (time.time() + 100, time.time() + 100))
    found = status(step, fake.store)
    assert found.state == "running" and "s ahead of" in found.why and "ntp" in found.why


def test_run_of_several_steps_asked_to_stop_saves_and_requeues_itself(fake: Fake) -> None:
    """What slurm/array.sbatch starts: a driver that gets Slurm's signal itself."""
    gate = fake.work / "gate-c"
    gate.touch()
    code = f"""
from pathlib import Path
from toy_stages import toy
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.artifact import Store
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Interrupted
from icon_repro.engine.task import requeue, stoppable
work = Path({str(fake.work)!r})
steps = [toy(work, "c", trouble="save", resumable=True), toy(work, "e")]
try:
    with stoppable():
        run(steps, Store(work / "work"), ClusterConfig(device="cpu"), work, print)
except Interrupted as stop:
    print(stop.number, requeue(1))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parents[1]))), "SLURM_JOB_ID": "7"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    until(lambda: journal(fake.work))
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == f"{signal.SIGUSR1.value} job 7 requeued"
    assert (fake.folder / "requeued").read_text() == "requeue 7"
    c = toy(fake.work, "c", trouble="save", resumable=True)
    assert "saved" in status(c, fake.store).why
    gate.unlink()
    assert run([c], fake.store, ClusterConfig(device="cpu"), fake.work, print).built == ["toy/c"]
    assert journal(fake.work) == ["c", "c resumed"]


# ---------------------------------------------------------------- status


SENT = Sent("icon_repro-x-000", 4, "x", "12", "the job's log")


@pytest.mark.parametrize(
    "sent, queued, asked, state, why",
    [
        (None, None, True, "missing", ""),
        (SENT, Queued("12", "PENDING", "Dependency"), True, "queued", "job 12_4 PENDING (Dependency)"),
        (SENT, Queued("12", "RUNNING", "None"), True, "starting", "job 12_4 RUNNING (None)"),
        (SENT, None, True, "lost", "job 12_4 ended without a word; submit again"),
        (SENT, None, False, "missing", "job 12_4"),
        (replace(SENT, job=""), None, True, "missing", "job icon_repro-x-000_4"),
    ],
)
def test_with_job_of_a_missing_step(
    tmp_path: Path, sent: Sent | None, queued: Queued | None, asked: bool, state: str, why: str
) -> None:
    found = with_job(status(toy(tmp_path, "a"), Store(tmp_path)), sent, queued, asked=asked)
    assert (found.state, found.why) == (state, why)
    assert found.log == (sent.log if sent else "")


def test_with_job_of_a_failed_step_that_waits_again_says_both(fake: Fake) -> None:
    (fake.work / "gate-a").touch()
    step = toy(fake.work, "a")
    fake.send([step])
    fake.play()
    fake.send([step])
    sent = read_jobs(fake.store)
    alive = living(sent)
    found = with_job(status(step, fake.store), sent[step.folder], alive[step.folder], asked=True)
    assert found.state == "queued" and "job 2_0 PENDING" in found.why and "before that failed" in found.why
    fake.queue()
    found = with_job(status(step, fake.store), sent[step.folder], None, asked=True)
    assert found.state == "failed" and "the gate is shut" in found.why and "job 2_0" in found.why
