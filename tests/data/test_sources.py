import gzip
import json
import re

import pytest

from icon_repro.data import patience
from icon_repro.data.file_sets import files_of
from icon_repro.data.options import RowFormat, SourceConfig, SourceKind
from icon_repro.data.rows import content_id
from icon_repro.data.sources import HubError, SourceError, read_examples
from icon_repro.engine.records import read_lines

ALPACA = {"instruction": "Say hi.", "input": "to Ann", "output": "Hi Ann."}


@pytest.fixture
def read(runtime, file_source):
    def read_all(path, format=RowFormat.alpaca, **fields):
        runtime.files["source"] = path
        return [row for _, row in read_examples(file_source(format, **fields), runtime)]

    return read_all


def refused(read, path, *args, **fields):
    with pytest.raises(SourceError) as caught:
        read(path, *args, **fields)
    return str(caught.value)


def test_alpaca_three_file_types_give_the_same_rows(read, jsonl, tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [ALPACA, {"instruction": "Größe? 你好", "input": "", "output": "ok"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first = read(jsonl(rows))
    assert first == read(tmp_path / "rows.json") == read(tmp_path / "rows.parquet")
    assert (first[0].instruction, first[0].input, first[0].response) == ("Say hi.", "to Ann", "Hi Ann.")
    assert first[1].instruction == "Größe? 你好"
    assert first[0].id == content_id("Say hi.", "to Ann", "Hi Ann.")
    assert not first[0].ready and first[0].group == ""


def test_alpaca_fields_name_the_columns(read, jsonl):
    path = jsonl([{"q": "Why?", "a": "So.", "key": 7, "kind": "x"}])
    (row,) = read(path, instruction="q", input=None, response="a", id="key", group="kind")
    assert (row.id, row.instruction, row.input, row.response, row.group) == ("7", "Why?", "", "So.", "x")


def test_alpaca_null_input_is_no_input(read, jsonl):
    assert read(jsonl([{**ALPACA, "input": None}]))[0].input == ""


def test_content_ids_equal_the_published_ones(read, shared):
    path = shared / "data" / "alpaca_released_union.jsonl"
    stored = [row["id"] for _, row in read_lines(path)]
    assert [row.id for row in read(path)] == stored
    assert len(stored) == 21912


def test_prompt_response_prompt_stays_as_it_is(read, jsonl):
    (row,) = read(jsonl([{"prompt": " ### Q\nWhy?\n", "output": "So."}]), RowFormat.prompt_response)
    assert row.instruction == " ### Q\nWhy?\n" and row.ready and row.input == ""


@pytest.mark.parametrize(
    "turns, instruction, response",
    [
        ("user=Hi|assistant=Hello", "Hi", "Hello"),
        ("system=Be kind|user=Hi|assistant=Hello", "System:\nBe kind\n\nUser:\nHi", "Hello"),
        ("user=A|assistant=B|user=C|assistant=D", "User:\nA\n\nAssistant:\nB\n\nUser:\nC", "D"),
        ("user=A|assistant=B|user=C", "A", "B"),
    ],
)
def test_messages_last_assistant_turn_is_the_response(read, jsonl, turns, instruction, response):
    messages = [dict(zip(("role", "content"), turn.split("="), strict=True)) for turn in turns.split("|")]
    (row,) = read(jsonl([{"messages": messages}]), RowFormat.messages)
    assert (row.instruction, row.response, row.ready) == (instruction, response, False)


@pytest.mark.parametrize(
    "messages, parts",
    [
        ([{"role": "user", "content": "Hi"}], ["assistant turn", "user"]),
        ([{"role": "assistant", "content": "Hi"}], ["after a user turn"]),
        ([], ["found roles: none"]),
        ("Hi", ["found str", "fields.messages"]),
        ([{"role": "tool", "content": "Hi"}], ["turn 1", "'tool'", "user"]),
        ([{"role": "user", "content": [{"text": "Hi"}]}], ["turn 1", "'content'", "found list"]),
        ([{"from": "user", "text": "Hi"}], ["turn 1", "'value'", "from, text"]),
        ([{"who": "user", "value": "Hi"}], ["turn 1", "'role'", "who, value"]),
    ],
)
def test_messages_bad_turns_are_named(read, jsonl, messages, parts):
    path = jsonl([{"messages": messages}])
    message = refused(read, path, RowFormat.messages)
    assert f"{path}:1" in message
    for part in parts:
        assert part in message


def test_missing_column_names_file_line_key_and_nearest(read, jsonl):
    path = jsonl([ALPACA, "", {"instructions": "x", "input": "", "output": "y"}])
    message = refused(read, path)
    assert f"{path}:3" in message and "'instruction'" in message and "'instructions'" in message
    assert "source.fields" in message and "instructions, input, output" in message


def test_missing_column_in_json_names_the_row(read, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ALPACA, {"instruction": "x", "input": ""}]))
    message = refused(read, path)
    assert f"{path}, row 2" in message and "'output'" in message


def test_alpaca_without_input_has_none_and_never_the_answer_in_its_place(read, jsonl):
    (row,) = read(jsonl([{"instruction": "x", "output": "y"}]))
    assert (row.instruction, row.input, row.response) == ("x", "", "y")
    message = refused(read, jsonl([{"instruction": "x", "context": "c", "output": "y"}]))
    assert "no column 'input', but 'context'. Set source.fields.input=context, or null" in message
    message = refused(read, jsonl([{"instruction": "x", "output": "y"}]), input="inputt")
    assert "Did you mean" not in message and "Set source.fields.input (null if rows have none)" in message


def test_advice_for_a_prompt_is_never_a_column_with_the_answer(read, jsonl):
    message = refused(read, jsonl([{"completion": "y"}]), RowFormat.prompt_response, prompt="completions", response="r")
    assert "Did you mean" not in message and "source.fields.prompt" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tool_calls": [{"name": "f"}]}, r"turn 2: 'tool_calls' isn't read.*fields\.left_out=\[tool_calls\]"),
        ({"reasoning_content": "Hm."}, r"'reasoning_content' isn't read"),
        ({"weight": 0}, "weight of the last assistant turn says that it isn't to be learned"),
        ({"train": False}, "train of the last assistant turn"),
    ],
)
def test_messages_that_say_more_of_a_turn_are_refused(read, jsonl, more, message):
    turns = [{"role": "user", "content": "A", "weight": 0}, {"role": "assistant", "content": "B", **more}]
    assert re.search(message, refused(read, jsonl([{"messages": turns}]), RowFormat.messages))
    turns[1] |= {"tool_calls": None, "reasoning_content": "", "weight": 1, "train": True}
    assert read(jsonl([{"messages": turns}]), RowFormat.messages)[0].response == "B"


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_sharegpt_turns_are_read_as_messages(read, jsonl, key):
    turns = [{"from": "system", "value": "S"}, {"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]
    ours = [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "A"}]}]
    ours.append({"role": "assistant", "content": "B"})
    (row,) = read(jsonl([{key: turns}]), RowFormat.messages)
    assert [row] == read(jsonl([{"messages": ours}]), RowFormat.messages)


@pytest.mark.parametrize("value, kind", [(3, "int"), (None, "NoneType"), (["a"], "list")])
def test_wrong_type_names_line_key_and_type(read, jsonl, value, kind):
    path = jsonl([ALPACA, {**ALPACA, "output": value}])
    message = refused(read, path)
    assert f"{path}:2" in message and "'output'" in message and kind in message


def test_half_surrogate_is_named_not_written(read, jsonl):
    path = jsonl(['{"instruction": "\\ud83d", "input": "", "output": "x"}'])
    assert f"{path}:1" in refused(read, path)


@pytest.mark.parametrize("value", ["", True, 1.5, None])
def test_id_column_of_no_use_is_named(read, jsonl, value):
    path = jsonl([{**ALPACA, "key": value}])
    message = refused(read, path, id="key")
    assert f"{path}:1" in message and "'key'" in message


def test_malformed_line_names_file_and_line(read, jsonl):
    path = jsonl([ALPACA, '{"instruction": "cut o'])
    with pytest.raises(SourceError, match=r"rows\.jsonl:2: malformed JSON"):
        read(path)


def test_json_that_is_one_object_is_refused(read, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": [ALPACA]}, indent=1))
    assert f"{path}: must hold a JSON list of rows, or a JSON object a line" in refused(read, path)


@pytest.mark.parametrize("form", ["lines", "list"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.jsonl.gz", "rows.json.zst"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_and_lists_are_read_whatever_suffix_mark_and_packing(read, tmp_path, form, name, mark):
    import pyarrow

    rows = [{**ALPACA, "input": "größer"}, ALPACA]
    text = json.dumps(rows) if form == "list" else "\r\n".join(map(json.dumps, rows))
    data = mark + text.encode()
    path = tmp_path / name
    if name.endswith(".zst"):
        with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [row.input for row in read(path)] == ["größer", "to Ann"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", '["é"]'.encode("utf-16"), "is UTF-16"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-le"), "is UTF-16"),
        ("a.jsonl", gzip.compress(b'{"a": 1}'), "holds gzip, not text"),
        ("a.json", b"PK\x03\x04", "holds a zip archive"),
        ("a.jsonl", b'{"a": 1, "b": [{"c": 2, "c": 3}]}', "the key 'c' is there twice"),
        ("a.csv", b"instruction,output\na\n", "has 1 cells, the first row 2"),
        ("a.csv", b"instruction,instruction\na,b\n", "must name the columns, each once"),
        ("a.tsv", b'instruction\toutput\n"a\tb\n', "malformed"),
        ("a.csv", b"instruction,output\na,\xe9\n", "not UTF-8"),
        ("a.json", b'[{"a": 1}', "not valid JSON .*Mend the file"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.jsonl.gz", b'{"a": 1}', "can't be read"),
        ("a.jsonl", b'{"a": "\xe9"}', "not UTF-8"),
        ("a.parquet", b"PAR1", "not readable as Parquet"),
    ],
)
def test_files_that_cannot_be_read_say_why(read, tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError, match=message) as raised:
        read(path)
    assert "Delete" not in str(raised.value)


def test_files_of_folders_patterns_and_splits(tmp_path):
    def names(path, split="train"):
        return [found.relative_to(tmp_path).as_posix() for found in files_of(str(tmp_path / path), split)]

    for name in ("hub/data/train-00000-of-00002.parquet", "hub/data/train-00001-of-00002.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "hub/data/test-00000-of-00001.parquet").touch()
    (tmp_path / "hub/README.md").touch()
    (tmp_path / "hub/dataset_infos.json").touch()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/b.jsonl").touch()
    (tmp_path / "plain/a.jsonl.gz").touch()
    (tmp_path / "odd [1].jsonl").touch()
    assert names("hub") == ["hub/data/train-00000-of-00002.parquet", "hub/data/train-00001-of-00002.parquet"]
    assert names("hub", "test") == ["hub/data/test-00000-of-00001.parquet"]
    assert names("plain") == ["plain/a.jsonl.gz", "plain/b.jsonl"]
    assert names("hub/**/t*-0*.parquet") == names("hub", "test") + names("hub")
    assert names("odd [1].jsonl") == ["odd [1].jsonl"]
    for path, message in [("hub/x*", "no file fits"), ("no", "no such file"), ("hub/data/..", "holds the splits")]:
        with pytest.raises(SourceError, match=message):
            names(path, "extra")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="a folder without a file of rows"):
        names("empty")
    (tmp_path / "hub/data/train-00000-of-00002.parquet").unlink()
    for path in ("hub", "hub/data/*.parquet"):
        with pytest.raises(SourceError, match=r"train-00000-of-00002\.parquet: isn't there"):
            names(path)
    assert names("hub/data/*-00001-*.parquet") == ["hub/data/train-00001-of-00002.parquet"]  # meant


def test_folders_of_which_a_part_would_be_lost_or_several_sets_be_mixed_are_refused(tmp_path):
    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    touch("subsets/en/train.jsonl", "subsets/de/train.jsonl", "subsets/de/test.jsonl")
    with pytest.raises(SourceError, match=r"2 folders in it \(de, en\)"):
        files_of(str(tmp_path / "subsets"))
    assert len(files_of(str(tmp_path / "subsets/**/train.jsonl"))) == 2
    assert len(files_of(str(tmp_path / "subsets/de"))) == 1
    touch("splits/train/a.parquet", "splits/train/b.parquet", "splits/test/a.parquet", "splits/numbers.json")
    assert len(files_of(str(tmp_path / "splits"))) == 2
    touch("more/train.jsonl", "more/extra.jsonl")
    with pytest.raises(SourceError, match=r"1 files name no split beside those of 'train' \(first: extra\.jsonl\)"):
        files_of(str(tmp_path / "more"))


def test_folders_with_files_that_cannot_be_read_are_refused(tmp_path):
    def folder(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").touch()
        return tmp_path / name

    gone = folder("gone")
    (gone / "b.jsonl").symlink_to(tmp_path / "nowhere")
    for path in (gone, gone / "*.jsonl"):
        with pytest.raises(SourceError, match=r"b\.jsonl: is a link to a file that isn't there"):
            files_of(str(path))
    linked = folder("linked")
    (linked / "more").symlink_to(gone, target_is_directory=True)
    (gone / "b.jsonl").unlink()
    with pytest.raises(SourceError, match=r"more: is a link to a folder.*\(.*linked/\*/\*\.jsonl\)"):
        files_of(str(linked))
    assert len(files_of(str(linked / "*/*.jsonl"))) == 1
    (gone / "a.jsonl").unlink()  # nothing would be left out
    assert len(files_of(str(linked))) == 1
    for name in ("b.jsonl.xz", "b.parquet.incomplete"):
        packed = folder(name.partition(".")[2])
        (packed / "notes.txt.xz").touch()
        assert len(files_of(str(packed))) == 1
        (packed / name).touch()
        with pytest.raises(SourceError, match=rf"{name}: seems to hold rows"):
            files_of(str(packed))
        (packed / name).with_suffix("").touch()  # unpacked
        assert len(files_of(str(packed))) == 2


@pytest.mark.parametrize(
    ("format", "row", "column"),
    [
        (RowFormat.alpaca, {**ALPACA, "history": [["Hi", "Hello"]]}, "history"),
        (RowFormat.alpaca, {**ALPACA, "system": "Be brief.", "tools": "[]"}, "system"),
        (RowFormat.prompt_response, {"prompt": "Hi", "output": "Hello", "images": ["a.png"]}, "images"),
        (
            RowFormat.messages,
            {"system": "S", "messages": [{"from": "user", "value": "A"}, {"from": "gpt", "value": "B"}]},
            "system",
        ),
    ],
)
def test_a_column_that_says_more_of_a_row_is_never_left_out_unasked(read, jsonl, format, row, column):
    message = refused(read, jsonl([row]), format)
    (remedy,) = re.findall(r"source\.fields\.left_out=\[([a-z,]+)\]", message)
    assert f"the column {column!r} says more of the row" in message
    (left,) = read(jsonl([row]), format, left_out=remedy.split(","))
    bare = {key: value for key, value in row.items() if key not in remedy.split(",")}
    assert [left] == read(jsonl([bare]), format)
    for empty in (None, " ", "[]", "{}", [[]], {"tools": []}):  # nothing is lost
        assert [left] == read(jsonl([{**bare, column: empty}]), format)


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_cells_are_text_as_they_stand(read, tmp_path, suffix, separator):
    rows = [["instruction", "input", "output"], ['"Say ""hi"",\nplease."', "", " 007"], [], ["b", "NA", "1.0"]]
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in rows)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    found = [(row.instruction, row.input, row.response) for row in read(path)]
    assert found == [('Say "hi",\nplease.', "", " 007"), ("b", "NA", "1.0")]


def test_an_arrow_stream_that_ends_between_two_batches_is_cut(read, tmp_path):
    import pyarrow

    path, table = tmp_path / "rows.arrow", pyarrow.Table.from_pylist([ALPACA])
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    assert len(read(path)) == 1
    path.write_bytes(path.read_bytes()[:-8])
    assert "cut short" in refused(read, path)


def test_json_list_of_other_things_names_the_row(read, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ALPACA, "text"]))
    assert f"{path}, row 2" in refused(read, path)


def test_unknown_suffix_lists_the_known(read, tmp_path):
    path = tmp_path / "rows.xlsx"
    path.write_text("a,b\n")
    message = refused(read, path)
    assert "'.xlsx'" in message and ".parquet" in message


def test_missing_file_is_named(read, tmp_path):
    message = refused(read, tmp_path / "absent.jsonl")
    assert "absent.jsonl" in message and "working directory" in message


def test_parquet_that_is_none_is_named(read, tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"not parquet at all")
    assert str(path) in refused(read, path)


def hub(revision="a" * 40):
    return SourceConfig(SourceKind.hub, RowFormat.alpaca, name="x", hub_id="someone/rows", revision=revision)


def test_hub_without_network_names_set_commit_and_remedy(runtime, monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    runtime.extra["commit"] = "a" * 40
    with pytest.raises(HubError) as caught:
        list(read_examples(hub(), runtime))
    message = str(caught.value)
    assert "someone/rows" in message and "a" * 40 in message and "connect to the network" in message
    assert "kind: file" in message


def test_hub_rows_are_read_at_the_commit_that_the_plan_found(runtime, monkeypatch):
    import datasets

    asked = {}

    def load(hub_id, subset, *, split, revision, **_):
        asked.update(hub_id=hub_id, split=split, revision=revision)
        return datasets.Dataset.from_list([ALPACA])

    monkeypatch.setattr(datasets, "load_dataset", load)
    runtime.extra["commit"] = "b" * 40
    ((_, row),) = read_examples(hub("main"), runtime)
    assert row.response == "Hi Ann."
    assert asked == {"hub_id": "someone/rows", "split": "train", "revision": "b" * 40}


def test_hub_rows_of_another_commit_that_the_cache_holds_are_refused(runtime, monkeypatch, tmp_path):
    import datasets

    cached = tmp_path / ("b" * 40)
    datasets.Dataset.from_list([ALPACA]).save_to_disk(cached)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.load_from_disk(cached))
    runtime.extra["commit"] = "b" * 40
    assert len(list(read_examples(hub(), runtime))) == 1
    runtime.extra["commit"] = "a" * 40
    with pytest.raises(HubError, match=rf"someone/rows@{'a' * 40}.* holds someone/rows at {'b' * 40}.*as revision"):
        list(read_examples(hub(), runtime))


def test_hub_branch_that_stayed_unresolved_is_refused(runtime):
    runtime.extra["commit"] = "unresolved:main"
    with pytest.raises(HubError, match=r"someone/rows: revision 'main'.*set the commit"):
        list(read_examples(hub("main"), runtime))


class AnswerError(Exception):
    """An error of the hub with the status of its response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status})()


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (429, 3), (404, 1), (403, 1)])
def test_what_may_pass_is_tried_again_and_the_rest_not(status, tries, monkeypatch):
    pauses, asked = [], []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)

    def read():
        asked.append(status)
        if len(asked) < 3:
            try:
                raise AnswerError(status)
            except AnswerError as error:
                raise OSError("wrapped, as datasets does") from error
        return "rows"

    if tries == 1:
        with pytest.raises(OSError, match="wrapped"):
            patience.patiently(read, "org/rows")
    else:
        assert patience.patiently(read, "org/rows") == "rows"
    assert len(asked) == tries and pauses == list(patience.PAUSES_S[: tries - 1])


def test_a_hub_that_never_comes_back_is_an_error_in_the_end(monkeypatch):
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    asked = []

    def read():
        asked.append(1)
        raise AnswerError(503)

    with pytest.raises(AnswerError):
        patience.patiently(read, "org/rows")
    assert len(asked) == 1 + len(patience.PAUSES_S)
    assert not patience.passing(ConnectionError("no network"))
