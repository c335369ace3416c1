from pathlib import Path

import pytest

import icon_repro.data
from icon_repro.data.benchmark import BenchmarkError, run
from icon_repro.data.options import RowFormat
from icon_repro.data.sources import SourceError
from icon_repro.engine.records import read_json, read_lines

ROW = {"question": " Which floats? ", "options": "\nA. a stone\nB. a  cork ", "answer": "B. a  cork "}


@pytest.fixture
def benchmark(runtime, file_source, jsonl, tmp_path):
    def go(rows):
        runtime.files["source"] = rows if isinstance(rows, Path) else jsonl(rows)
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        metrics = run(file_source(RowFormat.multiple_choice), {}, out, runtime)
        return metrics, [row for _, row in read_lines(out / "rows.jsonl")], read_json(out / "report.json")

    return go


def test_benchmark_row_as_query_choices_and_gold(benchmark):
    metrics, (row,), _ = benchmark([ROW])
    assert metrics == {"rows": 1, "dropped": {}}
    assert row["query"] == "Question: Which floats?\nAnswer:"
    assert row["choices"] == ["a stone", "a  cork"] and row["gold"] == 1


def test_benchmark_passage_stands_before_the_question(benchmark):
    rows = benchmark([{**ROW, "passage": "Tom threw both into a pond."}])[1]
    assert rows[0]["query"] == "Question: Tom threw both into a pond. Which floats?\nAnswer:"


@pytest.mark.parametrize("answer", ["B", "B.", "B)", "B. a  cork"])
def test_benchmark_answer_as_letter_or_line_is_read(benchmark, answer):
    assert benchmark([{**ROW, "answer": answer}])[1][0]["gold"] == 1


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"answer": "C"}, "unreadable answer"),
        ({"answer": "B. a corkscrew"}, "unreadable answer"),
        ({"answer": "A. a  cork"}, "unreadable answer"),
        ({"answer": "a cork"}, "unreadable answer"),
        ({"answer": ""}, "unreadable answer"),
        ({"options": "A. one"}, "unreadable options"),
        ({"options": "A. one\nC. two"}, "unreadable options"),
        ({"options": "B. two\nA. one"}, "unreadable options"),
        ({"options": "A. one\nand more\nB. two"}, "unreadable options"),
        ({"options": "A. one\nB. "}, "unreadable options"),
        ({"options": ""}, "unreadable options"),
        ({"options": "A. cork\nB. cork"}, "right choice stands twice"),
    ],
)
def test_benchmark_unreadable_row_is_counted_and_named_not_guessed(benchmark, change, reason):
    if "options" in change:
        change = {"answer": "A", **change}
    metrics, rows, report = benchmark([ROW, {**ROW, "question": "Other?", **change}])
    assert len(rows) == 1 and metrics == {"rows": 1, "dropped": {reason: 1}}
    assert report["dropped"][reason] == {"count": 1, "first": ["rows.jsonl:2"]}


def test_benchmark_copy_is_dropped_and_order_stays(benchmark):
    other = {**ROW, "question": "And which sinks?", "answer": "A"}
    metrics, rows, _ = benchmark([other, ROW, other])
    assert metrics == {"rows": 2, "dropped": {"duplicate": 1}}
    assert "sinks" in rows[0]["query"] and len({row["id"] for row in rows}) == 2


def test_benchmark_no_usable_row_is_an_error(benchmark):
    with pytest.raises(BenchmarkError, match=r"no usable row .*unreadable answer 1"):
        benchmark([{**ROW, "answer": "?"}])


def test_benchmark_missing_column_names_line_and_key(benchmark):
    with pytest.raises(SourceError, match=r"rows\.jsonl:1: no column 'options'.*question, answer"):
        benchmark([{"question": "x", "answer": "A"}])


def test_benchmark_tiny_rows_of_the_package_all_read(benchmark):
    tiny = Path(icon_repro.data.__file__).parent / "tiny" / "benchmark.jsonl"
    metrics, rows, _ = benchmark(tiny)
    assert metrics == {"rows": 20, "dropped": {}}
    assert {row["gold"] for row in rows} == {0, 1, 2, 3}
