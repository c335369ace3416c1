"""Check what a benchmark needs on this machine before any work, not after hours of generating.

In: an EvaluationJob and which of its files are there.  Out: a line for each thing that is missing, with the remedy.
Imports neither torch nor lm-eval: lm-eval's tasks are looked up by name in its YAML files.
Known gap: what is read from a hub is another's part (``icon_repro.report.preflight``).
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from icon_repro.engine.artifact import Step
from icon_repro.engine.records import RecordError, read_json, write_json
from icon_repro.engine.schema import nearest
from icon_repro.evaluate.judge.options import EndpointJudge, ServedAnswers
from icon_repro.evaluate.options import Backend, EvaluationJob, TaskKind
from icon_repro.lm.options import Asking, EndpointConfig

ALLOW_CODE = "ICON_REPRO_ALLOW_CODE"
_PACKAGES = {"ifeval": ("langdetect", "immutabledict", "nltk")}  # of tasks whose name holds the word
_NAME = re.compile(r"""^["']?(?:task|group)["']?:[ \t]*["']?([^\s"'#\[\]-][^\s"'#]*)["']?[ \t]*(?:#.*)?$""", re.M)
_TAGS = re.compile(r"""^["']?tag["']?:[ \t]*(.*(?:\n[ \t]*-.*)*)""", re.M)
_INCLUDE = re.compile(r"""^["']?include["']?:[ \t]*["']?([^\s"'#]+)""", re.M)
_UNSAFE = re.compile(r"""^["']?unsafe_code["']?:[ \t]*["']?true""", re.M | re.I)


def code_allowed(job: EvaluationJob) -> bool:
    """Whether code that a model wrote may be run here: said twice, in the configuration and in the environment."""
    return job.allow_code_execution and os.environ.get(ALLOW_CODE) == "1"


def code_refusal(job: EvaluationJob, tasks: Iterable[str]) -> str:
    """Why these tasks of ``job`` aren't run."""
    return (
        f"evaluation.tasks.{job.name}: {', '.join(sorted(tasks))} runs code that the model wrote, with your rights on "
        "this machine. Use a machine that holds nothing of value, and confirm twice: "
        f"evaluation.allow_code_execution=true, and {ALLOW_CODE}=1 in the environment."
    )


def missing(job: EvaluationJob, files: Sequence[str], index: Path | None = None) -> list[str]:
    """All that the task needs and this machine lacks.

    Args:
        files: splits of ``task.files`` whose file is there.
        index: see ``task_files``.
    """
    task, where = job.task, f"evaluation.tasks.{job.name}"
    problems = []
    if job.backend is Backend.vllm and importlib.util.find_spec("vllm") is None:
        problems.append(
            "evaluation.backend='vllm': vllm isn't installed, and no release of it goes with this environment (0.33 "
            "needs transformers below 5.21). Set evaluation.backend=hf."
        )
    if task.kind is not TaskKind.lm_eval or task.task is None:
        return problems
    known = task_files(index)
    if task.task not in known:
        return [
            *problems,
            f"{where}.task={task.task!r}: lm-eval has no task, group or tag of this name.{nearest(task.task, known)}",
        ]
    if executes_code(known[task.task]) and not code_allowed(job):
        problems.append(code_refusal(job, [task.task]))
    for word, packages in _PACKAGES.items():
        absent = [name for name in packages if importlib.util.find_spec(name) is None] if word in task.task else []
        if absent:
            problems.append(
                f"{where}: lm-eval's {task.task} needs {', '.join(absent)}; pip install {' '.join(absent)}."
            )
        elif word in task.task and not _has_punkt():
            problems.append(
                f"{where}: lm-eval's {task.task} splits sentences with nltk's data 'punkt_tab', which isn't on this "
                "machine. Run `python -m nltk.downloader punkt_tab`; without a network: copy the folder nltk_data "
                "from a machine where that was run, and let NLTK_DATA name it."
            )
    problems += [
        f"{where}.files.{split}={path!r}: no such file; where to get it stands in the evaluation's YAML in conf/."
        for split, path in task.files.items()
        if split not in files
    ]
    return problems


def has_key(endpoint: EndpointConfig) -> bool:
    """Whether the environment holds the endpoint's key; one on this machine needs none."""
    return endpoint.local or bool(os.environ.get(endpoint.api_key_env, "").strip())


def missing_for(steps: Iterable[Step], cache: Path) -> list[str]:
    """What the evaluations among ``steps`` lack, keys of endpoints, budgets that are too small; each thing once.

    Args:
        cache: folder for an index of lm-eval's tasks.
    """
    index = cache.expanduser() / "lm_eval_tasks.json"
    problems: dict[str, None] = {}
    seen, steps = set(), list(steps)
    for step in steps:
        endpoint = getattr(step.params, "endpoint", None)
        if isinstance(endpoint, EndpointConfig) and not has_key(endpoint):
            problems[
                f"{step.stage}: {endpoint.model} at {endpoint.base_url} needs a key: set the environment variable "
                f"{endpoint.api_key_env}, or leave out what asks it (judge=none, ~methods.alpagasus)."
            ] = None
        if isinstance(step.params, EvaluationJob):
            if (key := (step.params.name, step.params.task.task)) in seen:
                continue
            seen.add(key)
            files = [name.removeprefix("rows.") for name in step.files]
            problems |= dict.fromkeys(missing(step.params, files, index))
    return [*problems, *_short_budgets(steps)]


def _short_budgets(steps: Iterable[Step]) -> list[str]:
    """A line for each ``max_cost`` below what a step is expected to cost at most; asking would refuse it, but late."""
    short: dict[str, list[tuple[float, str]]] = {}
    for step in steps:
        params = step.params
        if isinstance(params, Asking) and (limit := params.endpoint.max_cost) is not None:
            tokens_out = params.expected_calls * params.endpoint.max_tokens
            cost = params.endpoint.cost(params.expected_tokens_in, tokens_out)
            if cost > limit:
                keys = {EndpointJudge: "judge.endpoint", ServedAnswers: "judge.served"}
                where = keys.get(type(params), f"endpoint of {step.name}")
                text = f"{step.name}, {params.expected_calls:,} calls, at most {cost:.4g}"
                short.setdefault(f"{where}.max_cost={limit:g}", []).append((cost, text))
    return [
        f"{where}: {len(costs)} steps are expected to take more (most: {max(costs)[1]}). Raise max_cost, which is that "
        "of one step, or lower max_tokens or the number of prompts (sample)."
        for where, costs in short.items()
    ]


@cache
def task_files(index: Path | None = None) -> dict[str, list[str]]:
    """lm-eval's tasks, groups and tags by name, with the YAML files that define them; no file is parsed.

    Args:
        index: a file that keeps what was found for the next time: reading 14,000 files takes seconds.
    """
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations, "lm-eval is a dependency"
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    of = {"folder": str(folder), "version": importlib.metadata.version("lm-eval"), "changed": folder.stat().st_mtime_ns}
    if index is not None and index.is_file():
        with contextlib.suppress(RecordError, KeyError, TypeError):
            stored = read_json(index)
            if stored["of"] == of:
                return {name: [f"{folder}/{file}" for file in files] for name, files in stored["tasks"].items()}
    files_of_name: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in ("", ".yaml") or not path.is_file():  # what others include may have no suffix
            continue
        text = path.read_text(encoding="utf-8")
        names = [match[1] for match in _NAME.finditer(text)]
        for match in _TAGS.finditer(text):
            names += re.findall(r"[^\s\-\[\],\"'][^\s\[\],\"']*", match[1])
        for name in names:
            files_of_name.setdefault(name, []).append(str(path))
    if index is not None:
        with contextlib.suppress(OSError):  # a cache that can't be written costs time only
            index.parent.mkdir(parents=True, exist_ok=True)
            tasks = {name: [path.removeprefix(f"{folder}/") for path in files] for name, files in files_of_name.items()}
            write_json(index, {"of": of, "tasks": tasks})
    return files_of_name


def executes_code(files: Iterable[str]) -> bool:
    """Whether one of these YAML files, or a file that it includes, says that it runs what the model wrote."""
    for path in files:
        text = Path(path).read_text(encoding="utf-8")
        if _UNSAFE.search(text) or executes_code(str(Path(path).parent / m[1]) for m in _INCLUDE.finditer(text)):
            return True
    return False


def _has_punkt() -> bool:
    """Whether nltk will find its sentence splitter; it takes seconds to import."""
    named = [folder for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    beside_python = [f"{sys.prefix}/{part}nltk_data" for part in ("", "share/", "lib/")]
    common = [f"/usr/{part}/nltk_data" for part in ("share", "local/share", "lib", "local/lib")]
    folders = [Path(folder).expanduser() / "tokenizers" for folder in [*named, "~/nltk_data", *beside_python, *common]]
    return any((f / "punkt_tab" / "english").is_dir() or (f / "punkt_tab.zip").is_file() for f in folders)
