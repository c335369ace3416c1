"""Submitting to a real Slurm: a whole experiment with a killed and a preempted task, and toy steps for each pitfall."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli import Done, icon_repro
from one_node import PATHS, ROOT, queue, until
from toy_stages import diamond, toy

from icon_repro.config.compose import composed
from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.jobs import SubmitError
from icon_repro.engine.options import ClusterConfig, SlurmConfig
from icon_repro.engine.records import read_json
from icon_repro.engine.run import status
from icon_repro.engine.slurm import submit
from icon_repro.experiment import plan

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

TINY = ["experiment=smoke_tiny", "cluster.threads=1", "cluster.slurm.allow_dirty=true"]


def send(folder: Path, steps: Sequence[Step], lines: list[str] | None = None, **more: Any) -> int:
    slurm = replace(SlurmConfig(allow_dirty=True, cpus=1), **more)
    cluster = ClusterConfig(device="cpu", slurm=slurm)
    return submit(steps, Store(folder / "work"), cluster, folder, print if lines is None else lines.append)


def states(folder: Path, steps: Sequence[Step]) -> list[str]:
    return [status(step, Store(folder / "work")).state for step in steps]


def journal(folder: Path) -> list[str]:
    path = folder / "journal.txt"
    return [" ".join(line.split()[::2]) for line in path.read_text().splitlines()] if path.exists() else []


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("work/.submit/*/logs/*.txt")))


def preempt(seconds: float = 1) -> None:
    """A job that takes the whole node from those of lower priority."""
    command = ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", f"--wrap=sleep {seconds}"]
    subprocess.run(command, check=True, capture_output=True)


def done(folder: Path) -> None:
    until(lambda: not queue(), 900)


def test_experiment_with_a_killed_and_a_preempted_task_gives_the_tables_of_an_inline_run(
    cluster: Path, tmp_path: Path
) -> None:
    def command(folder: Path, *arguments: str) -> Done:
        folder.mkdir(exist_ok=True)
        ended = icon_repro(folder, *TINY, *arguments, PYTHONPATH=PATHS)
        assert ended.code == 0, ended.out + ended.error
        return ended

    here, there = tmp_path / "inline", tmp_path / "jobs"
    first = command(there, "action=submit")
    assert " 0 there, 0 in jobs," in first.out
    assert " 0 to send" in command(there, "action=submit").out  # nothing is sent twice
    store = there / "work"

    def running(stage: str) -> list[dict[str, Any]]:
        notes = [read_json(path) for path in (store / ".attempts" / stage).glob("*/attempt.json")]
        return [note for note in notes if note["outcome"] == "running"]

    until(lambda: running("score"), 600)
    preempt()
    until(lambda: "restart 1" in logs(there), 600)
    until(lambda: running("train"), 600)
    supervisor = parent(running("train")[0]["pid"])
    os.kill(supervisor, signal.SIGKILL)
    shown = command(there, "action=status").out
    assert "job " in shown and "log: " in shown
    done(there)
    assert "blocked" in command(there, "action=status").out
    again = command(there, "action=submit")
    assert " 0 in jobs," in again.out and " 0 to send" not in again.out
    done(there)
    assert " 0 to send" in command(there, "action=submit").out
    command(there, "action=report")
    command(here)
    names = ["table.csv", "table.md", "metrics.jsonl"]
    for name in names:
        made = (there / "results" / "smoke_tiny" / name).read_bytes()
        assert made == (here / "results" / "smoke_tiny" / name).read_bytes(), name


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_plan_of_five_steps_is_built_and_dependents_of_a_failure_are_blocked(cluster: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate-b"
    gate.touch()
    steps = diamond(tmp_path)
    assert send(tmp_path, steps) == 5
    done(tmp_path)
    assert states(tmp_path, steps) == ["cached", "failed", "cached", "blocked", "cached"]
    gate.unlink()
    assert send(tmp_path, steps) == 2
    done(tmp_path)
    assert states(tmp_path, steps) == ["cached"] * 5
    assert send(tmp_path, steps) == 0


@pytest.mark.parametrize("partition", ["debug", "grace"])
def test_preempted_step_saves_and_goes_on_in_the_same_job(cluster: Path, tmp_path: Path, partition: str) -> None:
    """With a grace time, a job that ends within it isn't requeued: it has to stay."""
    gate = tmp_path / "gate-c"
    gate.touch()
    c = toy(tmp_path, "c", trouble="save", resumable=True)
    steps = [c, toy(tmp_path, "d", c)]
    send(tmp_path, steps, partition=partition)
    until(lambda: journal(tmp_path))
    preempt()
    until(lambda: states(tmp_path, steps)[0] == "interrupted")
    assert "saved" in status(c, Store(tmp_path / "work")).why
    gate.unlink()
    assert send(tmp_path, steps) == 0  # both wait in their jobs
    done(tmp_path)
    assert states(tmp_path, steps) == ["cached", "cached"], logs(tmp_path)
    assert journal(tmp_path) == ["c", "c resumed", "d"]
    assert "restart 0" in logs(tmp_path) and "restart 1" in logs(tmp_path)  # both in one log


def test_step_that_meets_its_time_limit_saves_and_is_requeued(cluster: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate-c"
    gate.touch()
    c = toy(tmp_path, "c", trouble="save", resumable=True)
    steps = [c, toy(tmp_path, "d", c)]
    send(tmp_path, steps, time_min=2, signal_s=60)
    until(lambda: states(tmp_path, steps)[0] == "interrupted", 180)
    gate.unlink()
    done(tmp_path)
    assert states(tmp_path, steps) == ["cached", "cached"], logs(tmp_path)
    assert journal(tmp_path) == ["c", "c resumed", "d"]
    assert "stopped on SIGUSR1" in logs(tmp_path) and "requeued" in logs(tmp_path)


def test_killed_job_is_found_and_sent_again(cluster: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate-a"
    gate.touch()
    a = toy(tmp_path, "a", trouble="wait")
    steps = [a, toy(tmp_path, "b", a)]
    send(tmp_path, steps, input_wait_s=1.0)
    until(lambda: journal(tmp_path))
    os.kill(parent(int((tmp_path / "journal.txt").read_text().split()[1])), signal.SIGKILL)
    done(tmp_path)
    assert states(tmp_path, steps) == ["interrupted", "blocked"]
    gate.unlink()
    assert send(tmp_path, steps) == 2
    done(tmp_path)
    assert states(tmp_path, steps) == ["cached", "cached"]


def test_cancelled_job_ends_at_once_and_isnt_requeued(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "gate-c").touch()
    c = toy(tmp_path, "c", trouble="save", resumable=True)
    send(tmp_path, [c])
    until(lambda: journal(tmp_path))
    started = time.monotonic()
    subprocess.run(["scancel", "--me"], check=True)
    done(tmp_path)
    assert time.monotonic() - started < 30
    assert states(tmp_path, [c]) == ["interrupted"] and journal(tmp_path) == ["c"]


def test_unknown_partition_is_refused_with_sbatchs_words(cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match=r"(?s)invalid partition.*nosuch.*Set cluster\.slurm\.partition"):
        send(tmp_path, [toy(tmp_path, "a")], partition="nosuch")


def test_thousand_tasks_of_a_level_are_one_array(cluster: Path, tmp_path: Path) -> None:
    first = toy(tmp_path, "first")
    steps = [first, *(toy(tmp_path, f"s{number:04d}", first) for number in range(1000))]
    lines: list[str] = []
    started = time.monotonic()
    assert send(tmp_path, steps, lines) == 1001
    print(f"1,001 steps sent in {time.monotonic() - started:.2f} s")
    assert len([line for line in lines if line.startswith("  job ")]) == 2
    assert send(tmp_path, steps) == 0


def test_array_script_shares_the_steps_of_an_experiment(cluster: Path, tmp_path: Path) -> None:
    script = ROOT / "slurm" / "array.sbatch"
    python = {"ICON_REPRO_PYTHON": sys.executable}
    arguments = ["experiment=smoke_tiny", "action=plan"]
    small = ["--gpus-per-node=0", "--cpus-per-task=1", "--mem=1G"]  # in place of what the script asks for
    command = ["sbatch", "--array=0-1", *small, str(script), *arguments]
    sent = subprocess.run(command, cwd=tmp_path, env={**os.environ, **python}, capture_output=True, text=True)
    assert sent.returncode == 0, sent.stderr
    done(tmp_path)
    found = [path.read_text() for path in tmp_path.glob("slurm-*.out")]
    steps = plan(composed("smoke_tiny", [f"paths.work={tmp_path / 'unused'}"])).steps
    expected = f"{len(steps)} steps: 0 cached"
    assert len(found) == 2 and all(expected in text for text in found), found


def test_sweep_over_seeds_by_the_launcher_is_an_experiment_a_seed(cluster: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra: pip install -e '.[slurm]'")
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=debug", "hydra.launcher.timeout_min=20"]
    only = ["fractions=[0.25]", "base=false", "full=false", "~methods.icon", "judge=none"]
    ended = icon_repro(tmp_path, "-m", *TINY, *only, "seed=1,2", *launcher, PYTHONPATH=PATHS)
    assert ended.code == 0, ended.out + ended.error
    for seed in (1, 2):
        table = (tmp_path / "results" / f"smoke_tiny_s{seed}" / "table.md").read_text()
        assert "random" in table and "missing" not in table, table
    assert len(list((tmp_path / "work" / "train").glob("random-f0.25-s[12]-*"))) == 2
    assert len(list((tmp_path / "work" / "select").glob("random-*"))) == 1  # selected once for both
