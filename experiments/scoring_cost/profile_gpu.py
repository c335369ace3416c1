"""Where a GPU's time goes: float8 against bfloat16, kinds of kernels in scoring, and tuning's share of the peak.

Run: ``python experiments/scoring_cost/profile_gpu.py`` in a checkout; 10 minutes at most on one GPU of 80 GB.
In: a shape.  Out: one JSON object as the last line. No download: weights and texts are random (``bench_gpu``).
``float8``: linear layers of the decoder by ``torch._scaled_mm`` with a scale a row of each side, on GPUs from compute
capability 8.9 on; elsewhere they are rounded to float8 and multiplied in bfloat16 (``simulated``): NLLs differ as much,
speed isn't measured. ``kernels``: shares of the device's time by kind, and how long it was idle.
``tuning``: forward and backward pass over rows of 512 tokens, without the optimizer, over the measured peak.
Never run on a GPU so far: tested on a CPU with ``--shape tiny``.
Known gap: random weights say nothing of a real model's outliers; the fidelity check of a run does.
"""

import argparse
import json
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

from experiments.scoring_cost.bench_gpu import SHAPES, random_model, random_rows
from icon_repro.data.cost import FROZEN_TRAINING, FULL_TRAINING, forward_flops
from icon_repro.lm.budget import TokenBudget, measured_peak
from icon_repro.lm.load import pick_device
from icon_repro.lm.tokens import Encoded
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import IconConfig, resolved
from icon_repro.methods.icon.pairs import Engine

_FLOAT8_FROM = (8, 9)  # compute capability
_LARGEST = 448.0  # of float8_e4m3fn
_CONTEXT, _ROW = 78, 512  # tokens
_KINDS = {  # parts of kernels' and operations' names, the first that fits counts
    "attention": ("flash", "fmha", "attention", "softmax"),
    "matrix products": ("gemm", "mm", "nvjet", "cutlass", "linear", "scaled"),
    "copies": ("copy", "cat", "memcpy", "memset", "index", "gather"),
}


class Float8Linear(nn.Module):
    """A linear layer without bias; its product is in float8, with a scale for each row of input and weight."""

    def __init__(self, linear: nn.Linear, native: bool) -> None:
        super().__init__()
        self.native = native
        self.weight, self.scale = quantised(linear.weight.detach())

    def forward(self, values: Tensor) -> Tensor:
        rows, scale = quantised(values.reshape(-1, values.shape[-1]))
        if self.native:
            found = torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale.t(),
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        else:
            product = rows.to(torch.bfloat16) @ self.weight.to(torch.bfloat16).t()
            found = (product.float() * scale * self.scale.t()).to(values.dtype)
        return found.reshape(*values.shape[:-1], -1)


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) float8_e4m3fn and (n, 1) float32 scales whose product is near (n, d) ``rows``."""
    scale = rows.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / _LARGEST
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale


def in_float8(model: LlamaForCausalLM, native: bool) -> int:
    """Replace the decoder's linear layers; returns how many."""
    found = [(m, name, child) for m in model.model.modules() for name, child in m.named_children()]
    linears = [(m, name, child) for m, name, child in found if isinstance(child, nn.Linear)]
    for module, name, child in linears:
        setattr(module, name, Float8Linear(child, native))
    return len(linears)


def scored(engine: Engine, contexts: list[list[int]], rows: list[Encoded]) -> tuple[NDArray[np.float64], float]:
    """(contexts, rows) NLLs, and pairs a second after a warm-up."""
    engine.mean_nll(contexts[0], rows)
    started = time.perf_counter()
    found = np.array([engine.mean_nll(context, rows) for context in contexts])
    return found, found.size / (time.perf_counter() - started)


def kernels(engine: Engine, context: list[int], rows: list[Encoded]) -> dict[str, float]:
    """Shares of the time of one candidate's scoring, by kind of kernel; ``idle`` is when the GPU waits for Python."""
    device = engine.model.device.type
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    started = time.perf_counter()
    with profile(activities=activities) as recorded:
        engine.mean_nll(context, rows)
        if device == "cuda":
            torch.cuda.synchronize()
    wall = (time.perf_counter() - started) * 1e6
    taken: dict[str, float] = {}
    for event in recorded.key_averages():
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), "norms and others")
        taken[kind] = taken.get(kind, 0.0) + float(spent)
    return {
        **{kind: round(spent / wall, 4) for kind, spent in taken.items()},
        "idle": round(1 - sum(taken.values()) / wall, 4),
    }


def tuning(model: Any, frozen: bool, peak: float, batch: int, steps: int = 3) -> dict[str, float]:
    """Tokens a second of forward and backward passes, and their share of the peak by the plan's count of operations."""
    device, vocabulary = model.device, model.config.vocab_size
    ids = torch.randint(3, vocabulary, (batch, _ROW), device=device)
    model.train()
    for step in range(steps + 1):
        if step == 1:
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    speed = steps * ids.numel() / (time.perf_counter() - started)
    flops = (FROZEN_TRAINING if frozen else FULL_TRAINING) * forward_flops(model.num_parameters(), speed)
    return {"tokens_per_s": round(speed, 1), "share_of_peak": round(flops / peak, 4)}


def measure(shape: str, device: torch.device, rows: int, candidates: int, batch: int) -> dict[str, Any]:
    """All three parts; the model is made anew for tuning."""
    generator = np.random.default_rng(0)
    vocabulary = SHAPES[shape]["vocab_size"]
    assessment = random_rows(rows, vocabulary, generator)
    contexts = [generator.integers(3, vocabulary, _CONTEXT).tolist() for _ in range(candidates)]
    peak = measured_peak(device, torch.bfloat16, seconds=1.0)
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FLOAT8_FROM
    torch.manual_seed(0)
    model = random_model(SHAPES[shape], device, torch.bfloat16)
    layout = cast(Layout, SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0)))
    engine = Engine(model, layout, resolved(IconConfig()), TokenBudget(model, None if device.type == "cuda" else 2048))
    usual, speed = scored(engine, contexts, assessment)
    shares = kernels(engine, contexts[0], assessment)
    layers = in_float8(model, native)
    low, low_speed = scored(engine, contexts, assessment)
    apart = (low - usual) - (low - usual).mean()
    float8: dict[str, Any] = {"layers": layers, "rms_nll": round(float(np.sqrt((apart**2).mean())), 6)}
    float8 |= (
        {"pairs_per_s": round(low_speed, 2), "over_bfloat16": round(low_speed / speed, 3)}
        if native
        else {"simulated": True}
    )
    del model, engine
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trained = random_model(SHAPES[shape], device, torch.bfloat16)
    found = {"full": tuning(trained, False, peak, batch)}
    adapted = get_peft_model(
        trained, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    found["lora"] = tuning(adapted, True, peak, batch)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "peak_tflops": round(peak / 1e12, 2),
        "bfloat16_pairs_per_s": round(speed, 2),
        "float8": float8,
        "kernels": shares,
        "tuning": found,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="rows of 512 tokens in a step of tuning")
    given = parser.parse_args(arguments)
    device = pick_device(given.device)
    if given.shape == "8b" and device.type == "cpu":
        sys.stderr.write("error: the 8B shape takes 16 GB and hours on a CPU; use a GPU, or --shape tiny.\n")
        return 1
    print(json.dumps(measure(given.shape, device, given.rows, given.candidates, given.batch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
