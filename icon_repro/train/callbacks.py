"""Note what happens while a model is tuned: progress, loss and tokens of steps, weights and moments of epochs.

In: the trainer's callbacks.  Out: lines of progress, the trainer's log, epochs/epoch-N/.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import TrainerCallback

from icon_repro.engine.progress import Progress
from icon_repro.engine.records import write_json
from icon_repro.train.batches import TrainError


class Report(TrainerCallback):
    """Progress of the optimizer steps; tokens of each step in the log; an end at the first loss that isn't finite.

    Args:
        progress: None in a process other than the first.
        fillers: rows of one token that end an epoch of ``epoch_steps`` steps and aren't of the data.
    """

    def __init__(self, progress: Progress | None, fillers: int, epoch_steps: int) -> None:
        self.progress, self.fillers, self.epoch_steps = progress, fillers, epoch_steps
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.progress is not None:
            self.progress.advance(state.global_step)  # more than 0 after resuming

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        entry = state.log_history[-1]
        if "loss" not in entry:  # the summary at the end
            return
        if not (math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"])):
            raise TrainError(
                f"step {entry['step']}: loss {entry['loss']}, gradient norm {entry['grad_norm']}. "
                "Lower training.learning_rate, or set training.dtype=float32."
            )
        total = round(entry.pop("num_tokens"))  # TRL's sum over processes, which starts at 0 again after resuming
        entry["tokens"] = total - self.tokens - (0 if entry["step"] % self.epoch_steps else self.fillers)
        self.tokens = total
        if self.progress is not None:
            self.progress.advance(1, entry["tokens"])


class SaveEpochs(TrainerCallback):
    """Has ``save`` write the model after some epochs, before a checkpoint of the epoch's last step is written.

    A training that goes on from that checkpoint then has them.

    Args:
        epoch_steps: optimizer steps in an epoch.
    """

    def __init__(self, epochs: Sequence[int], epoch_steps: int, save: Callable[[Any, int], None]) -> None:
        self.epochs, self.epoch_steps, self.save = epochs, epoch_steps, save

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch, left = divmod(state.global_step, self.epoch_steps)
        if not left and epoch in self.epochs:
            self.save(kwargs["model"], epoch)


class KeepEpochs(TrainerCallback):
    """After each epoch: trainable weights and Adam's moments by parameter name, and the epoch's mean learning rate.

    Each process holds all of them, as DeepSpeed, which splits them, isn't used with it (see ``config.load``).
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        number = round(state.epoch)
        if state.epoch != number and state.global_step < state.max_steps:  # asked to stop within an epoch
            return
        weights, moments = {}, {}
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                weights[name] = parameter.detach().cpu().contiguous()
                for moment in ("exp_avg", "exp_avg_sq"):
                    moments[f"{name}.{moment}"] = inner.state[parameter][moment].detach().cpu().contiguous()
        folder = self.out / f"epoch-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "weights.safetensors")
        save_file(moments, folder / "adam.safetensors")
        steps_each = state.max_steps / args.num_train_epochs
        first, last = (number - 1) * steps_each, number * steps_each
        rates = [e["learning_rate"] for e in state.log_history if "loss" in e and first < e["step"] <= last]
        write_json(folder / "epoch.json", {"learning_rate": sum(rates) / len(rates), "step": state.global_step})
