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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.cost import forward_flops
from icon_repro.data.prompts import PROMPTS
from icon_repro.data.rows import Example, Score, stripped
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.batched import mean_nll
from icon_repro.lm.load import load_tokenizer, open_model
from icon_repro.lm.tokens import Encoded, bos_ids, joint_ids, text_ids
from icon_repro.methods.baseline_options import AnchorsConfig, Counted, NuggetsConfig, NuggetsShard
from icon_repro.methods.common.clusters import clustered
from icon_repro.methods.common.embeddings import joined
from icon_repro.methods.common.options import Tokenise
from icon_repro.methods.common.outcome import write_scores

_SAME = 1e-5  # of a centre's length: distances that float32 vectors can't tell apart


class NuggetsError(ValueError):
    """No anchor can be scored, or shards don't belong together."""


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
    ids = read_json(path)
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
    nuggets = cfg.nuggets
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    anchored = read_rows(inputs["anchors"] / "rows.jsonl", Example)
    if nuggets.strip:
        rows, anchored = [stripped(row) for row in rows], [stripped(row) for row in anchored]
    helped = np.full((len(rows), len(anchored)), -1, np.int8)
    tokens = parameters = 0
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
                text = text_ids(tokenizer, PROMPTS[nuggets.template](row) + row.response, nuggets.shot_tokens or None)[
                    0
                ]
                after = mean_nll(model, pad, start + text + between, encoded, budget, progress)
                known = np.isfinite(after)
                helped[place, known] = (after < alone)[known]
            tokens = progress.tokens
        own = {row.id: column for column, row in enumerate(anchored)}
        if nuggets.counted is Counted.all:
            helped[helped < 0] = 0
        else:
            for place, row in enumerate(rows):
                if row.id in own:
                    helped[place, own[row.id]] = -1
    np.save(out / "helped.npy", helped, allow_pickle=False)
    write_json(out / "ids.json", {"rows": [row.id for row in rows], "anchors": [row.id for row in anchored]})
    return {
        "rows": len(rows),
        "pairs": helped.size,
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
