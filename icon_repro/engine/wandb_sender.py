"""Log runs to Weights & Biases: ``python -m icon_repro.engine.wandb_sender FOLDER``, started by ``engine.tracking``.

In: FOLDER/job.json with the mode, project, group and runs.  Out: W&B's runs; a line for each in FOLDER/words.jsonl.
The process ends by SIGALRM once W&B has been silent for ``silence_s``. Two runs that fail in a row end it: the others
would wait for the same network. Source code, git remotes, command lines and the machine are not sent: an address or a
command line may hold a key.
Known gap: offline, W&B can't say which artifacts a run uses; the config and the artifacts' metadata name them then.
"""

import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.engine.environment import clean
from icon_repro.engine.records import read_json


def send(run: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Log one run. One of the same id is resumed online; offline, its folder is replaced."""
    import wandb  # takes seconds

    settings = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    with wandb.init(
        project=job["project"],
        entity=job["entity"],
        group=job["group"],
        job_type=run["job_type"],
        name=run["name"],
        id=run["id"],
        resume="allow",
        config=run["config"],
        dir=job["folder"],
        mode=job["mode"],
        settings=settings,
    ) as active:
        if job["mode"] == "online":
            for used in run["uses"]:
                try:
                    active.use_artifact(used)
                except (wandb.Error, ValueError) as error:  # not logged, or deleted there: the config names it still
                    print(f"{used} can't be named as an input of {run['id']}: {error}", file=sys.stderr, flush=True)
        for row in run["history"]:
            active.log(row["metrics"], step=row["step"])
        shown: dict[str, Any] = {name: wandb.Table(columns=t[0], data=t[1]) for name, t in run["tables"].items()}
        shown |= {name: wandb.Image(path) for name, path in run["images"].items()}
        if shown:
            active.log(shown)
        active.summary.update(run["summary"])
        for upload in run["uploads"]:
            artifact = wandb.Artifact(upload["name"], type=upload["type"], metadata=upload["metadata"])
            for name, path in upload["files"].items():
                artifact.add_file(path, name=name)
            active.log_artifact(artifact, aliases=["latest", upload["version"]])
        folder = Path(active.dir).parent
    if job["mode"] == "offline":  # `wandb sync` takes each folder for a whole run: the last one is
        of_run = re.compile(rf"offline-run-[0-9_]+-{re.escape(run['id'])}(-\d+)?")  # -1: begun in the same second
        for older in folder.parent.glob("offline-run-*"):
            if older != folder and of_run.fullmatch(older.name):
                shutil.rmtree(older)


def words(folder: Path) -> list[dict[str, str]]:
    """What has come of each run so far: {done: its id} or {failed: why}; a line that was cut off isn't there yet."""
    path = folder / "words.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> None:
    """Log all runs of the job in the folder that the command line names."""
    clean()  # WANDB_RUN_ID, WANDB_SWEEP_ID and others would have all runs be one
    folder = Path(sys.argv[1])
    job = read_json(folder / "job.json")
    failed_before = False
    with (folder / "words.jsonl").open("w", encoding="utf-8", buffering=1) as file:
        for run in job["runs"]:
            signal.setitimer(signal.ITIMER_REAL, job["silence_s"])
            word = {"done": run["id"]}
            try:
                send(run, job)
            except Exception as error:  # W&B raises a dozen kinds; the caller says that it failed, and why
                word = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
                traceback.print_exc()
            file.write(json.dumps(word) + "\n")
            if failed_before and "failed" in word:
                break
            failed_before = "failed" in word
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # W&B's service may hang at the end of the interpreter, when all is logged


if __name__ == "__main__":
    main()
