"""``action=export``: what a folder holds, that it loads as a data set and as a pool again, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml
from cli import icon_repro
from small import composed, small

from icon_repro.config.load import Config, conf_dir, load
from icon_repro.data.options import Fields, RowFormat, SourceConfig, SourceKind
from icon_repro.data.rows import Example, Score
from icon_repro.data.sources import read_examples
from icon_repro.engine.artifact import ArtifactError, Store, ordered, publish
from icon_repro.engine.options import ClusterConfig, Executor
from icon_repro.engine.records import read_json, read_rows, write_rows
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import build
from icon_repro.experiment import Experiment, plan
from icon_repro.methods.kinds import kinds, method, method_of
from icon_repro.report.export import NO_REASON, ExportError, export
from icon_repro.report.export_card import hub_licence
from icon_repro.report.settings import Otherwise

TEXTS = [
    {"instruction": f"Say it {i} times.", "input": "Ünïcode\nand a second line" if i % 3 else "", "output": "so " * i}
    for i in range(1, 13)
]
OVERRIDES = ["experiment=smoke_tiny", "name=mine", "cluster.device=cpu"]


def experiment_in(folder: Path, changes: dict[str, Any]) -> Experiment:
    """Three methods that need no model, to the end of selection; ``rated`` knows nine rows of TEXTS."""
    ratings = [{**row, "rating": at / 4} for at, row in enumerate(TEXTS) if at % 4]
    (folder / "ratings.json").write_text(json.dumps(ratings), encoding="utf-8")
    methods = {
        "random": {"kind": "random", "seed": 3, "repeats": 2},
        "longest": {"kind": "longest"},
        "rated": {"kind": "alpagasus", "ratings": str(folder / "ratings.json")},
    }
    fixed = {"methods": methods, "judge": {}, "until": "select", "fractions": [0.25, 0.5]}
    return plan(small(folder / "work", {**fixed, **changes}))


def finish(experiment: Experiment) -> Store:
    store, said = Store(Path(experiment.config.paths.work)), list[str]()
    selects = [arm.select for arm in experiment.arms if arm.select is not None]
    cluster = ClusterConfig(device="cpu", executor=Executor.inline)
    summary = run(ordered(selects), store, cluster, store.root.parent, said.append)
    assert not summary.failed, said
    return store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Store]:
    """An experiment whose selections are there; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "pool.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    experiment = experiment_in(folder, {"data.pool.source.path": str(folder / "pool.json")})
    return experiment, finish(experiment)


def exported(finished: tuple[Experiment, Store], target: Path, **asked: Any) -> dict[str, Path]:
    """Folders of the selections by name, and what was said under the name ""."""
    experiment, store = finished
    asked = {"path": str(target), "method": None, "fraction": None, "selection_seed": None, **asked}
    for key, value in asked.items():
        setattr(experiment.config.export, key, value)
    export(experiment, store, OVERRIDES, lambda line: None)
    return {path.name: path for path in sorted(target.iterdir())}


def stored(finished: tuple[Experiment, Store], name: str) -> tuple[list[str], dict[str, float], dict[str, Example]]:
    """Selected ids, scores and all rows, as the steps hold them."""
    experiment, store = finished
    select = next(arm.select for arm in experiment.arms if arm.select is not None and arm.select.name == name)
    scores = read_rows(store.path(select.inputs["scores"]) / "scores.jsonl", Score)
    rows = read_rows(store.path(select.inputs["universe"]) / "rows.jsonl", Example)
    return (
        read_json(store.path(select) / "ids.json"),
        {row.id: row.score for row in scores},
        {row.id: row for row in rows},
    )


def header(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    loaded = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


def test_export_writes_every_finished_selection_by_default(finished: tuple[Experiment, Store], tmp_path: Path) -> None:
    made = exported(finished, tmp_path / "out")
    names = {
        f"{name}-f{fraction}" for name in ("random-r3", "random-r4", "longest", "rated") for fraction in (0.25, 0.5)
    }
    assert set(made) == names
    for folder in made.values():
        assert {p.name for p in folder.iterdir()} == {"README.md", "rows.parquet", "scores.parquet", "alpaca.json"}


def test_export_tables_hold_what_the_steps_hold(finished: tuple[Experiment, Store], tmp_path: Path) -> None:
    ids, scores, rows = stored(finished, "rated-f0.5")
    folder = exported(finished, tmp_path / "out")["rated-f0.5"]
    table = pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist()
    order = sorted(scores, key=lambda i: (-scores[i], i))
    assert [row["id"] for row in table] == order and [row["rank"] for row in table] == list(range(1, len(order) + 1))
    assert {row["id"]: row["score"] for row in table} == scores
    assert [row["id"] for row in table if row["selected"]] == ids
    for row in table:
        example = rows[row["id"]]
        texts = (example.instruction, example.input, example.response, example.group)
        assert (row["instruction"], row["input"], row["output"], row["group"]) == texts
    assert len(rows) == len(TEXTS) == 12 and len(scores) == 9  # every fourth has none
    measured = {row["id"]: row for row in pyarrow.parquet.read_table(folder / "scores.parquet").to_pylist()}
    assert set(measured) == set(rows) and "instruction" not in next(iter(measured.values()))
    for identifier, row in measured.items():
        assert row["score"] == scores.get(identifier) and row["selected"] == (identifier in ids)
        assert row["reason"] == (None if identifier in scores else "no rating stored")
        assert (row["rank"] is None) == (identifier not in scores)
    alpaca = json.loads((folder / "alpaca.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in alpaca] == ids and set(alpaca[0]) == {"id", "instruction", "input", "output"}


def test_export_loads_as_data_sets_offline(finished: tuple[Experiment, Store], tmp_path: Path) -> None:
    import datasets

    ids, scores, rows = stored(finished, "rated-f0.25")
    folder = str(exported(finished, tmp_path / "out")["rated-f0.25"])
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(folder, split="train", cache_dir=cache)
    assert {row["id"]: row["score"] for row in loaded} == scores
    assert [row["id"] for row in loaded.filter(lambda row: row["selected"], load_from_cache_file=False)] == ids
    chosen = datasets.load_dataset("json", data_files=f"{folder}/alpaca.json", split="train", cache_dir=cache)
    assert [(row["id"], row["output"]) for row in chosen] == [(i, rows[i].response) for i in ids]
    assert datasets.load_dataset(folder, "scores", split="train", cache_dir=cache).num_rows == len(rows)


@pytest.mark.parametrize("identifier", ["id", None])
def test_export_alpaca_file_as_a_pool_gives_the_same_rows(
    finished: tuple[Experiment, Store], tmp_path: Path, runtime: Runtime, identifier: str | None
) -> None:
    ids, _, rows = stored(finished, "longest-f0.5")
    runtime.files = {"source": exported(finished, tmp_path / "out")["longest-f0.5"] / "alpaca.json"}
    source = SourceConfig(SourceKind.file, RowFormat.alpaca, "again", fields=Fields(id=identifier))
    again = [row for _, row in read_examples(source, runtime)]
    assert [row.id for row in again] == ids and all(row == rows[row.id] for row in again)


def test_export_of_finished_prompts_says_how_to_read_them(tmp_path: Path, runtime: Runtime) -> None:
    prompts = [{"prompt": f"Q{i}:\nA:", "response": "x" * i, "key": f"k{i}"} for i in range(1, 9)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
    source = {
        "kind": "file",
        "format": "prompt_response",
        "name": "ready",
        "path": str(tmp_path / "pool.jsonl"),
        "fields": {"id": "key", "response": "response"},
    }
    experiment = experiment_in(tmp_path, {"data.pool.source": source, "methods": {"longest": {"kind": "longest"}}})
    finished = experiment, finish(experiment)
    ids, _, rows = stored(finished, "longest-f0.5")
    folder = exported(finished, tmp_path / "out", method="longest", fraction=0.5)["longest-f0.5"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    fields = Fields(id="id", prompt="instruction", response="output")
    assert "format: prompt_response" in text and "{id: id, prompt: instruction, response: output}" in text
    runtime.files = {"source": folder / "alpaca.json"}
    again = list(read_examples(SourceConfig(SourceKind.file, RowFormat.prompt_response, "x", fields=fields), runtime))
    assert [row for _, row in again] == [rows[i] for i in ids] and ids[0] == "k8"
    assert "**not stated**" in text and "find out" in text and header(folder)["license"] == "unknown"


def test_export_card_names_method_model_licence_counts_and_fingerprint(
    finished: tuple[Experiment, Store], tmp_path: Path
) -> None:
    experiment, store = finished
    folders = exported(finished, tmp_path / "out")
    text = (folders["rated-f0.25"] / "README.md").read_text(encoding="utf-8")
    select = next(arm.select for arm in experiment.arms if arm.select and arm.select.name == "rated-f0.25")
    for part in (
        "as this project",
        select.fingerprint,
        select.folder,
        select.inputs["scores"].folder,
        "| fraction | 0.25 of all rows",
        "| selected | 3 |",
        "| with a score | 9 |",
        "| no rating stored | 3 |",
        method("alpagasus").meaning_of(None),
        "ratings: ratings.json",
        "python -m icon_repro experiment=smoke_tiny name=mine action=export export.method=rated export.fraction=0.25",
        "kind: alpagasus",
    ):
        assert part in text, part
    assert str(store.root) not in text and str(Path.home()) not in text and str(tmp_path) not in text
    assert "cluster.device" not in text
    assert header(folders["rated-f0.25"])["license"] == "apache-2.0"
    assert "none (the experiment tunes" in (folders["random-r4-f0.5"] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "licence, expected",
    [
        ("CC BY-NC 4.0 (Alpaca), not for commercial use", "cc-by-nc-4.0"),
        ("MIT, as its hub page says", "mit"),
        ("Llama 3.1 Community License", "llama3.1"),
        ("Llama 3 Community License", "llama3"),
        ("AFL-3.0", "afl-3.0"),
        ("MIT, as its hub page says; made with an OpenAI model", "other"),
        ("Dolly CC BY-SA 3.0, OpenOrca MIT", "other"),
        ("Qwen Research License", "other"),
        ("Apache-2.0 by its card; tuned from LLaMA 1, which is for non-commercial research", "other"),
    ],
)
def test_export_card_licence_is_in_the_hubs_terms(licence: str, expected: str) -> None:
    made = hub_licence(licence)
    assert made["license"] == expected
    assert made.get("license_name") == (licence if expected == "other" else None)


def test_export_card_says_when_too_few_rows_have_a_score(tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    experiment = experiment_in(tmp_path, {"data.pool.source.path": str(tmp_path / "pool.json"), "fractions": [1.0]})
    folder = exported((experiment, finish(experiment)), tmp_path / "out", method="rated")["rated-f1"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| selected | 9 (3 short of 12" in text


def test_export_row_without_score_and_reason_is_told_so(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, {"methods": {"longest": {"kind": "longest"}}})
    select = next(arm.select for arm in experiment.arms if arm.select is not None)
    scores, universe = select.inputs["scores"], select.inputs["universe"]
    store, cluster = Store(tmp_path / "work"), ClusterConfig(device="cpu", executor=Executor.inline)
    assert not run(ordered([universe]), store, cluster, tmp_path, print).failed
    rows = read_rows(store.path(universe) / "rows.jsonl", Example)
    part = store.path(scores).with_name("made.part")  # as a method that scores some rows and stores no reasons
    part.mkdir(parents=True)
    write_rows(part / "scores.jsonl", [Score(row.id, 1.0) for row in rows[:9]])
    publish(part, store.path(scores), {**store.record(universe), "metrics": {"rows": 9, "tokens": 0, "flops": 0}})
    assert not run(ordered([select]), store, cluster, tmp_path, print).failed
    folder = exported((experiment, store), tmp_path / "out", fraction=0.25)["longest-f0.25"]
    table = pyarrow.parquet.read_table(folder / "scores.parquet").to_pylist()
    assert [row["reason"] for row in table if row["score"] is None] == [NO_REASON] * 15
    assert f"| {NO_REASON} | 15 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_export_of_a_damaged_step_is_refused(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, {"methods": {"longest": {"kind": "longest"}}})
    store = finish(experiment)
    select = next(arm.select for arm in experiment.arms if arm.select is not None)
    path = store.path(select.inputs["scores"]) / "scores.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"score": ', '"score": 1', 1), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"altered.*scores\.jsonl"):
        exported((experiment, store), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_again_is_the_same_and_other_content_is_refused(
    finished: tuple[Experiment, Store], tmp_path: Path
) -> None:
    first = exported(finished, tmp_path / "out", method="longest")
    before = {name: [(p / f).read_bytes() for f in ("rows.parquet", "README.md")] for name, p in first.items()}
    again = exported(finished, tmp_path / "out", method="longest")
    assert before == {name: [(p / f).read_bytes() for f in ("rows.parquet", "README.md")] for name, p in again.items()}
    (first["longest-f0.5"] / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ExportError, match=r"longest-f0\.5: is there with other content.*export\.path"):
        exported(finished, tmp_path / "out", method="longest")
    assert (first["longest-f0.5"] / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []


def test_export_into_a_file_is_refused(finished: tuple[Experiment, Store], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(ExportError, match=r"can't be written"):
        exported(finished, tmp_path / "out")


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"method": "longes"}, r"export\.method='longes': .*Did you mean 'longest'"),
        ({"fraction": 0.3}, r"export\.fraction=0\.3: .*Nearest: 0\.25\. Known: 0\.25, 0\.5"),
        ({"method": "random", "selection_seed": 7}, r"export\.selection_seed=7: .*Nearest: 4"),
        ({"method": "longest", "selection_seed": 3}, r"export\.selection_seed=3: .*It has none"),
    ],
)
def test_export_of_what_the_experiment_lacks_names_the_nearest(
    finished: tuple[Experiment, Store], tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        exported(finished, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_export_unfinished_selection_is_refused_by_name_and_else_left_out(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, {})
    store, said = Store(tmp_path / "work"), list[str]()
    experiment.config.export.path = str(tmp_path / "out")
    with pytest.raises(ExportError, match=r"longest-f0\.25.*not finished\. Run the experiment"):
        export(experiment, store, [], said.append)
    done = [arm.select for arm in experiment.arms if arm.select is not None and arm.method == "longest"]
    cluster = ClusterConfig(device="cpu", executor=Executor.inline)
    assert not run(ordered(done), store, cluster, tmp_path, said.append).failed
    said.clear()
    export(experiment, store, [], said.append)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["longest-f0.25", "longest-f0.5"]
    assert sum("left out, isn't finished" in line for line in said) == 6
    experiment.config.export.method = "rated"
    with pytest.raises(ExportError, match=r"rated-f0\.25, rated-f0\.5: not finished"):
        export(experiment, store, [], said.append)


def test_export_without_methods_says_so(tmp_path: Path) -> None:
    experiment = plan(small(tmp_path / "work", {"methods": {}, "fractions": [], "judge": {}}))
    with pytest.raises(ExportError, match=r"selects nothing"):
        export(experiment, Store(tmp_path / "work"), [], print)


def test_export_settings_change_no_fingerprint(tmp_path: Path) -> None:
    plain, asked = (plan(small(tmp_path, changes)) for changes in ({}, {"export.method": "icon", "export.path": "x"}))
    assert [step.folder for step in plain.steps] == [step.folder for step in asked.steps]


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml")))
def test_card_knows_what_every_score_means(name: str) -> None:
    config: Config = load(composed(f"experiment={name}"))
    for options in config.methods.values():
        meaning = method_of(options).meaning_of(options)
        assert len(meaning.split()) >= 3 and not meaning.endswith("."), meaning


def test_card_says_what_scores_of_each_variant_mean() -> None:
    variants = {
        "icon": ({}, {"budget": "adaptive"}, {"selector": {}}),
        "random": ({}, {"matched_to": "icon"}),
        "ifd": ({}, {"diversity": {}}),
    }
    for kind, settings in variants.items():
        found = [method(kind).meaning_of(build(method(kind).options, each)) for each in settings]
        assert len(set(found)) == len(settings)
    assert variants.keys() == {kind for kind in kinds() if callable(method(kind).meaning)} - {"external"}


def test_export_from_the_command_line(tmp_path: Path) -> None:
    finish(
        plan(small(tmp_path / "work", {"until": "select", "judge": {}, "methods": {"longest": {"kind": "longest"}}}))
    )
    command = ["experiment=smoke_tiny", "until=select", "~methods.icon", "~methods.random", "judge=none"]
    done = icon_repro(tmp_path, *command, "action=export", "export.method=longest")
    assert done.code == 0, done.error
    assert "longest-f0.25: 6 selected of 24 scored and 24 rows" in done.out
    folder = tmp_path / "work" / "export" / "smoke_tiny" / "longest-f0.25"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "python -m icon_repro experiment=smoke_tiny until=select '~methods.icon' '~methods.random'\n" in text
    wrong = icon_repro(tmp_path, *command, "action=export", "export.methd=longest")
    assert wrong.code == 1 and "export.methd: unknown key. Did you mean 'method'" in wrong.error


def test_export_card_says_which_settings_arent_the_files(finished: tuple[Experiment, Store], tmp_path: Path) -> None:
    experiment, store = finished
    for key, value in {
        "path": str(tmp_path / "a"),
        "method": "longest",
        "fraction": 0.5,
        "selection_seed": None,
    }.items():
        setattr(experiment.config.export, key, value)
    export(experiment, store, OVERRIDES, lambda line: None, Otherwise("smoke_tiny", ["data.candidates.size: 24 -> 12"]))
    (card,) = (tmp_path / "a").glob("*/README.md")
    text = card.read_text(encoding="utf-8")
    assert "Not experiment=smoke_tiny as its file has it; set otherwise (file's -> this run's): data.candidates" in text
