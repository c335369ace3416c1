import json
from collections import Counter

import pytest

from icon_repro.data.options import RowFormat, RowsConfig
from icon_repro.data.prepare import PrepareError, draw, run
from icon_repro.data.rows import Example
from icon_repro.data.sources import SourceError
from icon_repro.engine.records import read_json, read_rows


def row(instruction, output="an answer", **more):
    return {"instruction": instruction, "input": "", "output": output, **more}


@pytest.fixture
def prepare(runtime, file_source, jsonl, tmp_path):
    def go(rows, *, fields=None, format=RowFormat.alpaca, **settings):
        runtime.files["source"] = jsonl(rows)
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        metrics = run(RowsConfig(file_source(format, **(fields or {})), **settings), {}, out, runtime)
        return metrics, read_rows(out / "rows.jsonl", Example), read_json(out / "report.json")

    return go


def test_prepare_plain_rows_sorted_by_id_with_means(prepare):
    metrics, rows, report = prepare([row("four", "ab"), {**row("sixsix", "abcd"), "input": "1234"}])
    assert [r.id for r in rows] == sorted(r.id for r in rows) and len(rows) == 2
    assert metrics == {"rows": 2, "prompt_chars": 7.0, "response_chars": 3.0, "dropped": {}, "short_by": 0, "alike": 0}
    assert (report["read"], report["kept"], report["groups"]) == (2, 2, 1)


def test_prepare_filters_count_each_reason_and_name_ids(prepare):
    metrics, rows, report = prepare(
        [
            row("see http://x.org", key="url1"),
            {**row("see"), "input": "https://x.org", "key": "url2"},
            row("blank", " \n", key="blank"),
            row("short", "ab", key="short"),
            row("long", "a" * 50, key="long"),
            row("fits", "abc", key="fits"),
            row("url in the answer only", "http://a", key="kept"),
        ],
        fields={"id": "key"},
        drop_urls=True,
        min_response_chars=3,
        max_chars=50,
    )
    assert metrics["dropped"] == {"url": 2, "empty_response": 1, "short_response": 1, "too_long": 1}
    assert [r.id for r in rows] == ["fits", "kept"]
    assert report["dropped"]["url"] == {"count": 2, "first_ids": ["url1", "url2"]}


def test_prepare_length_limit_is_inclusive(prepare):
    assert prepare([row("12345", "12345")], max_chars=10)[0]["rows"] == 1


def test_prepare_urls_are_kept_unless_asked(prepare):
    assert prepare([row("see http://x.org")])[0]["dropped"] == {}


def test_prepare_copies_are_dropped_and_counted(prepare):
    metrics, rows, report = prepare([row("a"), row("b"), row("a"), row("a")])
    assert len(rows) == 2 and metrics["dropped"] == {"duplicate": 2}
    assert report["dropped"]["duplicate"]["count"] == 2


def test_prepare_one_id_for_two_texts_names_both_lines(prepare):
    with pytest.raises(PrepareError) as caught:
        prepare([row("a", key="k1"), row("b", key="k2"), row("c", key="k1")], fields={"id": "key"})
    message = str(caught.value)
    assert "'k1'" in message and "rows.jsonl:1" in message and "rows.jsonl:3" in message and "fields.id" in message


def test_prepare_nothing_left_lists_the_counts(prepare):
    with pytest.raises(PrepareError) as caught:
        prepare([row("http://a"), row("b", " "), row("c", " ")], drop_urls=True)
    message = str(caught.value)
    assert "none of 3 rows" in message and "url 1" in message and "empty_response 2" in message
    assert "drop_urls" in message


def test_prepare_empty_source_is_an_error(prepare):
    with pytest.raises(PrepareError, match=r"none of 0 rows is left .*the source is empty"):
        prepare([])


def test_prepare_result_doesnt_depend_on_order_of_source(prepare):
    rows = [row(f"task {i}", group=f"g{i % 3}") for i in range(40)]
    settings = {"fields": {"group": "group"}, "sample": 10, "stratify": True}
    copies = [*rows, row("task 1", group="other")]
    assert prepare(copies, **settings) == prepare(copies[::-1], **settings)


def test_prepare_stratify_without_groups_is_refused(prepare):
    with pytest.raises(PrepareError, match=r"stratify=true draws evenly over groups.*source\.fields\.group"):
        prepare([row("task 1"), row("task 2")], sample=1, stratify=True)


def test_prepare_sample_depends_on_seed_only(prepare):
    rows = [row(f"task {i}") for i in range(100)]
    first = prepare(rows, sample=20, seed=1)
    assert len(first[1]) == 20
    assert prepare(rows, sample=20, seed=1) == first
    assert prepare(rows, sample=20, seed=2)[1] != first[1]


def test_prepare_copies_but_for_spaces_and_capitals_are_counted_and_kept(prepare):
    metrics, rows, _ = prepare([row("Say it", "yes"), row("say  it ", "Yes"), row("Say it", "no")])
    assert len(rows) == 3 and metrics["alike"] == 1


def test_prepare_sample_larger_than_rest_keeps_all_and_says_so(prepare):
    metrics, rows, report = prepare([row("a"), row("b")], sample=5)
    assert len(rows) == 2 and metrics["short_by"] == 3 and report["short_by"] == 3


@pytest.mark.parametrize(
    "sizes, count, expected",
    [
        ({"a": 50, "b": 50, "c": 50}, 12, [4, 4, 4]),
        ({"a": 50, "b": 2, "c": 50}, 12, [2, 5, 5]),
        ({"a": 1, "b": 1, "c": 50}, 12, [1, 1, 10]),
        ({"a": 50, "b": 50, "c": 50}, 13, [4, 4, 5]),
        ({"a": 50, "b": 50, "c": 50}, 2, [0, 1, 1]),
    ],
)
def test_draw_stratified_is_as_even_as_the_groups_allow(example, sizes, count, expected):
    rows = [example(f"{group} {i}", group=group) for group, size in sizes.items() for i in range(size)]
    shares = Counter(row.group for row in draw(rows, count, 0, stratify=True))
    assert sorted(shares[group] for group in sizes) == expected


def test_draw_plain_ignores_groups_and_reaches_every_row(example):
    rows = [example(f"task {i}", group="big" if i else "small") for i in range(30)]
    seen = Counter(row.id for seed in range(60) for row in draw(rows, 10, seed, stratify=False))
    assert set(seen) == {row.id for row in rows}
    assert max(seen.values()) < 40  # of 60 draws, 20 expected


def test_draw_larger_count_extends_smaller(example):
    rows = [example(f"task {i}", group=str(i % 4)) for i in range(50)]
    for stratify in (False, True):
        ids = [{row.id for row in draw(rows, count, 3, stratify=stratify)} for count in (5, 20)]
        assert ids[0] < ids[1]


def test_prepare_released_assessment_keeps_its_ids_and_groups(runtime, file_source, shared, tmp_path):
    runtime.files["source"] = shared / "data" / "assessment_1020.jsonl"
    source = file_source(RowFormat.prompt_response, prompt="inputs", response="response", id="id", group="group")
    metrics = run(RowsConfig(source, sample=96, stratify=True), {}, tmp_path, runtime)
    rows = read_rows(tmp_path / "rows.jsonl", Example)
    assert metrics["rows"] == 96 and metrics["dropped"] == {}
    assert set(Counter(row.group for row in rows).values()) == {8}  # 12 groups
    raw = {r["id"]: r for r in map(json.loads, runtime.files["source"].open(encoding="utf-8"))}
    assert all(raw[row.id]["inputs"] == row.instruction and row.ready for row in rows)


def test_prepare_shots_of_a_benchmark_ask_as_the_evaluation_does_and_answer_right(prepare):
    sums = {"question": "2 + 2?", "options": "A. 3\nB. 4", "answer": "B", "passage": "Sums.", "task": "sums"}
    rows = [
        {"question": "Is ice cold?", "options": "A. yes\nB. no", "answer": "A. yes", "task": "ice"},
        sums,
        {"question": "Broken", "options": "yes or no", "answer": "yes", "task": "ice"},
        sums,
    ]
    metrics, kept, report = prepare(rows, fields={"group": "task"}, format=RowFormat.multiple_choice)
    found = {row.group: row for row in kept}
    assert (found["ice"].instruction, found["ice"].response) == ("Question: Is ice cold?\nAnswer:", " yes")
    assert (found["sums"].instruction, found["sums"].response) == ("Question: Sums. 2 + 2?\nAnswer:", " 4")
    assert all(row.ready and row.input == "" for row in kept)
    assert metrics["rows"] == 2 and metrics["dropped"] == {"unreadable options": 1, "duplicate": 1}
    assert report["read"] == 4 and report["dropped"]["unreadable options"]["first_ids"] == ["rows.jsonl:3"]


def test_prepare_rows_that_cannot_be_read_are_counted_and_dropped_only_if_asked(prepare):
    rows = [row("a"), row("b", None), row("c", 5), row("d", None), '{"instruction": "e', row("f"), "[1]"]
    message = r"rows\.jsonl:2: 'output' must be text, found NoneType.* 5 of 7 rows can't be read .*output is null: 2.*"
    with pytest.raises(SourceError, match=message + "drop_unreadable=true"):
        prepare(rows)
    metrics, kept, report = prepare(rows, drop_unreadable=True)
    assert sorted(r.instruction for r in kept) == ["a", "f"]
    reasons = {"malformed JSON": 1, "not a JSON object": 1, "output is int": 1, "output is null": 2}
    assert metrics["dropped"] == reasons
    assert report["dropped"]["output is null"] == {"count": 2, "first_ids": ["rows.jsonl:2", "rows.jsonl:4"]}
    with pytest.raises(SourceError, match=r"1 of 1 rows can't be read \(output is null: 1\)\.$"):
        prepare([row("b", None)], drop_unreadable=True)


def test_prepare_copies_of_a_text_are_left_out_also_under_ids_of_their_own(prepare):
    rows = [row("same", key="2"), row("same", key="1"), row("other", key="3"), row("same", "another", key="4")]
    metrics, kept, report = prepare(rows, fields={"id": "key"})
    assert [r.id for r in kept] == ["1", "3", "4"]
    assert metrics["dropped"] == {"duplicate": 1} and report["dropped"]["duplicate"]["first_ids"] == ["2"]
