"""Compute the gradients of single rows with respect to LoRA weights, and project them at random.

In: a model with LoRA, rows as ids and labels.  Out: (rows, weights) float32; (rows, dimensions) float32.
Source: per-sample gradients by torch.func (vmap of grad); Rademacher projection as in TRAK (Park et al., arXiv
2303.14186), which LESS uses: a matrix of random signs, never held as a whole.
"""

import collections
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from icon_repro.lm.load import positions_of
from icon_repro.lm.tokens import IGNORED, TokenError

_CHUNK = 4096  # weights whose signs are made at a time
_SIGNS = 2 * torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)).float() - 1  # of a byte
_BETAS = (0.9, 0.999)  # of Adam, as training takes them
T = TypeVar("T")


def row_gradients(model: torch.nn.Module) -> Callable[[Sequence[Mapping[str, Sequence[int]]]], Tensor]:
    """A function that gives the gradients of rows' mean losses with respect to the trainable weights.

    Returns:
        rows with ``input_ids`` and ``labels`` -> (rows, trainable weights) float32, weights flattened in the order of
        their sorted names. Rows are padded on the right; attention is causal, so padding has no influence. Logits
        are made at places that predict a scored token only, if the model can be told so. Rows longer than the model's
        positions raise TokenError.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    positions = positions_of(base) if isinstance(base, PreTrainedModel) else None
    device = next(model.parameters()).device
    keeps = keeps_logits(model)
    trainable = {name: p.detach() for name, p in sorted(model.named_parameters()) if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], ids: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        logits_kept = {"logits_to_keep": places} if keeps else {}
        given = {"input_ids": ids[None], "use_cache": False, **logits_kept}
        logits = functional_call(model, {**weights, **fixed}, kwargs=given).logits[0]
        logits = logits if keeps else logits[places]
        total = cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum()

    each: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    def gradients(rows: Sequence[Mapping[str, Sequence[int]]]) -> Tensor:
        def filled(lists: Sequence[Sequence[int]], fill: int) -> Tensor:
            width = max(map(len, lists))
            return torch.tensor([[*given, *[fill] * (width - len(given))] for given in lists], device=device)

        longest = max(len(row["input_ids"]) for row in rows)
        if positions is not None and longest > positions:
            raise TokenError(f"a row takes {longest} tokens, the model has {positions} positions. Lower max_length.")
        scored = [[i for i, label in enumerate(row["labels"]) if label != IGNORED and i > 0] for row in rows]
        ids = filled([row["input_ids"] for row in rows], 0)
        places = filled([[i - 1 for i in some] for some in scored], 0)
        targets = filled([[row["labels"][i] for i in some] for row, some in zip(rows, scored, strict=True)], IGNORED)
        by_name = each(trainable, ids, places, targets)
        return torch.cat([by_name[name].flatten(1).float() for name in trainable], dim=1)

    return gradients


def keeps_logits(model: torch.nn.Module) -> bool:
    """Whether the model can be told at which positions logits are wanted."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


class Projection:
    """Multiplies with a seeded matrix of random signs, (weights, dimensions), scaled to keep lengths on average.

    The same seed gives the same matrix everywhere; it is made again, a part at a time, for each call: the more rows a
    call has, the less of it a row takes.

    Args:
        dimensions: a multiple of 8.
    """

    def __init__(self, weights: int, dimensions: int, seed: int) -> None:
        self.weights, self.dimensions, self.seed = weights, dimensions, seed
        self._chunks = range(-(-weights // _CHUNK))

    def _bytes(self, chunk: int) -> NDArray[np.uint8]:
        """The signs of a chunk, eight to a byte."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, chunk]))
        return np.frombuffer(bytearray(generator.bytes(_CHUNK * self.dimensions // 8)), np.uint8)

    def _signs(self, packed: NDArray[np.uint8], out: Tensor) -> Tensor:
        """``packed`` as (4096, dimensions) float32 of -1 and 1, in the memory of ``out``: eight signs at a time."""
        codes = torch.from_numpy(packed).to(out.device).int()
        torch.index_select(_SIGNS.to(out.device), 0, codes, out=out)
        return out.view(_CHUNK, self.dimensions)

    def _memory(self, device: torch.device) -> Tensor:
        return torch.empty(_CHUNK * self.dimensions // 8, 8, device=device)

    def signs(self, chunk: int) -> Tensor:
        """(up to 4096, dimensions) float32 of -1 and 1: the rows of the matrix from ``chunk * 4096`` on."""
        chunk_signs = self._signs(self._bytes(chunk), self._memory(torch.device("cpu")))
        return chunk_signs[: self.weights - chunk * _CHUNK]

    def __call__(self, *blocks: Tensor, change: Callable[[Tensor, slice], Tensor] | None = None) -> Tensor:
        """Blocks of (rows, weights) to (all rows, dimensions), float32.

        Args:
            change: what is projected in place of some weights' gradients, from these and the place of the weights.
        """
        device = blocks[0].device
        result = torch.zeros(sum(map(len, blocks)), self.dimensions, device=device)
        memory = self._memory(device)
        # a GPU waits for random bits: they come from several threads
        threads = len(os.sched_getaffinity(0)) if device.type == "cuda" else 0
        for chunk, packed in zip(self._chunks, _ahead(self._bytes, self._chunks, threads), strict=True):
            place = slice(chunk * _CHUNK, min((chunk + 1) * _CHUNK, self.weights))
            part = torch.cat([block[:, place] for block in blocks])
            part = part if change is None else change(part, place)
            result += part @ self._signs(packed, memory)[: part.shape[1]]
        return result / self.dimensions**0.5


def _ahead(make: Callable[[int], T], numbers: Iterable[int], threads: int) -> Iterator[T]:
    """What ``make`` gives for each number, in order, a few of them made in advance; without threads none is."""
    if not threads:
        yield from map(make, numbers)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque[Future[T]]()
        for number in numbers:
            waiting.append(pool.submit(make, number))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
