"""Write the card of an exported selection: what it is, what its numbers mean, whose rows these are, how it was made.

In: facts of a selection, the records of the steps behind it.  Out: README.md of a data set folder, with the header by
which a hub and ``datasets.load_dataset`` find its tables.
Names no time, and folders of this machine as ``<work>``, ``.`` and ``~``: the same selection has the same card.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from icon_repro.data.options import ModelConfig, ModelKind, RowsConfig, SelectFrom, SourceConfig, SourceKind
from icon_repro.data.rows import selected_count
from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.experiment import Experiment
from icon_repro.methods.kinds import method_of
from icon_repro.report.collect import portable
from icon_repro.report.settings import Otherwise, public

NOT_STATED = "not stated"


@dataclass(frozen=True)
class CardFacts:
    """What the card says of one selection."""

    name: str
    method: str
    fraction: float
    selection_seed: int | None
    select: Step
    ranked: int  # rows that the method was to rank
    scored: int
    selected: int
    reasons: Mapping[str, int]  # why rows have no score
    ready: bool  # instruction is a finished prompt


def card(
    facts: CardFacts,
    experiment: Experiment,
    store: Store,
    overrides: Sequence[str],
    otherwise: Otherwise | None = None,
) -> str:
    """The text of README.md.

    Args:
        overrides: of the command line that exports; those that change no result are left out.
        otherwise: settings that aren't those of the experiment's file, whose description the card repeats.
    """
    config = experiment.config
    source = config.data.selected_from.source
    steps = [*ancestors(facts.select), facts.select]
    options = config.methods[facts.method]
    settings = yaml.safe_dump(public(config)["methods"][facts.method], sort_keys=False, allow_unicode=True)
    records = [store.record(step) for step in steps]
    seed = "" if facts.selection_seed is None else f", selection seed {facts.selection_seed}"
    summary = [
        ("method", f"`{facts.method}` (kind `{public(config)['methods'][facts.method]['kind']}`){seed}"),
        ("score", f"{method_of(options).meaning_of(options)}; higher is selected first"),
        ("model", _model(steps, config.model.name)),
        ("selected from", f"{source.name}: {facts.ranked} rows, {_RANKED[config.select_from]}"),
        ("with a score", str(facts.scored)),
        ("fraction", f"{facts.fraction:g} of all rows, scored or not"),
        ("selected", f"{facts.selected}{_short(facts)}"),
        ("licence of the rows", _licence(source)),
        ("fingerprint", f"`{facts.select.fingerprint}`"),
    ]
    commands = [
        _command(overrides, []),
        _command(overrides, ["action=export", f"export.method={facts.method}", f"export.fraction={facts.fraction:g}"]),
    ]
    text = "\n".join(
        [
            _header(facts, source),
            f"# {facts.name} of {source.name}\n",
            f"{facts.selected} of {facts.ranked} rows of {source.name}, selected by `{facts.method}`, with the score "
            "of every row that has one. Made with icon_repro, which compares data-selection methods.\n",
            _table(["", ""], summary),
            "## Licence\n",
            _rights(source),
            "## Files\n",
            _FILES + (_READY if facts.ready else _ALPACA),
            "## Rows without a score\n",
            _table(["why", "rows"], sorted(facts.reasons.items())) if facts.reasons else "None: every row has one.\n",
            "## How it was made\n",
            f"Experiment `{config.name}`. {config.description.strip()}\n",
            *([f"{otherwise}\n"] if otherwise else []),
            "```\n" + "\n".join(commands) + "\n```\n",
            "What was read:\n",
            _table(["step", "name", "from", "licence"], _read(steps)),
            "Steps, each with the fingerprint of all that decides its result:\n",
            _table(["step", "function", "version"], ([f"`{s.folder}`", s.target, str(s.version)] for s in steps)),
            f"Code: {_versions(records)}\n",
            f"Settings of `{facts.method}`:\n",
            f"```yaml\n{settings}```",
            "",
        ]
    )
    return portable(text, store.root)


_FILES = """\
- `rows.parquet`: every row with a score, best first: `id`, `instruction`, `input`, `output`, `group`, `score`, `rank`
  (1 is best), `selected`.
- `scores.parquet`: every row by its id, without text: `score`, `rank`, `selected`, `reason` (why there is no score),
  and in columns `part_...` what the score is made of.
- `alpaca.json`: the selected rows alone, best first.

```python
from datasets import load_dataset

rows = load_dataset(FOLDER, split="train")
selected = rows.filter(lambda row: row["selected"])     # as load_dataset("json", data_files="alpaca.json")
scores = load_dataset(FOLDER, "scores", split="train")
```

"""
_ALPACA = """\
In icon_repro: `data.pool.source={kind: file, format: alpaca, name: NAME, path: alpaca.json, fields: {id: id}}`.
"""
_READY = """\
`instruction` holds finished prompts: put no template around them. In icon_repro: `data.pool.source={kind: file,
format: prompt_response, name: NAME, path: alpaca.json, fields: {id: id, prompt: instruction, response: output}}`.
"""
_RANKED = {
    SelectFrom.candidates: "the candidates drawn from those that the filters leave",
    SelectFrom.pool: "all that the filters leave",
}
# pattern of a licence's name here -> its identifier on the hub; no name holds another
_HUB_LICENCES = {
    r"Apache-2\.0|as this project": "apache-2.0",
    r"\bMIT\b": "mit",
    r"AFL-3\.0": "afl-3.0",
    r"CC BY 4\.0": "cc-by-4.0",
    r"CC BY-SA 3\.0": "cc-by-sa-3.0",
    r"CC BY-SA 4\.0": "cc-by-sa-4.0",
    r"CC BY-NC 4\.0": "cc-by-nc-4.0",
    r"CC BY-NC-SA 4\.0": "cc-by-nc-sa-4.0",
    r"CC0": "cc0-1.0",
    r"Llama 2 ": "llama2",
    r"Llama 3 ": "llama3",
    r"Llama 3\.1 ": "llama3.1",
}
_NO_RESULT = ("action", "paths", "export", "cluster", "tracking", "judge")  # keys that change no selection


def _header(facts: CardFacts, source: SourceConfig) -> str:
    # no alpaca.json: datasets reads all tables of a folder as one format
    files = {"rows": "rows.parquet", "scores": "scores.parquet"}
    configs: list[dict[str, Any]] = [{"config_name": name, "data_files": file} for name, file in files.items()]
    configs[0]["default"] = True
    header = {
        "pretty_name": f"{facts.name} of {source.name}",
        **hub_licence(source.licence),
        "tags": ["data-selection", "instruction-tuning", "icon_repro"],
        "configs": configs,
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def hub_licence(licence: str) -> dict[str, str]:
    """A licence as the header of a hub's card has it: its identifier there, or ``other`` with its name.

    A text that names several licences, or one and a condition besides, is ``other``: which holds for what stands in
    the text of the card.
    """
    if licence == NOT_STATED:
        return {"license": "unknown"}
    identifiers = [identifier for name, identifier in _HUB_LICENCES.items() if re.search(name, licence)]
    alone = len(identifiers) == 1 and not re.search(r"[;+]|, (?!not for commercial use|as its hub page says)", licence)
    return {"license": identifiers[0]} if alone else {"license": "other", "license_name": licence}


def _licence(source: SourceConfig | ModelConfig) -> str:
    return f"**{NOT_STATED}**" if source.licence == NOT_STATED else source.licence


def _rights(source: SourceConfig) -> str:
    if source.licence == NOT_STATED:
        return (
            f"**Not stated.** The rows are those of {source.name}, whose licence its configuration doesn't state: find "
            "out before you pass texts on. `scores.parquet` holds ids and numbers alone.\n"
        )
    return (
        f"The rows are those of {source.name}, under its licence: {source.licence}. `scores.parquet` holds ids and "
        "numbers alone.\n"
    )


def _short(facts: CardFacts) -> str:
    wanted = selected_count(facts.fraction, facts.ranked)
    missing = wanted - facts.selected
    return f" ({missing} short of {wanted}: too few rows have a score)" if missing > 0 else ""


def _model(steps: Iterable[Step], target: str) -> str:
    """Models that the scores were made with, by name."""
    names = list(dict.fromkeys(step.params.name for step in steps if isinstance(step.params, ModelConfig)))
    return ", ".join(names) if names else f"none (the experiment tunes {target})"


def _read(steps: Iterable[Step]) -> list[list[str]]:
    """Every model and set of rows behind the selection: step, name, where from, licence."""
    cells = []
    for step in steps:
        if isinstance(step.params, ModelConfig):
            cells.append([step.label, step.params.name, _place(step, step.params), _licence(step.params)])
        elif isinstance(step.params, RowsConfig):
            source = step.params.source
            cells.append([step.label, source.name, _place(step, source), _licence(source)])
    return cells


def _place(step: Step, source: ModelConfig | SourceConfig) -> str:
    if source.kind in (ModelKind.hub, SourceKind.hub):
        return f"{source.hub_id}@{step.extra['commit']}"
    if source.kind is ModelKind.random:
        return "random weights"
    if source.registry is not None and source.kind in (ModelKind.registry, SourceKind.registry):
        return f"{source.registry.package} {source.registry.version}, {source.registry.member}"
    return ", ".join(f"file, sha256 {file.sha256[:16]}" for file in step.files.values())


def _versions(records: Iterable[Mapping[str, Any]]) -> str:
    """Commits and package versions that the steps' records name; several of one thing only if they differ."""
    commits: set[str] = set()
    packages: dict[str, set[str]] = {}
    for record in records:
        git = record["git"]
        commits.add(f"{git['commit'] or 'not known'}{' with uncommitted changes' if git['dirty'] else ''}")
        for name, version in {"python": record["python"], **record["packages"]}.items():
            if version is not None:
                packages.setdefault(name, set()).add(version)
    used = ", ".join(f"{name} {' and '.join(sorted(versions))}" for name, versions in sorted(packages.items()))
    return f"commit {', '.join(sorted(commits))}; {used}."


def _command(overrides: Sequence[str], more: Sequence[str]) -> str:
    deciding = [one for one in overrides if one.partition("=")[0].partition(".")[0] not in _NO_RESULT]
    return shlex.join(["python", "-m", "icon_repro", *deciding, *more])


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows), ""])
