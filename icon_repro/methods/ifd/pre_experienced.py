"""Choose rows for the brief experience of IFD's model: some of every kind of instruction, of middling difficulty.

In: embeddings of all rows' prompts (shard-NNNN) and NLLs of the prompts (prompt-NNNN) under the untuned model.
Out: ids.json, which a train step takes.
Source: Li et al., arXiv 2308.12032, and its code (Cherry_LLM, 01fac8d): K-means over mean hidden states of the prompts;
of each cluster the rows whose prompt's perplexity lies between two percentiles of the cluster's, and of those every
n-th. A cluster with fewer rows than are taken gives them all, without percentiles, as in the code.
Differs: rows are taken in the order of their ids, not of the file. The mean NLL takes the place of its exponential, the
perplexity: it orders rows the same way, and a percentile lies between the same two rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.engine.records import write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.common import answers, embeddings
from icon_repro.methods.common.clusters import clustered
from icon_repro.methods.common.options import AnswerPart
from icon_repro.methods.ifd.options import ChoiceConfig


class PreExperiencedError(ValueError):
    """No row has both an embedding and an NLL."""


def middle(values: NDArray[np.float64], count: int, low: float, high: float) -> list[int]:
    """Places of at most ``count`` values of one cluster, spread evenly over those between two percentiles.

    Args:
        values: (rows,); all places are given if there are fewer than ``count``.
        low, high: percentiles, 0 to 100; a value equal to one lies between them.
    """
    if len(values) < count:
        return list(range(len(values)))
    bounds = np.percentile(values, [low, high])
    inside = np.flatnonzero((bounds[0] <= values) & (values <= bounds[1])).tolist()
    return list(inside[:: max(1, len(inside) // count)][:count])


def run(cfg: ChoiceConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ids.json. Needs inputs shard-NNNN and prompt-NNNN over the same rows."""
    ids, vectors, reasons = embeddings.joined(inputs, "shard")
    prompts = answers.joined(inputs, [AnswerPart.prompt], "prompt")
    nll = dict(zip(prompts.ids, prompts.parts[AnswerPart.prompt].tolist(), strict=True))
    if set(nll) != {*ids, *reasons}:
        raise PreExperiencedError(
            f"{len(set(nll) ^ {*ids, *reasons})} rows have an embedding's shard or an NLL's only; delete both steps "
            "and run again."
        )
    reasons |= prompts.reasons
    with_both = [place for place, identifier in enumerate(ids) if identifier not in prompts.reasons]
    clusters = clustered(
        [ids[i] for i in with_both], vectors[with_both], cfg.clusters, cfg.seed, "pre_experienced.choice.clusters"
    )
    chosen, sizes = list[str](), list[int]()
    for members in clusters.members:
        values = np.array([nll[clusters.ids[i]] for i in members])
        taken = middle(values, cfg.per_cluster, cfg.low_percentile, cfg.high_percentile)
        chosen += [clusters.ids[members[i]] for i in taken]
        sizes.append(len(taken))
    write_json(out / "ids.json", sorted(chosen))
    counts: dict[str, int] = {}
    for reason in reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    return {
        "rows": len(chosen),
        "short_by": cfg.clusters * cfg.per_cluster - len(chosen),
        "clusters_short": sum(size < cfg.per_cluster for size in sizes),
        "failed": counts,
        "tokens": 0,
        "flops": 0,
    }
