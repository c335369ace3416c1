"""Steps of NLLs and embeddings over the rows that all methods rank, in shards.

They bear no method's name: methods that need the same share them.
"""

from collections.abc import Mapping
from typing import Any

from icon_repro.data.cost import forward_flops, tokens_of
from icon_repro.data.options import ModelConfig, RowFormat
from icon_repro.data.planner import Planner
from icon_repro.engine.artifact import Cost, SourceFile, Step
from icon_repro.methods.common.options import (
    AnswerPart,
    AnswersConfig,
    AnswersShard,
    EmbeddedText,
    EmbeddingConfig,
    EmbeddingShard,
)

# of a row's tokens, about
_PASSES = {AnswerPart.conditioned: 1.0, AnswerPart.direct: 0.8, AnswerPart.whole: 1.0, AnswerPart.prompt: 0.4}


class Shards:
    """Builds steps over the same rows.

    Args:
        model: the one that is tuned.
        universe: the rows that all methods rank.
    """

    def __init__(self, planner: Planner, model: Step, universe: Step) -> None:
        self.planner, self.model, self.universe, self.whole = planner, model, universe, planner.whole
        rows = planner.config.data.selected_from if self.whole else planner.config.data.pool
        self.row_tokens = tokens_of(rows.expected_prompt_chars + rows.expected_response_chars)
        self.ready = rows.source.format is RowFormat.prompt_response  # tuning takes their prompts as they stand
        self.prompt_tokens = tokens_of(rows.expected_prompt_chars)

    def step(
        self,
        target: str,
        name: str,
        params: Any,
        inputs: Mapping[str, Step],
        tokens: float = 0.0,
        model: ModelConfig | None = None,
        files: Mapping[str, SourceFile] | None = None,
    ) -> Step:
        """A step whose cost is that of a forward pass: of ``model``, or of the one that is tuned (None)."""
        parameters = (model or self.planner.config.model).parameters
        cost = Cost(tokens, forward_flops(parameters, tokens))
        return self.planner.step(target, "score", name, params, inputs=inputs, cost=cost, files=files or {})

    def answers(
        self, answers: AnswersConfig, config: ModelConfig, model: Step, size: int, tuned: Step | None = None
    ) -> dict[str, Step]:
        """Shards of NLLs over all rows, under a model or what a training made of it."""
        passes = sum(_PASSES[part] for part in answers.parts)
        owner = config.name if tuned is None else f"{config.name}-tuned"
        label = f"answers-{owner}-{'-'.join(part.value for part in answers.parts)}"
        inputs = {"model": model, "candidates": self.universe, **({"tuned": tuned} if tuned else {})}
        made = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole)):
            tokens = (end - first) * min(self.row_tokens, answers.max_length) * passes
            params = AnswersShard(answers, first, stop)
            made[f"shard-{number:04d}"] = self.step("answers", f"{label}-{number:04d}", params, inputs, tokens, config)
        return made

    def embeddings(
        self,
        embedding: EmbeddingConfig,
        size: int,
        config: ModelConfig | None = None,
        where: str = "",
        *,
        tuned: Step | None = None,
        rows: Step | None = None,
        share: float = 1.0,
    ) -> dict[str, Step]:
        """Shards of vectors over all rows, of the model that is tuned or of ``config``, named by its key ``where``.

        Args:
            tuned: the training that the model comes from.
            rows: in place of all rows; as many as ``share`` selects of them.
        """
        model = self.model if config is None else self.planner.model(config, where)
        owner = "" if config is None else f"{config.name}-"
        owner += "tuned-" if tuned else ""
        owner += "prompts-" if embedding.text is EmbeddedText.prompt else "share-" if rows else ""
        length = self.prompt_tokens if embedding.text is EmbeddedText.prompt else self.row_tokens
        inputs = {"model": model, "rows": rows or self.universe, **({"tuned": tuned} if tuned else {})}
        made = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole, share=share)):
            tokens = (end - first) * min(length, embedding.max_length)
            name = f"embeddings-{owner}{embedding.pooling.value}-{number:04d}"
            params = EmbeddingShard(embedding, first, stop)
            made[f"shard-{number:04d}"] = self.step("embeddings", name, params, inputs, tokens, config)
        return made
