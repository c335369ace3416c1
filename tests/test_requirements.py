"""What benchmarks lack on a machine is said before any work: packages, data, files, permission to run code."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import small

from icon_repro.data.options import Dtype
from icon_repro.evaluate import requirements
from icon_repro.evaluate.options import Backend, EvaluationJob, TaskConfig, TaskKind
from icon_repro.evaluate.requirements import executes_code, missing, missing_for, task_files
from icon_repro.experiment import plan

COMMIT = "c" * 40


def job(task: str = "winogrande", **more: Any) -> EvaluationJob:
    fields = {key: more.pop(key) for key in list(more) if key in TaskConfig.__dataclass_fields__}
    config = TaskConfig(TaskKind.lm_eval, "acc", task=task, **fields)
    return EvaluationJob("mine", task=config, dtype=Dtype.float32, max_length=512, seed=1, **more)


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.delenv(requirements.ALLOW_CODE, raising=False)


@pytest.mark.parametrize("name", ["winogrande", "mmlu", "glue", "leaderboard_bbh", "mmlu_anatomy", "truthfulqa_mc2"])
def test_missing_task_group_or_tag_of_lm_eval_is_known(name: str) -> None:
    assert missing(job(name), []) == []


def test_missing_unknown_task_has_its_neighbour() -> None:
    (text,) = missing(job("arc_chalenge"), [])
    assert "evaluation.tasks.mine.task='arc_chalenge'" in text and "'arc_challenge'" in text


@pytest.mark.parametrize("absent", ["langdetect", "immutabledict", "nltk"])
def test_missing_package_of_ifeval_is_named(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find(name))
    (text,) = missing(job("leaderboard_ifeval"), [])
    assert "evaluation.tasks.mine" in text and f"pip install {absent}." in text
    assert missing(job("winogrande"), []) == []


@pytest.mark.parametrize("made", ["tokenizers/punkt_tab/english", "tokenizers/punkt_tab.zip", None])
def test_missing_sentence_splitter_of_ifeval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: str | None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    if made and made.endswith(".zip"):
        (tmp_path / "nltk" / made).parent.mkdir(parents=True)
        (tmp_path / "nltk" / made).touch()
    elif made:
        (tmp_path / "nltk" / made).mkdir(parents=True)
    found = missing(job("ifeval"), [])
    if made:
        assert found == []
    else:
        (text,) = found
        assert "python -m nltk.downloader punkt_tab" in text and "NLTK_DATA" in text


@pytest.mark.parametrize(
    "task, code", [("humaneval", True), ("mbpp_plus", True), ("humaneval_64_instruct", True), ("arc_easy", False)]
)
def test_executes_code_says_what_lm_evals_files_say(task: str, code: bool) -> None:
    assert executes_code(task_files()[task]) is code


def test_missing_permission_to_run_code_needs_both(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = missing(job("humaneval"), [])
    assert "evaluation.allow_code_execution=true" in text and "ICON_REPRO_ALLOW_CODE=1" in text
    assert missing(job("humaneval", allow_code_execution=True), []) == [text]
    monkeypatch.setenv("ICON_REPRO_ALLOW_CODE", "1")
    assert missing(job("humaneval"), []) == [text]
    assert missing(job("humaneval", allow_code_execution=True), []) == []


def test_missing_file_of_rows_is_named_with_its_key() -> None:
    wanted = job("logiqa", files={"test": "somewhere/Test.txt", "train": "x.jsonl"})
    assert missing(wanted, ["test", "train"]) == []
    (text,) = missing(wanted, ["train"])
    assert "evaluation.tasks.mine.files.test='somewhere/Test.txt': no such file" in text


def test_missing_vllm_names_the_backend_that_is_here() -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed here")
    (text,) = missing(job(backend=Backend.vllm), [])
    assert "evaluation.backend='vllm'" in text and "evaluation.backend=hf" in text


def test_missing_for_steps_says_each_thing_once(tmp_path: Path) -> None:
    task = {"kind": "lm_eval", "metric": "acc", "task": "humaneval"}
    experiment = plan(small(tmp_path, {"evaluation.tasks.code": task}))
    assert sum(step.label.endswith("-code") for step in experiment.steps) > 1
    (text,) = missing_for(experiment.steps, tmp_path)
    assert text.startswith("evaluation.tasks.code")
    others = [step for step in experiment.steps if not isinstance(step.params, EvaluationJob)]
    assert missing_for(others, tmp_path) == []


JUDGE = {
    "kind": "endpoint",
    "methods": ["random", "icon"],
    "sets": {
        "tiny": {
            "source": {
                "kind": "file",
                "format": "alpaca",
                "name": "tiny_prompts",
                "path": str(Path(requirements.__file__).parents[1] / "data" / "tiny" / "assessment.jsonl"),
                "fields": {"response": None},
            },
            "sample": 4,
            "expected_rows": 4,
            "expected_prompt_chars": 40,
        }
    },
}
PRICES = {"model": "toy", "price_in": 10.0, "price_out": 30.0, "max_tokens": 100}


@pytest.mark.parametrize("key", [None, "", " \n", "sk-x"])
def test_missing_for_key_of_an_endpoint_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str | None
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    steps = plan(small(tmp_path, {"judge": {**JUDGE, "endpoint": PRICES}})).steps
    found = missing_for(steps, tmp_path)
    assert len(found) == (key != "sk-x")
    assert all("toy at https://api.openai.com/v1 needs a key" in text and "OPENAI_API_KEY" in text for text in found)


def test_missing_for_budget_below_the_estimate_is_said_before_any_work(tmp_path: Path) -> None:
    # of a step: 8 calls, each with 10 tokens of the prompt, two answers of 200 and 300 of ours, and 100 out
    cost = 8 * ((10 + 2 * 200 + 300) * 10.0 + 100 * 30.0) / 1e6

    def lacking(limit: float | None) -> list[str]:
        local = {**PRICES, "base_url": "http://127.0.0.1:1/v1", "max_cost": limit}
        return missing_for(plan(small(tmp_path, {"judge": {**JUDGE, "endpoint": local}})).steps, tmp_path)

    assert lacking(None) == lacking(cost * 1.001) == []
    (text,) = lacking(cost * 0.999)
    for part in (f"judge.endpoint.max_cost={cost * 0.999:g}: 2 steps", "8 calls", f"{cost:.4g}", "Raise max_cost"):
        assert part in text


def test_requirements_import_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys\nfrom icon_repro.evaluate.requirements import task_files, _has_punkt\ntask_files(), _has_punkt()\n"
        "print(*({'torch', 'lm_eval', 'datasets', 'nltk'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_task_files_of_the_index_are_those_of_the_folder(tmp_path: Path) -> None:
    index = tmp_path / "cache" / "index.json"
    read = task_files(index)
    assert index.is_file() and "arc_challenge" in read
    task_files.cache_clear()
    assert task_files(index) == read == task_files(None)
    task_files.cache_clear()
    index.write_text('{"of": {}}', encoding="utf-8")
    assert task_files(index) == read
