"""RDS+: rows that lie near the assessment rows in the model's hidden states, the queries taking turns.

In: embeddings of the rows and of the assessment set (the queries).  Out: scores.jsonl; the score is the place in the
order in which rows are taken, negative; parts: ``similarity``, the largest cosine to a query.
Source: Ivison et al., arXiv 2503.01807 (RDS+): last hidden layer of prompt and response, weights i / sum, cosine; each
query in turn takes the row that is nearest to it among those left.
Differs: the prompt's template is the one of tuning, not a chat format, for rows and queries alike (``query_template``);
a query whose nearest row is taken takes its next one, where the published code passes on to the next query (``turn``);
ties go to the smaller id, there to the earlier row (``ties``). ``compat=published`` sets the three. The order goes on
until all rows are taken, so that selections of all fractions are nested.
Known gap: all similarities are held in memory, rows x queries x 8 bytes.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.cost import tokens_of
from icon_repro.data.options import Dtype, RowFormat
from icon_repro.data.prompts import Template
from icon_repro.data.rows import Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number
from icon_repro.methods.base import Build, Method
from icon_repro.methods.common import embeddings
from icon_repro.methods.common.embeddings import joined
from icon_repro.methods.common.options import (
    Baseline,
    EmbeddedText,
    EmbeddingConfig,
    EmbeddingShard,
    PoolingKind,
    RowOrder,
    filled,
)
from icon_repro.methods.common.outcome import write_scores


class Turn(enum.Enum):
    """What a query does whose nearest row is taken."""

    next = "next"  # it takes its next one
    lose = "lose"  # it waits for its next turn


@dataclass
class RdsConfig:
    """RDS+ (arXiv 2503.01807): nearest to the assessment rows in hidden states, the queries taking turns.

    ``compat`` sets the options after it that are left null.
    """

    kind: str = "rds"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    turn: Turn | None = field(default=None, metadata={"legacy": Turn.next})  # published: lose
    ties: RowOrder | None = field(default=None, metadata={"legacy": RowOrder.id})  # published: file
    # None: that of the rows, into which ready prompts go too; published: as_is
    query_template: Template | None = field(default=None, metadata={"hash": False})  # in the queries' embeddings
    template: Template = Template.alpaca
    max_length: int = number(2048, at_least=8)
    dtype: Dtype = Dtype.float32  # of the weights
    shard_rows: int = number(2048, at_least=1)


def as_compat_says(options: RdsConfig) -> RdsConfig:
    """``options`` with every option that ``compat`` decides filled in."""
    published = options.compat is Baseline.published
    return filled(
        options,
        turn=Turn.lose if published else Turn.next,
        ties=RowOrder.file if published else RowOrder.id,
        query_template=Template.as_is if published else None,
    )


def plan(build: Build, name: str, options: RdsConfig) -> Step:
    """Embeddings of rows and queries, then the order."""
    options = as_compat_says(options)
    embedding = EmbeddingConfig(
        EmbeddedText.row, PoolingKind.weighted, options.template, max_length=options.max_length, dtype=options.dtype
    )
    data = build.planner.config.data.assessment
    length = tokens_of(data.expected_prompt_chars + data.expected_response_chars)
    # queries stand in the template that the rows stand in: a similarity of two formats shows the formats
    asked = options.query_template or options.template
    if asked is Template.as_is and data.source.format is RowFormat.prompt_response:
        queries = embedding  # ready prompts stay as they stand; so steps of earlier versions are used
    else:
        wrap = asked is not Template.as_is and not build.ready
        queries = replace(embedding, template=asked, wrap=wrap)
    query = build.step(
        embeddings.shard,
        "embeddings-queries",
        EmbeddingShard(queries, 0, None),
        {"model": build.model, "rows": build.assessment},
        build.planner.assessment() * min(length, options.max_length),
    )
    inputs = {**build.embeddings(embedding, options.shard_rows), "query-0000": query}
    return build.step(run, name, RdsConfig(turn=options.turn, ties=options.ties), inputs)


def taken_in_turns(similarity: NDArray[np.floating[Any]], turn: Turn | None = Turn.next) -> list[int]:
    """The order in which queries (columns) take rows: each in turn the most similar one that is left.

    Args:
        similarity: (rows, queries); of equal values the first row is taken.
        turn: with ``lose`` a query tries one row a turn, its k-th nearest in turn k, and takes none if that is taken.

    Returns:
        All row numbers, first taken first.
    """
    rows, queries = similarity.shape
    preferred = np.argsort(-similarity, axis=0, kind="stable").astype(np.int32)
    taken, pointers = np.zeros(rows, dtype=bool), [0] * queries
    order: list[int] = []
    while len(order) < rows:
        for query in range(queries):
            while turn is not Turn.lose and taken[preferred[pointers[query], query]]:
                pointers[query] += 1
            row = int(preferred[pointers[query], query])
            if turn is Turn.lose:
                pointers[query] += 1
                if taken[row]:
                    continue
            taken[row] = True
            order.append(row)
            if len(order) == rows:
                break
    return order


def run(cfg: RdsConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs named shard-NNNN and query-NNNN."""
    ids, vectors, reasons = joined(inputs, "shard")
    _, queries, _ = joined(inputs, "query")
    if cfg.ties is not RowOrder.file:
        by_id = sorted(range(len(ids)), key=lambda i: ids[i])
        ids, vectors = [ids[i] for i in by_id], vectors[by_id]
    similarity = vectors @ queries.T
    place = {row: position for position, row in enumerate(taken_in_turns(similarity, cfg.turn))}
    nearest = similarity.max(axis=1)
    scores = [
        Score(identifier, -float(place[i]), {"similarity": float(nearest[i])}) for i, identifier in enumerate(ids)
    ]
    return {**write_scores(out, scores, reasons), "queries": len(queries), "tokens": 0, "flops": 0}


METHOD = Method(RdsConfig, plan, "place in the order in which rows nearest to the assessment rows are taken, negative")
