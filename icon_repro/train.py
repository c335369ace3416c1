"""Instruction tuning on selected rows through TRL: LoRA or all weights.

In: model, candidates, and the selected ids (none: all candidates).  Out: adapter/ (LoRA) or weights/ (full), both
safetensors; log.jsonl with loss and tokens of each step; report.json; with ``keep_epochs`` epochs/epoch-N/, what a
gradient in the direction of Adam needs.
Source: Stanford Alpaca's recipe as arXiv 2505.05327 uses it: its template, loss on the response and eos only.
Differs: rows without a response token within ``max_length`` are dropped and counted; Alpaca trains on nothing there.
Known gap: one process; several GPUs come with the cluster stage.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig as PeftLora
from safetensors.torch import save_file
from transformers import PreTrainedModel, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from icon_repro.config_data import Dtype, TrainConfig, TrainJob, Tuning
from icon_repro.cost import training_flops
from icon_repro.engine.progress import Progress
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import checkpoints, peft_lora, remove_checkpoints, tidy, unknown_target
from icon_repro.lm.load import load_model, load_tokenizer, prepare_device
from icon_repro.lm.stopping import StopOnRequest, end_if_stopped
from icon_repro.lm.supervised import tokenise
from icon_repro.lm.tokens import IGNORED
from icon_repro.records import Example, read_json, read_rows, write_json, write_rows


class TrainError(ValueError):
    """The data or settings can't be trained on."""


class CheckedCollator(DataCollatorForLanguageModeling):
    """TRL's collator; refuses a batch without a label, whose loss would be 0 or NaN and teach nothing."""

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        if not (batch["labels"] != IGNORED).any():
            raise TrainError(f"a batch of {len(examples)} rows has no label: all tokens are masked. Raise max_length.")
        return dict(batch)


class _Report(TrainerCallback):
    """Progress of the optimizer steps; tokens of each step in the log; an end at the first loss that isn't finite."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.tokens = progress, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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
        total = round(entry.pop("num_tokens"))  # TRL's sum, which starts at 0 again after resuming
        entry["tokens"] = total - self.tokens
        self.tokens = total
        self.progress.advance(1, entry["tokens"])


class _KeepEpochs(TrainerCallback):
    """After each epoch: trainable weights and Adam's moments by parameter name, and the epoch's mean learning rate."""

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


def run(cfg: TrainJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Tune the model. Needs inputs["model"], inputs["candidates"]; inputs["ids"] restricts the rows."""
    train, cluster = cfg.train, runtime.cluster
    device = prepare_device(cluster)
    rows = {row.id: row for row in read_rows(inputs["candidates"] / "rows.jsonl", Example)}
    chosen = read_json(inputs["ids"] / "ids.json") if "ids" in inputs else sorted(rows)
    if unknown := [i for i in chosen if i not in rows]:
        raise TrainError(f"{len(unknown)} selected ids aren't candidates (first: {unknown[0]!r}).")
    tokenizer = load_tokenizer(inputs["model"])
    # sorted: the order of training comes from the seed alone, not from the scores
    data, notes = tokenise([rows[i] for i in sorted(chosen)], tokenizer, train.max_length)
    if not data:
        raise TrainError(f"none of {len(chosen)} rows has a response token within max_length={train.max_length}.")
    set_seed(cfg.seed)
    model = load_model(inputs["model"], Dtype.float32, device, cluster.attention)
    model.config.use_cache = False
    parameters = model.num_parameters()
    batch = train.global_batch_size
    accumulation = batch // cluster.micro_batch_size
    steps = math.ceil(math.ceil(len(data) / batch) * train.epochs)
    with runtime.progress(steps, "step") as progress:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(train, cfg.seed, accumulation, runtime, out, device),
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
            data_collator=CheckedCollator(pad_token_id=tokenizer.pad_token_id),
            peft_config=_peft(train, model),
            callbacks=[
                _Report(progress),
                StopOnRequest(runtime),
                *([_KeepEpochs(out / "epochs")] if train.keep_epochs else []),
            ],
        )
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        earlier = checkpoints(out)
        trainer.train(resume_from_checkpoint=str(earlier[-1]) if earlier else None)
    end_if_stopped(trainer)
    target = out / ("adapter" if train.tuning is Tuning.lora else "weights")
    model.config.use_cache = True
    trainer.model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    if train.tuning is Tuning.lora:
        tidy(target, read_json(inputs["model"] / "model.json")["hub_id"])
    log = trainer.state.log_history
    logged = [entry for entry in log if "loss" in entry]
    tokens = sum(entry["tokens"] for entry in logged)
    write_json(out / "model.json", {"hub_id": None, "commit": None})  # where lm.load finds a fully tuned model
    write_rows(out / "log.jsonl", log)
    write_json(out / "report.json", notes)
    remove_checkpoints(out)
    return {
        "rows": len(data),
        "rows_cut": len(notes["cut"]),
        "dropped": {"no response token within max_length": len(notes["dropped"])},
        "steps": trainer.state.global_step,
        "loss": sum(entry["loss"] for entry in logged) / len(logged),
        "trainable_parameters": trainable,
        "tokens": tokens,
        "flops": training_flops(parameters, tokens, frozen=train.tuning is Tuning.lora),
    }


def _peft(train: TrainConfig, model: PreTrainedModel) -> PeftLora | None:
    if train.tuning is Tuning.full:
        return None
    if problem := unknown_target(train.lora, model):
        raise TrainError(f"training.{problem}")
    return peft_lora(train.lora, "CAUSAL_LM")


def _arguments(
    train: TrainConfig, seed: int, accumulation: int, runtime: Runtime, out: Path, device: torch.device
) -> SFTConfig:
    cluster = runtime.cluster
    return SFTConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=cluster.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=train.epochs,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule.value,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim="adamw_torch",
        bf16=train.dtype is Dtype.bfloat16,
        use_cpu=device.type == "cpu",
        activation_checkpointing=cluster.gradient_checkpointing,
        max_length=None,  # rows are cut already
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenise() masks the labels
        packing=False,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would put the mean of the losses before in place of a NaN
        save_strategy="steps" if cluster.checkpoint_steps else "no",
        save_steps=cluster.checkpoint_steps or 500,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
