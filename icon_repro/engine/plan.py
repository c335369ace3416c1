"""Config to steps: pure, without torch and without importing a stage.

In: a checked Config.  Out: an ``Experiment``: its steps in an order that can be run, and what each row is made of.
This is where stages meet: they don't know one another, only the files of their inputs.
Raise a target's version when the meaning of its output changes; results of the old one are then rebuilt.
"""

import contextlib
import json
import math
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from icon_repro.config import (
    CandidatesSize,
    Config,
    Control,
    EvaluationJob,
    IconConfig,
    IconShard,
    ModelConfig,
    ModelKind,
    RowsConfig,
    SelectConfig,
    SourceConfig,
    SourceKind,
    TrainJob,
    Tuning,
    resolved,
)
from icon_repro.cost import forward_flops, tokens_of, training_flops
from icon_repro.engine.artifact import Cost, SourceFile, Step, file_sha256, ordered
from icon_repro.records import read_json, write_json

TARGETS = {
    "model": ("icon_repro.data.weights:run", 1),
    "rows": ("icon_repro.data.prepare:run", 1),
    "order": ("icon_repro.data.candidates:run", 1),
    "candidates": ("icon_repro.data.candidates:head", 1),
    "benchmark": ("icon_repro.data.benchmark:run", 1),
    "icon_baseline": ("icon_repro.methods.icon.pairs:baseline", 1),
    "icon_shard": ("icon_repro.methods.icon.pairs:shard", 1),
    "icon": ("icon_repro.methods.icon.score:run", 1),
    "random": ("icon_repro.methods.random:run", 1),
    "longest": ("icon_repro.methods.longest:run", 1),
    "select": ("icon_repro.select:run", 1),
    "train": ("icon_repro.train:run", 1),
    "evaluate": ("icon_repro.evaluate:run", 1),
}
_SETTLED_NS = 2_000_000_000


class PlanError(ValueError):
    """An input that the plan needs isn't there."""


@dataclass(frozen=True)
class Arm:
    """One row of the results: a model tuned on a selection (or not tuned), and its evaluations."""

    method: str  # base, full, or a name in ``methods``
    fraction: float | None
    seed: int | None
    select: Step | None
    train: Step | None
    evaluations: dict[str, Step]


@dataclass(frozen=True)
class Experiment:
    """The plan of one experiment."""

    config: Config
    steps: list[Step]
    arms: list[Arm]
    warnings: list[str] = field(default_factory=list)


class _Planner:
    """Builds steps; remembers file hashes and what couldn't be resolved."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.warnings: list[str] = []
        self.commits: dict[tuple[str, str, str], tuple[str | None, str]] = {}
        self.hashes = FileHashes(Path(config.paths.work) / ".hashes.json")

    def step(self, target: str, stage: str, name: str, params: Any, **more: Any) -> Step:
        function, version = TARGETS[target]
        return Step(stage, name, function, version, params, **more)

    def commit(self, where: str, kind: str, hub_id: str, revision: str) -> dict[str, str]:
        """The commit of a revision: itself if it is one, else what the hub (or its cache) says."""
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return {"commit": revision}
        key = (kind, hub_id, revision)
        if key not in self.commits:
            self.commits[key] = resolve_revision(*key)
        found, reason = self.commits[key]
        if found is None:
            self.warnings.append(
                f"{where}.revision={revision!r} of {hub_id}: is a branch or tag, and which commit it is can't be found "
                f"out ({reason}). Connect to the network, or set the commit itself."
            )
        return {"commit": found or f"unresolved:{revision}"}

    def source(self, where: str, source: SourceConfig) -> dict[str, Any]:
        """The ``files`` and ``extra`` of a step that reads ``source``."""
        if source.kind is SourceKind.file:
            assert source.path is not None
            path = Path(source.path).expanduser()
            if not path.is_file():
                raise PlanError(f"{where}.path={source.path!r}: no such file (looked in {Path.cwd()}).")
            return {"files": {"source": self.hashes.of(path)}}
        if source.kind is SourceKind.hub:
            assert source.hub_id is not None and source.revision is not None
            return {"extra": self.commit(where, "dataset", source.hub_id, source.revision)}
        return {}

    def model(self, model: ModelConfig) -> Step:
        more: dict[str, Any] = {}
        if model.kind is ModelKind.hub:
            assert model.hub_id is not None and model.revision is not None
            more["extra"] = self.commit("model", "model", model.hub_id, model.revision)
        elif model.kind is ModelKind.local:
            assert model.path is not None
            folder = Path(model.path).expanduser()
            if not (folder / "config.json").is_file():
                raise PlanError(
                    f"model.path={model.path!r}: no config.json there; give a folder saved by transformers."
                )
            more["files"] = {p.name: self.hashes.of(p) for p in sorted(folder.iterdir()) if p.is_file()}
        return self.step("model", "model", model.name, model, **more)

    def rows(self, role: str, rows: RowsConfig) -> Step:
        more = self.source(f"data.{role}.source", rows.source)
        return self.step("rows", "prepare", f"{role}-{self.config.data.name}", rows, **more)


def plan(config: Config) -> Experiment:
    """The experiment's steps.

    Raises:
        PlanError: a local file is missing.
    """
    planner = _Planner(config)
    data, training = config.data, config.training
    model = planner.model(config.model)
    pool, assessment = planner.rows("pool", data.pool), planner.rows("assessment", data.assessment)
    both = {"pool": pool, "assessment": assessment}
    order = planner.step("order", "prepare", "order", data.candidates.order, inputs=both)
    candidates = planner.step(
        "candidates", "prepare", "candidates", CandidatesSize(data.candidates.size), inputs={"order": order}
    )
    benchmarks = {
        name: planner.step(
            "benchmark",
            "prepare",
            f"bench-{name}",
            task.source,
            **planner.source(f"evaluation.tasks.{name}.source", task.source),
        )
        for name, task in config.evaluation.tasks.items()
        if task.source is not None
    }
    size = _rows(data.candidates.size, data.pool)
    row_tokens = tokens_of(data.pool.expected_prompt_chars + data.pool.expected_response_chars)

    def evaluate(label: str, train: Step | None) -> dict[str, Step]:
        evaluation, made = config.evaluation, {}
        for name, task in evaluation.tasks.items():
            inputs = {"model": model, "tuned": train, "rows": benchmarks.get(name)}
            job = EvaluationJob(
                name=name, task=task, dtype=evaluation.dtype, max_length=evaluation.max_length, seed=evaluation.seed
            )
            needed = {key: step for key, step in inputs.items() if step is not None}
            tokens = min(task.limit or task.expected_items, task.expected_items) * task.expected_item_tokens
            cost = Cost(tokens, forward_flops(config.model.parameters, tokens))
            made[name] = planner.step("evaluate", "evaluate", f"{label}-{name}", job, inputs=needed, cost=cost)
        return made

    def tune(label: str, seed: int, select: Step | None, rows: float) -> Step:
        tokens = rows * min(row_tokens, training.max_length) * training.epochs
        frozen = training.tuning is Tuning.lora
        return planner.step(
            "train",
            "train",
            label,
            TrainJob(training, seed),
            inputs={"model": model, "candidates": candidates, **({"ids": select} if select else {})},
            cost=Cost(tokens, training_flops(config.model.parameters, tokens, frozen=frozen)),
            resumable=True,
        )

    arms = []
    if config.base:
        arms.append(Arm("base", None, None, None, None, evaluate("base", None)))
    if config.full:
        for seed in config.seeds:
            train = tune(f"full-s{seed}", seed, None, size)
            arms.append(Arm("full", 1.0, seed, None, train, evaluate(f"full-s{seed}", train)))
    for name, method in config.methods.items():
        if isinstance(method, IconConfig):
            scores = _icon(planner, name, method, model, order, assessment)
        else:
            scores = planner.step(method.kind, "score", name, method, inputs={"candidates": candidates})
        for fraction in config.fractions:
            part = f"{name}-f{fraction:g}"
            select = planner.step("select", "select", part, SelectConfig(fraction), inputs={"scores": scores})
            for seed in config.seeds:
                train = tune(f"{part}-s{seed}", seed, select, max(1, round(fraction * size)))
                arms.append(Arm(name, fraction, seed, select, train, evaluate(f"{part}-s{seed}", train)))
    planner.hashes.save()
    wanted = [s for arm in arms for s in (arm.select, arm.train, *arm.evaluations.values()) if s is not None]
    return Experiment(config, ordered([model, pool, assessment, candidates, *wanted]), arms, planner.warnings)


def _bound(size: int | None, rows: RowsConfig) -> int | None:
    """At most so many candidates there are; None if only the data can tell."""
    return min((n for n in (size, rows.sample) if n is not None), default=None)


def _rows(size: int | None, rows: RowsConfig) -> int:
    """As many candidates as are expected: for estimates only."""
    bound = _bound(size, rows)
    return rows.expected_rows if bound is None else min(bound, rows.expected_rows)


def _icon(planner: _Planner, name: str, icon: IconConfig, model: Step, order: Step, assessment: Step) -> Step:
    """Baseline, shards, aggregation. A shard is a slice of the pool's order: more candidates only add shards.

    Shards cover all candidates whatever number is expected: some may be empty, and without a bound the last is open.
    """
    config, icon = planner.config, resolved(icon)
    rows = config.data.assessment
    bound = _bound(config.data.candidates.size, config.data.pool)
    size = config.data.pool.expected_rows if bound is None else bound
    width = min(rows.sample or rows.expected_rows, rows.expected_rows)
    row_tokens = tokens_of(rows.expected_prompt_chars + rows.expected_response_chars)
    context = tokens_of(config.data.pool.expected_prompt_chars + config.data.pool.expected_response_chars)
    passes = 1 if icon.control is Control.none else 2

    def cost(candidates: int) -> Cost:
        tokens = passes * candidates * (context + width * row_tokens) if candidates else width * row_tokens
        return Cost(tokens, forward_flops(config.model.parameters, tokens))

    # what a step doesn't use is set to the default: another value of it leaves the step, and its hours, as they are
    default = resolved(IconConfig())
    pairs = replace(icon, epsilon=default.epsilon)
    alone = replace(
        pairs,
        control=default.control,
        noise_unit=default.noise_unit,
        skip_first_tokens=default.skip_first_tokens,
        seed=default.seed,
        separator=default.separator,
        max_context_tokens=default.max_context_tokens,
    )
    shared = {"model": model, "assessment": assessment}
    parts = {"baseline": planner.step("icon_baseline", "score", f"{name}-baseline", alone, inputs=shared, cost=cost(0))}
    count = math.ceil(size / icon.shard_candidates)
    for number in range(count):
        start = number * icon.shard_candidates
        end = min(start + icon.shard_candidates, size)
        stop = None if bound is None and number == count - 1 else end
        parts[f"shard-{number:04d}"] = planner.step(
            "icon_shard",
            "score",
            f"{name}-shard-{number:04d}",
            IconShard(pairs, start, stop),
            inputs={**shared, "order": order},
            cost=cost(end - start),
        )
    return planner.step("icon", "score", name, icon, inputs=parts)


class FileHashes:
    """sha256 of files, remembered by inode, size and times: a file that was touched is read again.

    A file changed in the last seconds isn't remembered: a second change within the clock's tick would go unseen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = read_json(path) if path.is_file() else {}
        self._changed = False

    def of(self, path: Path) -> SourceFile:
        stat = path.stat()
        key = str(path.absolute())
        state = json.dumps([stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        if key in self.known and self.known[key]["state"] == state:
            return SourceFile(key, self.known[key]["sha256"])
        digest = file_sha256(path)
        if time.time_ns() - stat.st_ctime_ns > _SETTLED_NS:
            self.known[key] = {"state": state, "sha256": digest}
            self._changed = True
        return SourceFile(key, digest)

    def save(self) -> None:
        if self._changed:
            with contextlib.suppress(OSError):  # one may plan over a work folder that can't be written
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self.known)


def resolve_revision(kind: str, hub_id: str, revision: str) -> tuple[str | None, str]:
    """The commit that a branch or tag is at: as the hub says, else as its local cache says.

    Returns:
        The commit, or None if neither knows; and why the hub didn't say.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    reason = "HF_HUB_OFFLINE is set"
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() not in {"1", "TRUE", "YES", "ON"}:
        try:
            return str(HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=10).sha), ""
        except Exception as error:  # no network, no access, no such id: the cache may still know
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type=kind) / "refs" / revision
    return (cached.read_text(encoding="utf-8").strip() if cached.is_file() else None), reason
