"""Make a trainer that is asked to stop save a checkpoint first.

In: the runtime of a step.  Out: a checkpoint that the next attempt resumes from, and Interrupted.
Source: a requeued job of Slurm has from some seconds to the lead time of its signal for it (slurm/README.md).
"""

from typing import Any

from transformers import Trainer, TrainerCallback

from icon_repro.engine.runtime import Interrupted, Runtime
from icon_repro.lm.processes import any_process


class StopOnRequest(TrainerCallback):
    """After the optimizer step in progress, has the trainer save and end; the last step is just finished.

    Of several processes one is enough to be asked: all end after the same step.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.runtime.defer_stop()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any_process(self.runtime.stop_requested()) and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


def end_if_stopped(trainer: Trainer) -> None:
    """End the stage of a trainer that left early.

    Raises:
        Interrupted: optimizer steps are left; the checkpoint of the last one is saved.
    """
    done, total = trainer.state.global_step, trainer.state.max_steps
    if done < total:
        raise Interrupted(f"stopped after {done} of {total} optimizer steps; their checkpoint is kept")
