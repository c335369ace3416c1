"""Instruction-following difficulty (IFD): the loss of a response with its prompt over the loss without it.

In: shards of ``methods.common.answers``.  Out: scores.jsonl {id, score, parts: conditioned, direct (NLL, nats)}.
Source: Li et al., arXiv 2308.12032, and its code (Cherry_LLM, 01fac8d): ratio of mean losses, direct after the bare
"### Response:", rows above 1 dropped. With ``ratio=perplexity`` and a small proxy model: Superfiltering, arXiv
2402.00530 (f0764af).
Differs: both codes tokenise prompt and response as one text (``tokenise``), cut rows longer than max_length and keep
them (``long_rows``, ``direct_room``); Superfiltering's keeps what lies below 1 strictly (``drop_one``).
``compat=published`` sets them all.
The model may have had a brief experience first (``pre_experienced``); ``diversity`` orders the best rows anew.
Known gap: none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.cost import training_flops
from icon_repro.data.options import Dtype, ModelConfig
from icon_repro.data.rows import Score
from icon_repro.engine.artifact import Cost, Step
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.base import Build, Method, Setting
from icon_repro.methods.common.answers import joined, scored
from icon_repro.methods.common.options import (
    AnswerPart,
    AnswersConfig,
    Baseline,
    EmbeddedText,
    EmbeddingConfig,
    LongRows,
    PoolingKind,
    Tokenise,
    filled,
)
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.ifd import diversity as by_diversity
from icon_repro.methods.ifd import pre_experienced
from icon_repro.methods.ifd.options import (
    DiversityConfig,
    IfdConfig,
    OrderByDiversity,
    PreExperiencedConfig,
    Ratio,
    ShareConfig,
)
from icon_repro.train.options import TrainConfig, TrainJob, Tuning, batch_problems


def as_compat_says(options: IfdConfig) -> IfdConfig:
    """``options`` with every option that ``compat`` decides filled in."""
    published = options.compat is Baseline.published
    return filled(
        options,
        long_rows=LongRows.cut if published else LongRows.drop,
        tokenise=Tokenise.joint if published else Tokenise.separate,
        direct_room={Ratio.loss: 4, Ratio.perplexity: 1}[options.ratio] if published else None,
        drop_one=published and options.ratio is Ratio.perplexity,
    )


def plan(build: Build, name: str, options: IfdConfig) -> Step:
    """NLLs in shards, under a model that may have been tuned on some rows first; scores; an order by diversity."""
    options = as_compat_says(options)
    assert options.long_rows is not None and options.tokenise is not None
    answers = AnswersConfig(
        [AnswerPart.conditioned, AnswerPart.direct],
        options.template,
        options.direct,
        options.max_length,
        options.dtype,
        options.long_rows,
        options.tokenise,
        options.direct_room if options.long_rows is LongRows.cut else None,
    )
    model, config = build.model, build.planner.config.model
    if options.proxy is not None:
        model, config = build.planner.model(options.proxy, f"methods.{name}.proxy"), options.proxy
    tuned = None
    if options.pre_experienced is not None:
        tuned = _experience(build, name, options, options.pre_experienced, config, model)
    shards = build.answers(answers, config, model, options.shard_rows, tuned)
    drop_one = options.drop_one and options.drop_above_one
    used = as_compat_says(IfdConfig(ratio=options.ratio, drop_above_one=options.drop_above_one, drop_one=drop_one))
    if options.diversity is None:
        return build.step(run, name, used, shards)
    scores = build.step(run, f"{name}-ifd", used, shards)
    return _diverse(build, name, options, options.diversity, scores, tuned)


def _experience(
    build: Build, name: str, options: IfdConfig, experience: PreExperiencedConfig, config: ModelConfig, model: Step
) -> Step:
    """The training that gives IFD's model its brief experience."""
    prompts = AnswersConfig([AnswerPart.prompt], options.template, "", experience.prompt_tokens, options.dtype)
    embedding = EmbeddingConfig(
        EmbeddedText.prompt,
        PoolingKind.mean,
        options.template,
        normalise=False,
        max_length=experience.prompt_tokens,
        dtype=options.dtype,
    )
    scored = build.answers(prompts, config, model, options.shard_rows)
    inputs = build.embeddings(embedding, options.shard_rows, options.proxy, f"methods.{name}.proxy")
    inputs |= {label.replace("shard", "prompt"): step for label, step in scored.items()}
    chosen = build.step(pre_experienced.run, f"experience-{config.name}-rows", experience.choice, inputs)
    training = TrainConfig(
        experience.tuning,
        experience.learning_rate,
        epochs=experience.epochs,
        global_batch_size=experience.global_batch_size,
        max_length=experience.max_length,
        dtype=experience.dtype,
        save_dtype=experience.dtype if experience.tuning is Tuning.full else Dtype.float32,
        lora=experience.lora,
        deepspeed=build.training.deepspeed if experience.tuning is Tuning.full else None,
    )
    rows = min(experience.choice.clusters * experience.choice.per_cluster, build.rows)
    tokens = rows * min(build.row_tokens, experience.max_length) * experience.epochs
    frozen = experience.tuning is Tuning.lora
    return build.planner.step(
        "train",
        "score",
        f"experience-{config.name}-training",
        TrainJob(training, experience.seed),
        inputs={"model": model, "candidates": build.universe, "ids": chosen},
        cost=Cost(tokens, training_flops(config.parameters, tokens, frozen=frozen)),
        resumable=True,
    )


def _diverse(
    build: Build, name: str, options: IfdConfig, diversity: DiversityConfig, scores: Step, tuned: Step | None
) -> Step:
    """The best rows of ``scores``, those first that represent the others."""
    rows = {"scores": scores, "candidates": build.universe}
    best = build.step(by_diversity.share, f"{name}-share", ShareConfig(diversity.share), rows)
    embedding = EmbeddingConfig(
        EmbeddedText.row,
        PoolingKind.mean,
        options.template,
        max_length=diversity.max_length,
        dtype=options.dtype,
        encoder=diversity.encoder,
    )
    config, where = diversity.model, f"methods.{name}.diversity.model"
    if config is None:
        config, where = options.proxy, f"methods.{name}.proxy"
    else:
        tuned = None
    vectors = build.embeddings(
        embedding, options.shard_rows, config, where, rows=best, share=diversity.share, tuned=tuned
    )
    return build.step(by_diversity.run, name, OrderByDiversity(diversity.max_gib), {"scores": scores, **vectors})


def problems(where: str, options: IfdConfig, setting: Setting) -> list[str]:
    """Problems of IFD's brief experience and of its diversity."""
    texts = []
    if (experience := options.pre_experienced) is not None:
        where_pre, choice = f"{where}.pre_experienced", experience.choice
        if choice.low_percentile >= choice.high_percentile:
            texts.append(
                f"{where_pre}.choice.low_percentile={choice.low_percentile:g}: must be below "
                f"high_percentile={choice.high_percentile:g}."
            )
        texts += batch_problems(where_pre, experience.global_batch_size, setting.cluster)
        if experience.dtype is Dtype.float16:
            texts.append(f"{where_pre}.dtype='float16': needs loss scaling, which isn't built; use bfloat16.")
    if options.diversity is not None and options.diversity.encoder and options.diversity.model is None:
        texts.append(f"{where}.diversity.encoder=true: needs diversity.model; IFD's own model isn't an encoder.")
    return texts


def meaning(options: IfdConfig) -> str:
    if options.diversity is None:
        return "loss of the response with its prompt over its loss without (IFD)"
    return "place in an order of the rows with the best IFD in which each next row represents the others best, negative"


def run(cfg: IfdConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs an input a shard."""
    answers = joined(inputs, [AnswerPart.conditioned, AnswerPart.direct])
    conditioned, direct = answers.parts[AnswerPart.conditioned], answers.parts[AnswerPart.direct]

    def score(place: int) -> Score | str:
        with_prompt, without = float(conditioned[place]), float(direct[place])
        if cfg.ratio is Ratio.perplexity:
            value = float(np.exp(with_prompt - without))
        elif without > 0:
            value = with_prompt / without
        else:
            return "the response is certain without its prompt"
        if cfg.drop_above_one and value > 1:
            return "IFD above 1"
        if cfg.drop_above_one and cfg.drop_one and value == 1:
            return "IFD of 1"
        return Score(answers.ids[place], value, {"conditioned": with_prompt, "direct": without})

    return {**write_scores(out, *scored(answers, score)), "tokens": 0, "flops": 0}


METHOD = Method(IfdConfig, plan, meaning, problems)
