"""Evaluate one model on one benchmark, through lm-evaluation-harness in process.

In: model, optionally a tuned adapter or weights; for tasks of ours the prepared rows.
Out: results.json (lm-eval's numbers of each task, without samples, and ours), samples.jsonl (every item of every task:
``task``, lm-eval's record, and ``outcome``, what it adds to the task's value), items.json (the outcomes alone).
A group's finished tasks are kept in finished/ until all are there, and parts of the one at work in finished/parts/; an
interrupted attempt goes on with the next part.
Source: lm-eval 0.4.13. Tasks of kind multiple_choice rank the choices by log-likelihood, as lm-eval's own do.
Known gap: none.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from langdetect import DetectorFactory
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from icon_repro.engine.artifact import file_sha256
from icon_repro.engine.console import LOG, say
from icon_repro.engine.records import RecordError, read_sealed, write_json, write_rows, write_sealed
from icon_repro.engine.runtime import Interrupted, Runtime
from icon_repro.evaluate.backends import open_backend
from icon_repro.evaluate.combine import combined, plain, subtask
from icon_repro.evaluate.items import write_items
from icon_repro.evaluate.options import EvaluationJob, TaskKind
from icon_repro.evaluate.parts import InParts
from icon_repro.evaluate.requirements import code_allowed, missing
from icon_repro.evaluate.tasks import EvaluationError, load

__all__ = ["EvaluationError", "run"]

_PARTS = "parts"
_DRAWS = 1000  # of lm-eval's bootstrap, for the error of metrics that aren't means


def run(cfg: EvaluationJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Evaluate. Needs inputs["model"]; inputs["tuned"] is a train step, inputs["rows"] the rows of the benchmark.

    ``extra["commit"]`` is that of the hub data set, files["rows.<split>"] the rows of ``task.files``. Without
    inputs["rows"] and files, lm-eval's task reads the hub.
    """
    files = [name.removeprefix("rows.") for name in runtime.files]
    if problems := missing(cfg, files):
        raise EvaluationError("\n".join(problems))
    # what is finished is whole on disk at any moment
    runtime.stop.deferred = False
    if runtime.stop_requested():
        raise Interrupted("stopped before the evaluation began")
    benchmark = load(cfg, inputs, runtime)
    tasks = benchmark.tasks
    finished = out / "finished"
    finished.mkdir(exist_ok=True)
    with ExitStack() as stack, runtime.progress(len(tasks), "task") as progress:
        model = None
        for name, task in tasks.items():
            if not _is_finished(finished, name):
                if model is None:
                    model = InParts(open_backend(cfg, inputs, runtime, stack), finished / _PARTS)
                _evaluate(cfg, model, name, task, finished)
            progress.advance()
    entries = {name: read_sealed(finished / f"{name}.json") for name in tasks}
    facts = {name: entry["facts"] for name, entry in entries.items()}
    with (out / "samples.jsonl").open("wb") as whole:
        for name in tasks:
            with (finished / f"{name}.jsonl").open("rb") as part:
                shutil.copyfileobj(part, whole)
    write_json(
        out / "results.json",
        {"results": {name: entry["results"] for name, entry in entries.items()}, "tasks": facts},
    )
    metrics = {
        "task": cfg.task.task if cfg.task.kind is TaskKind.lm_eval else cfg.name,
        **{key: value for key, value in combined(cfg.task, facts).items() if key != "weights" or len(tasks) > 1},
        "chance": cfg.task.chance,
        "group": cfg.task.group,
        "datasets": benchmark.origins,
        "items_cut": sum(entry.get("cut", 0) for entry in entries.values()),  # absent: of an older, interrupted attempt
        "backend": cfg.backend.value,
    }
    write_items(out, metrics)
    shutil.rmtree(finished)
    return metrics


def _is_finished(finished: Path, name: str) -> bool:
    """Whether an earlier attempt has done the task, with this version of lm-eval; says so if that was damaged."""
    try:
        entry = read_sealed(finished / f"{name}.json")
    except FileNotFoundError:
        return False
    except RecordError as error:
        say(f"{error} The task is evaluated again.")
        return False
    samples = finished / f"{name}.jsonl"
    if not samples.is_file() or file_sha256(samples) != entry["samples"]:
        say(f"{samples}: altered since it was written. The task is evaluated again.")
        return False
    return bool(entry["lm_eval"] == importlib.metadata.version("lm-eval"))


def _evaluate(cfg: EvaluationJob, model: Any, name: str, task: Any, finished: Path) -> None:
    """Run one task; its samples first, then the file that says it is done."""
    DetectorFactory.seed = cfg.seed  # IFEval's language checks draw from it
    # lm-eval's report on the environment starts pip and takes a second, and the step's record holds the versions; its
    # bootstrap forks a process for each core, from one that may hold a GPU
    with patch("lm_eval.evaluator.add_env_info"), patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}):
        evaluated = simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=TaskManager(include_defaults=False),  # else it indexes all of lm-eval's again
            num_fewshot=cfg.task.num_fewshot if cfg.task.kind is TaskKind.lm_eval else None,
            limit=cfg.task.limit,
            log_samples=True,
            bootstrap_iters=_DRAWS,
            random_seed=cfg.seed,
            numpy_random_seed=cfg.seed,
            torch_random_seed=cfg.seed,
            fewshot_random_seed=cfg.seed,
            confirm_run_unsafe_code=code_allowed(cfg),
        )
    assert evaluated is not None
    samples, values = evaluated["samples"][name], evaluated["results"][name]
    rows = [plain({"task": name, **sample}) for sample in samples]
    write_rows(finished / f"{name}.jsonl", rows)  # to be looked at if the metric is refused
    cut, items = sum(task == name for task, _ in model.cut), len({sample["doc_id"] for sample in samples})
    if cut:
        LOG.warning(
            "%s",
            f"{name}: {cut} of {items} items are longer than evaluation.max_length={cfg.max_length} tokens: their "
            "beginning was cut.",
        )
    facts, outcomes = subtask(f"evaluation.tasks.{cfg.name}", task, cfg.task, values, samples)
    if outcomes is not None:
        filtered = [row for row in rows if row["filter"] == cfg.task.filter]
        for row, outcome in zip(filtered, outcomes, strict=True):
            row["outcome"] = outcome
        write_rows(finished / f"{name}.jsonl", rows)
    entry = {"lm_eval": importlib.metadata.version("lm-eval"), "results": plain(values), "facts": facts, "cut": cut}
    write_sealed(finished / f"{name}.json", {**entry, "samples": file_sha256(finished / f"{name}.jsonl")})
    shutil.rmtree(finished / _PARTS, ignore_errors=True)
