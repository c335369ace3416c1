"""The steps of every method but ICon: rows that all methods rank, to scores.

Steps of NLLs and embeddings bear no method's name: methods that need the same share them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.data.cost import tokens_of, training_flops
from icon_repro.data.options import ModelConfig, RowFormat
from icon_repro.data.planner import PlanError, Planner
from icon_repro.data.prompts import Template
from icon_repro.engine.artifact import Cost, Step
from icon_repro.methods.base import Shards
from icon_repro.methods.baseline_options import (
    DiversityConfig,
    IfdConfig,
    NuggetsConfig,
    NuggetsShard,
    OrderByDiversity,
    PreExperiencedConfig,
    RdsConfig,
    SelectitConfig,
    SelectitShard,
    ShareConfig,
    as_compat_says,
)
from icon_repro.methods.common.options import (
    AnswerPart,
    AnswersConfig,
    EmbeddedText,
    EmbeddingConfig,
    EmbeddingShard,
    LongRows,
    PoolingKind,
)
from icon_repro.methods.common.questions import QuestionsError, read_questions
from icon_repro.methods.options import (
    AlpagasusConfig,
    AlpagasusRatings,
    ArmormConfig,
    ArmormScores,
    ArmormShard,
    DeitaConfig,
    DeitaFilter,
    DeitaQuestion,
    DeitaShard,
    ExternalConfig,
    IdsConfig,
    LessConfig,
    PerplexityConfig,
    RewardArchitecture,
)
from icon_repro.methods.plan_less import less_scores
from icon_repro.train.options import DeepspeedConfig, TrainConfig, TrainJob, Tuning

_QUESTIONS, _QUESTION_TOKENS = 5, 30  # of SelectIT
_ALPAGASUS_TOKENS = 110  # of its question
_DEITA_TOKENS, _CHAT_TOKENS = 35, 15  # around a row in DEITA's questions and in a chat, about


class Methods(Shards):
    """Builds the steps of methods over the same rows.

    Args:
        assessment: the rows that a selection should help with.
        deepspeed: how a method's own training shares memory among its processes; None: not at all.
    """

    def __init__(
        self,
        planner: Planner,
        model: Step,
        universe: Step,
        assessment: Step,
        deepspeed: DeepspeedConfig | None = None,
    ) -> None:
        super().__init__(planner, model, universe)
        self.assessment, self.deepspeed = assessment, deepspeed

    def scores(self, name: str, method: Any) -> Step:
        """The step with the scores of ``method``."""
        method = as_compat_says(method)
        made: dict[type, Callable[[str, Any], Step]] = {
            PerplexityConfig: self._perplexity,
            IfdConfig: self._ifd,
            RdsConfig: self._rds,
            NuggetsConfig: self._nuggets,
            SelectitConfig: self._selectit,
            LessConfig: partial(less_scores, self, self.assessment),
            DeitaConfig: self._deita,
            ArmormConfig: self._armorm,
            AlpagasusConfig: self._alpagasus,
            ExternalConfig: self._external,
            IdsConfig: self._ids,
        }
        if type(method) in made:
            return made[type(method)](name, method)
        return self.planner.step(method.kind, "score", name, method, inputs={"candidates": self.universe})

    def _perplexity(self, name: str, method: PerplexityConfig) -> Step:
        answers = AnswersConfig([method.text], method.template, "", method.max_length, method.dtype)
        shards = self.answers(answers, self.planner.config.model, self.model, method.shard_rows)
        # what only the shards use is set to the default: another value of it is in their fingerprints
        own = PerplexityConfig(best=method.best, text=method.text)
        return self.planner.step("perplexity", "score", name, own, inputs=shards)

    def _ifd(self, name: str, method: IfdConfig) -> Step:
        parts = [AnswerPart.conditioned, AnswerPart.direct]
        assert method.long_rows is not None and method.tokenise is not None
        answers = AnswersConfig(
            parts,
            method.template,
            method.direct,
            method.max_length,
            method.dtype,
            method.long_rows,
            method.tokenise,
            method.direct_room if method.long_rows is LongRows.cut else None,
        )
        model, config = self.model, self.planner.config.model
        if method.proxy is not None:
            model, config = self.planner.model(method.proxy, f"methods.{name}.proxy"), method.proxy
        tuned = None
        if method.pre_experienced is not None:
            tuned = self._pre_experienced(name, method, method.pre_experienced, config, model)
        shards = self.answers(answers, config, model, method.shard_rows, tuned)
        only = IfdConfig(
            ratio=method.ratio, drop_above_one=method.drop_above_one, drop_one=method.drop_one and method.drop_above_one
        )
        own = as_compat_says(only)
        if method.diversity is None:
            return self.planner.step("ifd", "score", name, own, inputs=shards)
        scores = self.planner.step("ifd", "score", f"{name}-ifd", own, inputs=shards)
        return self._diverse(name, method, method.diversity, scores, tuned)

    def _pre_experienced(
        self, name: str, method: IfdConfig, experience: PreExperiencedConfig, config: ModelConfig, model: Step
    ) -> Step:
        """The training that gives IFD's model its brief experience."""
        prompts = AnswersConfig([AnswerPart.prompt], method.template, "", experience.prompt_tokens, method.dtype)
        embedding = EmbeddingConfig(
            EmbeddedText.prompt,
            PoolingKind.mean,
            method.template,
            normalise=False,
            max_length=experience.prompt_tokens,
            dtype=method.dtype,
        )
        scored = self.answers(prompts, config, model, method.shard_rows)
        inputs = self.embeddings(embedding, method.shard_rows, method.proxy, f"methods.{name}.proxy")
        inputs |= {label.replace("shard", "prompt"): step for label, step in scored.items()}
        chosen = self.step("pre_experienced", f"experience-{config.name}-rows", experience.choice, inputs)
        training = TrainConfig(
            experience.tuning,
            experience.learning_rate,
            epochs=experience.epochs,
            global_batch_size=experience.global_batch_size,
            max_length=experience.max_length,
            dtype=experience.dtype,
            lora=experience.lora,
            deepspeed=self.deepspeed if experience.tuning is Tuning.full else None,
        )
        rows = min(experience.choice.clusters * experience.choice.per_cluster, self.planner.expected(self.whole))
        tokens = rows * min(self.row_tokens, experience.max_length) * experience.epochs
        frozen = experience.tuning is Tuning.lora
        return self.planner.step(
            "train",
            "score",
            f"experience-{config.name}-training",
            TrainJob(training, experience.seed),
            inputs={"model": model, "candidates": self.universe, "ids": chosen},
            cost=Cost(tokens, training_flops(config.parameters, tokens, frozen=frozen)),
            resumable=True,
        )

    def _diverse(
        self, name: str, method: IfdConfig, diversity: DiversityConfig, scores: Step, tuned: Step | None
    ) -> Step:
        """The best rows of ``scores``, those first that represent the others."""
        best = self.step(
            "ifd_share", f"{name}-share", ShareConfig(diversity.share), {"scores": scores, "candidates": self.universe}
        )
        embedding = EmbeddingConfig(
            EmbeddedText.row,
            PoolingKind.mean,
            method.template,
            max_length=diversity.max_length,
            dtype=method.dtype,
            encoder=diversity.encoder,
        )
        config, where = diversity.model, f"methods.{name}.diversity.model"
        if config is None:
            config, where = method.proxy, f"methods.{name}.proxy"
        else:
            tuned = None
        vectors = self.embeddings(
            embedding, method.shard_rows, config, where, rows=best, share=diversity.share, tuned=tuned
        )
        order = OrderByDiversity(diversity.max_gib)
        return self.planner.step("ifd_diversity", "score", name, order, inputs={"scores": scores, **vectors})

    def _rds(self, name: str, method: RdsConfig) -> Step:
        embedding = EmbeddingConfig(
            EmbeddedText.row, PoolingKind.weighted, method.template, max_length=method.max_length, dtype=method.dtype
        )
        data = self.planner.config.data.assessment
        length = tokens_of(data.expected_prompt_chars + data.expected_response_chars)
        # queries stand in the template that the rows stand in: a similarity of two formats shows the formats
        asked = method.query_template or method.template
        if asked is Template.as_is and data.source.format is RowFormat.prompt_response:
            queries = embedding  # ready prompts stay as they stand; so steps of earlier versions are used
        else:
            wrap = asked is not Template.as_is and not self.ready
            queries = replace(embedding, template=asked, wrap=wrap)
        query = self.step(
            "embeddings",
            "embeddings-queries",
            EmbeddingShard(queries, 0, None),
            {"model": self.model, "rows": self.assessment},
            self.planner.assessment() * min(length, method.max_length),
        )
        inputs = {**self.embeddings(embedding, method.shard_rows), "query-0000": query}
        return self.planner.step("rds", "score", name, RdsConfig(turn=method.turn, ties=method.ties), inputs=inputs)

    def _nuggets(self, name: str, method: NuggetsConfig) -> Step:
        inputs = {"model": self.model, "candidates": self.universe, "anchors": self._anchors(name, method)}
        default = as_compat_says(NuggetsConfig())
        own = replace(method, anchors=default.anchors, shard_rows=1, max_length=default.max_length)
        assert method.shot_tokens is not None
        shot = min(self.row_tokens, method.shot_tokens or self.row_tokens)
        anchor = min(self.row_tokens, method.anchor_tokens)
        parts = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(method.shard_rows, self.whole)):
            tokens = (end - first) * (shot + method.anchors.count * anchor)
            label = f"part-{number:04d}"
            parts[label] = self.step("nuggets_shard", f"{name}-{label}", NuggetsShard(own, first, stop), inputs, tokens)
        return self.planner.step("nuggets", "score", name, default, inputs=parts)

    def _anchors(self, name: str, method: NuggetsConfig) -> Step:
        """The rows that others are shown before: those of a file, or the nearest to the centres of clusters."""
        where = f"methods.{name}.anchors.ids"
        if method.anchors.ids is not None:
            own = as_compat_says(NuggetsConfig()).anchors
            files = {"anchors": self.planner.file(where, method.anchors.ids)}
            return self.step("nuggets_anchors", f"{name}-anchors", own, {"candidates": self.universe}, files=files)
        embedding = EmbeddingConfig(
            EmbeddedText.row,
            PoolingKind.padded if method.anchors.padding else PoolingKind.mean,
            method.template,
            normalise=False,
            max_length=method.max_length,
            dtype=method.dtype,
            strip=bool(method.strip),
        )
        inputs = {"candidates": self.universe, **self.embeddings(embedding, 2048)}
        # where the vectors come from is in their fingerprints
        return self.step("nuggets_anchors", f"{name}-anchors", replace(method.anchors, padding=False), inputs)

    def _selectit(self, name: str, method: SelectitConfig) -> Step:
        own = replace(method, alpha=0.0, shard_rows=1)
        files = {}
        if method.questions is not None:
            files["questions"] = self.planner.file(f"methods.{name}.questions", method.questions)
            try:
                read_questions(Path(method.questions).expanduser())
            except QuestionsError as error:
                raise PlanError(f"methods.{name}.questions: {error}") from error
        inputs = {"model": self.model, "candidates": self.universe}
        parts = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(method.shard_rows, self.whole)):
            tokens = (end - first) * _QUESTIONS * (self.row_tokens + _QUESTION_TOKENS)
            label = f"part-{number:04d}"
            params = SelectitShard(own, first, stop)
            parts[label] = self.step("selectit_shard", f"{name}-{label}", params, inputs, tokens, files=files)
        own = as_compat_says(SelectitConfig(alpha=method.alpha))
        return self.planner.step("selectit", "score", name, own, inputs=parts)

    def _deita(self, name: str, method: DeitaConfig) -> Step:
        embedding = EmbeddingConfig(
            EmbeddedText.row, PoolingKind.last, method.template, max_length=method.max_length, dtype=method.dtype
        )
        inputs = self.embeddings(embedding, method.shard_rows, method.embedding, f"methods.{name}.embedding")
        scorers = {
            DeitaQuestion.complexity: (method.complexity, self.prompt_tokens),
            DeitaQuestion.quality: (method.quality, self.row_tokens),
        }
        for question, (config, row_tokens) in scorers.items():
            model = self.planner.model(config, f"methods.{name}.{question.value}")
            both = {"model": model, "candidates": self.universe}
            for number, (first, end, stop) in enumerate(self.planner.slices(method.shard_rows, self.whole)):
                tokens = (end - first) * min(row_tokens + _DEITA_TOKENS, method.max_length)
                label = f"{question.value}-{number:04d}"
                params = DeitaShard(question, method.max_length, method.dtype, first, stop)
                inputs[label] = self.step("deita_shard", f"{name}-{label}", params, both, tokens, config)
        return self.planner.step("deita", "score", name, DeitaFilter(method.threshold), inputs=inputs)

    def _armorm(self, name: str, method: ArmormConfig) -> Step:
        model = self.planner.model(method.reward, f"methods.{name}.reward")
        end_of_prompt = method.prompt_end if method.architecture is RewardArchitecture.armorm else ""
        parts = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(method.shard_rows, self.whole)):
            tokens = (end - first) * min(self.row_tokens + _CHAT_TOKENS, method.max_length)
            label = f"part-{number:04d}"
            params = ArmormShard(method.architecture, end_of_prompt, method.max_length, method.dtype, first, stop)
            both = {"model": model, "candidates": self.universe}
            parts[label] = self.step("armorm_shard", f"{name}-{label}", params, both, tokens, method.reward)
        return self.planner.step("armorm", "score", name, ArmormScores(), inputs=parts)

    def _alpagasus(self, name: str, method: AlpagasusConfig) -> Step:
        inputs, files = {"candidates": self.universe}, {}
        if method.endpoint is not None:
            rows = self.planner.expected(self.whole)
            tokens = rows * (self.row_tokens + _ALPAGASUS_TOKENS + method.endpoint.max_tokens)
            inputs["ratings"] = self.planner.step(
                "alpagasus_ratings",
                "score",
                f"{name}-ratings",
                AlpagasusRatings(method.endpoint),
                inputs=dict(inputs),
                cost=Cost(tokens, 0.0),  # at most; what the endpoint computes isn't known
                resumable=True,
            )
        else:
            assert method.ratings is not None
            files["ratings"] = self.planner.file(f"methods.{name}.ratings", method.ratings)
        own = AlpagasusConfig(ties_seed=method.ties_seed)
        return self.planner.step("alpagasus", "score", name, own, inputs=inputs, files=files)

    def _external(self, name: str, method: ExternalConfig) -> Step:
        inputs = {"model": self.model, "candidates": self.universe, "assessment": self.assessment}
        files = {"method": self.planner.file(f"methods.{name}.path", method.path)}
        return self.planner.step("external", "score", name, method, inputs=inputs, files=files)

    def _ids(self, name: str, method: IdsConfig) -> Step:
        files = {"ids": self.planner.file(f"methods.{name}.path", method.path)}
        return self.planner.step("ids", "score", name, method, inputs={"candidates": self.universe}, files=files)
