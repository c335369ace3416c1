"""One benchmark of one model, through lm-evaluation-harness in process.

In: model, optionally a tuned adapter or weights, and for tasks of ours the prepared rows.
Out: results.json (lm-eval's, without samples), samples.jsonl (every item with its outcome).
Source: lm-eval 0.4.13. Tasks of kind multiple_choice rank the choices by log-likelihood, as lm-eval's own do.
Known gap: none.
"""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import PeftModel

from icon_repro.config_evaluation import EvaluationJob, TaskConfig, TaskKind
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_model, load_tokenizer, prepare_device
from icon_repro.records import write_json, write_rows
from icon_repro.schema import nearest


class EvaluationError(ValueError):
    """The benchmark can't be run, or its results lack the metric."""


def task_yaml(name: str, rows: Path, num_fewshot: int) -> dict[str, Any]:
    """The lm-eval definition of a multiple-choice task of ours: {query, choices, gold} rows, acc and acc_norm."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": " ",
        "num_fewshot": num_fewshot,
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 1},
    }


def run(cfg: EvaluationJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Evaluate. Needs inputs["model"]; inputs["tuned"] is a train step, inputs["rows"] the rows of a task of ours."""
    cluster = runtime.cluster
    device = prepare_device(cluster)
    tuned = inputs.get("tuned")
    full = tuned is not None and (tuned / "weights").is_dir()
    source = inputs["model"] if not full else tuned
    assert source is not None
    tokenizer = load_tokenizer(inputs["model"])
    model: Any = load_model(source, cfg.dtype, device, cluster.attention)
    if tuned is not None and not full:
        model = PeftModel.from_pretrained(model, str(tuned / "adapter")).merge_and_unload().eval()
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=cluster.eval_batch_size, max_length=cfg.max_length)
    with tempfile.TemporaryDirectory() as folder:
        manager, name = _tasks(cfg.name, cfg.task, inputs, Path(folder))
        # its report on the environment starts pip and takes a second; the step's record holds the versions
        try:
            with patch("lm_eval.evaluator.add_env_info"):
                results = simple_evaluate(
                    model=lm,
                    tasks=[name],
                    task_manager=manager,
                    num_fewshot=cfg.task.num_fewshot if cfg.task.kind is TaskKind.lm_eval else None,
                    limit=cfg.task.limit,
                    log_samples=True,
                    random_seed=cfg.seed,
                    numpy_random_seed=cfg.seed,
                    torch_random_seed=cfg.seed,
                    fewshot_random_seed=cfg.seed,
                    confirm_run_unsafe_code=False,
                )
        except OSError as error:  # the hub's errors are OSErrors
            raise EvaluationError(
                f"evaluation.tasks.{cfg.name}: lm-eval's task {name!r} can't be run ({error}). If its data come from "
                "the hub, connect to the network, accept the data set's terms and log in; or choose another evaluation."
            ) from error
    assert results is not None
    return _store(cfg, results, name, out)


def _tasks(name: str, task: TaskConfig, inputs: Mapping[str, Path], folder: Path) -> tuple[TaskManager, str]:
    """A task manager that knows the task, and the task's name in lm-eval."""
    if task.kind is TaskKind.lm_eval:
        assert task.task is not None
        manager = TaskManager()
        known = {*manager.all_subtasks, *manager.all_groups}  # a tag names several tasks without a common number
        if task.task not in known:
            raise EvaluationError(
                f"evaluation.tasks.{name}.task={task.task!r}: lm-eval has no such task or group."
                f"{nearest(task.task, known)}"
            )
        return manager, task.task
    definition = task_yaml(name, (inputs["rows"] / "rows.jsonl").absolute(), task.num_fewshot or 0)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False), name


def _store(cfg: EvaluationJob, results: Mapping[str, Any], name: str, out: Path) -> dict[str, Any]:
    values = results["results"].get(name, {})  # a group need not have a number of its own
    key = next((k for k in (cfg.task.metric, f"{cfg.task.metric},none") if k in values), None)
    if key is None:
        known = sorted(k for k in values if "," in k and "_stderr" not in k)
        raise EvaluationError(f"evaluation.tasks.{cfg.name}.metric={cfg.task.metric!r}: lm-eval gives {known}.")
    metric, _, filtered = key.partition(",")
    value, error = values[key], values.get(f"{metric}_stderr,{filtered}")
    if not math.isfinite(value):
        raise EvaluationError(
            f"evaluation.tasks.{cfg.name}: {metric} is {value}; look at samples.jsonl of this attempt."
        )
    kept = {k: results[k] for k in ("results", "versions", "n-shot", "n-samples") if k in results}
    write_json(out / "results.json", _plain(kept))
    samples = [sample for group in results["samples"].values() for sample in group]
    write_rows(out / "samples.jsonl", (_plain(sample) for sample in samples))
    return {
        "task": name,
        "metric": metric,
        "value": float(value),
        "stderr": float(error) if isinstance(error, (int, float)) else None,
        "items": sum(count["effective"] for count in results["n-samples"].values()),
        "version": results["versions"].get(name),
    }


def _plain(value: Any) -> Any:
    """lm-eval's results as JSON values; what JSON has no word for becomes text."""
    return json.loads(json.dumps(value, default=str))
