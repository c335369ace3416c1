"""Batch rows into forward passes that fit into memory, and estimate how fast the device could be.

In: a loaded model, the device's free memory.  Out: a token budget that shrinks when memory runs out and is remembered
for the next process; floating point operations a second of a large matrix product.
Known gap: another budget batches other rows together, which moves the last bits of an NLL (not more than rounding).
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from icon_repro.engine.console import say
from icon_repro.engine.records import RecordError, read_json, write_json
from icon_repro.lm.tokens import TokenError, pack

_CPU_TOKENS = 1024  # more doesn't make a CPU faster
_MAX_TOKENS = 32768
_SHARE = 0.6  # of the free memory that is counted on


class OutOfMemoryError(MemoryError):
    """A single row doesn't fit."""


class TokenBudget:
    """Padded tokens of one batch; ``halve`` when memory ran out.

    Args:
        wanted: fixed by the user; None finds it from free memory, or takes what an earlier process ended with.
        memory: JSON file with what earlier processes ended with; None remembers nothing.
    """

    def __init__(self, model: PreTrainedModel, wanted: int | None, memory: Path | None = None) -> None:
        self.memory = memory
        name = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
        self.key = f"{name}, {model.num_parameters()} parameters, {model.dtype}, asked for {wanted or 'auto'}"
        self.tokens = self._known().get(self.key) or wanted or automatic(model)

    def halve(self, rows: int, error: BaseException) -> None:
        """After a batch of ``rows`` rows didn't fit.

        Raises:
            OutOfMemoryError: it was a single row already.
        """
        if rows <= 1:
            raise OutOfMemoryError(
                "a single row doesn't fit into memory. Lower max_length of the method (icon: max_context_tokens, "
                "max_prompt_tokens or max_response_tokens; nuggets: shot_tokens), score in bfloat16, or use a device "
                "with more memory."
            ) from error
        self.tokens = max(1, self.tokens // 2)
        say(f"out of memory: batches of at most {self.tokens} tokens from here on")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.memory is not None:
            with contextlib.suppress(OSError):  # only a hint
                self.memory.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.memory, {**self._known(), self.key: self.tokens})

    def _known(self) -> dict[str, int]:
        try:
            known = read_json(self.memory) if self.memory is not None and self.memory.is_file() else {}
        except RecordError:
            return {}  # only a hint
        return known if isinstance(known, dict) else {}


def ran_out(error: BaseException) -> bool:
    """Whether ``error`` says that there is no memory left, on a GPU or a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def in_batches(lengths: Sequence[int], budget: TokenBudget, work: Callable[[list[int]], None]) -> None:
    """Call ``work`` with the indices of one batch after the other; what is left is packed anew when memory runs out.

    Raises:
        OutOfMemoryError: a single row doesn't fit.
    """
    batches = pack(lengths, budget.tokens)[::-1]
    while batches:
        batch = batches.pop()
        try:
            work(batch)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            budget.halve(len(batch), error)
            left = [index for other in [*batches, batch] for index in other]
            batches = [[left[k] for k in packed] for packed in pack([lengths[i] for i in left], budget.tokens)][::-1]


def refuse_longer(what: str, longest: int, positions: int | None, remedy: str) -> None:
    """Refuse texts of more tokens than a model was made to read (``lm.load.positions_of``).

    Raises:
        TokenError: says what is too long, and the remedy.
    """
    if positions is not None and longest > positions:
        raise TokenError(f"{what} takes {longest} tokens, the model has {positions} positions. {remedy}")


def padded(
    rows: Sequence[Sequence[int]], device: torch.device | str = "cpu", fill: int = 0, least: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) int64 ids padded on the right with ``fill``, T at least ``least``; (B,) int64 lengths.

    No token sees its row's padding if attention is causal.
    """
    lengths = torch.tensor([len(row) for row in rows], device=device)
    width = max(int(lengths.max()), least)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device), lengths


def automatic(model: PreTrainedModel) -> int:
    """Tokens of a batch that fit into the free memory, a power of two: small changes of it change nothing.

    A token takes its share of keys and values (of its row's context as well: as many tokens again are assumed, four
    times), the widest activations of a layer, and its logits in chunks that don't grow.
    """
    if model.device.type != "cuda":
        return _CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(model.device)
    config: Any = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * getattr(config, "num_key_value_heads", config.num_attention_heads) * head
    width = 8 * config.hidden_size + 3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    bytes_per_token = (5 * cached + width) * model.dtype.itemsize
    fits = max(1, int(_SHARE * free / bytes_per_token))
    return int(min(_MAX_TOKENS, 2 ** (fits.bit_length() - 1)))


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Operations a second of a matrix product (2048 cubed; on a GPU 8192 cubed), the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def once() -> float:
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    best, end = once(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, once())
    return 2.0 * size**3 / best
