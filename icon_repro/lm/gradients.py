"""Gradients of single rows with respect to LoRA weights, many rows at once, and their random projection.

In: a model with LoRA, rows as ids and labels.  Out: (rows, weights) float32; (rows, dimensions) float32.
Source: per-sample gradients by torch.func (vmap of grad); Rademacher projection as in TRAK (Park et al., arXiv
2303.14186), which LESS uses: a matrix of random signs, never held as a whole.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from icon_repro.lm.tokens import IGNORED

_CHUNK = 4096  # weights whose signs are made at a time
_BETAS = (0.9, 0.999)  # of Adam, as training takes them


def row_gradients(model: torch.nn.Module) -> Callable[[Sequence[Mapping[str, Sequence[int]]]], Tensor]:
    """A function that gives the gradients of rows' mean losses with respect to the trainable weights.

    Returns:
        rows with ``input_ids`` and ``labels`` -> (rows, trainable weights) float32, weights flattened in the order of
        their sorted names. Rows are padded on the right; attention is causal, so padding has no influence.
    """
    device = next(model.parameters()).device
    trainable = {name: p.detach() for name, p in sorted(model.named_parameters()) if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        output = functional_call(model, {**weights, **fixed}, kwargs={"input_ids": ids[None], "use_cache": False})
        logits = output.logits[0, :-1].float()
        total = cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")
        return total / (labels[1:] != IGNORED).sum()

    each: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, 0, 0))

    def gradients(rows: Sequence[Mapping[str, Sequence[int]]]) -> Tensor:
        width = max(len(row["input_ids"]) for row in rows)

        def filled(key: str, fill: int) -> Tensor:
            return torch.tensor([[*row[key], *[fill] * (width - len(row[key]))] for row in rows], device=device)

        made = each(trainable, filled("input_ids", 0), filled("labels", IGNORED))
        return torch.cat([made[name].flatten(1).float() for name in trainable], dim=1)

    return gradients


class Projection:
    """Multiplies with a seeded matrix of random signs, (weights, dimensions), scaled to keep lengths on average.

    The same seed gives the same matrix everywhere; it is made again, a part at a time, for each call.
    """

    def __init__(self, weights: int, dimensions: int, seed: int) -> None:
        self.weights, self.dimensions, self.seed = weights, dimensions, seed

    def signs(self, chunk: int) -> Tensor:
        """(up to 4096, dimensions) float32 of -1 and 1: the rows of the matrix from ``chunk * 4096`` on."""
        rows = min(_CHUNK, self.weights - chunk * _CHUNK)
        bits = np.frombuffer(
            np.random.Generator(np.random.Philox(key=[self.seed, chunk])).bytes(_CHUNK * self.dimensions // 8), np.uint8
        )
        values = torch.from_numpy(np.unpackbits(bits)[: rows * self.dimensions]).view(rows, self.dimensions)
        return values.float().mul_(2).sub_(1)

    def __call__(self, gradients: Tensor) -> Tensor:
        """(rows, weights) to (rows, dimensions), float32."""
        result = torch.zeros(len(gradients), self.dimensions, device=gradients.device)
        for chunk in range(-(-self.weights // _CHUNK)):
            part = gradients[:, chunk * _CHUNK : (chunk + 1) * _CHUNK]
            result += part @ self.signs(chunk).to(gradients.device)
        return result / self.dimensions**0.5


def adam_direction(gradients: Tensor, mean: Tensor, square: Tensor, step: int | None = None) -> Tensor:
    """The step that Adam would take next for each row's gradient, as LESS takes it: 1e-8 is inside the root.

    Args:
        gradients: (rows, weights).
        mean, square: (weights,), Adam's moments as they are stored.
        step: how many steps Adam has taken; the moments are then corrected for their start at 0 (LESS's paper). None:
            they aren't (its code). The correction scales all weights alike, but for the 1e-8.
    """
    new_mean = _BETAS[0] * mean + (1 - _BETAS[0]) * gradients
    new_square = _BETAS[1] * square + (1 - _BETAS[1]) * gradients**2
    if step is not None:
        new_mean = new_mean / (1 - _BETAS[0] ** (step + 1))
        new_square = new_square / (1 - _BETAS[1] ** (step + 1))
    return new_mean / torch.sqrt(new_square + 1e-8)


def flattened(tensors: Mapping[str, Any], names: Sequence[str], suffix: str) -> Tensor:
    """The tensors ``<name><suffix>`` of sorted ``names`` as one vector, in the order of ``row_gradients``."""
    return torch.cat([tensors[f"{name}{suffix}"].flatten().float() for name in sorted(names)])
