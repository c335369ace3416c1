"""How far each baseline's default ranks from its published code, and which option makes the difference.

In: ``../shared/golden`` (24 rows, a tiny model, what the published codes compute), and with ``--alpaca`` 256 rows of
``../shared/data/alpaca_released_union.jsonl`` under SmolLM2-135M.
Out: results/fidelity/{golden,alpaca}.json, table.csv, table.md. What is done is kept in ``--work``: a run that was
stopped goes on.
SELECTIT_QUESTIONS names a file with SelectIT's released questions, which aren't part of this project.
"""

import argparse
import csv
import dataclasses
import hashlib
import importlib
import json
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from experiments.fidelity.less_scores import less_rows
from icon_repro.config.arguments import open_overrides
from icon_repro.config.compose import register_resolvers
from icon_repro.config.load import conf_dir, load
from icon_repro.data.rows import Example, Score, best_first, selected_count
from icon_repro.engine.artifact import Step, ordered
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import build, plain
from icon_repro.experiment import plan
from icon_repro.lm.load import load_tokenizer
from icon_repro.methods.common.answers import encoded

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "results" / "fidelity"
FRACTION, ROWS, QUERIES, SEED = 0.15, 256, 16, 0
COLUMNS = ("data", "method", "option", "ours", "published", "rows", "spearman", "overlap", "cause")


@dataclass(frozen=True)
class Option:
    """One difference: what the published code has, what ours has, and why ours has it."""

    change: dict[str, Any]
    ours: str
    published: str
    cause: str
    base: dict[str, Any] = dataclasses.field(default_factory=dict)  # of both sides, where it matters only then


@dataclass(frozen=True)
class Baseline:
    settings: dict[str, Any]
    options: dict[str, Option]
    golden: str  # file of the published values
    questions: bool = False  # the published values need the released questions


_CUT = Option({"long_rows": "cut"}, "drop", "cut", "a cut response isn't the one that is tuned on")
_JOINT = Option(
    {"tokenise": "joint"}, "separate", "joint", "a response has the same tokens with and without its prompt"
)
BASELINES = {
    "ifd": Baseline(
        {"kind": "ifd", "drop_above_one": False},
        {
            "long_rows": dataclasses.replace(
                _CUT, change={"long_rows": "cut", "direct_room": 4}, published="cut, room 4"
            ),
            "tokenise": _JOINT,
        },
        "ifd.json",
    ),
    "superfiltering": Baseline(
        {"kind": "ifd", "ratio": "perplexity", "drop_above_one": False, "template": "plain", "direct": ""},
        {
            "long_rows": dataclasses.replace(
                _CUT, change={"long_rows": "cut", "direct_room": 1}, published="cut, room 1"
            ),
            "tokenise": _JOINT,
            "drop_one": Option(
                {"drop_one": True}, "false", "true", "keeps IFD of 1; the paper says above", {"drop_above_one": True}
            ),
        },
        "superfiltering.json",
    ),
    "rds": Baseline(
        {"kind": "rds"},
        {
            "turn": Option({"turn": "lose"}, "next", "lose", "every query takes as many rows, as the paper says"),
            "query_template": Option(
                {"query_template": "as_is"}, "of the rows", "as_is", "one format on both sides, as the paper has"
            ),
            "ties": Option({"ties": "file"}, "id", "file", "the order of a file has no meaning"),
        },
        "rds_order.json",
    ),
    "nuggets": Baseline(
        {"kind": "nuggets", "anchors": {"count": 8}},
        {
            "separator": Option({"separator": ""}, "blank line", "nothing", "two rows without a break aren't a prompt"),
            "anchor_bos": Option({"anchor_bos": False}, "true", "false", "the same beginning with and without a row"),
            "strip": Option({"strip": True}, "false", "true", "texts as tuning sees them"),
            "tokenise": _JOINT,
            "counted": Option({"counted": "all"}, "scored", "all", "a row helps itself"),
            "shot_tokens": Option({"shot_tokens": 0}, "1024", "not cut", "bounded cost"),
            "anchors.padding": Option(
                {"anchors": {"count": 8, "padding": True}}, "false", "true", "padding says how long a row is, not what"
            ),
            "anchors.order": Option(
                {"anchors": {"count": 8, "order": "file"}}, "id", "file", "the order of a file has no meaning"
            ),
        },
        "nuggets_own_anchors.json",
    ),
    "selectit": Baseline(
        {"kind": "selectit"},
        {"layout": Option({"layout": "published"}, "ours", "published", "labels and line breaks around a row")},
        "selectit_released_questions.json",
        questions=True,
    ),
}


@dataclass(frozen=True)
class Data:
    """Rows to rank, under which model, and where steps are kept."""

    name: str
    rows: list[Example]
    assessment: list[Example]
    model: dict[str, Any]  # of the configuration
    work: Path


def composed(data: Data, method: Mapping[str, Any]) -> Any:
    """The configuration of one method, as the command line makes it."""
    register_resolvers()
    overrides = ["experiment=smoke_tiny", "judge=none", "until=select"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        raw = OmegaConf.to_container(compose("config", open_overrides(overrides, conf_dir())), resolve=True)
    assert isinstance(raw, dict)
    raw["methods"], raw["model"], raw["paths"]["work"] = {"mine": dict(method)}, data.model, str(data.work / "work")
    raw["data"]["candidates"]["size"] = None
    return load({str(key): value for key, value in raw.items()})


def done(step: Step, data: Data, folders: dict[str, Path], rows: Sequence[Example], cache: Path) -> Path:
    """The folder of ``step``, which runs in this process unless it has run before.

    Args:
        cache: of files from package registries.
    """
    out = data.work / f"{step.folder}-{len(rows)}"
    if (out / "done").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    if step.stage == "prepare":
        write_rows(out / "rows.jsonl", rows if step.name == "candidates" else data.assessment)
    else:
        module, _, function = step.target.partition(":")
        runtime = Runtime(ClusterConfig(device="cpu"), cache=cache, terminal=None)
        runtime.files = {name: Path(file.path) for name, file in step.files.items()}
        params = build(type(step.params), json.loads(json.dumps(plain(step.params))))
        inputs = {name: folders[needed.label] for name, needed in step.inputs.items()}
        getattr(importlib.import_module(module), function)(params, inputs, out, runtime)
    (out / "done").touch()
    return out


def scores(data: Data, method: Mapping[str, Any], rows: Sequence[Example]) -> dict[str, float]:
    """The scores of ``rows`` by a method; rows without one are left out."""
    config = composed(data, method)
    last = next(step for step in plan(config).steps if step.label == "score/mine")
    # the names of rows' steps are those of the plan's own data: only the work folder says which rows these are
    own = dataclasses.replace(data, work=data.work / _sum(rows)) if rows is not data.rows else data
    folders = dict[str, Path]()
    for step in ordered([last]):
        if step.stage == "model":
            folders[step.label] = done(step, data, {}, [], Path(config.paths.cache))
        else:
            folders[step.label] = done(step, own, folders, rows, Path(config.paths.cache))
    return {row.id: row.score for row in read_rows(folders[last.label] / "scores.jsonl", Score)}


def _sum(rows: Sequence[Example]) -> str:
    return hashlib.sha256(" ".join(row.id for row in rows).encode()).hexdigest()[:12]


def shard_of(data: Data, method: Mapping[str, Any]) -> tuple[Step, Step]:
    """IFD's first step over rows, and its model."""
    last = next(step for step in plan(composed(data, method)).steps if step.label == "score/mine")
    shard = next(step for step in ordered([last]) if step.target.endswith("answers:shard"))
    return shard, shard.inputs["model"]


def ifd_scores(data: Data, ours: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, float]:
    """``scores`` of ``changed``; rows that have the same tokens under ``ours`` keep their score from there."""
    (first, model), (second, _) = shard_of(data, ours), shard_of(data, changed)
    tokenizer = load_tokenizer(done(model, data, {}, [], Path(composed(data, ours).paths.cache)))
    made: dict[str, float] = scores(data, ours, data.rows)
    differ = []
    for row in data.rows:
        before, after = (encoded(row, step.params.answers, tokenizer) for step in (first, second))
        if before != after:
            differ.append(row)
            made.pop(row.id, None)
    return made | scores(data, changed, differ) if differ else made


def agreement(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """Spearman over rows that both score; share of the best 15 % of ``one`` that is among the best of ``other``."""
    both = sorted(one.keys() & other.keys())
    count = selected_count(FRACTION, max(len(one), len(other)))
    best = set(best_first(one)[:count]) & set(best_first(other)[:count])
    rank = spearmanr([one[i] for i in both], [other[i] for i in both]).statistic
    return {"rows": len(both), "spearman": round(float(rank), 3), "overlap": round(len(best) / count, 3)}


def measured(data: Data, name: str) -> list[dict[str, Any]]:
    """A row of the table for each option of a baseline, then one for all of them together."""
    baseline = BASELINES[name]

    def ranked(method: Mapping[str, Any]) -> dict[str, float]:
        if method["kind"] == "ifd" and method != baseline.settings and not method["drop_above_one"]:
            return ifd_scores(data, baseline.settings, method)
        return scores(data, method, data.rows)

    ours, table = ranked(baseline.settings), []
    for label, option in baseline.options.items():
        base = {**baseline.settings, **option.base}
        values = agreement(ranked(base) if option.base else ours, ranked({**base, **option.change}))
        side = {"ours": option.ours, "published": option.published, "cause": option.cause}
        table.append({"data": data.name, "method": name, "option": label, **side, **values})
    published = {**baseline.settings, "compat": "published"}
    cause = "all options together"
    questions = os.environ.get("SELECTIT_QUESTIONS") if baseline.questions else None
    if questions:
        table.append(
            _row(data, name, "questions", agreement(ours, ranked({**baseline.settings, "questions": questions})))
        )
        published["questions"] = questions
    if not baseline.questions or questions:
        values = agreement(ours, ranked(published))
        side = {"ours": "ours", "published": "published", "cause": cause}
        table.append({"data": data.name, "method": name, "option": "compat", **side, **values})
    return table


def _row(data: Data, name: str, option: str, values: Mapping[str, Any]) -> dict[str, Any]:
    side = {"ours": "our wording", "published": "the released wording", "cause": "isn't ours to give on"}
    return {"data": data.name, "method": name, "option": option, **side, **values}


def published_values(name: str) -> dict[str, float]:
    """What the published code computes, as scores."""
    found = read_json(SHARED / "golden" / "methods" / BASELINES[name].golden)
    if isinstance(found, list):
        return {identifier: -float(place) for place, identifier in enumerate(found)}
    return {i: value["score"] if isinstance(value, dict) else value for i, value in found.items()}


def against_published(data: Data, name: str) -> list[dict[str, Any]]:
    """Default and ``compat=published`` against the values of the published code, where its questions are known."""
    baseline, theirs, table = BASELINES[name], published_values(name), []
    published = {**baseline.settings, "compat": "published"}
    cases = {"default": baseline.settings, "compat=published": published}
    if baseline.questions:
        cases = {"default": baseline.settings, "compat=published, our wording": published}
        if questions := os.environ.get("SELECTIT_QUESTIONS"):
            cases["compat=published, the released wording"] = {**published, "questions": questions}
    for label, method in cases.items():
        side = {"ours": label, "published": "values of its code", "cause": ""}
        values = agreement(scores(data, method, data.rows), theirs)
        table.append({"data": data.name, "method": name, "option": "against its code", **side, **values})
    return table


def golden(work: Path) -> list[dict[str, Any]]:
    """The part of the table on the 24 golden rows."""
    folder = SHARED / "golden" / "methods"
    rows = [json.loads(line) for line in (folder / "candidates.jsonl").read_text(encoding="utf-8").splitlines()]
    model = {
        "kind": "local",
        "name": "tiny_llama",
        "path": str(SHARED / "golden" / "tiny_llama"),
        "parameters": 200_000,
    }
    data = Data(
        "golden",
        [Example(row["id"], row["instruction"], row["input"], row["output"]) for row in rows],
        queries(folder / "assessment.jsonl"),
        model,
        work / "golden",
    )
    table = [row for name in BASELINES for row in (*measured(data, name), *against_published(data, name))]
    return table + less_rows(SHARED / "golden", work, agreement)


def queries(path: Path) -> list[Example]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(row["id"], row["inputs"], "", row["response"], row["group"], ready=True) for row in rows]


def alpaca(work: Path, methods: Sequence[str]) -> list[dict[str, Any]]:
    """The part of the table on 256 Alpaca rows; what other methods had before stays."""
    with (SHARED / "data" / "alpaca_released_union.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    drawn = random.Random(SEED).sample(rows, ROWS)
    model = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "smollm2.yaml"))
    assert isinstance(model, dict)
    data = Data(
        "alpaca",
        [Example(row["id"], row["instruction"], row["input"], row["output"]) for row in drawn],
        queries(SHARED / "golden" / "methods" / "assessment.jsonl")[:QUERIES],
        {str(key): value for key, value in model.items()},
        work / "alpaca",
    )
    path = RESULTS / "alpaca.json"
    table: list[dict[str, Any]] = read_json(path) if path.exists() else []
    for name in methods:
        table = [row for row in table if row["method"] != name] + measured(data, name)
        write_json(path, table)
        write_table()
    return table


def write_table() -> None:
    """table.csv and table.md out of the parts that have been measured."""
    parts = [RESULTS / f"{name}.json" for name in ("golden", "alpaca")]
    rows = [row for path in parts if path.exists() for row in read_json(path)]
    with (RESULTS / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for row in rows]
    (RESULTS / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--alpaca", nargs="*", metavar="METHOD", help="the 256 rows too (hours on one core), of METHOD")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "icon_repro_fidelity")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if arguments.alpaca is None:
        write_json(RESULTS / "golden.json", golden(arguments.work))
    else:
        alpaca(arguments.work, arguments.alpaca or list(BASELINES))
    write_table()


if __name__ == "__main__":
    main()
