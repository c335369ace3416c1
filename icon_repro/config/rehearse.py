"""A rehearsal: the same plan on stand-ins (``rehearse=stand_ins``), or on the real weights and data, cut short (real).

In: a checked Config.  Out: another one, whose plan has the same steps by label, but for numbered shards (two at most)
and rows that lm-eval reads from files, which are steps here. Nothing is read from a network, and no GPU is needed.
Settings are found by their type wherever they stand, in a method's options too: models become random ones of the same
kind, sources rows of ours, lm-eval's tasks multiple choice, endpoints a stand-in; samples, limits, epochs and lengths
are cut. Methods, their options, seeds, DeepSpeed, processes, Slurm and ``published`` stay as they are.
Work and results lie apart, and the experiment's name says REHEARSAL, which every title bears.
"""

import copy
import dataclasses
import enum
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icon_repro.config.load import Config, Rehearse
from icon_repro.data.options import (
    DataConfig,
    Dtype,
    ModelConfig,
    ModelKind,
    RandomArchitecture,
    RandomShape,
    RowFormat,
    RowsConfig,
    SelectFrom,
    SourceConfig,
    SourceKind,
    StandInRows,
)
from icon_repro.data.random_models import count_weights
from icon_repro.data.stand_ins import columns
from icon_repro.evaluate.judge.options import GenerationConfig
from icon_repro.evaluate.options import Backend, EvaluationConfig, TaskConfig, TaskKind
from icon_repro.lm.options import EndpointConfig
from icon_repro.methods.alpagasus import AlpagasusConfig
from icon_repro.methods.armorm import ArmormConfig, RewardArchitecture
from icon_repro.methods.icon.options import IconConfig
from icon_repro.methods.ids import IdsConfig
from icon_repro.methods.ifd.options import DiversityConfig, PreExperiencedConfig
from icon_repro.methods.nuggets import AnchorsConfig
from icon_repro.methods.random import RandomConfig
from icon_repro.train.options import TrainConfig

PREFIX = "REHEARSAL_"
FOLDER = "rehearsal"  # in paths.work
POOL_ROWS, CANDIDATES, SCORED_CANDIDATES = 200, 120, 40  # 100 clusters and 100 anchors must find their rows
ASSESSMENT_ROWS, OTHER_ROWS, ITEMS, NEW_TOKENS = 24, 8, 4, 16
_SHARDS = 2  # of each kind, where the real plan has more
_ROW_CHARS = (60, 70)  # of a stand-in's prompt and response, about
_LEAST_MAX_CHARS = 400  # no stand-in is longer
_NO_BOS = ("qwen", "gpt2", "gpt-2", "smollm", "pythia", "opt-", "phi")  # families whose tokenizer adds no BOS
_KNOWN = ("ForCausalLM", "LMHeadModel", "ForSequenceClassification", "ForMaskedLM", "ForRewardModelWithGating")
_BACKBONES = ("BertModel", "RobertaModel", "MPNetModel")


class RehearsalError(ValueError):
    """A part of the configuration has no stand-in; the message lists all."""


def rehearsed(config: Config) -> Config:
    """The configuration of the rehearsal that ``config.rehearse`` asks for; ``config`` itself if it asks for none.

    Raises:
        RehearsalError: a model is of an architecture that has no stand-in.
    """
    if config.rehearse is Rehearse.none or config.name.startswith(PREFIX):
        return config
    rehearsal = copy.deepcopy(config)
    if rehearsal.rehearse is Rehearse.stand_ins:
        if problems := [text for where, model in found(rehearsal, ModelConfig) for text in unknown(where, model)]:
            raise RehearsalError("\n  ".join([f"{len(problems)} models have no stand-in:", *problems]))
        rehearsal.methods = {name: _without_files(method) for name, method in rehearsal.methods.items()}
        _stand_in(rehearsal)
        rehearsal.cluster.device = "auto" if rehearsal.cluster.device.startswith("cuda") else rehearsal.cluster.device
        if not importlib.util.find_spec("flash_attn"):
            rehearsal.cluster.attention = "sdpa"
        if rehearsal.evaluation.backend is Backend.vllm and importlib.util.find_spec("vllm") is None:
            rehearsal.evaluation.backend = Backend.hf
    _cut(rehearsal, config)
    _name_apart(rehearsal)
    return rehearsal


def _name_apart(config: Config) -> None:
    """Name, folders and title of a rehearsal; nothing real is read or written there."""
    config.description = f"REHEARSAL ({config.rehearse.value}), its numbers mean nothing: {config.description.strip()}"
    config.name = f"{PREFIX}{config.name}"
    work = Path(config.paths.work) / FOLDER
    config.paths.work, config.paths.results = str(work), str(work / "results")


def found(value: Any, kind: type, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, object) for each object of ``kind`` that ``value`` holds at any depth, itself included."""
    if isinstance(value, kind):
        yield where, value
    inner: list[tuple[str, Any]] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    elif isinstance(value, dict):
        inner = [(str(name), one) for name, one in value.items()]
    elif isinstance(value, list):
        inner = [(str(number), one) for number, one in enumerate(value)]
    for name, one in inner:
        if not isinstance(one, (str, int, float, enum.Enum)) and one is not None:
            yield from found(one, kind, f"{where}.{name}".lstrip("."))


def _stand_in(config: Config) -> None:
    """Put stand-ins in the place of models, sources, tasks of lm-eval and endpoints."""
    kinds = _kinds(config)
    for _, model in found(config, ModelConfig):
        if model.kind is not ModelKind.random:
            _random_model(model, *kinds.get(id(model), (RandomArchitecture.causal, "")))
    for name, task in config.evaluation.tasks.items():
        if task.kind is TaskKind.lm_eval:
            _multiple_choice(name, task)
    for where, source in found(config, SourceConfig):
        _made_rows(where, source, OTHER_ROWS)
    for _, endpoint in found(config, EndpointConfig):
        endpoint.stand_in, endpoint.retries = True, 0
        endpoint.max_cost, endpoint.price_in, endpoint.price_out, endpoint.prices_of = None, 0.0, 0.0, None


def _kinds(config: Config) -> dict[int, tuple[RandomArchitecture, str]]:
    """Models that aren't causal, by identity: their kind, and what stands before a reply in their chat template."""
    kinds: dict[int, tuple[RandomArchitecture, str]] = {}
    for _, diversity in found(config, DiversityConfig):
        if diversity.encoder and diversity.model is not None:
            kinds[id(diversity.model)] = (RandomArchitecture.encoder, "")
    for _, armorm in found(config, ArmormConfig):
        gated = armorm.architecture is RewardArchitecture.armorm
        architecture = RandomArchitecture.gated if gated else RandomArchitecture.classifier
        kinds[id(armorm.reward)] = (architecture, armorm.prompt_end)
    return kinds


def _random_model(model: ModelConfig, architecture: RandomArchitecture, chat_end: str) -> None:
    names = f"{model.hub_id or ''} {model.name}".lower()
    encoder = architecture is RandomArchitecture.encoder
    model.random = RandomShape(
        bos=not any(family in names for family in _NO_BOS),
        seed=_seed(model.name),
        max_positions=512 if encoder else 8192,
        architecture=architecture,
        dtype=Dtype.float32 if encoder or "gpt2" in names else Dtype.bfloat16,
        chat_end=chat_end,
    )
    model.kind, model.parameters, model.licence = ModelKind.random, sum(count_weights(model.random)), "made here"
    model.hub_id = model.revision = model.path = model.registry = None
    model.new_weights, model.unused_weights = [], []


def _multiple_choice(name: str, task: TaskConfig) -> None:
    task.kind, task.task, task.dataset, task.files = TaskKind.multiple_choice, None, None, {}
    task.metric, task.metrics, task.filter, task.aggregate = "acc", {}, "none", None
    task.num_fewshot, task.chance = 0, None
    task.source = SourceConfig(SourceKind.stand_in, RowFormat.multiple_choice, name)


def _made_rows(where: str, source: SourceConfig, rows: int) -> None:
    source.kind, source.stand_in = SourceKind.stand_in, StandInRows(rows, _seed(where))
    source.fields = columns(source.fields, source.format)
    source.path = source.hub_id = source.revision = source.subset = source.registry = None
    source.split = "train"
    source.licence = "made here"


def _seed(name: str) -> int:
    """A number from a name: the same model or source is the same stand-in in every experiment."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _without_files(method: Any) -> Any:
    """``method``, with a random order in the place of ids or ratings from a file, which names real rows."""
    if isinstance(method, IdsConfig) or (isinstance(method, AlpagasusConfig) and method.endpoint is None):
        return RandomConfig(seed=_seed("ids"))
    for _, anchors in found(method, AnchorsConfig):
        anchors.ids = None
    return method


def _cut(config: Config, real: Config) -> None:
    """Lower samples, limits, epochs, lengths and the size of shards."""
    _cut_data(config.data, config.select_from, config.rehearse)
    judged = [*config.judge.sets.values(), *config.judge.references.values()]
    for rows in judged:
        rows.sample = min(rows.sample or ITEMS, ITEMS)
        rows.expected_rows = rows.sample
    apart = [id(one) for one in (config.data.pool, config.data.assessment, config.data.target, *judged)]
    for _, rows in found(config, RowsConfig):
        _no_longer(rows, config.rehearse)
        if id(rows) not in apart:
            rows.sample = min(rows.sample or OTHER_ROWS, OTHER_ROWS)
            rows.expected_rows = rows.sample
    for _, evaluation in found(config, EvaluationConfig):
        for task in evaluation.tasks.values():
            task.limit = None if task.kind is TaskKind.nll else min(task.limit or ITEMS, ITEMS)
            task.expected_items = ITEMS
    for _, generation in found(config, GenerationConfig):
        generation.max_new_tokens = min(generation.max_new_tokens, NEW_TOKENS)
        generation.expected_tokens = min(generation.expected_tokens, NEW_TOKENS)
    for kind in (TrainConfig, PreExperiencedConfig):  # a selection model needs more than one step, so all its epochs
        for _, training in found(config, kind):
            if not getattr(training, "kept_epochs", []):
                training.epochs = min(training.epochs, 1.0)
    size, whole = config.data.candidates.size, config.select_from is SelectFrom.pool
    for _, icon in found(config, IconConfig):
        if icon.candidates is not None and size is not None:
            icon.candidates = min(icon.candidates, max(2, size // 2))
    for method in config.methods.values():
        _cut_shards(method, config, real, whole=whole)
    config.fractions = sorted({min(config.fractions), max(config.fractions)}) if config.fractions else []
    config.judge.fractions = [one for one in config.judge.fractions if one in config.fractions]
    config.judge.references_at = {
        name: [one for one in at if one in (*config.fractions, *config.more_fractions.get(name, []))] or at
        for name, at in config.judge.references_at.items()
    }
    if config.primary is not None and config.primary.fraction not in (None, *config.fractions):
        config.primary.fraction = None


def _cut_data(data: DataConfig, select_from: SelectFrom, kind: Rehearse) -> None:
    """Sizes of pool, target, assessment and candidates."""
    stand_ins = kind is Rehearse.stand_ins
    for rows in (data.pool, *([data.target] if data.target is not None else [])):
        if stand_ins:
            assert rows.source.stand_in is not None
            rows.source.stand_in.rows = POOL_ROWS
            rows.expected_rows = POOL_ROWS
            rows.sample = None if rows.sample is None else min(rows.sample, POOL_ROWS)
        else:
            rows.sample = min(rows.sample or POOL_ROWS, POOL_ROWS)
            rows.expected_rows = min(rows.expected_rows, POOL_ROWS)
    assessment = data.assessment
    if stand_ins:
        assert assessment.source.stand_in is not None
        assessment.source.stand_in.rows = ASSESSMENT_ROWS
    assessment.sample = min(assessment.sample or ASSESSMENT_ROWS, ASSESSMENT_ROWS)
    assessment.expected_rows = min(assessment.sample, assessment.expected_rows)
    if data.candidates.size is not None:
        most = SCORED_CANDIDATES if select_from is SelectFrom.pool else CANDIDATES
        data.candidates.size = min(data.candidates.size, most, POOL_ROWS // data.pools)


def _no_longer(rows: RowsConfig, kind: Rehearse) -> None:
    """Filters by length that stand-ins pass, and what the plan expects of them."""
    if kind is not Rehearse.stand_ins:
        return
    rows.min_response_chars = 1
    for name in ("max_chars", "max_prompt_chars"):
        if (limit := getattr(rows, name)) is not None:
            setattr(rows, name, max(limit, _LEAST_MAX_CHARS))
    rows.expected_prompt_chars, rows.expected_response_chars = _ROW_CHARS


def _cut_shards(method: Any, config: Config, real: Config, *, whole: bool) -> None:
    """As many shards as the real plan has, but two at most."""
    for name in ("shard_rows", "shard_candidates"):
        for _, part in found(method, object):
            if isinstance(size := getattr(part, name, None), int):
                now, before = _sharded(config, name, whole=whole), _sharded(real, name, whole=whole)
                count = min(_SHARDS, -(-before // size))
                setattr(part, name, max(1, -(-now // count)))


def _sharded(config: Config, name: str, *, whole: bool) -> int:
    """Rows that shards with the setting ``name`` divide, as the plan expects them."""
    data = config.data
    pool = data.selected_from if whole and name == "shard_rows" else data.pool
    sizes = [pool.expected_rows, pool.sample]
    if not (whole and name == "shard_rows"):
        sizes.append(data.candidates.size)
    return min(size for size in sizes if size is not None)


def unknown(where: str, model: ModelConfig) -> list[str]:
    """Why the model with the key ``where`` has no stand-in; nothing where its architecture isn't known here."""
    path = _config_file(model)
    if path is None:
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return [f"{where}: {path} can't be read. Download or copy the model again, or set rehearse=real."]
    odd = [one for one in names if not (str(one).endswith(_KNOWN) or one in _BACKBONES)]
    return [
        f"{where}: {model.hub_id or model.path} is a {one}, of which no random model is made here. Set rehearse=real, "
        "which takes the real weights."
        for one in odd
    ]


def _config_file(model: ModelConfig) -> Path | None:
    """config.json of a model that lies on this machine; None if it doesn't."""
    if model.kind is ModelKind.local and model.path is not None:
        path = Path(model.path).expanduser() / "config.json"
        return path if path.is_file() else None
    if model.kind is ModelKind.hub and model.hub_id is not None and model.revision is not None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model.hub_id, "config.json", revision=model.revision)
        return Path(cached) if isinstance(cached, str) else None
    return None
