"""Contamination: items of a benchmark that share text with the rows that are selected from."""

import random
import re
from pathlib import Path
from typing import Any

import benchmark_rows
import pytest
from test_evaluate_tasks import FOLDERS, catalogue, hub  # noqa: F401 (fixtures)

from icon_repro.config import ClusterConfig
from icon_repro.config_data import Dtype
from icon_repro.config_evaluation import EvaluationJob, HubData, SharedTextJob, TaskConfig, TaskKind
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate import shared_text
from icon_repro.evaluate.shared_text import shared
from icon_repro.records import Example, read_json, write_rows

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps under an old tree"  # 17 words


def example(name: str, response: str, instruction: str = "Say something.") -> Example:
    return Example(name, instruction=instruction, input="", response=response)


def slow(items: dict[str, list[str]], rows: list[Example], ngram: int) -> dict[str, list[str]]:
    """By comparing padded texts, one run of words after another."""

    def joined(text: str) -> str:
        return " " + " ".join(re.findall(r"[a-z0-9]+", text.lower())) + " "

    found = {}
    for name, texts in items.items():
        split = [joined(text).split() for text in texts]
        wanted = [" ".join(t[i : i + ngram]) for t in split for i in range(len(t) - ngram + 1)]
        wanted = wanted or [" ".join(t) for t in split if len(t) >= min(8, ngram)]
        for row in rows:
            if any(f" {run} " in joined(f"{row.instruction} {row.input} {row.response}") for run in wanted):
                found.setdefault(name, []).append(row.id)
    return {name: sorted(ids) for name, ids in sorted(found.items())}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ngram", [3, 5, 13])
def test_shared_equals_a_slow_loop(ngram: int, seed: int) -> None:
    draw = random.Random(seed)
    words = ["a", "B", "c,", "d", "e-f"]

    def text(most: int) -> str:
        return " ".join(draw.choices(words, weights=[8, 4, 2, 1, 1], k=draw.randint(1, most)))

    items = {f"i{n}": [text(16) for _ in range(3)] for n in range(10)}  # ten: no run is common
    rows = [example(f"r{n}", text(40), text(10)) for n in range(40)]
    found, short, common = shared(items, rows, ngram)
    assert found == slow(items, rows, ngram) and common == 0
    lengths = [max(len(re.findall("[a-z]", text.lower())) for text in texts) for texts in items.values()]
    assert short == sum(length < min(8, ngram) for length in lengths)
    assert found or ngram == 13


def test_shared_run_of_13_words_wherever_it_stands() -> None:
    part = " ".join(TEXT.split()[2:15])
    rows = [
        example("inside", f"He said: {part.upper()}!"),
        example("cut", f"He said: {part[:-1]}."),
        example("across", ""),
    ]
    rows[2] = example("across", part.split(" ", 5)[5], " ".join(part.split()[:5]))
    found, short, common = shared({"item": [TEXT], "other": ["no"]}, rows, 13)
    assert found == {"item": ["across", "inside"]} and (short, common) == (1, 0)


def test_shared_short_item_has_to_stand_there_whole() -> None:
    nine = " ".join(TEXT.split()[:9])
    rows = [example("whole", f"so {nine}, yes"), example("part", " ".join(TEXT.split()[:8]) + " cat")]
    assert shared({"nine": [nine, "yes"], "seven": [" ".join(TEXT.split()[:7])]}, rows, 13) == (
        {"nine": ["whole"]},
        1,
        0,
    )


def test_shared_phrases_of_many_items_dont_count() -> None:
    items = {
        f"i{n}": [f"{TEXT} number {n} ends with words of its own and these are {' '.join(['x' + str(n)] * 9)}"]
        for n in range(11)
    }
    rows = [example("phrase", TEXT), example("own", items["i3"][0])]
    found, _, common = shared(items, rows, 13)
    assert found == {"i3": ["own"]} and common > 0
    ten = dict(list(items.items())[:10])
    assert set(shared(ten, rows, 13)[0]) == set(ten)


def runtime(tmp_path: Path, **extra: str) -> Runtime:
    return Runtime(ClusterConfig(device="cpu"), tmp_path / "cache", files={}, extra=extra, terminal=None)


def folder(path: Path, rows: list[Any]) -> Path:
    path.mkdir()
    write_rows(path / "rows.jsonl", rows)
    return path


def test_run_own_rows_without_the_query_that_is_put_around_them(tmp_path: Path) -> None:
    nine = " ".join(TEXT.split()[:9])
    item = {"query": f"Question: {nine}\nAnswer:", "choices": ["yes", TEXT], "gold": 0}
    rows = folder(
        tmp_path / "rows", [{"id": "a", **item, "choices": ["yes", "no"]}, {"id": "b", **item}, {"id": "c", **item}]
    )
    candidates = folder(tmp_path / "candidates", [example("r1", nine), example("r2", TEXT), example("r3", "no")])
    out = tmp_path / "out"
    out.mkdir()
    cfg = SharedTextJob("x", ngram=13, limit=2)
    metrics = shared_text.run(cfg, {"rows": rows, "candidates": candidates}, out, runtime(tmp_path))
    assert read_json(out / "shared.json") == {"a": ["r1", "r2"], "b": ["r2"]}
    assert metrics == {"items": 2, "too_short": 0, "items_shared": 2, "rows_shared": 2, "common_runs": 0}


def test_run_held_out_rows_that_are_not_evaluated_are_not_compared(tmp_path: Path) -> None:
    held = [example("seen", TEXT), example("new", TEXT, "Tell me."), example("assessed", TEXT, "Tell us.")]
    inputs = {
        "rows": folder(tmp_path / "rows", held),
        "candidates": folder(tmp_path / "candidates", [held[0]]),
        "assessment": folder(tmp_path / "assessment", [held[2]]),
    }
    out = tmp_path / "out"
    out.mkdir()
    metrics = shared_text.run(SharedTextJob("x", ngram=13), inputs, out, runtime(tmp_path))
    assert read_json(out / "shared.json") == {"new": ["seen"]} and metrics["items"] == 1


@pytest.mark.usefixtures("hub")
def test_run_documents_of_lm_eval(tmp_path: Path) -> None:
    row = benchmark_rows.HELLASWAG[0]
    candidates = folder(
        tmp_path / "candidates", [example("r", f"{row['ctx']} {row['endings'][0]}"), example("q", TEXT)]
    )
    data = HubData("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76")
    task = TaskConfig(kind=TaskKind.lm_eval, task="hellaswag", metric="acc", filter="none", dataset=data)
    job = EvaluationJob("hellaswag", task=task, dtype=Dtype.float32, max_length=512, seed=1)
    out = tmp_path / "out"
    out.mkdir()
    cfg = SharedTextJob("hellaswag", ngram=5, evaluation=job)
    metrics = shared_text.run(cfg, {"candidates": candidates}, out, runtime(tmp_path, commit=data.revision))
    assert read_json(out / "shared.json") == {"hellaswag:0": ["r"]} and metrics["items"] == len(
        benchmark_rows.HELLASWAG
    )
