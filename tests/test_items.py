"""Outcomes of single items: read from samples old and new, kept small, and refused where they contradict the value."""

import json
from pathlib import Path
from typing import Any

import pytest

from icon_repro.engine.records import read_json, write_json, write_rows
from icon_repro.evaluate.items import ItemsError, mean, of_evaluation, of_samples, of_verdicts, win_rate, write_items


def samples(folder: Path, rows: list[dict[str, Any]], tasks: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    made = [{"doc_hash": f"h{row['doc_id']}", "filter": "none", **row} for row in rows]
    write_rows(folder / "samples.jsonl", made)
    write_json(folder / "results.json", {"results": {}, **({"tasks": tasks} if tasks is not None else {})})
    return folder


def outcomes(task: str, values: list[float]) -> list[dict[str, Any]]:
    return [{"task": task, "doc_id": i, "outcome": value} for i, value in enumerate(values)]


def test_one_task_is_a_text_of_digits_whatever_the_order_of_samples(tmp_path: Path) -> None:
    rows = outcomes("arc", [1, 0, 0, 1])
    found = of_samples(samples(tmp_path / "a", rows, {"arc": {}}), {"value": 0.5})
    assert found["parts"] == [{"name": "arc", "weight": 1.0, "values": "1001"}]
    assert of_samples(samples(tmp_path / "b", rows[::-1], {"arc": {}}), {"value": 0.5}) == found


def test_ids_tell_other_items_apart(tmp_path: Path) -> None:
    rows = outcomes("arc", [1, 0])
    ids = [
        of_samples(samples(tmp_path / str(i), made, {"arc": {}}), {"value": 0.5})["ids"]
        for i, made in enumerate([rows, [rows[0], {**rows[1], "doc_hash": "another"}], [{**r, "x": 1} for r in rows]])
    ]
    assert ids[0] != ids[1] and ids[0] == ids[2]


def test_group_has_weighted_parts_and_numbers_where_no_items_are(tmp_path: Path) -> None:
    rows = [*outcomes("rte", [1, 0, 1, 1]), *({**row, "outcome": None} for row in outcomes("mrpc", [0, 0]))]
    tasks = {"rte": {"value": 0.75, "stderr": 0.2}, "mrpc": {"value": 0.6, "stderr": 0.1}}
    weights = {"rte": 0.5, "mrpc": 0.5}
    found = of_samples(samples(tmp_path, rows, tasks), {"value": 0.675, "weights": weights})
    assert found["parts"] == [
        {"name": "rte", "weight": 0.5, "values": "1011"},
        {"name": "mrpc", "weight": 0.5, "value": 0.6, "stderr": 0.1},
    ]
    assert mean(found) == pytest.approx(0.675)


def test_samples_of_other_filters_dont_count(tmp_path: Path) -> None:
    rows = outcomes("gsm", [1, 0])
    more = [{key: value for key, value in row.items() if key != "outcome"} | {"filter": "strict"} for row in rows]
    assert of_samples(samples(tmp_path, [*rows, *more], {"gsm": {}}), {"value": 0.5})["parts"][0]["values"] == "10"


def test_values_other_than_0_and_1_are_numbers(tmp_path: Path) -> None:
    rows = outcomes("mc2", [0.25, 1 / 3, 1.0])
    part = of_samples(samples(tmp_path, rows, {"mc2": {}}), {"value": (0.25 + 1 / 3 + 1) / 3})["parts"][0]
    assert part["values"] == [0.25, 0.333333333, 1.0]


def test_written_items_are_what_the_samples_say(tmp_path: Path) -> None:
    metrics = {"value": 0.5}
    folder = samples(tmp_path, outcomes("arc", [1, 0, 0, 1]), {"arc": {}})
    write_items(folder, metrics)
    made = of_samples(folder, metrics)
    (folder / "samples.jsonl").unlink()  # not read again
    assert of_evaluation(folder) == made == read_json(folder / "items.json")


def test_plain_ids_and_values_are_read_too(tmp_path: Path) -> None:
    write_json(tmp_path / "items.json", {"ids": ["b", "a"], "values": [2.5, 0.125]})
    found = of_evaluation(tmp_path)
    assert found["parts"] == [{"name": "", "weight": 1.0, "values": [0.125, 2.5]}]


def test_items_twice_or_with_another_mean_are_refused(tmp_path: Path) -> None:
    rows = outcomes("arc", [1, 0])
    with pytest.raises(ItemsError, match=r"item '1:h1' twice"):
        of_samples(samples(tmp_path, [*rows, rows[1]], {"arc": {}}), {"value": 0.5})
    with pytest.raises(ItemsError, match=r"the mean 0\.5, not its value 0\.75"):
        of_samples(samples(tmp_path, rows, {"arc": {}}), {"value": 0.75})


def verdicts(folder: Path, judged: dict[str, str], failed: tuple[str, ...] = ()) -> Path:
    write_rows(folder / "verdicts.jsonl", [{"id": name, "outcome": outcome} for name, outcome in judged.items()])
    write_rows(folder / "failures.jsonl", [{"id": name, "reason": "x"} for name in failed])
    return folder


def test_verdicts_are_letters_by_prompt(tmp_path: Path) -> None:
    found = of_verdicts(verdicts(tmp_path, {"b": "tie", "a": "win", "d": "lose"}, ("c",)))
    assert found["parts"] == [{"name": "", "weight": 1.0, "values": "wtfl"}]


def test_verdicts_of_a_pooled_comparison_are_parts_by_set(tmp_path: Path) -> None:
    found = of_verdicts(verdicts(tmp_path, {"koala:1": "win", "vicuna:1": "tie", "koala:0": "lose"}, ("vicuna:2",)))
    assert [(part["name"], part["weight"], part["values"]) for part in found["parts"]] == [
        ("koala", 0.5, "lw"),
        ("vicuna", 0.5, "tf"),
    ]


def test_win_rate_is_that_of_the_judged_prompts(tmp_path: Path) -> None:
    found = win_rate(of_verdicts(verdicts(tmp_path, {"a": "win", "b": "win", "c": "tie", "d": "lose"}, ("e",))))
    values = found["parts"][0]["values"]
    assert mean(found) == pytest.approx(0.625, abs=1e-8) and values[4] == 0.625
    judged, n = [1, 1, 0.5, 0], 4
    expected = sum((x - 0.625) ** 2 for x in judged) / n / n
    assert sum((x - 0.625) ** 2 for x in values) / 5 / 5 == pytest.approx(expected, rel=1e-6)
    assert json.dumps(found)
