"""Where a GPU's time goes: float8 against bfloat16, kinds of kernels in scoring, and tuning's share of the peak.

Run: ``python experiments/scoring_cost/profile_gpu.py`` in a checkout; 10 minutes at most on one GPU of 80 GB.
In: a shape.  Out: one JSON object as the last line. No download: weights and texts are random (``bench_gpu``).
``float8``: as ``methods.icon.dtype=float8`` scores, on GPUs from compute capability 8.9 on, with the check of a run:
``rms`` of the scores' differences and their ``standard_error`` over all rows. On a CPU torch's reference multiplies:
NLLs differ as much, speed isn't measured. Another GPU says why it is ``unsupported``.
``kernels``: shares of the device's time by kind, and how long it was idle.
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
from torch.profiler import ProfilerActivity, profile

from experiments.scoring_cost.bench_gpu import SHAPES, random_model, random_rows
from icon_repro.data.cost import FROZEN_TRAINING, FULL_TRAINING, forward_flops
from icon_repro.lm.budget import TokenBudget, measured_peak
from icon_repro.lm.load import pick_device
from icon_repro.lm.low_precision import Low, replace_linears, unsupported
from icon_repro.lm.tokens import Encoded
from icon_repro.methods.icon.fidelity import compared
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import FidelityConfig, IconConfig, resolved
from icon_repro.methods.icon.pairs import Engine

_CONTEXT, _ROW = 78, 512  # tokens
_KINDS = {  # parts of kernels' and operations' names, the first that fits counts
    "attention": ("flash", "fmha", "attention", "softmax"),
    "matrix products": ("gemm", "mm", "nvjet", "cutlass", "linear", "scaled"),
    "copies": ("copy", "cat", "memcpy", "memset", "index", "gather"),
}


def scored(engine: Engine, contexts: list[list[int]], rows: list[Encoded]) -> tuple[NDArray[np.float64], float]:
    """(contexts, rows) NLLs, and pairs a second after a warm-up."""
    engine.mean_nll(contexts[0], rows)
    started = time.perf_counter()
    found = np.array([engine.mean_nll(context, rows) for context in contexts])
    return found, found.size / (time.perf_counter() - started)


def float8(
    engine: Engine, contexts: list[list[int]], rows: list[Encoded], usual: NDArray[np.float64], speed: float
) -> dict[str, Any]:
    """The same pairs with the linear layers in float8, against their NLLs and speed in bfloat16."""
    device, alone = engine.model.device, engine.mean_nll([], rows)
    why = unsupported(Low.float8, device)
    if why and device.type == "cuda":
        return {"unsupported": why}
    layers = replace_linears(engine.model, Low.float8)
    low, low_speed = scored(engine, contexts, rows)
    apart = (low - usual) - (low - usual).mean()
    # a control is the same for all candidates here: it is no part of how they differ
    check = compared(-np.exp(usual - alone), -np.exp(low - alone), len(rows), FidelityConfig())
    timed = {"pairs_per_s": round(low_speed, 2), "over_bfloat16": round(low_speed / speed, 3)}
    rms = round(float(np.sqrt((apart**2).mean())), 6)
    return {"layers": layers, "rms_nll": rms, **check, **({"reference": True} if why else timed)}


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
    torch.manual_seed(0)
    model = random_model(SHAPES[shape], device, torch.bfloat16)
    layout = cast(Layout, SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0)))
    engine = Engine(model, layout, resolved(IconConfig()), TokenBudget(model, None if device.type == "cuda" else 2048))
    usual, speed = scored(engine, contexts, assessment)
    shares = kernels(engine, contexts[0], assessment)
    low = float8(engine, contexts, assessment, usual, speed)
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
        "float8": low,
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
