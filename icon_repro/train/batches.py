"""Choose the rows of each optimizer step, the same for any number of processes.

In: tokenised rows.  Out: a trainer whose steps hold the same rows however many processes share them.
Differs: accelerate fills the last batches of an epoch up with rows of its beginning, which are then trained on twice,
by a number of processes other than 1; here rows without a label fill them up, and add nothing.
"""

from collections.abc import Iterator
from typing import Any

import torch.distributed
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from icon_repro.lm.tokens import IGNORED


class TrainError(ValueError):
    """The data or settings can't be trained on."""


def fillers(rows: int, micro_batch: int, processes: int) -> int:
    """Rows without a label that an epoch of ``rows`` needs for all processes to have as many whole micro-batches."""
    return -rows % (micro_batch * processes) if processes > 1 else 0


def filler(token: int) -> dict[str, list[int]]:
    """One row without a label; no row of the data is as short, as a prompt comes before its labels."""
    return {"input_ids": [token], "labels": [IGNORED]}


class CheckedCollator(DataCollatorForLanguageModeling):
    """TRL's collator; refuses a batch without a label, whose loss would be 0 or NaN and teach nothing."""

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        rows = [row for row in examples if len(row["input_ids"]) > 1]  # the others fill the batch up
        if rows and not (batch["labels"] != IGNORED).any():
            raise TrainError(f"a batch of {len(examples)} rows has no label: all tokens are masked. Raise max_length.")
        return dict(batch)


class FilledOrder(Sampler[int]):
    """The order of a training in one process, then what fills the last batches up.

    Args:
        rows: of the data; what fills up stands behind them.
    """

    def __init__(self, rows: int, more: int, seed: int) -> None:
        self.rows, self.more = rows, more
        self.order = SeedableRandomSampler(range(rows), data_seed=seed)

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from range(self.rows, self.rows + self.more)

    def __len__(self) -> int:
        return self.rows + self.more

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)


class TuningTrainer(SFTTrainer):
    """TRL's trainer with our order of rows in several processes.

    Args:
        rows: of the data, without what fills up.
        weights: of the model without its embeddings, where the model can't say (ZeRO-3 holds parts of them), else None.
    """

    def __init__(self, *, rows: int, weights: int | None, **more: Any) -> None:
        self.rows, self.weights, self.decays = rows, weights, list[float]()
        super().__init__(**more)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.world_size == 1:
            return super()._get_train_sampler(train_dataset)
        return FilledOrder(self.rows, len(self.train_dataset) - self.rows, self.args.data_seed)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.world_size > 1:  # trainer_state.json, which says that a checkpoint is whole, is written next
            torch.distributed.barrier()

    def create_scheduler(self, *args: Any, **more: Any) -> Any:
        self.decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        return super().create_scheduler(*args, **more)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_deepspeed_enabled and checkpoint is not None:  # what a universal checkpoint of ZeRO-3 mixes up
            for group, decay in zip(self.optimizer.param_groups, self.decays, strict=True):
                group["weight_decay"] = decay  # all groups have that of the first
            for state in self.optimizer.state.values():
                if torch.is_tensor(state.get("step")):
                    state["step"] = state["step"].clone()  # all groups count in the same tensor

    def floating_point_ops(self, inputs: Any) -> int:
        if self.weights is None:
            return int(super().floating_point_ops(inputs))
        return 6 * inputs["input_ids"].numel() * self.weights  # as transformers counts
