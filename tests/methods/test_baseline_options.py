"""Each option in which a baseline's published code differs from ours, against a loop over single texts or by hand."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from slow_baselines import ROWS, SlowModel, planned, run_method, shards_of, step_of

from icon_repro.data.planner import PlanError
from icon_repro.data.prompts import Template, alpaca_prompt, plain_prompt, prompt_of
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import plain
from icon_repro.lm.load import load_tokenizer
from icon_repro.lm.tokens import bos_ids
from icon_repro.methods import rds, selectit
from icon_repro.methods.common.answers import encoded
from icon_repro.methods.common.options import AnswerPart, AnswersConfig, Baseline, LongRows, RowOrder, Tokenise
from icon_repro.methods.common.questions import QUESTIONS, QuestionsError, read_questions
from icon_repro.methods.ifd.options import IfdConfig
from icon_repro.methods.nuggets import NuggetsConfig
from icon_repro.methods.rds import RdsConfig, Turn
from icon_repro.methods.selectit import SelectitConfig

READY = [
    Example("q1", "### Instruction:\nName three colours.\n\n### Response:", "", "Red, green and blue.", ready=True),
    Example("q2", "### Question:\nIs it open?\n\n### Response: ", "", "Until 10 pm.", ready=True),
]


def as_compat_says(options: Any) -> Any:
    """As the file of its method fills in what ``compat`` decides."""
    return importlib.import_module(f"icon_repro.methods.{options.kind}").as_compat_says(options)


# ---------------------------------------------------------------- IFD and Superfiltering


@pytest.mark.parametrize("room", [None, 4, 1])
def test_ifd_long_rows_are_cut_and_kept(model_step: Path, tmp_path: Path, runtime: Runtime, room: int | None) -> None:
    slow = SlowModel(model_step)
    long = max(ROWS, key=lambda row: len(row.response))
    prompt, answer = slow.bos + slow.ids(alpaca_prompt(long)), slow.ids(long.response)
    limit, before = len(prompt) + 20, slow.bos + slow.ids("### Response:")
    assert len(answer) > 20
    method = {"kind": "ifd", "long_rows": "cut", "direct_room": room, "max_length": limit, "drop_above_one": False}
    direct = (before + answer)[: 20 + (len(before) if room is None else room)]
    if len(direct) <= len(before):
        pytest.skip("nothing of the response is left: the next test has that")
    found = run_method(tmp_path, runtime, model_step, method)
    parts = found.scores[long.id].parts
    assert parts["conditioned"] == pytest.approx(slow.nll(prompt, answer[:20]), abs=1e-5)
    assert parts["direct"] == pytest.approx(slow.nll(before, direct[len(before) :]), abs=1e-5)
    dropped = run_method(tmp_path / "drop", runtime, model_step, {**method, "long_rows": "drop", "direct_room": None})
    assert dropped.failures[long.id] == f"longer than {limit} tokens"


def answers(**more: Any) -> AnswersConfig:
    parts = [AnswerPart.conditioned, AnswerPart.direct]
    return replace(AnswersConfig(parts, Template.plain, "", 64, long_rows=LongRows.cut), **more)


def test_cut_prompt_that_fills_the_limit_leaves_nothing_to_score(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    row = Example("1", "Name a colour. " * 30, "", "Red.")
    assert encoded(row, answers(), tokenizer) == "prompt of 64 tokens or more"


def test_cut_direct_text_with_more_tokens_than_the_prompt_leaves_is_left_out(model_step: Path) -> None:
    """As Cherry_LLM's code does where what stands before the response takes fewer than its four tokens."""
    tokenizer = load_tokenizer(model_step)
    row = Example("1", "Name a colour.", "", "Red, green, blue, and all the others that one may see. " * 3)
    taken = len(bos_ids(tokenizer)) + len(tokenizer("x", add_special_tokens=False)["input_ids"])
    kept = encoded(row, answers(direct="x", direct_room=taken), tokenizer)
    assert not isinstance(kept, str)
    assert kept[AnswerPart.direct].answer_tokens == kept[AnswerPart.conditioned].answer_tokens
    assert kept == encoded(row, answers(direct="x"), tokenizer), "without direct_room, both score the same tokens"
    assert "response alone takes more than what the prompt leaves of 64 tokens" in str(
        encoded(row, answers(direct="x", direct_room=taken + 1), tokenizer)
    )


def test_joint_tokens_are_those_of_the_whole_text(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    row = Example("1", "Name a colour: ##", "", "# Response:")  # "### Response:" has tokens of its own
    text, start = "Name a colour: ##", bos_ids(tokenizer)
    config = answers(template=Template.as_is, max_length=256)
    joint = encoded(row, replace(config, tokenise=Tokenise.joint), tokenizer)
    apart = encoded(row, config, tokenizer)
    assert not isinstance(joint, str) and not isinstance(apart, str)
    one = joint[AnswerPart.conditioned]
    assert one.ids == start + tokenizer(text + row.response, add_special_tokens=False)["input_ids"]
    assert one.answer_start == len(start) + len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert one.ids != apart[AnswerPart.conditioned].ids


def test_ifd_of_exactly_one_is_dropped_only_where_superfilterings_code_does(tmp_path: Path, runtime: Runtime) -> None:
    from icon_repro.methods import ifd

    shard = tmp_path / "shard"
    shard.mkdir()
    write_json(shard / "ids.json", {"rows": ["a", "b", "c"], "reasons": {}})
    np.save(shard / "conditioned.npy", np.array([1.0, 2.0, 3.0]))
    np.save(shard / "direct.npy", np.array([2.0, 2.0, 2.0]))
    for drop_one, kept in ((False, {"a", "b"}), (True, {"a"})):
        config = as_compat_says(IfdConfig(drop_one=drop_one))
        ifd.run(config, {"shard-0000": shard}, tmp_path, runtime)
        assert {row.id for row in read_rows(tmp_path / "scores.jsonl", Score)} == kept


# ---------------------------------------------------------------- RDS+


def losing(similarity: NDArray[Any]) -> list[int]:
    """Each query has one try a round: its k-th nearest in round k."""
    order: list[int] = []
    nearest = [sorted(range(len(similarity)), key=lambda r: (-column[r], r)) for column in similarity.T]
    for k in range(len(similarity)):
        for rows in nearest:
            if rows[k] not in order:
                order.append(rows[k])
    return order


@pytest.mark.parametrize("rows, queries", [(7, 3), (3, 7), (1, 4), (40, 5)])
def test_turn_lose_equals_a_naive_loop(rows: int, queries: int) -> None:
    draw = np.random.default_rng(rows)
    differs = 0
    for _ in range(20):
        values = draw.normal(size=(rows, queries)).astype(np.float32)
        assert rds.taken_in_turns(values, Turn.lose) == losing(values)
        differs += rds.taken_in_turns(values, Turn.next) != losing(values)
    assert differs or min(rows, queries) == 1


def test_ties_file_takes_the_earlier_row(tmp_path: Path, runtime: Runtime) -> None:
    inputs = {}
    for name, ids, vectors in (("shard-0000", ["d", "c"], [[1, 0], [1, 0]]), ("query-0000", ["q"], [[1, 0]])):
        inputs[name] = tmp_path / name
        inputs[name].mkdir()
        write_json(inputs[name] / "ids.json", {"rows": ids, "reasons": {}})
        np.save(inputs[name] / "vectors.npy", np.array(vectors, np.float32))
    for ties, first in ((RowOrder.id, "c"), (RowOrder.file, "d")):
        rds.run(RdsConfig(ties=ties), inputs, tmp_path, runtime)
        assert max(read_rows(tmp_path / "scores.jsonl", Score), key=lambda row: row.score).id == first


def test_rds_rows_and_queries_stand_in_one_template(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Fails on a mixture: ready prompts as they stand beside rows in tuning's prompt."""
    slow = SlowModel(model_step)

    def vectors(method: dict[str, Any]) -> NDArray[np.float32]:
        found = run_method(tmp_path / str(len(method)), runtime, model_step, method, assessment=READY)
        return np.asarray(np.load(found.folders["score/embeddings-queries"] / "vectors.npy"))

    def slow_vectors(template: Template) -> NDArray[np.float64]:
        made = []
        for row in READY:
            states = slow.hidden(slow.bos + slow.ids(prompt_of(row, template) + row.response))
            vector = np.arange(1, len(states) + 1) @ states
            made.append(vector / np.linalg.norm(vector))
        return np.array(made)

    start = alpaca_prompt(ROWS[0]).split("Name")[0]
    assert all(prompt_of(row, Template.alpaca).startswith(start) for row in READY)
    np.testing.assert_allclose(vectors({"kind": "rds"}), slow_vectors(Template.alpaca), rtol=0, atol=1e-5)
    as_is = vectors({"kind": "rds", "query_template": "as_is"})
    np.testing.assert_allclose(as_is, slow_vectors(Template.as_is), rtol=0, atol=1e-5)
    assert np.abs(as_is - slow_vectors(Template.alpaca)).max() > 1e-3


def test_rds_queries_stay_as_they_stand_where_tuning_leaves_the_rows_so(tmp_path: Path) -> None:
    method = {"mine": {"kind": "rds"}}
    for form, wrap in (("alpaca", True), ("prompt_response", False)):
        step = step_of(planned(tmp_path, method, data__pool__source__format=form))
        assert step.inputs["query-0000"].params.embedding.wrap is wrap


def test_rds_ready_queries_as_is_are_the_steps_of_earlier_versions(tmp_path: Path) -> None:
    method = {"mine": {"kind": "rds", "query_template": "as_is"}}
    step = step_of(planned(tmp_path, method, data__assessment__source__format="prompt_response"))
    hashed = step.inputs["query-0000"].hashed["params"]["embedding"]
    assert hashed == shards_of(step, "embeddings:shard")[0].hashed["params"]["embedding"]
    assert hashed["template"] == "alpaca" and not {"wrap", "strip"} & hashed.keys()


# ---------------------------------------------------------------- Nuggets


def test_nuggets_counts_the_own_row_only_where_all_anchors_count(
    model_step: Path, tmp_path: Path, runtime: Runtime
) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(["c3", "c5"]))
    method = {"kind": "nuggets", "anchors": {"ids": str(ids)}}
    scored = run_method(tmp_path / "scored", runtime, model_step, method)
    counted = run_method(tmp_path / "all", runtime, model_step, {**method, "counted": "all"})
    assert not any(step.target.endswith("embeddings:shard") for step in shards_of(scored.step, "shard"))
    for row in ROWS:
        own = row.id in ("c3", "c5")
        assert scored.scores[row.id].parts["anchors"] == 2 - own
        assert counted.scores[row.id].parts["anchors"] == 2
        if not own:
            assert counted.scores[row.id] == scored.scores[row.id]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1}', "must be a JSON list of different ids"),
        ("[]", "with at least one"),
        ('["c1", "c1"]', "must be a JSON list of different ids"),
        ('["c1", "x", "y"]', "2 of 3 ids aren't among the 7 rows that are ranked .first: 'x'."),
    ],
    ids=["no list", "empty", "twice", "unknown"],
)
def test_nuggets_file_of_anchors_that_isnt_one_is_refused(
    model_step: Path, tmp_path: Path, runtime: Runtime, text: str, message: str
) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text(text)
    with pytest.raises(ValueError, match=f"ids.json: .*{message}"):
        run_method(tmp_path, runtime, model_step, {"kind": "nuggets", "anchors": {"ids": str(ids)}})


def test_nuggets_file_of_anchors_that_is_missing_is_refused_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"methods.mine.anchors.ids='nowhere.json': no such file"):
        planned(tmp_path, {"mine": {"kind": "nuggets", "anchors": {"ids": "nowhere.json"}}})


# ---------------------------------------------------------------- SelectIT


def test_selectit_asks_the_questions_of_a_file(model_step: Path, tmp_path: Path, runtime: Runtime) -> None:
    path, method = tmp_path / "questions.txt", {"kind": "selectit", "questions": str(tmp_path / "questions.txt")}
    path.write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    same = run_method(tmp_path / "same", runtime, model_step, method)
    ours = run_method(tmp_path / "ours", runtime, model_step, {"kind": "selectit"})
    assert same.scores == ours.scores and same.step.fingerprint != ours.step.fingerprint
    path.write_text("\n".join(QUESTIONS).replace("good", "bad") + "\n", encoding="utf-8")
    other = run_method(tmp_path / "other", runtime, model_step, method)
    assert other.step.fingerprint != same.step.fingerprint, "the file is hashed by content"
    assert other.scores != ours.scores


@pytest.mark.parametrize(
    "text, message",
    [
        (b"one\ntwo\n", "2 lines; .*exactly 5.*questions=null"),
        (b"1\n2\n3\n4\n5\n6\n", "6 lines; .*Keep the first five"),
        (b"", "0 lines"),
        (b"1\n2\n \n4\n5\n", "txt:3: an empty line; write a question"),
        (b"1\n2\n\xff\n4\n5\n", "not UTF-8.*Convert"),
    ],
    ids=["two", "six", "none", "empty line", "not UTF-8"],
)
def test_selectit_file_that_isnt_five_questions_is_refused_by_the_plan(
    tmp_path: Path, text: bytes, message: str
) -> None:
    path = tmp_path / "questions.txt"
    path.write_bytes(text)
    with pytest.raises(QuestionsError, match=message):
        read_questions(path)
    with pytest.raises(PlanError, match=f"methods.mine.questions: .*{message}"):
        planned(tmp_path, {"mine": {"kind": "selectit", "questions": str(path)}})


def test_selectit_published_layout_written_out() -> None:
    row = Example("1", "Add.", "3 and 4", "7")
    text = selectit.prompt(row, "How good?", Baseline.published)
    assert text == "How good?\n\nInstruction:Add.\n3 and 4\nResponse:7\nThe answer is: \n"
    assert text != selectit.prompt(row, "How good?")


# ---------------------------------------------------------------- all


@pytest.mark.parametrize(
    "config, fields",
    [
        (IfdConfig(), "kind ratio drop_above_one template direct max_length dtype proxy shard_rows"),
        (RdsConfig(), "kind template max_length dtype shard_rows"),
        (
            NuggetsConfig(),
            "kind anchors template separator anchor_tokens shot_tokens max_length dtype shard_rows",
        ),
        (SelectitConfig(), "kind alpha max_length dtype shard_rows"),
    ],
    ids=["ifd", "rds", "nuggets", "selectit"],
)
def test_defaults_are_hashed_as_before_the_options_were_there(config: Any, fields: str) -> None:
    hashed = plain(as_compat_says(config), hashed_only=True)
    assert set(hashed) == set(fields.split())
    assert set(hashed.get("anchors", {"count": 1, "seed": 1})) == {"count", "seed"}
    published = plain(as_compat_says(replace(config, compat=Baseline.published)), hashed_only=True)
    assert published != hashed


def test_option_that_is_set_outweighs_compat() -> None:
    config = as_compat_says(RdsConfig(compat=Baseline.published, turn=Turn.next))
    assert config.turn is Turn.next and config.ties is RowOrder.file
    anchors = replace(NuggetsConfig().anchors, padding=False)
    assert as_compat_says(NuggetsConfig(compat=Baseline.published, anchors=anchors)).anchors.padding is False


def test_answers_of_a_default_plan_are_the_steps_of_earlier_versions(tmp_path: Path) -> None:
    step = step_of(planned(tmp_path, {"mine": {"kind": "ifd"}}))
    hashed = shards_of(step, "answers:shard")[0].hashed["params"]["answers"]
    assert set(hashed) == {"parts", "template", "direct", "max_length", "dtype"}


def test_plain_prompt_of_superfiltering_is_tokenised_with_its_response(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    found = encoded(ROWS[0], answers(tokenise=Tokenise.joint, max_length=512), tokenizer)
    assert not isinstance(found, str)
    whole = tokenizer(plain_prompt(ROWS[0]) + ROWS[0].response, add_special_tokens=False)["input_ids"]
    assert found[AnswerPart.conditioned].ids == bos_ids(tokenizer) + whole
