"""AlpaGasus: replies to ratings, ratings from a server that fails and from files, ties, what a setting rebuilds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fault_server import BABBLE, LINE_FAULTS, Body, FaultServer
from slow_baselines import ROWS, Ran, planned, run_method, shards_of, step_of
from small import composed, small

from icon_repro.config.load import ConfigError, load
from icon_repro.data.planner import PlanError
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import alpagasus
from icon_repro.methods.alpagasus import RatingError, RatingsFileError, messages, parse, stored_ratings
from icon_repro.methods.common.outcome import NoScoreError

RATINGS = {"c5": 4.5, "c2": 5.0, "c3": 4.5, "c1": 0.0, "c7": 3.5, "c4": 4.5, "c6": 2.0}


@pytest.mark.parametrize(
    "reply, rating",
    [
        ("4.5\nBecause it is right.", 4.5),
        ("5", 5.0),
        ("0\n5", 0.0),
        ("\n \n 3.5 \nwhy", 3.5),
        ("Score: 4\nwhy", 4.0),
        ("rating = 2.5", 2.5),
        ("**4.5**", 4.5),
        ("**Score:** 4/5", 4.0),
        ("4.5 / 5.", 4.5),
        ("4.\nwhy", 4.0),
    ],
)
def test_parse_reads_the_first_line(reply: str, rating: float) -> None:
    assert parse(reply) == rating


@pytest.mark.parametrize(
    "reply, reason",
    [
        ("", "isn't a number"),
        (BABBLE, "isn't a number"),
        ("I would say\n4.5", "isn't a number"),
        ("4.5 because it is right", "isn't a number"),
        ("4 or 5", "isn't a number"),
        ("4-5", "isn't a number"),
        ("4,5", "isn't a number"),
        ("4.5/10", "isn't a number"),
        ("nan", "isn't a number"),
        ("٤", "isn't a number"),
        ("5.5", "outside 0 to 5"),
        ("-1", "outside 0 to 5"),
        ("45", "outside 0 to 5"),
    ],
)
def test_parse_refuses_what_isnt_a_rating(reply: str, reason: str) -> None:
    with pytest.raises(RatingError, match=reason):
        parse(reply)


def test_messages_hold_the_row_and_an_input_only_if_there_is_one() -> None:
    system, user = messages(ROWS[1])
    assert (system["role"], user["role"]) == ("system", "user")
    start = "<instruction>\nAdd the numbers.\n</instruction>\n\n<input>\n3 and 4\n</input>\n\n"
    assert user["content"].startswith(f"{start}<response>\nThe sum of 3 and 4 is 7.\n</response>\n\n")
    assert user["content"].endswith("reasons on the lines after it.") and "from 0 " in user["content"]
    assert "<input>" not in messages(ROWS[0])[1]["content"]
    assert "<response>\n\n</response>" in messages(Example("e", "Say nothing.", "", ""))[1]["content"]


def rated(body: Body) -> str:
    """The reply for the row that a request is about."""
    text = body["messages"][1]["content"]
    (row,) = [row for row in ROWS if messages(row)[1]["content"] == text]
    return f"{RATINGS[row.id]}\nAs one can see."


def method(server: FaultServer, **changes: Any) -> dict[str, Any]:
    endpoint = {"model": "toy", "base_url": server.url, "backoff_s": 0.001, "max_wait_s": 0.1, "retries": 30}
    return {"kind": "alpagasus", "endpoint": {**endpoint, **changes}}


def check(found: Ran, rated_rows: Mapping[str, float]) -> None:
    assert set(found.scores) == set(rated_rows)
    for identifier, rating in rated_rows.items():
        assert found.scores[identifier].parts == {"rating": rating}
        assert rating <= found.scores[identifier].score < rating + 1e-6
    by_rating = [rated_rows[identifier] for identifier in found.ranks]
    assert by_rating == sorted(rated_rows.values(), reverse=True)


def test_alpagasus_ratings_of_a_server_that_fails(tmp_path: Path, runtime: Runtime) -> None:
    kinds = [kind for kind in LINE_FAULTS if kind != "hang"]
    with FaultServer(rated, rate=0.7, seed=1, kinds=kinds) as server:
        found = run_method(tmp_path, runtime, tmp_path, method(server))
    assert sum(server.faults.values()) > 2 and set(server.answered.values()) == {1} and len(server.answered) == 7
    check(found, RATINGS)
    assert found.failures == {} and found.metrics["rows"] == 7
    (asked,) = shards_of(found.step, "alpagasus:ratings")
    assert asked.resumable
    metrics = found.all_metrics[asked.label]
    assert metrics == {
        "rows": 7,
        "failed": 0,
        "calls": 7,
        "asked_again": 0,
        "answered_by": {"server": server.url, "asked": "toy", "named": {"toy": 7}},
        "tokens": 7 * 18,
        "cost": 0.0,
        "flops": 0,
    }
    assert server.bodies[0]["temperature"] == 0.0


def test_alpagasus_reply_that_cant_be_read_is_a_failure_with_the_reason(tmp_path: Path, runtime: Runtime) -> None:
    odd = {"c2": "6\nVery good.", "c3": BABBLE, "c6": ""}

    def reply(body: Body) -> str:
        row = next(row for row in ROWS if messages(row) == body["messages"])
        return odd.get(row.id, rated(body))

    with FaultServer(reply) as server:
        found = run_method(tmp_path, runtime, tmp_path, method(server, reasks=1))
        assert sum(server.answered.values()) == 4 + 2 * 3
    check(found, {i: rating for i, rating in RATINGS.items() if i not in odd})
    assert found.failures == {
        "c2": "the rating is outside 0 to 5",
        "c3": "the first line of the reply isn't a number",
        "c6": "the model gave no text (finish reason stop)",
    }
    with FaultServer(lambda body: BABBLE) as server, pytest.raises(NoScoreError, match="isn't a number: 7"):
        run_method(tmp_path / "none", runtime, tmp_path, method(server))


def test_alpagasus_resumes_from_the_replies_in_its_folder(tmp_path: Path, runtime: Runtime) -> None:
    with FaultServer(rated) as server:
        whole = run_method(tmp_path, runtime, tmp_path, method(server))
        (asked,) = shards_of(whole.step, "alpagasus:ratings")
        path = tmp_path / asked.folder / "replies.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:4]) + lines[4][:30])
        again = run_method(tmp_path, runtime, tmp_path, method(server))
        assert sum(server.answered.values()) == 7 + 3
    assert again.scores == whole.scores


def test_alpagasus_ties_have_a_seeded_random_order(tmp_path: Path, runtime: Runtime) -> None:
    rows = [Example(f"r{i:03d}", "Say it.", "", f"yes {i}") for i in range(300)]
    path = tmp_path / "ratings.jsonl"
    write_rows(path, ({"id": row.id, "rating": 4.5 if i % 2 else 5} for i, row in enumerate(rows)))
    ranks = {}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        stored = {"kind": "alpagasus", "ratings": str(path), "ties_seed": seed}
        ranks[name] = run_method(tmp_path / name, runtime, tmp_path, stored, rows).ranks
    assert ranks["one"] == ranks["same"] != ranks["other"]
    for order in ranks.values():
        assert {int(i[1:]) % 2 for i in order[:150]} == {0}
        mean = sum(int(i[1:]) for i in order[:75]) / 75
        assert 120 < mean < 180  # 149, standard error 7: neither early nor late rows are favoured


def in_file(folder: Path, name: str, entries: list[Any]) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    else:
        path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def texts(row: Example) -> dict[str, str]:
    return {"instruction": row.instruction, "input": row.input, "output": row.response}


@pytest.mark.parametrize("name", ["ratings.jsonl", "ratings.json"])
def test_alpagasus_stored_ratings_by_id_and_by_texts(tmp_path: Path, runtime: Runtime, name: str) -> None:
    by_id = [{"id": row.id, "rating": RATINGS[row.id]} for row in ROWS[:3]]
    by_texts = [{**texts(row), "score": str(RATINGS[row.id])} for row in ROWS[3:6]]
    response = {"instruction": ROWS[6].instruction, "input": None, "response": ROWS[6].response, "rating": 2}
    path = in_file(tmp_path, name, [{"id": "x", "rating": 9}, *by_texts, *by_id, response])
    found = run_method(tmp_path, runtime, tmp_path, {"kind": "alpagasus", "ratings": str(path)})
    check(found, RATINGS)
    assert found.failures == {} and found.metrics["unused"] == 1
    assert [step.name for step in found.step.inputs.values()] == ["candidates"]


def test_stored_ratings_rows_without_one_are_failures_with_the_reason(tmp_path: Path) -> None:
    entries = [
        {"id": "c5", "rating": -1},
        {"id": "c2", "rating": None},
        {"id": "c3", "rating": True},
        {"id": "c1", "rating": 4},
        {"id": "c1", "rating": 4.0},
        {"id": "c7", "rating": 4},
        {"id": "c7", "rating": 4.5},
        {"id": "c4", "rating": "nan"},
        {"id": "c4", "rating": 3},
    ]
    found, reasons, unused = stored_ratings(in_file(tmp_path, "r.jsonl", entries), ROWS)
    assert found == {"c1": 4.0} and unused == 0
    assert reasons == {
        "c5": "the stored rating is outside 0 to 5",
        "c2": "the stored rating isn't a number",
        "c3": "the stored rating isn't a number",
        "c7": "several stored ratings that differ",
        "c4": "the stored rating isn't a number",
        "c6": "no rating stored",
    }


def test_stored_ratings_id_of_another_numbering_doesnt_count_beside_texts(tmp_path: Path) -> None:
    entry = {"id": "c5", **texts(ROWS[1]), "rating": 3}
    other = {"id": "c2", **texts(ROWS[1]), "output": "Another answer.", "rating": 1}
    found, _, unused = stored_ratings(in_file(tmp_path, "r.json", [entry, other]), ROWS)
    assert found == {"c2": 3.0} and unused == 1


@pytest.mark.parametrize(
    "entries, message",
    [
        ([{"id": "c5", "rating": 1}, {"rating": 4}], r"r.json, row 2: has neither an id nor"),
        ([{"id": "c5"}], r"r.json, row 1: has no rating"),
        ({"c5": 4}, r"r.json:1: has neither an id nor"),
        ([4], r"r.json, row 1: a JSON object is needed, found int"),
    ],
)
def test_stored_ratings_file_of_another_shape_is_refused(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(RatingsFileError, match=message):
        stored_ratings(in_file(tmp_path, "r.json", entries), ROWS)


def test_run_ratings_of_other_rows_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    write_rows(tmp_path / "ratings.jsonl", [{"id": "c1", "rating": 4.0}, {"id": "zz", "rating": 4.0}])
    (tmp_path / "reasons.json").write_text("{}", encoding="utf-8")
    cfg = alpagasus.AlpagasusConfig()
    with pytest.raises(RatingError, match="7 ids are in the rows or in their ratings only"):
        alpagasus.run(cfg, {"candidates": tmp_path, "ratings": tmp_path}, tmp_path, runtime)


def score_step(work: Path, endpoint: Mapping[str, Any] | None, **more: Any) -> Step:
    return step_of(planned(work, {"mine": {"kind": "alpagasus", "endpoint": endpoint, **more}}))


@pytest.mark.parametrize(
    "endpoint, more, scores, asks",
    [
        ({}, {"ties_seed": 3}, True, False),
        ({"model": "other"}, {}, True, True),
        ({"max_tokens": 9}, {}, True, True),
        ({"reasks": 0}, {}, True, True),
        ({"base_url": "http://elsewhere/v1"}, {}, True, True),
        ({"concurrency": 2, "price_in": 1.0, "max_cost": 2.0}, {}, False, False),
    ],
    ids=str,
)
def test_setting_rebuilds_only_what_it_changes(
    tmp_path: Path, endpoint: dict[str, Any], more: dict[str, Any], scores: bool, asks: bool
) -> None:
    before = score_step(tmp_path, {"model": "toy"})
    after = score_step(tmp_path, {"model": "toy", **endpoint}, **more)
    (old,), (new,) = (shards_of(step, "alpagasus:ratings") for step in (before, after))
    assert (before.fingerprint != after.fingerprint, old.fingerprint != new.fingerprint) == (scores, asks)


def test_plan_counts_the_tokens_of_the_replies_too(tmp_path: Path) -> None:
    short, long = (score_step(tmp_path, {"model": "toy", "max_tokens": n}) for n in (10, 110))
    costs = [shards_of(step, "alpagasus:ratings")[0].cost for step in (short, long)]
    rows = small(tmp_path, {"data.candidates.size": None}).data.pool.expected_rows
    assert costs[1].tokens - costs[0].tokens == 100 * rows and costs[0].tokens > 100 * rows and costs[0].flops == 0


def test_plan_content_of_the_file_decides_not_its_name(tmp_path: Path) -> None:
    paths = [in_file(tmp_path, f"{i}.jsonl", [{"id": "c1", "rating": rating}]) for i, rating in enumerate([1, 1, 2])]
    one, same, other = (score_step(tmp_path, None, ratings=str(path)).fingerprint for path in paths)
    assert one == same != other
    with pytest.raises(PlanError, match=r"methods.mine.ratings='.*nowhere.json': no such file"):
        score_step(tmp_path, None, ratings=str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "methods.mine: set either endpoint"),
        ({"endpoint": {"model": "toy"}, "ratings": "r.json"}, "methods.mine: set either endpoint"),
        ({"endpoint": {}}, r"methods.mine.endpoint.model: a value is required"),
        ({"endpoint": {"model": "toy", "base_url": "toy"}}, "methods.mine.endpoint.base_url: must be like"),
        ({"endpoint": {"model": "toy", "max_cost": 5.0}}, "methods.mine.endpoint.max_cost=5: needs price_in"),
        ({"endpoint": {"model": "toy", "reasks": -1}}, "methods.mine.endpoint.reasks=-1: must be at least 0"),
    ],
    ids=str,
)
def test_settings_that_cant_work_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(tmp_path, {"methods": {"mine": {"kind": "alpagasus", **settings}}})


def test_conf_of_the_method_is_the_papers_but_for_the_retired_model() -> None:
    method = load(composed("experiment=smoke_tiny", "+method@methods.mine=alpagasus")).methods["mine"]
    assert (method.ratings, method.endpoint.temperature, method.endpoint.max_tokens) == (None, 0.0, 256)
