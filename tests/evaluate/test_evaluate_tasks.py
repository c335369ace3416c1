"""The benchmarks of paper12: lm-eval's definitions on made-up rows, a tiny random model, numbers against slow loops."""

import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmark_rows
import datasets
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from small import composed

from icon_repro.config.load import load
from icon_repro.data.files import SourceError
from icon_repro.data.options import Dtype, HubData
from icon_repro.data.rows import Example
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, read_lines, write_json, write_rows
from icon_repro.engine.runtime import Interrupted, Runtime
from icon_repro.evaluate import backends, parts, requirements, row_sets, shared_text, tasks
from icon_repro.evaluate import benchmark_rows as benchmark_rows_step
from icon_repro.evaluate import step as evaluate
from icon_repro.evaluate.options import Aggregate, Backend, EvaluationJob, SharedTextJob, TaskConfig, TaskKind, rows_job
from icon_repro.evaluate.step import EvaluationError
from icon_repro.lm.load import load_model, load_tokenizer

FOLDERS = (
    "arc hellaswag truthfulqa gpqa/zeroshot leaderboard/ifeval leaderboard/musr leaderboard/bbh_mc logiqa winogrande "
    "glue mmlu/default humaneval"
)
PAPER12 = load(composed("experiment=smoke_tiny", "evaluation=paper12")).evaluation.tasks
Asked = list[tuple[str, str | None, str | None]]
Measure = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def catalogue() -> TaskManager:
    """The folders of lm-eval's own tasks that paper12 uses: to index all takes ten seconds."""
    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None and spec.origin is not None
    folders = [str(Path(spec.origin).parent / folder) for folder in FOLDERS.split()]
    return TaskManager(include_path=folders, include_defaults=False)


@pytest.fixture
def hub(catalogue: TaskManager, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A hub that serves the made-up rows; what was asked for."""
    asked: Asked = []
    monkeypatch.setattr(tasks, "TaskManager", lambda *_, **__: catalogue)
    monkeypatch.setattr(datasets, "load_dataset", benchmark_rows.serve(asked))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(evaluate, "_DRAWS", 20)
    return asked


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model step."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "weights").symlink_to(tiny_model)
    write_json(folder / "model.json", {"hub_id": None, "commit": None})
    return folder


def job(name: str, **more: Any) -> EvaluationJob:
    """The benchmark as paper12 has it, in float32."""
    changes = {key: more.pop(key) for key in list(more) if key in TaskConfig.__dataclass_fields__}
    settings = {"dtype": Dtype.float32, "max_length": 1024, "seed": 7, **more}
    return EvaluationJob(name, task=replace(PAPER12[name], **changes), **settings)


@pytest.fixture
def measure(tmp_path: Path, base: Path, hub: Asked) -> Measure:
    """Runs the stage; returns its folder and metrics."""

    def make(wanted: EvaluationJob, out: Path | None = None, **inputs: Path) -> tuple[Path, dict[str, Any]]:
        out = out or tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir(exist_ok=True)
        extra = {} if wanted.task.dataset is None or wanted.task.files else {"commit": wanted.task.dataset.revision}
        files = {f"rows.{split}": Path(path) for split, path in wanted.task.files.items()}
        cluster = ClusterConfig(device="cpu", eval_batch_size=4)
        runtime = Runtime(cluster, tmp_path / "cache", files=files, extra=extra, terminal=None)
        return out, evaluate.run(wanted, {"model": base, **inputs}, out, runtime)

    return make


def samples(out: Path, task: str | None = None) -> list[dict[str, Any]]:
    return [row for _, row in read_lines(out / "samples.jsonl") if task in (None, row["task"])]


def likelihoods(out: Path, task: str | None = None) -> list[list[float]]:
    return [[answer[0][0] for answer in sample["resps"]] for sample in samples(out, task)]


@pytest.fixture(scope="module")
def slow(base: Path) -> Callable[[str, str], float]:
    """Log-likelihood of a continuation, token by token; trailing spaces of the context belong to the continuation."""
    model, tokenizer = load_model(base, Dtype.float32, torch.device("cpu")), load_tokenizer(base)

    def likelihood(context: str, continuation: str) -> float:
        ids = tokenizer(context + continuation)["input_ids"]
        with torch.no_grad():
            logs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        start = len(tokenizer(context.rstrip())["input_ids"])
        return sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids)))

    return likelihood


def best(values: list[float]) -> int:
    return values.index(max(values))


# ---------------------------------------------------------------- one task, ranked choices

ARC_PROMPTS = [(f"Question: {row['question']}\nAnswer:", row["choices"]["text"]) for row in benchmark_rows.ARC]
HELLASWAG_PROMPTS = [
    ("Baking: A cook opens an oven. He", ["takes bread out.", "swims home.", "sings.", "x"]),
    ("Rowing: Two people sit in a boat. They", ["fly.", "pull the oars.", "are late", "7"]),
    ("Reading. : A girl holds a book. She", ["a", "turns a page.", "bb", "eats it."]),
]
LOGIQA_PROMPTS = [
    (
        "Passage: All birds here sing. Some birds are red.\nQuestion: Which follows?\nChoices:\nA. No bird is red.\n"
        "B. Some that sing are red.\nC. Red things sing.\nD. None of these.\nAnswer:",
        ["No bird is red.", "Some that sing are red.", "Red things sing.", "None of these."],
    ),
    (
        "Passage: It rained on Monday.\nQuestion: What is true?\nChoices:\nA. It was dry.\nB. It snowed.\n"
        "C. It was Friday.\nD. It was wet.\nAnswer:",
        ["It was dry.", "It snowed.", "It was Friday.", "It was wet."],
    ),
]


@pytest.mark.parametrize(
    "name, prompts, gold",
    [
        ("arc", ARC_PROMPTS, [1, 1, 0]),
        ("hellaswag", HELLASWAG_PROMPTS, [0, 1, 1]),
        ("logiqa", LOGIQA_PROMPTS, [1, 3]),
    ],
)
def test_run_choices_are_ranked_as_a_slow_loop_ranks_them(
    measure: Measure, hub: Asked, slow: Any, tmp_path: Path, name: str, prompts: list[Any], gold: list[int]
) -> None:
    files = {"files": {"test": str(benchmark_rows.logiqa_file(tmp_path))}} if name == "logiqa" else {}
    out, metrics = measure(job(name, **files))
    expected = [[[context, f" {choice}"] for choice in choices] for context, choices in prompts]
    assert [sample["arguments"] for sample in samples(out)] == expected
    values = [[slow(*pair) for pair in pairs] for pairs in expected]
    for found, wanted in zip(likelihoods(out), values, strict=True):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=0, atol=1e-3)
    hits = [float(best(row) == answer) for row, answer in zip(values, gold, strict=True)]
    assert [sample["outcome"] for sample in samples(out)] == hits
    assert metrics["value"] == pytest.approx(statistics.fmean(hits))
    assert metrics["stderr"] == pytest.approx(statistics.stdev(hits) / math.sqrt(len(hits)))
    assert (metrics["task"], metrics["metric"], metrics["filter"]) == (PAPER12[name].task, "acc", "none")
    assert (metrics["items"], metrics["shots"], metrics["version"]) == (len(prompts), 0, 1.0)
    assert (metrics["chance"], metrics["group"], metrics["tasks"]) == (0.25, "RS", 1)
    if name == "logiqa":
        assert hub == [] and metrics["datasets"] == {"EleutherAI/logiqa": "files"}
    else:
        dataset = PAPER12[name].dataset
        assert dataset is not None
        assert {(path, revision) for path, _, revision in hub} == {(dataset.hub_id, dataset.revision)}
        assert metrics["datasets"] == {dataset.hub_id: dataset.revision}


def test_run_winogrande_ranks_the_two_contexts(measure: Measure, slow: Any) -> None:
    out, metrics = measure(job("winogrande"))
    hits = []
    for row in benchmark_rows.WINOGRANDE:
        before, after = row["sentence"].split("_")
        values = [slow(before + row[option], " " + after.strip()) for option in ("option1", "option2")]
        hits.append(float(best(values) + 1 == int(row["answer"])))
    assert [sample["outcome"] for sample in samples(out)] == hits
    assert metrics["value"] == pytest.approx(statistics.fmean(hits)) and metrics["chance"] == 0.5


def test_run_truthfulqa_mc2_is_the_share_of_probability_on_true_answers(measure: Measure, slow: Any) -> None:
    out, metrics = measure(job("truthfulqa"))
    expected = []
    for sample, row in zip(samples(out), benchmark_rows.TRUTHFULQA, strict=True):
        context = sample["arguments"][0][0]
        assert context.startswith("Q: What is human life") and context.endswith(f"\n\nQ: {row['question']}\nA:")
        targets = row["mc2_targets"]
        masses = [math.exp(slow(context, f" {choice}")) for choice in targets["choices"]]
        true = math.fsum(mass for mass, label in zip(masses, targets["labels"], strict=True) if label)
        expected.append(true / math.fsum(masses))
    assert [sample["outcome"] for sample in samples(out)] == pytest.approx(expected, abs=1e-4)
    assert metrics["value"] == pytest.approx(statistics.fmean(expected), abs=1e-4)


def test_run_gpqa_choices_are_shuffled_by_the_seed_and_stay_so(measure: Measure, slow: Any) -> None:
    out, metrics = measure(job("gpqa"))
    hits = []
    for sample, row in zip(samples(out), benchmark_rows.GPQA, strict=True):
        context = sample["arguments"][0][0]
        right = [line for line in context.splitlines() if line.endswith(f") {row['Correct Answer']}")]
        assert len(right) == 1 and context.startswith(
            f"What is the correct answer to this question:{row['Question']}\n"
        )
        values = [slow(context, f" ({letter})") for letter in "ABCD"]
        hits.append(float("ABCD"[best(values)] == right[0][1]))
    assert [sample["outcome"] for sample in samples(out)] == hits  # prompts and answers from one shuffle
    assert len({sample["target"] for sample in samples(out)}) > 1
    assert measure(job("gpqa"))[1]["prompts_sha256"] == metrics["prompts_sha256"]
    assert measure(job("gpqa", seed=8))[1]["prompts_sha256"] != metrics["prompts_sha256"]


def test_run_prompt_hash_changes_with_a_target_or_a_text(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {measure(job("winogrande"))[1]["prompts_sha256"]}
    for column, value in (("answer", "1"), ("option1", "lid")):
        changed = [{**benchmark_rows.WINOGRANDE[0], column: value}, *benchmark_rows.WINOGRANDE[1:]]
        monkeypatch.setattr(benchmark_rows, "WINOGRANDE", changed)
        hashes.add(measure(job("winogrande"))[1]["prompts_sha256"])
    assert len(hashes) == 3


# ---------------------------------------------------------------- groups and tags


def test_run_glue_takes_each_tasks_metric_and_averages_tasks(measure: Measure) -> None:
    out, metrics = measure(job("glue"))
    labels = {**benchmark_rows.GLUE, "mnli_mismatch": benchmark_rows.GLUE["mnli"][:2]}
    values = {}
    for task, rows in labels.items():
        guesses = [best(row) for row in likelihoods(out, task)]
        gold = [row["label"] for row in rows]
        counts = {pair: list(zip(gold, guesses, strict=True)).count(pair) for pair in ((1, 1), (0, 1), (1, 0), (0, 0))}
        (tp, fp), (fn, tn) = (counts[1, 1], counts[0, 1]), (counts[1, 0], counts[0, 0])
        if task == "cola":
            scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
            values[task] = (tp * tn - fp * fn) / scale if scale else 0.0
        elif task in ("mrpc", "qqp"):
            values[task] = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
        else:
            values[task] = sum(a == b for a, b in zip(gold, guesses, strict=True)) / len(gold)
    stored = read_json(out / "results.json")["tasks"]
    assert {task: facts["value"] for task, facts in stored.items()} == pytest.approx(values)
    assert {task: facts["metric"] for task, facts in stored.items() if facts["metric"] != "acc"} == {
        "cola": "mcc",
        "mrpc": "f1",
        "qqp": "f1",
    }
    assert metrics["value"] == pytest.approx(statistics.fmean(values.values())) and metrics["tasks"] == 9
    assert metrics["weights"] == pytest.approx(dict.fromkeys(values, 1 / 9))
    assert metrics["stderr"] == pytest.approx(math.hypot(*(stored[task]["stderr"] for task in values)) / 9)
    with_outcome = {sample["task"] for sample in samples(out) if "outcome" in sample}
    assert with_outcome == set(values) - {"cola", "mrpc", "qqp"}
    assert metrics["version"]["wnli"] == 2.0 and metrics["shots"] == 0


def test_run_group_weighted_by_items_equals_lm_evals_own_number(
    measure: Measure, catalogue: TaskManager, base: Path
) -> None:
    wanted = job("mmlu", task="mmlu_social_sciences")
    out, metrics = measure(wanted)
    lm = HFLM(
        pretrained=load_model(base, Dtype.float32, torch.device("cpu")),
        tokenizer=load_tokenizer(base),
        batch_size=4,
        max_length=1024,
    )
    theirs = simple_evaluate(model=lm, tasks=["mmlu_social_sciences"], task_manager=catalogue, bootstrap_iters=0)
    assert theirs is not None
    assert metrics["value"] == pytest.approx(theirs["results"]["mmlu_social_sciences"]["acc,none"])
    hits: dict[str, list[float]] = {}
    for sample, values in zip(samples(out), likelihoods(out), strict=True):
        hits.setdefault(sample["task"], []).append(float(best(values) == sample["doc"]["answer"]))
    assert {len(task) for task in hits.values()} == {1, 2, 3}
    assert metrics["value"] == pytest.approx(statistics.fmean(hit for task in hits.values() for hit in task))
    equal = measure(replace(wanted, task=replace(wanted.task, aggregate=Aggregate.mean)))[1]
    assert equal["value"] == pytest.approx(statistics.fmean(statistics.fmean(task) for task in hits.values()))
    assert equal["value"] != pytest.approx(metrics["value"]) and metrics["items"] == equal["items"] == sum(
        map(len, hits.values())
    )


PAPERS = ("leaderboard_ifeval", "glue", "gpqa_diamond_zeroshot", "mmlu", "truthfulqa_mc2", "arc_challenge")
PAPERS += ("leaderboard_bbh", "hellaswag", "logiqa", "leaderboard_musr", "winogrande")


def test_a_tasks_own_folder_is_indexed_and_holds_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's index of all tasks takes seconds, in every step."""
    whole = TaskManager()

    def everything(index: Any, name: str) -> Any:
        members = [one for one in tasks._members(index[name]) if one != name]
        return (index[name].cfg, [everything(index, one) for one in members])

    for name in PAPERS:
        own = tasks._manager(name, tmp_path)
        assert len(own.task_index) < 1000 < len(whole.task_index)
        assert everything(own.task_index, name) == everything(whole.task_index, name), name
    # a member lies elsewhere: all folders are read
    (arc,) = requirements.task_files()["arc_challenge"]
    monkeypatch.setattr(tasks, "task_files", lambda index: {"mmlu": [arc]})
    assert tasks._manager("mmlu", tmp_path).task_index.keys() == whole.task_index.keys()


def test_load_mmlu_is_57_subjects_at_one_commit(hub: Asked, tmp_path: Path) -> None:
    dataset = PAPER12["mmlu"].dataset
    assert dataset is not None
    runtime = Runtime(ClusterConfig(device="cpu"), tmp_path, extra={"commit": dataset.revision}, terminal=None)
    benchmark = tasks.load(job("mmlu"), {}, runtime)
    made, read = benchmark.tasks, benchmark.origins
    assert len(made) == 57 and read == {dataset.hub_id: dataset.revision}
    assert {revision for _, _, revision in hub} == {dataset.revision}


def test_run_bbh_is_the_mean_of_24_tasks_normalised_by_length(measure: Measure) -> None:
    out, metrics = measure(job("bbh", max_length=256))
    assert metrics["tasks"] == 24 and metrics["shots"] == 3 and len(samples(out)) == 24
    hits = []
    for sample in samples(out):
        choices = [continuation.removeprefix(" ") for _, continuation in sample["arguments"]]
        values = [answer[0][0] / len(choice) for answer, choice in zip(sample["resps"], choices, strict=True)]
        hits.append(float(choices[best(values)] == sample["doc"]["target"]))
        context = sample["arguments"][0][0]
        assert context.count("Q: ") >= 4 and context.endswith(f"Q: {sample['doc']['input']}\nA:")
    assert [sample["outcome"] for sample in samples(out)] == hits
    assert metrics["value"] == pytest.approx(statistics.fmean(hits))


def test_run_musr_counts_each_of_three_tasks_the_same(measure: Measure, slow: Any) -> None:
    out, metrics = measure(job("musr"))
    shares = []
    for rows in benchmark_rows.rows_of("TAUR-Lab/MuSR", None).values():
        hits = []
        for row in rows:
            names = ["Ada", "Ben Brown", "C"]
            context = f"{row['narrative']}\n\n{row['question']}\n\n1 - Ada\n2 - Ben Brown\n3 - C\n\nAnswer:"
            values = [slow(context, f" {choice}") / len(choice) for choice in names]
            hits.append(float(names[best(values)] == row["answer_choice"]))
        shares.append(statistics.fmean(hits))
    assert metrics["value"] == pytest.approx(statistics.fmean(shares)) and metrics["items"] == 9
    assert metrics["weights"] == pytest.approx(dict.fromkeys(read_json(out / "results.json")["tasks"], 1 / 3))


# ---------------------------------------------------------------- generated answers


class Canned(LM):
    """A model that answers each prompt with a fixed text."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = answers
        self.settings: list[dict[str, Any]] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.settings += [request.args[1] for request in requests]
        return [self.answers[request.args[0]] for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        raise NotImplementedError


@pytest.fixture(scope="session")
def punkt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nltk's sentence splitter, trained on a few words, where nltk looks for it."""
    import nltk.data
    from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

    folder = tmp_path_factory.mktemp("nltk_data")
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    nltk.data.path.insert(0, str(folder))
    save_punkt_params(PunktTrainer("One day. Two days. A third one came. It was late.").get_params(), str(english))
    return folder


ANSWERS = ["Red. It is warm. I like it.", "a lantern", '"Tea, and tea again."']  # 2 of 2; 0 of 1; 2 of 3 are followed


def test_run_ifeval_is_the_mean_of_prompts_and_instructions(
    measure: Measure, punkt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLTK_DATA", str(punkt))
    lm = Canned(dict(zip((row["prompt"] for row in benchmark_rows.IFEVAL), ANSWERS, strict=True)))
    monkeypatch.setattr(evaluate, "open_backend", lambda *_: lm)
    out, metrics = measure(job("ifeval"))
    assert metrics["value"] == pytest.approx((1 / 3 + 4 / 6) / 2)
    stored = read_json(out / "results.json")["results"]["leaderboard_ifeval"]
    assert stored["prompt_level_strict_acc,none"] == pytest.approx(1 / 3)
    assert stored["inst_level_strict_acc,none"] == pytest.approx(4 / 6)
    outcomes = [sample["outcome"] for sample in samples(out)]
    ratio = [4 / 6 + (hit - 4 / 6 * count) / 2 for hit, count in ((2, 2), (0, 1), (2, 3))]
    assert outcomes == pytest.approx([(whole + part) / 2 for whole, part in zip((1, 0, 0), ratio, strict=True)])
    assert statistics.fmean(outcomes) == pytest.approx(metrics["value"])
    assert metrics["stderr"] == pytest.approx(statistics.stdev(outcomes) / math.sqrt(3))
    assert all(not s["do_sample"] and s["temperature"] == 0 and s["max_gen_toks"] == 1280 for s in lm.settings)


@pytest.mark.slow
def test_run_ifeval_with_a_model(measure: Measure, punkt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLTK_DATA", str(punkt))
    out, metrics = measure(job("ifeval", max_length=2048))
    assert all(isinstance(sample["resps"][0][0], str) for sample in samples(out)) and 0 <= metrics["value"] <= 1


# ---------------------------------------------------------------- going on after an interruption


def test_run_interrupted_goes_on_with_the_next_task(measure: Measure, tmp_path: Path, monkeypatch: Any) -> None:
    whole, expected = measure(job("musr"))
    begun: list[str] = []

    def stopping(**arguments: Any) -> Any:
        begun.append(arguments["tasks"][0].config.task)
        if len(begun) == 2:
            raise Interrupted("stopped")
        return simple_evaluate(**arguments)

    monkeypatch.setattr(evaluate, "simple_evaluate", stopping)
    part = tmp_path / "part"
    with pytest.raises(Interrupted):
        measure(job("musr"), part)
    out, metrics = measure(job("musr"), part)
    assert begun == [*begun[:2], begun[1], begun[3]] and len(set(begun)) == 3
    assert metrics == expected
    assert {path.name for path in out.iterdir()} == {"items.json", "results.json", "samples.jsonl"}
    for name in ("items.json", "results.json", "samples.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_run_damaged_finished_task_is_evaluated_again(
    measure: Measure, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    whole, expected = measure(job("musr"))
    begun: list[str] = []

    def stopping(**arguments: Any) -> Any:
        begun.append(arguments["tasks"][0].config.task)
        if len(begun) == 3:
            raise Interrupted("stopped")
        return simple_evaluate(**arguments)

    monkeypatch.setattr(evaluate, "simple_evaluate", stopping)
    part = tmp_path / "part"
    with pytest.raises(Interrupted):
        measure(job("musr"), part)
    harmed = part / "finished" / f"{begun[0]}{suffix}"
    harmed.write_bytes(harmed.read_bytes().replace(b"0", b"1", 1))
    out, metrics = measure(job("musr"), part)
    assert begun[3:] == [begun[0], begun[2]] and metrics == expected
    assert f"{harmed}: altered since it was written" in capsys.readouterr().out
    for name in ("items.json", "results.json", "samples.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("name, size", [("truthfulqa", 4), ("ifeval", 1)])
def test_run_interrupted_within_a_task_asks_only_what_is_missing(
    measure: Measure, punkt: Path, tmp_path: Path, monkeypatch: Any, name: str, size: int
) -> None:
    monkeypatch.setenv("NLTK_DATA", str(punkt))
    monkeypatch.setattr(parts, "_RANKED", size)
    monkeypatch.setattr(parts, "_GENERATED", size)
    kind = "generate_until" if name == "ifeval" else "loglikelihood"
    asked: list[list[Any]] = []
    real = getattr(HFLM, kind)

    def counting(self: HFLM, requests: Any, *more: Any) -> Any:
        if len(asked) == 1 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise Interrupted("stopped")
        asked.append([request.args for request in requests])
        return real(self, requests, *more)

    whole, expected = measure(job(name, max_length=2048))
    monkeypatch.setattr(HFLM, kind, counting)
    part = tmp_path / "part"
    with pytest.raises(Interrupted):
        measure(job(name, max_length=2048), part)
    (kept,) = (part / "finished" / "parts").iterdir()
    out, metrics = measure(job(name, max_length=2048), part)
    flat = [repr(args) for requests in asked for args in requests]
    assert len(asked) > 1 and len(asked[0]) == size and kept.suffix == ".json"
    assert len(flat) == len(set(flat)) == sum(len(sample["resps"]) for sample in samples(whole))  # over both attempts
    assert metrics == expected
    assert {path.name for path in out.iterdir()} == {"items.json", "results.json", "samples.jsonl"}
    for file in ("items.json", "results.json", "samples.jsonl"):
        assert (out / file).read_bytes() == (whole / file).read_bytes()


def test_in_parts_damaged_part_is_asked_again_and_other_requests_get_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class Counting(LM):
        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            asked.extend(request.args for request in requests)
            return [(-float(len(request.args[1])), False) for request in requests]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise AssertionError

        def generate_until(self, requests: Any) -> list[str]:
            raise AssertionError

    def requests(*texts: str) -> list[Any]:
        return [Instance("loglikelihood", {}, ("context", text), 0) for text in texts]

    model = parts.InParts(Counting(), tmp_path / "parts")
    assert model.loglikelihood(requests("a", "bc")) == [(-1.0, False), (-2.0, False)]
    assert model.loglikelihood(requests("a", "bc")) == [(-1.0, False), (-2.0, False)] and len(asked) == 2
    assert model.loglikelihood(requests("a", "bcd")) == [(-1.0, False), (-3.0, False)] and len(asked) == 4
    for file in (tmp_path / "parts").iterdir():
        file.write_text(file.read_text().replace("-1.0", "-9.0"))
    assert model.loglikelihood(requests("a", "bc")) == [(-1.0, False), (-2.0, False)] and len(asked) == 6
    assert "altered since it was written" in capsys.readouterr().out


def test_in_parts_sampled_texts_are_asked_for_at_once_and_not_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(parts, "_GENERATED", 1)
    sizes: list[int] = []

    class Sampling(LM):
        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            raise AssertionError

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise AssertionError

        def generate_until(self, requests: Any) -> list[str]:
            sizes.append(len(requests))
            return ["x"] * len(requests)

    def requests(**arguments: Any) -> list[Any]:
        return [Instance("generate_until", {}, (f"context {n}", arguments), 0) for n in range(3)]

    model = parts.InParts(Sampling(), tmp_path / "parts")
    assert model.generate_until(requests(do_sample=True)) == ["x"] * 3 and sizes == [3]
    assert not (tmp_path / "parts").exists()
    assert model.generate_until(requests(do_sample=False)) == ["x"] * 3 and sizes == [3, 1, 1, 1]


def test_run_likelihood_that_is_not_finite_is_named(measure: Measure, monkeypatch: Any) -> None:
    monkeypatch.setattr(HFLM, "loglikelihood", lambda self, requests, *_: [(math.nan, False) for _ in requests])
    with pytest.raises(EvaluationError, match=r"arc_challenge, item 0: the log-likelihood of .* is nan"):
        measure(job("arc"))


# ---------------------------------------------------------------- backends


def test_run_vllm_gets_the_merged_weights_and_the_settings(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class FakeVLLM(HFLM):
        def __init__(self, pretrained: str, **more: Any) -> None:
            given.update(more, files={path.name for path in Path(pretrained).iterdir()})
            super().__init__(pretrained=pretrained, dtype="float32", device="cpu", max_length=more["max_model_len"])

    module = ModuleType("lm_eval.models.vllm_causallms")
    module.VLLM = FakeVLLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(EvaluationError, match=r"evaluation\.backend='vllm'.*Set evaluation\.backend=hf"):
        measure(job("arc", backend=Backend.vllm))
    monkeypatch.setattr(evaluate, "missing", lambda *_, **__: [])
    out, metrics = measure(job("arc", backend=Backend.vllm))
    reference, other = measure(job("arc"))
    torch.testing.assert_close(likelihoods(out), likelihoods(reference), rtol=0, atol=1e-4)
    assert (metrics["value"], metrics["backend"]) == (other["value"], "vllm")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= given.pop("files")
    assert given == {"dtype": "float32", "max_model_len": 1024, "seed": 7, "batch_size": "auto"}
    assert list((tmp_path / "cache").glob("vllm-*")) == []


def test_open_backend_without_vllm_isnt_imported(base: Path, runtime: Runtime) -> None:
    with ExitStack() as stack:
        backends.open_backend(job("arc"), {"model": base}, runtime, stack)
    assert "vllm" not in sys.modules and "lm_eval.models.vllm_causallms" not in sys.modules


# ---------------------------------------------------------------- bad input


def humaneval(**more: Any) -> EvaluationJob:
    task = TaskConfig(TaskKind.lm_eval, "pass@1", task="humaneval_instruct")
    return EvaluationJob("code", task=task, dtype=Dtype.float32, max_length=512, seed=1, **more)


@pytest.mark.parametrize("config, environment", [(False, None), (False, "1"), (True, None), (True, "0")])
def test_load_code_runs_only_if_confirmed_twice(
    hub: Asked, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, config: bool, environment: str | None
) -> None:
    monkeypatch.delenv(requirements.ALLOW_CODE, raising=False)
    if environment:
        monkeypatch.setenv(requirements.ALLOW_CODE, environment)
    with pytest.raises(EvaluationError) as caught:
        tasks.load(humaneval(allow_code_execution=config), {}, runtime)
    for part in ("humaneval_instruct", "evaluation.allow_code_execution=true", "ICON_REPRO_ALLOW_CODE=1"):
        assert part in str(caught.value)
    assert hub == []


def test_load_code_confirmed_twice_is_tried(hub: Asked, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(requirements.ALLOW_CODE, "1")
    with pytest.raises(EvaluationError, match="can't be loaded"):  # its metric comes from the hub
        tasks.load(humaneval(allow_code_execution=True), {}, runtime)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"task": "musr"}, ["lm-eval has no task", "Did you mean"]),
        ({"aggregate": None}, ["is 3 tasks", "leaderboard_musr_murder_mysteries", "aggregate=mean"]),
        ({"metrics": {"musr_x": "acc"}}, ["metrics: ['musr_x'] isn't among", "leaderboard_musr_team_allocation"]),
        ({"metric": "acc"}, ["metric='acc': isn't one of leaderboard_musr", "'acc_norm'"]),
        ({"filter": "strict-match"}, ["filter='strict-match'", "none. Set one"]),
        ({"dataset": HubData("org/other", "a" * 40)}, ["dataset.hub_id='org/other'", "reads 'TAUR-Lab/MuSR'"]),
    ],
    ids=str,
)
def test_run_wrong_setting_is_named(measure: Measure, changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(EvaluationError) as caught:
        measure(job("musr", **changes))
    for part in ["evaluation.tasks.musr", *expected]:
        assert part in str(caught.value)


@pytest.mark.parametrize("splits", [{"test_split": "test"}, {"validation_split": "dev", "fewshot_split": "dev"}])
def test_load_items_among_their_own_examples_are_refused(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, splits: dict[str, str]
) -> None:
    """Tasks of lm-eval's form whose examples are drawn from the items that are asked."""
    rows = [{"query": f"{i} + 1 =", "choices": ["0", str(i + 1)], "gold": 1} for i in (3, 4)]
    write_rows(tmp_path / "rows.jsonl", rows)
    data = {split: str(tmp_path / "rows.jsonl") for split in {"test", "dev"} & set(splits.values())}
    made = {**tasks.task_yaml("mine", tmp_path, 1), "dataset_kwargs": {"data_files": data}, "fewshot_split": None}
    made = {**made, "test_split": None, **splits}
    monkeypatch.setattr(tasks, "task_yaml", lambda *_: made)
    task = TaskConfig(TaskKind.multiple_choice, "acc", num_fewshot=1)
    wanted = EvaluationJob("mine", task=task, dtype=Dtype.float32, max_length=64, seed=1)
    with pytest.raises(EvaluationError, match=r"mine\.num_fewshot=1: .*the item itself with its answer among them"):
        tasks.load(wanted, {"rows": tmp_path}, runtime)
    right = {**made, "fewshot_split": made["test_split"]}
    monkeypatch.setattr(tasks, "task_yaml", lambda *_: right)
    assert list(tasks.load(wanted, {"rows": tmp_path}, runtime).tasks) == ["mine"]


def test_load_examples_of_a_split_that_the_files_lack_are_refused(hub: Asked, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, benchmark_rows.ARC)
    runtime = Runtime(ClusterConfig(device="cpu"), tmp_path, files={"rows.test": path}, terminal=None)
    with pytest.raises(EvaluationError, match=r"arc\.num_fewshot=2: arc_challenge draws .* 0 rows .*: files\.train\.$"):
        tasks.load(job("arc", files={"test": str(path)}, num_fewshot=2), {}, runtime)


@pytest.mark.parametrize(
    ("metric", "higher", "why"), [("brier_score", False, "less of it is better"), ("bleu", True, "goes to 100")]
)
def test_load_metric_that_is_no_share_of_which_more_is_better_is_refused(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, metric: str, higher: bool, why: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"query": "3 + 1 =", "choices": ["0", "4"], "gold": 1}])
    made = tasks.task_yaml("mine", tmp_path / "rows.jsonl", 0)
    made["metric_list"].append({"metric": metric, "aggregation": metric, "higher_is_better": higher})
    monkeypatch.setattr(tasks, "task_yaml", lambda *_: made)
    task = TaskConfig(TaskKind.multiple_choice, f"acc+{metric}")
    wanted = EvaluationJob("mine", task=task, dtype=Dtype.float32, max_length=64, seed=1)
    with pytest.raises(EvaluationError, match=rf"mine\.metric='{metric}': {why}"):
        tasks.load(wanted, {"rows": tmp_path}, runtime)


def test_load_shots_that_lm_eval_would_ignore_are_refused(hub: Asked, runtime: Runtime) -> None:
    with pytest.raises(EvaluationError, match=r"num_fewshot=5.*truthfulqa_mc2.*set 0"):
        tasks.load(job("truthfulqa", num_fewshot=5), {}, runtime)


def test_run_non_finite_metric_is_refused(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**arguments: Any) -> Any:
        found = simple_evaluate(**arguments)
        assert found is not None
        found["results"]["winogrande"]["acc,none"] = math.nan
        found["samples"]["winogrande"][0]["acc"] = math.nan
        return found

    monkeypatch.setattr(evaluate, "simple_evaluate", broken)
    with pytest.raises(EvaluationError, match=r"evaluation\.tasks\.winogrande: acc of winogrande is nan.*\.jsonl"):
        measure(job("winogrande"), tmp_path / "part")
    (_, first), *others = read_lines(tmp_path / "part" / "finished" / "winogrande.jsonl")
    assert first["acc"] == "NaN" and len(others) == 2


def test_load_data_that_cant_be_had_names_set_and_remedy(
    hub: Asked, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (ConnectionError("Couldn't reach 'Idavidrein/gpqa' on the Hub"), RuntimeError("scripts: gpqa.py")):

        def failing(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", failing)
        with pytest.raises(EvaluationError, match=r"evaluation\.tasks\.gpqa: .*gpqa_diamond_zeroshot.*gpqa.*accept"):
            tasks.load(job("gpqa"), {}, runtime)


@pytest.mark.parametrize("offline", [True, False])
def test_load_another_commit_in_the_cache_is_refused(
    hub: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool
) -> None:
    saved = datasets.Dataset.from_list(benchmark_rows.WINOGRANDE)
    saved.save_to_disk(tmp_path / ("b" * 40))
    rows = datasets.load_from_disk(tmp_path / ("b" * 40))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict({"train": rows, "validation": rows})
    )
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)  # or the hub couldn't be reached
    right = Runtime(ClusterConfig(device="cpu"), tmp_path, extra={"commit": "b" * 40}, terminal=None)
    assert list(tasks.load(job("winogrande"), {}, right).tasks) == ["winogrande"]
    wrong = Runtime(ClusterConfig(device="cpu"), tmp_path, extra={"commit": "a" * 40}, terminal=None)
    with pytest.raises(EvaluationError, match=rf"dataset\.revision='{'a' * 40}'.*{'b' * 40}"):
        tasks.load(job("winogrande"), {}, wrong)


def test_load_branch_that_stayed_unresolved_is_refused(hub: Asked, tmp_path: Path) -> None:
    runtime = Runtime(ClusterConfig(device="cpu"), tmp_path, extra={"commit": "unresolved:main"}, terminal=None)
    with pytest.raises(EvaluationError, match=r"evaluation\.tasks\.arc\.dataset\.revision='main'"):
        tasks.load(job("arc"), {}, runtime)


def test_load_rows_of_a_file_in_the_sets_own_columns(hub: Asked, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + json.dumps(benchmark_rows.ARC), encoding="utf-8")
    runtime = Runtime(ClusterConfig(device="cpu"), tmp_path, files={"rows.test": path}, terminal=None)
    benchmark = tasks.load(job("arc", files={"test": str(path)}), {}, runtime)
    made, read = benchmark.tasks, benchmark.origins
    assert list(made["arc_challenge"].eval_docs) == benchmark_rows.ARC
    assert read == {"allenai/ai2_arc": "files"} and hub == []


@pytest.mark.parametrize("text", ["e\nc\nq\nA.a\nB.b\nC.c\nD.d", "a\nc\nq\nA.a\nB.b\nC.c", "\n"])
def test_logiqa_rows_malformed_block_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "Test.txt"
    path.write_text(benchmark_rows.LOGIQA + "\n" + text if text.strip() else text)
    with pytest.raises(SourceError, match=rf"Test\.txt, block {3 if text.strip() else 1}: must be 7 lines"):
        list(tasks.logiqa_rows(path))


@pytest.mark.parametrize(
    ("split", "data", "message"),
    [
        ("train", "[{}]", r"arc: .*'arc_challenge' finds no item in the split that it asks. It reads train: set"),
        ("test", "[{}, {} 3]", r"arc\.files\.test: .*rows\.json: not valid JSON"),
        ("test", '[{}, {{"question": "Why?"}}]', r"files\.test: .*rows\.json, row 2: has other columns than the first"),
    ],
)
def test_load_files_that_cannot_be_asked_say_why(
    hub: Asked, tmp_path: Path, split: str, data: str, message: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(data.format(*[json.dumps(row) for row in benchmark_rows.ARC]), encoding="utf-8")
    runtime = Runtime(ClusterConfig(device="cpu"), tmp_path, files={f"rows.{split}": path}, terminal=None)
    with pytest.raises(EvaluationError, match=message):
        tasks.load(job("arc", files={split: str(path)}), {}, runtime)


# ---------------------------------------------------------------- shared text


def test_shared_text_of_lm_evals_documents(hub: Asked, tmp_path: Path) -> None:
    source = benchmark_rows.HELLASWAG[0]
    rows = [
        Example("r", instruction=f"Go on: {source['ctx']}", input="", response="It rains."),
        Example("q", instruction="Go on: A cook closes an oven.", input="", response="It rains."),
    ]
    (tmp_path / "candidates").mkdir()
    (tmp_path / "out").mkdir()
    write_rows(tmp_path / "candidates" / "rows.jsonl", rows)
    wanted = job("hellaswag")
    assert wanted.task.dataset is not None
    runtime = Runtime(
        ClusterConfig(device="cpu"),
        tmp_path / "cache",
        files={},
        extra={"commit": wanted.task.dataset.revision},
        terminal=None,
    )
    asked = SharedTextJob("hellaswag", ngram=5, evaluation=wanted)
    metrics = shared_text.run(asked, {"candidates": tmp_path / "candidates"}, tmp_path / "out", runtime)
    assert read_json(tmp_path / "out" / "shared.json") == {"hellaswag:0": ["r"]}
    assert metrics["items"] == len(benchmark_rows.HELLASWAG)
    limited = replace(asked, limit=1, evaluation=job("hellaswag", limit=1))
    assert shared_text.run(limited, {"candidates": tmp_path / "candidates"}, tmp_path / "out", runtime)["items"] == 1


def test_shared_text_of_held_out_rows_with_those_that_select(tmp_path: Path) -> None:
    def example(name: str, text: str) -> Example:
        return Example(name, instruction=text, input="", response=f"An answer to {name}")

    told = "You are an assistant that gives long and careful answers to every question. "
    held_out = [example(f"h{n}", f"{told}Number {n}") for n in range(12)]
    copied = "Which of these seven rivers of the far north carries the most water in late spring"
    held_out += [example("copy", copied), example("filtered", "Some text that only a row which was left out has")]
    selecting = [example("a", told), example("b", f"{copied}?"), example("h0", f"{told}Number 0")]
    folders = {"rows": held_out, "candidates": selecting, "assessment": [example("x", "Something else")]}
    for name, rows in folders.items():
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "rows.jsonl", rows)
    write_rows(tmp_path / "candidates" / "left_out.jsonl", [held_out[-1]])  # decides nothing
    runtime = Runtime(ClusterConfig(device="cpu"), tmp_path / "cache", files={}, extra={}, terminal=None)
    inputs = {name: tmp_path / name for name in folders}
    metrics = shared_text.run(SharedTextJob("held_out", ngram=9, evaluation=None), inputs, tmp_path, runtime)
    assert read_json(tmp_path / "shared.json") == {"copy": ["b"]}  # h0 isn't evaluated
    assert (metrics["items"], metrics["items_shared"], metrics["too_short"]) == (13, 1, 0)
    assert metrics["common_runs"] > 0


def test_in_parts_items_that_do_not_fit_are_named_also_from_kept_parts(tmp_path: Path) -> None:
    class Short(LM):
        max_length, max_gen_toks = 10, 4

        def tok_encode(self, text: str) -> list[int]:
            return [ord(sign) for sign in text]

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            return [(-1.0, False) for _ in requests]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            return [-1.0 for _ in requests]

        def generate_until(self, requests: Any) -> list[str]:
            return ["" for _ in requests]

    def requests(kind: str, second: Any, *contexts: str) -> list[Any]:
        return [
            Instance(kind, {}, (text, second), number, metadata=("t", number, 1))  # type: ignore[arg-type]
            for number, text in enumerate(contexts)
        ]

    for _ in range(2):  # the second reads the kept parts
        model = parts.InParts(Short(), tmp_path / "parts")
        model.loglikelihood(requests("loglikelihood", "ab", "x" * 9, "x" * 10))  # 11 tokens fit: the last isn't read
        assert model.cut == {("t", 1)}
        model.generate_until(requests("generate_until", {}, "x" * 6, "x" * 6, "x" * 7))
        assert model.cut == {("t", 1), ("t", 2)}
        model.generate_until(requests("generate_until", {"max_gen_toks": 5}, "x" * 6))
        assert model.cut == {("t", 0), ("t", 1), ("t", 2)}


# ---------------------------------------------------------------- rows that a step keeps


def keep(folder: Path, wanted: EvaluationJob) -> tuple[Path, dict[str, Any]]:
    """The step that reads a benchmark's data sets; returns its folder and metrics."""
    out = folder / f"kept-{wanted.name}"
    out.mkdir()
    extra = {"commit": wanted.task.dataset.revision} if wanted.task.dataset else {}
    runtime = Runtime(ClusterConfig(device="cpu"), folder / "cache", files={}, extra=extra, terminal=None)
    return out, benchmark_rows_step.run(rows_job(wanted), {}, out, runtime)


@pytest.mark.parametrize("name", ["truthfulqa", "gpqa", "glue", "musr", "arc"])
def test_kept_rows_give_the_same_numbers_and_ask_no_hub(
    name: str, measure: Measure, hub: Asked, tmp_path: Path
) -> None:
    wanted = job(name)
    out, online = measure(wanted)
    assert hub
    hub.clear()
    kept, made = keep(tmp_path, wanted)
    assert made["sets"] == len({(path, subset) for path, subset, _ in hub}) and made["rows"] > 1
    hub.clear()
    from_kept, offline = measure(wanted, rows=kept)
    assert hub == [] and offline == online
    assert (from_kept / "samples.jsonl").read_bytes() == (out / "samples.jsonl").read_bytes()


def test_kept_rows_of_another_task_are_refused_by_name(measure: Measure, tmp_path: Path) -> None:
    kept, _ = keep(tmp_path, job("musr"))
    with pytest.raises(EvaluationError, match=r"evaluation.tasks.hellaswag: .*kept-musr doesn't hold .*hellaswag.*Del"):
        measure(job("hellaswag"), rows=kept)


def test_kept_rows_have_the_types_that_the_hub_gave_them(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "choices": {
                "text": datasets.List(datasets.Value("string")),
                "label": datasets.List(datasets.Value("int8")),
            },
            "size": datasets.Value("float32"),
        }
    )
    rows = [{"label": 1, "choices": {"text": ["a", "b"], "label": [3, 4]}, "size": 0.5}]
    whole = datasets.Dataset.from_list(rows, features=features)
    key, single = row_sets.set_key("x", None, {"revision": "r"}), row_sets.set_key("x", "y", {"split": "test"})
    empty = whole.select([])
    sets = {key: {"train": whole, "test": empty}, single: whole}
    assert row_sets.write_sets(tmp_path, sets, {"x": "r"}) == 2
    data, origins = row_sets.read_set(tmp_path, row_sets.set_key("x", None, {"token": "secret"}))
    assert origins == {"x": "r"} and list(data) == ["train", "test"]
    assert all(one.features == features for one in data.values())
    assert data["train"].to_list() == rows and len(data["test"]) == 0
    alone, _ = row_sets.read_set(tmp_path, single)
    assert isinstance(alone, datasets.Dataset) and alone.to_list() == rows
    with pytest.raises(row_sets.RowSetError, match="IterableDataset, whose rows can't be kept"):
        row_sets.write_sets(tmp_path, {key: {"train": whole.to_iterable_dataset()}}, {})
