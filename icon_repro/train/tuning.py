"""Train in one process: the only one, or one of several that each take their share of every batch.

In, out, source: see ``icon_repro.train``. The first process writes.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig as PeftLora
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig

import icon_repro.train.zero as zero
from icon_repro.data.cost import training_flops
from icon_repro.data.options import Dtype
from icon_repro.data.prompts import tuning_template
from icon_repro.data.rows import Example
from icon_repro.engine.console import LOG
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import (
    SealCheckpoints,
    after_epoch,
    checkpoints,
    peft_lora,
    remove_checkpoints,
    tidy,
    unknown_target,
)
from icon_repro.lm.labels import tokenise
from icon_repro.lm.load import load_model, load_tokenizer, positions_of, prepare_device
from icon_repro.lm.processes import common_settings, pin
from icon_repro.lm.stopping import StopOnRequest, end_if_stopped
from icon_repro.lm.tokens import control_tokens
from icon_repro.train.batches import CheckedCollator, TrainError, TuningTrainer, filler, fillers
from icon_repro.train.callbacks import KeepEpochs, Report, SaveEpochs
from icon_repro.train.options import DeepspeedConfig, TrainConfig, TrainJob, Tuning, warm_up


def tune(job: TrainJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Tune the model as one of ``cluster.processes`` processes, which torch's environment variables number.

    Returns:
        Metrics of the whole training, in each process.
    """
    train, cluster = job.train, runtime.cluster
    device = prepare_device(cluster)
    tokenizer = load_tokenizer(inputs["model"])
    data, notes = _rows(train, inputs, tokenizer)
    deepspeed = zero.used(train, cluster.processes, device, out)
    earlier = next(reversed(checkpoints(out)), None)
    epoch_steps = math.ceil(len(data) / train.global_batch_size)
    steps = math.ceil(epoch_steps * train.epochs)
    arguments = _arguments(job, steps, runtime, out, device, deepspeed, earlier)
    first = arguments.process_index == 0
    set_seed(job.seed)
    model = load_model(inputs["model"], Dtype.float32, arguments.device, cluster.attention)
    _check_length(train, data, model)
    model.config.use_cache = False
    parameters = zero.weights_of(model)
    saver = _Saver(train, tokenizer, inputs["model"], out)
    padding_rows = fillers(len(data), cluster.micro_batch_size, cluster.processes)
    with runtime.progress(steps, "step") as progress:
        trainer = TuningTrainer(
            rows=len(data),
            weights=zero.weights_of(model, embeddings=False) if deepspeed and deepspeed.stage == 3 else None,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([*data, *[filler(tokenizer.pad_token_id)] * padding_rows]),
            processing_class=tokenizer,
            data_collator=CheckedCollator(pad_token_id=tokenizer.pad_token_id),
            peft_config=_peft(train, model),
            callbacks=[
                Report(progress if first else None, padding_rows, epoch_steps),
                SealCheckpoints(),
                StopOnRequest(runtime),
                *([SaveEpochs(train.kept_epochs, epoch_steps, saver.epoch)] if train.kept_epochs and first else []),
                *([KeepEpochs(out / "epochs")] if train.keep_epochs and first else []),
            ],
        )
        trainable = sum(zero.size(p) for p in trainer.model.parameters() if p.requires_grad)
        if not first:
            torch.manual_seed(job.seed + arguments.process_index)  # dropout hits other weights in each process
        if first:
            zero.note_saver(out, cluster.processes, deepspeed)
        trainer.train(resume_from_checkpoint=str(earlier) if earlier else None)
    end_if_stopped(trainer)
    whole = trainer.accelerator.get_state_dict(trainer.deepspeed) if deepspeed else None  # by all processes together
    log = trainer.state.log_history
    if first:
        model.config.use_cache = True
        saver.save(trainer.model, out, **({"state_dict": whole} if deepspeed else {}))
        write_rows(out / "log.jsonl", log)
        write_json(out / "report.json", notes)
        remove_checkpoints(out)
    logged = [entry for entry in log if "loss" in entry]
    tokens = sum(entry["tokens"] for entry in logged)
    return {
        "rows": len(data),
        "rows_cut": len(notes["cut"]),
        "rows_with_control": len(notes["control"]),
        "rows_with_unknown": len(notes["unknown"]),
        "dropped": {"no response token within max_length": len(notes["dropped"])},
        "processes": cluster.processes,
        "zero_stage": deepspeed.stage if deepspeed else 0,  # that was used, whatever is configured
        "steps": trainer.state.global_step,
        "loss": sum(entry["loss"] for entry in logged) / len(logged),
        "trainable_parameters": trainable,
        "tokens": tokens,
        "flops": training_flops(parameters, tokens, frozen=train.tuning is Tuning.lora),
        "trainer_flops": trainer.state.total_flos,  # 6 N a token, padding included, without embeddings
    }


def _rows(
    train: TrainConfig, inputs: Mapping[str, Path], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[dict[str, list[int]]], dict[str, list[str]]]:
    """The selected rows as tokens, and the ids of those that are cut or dropped.

    Raises:
        TrainError: an id is unknown, the tokenizer has no end token, or no row has a response within max_length.
    """
    rows = {row.id: row for row in read_rows(inputs["candidates"] / "rows.jsonl", Example)}
    chosen = read_json(inputs["ids"] / "ids.json") if "ids" in inputs else sorted(rows)
    if unknown := [i for i in chosen if i not in rows]:
        raise TrainError(f"{len(unknown)} selected ids aren't candidates (first: {unknown[0]!r}).")
    if tokenizer.eos_token_id is None:
        raise TrainError(
            "the model's tokenizer has no end token: a model tuned with it would never learn to stop. Name one as "
            "eos_token in its tokenizer_config.json."
        )
    # sorted: the order of training comes from the seed alone, not from the scores
    data, notes = tokenise([rows[i] for i in sorted(chosen)], tokenizer, train.max_length)
    controls = control_tokens(tokenizer)
    notes["control"] = [
        i
        for i in sorted(chosen)
        if controls is not None and controls.search(f"{rows[i].instruction}\n{rows[i].input}\n{rows[i].response}")
    ]
    if not data:
        raise TrainError(f"none of {len(chosen)} rows has a response token within max_length={train.max_length}.")
    if notes["control"]:
        LOG.warning(
            "%s",
            f"{len(notes['control']):,} of {len(chosen):,} selected rows hold names of control tokens (first: "
            f"{notes['control'][0]!r}): they are read as letters.",
        )
    if notes["unknown"]:
        LOG.warning(
            "%s",
            f"{len(notes['unknown']):,} of {len(chosen):,} selected rows hold letters that the model's tokenizer "
            f"doesn't know (first: {notes['unknown'][0]!r}): it learns its unknown token in their place.",
        )
    if notes["dropped"] or notes["cut"]:
        LOG.warning(
            "%s",
            f"of {len(chosen):,} selected rows, {len(notes['dropped']):,} aren't trained on (no response token within "
            f"training.max_length={train.max_length}) and {len(notes['cut']):,} are cut.",
        )
    return data, notes


def _check_length(train: TrainConfig, data: Sequence[Mapping[str, list[int]]], model: PreTrainedModel) -> None:
    """Refuse rows that are longer than the model has positions."""
    longest, positions = max(len(row["input_ids"]) for row in data), positions_of(model)
    if positions is not None and longest > positions:
        raise TrainError(
            f"training.max_length={train.max_length}: a row takes {longest} tokens, the model has {positions} "
            "positions. Lower training.max_length."
        )


def cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights in another dtype, in main memory; those that are one tensor under two names stay one."""
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for weights in state.values():
        if (weights.data_ptr(), weights.shape) not in copies:
            other = weights.detach().to("cpu", dtype if weights.is_floating_point() else weights.dtype)
            copies[weights.data_ptr(), weights.shape] = other
    return {name: copies[weights.data_ptr(), weights.shape] for name, weights in state.items()}


@dataclass(frozen=True)
class _Saver:
    """Writes a tuned model as ``lm.load`` reads it."""

    train: TrainConfig
    tokenizer: PreTrainedTokenizerBase
    model: Path  # folder of the model that is tuned
    out: Path

    def save(self, tuned: PreTrainedModel, folder: Path, **options: Any) -> None:
        """Write weights or an adapter to ``folder``, with the tokenizer and the prompt of tuning."""
        target = folder / ("adapter" if self.train.tuning is Tuning.lora else "weights")
        dtype = self.train.save_dtype
        if dtype is not Dtype.float32:
            state = options.get("state_dict") or tuned.state_dict()
            options["state_dict"] = cast(state, getattr(torch, dtype.value))
        tuned.save_pretrained(target, **options)
        if dtype is not Dtype.float32:  # else it says what the weights were in during training
            write_json(target / "config.json", {**read_json(target / "config.json"), "dtype": dtype.value})
        self.tokenizer.save_pretrained(target)
        # the tokenizer's own chat template isn't what was tuned on
        write_json(target / "prompt.json", tuning_template())
        if self.train.tuning is Tuning.lora:
            tidy(target, read_json(self.model / "model.json")["hub_id"])
        write_json(folder / "model.json", {"hub_id": None, "commit": None})  # where lm.load finds a fully tuned model

    def epoch(self, tuned: PreTrainedModel, epoch: int) -> None:
        """Write the weights after an epoch."""
        shutil.rmtree(after_epoch(self.out, epoch), ignore_errors=True)  # of an attempt that was stopped
        self.save(tuned, after_epoch(self.out, epoch))


def _peft(train: TrainConfig, model: PreTrainedModel) -> PeftLora | None:
    if train.tuning is Tuning.full:
        return None
    if problem := unknown_target(train.lora, model):
        raise TrainError(f"training.{problem}")
    return peft_lora(train.lora, "CAUSAL_LM")


def _arguments(
    cfg: TrainJob,
    steps: int,
    runtime: Runtime,
    out: Path,
    device: torch.device,
    deepspeed: DeepspeedConfig | None,
    earlier: Path | None,
) -> SFTConfig:
    """The trainer's settings, to go on from the checkpoint ``earlier``. Making them joins the other processes."""
    train, cluster = cfg.train, runtime.cluster
    offloaded = deepspeed is not None and deepspeed.offload and device.type == "cuda"
    several = {"ddp_find_unused_parameters": False, "ddp_backend": "gloo" if device.type == "cpu" else "nccl"}
    arguments = SFTConfig(
        per_device_train_batch_size=cluster.micro_batch_size,
        gradient_accumulation_steps=train.global_batch_size // (cluster.micro_batch_size * cluster.processes),
        num_train_epochs=train.epochs,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule.value,
        warmup_steps=warm_up(train.warmup_ratio, steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim="adamw_torch_fused" if offloaded else "adamw_torch",  # the former is fast on a CPU too
        bf16=train.dtype is Dtype.bfloat16 and deepspeed is None,  # else see zero.settings
        max_length=None,  # rows are cut already
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenise() masks the labels
        packing=False,
        deepspeed=zero.settings(deepspeed, train.dtype, device, resume=earlier) if deepspeed else None,
        **(several if cluster.processes > 1 else {}),
        **common_settings(out, cfg.seed, cluster, device),
    )
    if deepspeed is not None:
        zero.prepare(device)
    elif cluster.processes == 1:
        pin(arguments, device)
    if arguments.world_size != cluster.processes:
        raise TrainError(
            f"{arguments.world_size} processes found each other, not cluster.processes={cluster.processes}."
        )
    return arguments
