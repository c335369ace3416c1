"""Pairs a second and share of the device's peak, with a random model of 8B's shape.

Run: ``python experiments/scoring_cost/bench_gpu.py`` in a checkout.
In: a shape.  Out: a table; as the last line one JSON object. No download: weights, texts and lengths are random, with
the paper's mean lengths (assessment row 296 tokens of which 119 response, candidate 78). A pair is a candidate with an
assessment row: ``exact`` scores it after the candidate and after the candidate's own random text, ``shared`` after the
candidate only, as the noise bank's share is negligible.
The peak is that of a large matrix product in the same dtype; the model's share counts 2 operations a weight and token,
the head's only where a response token is predicted, and leaves attention out.
"""

import argparse
import json
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from icon_repro.data.options import Dtype
from icon_repro.lm.budget import TokenBudget, measured_peak
from icon_repro.lm.load import pick_device
from icon_repro.lm.tokens import Encoded
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import IconConfig, resolved
from icon_repro.methods.icon.pairs import Engine
from icon_repro.report.tables import markdown

SHAPES = {
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
_PROMPT, _RESPONSE, _CONTEXT = 177, 119, 78  # mean tokens with the Llama 3 tokenizer


def random_model(shape: dict[str, int], device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama of ``shape`` with random weights, made on ``device`` in ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=8192))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def random_rows(count: int, vocabulary: int, generator: np.random.Generator) -> list[Encoded]:
    """Assessment rows with log-normal lengths of prompt and response around the paper's means."""

    def lengths(mean: float) -> np.ndarray[Any, np.dtype[np.int64]]:
        drawn = generator.lognormal(np.log(mean) - 0.32, 0.8, count)
        return np.clip(drawn, 2, 1024).astype(np.int64)

    return [
        Encoded(generator.integers(3, vocabulary, prompt + response).tolist(), int(prompt))
        for prompt, response in zip(lengths(_PROMPT), lengths(_RESPONSE), strict=True)
    ]


def measure(
    shape: str, device: torch.device, dtype: Dtype, rows: int, candidates: int, tokens: int | None
) -> dict[str, Any]:
    """Score ``candidates`` x ``rows`` random pairs; seconds, pairs a second, share of the peak."""
    generator = np.random.default_rng(0)
    torch_dtype = getattr(torch, dtype.value)
    model = random_model(SHAPES[shape], device, torch_dtype)
    tokenizer = SimpleNamespace(pad_token_id=0)
    engine = Engine(
        model, cast(Layout, SimpleNamespace(tokenizer=tokenizer)), resolved(IconConfig()), TokenBudget(model, tokens)
    )
    vocabulary = SHAPES[shape]["vocab_size"]
    assessment = random_rows(rows, vocabulary, generator)
    contexts = [generator.integers(3, vocabulary, _CONTEXT).tolist() for _ in range(2 * candidates)]
    head = sum(p.numel() for p in model.lm_head.parameters())
    body = model.num_parameters() - 2 * head  # embeddings are looked up, the head runs on scored tokens only
    scored = sum(row.answer_tokens for row in assessment)
    through = sum(len(row.ids) + 1 for row in assessment)
    peak = measured_peak(device, torch_dtype, seconds=2.0)
    engine.mean_nll(contexts[0], assessment)  # warm
    found: dict[str, Any] = {"device": device.type, "dtype": dtype.value, "peak_tflops": round(peak / 1e12, 2)}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
    for name, used in (("exact", contexts), ("shared", contexts[:candidates])):
        start = time.perf_counter()
        for context in used:
            engine.mean_nll(context, assessment)
        seconds = time.perf_counter() - start
        flops = 2.0 * len(used) * (body * (through + _CONTEXT) + head * scored)
        found[name] = {
            "pairs_per_s": round(candidates * rows / seconds, 2),
            "tokens_per_s": round(len(used) * (through + _CONTEXT) / seconds, 1),
            "share_of_peak": round(flops / seconds / peak, 4),
            "seconds": round(seconds, 2),
        }
    found["batch_tokens"] = engine.budget.tokens
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=[d.value for d in Dtype], default="bfloat16")
    parser.add_argument("--rows", type=int, default=1020)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--batch-tokens", type=int, help="padded tokens of a batch; found from free memory if left out")
    given = parser.parse_args(arguments)
    device = pick_device(given.device)
    if given.shape == "8b" and device.type == "cpu":
        sys.stderr.write("error: the 8B shape takes 16 GB and hours on a CPU; use a GPU, or --shape tiny.\n")
        return 1
    result = measure(given.shape, device, Dtype(given.dtype), given.rows, given.candidates, given.batch_tokens)
    lines = [
        [name, *(f"{result[name][key]}" for key in ("pairs_per_s", "tokens_per_s", "share_of_peak"))]
        for name in ("exact", "shared")
    ]
    print(markdown(["level", "pairs/s", "tokens/s", "share of GEMM peak"], lines))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
