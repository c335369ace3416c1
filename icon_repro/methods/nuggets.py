"""Nuggets: how many anchors a row helps when it is shown before them.

In: embeddings of the rows (``anchors``); model, rows, anchors (``shard``).  Out: anchors: rows.jsonl; shards:
helped.npy, (rows, anchors) int8, 1 where the anchor's response becomes likelier, -1 where it isn't scored;
scores.jsonl, the golden score, the share of the anchors that are helped.
Source: Li et al., arXiv 2312.10302 (nuggets), and its code (c7e429f): anchors are the rows nearest to the centres of
K-means over mean hidden states, cut to 200 tokens; the row stands before them as one shot.
Differs: padding is left out of the means, and K-means sees rows by id (``anchors.padding``, ``anchors.order``); a blank
line stands between row and anchor (``separator``); an anchor alone has a BOS as it has after a row (``anchor_bos``);
texts keep the spaces around them (``strip``), prompt and response are tokenised apart (``tokenise``), long rows are cut
(``shot_tokens``); an anchor isn't counted for its own row (``counted``). ``compat=published`` sets them all. NLL with
and without the row has the same tokens, so means and sums agree.
"""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.cost import forward_flops
from icon_repro.data.files import user_text
from icon_repro.data.options import Dtype
from icon_repro.data.prompts import PROMPTS, Template
from icon_repro.data.rows import Example, Score, stripped
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number, unhashed
from icon_repro.lm.tokens import Encoded, bos_ids, joint_ids, text_ids
from icon_repro.methods.base import Build, Method, repeats_field, reseed_by
from icon_repro.methods.common.clusters import clustered
from icon_repro.methods.common.embeddings import joined
from icon_repro.methods.common.options import (
    Baseline,
    EmbeddedText,
    EmbeddingConfig,
    PoolingKind,
    RowOrder,
    Tokenise,
    filled,
)
from icon_repro.methods.common.outcome import write_scores

_SAME = 1e-5  # of a centre's length: distances that float32 vectors can't tell apart


@dataclass
class AnchorsConfig:
    """Rows nearest to the centres of K-means, or rows of your own."""

    count: int = number(100, at_least=1)
    seed: int = number(0, at_least=0)
    ids: str | None = unhashed(None)  # a JSON list of ids to take instead; hashed by content
    padding: bool | None = field(default=None, metadata={"legacy": False})  # counts in the means; published: true
    order: RowOrder | None = field(default=None, metadata={"legacy": RowOrder.id})  # in K-means; published: file


class Counted(enum.Enum):
    """The anchors that a row's score is a share of."""

    scored = "scored"  # those with a response token within the limit, and not the row itself
    all = "all"  # the row itself too; one without a response token isn't helped


@dataclass
class NuggetsConfig:
    """Nuggets (arXiv 2312.10302): the share of anchors whose response a row makes likelier when shown before them.

    ``compat`` sets the options after it, and two of ``anchors``, that are left null.
    """

    kind: str = "nuggets"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    separator: str | None = None  # between row and anchor; ours: a blank line, published: nothing
    anchor_bos: bool | None = field(default=None, metadata={"legacy": True})  # before an anchor alone; published: no
    strip: bool | None = field(default=None, metadata={"legacy": False})  # spaces around texts; published: yes
    tokenise: Tokenise | None = field(default=None, metadata={"legacy": Tokenise.separate})  # published: joint
    counted: Counted | None = field(default=None, metadata={"legacy": Counted.scored})  # published: all
    shot_tokens: int | None = number(None, at_least=0)  # longer rows are cut where they are shown; 0: never. Ours: 1024
    anchors: AnchorsConfig = field(default_factory=AnchorsConfig)
    repeats: int = repeats_field()
    template: Template = Template.labelled
    anchor_tokens: int = number(200, at_least=8)  # longer anchors are cut
    max_length: int = number(512, at_least=8)  # of the embedded prompt and response
    dtype: Dtype = Dtype.float32  # of the weights
    shard_rows: int = number(64, at_least=1)


@dataclass
class NuggetsShard:
    """Rows ``start`` to ``stop`` (exclusive) against all anchors."""

    nuggets: NuggetsConfig
    start: int
    stop: int | None


class NuggetsError(ValueError):
    """No anchor can be scored, or shards don't belong together."""


def as_compat_says(options: NuggetsConfig) -> NuggetsConfig:
    """``options`` with every option that ``compat`` decides filled in."""
    published = options.compat is Baseline.published
    anchors = filled(options.anchors, padding=published, order=RowOrder.file if published else RowOrder.id)
    return filled(
        replace(options, anchors=anchors),
        separator="" if published else "\n\n",
        anchor_bos=not published,
        strip=published,
        tokenise=Tokenise.joint if published else Tokenise.separate,
        counted=Counted.all if published else Counted.scored,
        shot_tokens=0 if published else 1024,
    )


def plan(build: Build, name: str, options: NuggetsConfig) -> Step:
    """Anchors, rows against all of them in parts, then the scores."""
    options, default = as_compat_says(options), as_compat_says(NuggetsConfig())
    inputs = {"model": build.model, "candidates": build.universe, "anchors": _anchors(build, name, options)}
    # what a step doesn't use is set to the default: another value of it leaves the step as it is
    used = replace(options, anchors=default.anchors, shard_rows=1, max_length=default.max_length)
    assert options.shot_tokens is not None
    shot = min(build.row_tokens, options.shot_tokens or build.row_tokens)
    tokens = shot + options.anchors.count * min(build.row_tokens, options.anchor_tokens)
    parts = build.parts(
        shard, name, options.shard_rows, lambda first, stop: NuggetsShard(used, first, stop), inputs, tokens
    )
    return build.step(run, name, default, parts)


def _anchors(build: Build, name: str, options: NuggetsConfig) -> Step:
    """The rows that others are shown before: those of a file, or the nearest to the centres of clusters."""
    rows = {"candidates": build.universe}
    if options.anchors.ids is not None:
        files = {"anchors": build.planner.file(f"methods.{name}.anchors.ids", options.anchors.ids)}
        return build.step(anchors, f"{name}-anchors", as_compat_says(NuggetsConfig()).anchors, rows, files=files)
    embedding = EmbeddingConfig(
        EmbeddedText.row,
        PoolingKind.padded if options.anchors.padding else PoolingKind.mean,
        options.template,
        normalise=False,
        max_length=options.max_length,
        dtype=options.dtype,
        strip=bool(options.strip),
    )
    inputs = {**rows, **build.embeddings(embedding, 2048)}
    # where the vectors come from is in their fingerprints
    return build.step(anchors, f"{name}-anchors", replace(options.anchors, padding=False), inputs)


def anchors(cfg: AnchorsConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write rows.jsonl: the row nearest to each cluster's centre, or the rows of the file of ``ids``.

    Needs inputs["candidates"], and shard-NNNN or the file "anchors".
    """
    rows = {row.id: row for row in read_rows(inputs["candidates"] / "rows.jsonl", Example)}
    if "anchors" in runtime.files:
        given = _given(runtime.files["anchors"], rows)
        write_rows(out / "rows.jsonl", [rows[i] for i in given])
        return {"anchors": len(given), "short_by": 0, "tokens": 0, "flops": 0}
    ids, vectors, _ = joined(inputs, "shard")
    clusters = clustered(ids, vectors, cfg.count, cfg.seed, "anchors.count", cfg.order)
    chosen = []
    for members, centre in zip(clusters.members, clusters.centres, strict=True):
        if len(members):
            distances = np.linalg.norm(clusters.vectors[members] - centre, axis=1)
            # the centre of two rows is as far from one as from the other: the first row, not rounding, decides
            near = distances <= distances.min() + _SAME * np.linalg.norm(centre)
            chosen.append(clusters.ids[members[near][0]])
    write_rows(out / "rows.jsonl", [rows[i] for i in sorted(chosen)])
    return {"anchors": len(chosen), "short_by": cfg.count - len(chosen), "tokens": 0, "flops": 0}


def _given(path: Path, rows: Mapping[str, Example]) -> list[str]:
    """The ids in ``path``, a JSON list, sorted.

    Raises:
        NuggetsError: not a list of ids of ``rows``.
    """
    try:
        ids = json.loads(user_text(path))
    except ValueError as error:
        raise NuggetsError(f"{path}: anchors.ids can't be read ({error}). Mend the file.") from error
    if not isinstance(ids, list) or not ids or len(set(map(str, ids))) < len(ids):
        raise NuggetsError(f"{path}: anchors.ids must be a JSON list of different ids, with at least one.")
    if unknown := [str(i) for i in ids if str(i) not in rows]:
        raise NuggetsError(
            f"{path}: {len(unknown)} of {len(ids)} ids aren't among the {len(rows)} rows that are ranked (first: "
            f"{unknown[0]!r}); remove them, or rank more rows (data.candidates.size, select_from=pool)."
        )
    return sorted(map(str, ids))


def _anchor(row: Example, cfg: NuggetsConfig, tokenizer: Any) -> Encoded | None:
    """Ids of an anchor, at most ``anchor_tokens``; None if no response token is left."""
    text = PROMPTS[cfg.template](row)
    if cfg.tokenise is Tokenise.joint:
        ids, start = joint_ids(tokenizer, text, row.response)
    else:
        ids, start = text_ids(tokenizer, text)[0], len(text_ids(tokenizer, text)[0])
        ids = ids + text_ids(tokenizer, row.response)[0]
    ids = ids[: cfg.anchor_tokens]
    return Encoded(ids, start) if len(ids) > start else None


def shard(cfg: NuggetsShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write helped.npy of rows ``start`` to ``stop``. Needs inputs model, candidates, anchors."""
    from icon_repro.lm.load import load_tokenizer, open_model
    from icon_repro.lm.mean_nll import mean_nll

    nuggets = cfg.nuggets
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    anchored = read_rows(inputs["anchors"] / "rows.jsonl", Example)
    if nuggets.strip:
        rows, anchored = [stripped(row) for row in rows], [stripped(row) for row in anchored]
    helped = np.full((len(rows), len(anchored)), -1, np.int8)
    tokens = parameters = shots_cut = 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        model, budget = open_model(inputs["model"], nuggets.dtype, runtime)
        parameters = model.num_parameters()
        pad = tokenizer.pad_token_id
        assert isinstance(pad, int)
        start, between = bos_ids(tokenizer), text_ids(tokenizer, nuggets.separator or "")[0]
        encoded = [_anchor(row, nuggets, tokenizer) for row in anchored]
        if not any(encoded):
            raise NuggetsError(f"no anchor has a response token within {nuggets.anchor_tokens} tokens; raise it.")
        with runtime.progress(len(rows) * len(anchored), "pair") as progress:
            # without a BOS, the prompt stands alone: its own first token needs nothing before it
            alone = mean_nll(model, pad, start if nuggets.anchor_bos is not False else [], encoded, budget)
            for place, row in enumerate(rows):
                shown = PROMPTS[nuggets.template](row) + row.response
                text, left_out = text_ids(tokenizer, shown, nuggets.shot_tokens or None)
                shots_cut += left_out > 0
                after = mean_nll(model, pad, start + text + between, encoded, budget, progress)
                known = np.isfinite(after)
                helped[place, known] = (after < alone)[known]
            tokens = progress.tokens
        column_of = {row.id: column for column, row in enumerate(anchored)}
        if nuggets.counted is Counted.all:
            helped[helped < 0] = 0
        else:
            for place, row in enumerate(rows):
                if row.id in column_of:
                    helped[place, column_of[row.id]] = -1
    np.save(out / "helped.npy", helped, allow_pickle=False)
    write_json(out / "ids.json", {"rows": [row.id for row in rows], "anchors": [row.id for row in anchored]})
    return {
        "rows": len(rows),
        "pairs": helped.size,
        "contexts_cut": shots_cut,
        "tokens": tokens,
        "flops": forward_flops(parameters, tokens),
    }


def run(cfg: NuggetsConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs named part-NNNN."""
    scores, reasons = list[Score](), dict[str, str]()
    known: list[str] | None = None
    for name in sorted(name for name in inputs if name.startswith("part-")):
        described = read_json(inputs[name] / "ids.json")
        helped = np.load(inputs[name] / "helped.npy", allow_pickle=False)
        known = described["anchors"] if known is None else known
        if described["anchors"] != known or helped.shape != (len(described["rows"]), len(known)):
            raise NuggetsError(f"{inputs[name]}: other anchors, or other numbers than ids; delete it and run again.")
        for identifier, values in zip(described["rows"], helped, strict=True):
            used = values[values >= 0]
            if len(used):
                scores.append(Score(identifier, float(used.mean()), {"anchors": float(len(used))}))
            else:
                reasons[identifier] = "no anchor to be shown before"
    return {**write_scores(out, scores, reasons), "anchors": len(known or []), "tokens": 0, "flops": 0}


METHOD = Method(
    NuggetsConfig,
    plan,
    meaning="share of anchors whose response the row makes likelier as a one-shot example",
    reseed=reseed_by("anchors.seed"),
)
