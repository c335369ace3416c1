"""ICon's cheap selection model: ridge regression from the frozen model's hidden states to the candidates' scores.

``train``.  In: model, order of the pool, scores of candidates.  Out: probe.safetensors, held_out.jsonl {id, score,
predicted, error, response_chars}.
``pool``.  In: model, selector, order.  Out: scores.npy, errors.npy, (rows,) float32; ids.json. ``probe_scores.run``
joins them.
A row's features are the means and the last token's states after a few layers, each set scaled to the same size, and the
logarithms of its lengths; the target is the score's rank, 0 (worst) to 1. One forward pass of each row, then a closed
form: no training, no seed, one model for all fractions.
Source: own, in place of the paper's classifier with LoRA (``kind: lora``); measured in experiments/pilot.
Candidates must be a sample of the rows that are ranked, as the first of a seeded order are; a shard of which many rows
are unlike them (a larger error than 39 of 40 held-out candidates have) says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from icon_repro.data.cost import forward_flops
from icon_repro.data.rows import Example
from icon_repro.engine.console import LOG
from icon_repro.engine.records import read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.hidden import layer_states
from icon_repro.lm.load import load_tokenizer, open_model
from icon_repro.methods.agreement import spearman
from icon_repro.methods.icon.options import ProbeConfig, SelectorJob, SelectorShard
from icon_repro.methods.icon.ridge import Ridge, fit
from icon_repro.methods.icon.selector_data import quality, read_candidates, split, targets, token_ids

FILE = "probe.safetensors"
_USUAL = 0.975  # quantile of the held-out candidates' errors
_MANY_UNLIKE, _ENOUGH = 0.5, 50  # share of rows, and rows of a shard, from which it is said
Features = NDArray[np.float64]


class Scaler:
    """Puts the parts of the features on one scale: each layer's mean and last state, and each length.

    Args:
        means: (d,) of the features.
        sizes: (d,) what each is divided by.
    """

    def __init__(self, means: Features, sizes: Features) -> None:
        self.means, self.sizes = means, sizes

    def __call__(self, values: Features) -> Features:
        return (values - self.means) / self.sizes

    @classmethod
    def of(cls, values: Features, widths: Sequence[int]) -> "Scaler":
        """Each part of ``widths`` features gets a mean squared length of 1 over the rows of (n, d) ``values``."""
        means, sizes, first = values.mean(axis=0), np.empty(values.shape[1]), 0
        for width in widths:
            part = values[:, first : first + width] - means[first : first + width]
            sizes[first : first + width] = np.sqrt((part**2).sum(axis=1).mean()) or 1.0
            first += width
        return cls(means, sizes)


def layer_numbers(depths: Sequence[float], layers: int) -> list[int]:
    """The layers at shares of the depth: at least the first, each once, in order."""
    return sorted({max(1, round(depth * layers)) for depth in depths})


def features(
    cfg: ProbeConfig, limit: int, inputs: Mapping[str, Path], rows: Sequence[Example], runtime: Runtime
) -> tuple[Features, list[int], dict[str, Any]]:
    """(n, d) features, the widths of their parts, and metrics of making them."""
    ids, cuts = token_ids(load_tokenizer(inputs["model"]), rows, limit)
    model, budget = open_model(inputs["model"], cfg.dtype, runtime)
    layers = layer_numbers(cfg.depths, model.config.get_text_config().num_hidden_layers)
    with runtime.progress(len(rows), "row") as progress:
        states = layer_states(model, ids, layers, budget, progress)
    lengths = [[np.log1p(len(row.response)), np.log1p(len(ids[i]))] for i, row in enumerate(rows)]
    values = np.concatenate([states.reshape(len(rows), -1), np.reshape(lengths, (len(rows), 2))], axis=1)
    widths = [states.shape[-1]] * (2 * len(layers)) + [1, 1]
    metrics = {
        "rows_cut": sum(cut > 0 for cut in cuts),
        "tokens_cut": sum(cuts),
        "layers": layers,
        "tokens": progress.tokens,
        "flops": forward_flops(model.num_parameters(), progress.tokens),
    }
    return values.astype(np.float64), widths, metrics


def train(cfg: SelectorJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Fit the probe, and test it on held-out candidates. Needs inputs model, order, scores.

    The stored one is fitted on all candidates; its test is that of one fitted without those held out.
    """
    selector = cfg.selector
    candidates, scores = read_candidates(inputs["order"], inputs["scores"])
    rows, held = split(candidates, selector.held_out)
    values, widths, metrics = features(selector.probe, selector.pool_max_length, inputs, candidates, runtime)
    tested = Scaler.of(values[: len(rows)], widths)
    trial, _ = fit(tested(values[: len(rows)]), np.array(targets(cfg, rows, scores)))
    predicted, errors = trial.predict(tested(values[len(rows) :]))
    write_rows(
        out / "held_out.jsonl",
        (
            {
                "id": row.id,
                "score": scores[row.id],
                "predicted": float(predicted[place]),
                "error": float(errors[place]),
                "response_chars": len(row.response),
            }
            for place, row in enumerate(held)
        ),
    )
    scaler = Scaler.of(values, widths)
    probe, left_out = fit(scaler(values), np.array(targets(cfg, candidates, scores)))
    _save(out / FILE, scaler, probe, float(np.quantile(errors, _USUAL)))
    return {
        "rows": len(rows),
        "held_out": len(held),
        "features": values.shape[1],
        "penalty": probe.penalty,
        "spearman_left_out": spearman(left_out.tolist(), [scores[row.id] for row in candidates]),
        **metrics,
        **quality(held, predicted.tolist(), scores, cfg.fractions),
    }


def pool(cfg: SelectorShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score rows ``start`` to ``stop`` of the order. Needs inputs model, selector, order."""
    rows = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    predicted, errors = np.empty(0), np.empty(0)
    metrics: dict[str, Any] = {"tokens": 0, "flops": 0}
    if rows:
        values, _, metrics = features(cfg.selector.probe, cfg.selector.pool_max_length, inputs, rows, runtime)
        scaler, probe, usual = _load(inputs["selector"] / FILE)
        predicted, errors = probe.predict(scaler(values))
        metrics["unlike_candidates"] = share = float((errors > usual).mean())
        if share > _MANY_UNLIKE and len(rows) >= _ENOUGH:
            LOG.warning(
                f"{share:.0%} of {len(rows)} rows are unlike the scored candidates: the probe ranks them by guess. "
                "Score candidates of the pool that is ranked (data.candidates), or set selector.kind=lora."
            )
    np.save(out / "scores.npy", predicted.astype(np.float32), allow_pickle=False)
    np.save(out / "errors.npy", errors.astype(np.float32), allow_pickle=False)
    write_json(out / "ids.json", {"rows": [row.id for row in rows]})
    return {"rows": len(rows), **metrics}


def _save(path: Path, scaler: Scaler, probe: Ridge, usual: float) -> None:
    numbers = [probe.scale, probe.mean, probe.variance, probe.penalty, usual]
    arrays = {
        "means": scaler.means,
        "sizes": scaler.sizes,
        "centre": probe.centre,
        "axes": probe.axes,
        "weights": probe.weights,
        "shrinkage": probe.shrinkage,
        "numbers": np.array(numbers),
    }
    save_file({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, path)


def _load(path: Path) -> tuple[Scaler, Ridge, float]:
    """Scaler, regression, and the largest error that is usual among candidates."""
    arrays = {name: tensor.numpy() for name, tensor in load_file(path).items()}
    scale, mean, variance, penalty, usual = arrays["numbers"].tolist()
    axes, weights, shrinkage = arrays["axes"], arrays["weights"], arrays["shrinkage"]
    probe = Ridge(arrays["centre"], scale, axes, weights, shrinkage, mean, variance, penalty)
    return Scaler(arrays["means"], arrays["sizes"]), probe, usual
