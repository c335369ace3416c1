"""Tune a model on selected rows with TRL: LoRA or all weights, in this process or in several.

In: model, candidates, and the selected ids (none: all candidates).  Out: adapter/ (LoRA) or weights/ (full), both
safetensors, with tokenizer and prompt.json, the template of tuning; log.jsonl with loss and tokens of each step;
report.json; with ``keep_epochs`` epochs/epoch-N/, what a gradient in the direction of Adam needs; with ``kept_epochs``
after-epoch-N/, the model after these epochs, laid out as the last.
Source: Stanford Alpaca's recipe as arXiv 2505.05327 uses it: its template, loss on the response and eos only; all
weights with DeepSpeed ZeRO-3 and offload.
Differs: rows without a response token within ``max_length`` are dropped and counted; Alpaca trains on nothing there.
Known gap: the processes of a training run on one machine.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import icon_repro.train.zero as zero
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import pick_device
from icon_repro.train.batches import TrainError
from icon_repro.train.launch import MESSAGES, ProcessError, in_processes
from icon_repro.train.options import TrainJob
from icon_repro.train.tuning import tune

__all__ = ["ProcessError", "TrainError", "run"]


def run(cfg: TrainJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Tune the model. Needs inputs["model"], inputs["candidates"]; inputs["ids"] restricts the rows."""
    processes = runtime.cluster.processes
    deepspeed = zero.used(cfg.train, processes, pick_device(runtime.cluster.device), out)
    zero.make_resumable(out, processes, deepspeed)
    shutil.rmtree(out / MESSAGES, ignore_errors=True)  # of a killed attempt
    if processes > 1 or deepspeed is not None:
        return in_processes(cfg, inputs, out, runtime)
    return tune(cfg, inputs, out, runtime)
