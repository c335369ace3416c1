"""The steps of every method but ICon: rows that all methods rank, to scores.

Steps of NLLs and embeddings bear no method's name: methods that need the same share them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icon_repro.config_data import ModelConfig, TrainConfig, TrainJob, Tuning
from icon_repro.config_methods import (
    AnswerPart,
    AnswersConfig,
    AnswersShard,
    Direction,
    EmbeddedText,
    EmbeddingConfig,
    EmbeddingShard,
    ExternalConfig,
    IfdConfig,
    LessConfig,
    LessShard,
    NuggetsConfig,
    NuggetsShard,
    PerplexityConfig,
    PoolingKind,
    RandomConfig,
    RdsConfig,
    SelectConfig,
    SelectitConfig,
    SelectitShard,
)
from icon_repro.cost import forward_flops, tokens_of, training_flops
from icon_repro.engine.artifact import Cost, Step
from icon_repro.engine.planner import PlanError, Planner

_PASSES = {AnswerPart.conditioned: 1.0, AnswerPart.direct: 0.8, AnswerPart.whole: 1.0}  # of a row's tokens, about
_QUESTIONS, _QUESTION_TOKENS = 5, 30  # of SelectIT


class Methods:
    """Builds the steps of methods over the same rows.

    Args:
        universe: the rows that all methods rank.
        whole: they are the pool, not the candidates.
    """

    def __init__(self, planner: Planner, model: Step, universe: Step, assessment: Step, *, whole: bool) -> None:
        self.planner, self.model, self.universe, self.assessment = planner, model, universe, assessment
        self.whole = whole
        data = planner.config.data
        self.row_tokens = tokens_of(data.pool.expected_prompt_chars + data.pool.expected_response_chars)

    def scores(self, name: str, method: Any) -> Step:
        """The step with the scores of ``method``."""
        made: dict[type, Callable[[str, Any], Step]] = {
            PerplexityConfig: self._perplexity,
            IfdConfig: self._ifd,
            RdsConfig: self._rds,
            NuggetsConfig: self._nuggets,
            SelectitConfig: self._selectit,
            LessConfig: self._less,
            ExternalConfig: self._external,
        }
        if type(method) in made:
            return made[type(method)](name, method)
        return self.planner.step(method.kind, "score", name, method, inputs={"candidates": self.universe})

    def _perplexity(self, name: str, method: PerplexityConfig) -> Step:
        answers = AnswersConfig([method.text], method.template, "", method.max_length, method.dtype)
        shards = self._answers(answers, self.planner.config.model, self.model, method.shard_rows)
        # what only the shards use is set to the default: another value of it is in their fingerprints
        own = PerplexityConfig(best=method.best, text=method.text)
        return self.planner.step("perplexity", "score", name, own, inputs=shards)

    def _ifd(self, name: str, method: IfdConfig) -> Step:
        parts = [AnswerPart.conditioned, AnswerPart.direct]
        answers = AnswersConfig(parts, method.template, method.direct, method.max_length, method.dtype)
        model, config = self.model, self.planner.config.model
        if method.proxy is not None:
            model, config = self.planner.model(method.proxy), method.proxy
        shards = self._answers(answers, config, model, method.shard_rows)
        own = IfdConfig(ratio=method.ratio, drop_above_one=method.drop_above_one)
        return self.planner.step("ifd", "score", name, own, inputs=shards)

    def _rds(self, name: str, method: RdsConfig) -> Step:
        embedding = EmbeddingConfig(
            EmbeddedText.row, PoolingKind.weighted, method.template, max_length=method.max_length, dtype=method.dtype
        )
        data = self.planner.config.data.assessment
        length = tokens_of(data.expected_prompt_chars + data.expected_response_chars)
        query = self._step(
            "embeddings",
            "embeddings-queries",
            EmbeddingShard(embedding, 0, None),
            {"model": self.model, "rows": self.assessment},
            self.planner.assessment() * min(length, method.max_length),
        )
        inputs = {**self._embeddings(embedding, method.shard_rows), "query-0000": query}
        return self.planner.step("rds", "score", name, RdsConfig(), inputs=inputs)

    def _nuggets(self, name: str, method: NuggetsConfig) -> Step:
        embedding = EmbeddingConfig(
            EmbeddedText.row,
            PoolingKind.mean,
            method.template,
            normalise=False,
            max_length=method.max_length,
            dtype=method.dtype,
        )
        vectors = self._embeddings(embedding, 2048)
        anchors = self._step(
            "nuggets_anchors", f"{name}-anchors", method.anchors, {"candidates": self.universe, **vectors}
        )
        inputs = {"model": self.model, "candidates": self.universe, "anchors": anchors}
        own = replace(method, anchors=NuggetsConfig().anchors, shard_rows=1, max_length=NuggetsConfig().max_length)
        anchor = min(self.row_tokens, method.anchor_tokens)
        parts = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(method.shard_rows, self.whole)):
            tokens = (end - first) * (min(self.row_tokens, method.shot_tokens) + method.anchors.count * anchor)
            label = f"part-{number:04d}"
            parts[label] = self._step(
                "nuggets_shard", f"{name}-{label}", NuggetsShard(own, first, stop), inputs, tokens
            )
        return self.planner.step("nuggets", "score", name, NuggetsConfig(), inputs=parts)

    def _selectit(self, name: str, method: SelectitConfig) -> Step:
        own = replace(method, alpha=0.0, shard_rows=1)
        inputs = {"model": self.model, "candidates": self.universe}
        parts = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(method.shard_rows, self.whole)):
            tokens = (end - first) * _QUESTIONS * (self.row_tokens + _QUESTION_TOKENS)
            label = f"part-{number:04d}"
            params = SelectitShard(own, first, stop)
            parts[label] = self._step("selectit_shard", f"{name}-{label}", params, inputs, tokens)
        return self.planner.step("selectit", "score", name, SelectitConfig(alpha=method.alpha), inputs=parts)

    def _less(self, name: str, method: LessConfig) -> Step:
        planner, parameters = self.planner, self.planner.config.model.parameters
        ranked = planner.step(
            "random",
            "score",
            f"{name}-warmup",
            RandomConfig(seed=method.warmup_seed),
            inputs={"candidates": self.universe},
        )
        chosen = planner.step(
            "select",
            "select",
            f"{name}-warmup",
            SelectConfig(method.warmup_fraction),
            inputs={"scores": ranked, "universe": self.universe},
        )
        training = TrainConfig(
            Tuning.lora,
            method.learning_rate,
            epochs=float(method.epochs),
            global_batch_size=method.global_batch_size,
            max_length=method.max_length,
            dtype=method.dtype,
            lora=method.lora,
            keep_epochs=True,
        )
        length = min(self.row_tokens, method.max_length)
        tokens = planner.expected(self.whole) * method.warmup_fraction * length * method.epochs
        warmup = planner.step(
            "train",
            "score",
            f"{name}-warmup-training",
            TrainJob(training, method.warmup_seed),
            inputs={"model": self.model, "candidates": self.universe, "ids": chosen},
            cost=Cost(tokens, training_flops(parameters, tokens, frozen=True)),
            resumable=True,
        )
        own = replace(
            method, warmup_fraction=1.0, warmup_seed=0, epochs=1, learning_rate=1.0, global_batch_size=1, shard_rows=1
        )
        data = planner.config.data.assessment
        row = min(tokens_of(data.expected_prompt_chars + data.expected_response_chars), method.max_length)
        steps: dict[str, Step] = {"warmup": warmup, "assessment": self.assessment}
        for epoch in range(1, method.epochs + 1):
            both = {"model": self.model, "warmup": warmup}
            parts: list[tuple[str, Direction, int, int | None, Step, float]] = [
                ("target-0000", Direction.sgd, 0, None, self.assessment, planner.assessment() * row)
            ]
            for number, (first, end, stop) in enumerate(planner.slices(method.shard_rows, self.whole)):
                label = f"shard-{number:04d}"
                parts.append((label, Direction.adam, first, stop, self.universe, (end - first) * length))
            for label, direction, first, stop, rows, count in parts:
                steps[f"epoch{epoch}-{label}"] = planner.step(
                    "less_shard",
                    "score",
                    f"{name}-epoch{epoch}-{label}",
                    LessShard(own, direction, epoch, first, stop),
                    inputs={**both, "rows": rows},
                    cost=Cost(count, training_flops(parameters, count, frozen=True)),
                )
        final = LessConfig(epochs=method.epochs, dimensions=method.dimensions)
        return planner.step("less", "score", name, final, inputs=steps)

    def _external(self, name: str, method: ExternalConfig) -> Step:
        path = Path(method.path).expanduser()
        if not path.is_file():
            raise PlanError(f"methods.{name}.path={method.path!r}: no such file (looked in {Path.cwd()}).")
        inputs = {"model": self.model, "candidates": self.universe, "assessment": self.assessment}
        files = {"method": self.planner.hashes.of(path)}
        return self.planner.step("external", "score", name, method, inputs=inputs, files=files)

    def _step(
        self,
        target: str,
        name: str,
        params: Any,
        inputs: Mapping[str, Step],
        tokens: float = 0.0,
        model: ModelConfig | None = None,
    ) -> Step:
        parameters = (model or self.planner.config.model).parameters
        cost = Cost(tokens, forward_flops(parameters, tokens))
        return self.planner.step(target, "score", name, params, inputs=inputs, cost=cost)

    def _answers(self, answers: AnswersConfig, config: ModelConfig, model: Step, size: int) -> dict[str, Step]:
        """Shards of NLLs over all rows."""
        passes = sum(_PASSES[part] for part in answers.parts)
        label = f"answers-{config.name}-{'-'.join(part.value for part in answers.parts)}"
        inputs = {"model": model, "candidates": self.universe}
        made = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole)):
            tokens = (end - first) * min(self.row_tokens, answers.max_length) * passes
            params = AnswersShard(answers, first, stop)
            made[f"shard-{number:04d}"] = self._step("answers", f"{label}-{number:04d}", params, inputs, tokens, config)
        return made

    def _embeddings(self, embedding: EmbeddingConfig, size: int) -> dict[str, Step]:
        """Shards of vectors over all rows."""
        inputs = {"model": self.model, "rows": self.universe}
        made = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole)):
            tokens = (end - first) * min(self.row_tokens, embedding.max_length)
            name = f"embeddings-{embedding.pooling.value}-{number:04d}"
            params = EmbeddingShard(embedding, first, stop)
            made[f"shard-{number:04d}"] = self._step("embeddings", name, params, inputs, tokens)
        return made
