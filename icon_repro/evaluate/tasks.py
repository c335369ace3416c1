"""Load the lm-eval tasks of a benchmark with their data: rows of ours, the hub's at a commit, or rows from files.

In: an EvaluationJob, the hub's rows as a step has kept them.  Out: lm-eval's task objects by name, with their data.
Source: lm-eval 0.4.13. It takes no revision; ``datasets.load_dataset`` is wrapped while tasks are loaded.
Known gap: none.
"""

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import lm_eval.tasks
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from icon_repro.data.files import SourceError, user_rows, user_text
from icon_repro.data.patience import patiently
from icon_repro.data.sources import other_commits
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import nearest
from icon_repro.evaluate.options import EvaluationJob, TaskConfig, TaskKind
from icon_repro.evaluate.requirements import code_allowed, code_refusal, task_files
from icon_repro.evaluate.row_sets import RowSetError, read_set, set_key

_SPLITS = ("train", "validation", "test")
_OF_100 = ("bleu", "chrf", "ter")  # metrics of lm-eval that are no share of 1; ``combine`` refuses others' values
_LOGIQA_LINES = 7  # label, context, question, four options


class EvaluationError(ValueError):
    """The benchmark can't be run, or its results lack the metric."""


@dataclass
class Benchmark:
    """lm-eval's tasks and their data."""

    tasks: dict[str, Any] = field(default_factory=dict)  # by name, in lm-eval's order
    origins: dict[str, str] = field(default_factory=dict)  # hub id -> commit, or "files", "current"
    sets: dict[str, Any] = field(default_factory=dict)  # data sets that were read from a hub, by ``row_sets.set_key``


def task_yaml(name: str, rows: Path, num_fewshot: int) -> dict[str, Any]:
    """The lm-eval definition of a multiple-choice task of ours: {query, choices, gold} rows, acc and acc_norm.

    Examples are other rows of the same; without ``fewshot_split`` lm-eval would draw the row itself among them.
    """
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "fewshot_split": "test",
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


def load(cfg: EvaluationJob, inputs: Mapping[str, Path], runtime: Runtime) -> Benchmark:
    """lm-eval's tasks of the benchmark, with their data, to be evaluated as it says.

    Args:
        inputs: "rows" are those of a task of ours, or the data sets of lm-eval's, which are read from a hub otherwise.

    Raises:
        EvaluationError: see ``read``; or a setting doesn't fit the tasks, such as several without ``aggregate``.
    """
    benchmark, where, name = read(cfg, inputs, runtime), f"evaluation.tasks.{cfg.name}", cfg.task.task or cfg.name
    tasks = benchmark.tasks
    if len(tasks) > 1 and cfg.task.aggregate is None:
        raise EvaluationError(
            f"{where}.task={name!r}: is {len(tasks)} tasks ({', '.join(list(tasks)[:3])}, ..). Set aggregate=mean or "
            "weighted to make one number of theirs, or choose one task."
        )
    if unknown := set(cfg.task.metrics) - set(tasks):
        raise EvaluationError(f"{where}.metrics: {sorted(unknown)} isn't among {name}'s tasks: {', '.join(tasks)}.")
    for task in tasks.values():
        _check_measure(where, cfg.task, task)
        _check_examples(where, cfg.task, task)
    return benchmark


def read(cfg: EvaluationJob, inputs: Mapping[str, Path], runtime: Runtime) -> Benchmark:
    """lm-eval's tasks of the benchmark, with their data; how they are to be evaluated isn't looked at.

    Args:
        inputs: see ``load``.

    Raises:
        EvaluationError: there is no such task, its data can't be had, or it runs code and that isn't confirmed.
    """
    where = f"evaluation.tasks.{cfg.name}"
    with tempfile.TemporaryDirectory() as folder:
        if cfg.task.kind is TaskKind.lm_eval:
            assert cfg.task.task is not None
            name = cfg.task.task
            manager = _manager(name, runtime.cache)
            if name not in manager.task_index:
                raise EvaluationError(
                    f"{where}.task={name!r}: lm-eval has no task, group or tag of this name."
                    f"{nearest(name, manager.task_index)}"
                )
            # before they are loaded: code_eval runs code as soon as it is
            if (unsafe := _code_tasks(manager.task_index, name)) and not code_allowed(cfg):
                raise EvaluationError(code_refusal(cfg, unsafe))
        else:
            name = cfg.name
            definition = task_yaml(name, (inputs["rows"] / "rows.jsonl").absolute(), cfg.task.num_fewshot or 0)
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
            manager = TaskManager(include_path=folder, include_defaults=False)
        try:
            with _data(cfg, inputs.get("rows"), runtime) as benchmark:

                def read_tasks() -> dict[str, Any]:
                    random.seed(cfg.seed)  # some tasks shuffle their examples while they are loaded
                    return dict(manager.load([name])["tasks"])

                tasks = benchmark.tasks = patiently(read_tasks, where)
        except EvaluationError:
            raise
        except IndexError as error:  # lm-eval looks at the first item
            raise EvaluationError(
                f"{where}: lm-eval's task {name!r} finds no item in the split that it asks. It reads "
                f"{', '.join(cfg.task.files) or 'what the hub has'}: set files for the splits that it needs."
            ) from error
        except (OSError, RuntimeError, ValueError, ImportError) as error:  # the hub's errors are of all these kinds
            raise EvaluationError(
                f"{where}: lm-eval's task {name!r} can't be loaded ({type(error).__name__}: {error}). If its data come "
                "from the hub, connect to the network, accept the data set's terms and log in; or choose another "
                "evaluation."
            ) from error
    for task in tasks.values():
        if callable(task.config.process_docs):
            task.config.process_docs = _once(task.config.process_docs, cfg.seed)
    return benchmark


def _check_measure(where: str, config: TaskConfig, task: Any) -> None:
    """Refuse a filter or metric that lm-eval's task doesn't give, or of which less is better."""
    name = task.config.task
    filters = [one["name"] for one in task.config.filter_list or [{"name": "none"}]]
    if config.filter not in filters:
        raise EvaluationError(f"{where}.filter={config.filter!r}: lm-eval gives {name} {', '.join(filters)}. Set one.")
    higher = task.higher_is_better()
    for metric in config.metrics.get(name, config.metric).split("+"):
        if metric not in higher and task.config.process_results is None and type(task) is ConfigurableTask:
            raise EvaluationError(f"{where}.metric={metric!r}: isn't one of {name}.{nearest(metric, higher)}")
        if higher.get(metric) is False:
            raise EvaluationError(
                f"{where}.metric={metric!r}: less of it is better, and a report takes benchmarks as shares of which "
                "more is better. Choose another metric, or measure the likelihood of rows of yours (kind: nll)."
            )
        if metric in _OF_100:
            raise EvaluationError(
                f"{where}.metric={metric!r}: goes to 100, and a report takes benchmarks as shares of 1. Choose another."
            )


def _check_examples(where: str, config: TaskConfig, task: Any) -> None:
    """Refuse a number of examples that lm-eval ignores or hasn't, or among which it would show the item itself."""
    asked, name = config.num_fewshot, task.config.task
    if asked and task.config.num_fewshot == 0:
        raise EvaluationError(
            f"{where}.num_fewshot={asked}: lm-eval fixes {name} at 0 examples and would ignore it; set 0."
        )
    count = task.config.num_fewshot if asked is None else asked
    drawing = getattr(task, "fewshot_cfg", None)
    if not count or drawing is None or drawing.samples is not None:
        return
    names = [task.config.training_split, task.config.validation_split, task.config.test_split]
    drawn = drawing.split or next(filter(None, names), None)
    if drawn is None:
        return
    itself = drawn == (task.config.test_split or task.config.validation_split)
    if itself and drawing.split != task.config.test_split:  # else lm-eval leaves the item out
        raise EvaluationError(
            f"{where}.num_fewshot={count}: lm-eval draws {name}'s examples from the items that are asked ({drawn}), "
            "the item itself with its answer among them. Set num_fewshot: 0."
        )
    there = (len(task.dataset[drawn]) if drawn in task.dataset else 0) - itself
    if there < count:
        more = f", or name a file of more: files.{drawn}" if config.files else ""
        raise EvaluationError(
            f"{where}.num_fewshot={count}: {name} draws an item's examples from {max(0, there)} rows of the split "
            f"{drawn!r}. Lower it{more}."
        )


def _manager(name: str, cache: Path) -> TaskManager:
    """lm-eval's index of the folders that hold a task: reading all 14,000 files took most of a small step's time.

    It is that of all folders where a member of the task, group or tag lies elsewhere.

    Args:
        cache: folder with an index of names, made by ``requirements``.
    """
    root = Path(lm_eval.tasks.__file__).parent
    files = task_files(cache.expanduser() / "lm_eval_tasks.json").get(name, [])
    if folders := sorted({str(root / Path(file).relative_to(root).parts[0]) for file in files}):
        manager = TaskManager(include_path=folders, include_defaults=False)
        if not _absent(manager.task_index, name):
            return manager
    return TaskManager()


def _members(entry: Any) -> list[str]:
    """Names of what a group or tag stands for; empty for a task."""
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    if entry.kind.name != "GROUP":
        return []
    listed = entry.cfg["task"]
    listed = listed if isinstance(listed, list) else [listed]
    return [one if isinstance(one, str) else one.get("group") or one["task"] for one in listed]


def _absent(index: Mapping[str, Any], name: str) -> list[str]:
    """What ``name`` stands for and ``index`` lacks."""
    if name not in index:
        return [name]
    return [lacking for member in _members(index[name]) if member != name for lacking in _absent(index, member)]


def _code_tasks(index: Mapping[str, Any], name: str) -> list[str]:
    """Which of the tasks that ``name`` stands for say that they run what the model wrote."""
    entry = index.get(name)
    if entry is None:
        return []
    if entry.kind.name not in ("TAG", "GROUP"):
        return [name] if entry.cfg.get("unsafe_code") else []
    return [task for member in _members(entry) if member != name for task in _code_tasks(index, member)]


@contextlib.contextmanager
def _data(cfg: EvaluationJob, kept: Path | None, runtime: Runtime) -> Iterator[Benchmark]:
    """While open, lm-eval's data sets are those of ``kept``, or the hub's at the configured commit, or from files.

    Yields:
        A benchmark without tasks, which notes what was read.

    Nothing that an earlier run made of them is reused: GPQA's shuffled choices would be those of another seed.
    """
    wanted, commit = cfg.task.dataset, runtime.extra.get("commit")
    if commit is not None and commit.startswith("unresolved:"):
        raise EvaluationError(
            f"evaluation.tasks.{cfg.name}.dataset.revision={commit.removeprefix('unresolved:')!r}: is a branch or tag, "
            "and which commit it is isn't known. Connect to the network and plan again, or set the commit itself."
        )
    real, benchmark = datasets.load_dataset, Benchmark()

    def load_dataset(path: str, name: str | None = None, **more: Any) -> Any:
        if cfg.task.files:
            benchmark.origins[path] = "files"
            return _from_files(cfg, runtime)
        if wanted is not None and path != wanted.hub_id:
            raise EvaluationError(
                f"evaluation.tasks.{cfg.name}.dataset.hub_id={wanted.hub_id!r}: lm-eval's {cfg.task.task} reads "
                f"{path!r}."
            )
        if cfg.task.kind is not TaskKind.lm_eval:
            return real(path=path, name=name, **more)
        key = set_key(path, name, more)
        if kept is not None:
            try:
                loaded, origins = read_set(kept, key)
            except RowSetError as error:
                raise EvaluationError(f"evaluation.tasks.{cfg.name}: {error}") from error
            benchmark.origins |= origins
            return loaded
        if commit is not None:
            more["revision"] = commit
        benchmark.origins[path] = more.get("revision") or "current"
        loaded = real(path=path, name=name, **more)
        if commit is not None:
            _check_commit(cfg, path, commit, loaded)
        benchmark.sets[key] = dict(loaded) if isinstance(loaded, dict) else loaded  # tasks may change the former
        return loaded

    cached = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        with patch.object(datasets, "load_dataset", load_dataset):
            yield benchmark
    finally:
        if cached:
            datasets.enable_caching()


def _check_commit(cfg: EvaluationJob, path: str, commit: str, made: Mapping[str, datasets.Dataset]) -> None:
    """Refuse what datasets has taken from its cache at another commit."""
    if others := other_commits(made.values(), commit):
        raise EvaluationError(
            f"evaluation.tasks.{cfg.name}.dataset.revision={commit!r}: datasets' cache holds {path} at "
            f"{', '.join(others)}. Run the benchmark once with a network, or set that commit."
        )


def _from_files(cfg: EvaluationJob, runtime: Runtime) -> datasets.DatasetDict:
    """The splits of ``files``: rows in the data set's own columns, or LogiQA's text; other splits are empty.

    datasets takes the columns of the first row for those of all, so rows with others are refused.
    """
    splits = {}
    for split in cfg.task.files:
        where, path = f"evaluation.tasks.{cfg.name}.files.{split}", runtime.files.get(f"rows.{split}")
        if path is None:
            raise EvaluationError(f"{where}: the file isn't there. Plan again.")
        try:
            rows = list(logiqa_rows(path) if path.suffix == ".txt" else user_rows(path))
        except SourceError as error:
            raise EvaluationError(f"{where}: {error}") from error
        if not rows:
            raise EvaluationError(f"{where}: {path} holds no row.")
        if odd := next((place for place, row in rows if row.keys() != rows[0][1].keys()), None):
            raise EvaluationError(f"{where}: {odd}: has other columns than the first row. Mend or remove the row.")
        splits[split] = datasets.Dataset.from_list([row for _, row in rows])
    features = next(iter(splits.values())).features
    for split in _SPLITS:
        splits.setdefault(split, datasets.Dataset.from_dict({column: [] for column in features}, features=features))
    return datasets.DatasetDict(splits)


def logiqa_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """LogiQA's Test.txt as {label, context, question, options} with places; a space is put after each full stop.

    Source: the loading script of the hub's EleutherAI/logiqa, which lm-eval names; datasets no longer runs scripts.

    Raises:
        SourceError: a block isn't a label a-d, context, question and four options; or it isn't text.
    """
    for number, block in enumerate(user_text(path).strip().split("\n\n"), start=1):
        lines = block.strip("\n").split("\n")
        if len(lines) != _LOGIQA_LINES or lines[0].strip() not in ("a", "b", "c", "d"):
            raise SourceError(
                f"{path}, block {number}: must be {_LOGIQA_LINES} lines: a letter a-d, context, question, four options."
            )
        context, question, *options = (
            line.replace(".", ". ").strip() for line in (*lines[1:3], *(x[2:] for x in lines[3:]))
        )
        row = {"label": lines[0].strip(), "context": context, "question": question, "options": options}
        yield f"{path}, block {number}", row


def _once(process: Callable[[Any], Any], seed: int) -> Callable[[Any], Any]:
    """``process`` with its result kept: lm-eval calls it for prompts and again for answers, and GPQA's is random."""
    results: dict[int, tuple[Any, Any]] = {}  # the data set too, so that its id stays its own

    def processed(data: Any) -> Any:
        if id(data) not in results:
            random.seed(seed)
            cached = datasets.is_caching_enabled()
            datasets.disable_caching()
            try:
                results[id(data)] = (data, process(data))
            finally:
                if cached:
                    datasets.enable_caching()
        return results[id(data)][1]

    return processed
