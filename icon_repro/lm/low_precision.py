"""Multiply a model's linear layers in int8 or float8, with a scale for each row of inputs and weights.

In: a loaded language model.  Out: the same model with its linear layers replaced; embeddings, head, norms and
attention stay in the dtype that it was loaded in.
int8: ``torch._int_mm``, on CPUs; float8 (e4m3): ``torch._scaled_mm``, on GPUs from compute capability 8.9 on. Each
token's input is scaled by its largest value at every pass, so nothing is calibrated.
Source: row-wise scales as in LLM.int8 (arXiv 2208.07339), without its outlier columns.
Known gap: private functions of torch, whose support is tried by a small product; scores may be too far from
float32's, so ``methods/icon/fidelity`` checks them on a sample.
"""

import enum
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_FLOAT8_FROM = (8, 9)  # compute capability: Ada and Hopper
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_DIVISIBLE = 16  # both sides of a weight, as _scaled_mm needs


class LowPrecisionError(ValueError):
    """This device, or this model, can't be multiplied in that precision."""


class Low(enum.Enum):
    int8 = "int8"
    float8 = "float8"

    @property
    def stored(self) -> torch.dtype:
        return torch.int8 if self is Low.int8 else torch.float8_e4m3fn

    @property
    def around(self) -> Literal["float32", "bfloat16"]:
        """Dtype of the rest of the model, in which inputs come and products go."""
        return "float32" if self is Low.int8 else "bfloat16"


def unsupported(low: Low, device: torch.device) -> str | None:
    """Why a device can't multiply in this precision; None if it can."""
    if low is Low.int8:
        if device.type != "cpu":
            return f"int8 is built for CPUs, and the device is {device.type}"
    elif device.type != "cuda":
        return f"the device is {device.type}, and float8 needs a GPU"
    else:
        capability = torch.cuda.get_device_capability(device)
        if capability < _FLOAT8_FROM:
            name = torch.cuda.get_device_name(device)
            return f"{name} (compute capability {capability[0]}.{capability[1]}) has no float8 units; 8.9 is the least"
    try:
        weight = torch.ones(32, 32, dtype=getattr(torch, low.around), device=device)
        LowLinear(weight, None, low)(weight)
    except (RuntimeError, NotImplementedError) as error:
        return f"torch {torch.__version__} refuses a small product: {str(error).splitlines()[0]}"
    return None


def rounded(rows: Tensor, low: Low) -> tuple[Tensor, Tensor]:
    """(n, d) in low precision and (n, 1) float32 scales; their product is near (n, d) ``rows``."""
    values = rows.float()
    scale = values.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12) / _LARGEST[low.stored]
    scaled = values / scale
    return (scaled.round_() if low is Low.int8 else scaled).to(low.stored), scale


class LowLinear(nn.Module):
    """A linear layer whose product is in low precision.

    Args:
        weight: (out, in).
        bias: (out,), added in the dtype around.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, low: Low) -> None:
        super().__init__()
        self.low, self.bias = low, bias
        self.weight, scale = rounded(weight.detach(), low)
        self.scale = scale.t().contiguous()

    def forward(self, values: Tensor) -> Tensor:
        rows, scale = rounded(values.reshape(-1, values.shape[-1]), self.low)
        if self.low is Low.int8:
            product = torch._int_mm(rows, self.weight.t()).float().mul_(scale).mul_(self.scale)
        else:
            product = torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        found = product.to(values.dtype).reshape(*values.shape[:-1], -1)
        return found if self.bias is None else found + self.bias


def lower(model: PreTrainedModel, low: Low) -> int:
    """Replace a model's linear layers, but not its head; returns how many.

    Raises:
        LowPrecisionError: the device has no such units, or there is no layer that can be replaced.
    """
    if why := unsupported(low, model.device):
        raise LowPrecisionError(f"dtype={low.value}: {why}. Set dtype=auto, bfloat16 or float32.")
    return replace_linears(model, low)


def replace_linears(model: PreTrainedModel, low: Low) -> int:
    """As ``lower``, on a device that isn't asked whether it has such units: torch has a slow reference for CPUs.

    Raises:
        LowPrecisionError: there is no layer that can be replaced.
    """
    head = model.get_output_embeddings()
    children = [(module, name, child) for module in model.modules() for name, child in module.named_children()]
    linears = [(module, name, child) for module, name, child in children if isinstance(child, nn.Linear)]
    fitting = [
        found
        for found in linears
        if found[2] is not head and found[2].in_features % _DIVISIBLE == found[2].out_features % _DIVISIBLE == 0
    ]
    if not fitting:
        raise LowPrecisionError(
            f"dtype={low.value}: {type(model).__name__} has no linear layer with sizes divisible by {_DIVISIBLE}. "
            "Set dtype=auto, bfloat16 or float32."
        )
    for module, name, linear in fitting:
        setattr(module, name, LowLinear(linear.weight, linear.bias, low))
    return len(fitting)
