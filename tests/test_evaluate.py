"""Benchmarks through the real lm-eval on tiny models, against a loop that ranks the choices one by one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from icon_repro.data.options import Dtype
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, read_lines, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate import backends
from icon_repro.evaluate import step as evaluate
from icon_repro.evaluate.items import of_evaluation
from icon_repro.evaluate.options import EvaluationJob, TaskConfig, TaskKind
from icon_repro.evaluate.step import EvaluationError
from icon_repro.lm.load import load_model, load_tokenizer

ROWS = [
    {"id": "r0", "query": "Question: Name a colour.\nAnswer:", "choices": ["Red", "It is very late", "7"], "gold": 0},
    {"id": "r1", "query": "Question: What is 3 + 4?\nAnswer:", "choices": ["10 pm", "seven, I think", "7"], "gold": 1},
    {"id": "r2", "query": "{{gold}} {% if %} 'a' \"b\"\nA:", "choices": ["{{gold}}", "a \"b\" 'c'", "\\n"], "gold": 2},
    {"id": "r3", "query": "Question: ünïcödé 😀 [1, 2]\nAnswer:", "choices": ["😀", "é\u2028è", "['x']"], "gold": 0},
    {"id": "r4", "query": "Question: <s> </s>\nAnswer:", "choices": ["<pad>", "None", "0"], "gold": 1},
    {"id": "r5", "query": "Question: end in a space. ", "choices": ["yes", " no", "may\nbe"], "gold": 2},
    # one token each: the model alone decides
    {"id": "r6", "query": "Question: Which letter?\nAnswer:", "choices": ["q", "w", "k"], "gold": 0},
    {"id": "r7", "query": "Question: Which digit?\nAnswer:", "choices": ["5", "6", "8"], "gold": 1},
    {"id": "r8", "query": "Question: Which sign?\nAnswer:", "choices": ["%", "#", "$"], "gold": 2},
    {"id": "r9", "query": "Question: What else?\nAnswer:", "choices": ["v", "0", "@"], "gold": 0},
]  # fmt: skip
TASK = TaskConfig(TaskKind.multiple_choice, "acc")
JOB = EvaluationJob("toy", task=TASK, dtype=Dtype.float32, max_length=256, seed=1)


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model step."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "weights").symlink_to(tiny_model)
    write_json(folder / "model.json", {"hub_id": None, "commit": None})
    return folder


@pytest.fixture
def measure(tmp_path: Path, base: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Runs the stage; returns its folder and metrics."""

    def make(job: EvaluationJob = JOB, *, batch: int = 4, **inputs: Path) -> tuple[Path, dict[str, Any]]:
        rows = tmp_path / "rows"
        rows.mkdir(exist_ok=True)
        write_rows(rows / "rows.jsonl", ROWS)
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir()
        runtime = Runtime(ClusterConfig(device="cpu", eval_batch_size=batch), tmp_path)
        return out, evaluate.run(job, {"model": base, "rows": rows, **inputs}, out, runtime)

    return make


def samples(out: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_lines(out / "samples.jsonl")]


def likelihoods(out: Path) -> list[list[float]]:
    return [[answer[0][0] for answer in sample["resps"]] for sample in samples(out)]


def slow_likelihoods(model: Any, tokenizer: Any) -> list[list[float]]:
    """Sum of the log-probabilities of each continuation; control tokens in an item are letters."""
    found = []
    tokenizer.split_special_tokens = True
    for row in ROWS:
        query = row["query"].rstrip()
        scores = []
        for choice in row["choices"]:
            ids = tokenizer(row["query"] + " " + choice)["input_ids"]
            start = len(tokenizer(query)["input_ids"])
            with torch.no_grad():
                logs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
            scores.append(sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids))))
        found.append(scores)
    return found


def outcomes(scores: list[list[float]], *, by_length: bool) -> list[float]:
    made = []
    for row, values in zip(ROWS, scores, strict=True):
        if by_length:
            values = [value / len(choice) for value, choice in zip(values, row["choices"], strict=True)]
        made.append(float(values.index(max(values)) == row["gold"]))
    return made


# ---------------------------------------------------------------- tasks of ours


def test_run_accuracies_equal_a_slow_loop(measure: Any, model_step: Path) -> None:
    expected = slow_likelihoods(load_model(model_step, Dtype.float32, torch.device("cpu")), load_tokenizer(model_step))
    out, metrics = measure(model=model_step)
    torch.testing.assert_close(torch.tensor(likelihoods(out)), torch.tensor(expected), rtol=0, atol=1e-3)
    for metric, by_length in (("acc", False), ("acc_norm", True)):
        wanted = outcomes(expected, by_length=by_length)
        assert [sample[metric] for sample in samples(out)] == wanted
        assert read_json(out / "results.json")["results"]["toy"][f"{metric},none"] == pytest.approx(
            sum(wanted) / len(ROWS)
        )
    assert outcomes(expected, by_length=False) != outcomes(expected, by_length=True)  # else it shows nothing
    assert metrics["value"] == pytest.approx(sum(outcomes(expected, by_length=False)) / len(ROWS))
    assert (metrics["task"], metrics["metric"], metrics["items"], metrics["version"]) == ("toy", "acc", len(ROWS), 1)


def test_run_items_are_the_outcomes_of_the_samples(measure: Any) -> None:
    out, _ = measure()
    (part,) = of_evaluation(out)["parts"]
    assert part["values"] == "".join(str(int(sample["acc"])) for sample in samples(out))
    assert 0 < part["values"].count("1") < len(ROWS)


def test_run_metric_of_the_config_is_the_value(measure: Any) -> None:
    out, metrics = measure(replace(JOB, task=replace(TASK, metric="acc_norm")))
    assert metrics["value"] == sum(sample["acc_norm"] for sample in samples(out)) / len(ROWS)
    assert 0 < metrics["stderr"] < 0.3


def test_run_texts_reach_the_model_unaltered(measure: Any) -> None:
    out, _ = measure()
    for row, sample in zip(ROWS, samples(out), strict=True):
        assert sample["doc"] == row and sample["target"] == row["gold"]
        assert sample["arguments"] == [[row["query"], f" {choice}"] for choice in row["choices"]]


def test_run_bos_comes_first_and_once(measure: Any, model_step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    load = backends.load_tuned

    def watched(*arguments: Any, **more: Any) -> Any:
        model = load(*arguments, **more)
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.extend((args[0] if args else kwargs["input_ids"]).tolist()),
            with_kwargs=True,
        )
        return model

    monkeypatch.setattr(backends, "load_tuned", watched)
    measure(model=model_step)
    tokenizer = load_tokenizer(model_step)
    first = {tokenizer(row["query"])["input_ids"][0] for row in ROWS}
    assert {ids[0] for ids in seen} == first
    assert all(tokenizer.bos_token_id not in ids[1:2] for ids in seen)


@pytest.mark.parametrize("limit", [2, 50])
def test_run_limit_takes_the_first_rows(measure: Any, limit: int) -> None:
    out, metrics = measure(replace(JOB, task=replace(TASK, limit=limit)))
    found = samples(out)
    assert metrics["items"] == len(found) == min(limit, len(ROWS))
    assert [sample["doc_id"] for sample in found] == list(range(len(found)))
    assert [sample["doc"]["id"] for sample in found] == [row["id"] for row in ROWS][:limit]


def test_run_batch_size_and_seed_have_no_influence(measure: Any) -> None:
    one, other = measure(batch=1)[0], measure(replace(JOB, seed=2), batch=30)[0]
    torch.testing.assert_close(torch.tensor(likelihoods(one)), torch.tensor(likelihoods(other)), rtol=0, atol=1e-4)


def test_run_few_shots_are_put_first_and_are_other_rows(measure: Any) -> None:
    out, _ = measure(replace(JOB, task=replace(TASK, num_fewshot=2)))
    assert len(samples(out)) == len(ROWS)
    for sample, row in zip(samples(out), ROWS, strict=True):
        text, choice = sample["arguments"][0]
        assert text.endswith("\n\n" + row["query"]) and choice == f" {row['choices'][0]}"
        assert text.count(row["query"]) == 1 and sum(text.count(other["query"]) for other in ROWS) == 3


def test_run_more_shots_than_other_rows_are_refused(measure: Any) -> None:
    with pytest.raises(
        EvaluationError, match=r"num_fewshot=10: toy draws .* from 9 rows of the split 'test'\. Lower it\."
    ):
        measure(replace(JOB, task=replace(TASK, num_fewshot=10)))


def test_run_results_hold_no_path(measure: Any, tmp_path: Path, base: Path) -> None:
    out, _ = measure()
    assert {path.name for path in out.iterdir()} == {"items.json", "results.json", "samples.jsonl"}
    for path in out.iterdir():
        for place in (tmp_path, base, Path.cwd()):
            assert str(place) not in path.read_text(encoding="utf-8")


def test_run_unknown_metric_names_those_there_are(measure: Any) -> None:
    with pytest.raises(EvaluationError, match=r"tasks\.toy\.metric='f1': isn't one of toy\. Known: acc, acc_norm"):
        measure(replace(JOB, task=replace(TASK, metric="f1")))


# ---------------------------------------------------------------- tuned models


def test_run_adapter_is_used(measure: Any, base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(load_model(base, Dtype.float32, torch.device("cpu")), lora)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.normal_()
    model.save_pretrained(tmp_path / "tuned" / "adapter")
    check_tuned(measure, model.eval(), load_tokenizer(base), tmp_path / "tuned")


def test_run_fully_tuned_weights_are_used(measure: Any, base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load_model(base, Dtype.float32, torch.device("cpu"))
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_()
    model.save_pretrained(tmp_path / "tuned" / "weights")
    load_tokenizer(base).save_pretrained(tmp_path / "tuned" / "weights")
    write_json(tmp_path / "tuned" / "model.json", {"hub_id": None, "commit": None})
    check_tuned(measure, model, load_tokenizer(base), tmp_path / "tuned")


def check_tuned(measure: Any, model: Any, tokenizer: Any, tuned: Path) -> None:
    untuned, _ = measure()
    out, _ = measure(tuned=tuned)
    expected = slow_likelihoods(model, tokenizer)
    torch.testing.assert_close(torch.tensor(likelihoods(out)), torch.tensor(expected), rtol=1e-4, atol=1e-3)
    assert [sample["acc"] for sample in samples(out)] == outcomes(expected, by_length=False)
    assert [sample["acc"] for sample in samples(out)] != [sample["acc"] for sample in samples(untuned)]


# ---------------------------------------------------------------- tasks of lm-eval; more in tests/evaluate


@pytest.mark.slow
def test_run_all_tasks_of_lm_eval_are_known(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskConfig(TaskKind.lm_eval, "acc", task="gpqa_diamond_zeroshot")
    with pytest.raises(EvaluationError, match=r"'gpqa_diamond_zeroshot'.*connect to the network"):
        measure(replace(JOB, name="mine", task=task))
