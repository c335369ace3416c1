"""What perplexity, IFD and LESS's gradients cost, as a ratio to obvious loops.

Run: ``python experiments/method_cost/bench_methods.py`` in a checkout.
In: rows of the experiment ``study_cpu``, its model and a tiny one.  Out: a table; with --out table.md and
metrics.jsonl. In one process, with the same model and rows, one loop and the project's code after the other:

    perplexity  the response after its prompt. Loop: one row a forward pass, LM head at every position, as the published
                code. Ours: batches of similar length, LM head where a response token is predicted
    ifd         that and the response after "### Response:" alone: two passes a row
    gradients   of LoRA weights, for LESS. Loop: one row a backward pass. Ours: rows of similar length at once, by
                torch.func

Results that differ by more than 1e-5 end the run: of nats per token (of the NLL where it is above 1 nat), or of the
largest gradient.
Times are the least of two tries, in turns; on a CPU the processor's own, which leaves waiting out.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from peft import get_peft_model

from experiments.method_cost.rebuild import table as table_of
from icon_repro.config.compose import composed
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Store, ordered
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.lm.adapter import peft_lora
from icon_repro.lm.gradients import row_gradients
from icon_repro.lm.labels import tokenise
from icon_repro.lm.load import load_model, load_tokenizer, open_model, prepare_device
from icon_repro.lm.mean_nll import mean_nll_alone
from icon_repro.lm.tokens import Encoded, mask_labels
from icon_repro.methods.common.answers import encoded
from icon_repro.methods.common.options import AnswerPart, AnswersConfig
from icon_repro.methods.ifd.options import IfdConfig
from icon_repro.methods.less.options import LessConfig

_EQUAL = 1e-5
_NEIGHBOURS = 8
_PARTS = [AnswerPart.conditioned, AnswerPart.direct]
T = TypeVar("T")


class BenchError(ValueError):
    """The loop and the project's code don't agree, or there is nothing to time."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the loop and of ours on the same rows."""

    what: str
    model: str
    rows: int
    tokens: int  # of the rows, as the loop runs them
    loop_s: float
    ours_s: float
    difference: float  # largest, see above

    @property
    def ratio(self) -> float:
        return self.loop_s / self.ours_s


@dataclass(frozen=True)
class Prepared:
    """A model and rows on disk."""

    name: str
    model: Path
    rows: list[Example]  # sorted by length of the response
    less: LessConfig
    runtime: Runtime


def prepared(overrides: Sequence[str]) -> Prepared:
    """Model and candidates of ``study_cpu``, made if they aren't there."""
    config = composed("study_cpu", ["cluster.threads=1", *overrides])
    less = config.methods["less"]
    assert isinstance(less, LessConfig)
    store, cache = Store(Path(config.paths.work)), Path(config.paths.cache)
    shard = next(s for s in plan(config).steps if s.target.endswith("answers:shard"))
    needed = {name: shard.inputs[name] for name in ("model", "candidates")}
    summary = run(ordered(needed.values()), store, config.cluster, cache, print)
    if summary.failed:
        raise BenchError(f"could not prepare: {summary.failed}")
    found = read_rows(store.path(needed["candidates"]) / "rows.jsonl", Example)
    found.sort(key=lambda row: (len(row.response), row.id))
    runtime = Runtime(config.cluster, cache, "bench", terminal=None)
    return Prepared(config.model.name, store.path(needed["model"]), found, less, runtime)


def blocks(rows: Sequence[T], count: int, size: int) -> list[T]:
    """``size`` neighbours in the middle of each of ``count`` equal parts; all rows if there aren't as many."""
    if count * size >= len(rows):
        return list(rows)
    starts = [(2 * k + 1) * len(rows) // (2 * count) - size // 2 for k in range(count)]
    return [rows[start + i] for start in starts for i in range(size)]


def in_turns(slow: Callable[[], T], fast: Callable[[], T], device: torch.device) -> tuple[T, T, float, float]:
    """What both give, and their seconds: the least of two tries each, in turns."""
    tries = [(timed(slow, device), timed(fast, device)) for _ in range(2)]
    (slow_made, _), (fast_made, _) = tries[0]
    return slow_made, fast_made, min(a[1] for a, _ in tries), min(b[1] for _, b in tries)


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What ``work`` gives, and its seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        made = work()
        torch.cuda.synchronize(device)
        return made, time.perf_counter() - start
    start = time.process_time()
    return work(), time.process_time() - start


def nll_loop(model: Any, items: Sequence[Encoded]) -> NDArray[np.float64]:
    """Mean NLLs by transformers' own loss, one row a forward pass."""
    found = []
    for item in items:
        ids = torch.tensor([item.ids], device=model.device)
        labels = torch.tensor([mask_labels(item.ids, item.answer_start)], device=model.device)
        with torch.inference_mode():
            found.append(float(model(input_ids=ids, labels=labels, use_cache=False).loss))
    return np.array(found)


def nll_timings(given: Prepared, rows: int) -> list[Timing]:
    """Perplexity and IFD of ``rows`` rows of all lengths, with neighbours in length as in a shard of many rows.

    Raises:
        BenchError: NLLs differ, or no row can be scored.
    """
    tokenizer = load_tokenizer(given.model)
    answers = AnswersConfig(_PARTS, direct=IfdConfig().direct)
    picked = blocks(given.rows, -(-rows // _NEIGHBOURS), _NEIGHBOURS)
    made = [item for row in picked if not isinstance(item := encoded(row, answers, tokenizer), str)]
    if not made:
        raise BenchError(f"{given.name}: none of {len(picked)} rows can be scored.")
    model, budget = open_model(given.model, Dtype.float32, given.runtime)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    loops, ours, differences, tokens = [], [], [], []
    for part in _PARTS:
        items = [item[part] for item in made]
        nll_loop(model, items[:1])  # what is made once
        mean_nll_alone(model, pad, items[:1], budget)
        slow, fast, loop_s, ours_s = in_turns(
            partial(nll_loop, model, items), partial(mean_nll_alone, model, pad, items, budget), model.device
        )
        differences.append(agree(f"{given.name}, {part.value}", np.max(np.abs(slow - fast) / np.maximum(slow, 1.0))))
        loops.append(loop_s)
        ours.append(ours_s)
        tokens.append(sum(len(item.ids) for item in items))
    return [
        Timing("perplexity", given.name, len(made), tokens[0], loops[0], ours[0], differences[0]),
        Timing("ifd", given.name, len(made), sum(tokens), sum(loops), sum(ours), max(differences)),
    ]


def gradient_loop(model: torch.nn.Module, rows: Sequence[dict[str, list[int]]]) -> torch.Tensor:
    """(rows, weights): gradients by transformers' own loss, one row a backward pass."""
    named = sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)
    device, found = named[0][1].device, []
    for row in rows:
        model.zero_grad()
        ids, labels = (torch.tensor([row[key]], device=device) for key in ("input_ids", "labels"))
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        found.append(torch.cat([p.grad.flatten() for _, p in named if p.grad is not None]))
    return torch.stack(found)


def gradient_timing(given: Prepared, count: int, batch: int) -> Timing:
    """Gradients of ``count`` batches of ``batch`` rows of similar length, as LESS takes them.

    Raises:
        BenchError: gradients differ, or are all zero.
    """
    device = prepare_device(given.runtime.cluster)
    attention = "eager" if device.type == "cpu" else given.runtime.cluster.attention
    base = load_model(given.model, Dtype.float32, device, attention)
    model = get_peft_model(base, peft_lora(given.less.lora, "CAUSAL_LM", dropout=0.0)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # LoRA starts with B = 0, where A has no gradient
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    rows, _ = tokenise(given.rows, load_tokenizer(given.model), given.less.max_length)
    rows = blocks(sorted(rows, key=lambda row: len(row["input_ids"])), count, batch)
    gradients = row_gradients(model)

    def batches() -> torch.Tensor:
        return torch.cat([gradients(rows[first : first + batch]) for first in range(0, len(rows), batch)])

    gradients(rows[:1])  # what is made once
    gradient_loop(model, rows[:1])
    slow, fast, loop_s, ours_s = in_turns(partial(gradient_loop, model, rows), batches, device)
    scale = float(slow.abs().max())
    if not scale > 0:
        raise BenchError(f"{given.name}: all gradients are 0.")
    difference = agree(f"{given.name}, gradients", float((fast - slow).abs().max()) / scale)
    tokens = sum(len(row["input_ids"]) for row in rows)
    return Timing(f"gradients, {batch} rows at once", given.name, len(rows), tokens, loop_s, ours_s, difference)


def agree(what: str, difference: float) -> float:
    """``difference``, unless it is beyond rounding."""
    if not difference <= _EQUAL:
        raise BenchError(f"{what}: the loop and ours differ by {difference:.1e}, more than {_EQUAL:.0e}.")
    return float(difference)


def table(timings: Sequence[Timing]) -> str:
    """The timings as a Markdown table."""
    return table_of([stored(one) for one in timings])


def stored(timing: Timing) -> dict[str, Any]:
    """As a line of metrics.jsonl."""
    return {**asdict(timing), "ratio": timing.ratio}


def main(arguments: list[str] | None = None) -> int:
    """Time all and print it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the experiment study_cpu, key=value")
    parser.add_argument("--rows", type=int, default=32, help="for perplexity and IFD; of the tiny model, times 4")
    parser.add_argument("--gradient-batches", type=int, default=2, help="4 rows each; of the tiny model, 32")
    parser.add_argument("--tiny", type=Path, default=Path("../shared/golden/tiny_llama"), help="folder of a tiny model")
    parser.add_argument("--out", type=Path, help="folder for table.md and metrics.jsonl")
    given = parser.parse_args(arguments)
    local = [f"model.{key}" for key in ("kind=local", f"path={given.tiny}", f"name={given.tiny.name}")]
    try:
        large, tiny = prepared(given.overrides), prepared([*local, *given.overrides])
        timings = [*nll_timings(large, given.rows), *nll_timings(tiny, 4 * given.rows)]
        timings.append(gradient_timing(large, given.gradient_batches, 4))
        timings.append(gradient_timing(tiny, given.gradient_batches, 32))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    text = table(timings)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        write_rows(given.out / "metrics.jsonl", (stored(one) for one in timings))
        (given.out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
