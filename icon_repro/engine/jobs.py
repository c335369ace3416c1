"""Keep track of the Slurm job that each step was sent with, and of which jobs are alive.

In: ``<work>/.submit/jobs.json``, squeue.  Out: a step's state with its job's.
Which jobs live is asked of squeue alone: there may be no accounting.
Known gap: of jobs that another user sent, nothing is known but their claims.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.run import Status

FORMAT = 1  # of jobs.json
_PATIENCE_S = 60.0  # for a command of Slurm


class SubmitError(RuntimeError):
    """Steps can't be sent, or the jobs that were sent can't be looked at."""


@dataclass(frozen=True)
class Sent:
    """What is known of the job that a step was sent with."""

    array: str  # its name: of this submission and array only
    task: int
    submission: str
    job: str  # Slurm's id of the array; empty: sbatch's answer wasn't stored
    log: str

    @property
    def label(self) -> str:
        return f"{self.job or self.array}_{self.task}"


class Queued(NamedTuple):
    """A line of squeue: a job that lives."""

    job: str
    state: str
    reason: str


def read_jobs(store: Store) -> dict[str, Sent]:
    """Which job each step's folder was last sent with; empty if nothing was.

    Raises:
        SubmitError: the file is of a newer version.
    """
    path = store.root.absolute() / ".submit" / "jobs.json"
    if not path.is_file():
        return {}
    stored = read_json(path)
    if stored["format"] > FORMAT:
        raise SubmitError(f"{path}: format {stored['format']}, this version reads up to {FORMAT}. Update icon_repro.")
    return {folder: Sent(**entry) for folder, entry in stored["jobs"].items()}


def living(sent: Mapping[str, Sent]) -> dict[str, Queued]:
    """The jobs in ``sent`` that squeue knows, by the step's folder.

    Raises:
        SubmitError: squeue can't be asked: no job may be taken for gone then.
    """
    if not sent:
        return {}
    done = call([command("squeue"), "-h", "-r", "--me", "-o", "%F|%K|%T|%r|%j"])
    if done.returncode != 0:
        raise SubmitError(f"squeue failed, so that it isn't known which jobs live: {done.stderr.strip()} Try again.")
    queued: dict[tuple[str, str], Queued] = {}
    for line in done.stdout.splitlines():
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) == 5 and fields[0].isdecimal():  # sites print lines of their own
            job, task, state, reason, name = fields
            queued[name, task] = Queued(job, state, reason)
    job_of_step = {}
    for folder, entry in sent.items():
        line_of = queued.get((entry.array, str(entry.task)))
        if line_of and entry.job in ("", line_of.job):
            job_of_step[folder] = line_of
    return job_of_step


def with_job(found: Status, sent: Sent | None, queued: Queued | None, *, asked: bool) -> Status:
    """How a step stands, given the job that it was sent with.

    Args:
        queued: what squeue says of that job; None: nothing.
        asked: squeue has been asked, and its silence means that the job has ended.
    """
    if sent is None or found.state == "cached":
        return found
    log = found.log if found.state != "missing" else sent.log
    if queued is not None:
        job = f"job {queued.job}_{sent.task} {queued.state}"
        if found.state == "running":
            return Status("running", f"{found.why}, {job}", log)
        state = "queued" if queued.state == "PENDING" else "starting"
        before = "" if found.state == "missing" else f"; before that {found.state}: {found.why}"
        return Status(state, f"{job} ({queued.reason}){before}", log)
    if found.state == "missing" and asked and sent.job:
        return Status("lost", f"job {sent.label} ended without a word; submit again", log)
    return Status(found.state, f"{found.why}, job {sent.label}" if found.why else f"job {sent.label}", log)


def command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SubmitError(
            f"{name} isn't on PATH: no Slurm here. Submit from a login node of the cluster (perhaps `module load "
            "slurm` first), or run here with action=run."
        )
    return path


def call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        name = Path(command[0]).name
        raise SubmitError(
            f"{name} gave no answer within {_PATIENCE_S:.0f} s: is the cluster up? scontrol ping"
        ) from error


def write_jobs(folder: Path, jobs: Mapping[str, Sent]) -> None:
    write_json(folder / "jobs.json", {"format": FORMAT, "jobs": {name: asdict(job) for name, job in jobs.items()}})
