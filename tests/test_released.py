"""The authors' released selections: made-up ones with known answers, and the real ones against other computations."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from experiments.released_selections.released import main
from experiments.released_selections.released_data import (
    Embedded,
    Released,
    ReleasedError,
    label,
    load,
    read_embeddings,
    read_measures,
)
from experiments.released_selections.released_findings import (
    Finding,
    codes,
    distinct,
    effective,
    find_contents,
    find_duplicates,
    find_length,
    find_models,
    find_nesting,
    find_tasks,
)
from experiments.released_selections.released_scores import (
    bands,
    centred,
    distance,
    effective_rows,
    find_diversity,
    find_scores,
    peak,
)
from icon_repro.config.compose import composed
from icon_repro.data.rows import content_id
from icon_repro.engine.artifact import Store
from icon_repro.engine.run import run
from icon_repro.experiment import plan
from icon_repro.report.intervals import Interval

VERBS = ["Write", "List", "Explain", "Name"]
SELECTIONS = {
    ("a", "top_8"): range(0, 8),
    ("a", "top_16"): range(4, 20),  # holds half of top_8
    ("a", "low_20"): range(18, 38),  # shares two rows with top_16
    ("b", "top_8"): range(2, 10),
}
UNSEEN = range(38, 40)  # in the union by ("b", "top_16") only


def raw_rows(count: int = 40) -> list[dict[str, str]]:
    """Row i: its response has 10 x (count - i) characters and a word of its own; every fourth has an input."""
    rows = []
    for i in range(count):
        text = f"w{i} ".ljust(10 * (count - i), "x")
        row = {"instruction": f"{VERBS[i % 4]} a thing{i}.", "input": "" if i % 4 else f"input {i}", "output": text}
        rows.append({"id": content_id(row["instruction"], row["input"], row["output"]), **row})
    return rows


def write_data(folder: Path, rows: list[dict[str, str]] | None = None, lines: list[str] | None = None) -> Path:
    """The two files of made-up selections, rows in another order than that of their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    found = raw_rows() if rows is None else rows
    union = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    (folder / "alpaca_released_union.jsonl").write_text(union, encoding="utf-8")
    if lines is None:
        members = {**SELECTIONS, ("b", "top_16"): [*range(8, 22), *UNSEEN]}
        lines = [f"{m},{s},{rank},{found[i]['id']}" for (m, s), ids in members.items() for rank, i in enumerate(ids)]
    (folder / "released_subsets.csv").write_text("\n".join(["model,subset,rank,id", *lines]) + "\n", encoding="utf-8")
    return folder


def line_of(finding: Finding, **wanted: Any) -> dict[str, Any]:
    found = [line for line in finding.lines if all(line[key] == value for key, value in wanted.items())]
    assert len(found) == 1, [*wanted, *finding.lines]
    return dict(found[0])


@pytest.fixture
def made_up(tmp_path: Path) -> Released:
    return load(write_data(tmp_path / "data"))


def test_load_keeps_ranks_and_sorts_selections_by_size(made_up: Released) -> None:
    assert list(made_up.selections) == [
        ("a", "top_8"),
        ("a", "top_16"),
        ("a", "low_20"),
        ("b", "top_8"),
        ("b", "top_16"),
    ]
    rows = raw_rows()
    for selection, members in SELECTIONS.items():
        assert [made_up.rows[i].id for i in made_up.selections[selection]] == [rows[i]["id"] for i in members]
    assert len(made_up.rest(("a", "low_20"))) == 20


Change = Callable[[list[dict[str, str]]], tuple[list[dict[str, str]], list[str]]]
BAD: dict[str, tuple[Change, str]] = {
    "stranger": (lambda rows: (rows, ["a,top_1,0,ffffffffffffffff"]), r"csv:2: id 'ffffffffffffffff' isn't in"),
    "subset": (lambda rows: (rows, [f"a,best,0,{rows[0]['id']}"]), "subset 'best'; must be like top_520"),
    "rank": (lambda rows: (rows, [f"a,top_1,x,{rows[0]['id']}"]), "rank 'x'; must be a whole number"),
    "rank_twice": (lambda rows: (rows, [f"a,top_2,0,{rows[i]['id']}" for i in (0, 1)]), "rank 0 stands there twice"),
    "size": (
        lambda rows: (rows, [f"a,top_3,{i},{rows[i]['id']}" for i in (0, 1)]),
        "has 2 rows; must have ranks 0 to 2",
    ),
    "row_twice": (lambda rows: (rows, [f"a,top_2,{i},{rows[0]['id']}" for i in (0, 1)]), "names 1 rows twice"),
    "changed": (lambda rows: ([{**rows[0], "output": "other"}], []), "isn't the hash of the row's texts"),
    "id_twice": (lambda rows: (rows[:1] * 2, []), "stands there twice; each row"),
    "no_text": (lambda rows: ([{**rows[0], "output": None}], []), "must be an object with the strings"),  # type: ignore[dict-item,list-item]
    "nothing": (lambda rows: (rows, []), "holds no selection of the best"),
}


@pytest.mark.parametrize("case", BAD)
def test_load_bad_data_is_refused_with_its_place(tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(ReleasedError, match=message):
        load(write_data(tmp_path, *change(raw_rows())))


def test_load_without_the_files_or_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleasedError, match="no such file"):
        load(tmp_path)
    write_data(tmp_path)
    (tmp_path / "released_subsets.csv").write_text("model,id\n", encoding="utf-8")
    with pytest.raises(ReleasedError, match="must be model, subset, rank, id"):
        load(tmp_path)


def test_find_nesting_counts_what_is_in_both(made_up: Released) -> None:
    found = find_nesting(made_up)
    line = line_of(found, selection=label(("a", "top_8")), other=label(("a", "top_16")))
    assert line["in both"] == 4 and line["share"].value == 0.5
    assert line["Jaccard"] == 4 / 20
    assert line["by chance"].value == pytest.approx(16 / 52001)
    assert line["times chance"] == pytest.approx(0.5 / (16 / 52001))
    assert len(found.lines) == 2  # one pair a model


def test_find_models_compares_equal_sizes_and_best_with_worst(made_up: Released) -> None:
    pairs = {(line["selection"], line["other"]): line["in both"] for line in find_models(made_up).lines}
    names = {s: label(s) for s in made_up.selections}
    assert pairs == {
        (names["a", "top_8"], names["a", "low_20"]): 0,
        (names["a", "top_16"], names["a", "low_20"]): 2,
        (names["a", "top_8"], names["b", "top_8"]): 6,
        (names["a", "top_16"], names["b", "top_16"]): 12,
    }


def test_find_contents_counts_inputs_urls_and_lengths(tmp_path: Path) -> None:
    rows = raw_rows()
    rows[1] = {**rows[1], "input": "see http://example.org"}
    rows[2] = {**rows[2], "output": " "}
    for row in rows:
        row["id"] = content_id(row["instruction"], row["input"], row["output"])
    line = line_of(find_contents(load(write_data(tmp_path, rows))), selection=label(("a", "top_8")))
    assert line["with input"].value == 3 / 8  # rows 0, 1, 4
    assert (line["URL in prompt"], line["empty response"], line["rows"]) == (1, 1, 8)
    lengths = [len(rows[i]["output"]) for i in range(8)]
    assert line["response"] == pytest.approx(sum(lengths) / 8)
    assert line["share of the pool"] == pytest.approx(8 / 52001)


def test_find_length_knows_rows_shared_by_best_and_worst(made_up: Released) -> None:
    found = find_length(made_up)
    with_shared = line_of(found, selection=label(("a", "top_16")), against=label(("a", "low_20")))
    response = [10 * (40 - i) for i in range(40)]  # best: rows 4 to 19, worst: 18 to 37
    pairs = [(response[p], response[n]) for p in range(4, 20) for n in range(18, 38)]
    assert with_shared["AUC"].value == pytest.approx(
        np.mean([1.0 if p > n else 0.5 if p == n else 0 for p, n in pairs])
    )
    apart = found.lines[-1]
    assert (
        apart["against"].endswith("without 2 shared")
        and apart["AUC"].value == 1
        and (apart["rows"], apart["others"]) == (14, 18)
    )
    rest = line_of(found, selection=label(("a", "top_8")), against="rest of the union")
    assert rest["AUC"].value == 1 and rest["others"] == 32
    b = line_of(found, selection=label(("b", "top_16")), against="rest of the union")  # rows 8 to 21, 38, 39
    pairs = [(response[p], response[n]) for p in [*range(8, 22), 38, 39] for n in range(8)]  # 18 to 37 are the worst
    assert b["AUC, worst left out"].value == pytest.approx(np.mean([p > n for p, n in pairs]))
    assert "AUC, worst left out" not in line_of(found, selection=label(("a", "low_20")), against="rest of the union")


def test_find_tasks_draws_equally_many_rows_and_counts_kinds(made_up: Released) -> None:
    found = find_tasks(made_up)
    assert {line["drawn"] for line in found.lines} == {8}
    line = line_of(found, selection=label(("a", "top_8")))
    assert line["verbs"] == Interval(4, 4, 4)  # all of its eight rows, two of each verb
    assert line["effective verbs"].value == pytest.approx(4)
    assert line["verb-noun pairs"].value == 8
    assert line["questions"].value == 0


def test_find_duplicates_counts_repeats_of_texts_and_words(tmp_path: Path) -> None:
    rows = raw_rows()
    rows[1] |= {"instruction": rows[0]["instruction"]}  # the same instruction
    rows[2] |= {"instruction": "A THING0, write!"}  # its words
    rows[5] |= {"output": rows[4]["output"]}
    rows[6] |= {"output": rows[4]["output"].upper() + " !"}
    for row in rows:
        row["id"] = content_id(row["instruction"], row["input"], row["output"])
    line = line_of(find_duplicates(load(write_data(tmp_path, rows))), selection=label(("a", "top_8")))
    kinds = ("same instruction", "instruction of the same words", "same response", "response of the same words")
    assert [line[kind] for kind in kinds] == [1, 2, 1, 2]
    assert 0 < line["response of the same words, by chance"].value < 1


def test_codes_distinct_and_effective_numbers() -> None:
    values = codes(["x", "y", "x", "z"])
    assert values.tolist() == [0, 1, 0, 2]
    assert distinct(values[[0, 2]]) == 1 and distinct(values) == 3
    assert effective(values) == pytest.approx(np.exp(1.5 * np.log(2)))  # entropy of 1/2, 1/4, 1/4
    assert effective(values[[0, 1, 3]]) == pytest.approx(3)


def measures_of(ifd: NDArray[Any], nll: NDArray[Any] | None = None) -> dict[str, NDArray[np.float64]]:
    nll = ifd if nll is None else nll
    return {"ifd": ifd, "direct": nll / ifd, "nll": nll}


def many(tmp_path: Path) -> Released:
    """1,000 rows; top_200 are the longest, low_300 the shortest."""
    rows = raw_rows(1000)
    lines = [f"a,top_200,{i},{rows[i]['id']}" for i in range(200)]
    lines += [f"a,low_300,{i},{rows[700 + i]['id']}" for i in range(300)]
    lines += [f"b,top_200,{i},{rows[3 * i]['id']}" for i in range(200)]
    return load(write_data(tmp_path, rows, lines))


def test_find_scores_at_equal_length_sees_no_difference_that_is_length_alone(tmp_path: Path) -> None:
    released = many(tmp_path)
    generator, response = np.random.default_rng(0), np.array([len(row.output) for row in released.rows])
    ifd = 0.5 + 0.4 * response / response.max() + 0.05 * generator.standard_normal(1000)
    line = line_of(
        find_scores(released, measures_of(ifd)), selection=label(("b", "top_200")), against="rest of the union"
    )
    chosen = np.isin(np.arange(1000), released.selections["b", "top_200"])
    assert line["AUC of IFD"].value == pytest.approx(roc_auc_score(chosen, ifd))
    assert line["AUC of IFD"].low > 0.55  # b's rows are among the 600 longest
    assert line["AUC of IFD, equal length"].low < 0.5 < line["AUC of IFD, equal length"].high
    assert line["IFD"].value == pytest.approx(ifd[chosen].mean())
    assert line["above 1"].value == pytest.approx((ifd[chosen] > 1).mean())
    assert line["perplexity"].value == pytest.approx(np.exp(ifd[chosen].mean()))


def test_find_scores_leaves_rows_without_a_value_out_and_counts_them(tmp_path: Path) -> None:
    released = many(tmp_path)
    ifd = np.random.default_rng(0).uniform(0.5, 1.1, 1000)
    ifd[released.selections["b", "top_200"][:7]] = np.nan
    found = find_scores(released, measures_of(ifd))
    assert line_of(found, selection=label(("b", "top_200")))["rows with a value"] == 193
    assert found.text.endswith("7 rows of the union have no value.")


def test_bands_hold_equally_many_rows(tmp_path: Path) -> None:
    counts = np.bincount(bands(many(tmp_path)))
    assert len(counts) == 50 and counts.min() == counts.max() == 20


def test_peak_is_the_fullest_bin() -> None:
    assert peak(np.array([0.1, 0.87, 0.88, 0.899, 0.9])) == pytest.approx(0.87)


def test_distance_and_effective_rows_of_known_vectors() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((7, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - vectors[i] @ vectors[j] for i in range(7) for j in range(7) if i != j]
    assert distance(vectors @ vectors.T) == pytest.approx(np.mean(pairs))
    assert effective_rows(np.eye(6)) == pytest.approx(6)
    twice = np.repeat(np.eye(3), 2, axis=0)
    assert effective_rows(twice @ twice.T) == pytest.approx(3)
    own = centred(vectors + 9)  # 9 would make all cosines 1
    assert np.allclose(np.linalg.norm(own, axis=1), 1) and distance(own @ own.T) > 0.9


def test_find_diversity_of_a_selection_of_like_rows_is_lower(tmp_path: Path) -> None:
    released = many(tmp_path)
    places = np.setdiff1d(np.arange(1000), released.selections["b", "top_200"][:101])
    vectors = np.random.default_rng(0).standard_normal((899, 24)).astype(np.float32)
    vectors[np.isin(places, released.selections["a", "top_200"]), :20] *= 0.05
    embedded = Embedded(places, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.zeros((899, 2)))
    found = find_diversity(released, embedded)
    everything = line_of(found, selection="all of the sample")["effective rows"]
    assert line_of(found, selection=label(("b", "top_200")))["effective rows"] is None  # 99 rows are too few
    assert line_of(found, selection=label(("a", "top_200")))["effective rows"].high < everything.low
    assert label(("a", "top_200")) in found.text.split("More")[0]
    assert line_of(found, selection=label(("a", "low_300")))["effective rows"].value == pytest.approx(
        everything.value, rel=0.1
    )


def test_main_without_steps_says_not_run_and_repeats_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    one, two = tmp_path / "one" / "released", tmp_path / "two" / "released"
    for out in (one, two):
        assert main(["--stored", "--data", str(data), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Not run: the steps of experiment=released_selections aren't there." in text
    made = {path.name for path in one.iterdir()}
    assert {
        "summary.md",
        "index.html",
        "nesting.csv",
        "overlap.svg",
        "overlap.png",
        "overlap.csv",
        "lengths.svg",
    } <= made
    assert not made & {"ifd.png", "tsne.png", "measures.csv"}
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    with (one / "nesting.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["in both"], first["share"]) == ("4", "0.5") and 0 < float(first["share low"]) < 0.5


def test_main_of_a_folder_without_data_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stored", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "--data names the folder" in capsys.readouterr().err


def overrides(folder: Path) -> list[str]:
    """Both experiments on made-up rows with a random model."""
    assessment = folder / "assessment.jsonl"
    questions = [{"id": f"q{i}", "group": "g", "inputs": f"Question {i}?", "response": "yes " * 3} for i in range(4)]
    assessment.write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    return [
        "model=tiny_random",
        f"data.pool.source.path={folder}/data/alpaca_released_union.jsonl",
        f"data.assessment.source.path={assessment}",
        "data.pool.expected_rows=40",
        "cluster.executor=inline",
        "cluster.device=cpu",
        f"paths.work={folder}/work",
    ]


def test_main_takes_over_steps_and_needs_them_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "out"
    changes = overrides(tmp_path)
    for experiment in ("released_selections", "released_embeddings"):
        config = composed(experiment, changes)
        summary = run(plan(config).steps, Store(tmp_path / "work"), config.cluster, tmp_path / "cache", lambda _: None)
        assert not summary.failed
    arguments = ["--data", str(data), "--out", str(out)]
    assert main([*changes, *arguments]) == 0
    first = capsys.readouterr().out.partition("# The authors")[2]  # steps report before it
    assert first and "Not run" not in first
    released = load(data)
    measures, embedded = read_measures(out, released), read_embeddings(out, released)
    assert measures is not None and embedded is not None
    assert np.isfinite(measures["ifd"]).sum() == 40 == len(embedded.places)
    assert np.allclose(measures["ifd"], measures["nll"] / measures["direct"], rtol=1e-4)
    steps = json.loads((out / "steps.json").read_text())
    assert [len(steps[name]["steps"]) for name in ("measures", "embeddings")] == [1, 1]
    assert all((tmp_path / "work" / folder).is_dir() for name in steps for folder in steps[name]["steps"])
    assert {"ifd.svg", "tsne.svg", "scores.csv", "diversity.csv"} <= {path.name for path in out.iterdir()}
    shutil.rmtree(tmp_path / "work")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["--stored", *arguments]) == 0
    assert capsys.readouterr().out.partition("# The authors")[2] == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("measures.csv", "id,ifd\n", "columns"),
        ("measures.csv", "id,ifd,direct,nll\nx,1,1,1\n", "isn't in the union"),
        ("measures.csv", "id,ifd,direct,nll\n{id},nan,1,1\n", "must be a finite number"),
        (
            "embeddings.csv",
            "id,x,y\n{id},1,2\n",
            r"1 rows, 0 of them not in the union, for finite vectors of shape \(2, 3\)",
        ),
    ],
)
def test_stored_numbers_that_dont_fit_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    released = load(write_data(tmp_path / "data"))
    (tmp_path / name).write_text(text.replace("{id}", released.rows[0].id), encoding="utf-8")
    np.save(tmp_path / "embeddings.npy", np.ones((2, 3), np.float16))
    with pytest.raises(ReleasedError, match=message):
        (read_measures if name == "measures.csv" else read_embeddings)(tmp_path, released)


@pytest.fixture(scope="module")
def real(shared: Path) -> Released:
    return load(shared / "data")


def test_real_nesting_is_that_of_the_published_defect(shared: Path, real: Released) -> None:
    sets: dict[tuple[str, str], set[str]] = {}
    with (shared / "data" / "released_subsets.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            sets.setdefault((line["model"], line["subset"]), set()).add(line["id"])
    found = find_nesting(real)
    for model, percent in (("llama31_8b", 21), ("qwen25_3b", 8)):
        line = line_of(found, selection=f"{model} top 1 %", other=f"{model} top 5 %")
        assert line["in both"] == len(sets[model, "top_520"] & sets[model, "top_2600"])
        assert round(100 * line["share"].value) == percent
        assert line["share"].low > line["by chance"].value
    assert len(found.lines) == 9


def test_real_length_separates_best_from_worst_as_published(shared: Path, real: Released) -> None:
    lengths: dict[str, int] = {}
    with (shared / "data" / "alpaca_released_union.jsonl").open(encoding="utf-8") as file:
        for text in file:
            row = json.loads(text)
            lengths[row["id"]] = len(row["output"])
    groups: dict[str, list[int]] = {"top_5200": [], "low_7800": []}
    with (shared / "data" / "released_subsets.csv").open(newline="") as csv_file:
        for line in csv.DictReader(csv_file):
            if line["model"] == "llama31_8b" and line["subset"] in groups:
                groups[line["subset"]].append(lengths[line["id"]])
    found = line_of(find_length(real), selection="llama31_8b top 10 %", against="llama31_8b low 15 %")
    truth = [1] * 5200 + [0] * 7800
    assert found["AUC"].value == pytest.approx(roc_auc_score(truth, [*groups["top_5200"], *groups["low_7800"]]))
    assert found["AUC"].value == pytest.approx(0.975, abs=5e-4)
    assert (round(found["mean"]), round(found["mean of others"])) == (603, 70)


COMMITTED = Path(__file__).resolve().parents[1] / "results" / "released_selections"


def test_committed_tables_are_what_the_stored_numbers_give(shared: Path, tmp_path: Path) -> None:
    for name in ("measures.csv", "embeddings.npy", "embeddings.csv", "steps.json"):
        if (COMMITTED / name).is_file():
            shutil.copy(COMMITTED / name, tmp_path)
    assert main(["--stored", "--data", str(shared / "data"), "--out", str(tmp_path)]) == 0
    made = sorted(path.name for path in tmp_path.iterdir() if path.suffix in {".csv", ".md", ".json"})
    assert "nesting.csv" in made
    for name in made:
        assert (COMMITTED / name).read_bytes() == (tmp_path / name).read_bytes(), name
