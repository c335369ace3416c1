"""Contamination: items of a benchmark that share text with the rows that are selected from."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from icon_repro.data.rows import Example
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate import shared_text
from icon_repro.evaluate.options import SharedTextJob
from icon_repro.evaluate.shared_text import shared

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps under an old tree"  # 17 words


def example(name: str, response: str, instruction: str = "Say something.") -> Example:
    return Example(name, instruction=instruction, input="", response=response)


def slow(items: dict[str, list[str]], rows: list[Example], ngram: int) -> dict[str, list[str]]:
    """By comparing padded texts, one run of words after another."""

    def joined(text: str) -> str:
        return " " + " ".join(re.findall(r"[a-z0-9]+", text.lower())) + " "

    matches: dict[str, list[str]] = {}
    wanted: dict[str, set[str]] = {}
    for name, texts in items.items():
        for text in texts:
            split = joined(text).split()
            whole = [" ".join(split)] if 8 <= len(split) < ngram else []
            found = {*whole, *(" ".join(split[i : i + ngram]) for i in range(len(split) - ngram + 1))}
            wanted.setdefault(name, set()).update(found)
    for run in set().union(*wanted.values()):
        ids = [row.id for row in rows if f" {run} " in joined(f"{row.instruction} {row.input} {row.response}")]
        matches[run] = ids if len(ids) <= 10 else []
    made = {name: sorted({row for run in runs for row in matches[run]}) for name, runs in wanted.items()}
    return {name: ids for name, ids in sorted(made.items()) if ids}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ngram", [3, 5, 13])
def test_shared_equals_a_slow_loop(ngram: int, seed: int) -> None:
    draw = random.Random(seed)
    letters = ["a", "B", "c,", "d", "e-f", "G", "h", "i"]
    items = {f"i{n}": [" ".join(draw.choices(letters, k=draw.randint(1, 20))) for _ in range(3)] for n in range(30)}
    rows = []
    for n in range(60):  # pieces of items, cut at any length, between other words
        piece = draw.choice(items[f"i{draw.randrange(30)}"]).split()
        start = draw.randrange(len(piece))
        middle = piece[start : start + draw.randint(1, 20)] if draw.random() < 0.5 else piece
        rows.append(example(f"r{n}", " ".join([*draw.choices(letters, k=5), *middle, *draw.choices(letters, k=5)]), ""))
    found, short, _ = shared(items, rows, ngram)
    assert found == slow(items, rows, ngram) and 3 < len(found) <= 30
    lengths = [max(len(re.findall("[a-z]", text.lower())) for text in texts) for texts in items.values()]
    assert short == sum(length < min(8, ngram) for length in lengths)


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


def test_shared_text_without_spaces_is_compared_by_sign() -> None:
    question = "下列哪一项最能说明植物为什么需要阳光来进行光合作用"
    rows = [example("inside", f"题目：{question}？答案是能量。"), example("other", "植物需要水和空气，也需要阳光。")]
    assert shared({"item": [question], "short": ["因为阳光"]}, rows, 13) == ({"item": ["inside"]}, 1, 0)


def test_shared_short_item_has_to_stand_there_whole() -> None:
    nine = " ".join(TEXT.split()[:9])
    rows = [example("whole", f"so {nine}, yes"), example("part", " ".join(TEXT.split()[:8]) + " cat")]
    assert shared({"nine": [nine, "yes"], "seven": [" ".join(TEXT.split()[:7])]}, rows, 13) == (
        {"nine": ["whole"]},
        1,
        0,
    )


def test_shared_phrases_of_many_rows_dont_count() -> None:
    items = {"phrase": [TEXT], "own": [f"{TEXT} while words of its own follow here, which nobody else has ever put so"]}
    rows = [example(f"r{n:02}", TEXT) for n in range(10)]
    assert shared(items, rows, 13) == ({name: [row.id for row in rows] for name in ("own", "phrase")}, 0, 0)
    rows.append(example("copy", items["own"][0]))
    found, _, phrases = shared(items, rows, 13)
    assert found == {"own": ["copy"]} and phrases == 5  # 17 words hold five runs of 13


def test_shared_passage_of_many_items_counts_for_each() -> None:
    items = {f"i{n:02}": [TEXT, f"question {n}"] for n in range(30)}
    assert shared(items, [example("r", TEXT)], 13)[0] == {name: ["r"] for name in items}


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
    assert read_json(out / "shared.json") == {"a": ["r1", "r2"], "b": ["r1", "r2"]}
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
