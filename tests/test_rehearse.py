"""A rehearsal: the plan of any experiment on stand-ins, apart from real results, deciding nothing."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import icon_repro
from safetensors.torch import load_file

from icon_repro.config.compose import composed
from icon_repro.config.load import Config, ConfigError, Rehearse, conf_dir
from icon_repro.config.rehearse import ITEMS, PREFIX, found, rehearsed
from icon_repro.data import prepare, weights
from icon_repro.data.options import (
    Dtype,
    ModelConfig,
    ModelKind,
    RandomArchitecture,
    RandomShape,
    RowFormat,
    RowsConfig,
    SourceConfig,
    SourceKind,
    StandInRows,
)
from icon_repro.data.random_models import count_weights
from icon_repro.data.rows import Example
from icon_repro.data.stand_ins import columns, stand_in_rows
from icon_repro.engine.artifact import Store
from icon_repro.engine.records import read_lines
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import plain
from icon_repro.evaluate.judge.protocols import FORMS, Protocol
from icon_repro.evaluate.judge.protocols import messages as judge_messages
from icon_repro.experiment import plan
from icon_repro.lm.endpoint import Answer, Request, ask
from icon_repro.lm.load import load_encoder, load_tokenizer
from icon_repro.lm.options import EndpointConfig
from icon_repro.lm.reward import load_reward_model
from icon_repro.methods import alpagasus
from icon_repro.report.paper.claims import Checked, Claim, ClaimVerdict
from icon_repro.report.promised import silence
from icon_repro.report.rehearsal import DECIDES_NOTHING, closing, undecided

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
CPU = torch.device("cpu")


def config(experiment: str, work: Path, *overrides: str) -> Config:
    try:
        return composed(experiment, [f"paths.work={work}", *overrides])
    except ConfigError as error:
        if "paths" in str(error):
            pytest.skip(str(error))
        raise


def labels(made: Config) -> set[str]:
    """Labels of the plan's steps, with numbered shards and rounds as one."""
    names = {re.sub(r"-\d{4}(?=-|$)", "-NNNN", step.label) for step in plan(made).steps}
    return {re.sub(r"round\d\d", "roundNN", name) for name in names}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_plan_has_the_same_steps(experiment: str, tmp_path: Path) -> None:
    made = config(experiment, tmp_path, "rehearse=stand_ins")
    assert plan(made).warnings == []  # no branch of a hub is asked for
    kept = [f"fractions={made.fractions}"]
    if made.judge.fractions:
        kept.append(f"judge.fractions={made.judge.fractions}")
    real = config(experiment, tmp_path, *kept)
    try:
        wanted = labels(real)
    except Exception as error:
        if "shared" in str(error):
            pytest.skip(f"the real plan needs the released data: {error}")
        raise
    # rows that lm-eval's task reads from files aren't steps of the real plan
    assert labels(made) == wanted | {
        f"prepare/bench-{name}" for name, task in real.evaluation.tasks.items() if task.files
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_nothing_real_is_left(experiment: str, tmp_path: Path) -> None:
    made = config(experiment, tmp_path, "rehearse=stand_ins")
    assert {model.kind for _, model in found(made, ModelConfig)} == {ModelKind.random}
    assert {source.kind for _, source in found(made, SourceConfig)} == {SourceKind.stand_in}
    assert all(endpoint.stand_in for _, endpoint in found(made, EndpointConfig))
    assert made.name.startswith(PREFIX) and "REHEARSAL" in made.description
    assert Path(made.paths.work) == tmp_path / "rehearsal"
    assert Path(made.paths.results).is_relative_to(made.paths.work)


def test_what_decides_the_plan_stays(tmp_path: Path) -> None:
    real = config("llama31_8b", tmp_path)
    made = config("llama31_8b", tmp_path, "rehearse=stand_ins")
    assert made.fractions == [0.01, 0.15]
    assert list(made.methods) == list(real.methods)
    assert (made.seeds, made.published) == (real.seeds, real.published)
    assert made.training.deepspeed == real.training.deepspeed is not None
    assert plain(made.cluster.slurm) == plain(real.cluster.slurm)
    assert made.methods["nuggets"].anchors.count == 100
    assert made.methods["ifd_pre"].pre_experienced.choice.clusters == 100
    names = [model.name for _, model in found(real, ModelConfig)]
    assert [model.name for _, model in found(made, ModelConfig)] == names
    kinds = {model.name: model.random.architecture for _, model in found(made, ModelConfig)}
    assert kinds["minilm"] is RandomArchitecture.encoder
    assert kinds["armorm_llama3_8b"] is RandomArchitecture.gated
    bos = {model.name: model.random.bos for _, model in found(made, ModelConfig)}
    assert bos["llama31_8b"] and not bos["gpt2"]


def test_real_cuts_and_replaces_nothing(tmp_path: Path) -> None:
    real = config("llama31_8b", tmp_path)
    made = config("llama31_8b", tmp_path, "rehearse=real")
    assert [m for _, m in found(made, ModelConfig)] == [m for _, m in found(real, ModelConfig)]
    assert [s for _, s in found(made, SourceConfig)] == [s for _, s in found(real, SourceConfig)]
    assert made.data.pool.sample == 200
    assert {task.limit for task in made.evaluation.tasks.values()} == {ITEMS}
    assert made.methods["alpagasus"].endpoint == real.methods["alpagasus"].endpoint


def test_none_changes_nothing(tmp_path: Path) -> None:
    made = config("smoke", tmp_path)
    assert made.rehearse is Rehearse.none and rehearsed(made) is made


def test_settings_are_found_by_type_in_a_method_that_nobody_knows() -> None:
    @dataclass
    class Own:
        scorers: dict[str, list[ModelConfig]] = field(default_factory=dict)

    model = ModelConfig(ModelKind.hub, "mine", hub_id="me/mine", revision="main")
    assert list(found(Own({"both": [model]}), ModelConfig, "methods.own")) == [("methods.own.scorers.both.0", model)]


@pytest.mark.parametrize(
    ("architecture", "refused"), [("T5ForConditionalGeneration", True), ("Qwen2ForCausalLM", False)]
)
def test_an_architecture_without_a_stand_in_is_named(tmp_path: Path, architecture: str, refused: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    local = ["model.kind=local", f"model.path={tmp_path}", "model.registry=null"]
    if not refused:
        assert config("smoke", tmp_path, "rehearse=stand_ins", *local).model.kind is ModelKind.random
        return
    with pytest.raises(ConfigError, match=rf"model: {tmp_path} is a {architecture}.*rehearse=real"):
        config("smoke", tmp_path, "rehearse=stand_ins", *local)


@pytest.mark.parametrize("architecture", RandomArchitecture)
def test_the_plan_knows_how_large_a_random_model_is(
    architecture: RandomArchitecture, tmp_path: Path, runtime: Runtime
) -> None:
    shape = {"architecture": architecture, "max_positions": 512, "dtype": Dtype.bfloat16, "layers": 3}
    folder = model_step(tmp_path / "model", runtime, **shape)
    stored = load_file(folder / "weights" / "model.safetensors")
    large = sum(value.numel() for value in stored.values() if value.dtype is torch.float32)
    assert count_weights(RandomShape(**shape)) == (sum(value.numel() for value in stored.values()) - large, large)


def model_step(folder: Path, runtime: Runtime, **shape: Any) -> Path:
    folder.mkdir()
    weights.run(ModelConfig(ModelKind.random, "stand_in", random=RandomShape(**shape)), {}, folder, runtime)
    return folder


def test_random_models_load_as_their_kind(tmp_path: Path, runtime: Runtime) -> None:
    encoder = model_step(tmp_path / "encoder", runtime, architecture=RandomArchitecture.encoder, max_positions=512)
    assert load_encoder(encoder, Dtype.float32, CPU).config.model_type == "bert"
    end = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    for architecture, gated in ((RandomArchitecture.gated, True), (RandomArchitecture.classifier, False)):
        folder = model_step(
            tmp_path / architecture.value,
            runtime,
            architecture=architecture,
            dtype=Dtype.bfloat16,
            chat_end=end,
        )
        load_reward_model(folder, Dtype.float32, CPU, gated=gated)
        row = Example("a", "Name a colour.", "", "Red.")
        ids = chat(load_tokenizer(folder), row)
        assert ids.count(end) == 1 and ids.endswith(f"{end}Red.")


def chat(tokenizer: Any, row: Example) -> str:
    turns = [{"role": "user", "content": row.instruction}, {"role": "assistant", "content": row.response}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def rows(seed: int, count: int = 200) -> Iterator[dict[str, Any]]:
    source = SourceConfig(SourceKind.stand_in, RowFormat.alpaca, "s", stand_in=StandInRows(count, seed))
    return (row for _, row in stand_in_rows(source))


def test_rows_differ_and_are_the_same_each_time() -> None:
    made = list(rows(1))
    assert made == list(rows(1))
    assert len({row["instruction"] for row in made}) == len({row["id"] for row in made}) == len(made) == 200
    assert {row["group"] for row in made} == {"colours", "numbers", "places", "tools"}
    assert not {row["instruction"] for row in made} & {row["instruction"] for row in rows(2)}


@pytest.mark.parametrize("format", [f for f in RowFormat if f is not RowFormat.multiple_choice])
def test_rows_are_read_in_every_format(format: RowFormat, tmp_path: Path, runtime: Runtime) -> None:
    source = SourceConfig(SourceKind.stand_in, format, "s", stand_in=StandInRows(20, 3))
    source.fields = columns(source.fields, format)
    prepare.run(RowsConfig(source), {}, tmp_path, runtime)
    made = [row for _, row in read_lines(tmp_path / "rows.jsonl")]
    assert len(made) == 20
    assert all(row["instruction"] and row["response"] for row in made)


def answered(parse: Any, messages: Any, folder: Path) -> list[Answer[Any]]:
    endpoint = EndpointConfig("gpt-4", stand_in=True, retries=0, base_url="https://nobody.invalid/v1", seed=0)
    folder.mkdir(parents=True)
    return ask([Request(str(n), messages(n)) for n in range(120)], endpoint, folder, parse)


def test_the_stand_in_endpoint_is_read_refuses_and_is_unreadable(tmp_path: Path) -> None:
    def rated(number: int) -> list[dict[str, str]]:
        return alpagasus.messages(Example(str(number), f"Name {number}.", "", "One."))

    readers: dict[str, tuple[Any, Any]] = {"rating": (alpagasus.parse, rated)}
    for protocol in Protocol:
        readers[protocol.value] = (
            FORMS[protocol].parse,
            lambda n, protocol=protocol: judge_messages(protocol, f"Name {n}.", "One.", "Two."),
        )
    for name, (parse, messages) in readers.items():
        answers = answered(parse, messages, tmp_path / name)
        read = [answer for answer in answers if answer.value is not None]
        assert len(read) > 100 and len({answer.value for answer in read}) > 2, name
        refused = [answer for answer in answers if answer.value is None]
        assert refused, name
        assert any(answer.asked > 1 for answer in read), name  # some can't be read at first
        again = answered(parse, messages, tmp_path / "again" / name)
        assert [answer.value for answer in again] == [answer.value for answer in answers]
    served, real = (
        plain(EndpointConfig("m", stand_in=True), hashed_only=True),
        plain(EndpointConfig("m"), hashed_only=True),
    )
    assert served != real and "stand_in" not in real  # stored replies of real endpoints keep their fingerprint


def test_no_claim_is_decided() -> None:
    claim = Claim("c1", "ICon is better", "table 1", measure="average", arm="icon-0.15")
    checked = [Checked(claim, verdict, [], "") for verdict in ClaimVerdict]
    assert undecided(checked, {}) == checked
    found_ones = undecided(checked, {"rehearse": "stand_ins"})
    assert {one.verdict for one in found_ones} == {ClaimVerdict.not_run}
    assert [one.note for one in found_ones].count(DECIDES_NOTHING) == len(ClaimVerdict) - 1


CLAIMS = """
- {id: average, text: t, source: s, measure: average, arm: random-0.25, against: [full]}
- {id: half, text: t, source: s, measure: average, arm: random-0.5, against: [full]}
- {id: judged, text: t, source: s, measure: winning_score, arm: icon-0.25, against: [full], margin: 1.0, set: tiny}
- {id: unjudged, text: t, source: s, measure: winning_score, arm: icon-0.25, against: [random-0.25], set: tiny}
- {id: picture, text: t, source: s, untestable: no number}
"""


def with_claims(folder: Path) -> list[str]:
    """Overrides of an experiment whose claims lie in ``folder``."""
    (folder / "experiments" / "toy").mkdir(parents=True)
    (folder / "experiments" / "toy" / "claims.yaml").write_text(CLAIMS)
    return [f"paths.experiments={folder / 'experiments'}", "published=toy"]


def test_the_plan_says_which_claims_have_no_step(tmp_path: Path) -> None:
    made = with_claims(tmp_path)
    found = silence(plan(config("smoke_tiny", tmp_path, *made, "judge=smoke_tiny", "fractions=[0.25]")))
    assert found.claims == {
        "random isn't run at fraction 0.5": ["half"],
        "the judge compares with full; judge.opponents={random: icon} compares with icon too": ["unjudged"],
    }
    assert found.untestable == {"no number": ["picture"]} and found.all_claims == 5
    more = silence(plan(config("smoke_tiny", tmp_path, *made, "judge=smoke_tiny", "fractions=[0.25,0.5]")))
    assert list(more.claims.values()) == [["unjudged"]]
    assert silence(plan(config("smoke_tiny", tmp_path, *made, "until=select"))).lines() == []
    assert silence(plan(config("smoke_tiny", tmp_path))).lines() == []


def test_the_papers_run_decides_all_that_is_about_its_model(tmp_path: Path) -> None:
    """Tables 1 to 3, figure 2's and figure 3's claims: one run has a step for each."""
    found = silence(plan(config("llama31_8b", tmp_path)))
    assert (found.claims, found.cells, found.all_claims) == ({}, {}, 22) and found.all_cells > 300
    others = [claim for ids in found.untestable.values() for claim in ids]
    assert others == ["other_models", "transfer", "ifd_of_selected", "tsne"]
    for experiment in ("qwen25_3b", "llama2_7b", "wizardlm"):
        found = silence(plan(config(experiment, tmp_path)))
        assert (found.claims, found.cells) == ({}, {}) and found.all_claims > 4


def test_cells_without_a_step_are_counted_by_reason(tmp_path: Path) -> None:
    found = silence(plan(config("llama31_8b", tmp_path, "~methods.deita", "judge=none")))
    assert found.cells["no 'deita' in this experiment"] == 8 + 6  # table 2, and table 3's sets
    assert sum(found.cells.values()) < found.all_cells
    unjudged = "no comparison on overall by a judge in this experiment (judge=paper)"
    assert found.claims[f"{unjudged}; no 'deita' in this experiment"] == ["judged_against_methods_v1"]


def test_an_experiment_is_rehearsed_whole(tmp_path: Path) -> None:
    """And what it says at its end is what lies in the store, and what the tables that it wrote lack."""
    overrides = ["experiment=smoke_tiny", "judge=smoke_tiny", "cluster.threads=1", *with_claims(tmp_path)]
    overrides += ["+method@methods.alpagasus=alpagasus", "evaluation=tiny", "fractions=[0.25]"]
    done = icon_repro(tmp_path, *overrides, "rehearse=stand_ins")
    assert done.code == 0, done.out + done.error
    assert " 0 failed" in done.out and "A rehearsal can't show:" in done.out
    work = tmp_path / "work" / "rehearsal"
    results = work / "results" / f"{PREFIX}smoke_tiny"
    assert PREFIX in (results / "table.md").read_text(encoding="utf-8")
    assert not (tmp_path / "results").exists()
    steps = len(list(work.glob("*/*/record.json")))
    assert f"{steps} of {steps} planned steps" in done.out
    (disk,) = re.findall(r"weights and gradients: (.+) planned, (.+) counted", done.out)
    assert disk[0] == disk[1] != "0 B"
    replies = next(work.glob("score/alpagasus-ratings-*/replies.jsonl")).read_text(encoding="utf-8").splitlines()
    asked = {json.loads(line)["key"] for line in replies}
    told = f"calls of endpoints: {len(asked)} planned, {len(asked)} counted, {len(replies) - len(asked)} asked again"
    assert told in done.out
    with (results / "claims.csv").open(encoding="utf-8", newline="") as file:
        notes = {row["claim"]: row["note"] for row in csv.DictReader(file) if row["note"] != DECIDES_NOTHING}
    found = silence(plan(config("smoke_tiny", tmp_path, *overrides[1:])))
    promised = {**found.claims, **found.untestable}
    assert notes == {claim: why for why, ids in promised.items() for claim in ids} and len(notes) == 3
    assert all(f"{claim}: {why}" in done.out for claim, why in notes.items())


def test_a_rehearsal_that_ends_with_selections_speaks_of_no_claim(tmp_path: Path) -> None:
    overrides = [
        "experiment=smoke_tiny",
        "judge=none",
        "~methods.icon",
        "until=select",
        "cluster.threads=1",
        *with_claims(tmp_path),
    ]
    done = icon_repro(tmp_path, *overrides, "rehearse=stand_ins")
    assert done.code == 0, done.out + done.error
    assert "The real plan ends with selections (until=select)" in done.out and "claims" not in done.out


def test_the_real_plan_stands_beside_what_was_rehearsed(tmp_path: Path) -> None:
    made = plan(config("llama31_8b", tmp_path, "rehearse=stand_ins"))
    real = plan(config("llama31_8b", tmp_path))
    lines = closing(made, Store(tmp_path / "empty"), real)
    row = next(line for line in lines if line.startswith("train:run")).split()
    trained = [step for step in real.steps if step.target == "icon_repro.train:run"]
    assert row[1:5] == ["0", "0.0", "0.0", "0.0"] and row[-3] == str(len(trained))
    assert float(row[-1]) == pytest.approx(sum(step.cost.flops for step in trained), rel=0.01)
    assert f"0 of {len(made.steps)} planned steps" in lines[1]
    assert any("can't be made here: no file" in line for line in closing(made, Store(tmp_path / "empty"), "no file"))
