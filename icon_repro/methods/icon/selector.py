"""Train ICon's selection model: a sequence classifier with LoRA that learns candidates' scores and scores the pool.

``train``.  In: model, order of the pool, scores of candidates.  Out: adapter/ (safetensors, the head included),
held_out.jsonl {id, score, predicted, response_chars}, log.jsonl.
``pool``.  In: model, selector, order.  Out: scores.npy, (rows,) float32; ids.json.  ``run`` joins them: scores.jsonl.
Source: arXiv 2505.05327, ICon-guided selection, and the released scripts.
Differs: regression on the rank and a trained head; a class for each fraction (D9) and the head left at its random
initialisation (D8), as released, are ``target=top_fraction`` and ``head=frozen``.
Known gap: one process, one GPU.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from icon_repro.data.cost import forward_flops, training_flops
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import SealCheckpoints, checkpoints, peft_lora, remove_checkpoints, tidy, unknown_target
from icon_repro.lm.budget import padded
from icon_repro.lm.load import adapted, load_classifier, load_tokenizer, positions_of, prepare_device
from icon_repro.lm.processes import common_settings, pin
from icon_repro.lm.stopping import StopOnRequest, end_if_stopped
from icon_repro.lm.tokens import pack
from icon_repro.methods.agreement import overlap
from icon_repro.methods.icon.options import (
    SelectorConfig,
    SelectorHead,
    SelectorJob,
    SelectorScores,
    SelectorShard,
    SelectorTarget,
)
from icon_repro.methods.icon.selector_data import (
    SelectorError,
    best,
    join_shards,
    quality,
    read_candidates,
    split,
    targets,
    token_ids,
)
from icon_repro.train.options import warm_up

_BATCH_TOKENS = 1024  # padded tokens in one scoring batch where the cluster leaves it open


def classify(model: PeftModel, ids: Tensor, lengths: Tensor, dtype: Dtype) -> Tensor:
    """(B, labels) float32 outputs of the head at each row's last token.

    The place comes from ``lengths``: transformers looks for the last token that isn't the pad token, which is the wrong
    one where a text ends with it, as with pad = eos. No token sees padding on its right, so no mask is needed. The head
    runs in float32 in any case: bfloat16 outputs have 8 bits, and ranks would tie.
    """
    classifier = model.get_base_model()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype is Dtype.bfloat16):
        hidden = classifier.base_model(input_ids=ids, use_cache=False).last_hidden_state
    last: Tensor = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
    output: Tensor = classifier.score(last.float())
    return output


@torch.inference_mode()
def predict(
    model: PeftModel,
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
    dtype: Dtype,
    budget: int | None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """(len(rows),) float32 scores: the regression's value, or the probability of class 1.

    Args:
        names: ids of the rows, for errors.
        budget: padded tokens in one batch; changes the last digits only.

    Raises:
        SelectorError: a score isn't finite.
    """
    model.eval()
    values = np.empty(len(rows), np.float32)
    for batch in pack([len(row) for row in rows], budget or _BATCH_TOKENS):
        ids, lengths = padded([rows[i] for i in batch])
        output = classify(model, ids.to(model.device), lengths.to(model.device), dtype)
        score = output[:, 0] if output.shape[1] == 1 else output.softmax(dim=1)[:, 1]
        values[batch] = score.cpu().numpy()
        if bad := [names[i] for i in batch if not np.isfinite(values[i])]:
            raise SelectorError(
                f"row {bad[0]!r}: its score is {values[names.index(bad[0])]} in {dtype.value}. Set "
                "selector.dtype=float32, or lower selector.learning_rate and train again."
            )
        if progress:
            progress.advance(len(batch), int(lengths.sum()))
    return values


class _Trainer(Trainer):
    """Mean loss over the rows of an optimizer step, however it is cut into micro batches; progress, tokens in the log,
    and an end at the first loss that isn't finite."""

    def __init__(self, dtype: Dtype, progress: Progress, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.dtype, self.progress, self.tokens = dtype, progress, 0
        self.model_accepts_loss_kwargs = True  # makes it pass the number of rows in the step

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        labels, lengths = inputs["labels"], inputs["lengths"]
        self.tokens += int(lengths.sum())
        output = classify(model, inputs["input_ids"], lengths, self.dtype)
        if labels.is_floating_point():
            return mse_loss(output[:, 0], labels, reduction="sum") / num_items_in_batch
        return cross_entropy(output, labels, reduction="sum") / num_items_in_batch

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        if "loss" in logs:  # not in the summary at the end
            if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
                raise SelectorError(
                    f"step {self.state.global_step}: loss {logs['loss']}, gradient norm {logs['grad_norm']}. "
                    "Lower selector.learning_rate, or set selector.dtype=float32."
                )
            logs["tokens"], self.tokens = self.tokens, 0
            self.progress.advance(1, logs["tokens"])
        super().log(logs, start_time)


def _collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids, lengths = padded([item["ids"] for item in items])
    return {"input_ids": ids, "lengths": lengths, "labels": torch.tensor([item["target"] for item in items])}


def _classifier(cfg: SelectorConfig, folder: Path, runtime: Runtime) -> PreTrainedModel:
    """The classifier without its adapter; one output to learn a rank, two for classes."""
    assert cfg.target is not None and cfg.head is not None, "resolved() fills them in"
    if cfg.dtype is Dtype.float16:
        raise SelectorError("selector.dtype='float16': needs loss scaling, which isn't built; use bfloat16 or float32.")
    labels = 1 if cfg.target is SelectorTarget.rank else 2
    return load_classifier(folder, labels, prepare_device(runtime.cluster), runtime.cluster.attention)


def _check_length(model: PreTrainedModel, rows: Sequence[Sequence[int]], option: str) -> None:
    longest = max(len(row) for row in rows)
    limit = positions_of(model) or longest
    if longest > limit:
        raise SelectorError(f"a row takes {longest} tokens, the model has {limit} positions. Lower selector.{option}.")


def _adapted(cfg: SelectorConfig, model: PreTrainedModel) -> PeftModel:
    """The classifier with LoRA. For SEQ_CLS peft makes a copy of the head that is trained and saved with the adapter;
    a frozen head is saved too, so that the pool meets the same one."""
    if problem := unknown_target(cfg.lora, model):
        raise SelectorError(f"selector.{problem}")
    adapted = get_peft_model(model, peft_lora(cfg.lora, "SEQ_CLS"))
    if cfg.head is SelectorHead.frozen:
        adapted.get_base_model().score.requires_grad_(False)
    return adapted


def _arguments(job: SelectorJob, steps: int, runtime: Runtime, out: Path, device: torch.device) -> TrainingArguments:
    cfg, cluster = job.selector, runtime.cluster
    micro = math.gcd(cfg.batch_size, cluster.micro_batch_size)
    arguments = TrainingArguments(
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=cfg.batch_size // micro,
        num_train_epochs=cfg.epochs,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=warm_up(cfg.warmup_ratio, steps),
        weight_decay=0.0,
        optim="adamw_torch",
        remove_unused_columns=False,
        label_names=["labels"],
        **common_settings(out, job.seed, cluster, device),
    )
    pin(arguments, device)
    return arguments


def train(cfg: SelectorJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Train one selection model and test it on held-out candidates. Needs inputs model, order, scores.

    Held-out rows are cut and scored as the pool's are. FLOPs are those of training.
    """
    selector = cfg.selector
    candidates, scores = read_candidates(inputs["order"], inputs["scores"])
    rows, held = split(candidates, selector.held_out)
    goals = targets(cfg, rows, scores)
    tokenizer = load_tokenizer(inputs["model"])
    ids, cuts = token_ids(tokenizer, rows, selector.max_length)
    held_ids, _ = token_ids(tokenizer, held, selector.pool_max_length)
    steps = math.ceil(math.ceil(len(rows) / selector.batch_size) * selector.epochs)
    set_seed(cfg.seed)  # decides the head's and LoRA's initial weights
    base = _classifier(selector, inputs["model"], runtime)
    _check_length(base, ids, "max_length")
    _check_length(base, held_ids, "pool_max_length")
    parameters = base.num_parameters()
    model = _adapted(selector, base)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with runtime.progress(steps, "step") as progress:
        trainer = _Trainer(
            dtype=selector.dtype,
            progress=progress,
            model=model,
            args=_arguments(cfg, steps, runtime, out, base.device),
            train_dataset=[{"ids": row, "target": goal} for row, goal in zip(ids, goals, strict=True)],
            data_collator=_collate,
            callbacks=[SealCheckpoints(), StopOnRequest(runtime)],
        )
        earlier = checkpoints(out)
        if earlier:
            progress.advance(int(earlier[-1].name.split("-")[1]))
        trainer.train(resume_from_checkpoint=str(earlier[-1]) if earlier else None)
    end_if_stopped(trainer)
    model.save_pretrained(out / "adapter", save_embedding_layers=False)
    tidy(out / "adapter", read_json(inputs["model"] / "model.json")["hub_id"])
    names = [row.id for row in held]
    predicted = predict(model, held_ids, names, selector.dtype, runtime.cluster.score_batch_tokens).tolist()
    write_rows(
        out / "held_out.jsonl",
        (
            {"id": row.id, "score": scores[row.id], "predicted": value, "response_chars": len(row.response)}
            for row, value in zip(held, predicted, strict=True)
        ),
    )
    log = trainer.state.log_history
    write_rows(out / "log.jsonl", log)
    remove_checkpoints(out)
    logged = [entry for entry in log if "loss" in entry]
    tokens = sum(entry["tokens"] for entry in logged)
    return {
        "rows": len(rows),
        "held_out": len(held),
        "rows_cut": sum(cut > 0 for cut in cuts),
        "tokens_cut": sum(cuts),
        "steps": trainer.state.global_step,
        "loss": sum(entry["loss"] for entry in logged) / len(logged),
        "trainable_parameters": trainable,
        "tokens": tokens,
        "flops": training_flops(parameters, tokens, frozen=True),
        **quality(held, predicted, scores, cfg.fractions),
    }


def pool(cfg: SelectorShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score rows ``start`` to ``stop`` of the order. Needs inputs model, selector, order."""
    rows = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    names, cuts = [row.id for row in rows], list[int]()
    values, parameters = np.empty(0, np.float32), 0
    with runtime.progress(len(rows), "row") as progress:
        if rows:
            ids, cuts = token_ids(load_tokenizer(inputs["model"]), rows, cfg.selector.pool_max_length)
            base = _classifier(cfg.selector, inputs["model"], runtime)
            _check_length(base, ids, "pool_max_length")
            parameters = base.num_parameters()
            model = adapted(base, inputs["selector"] / "adapter")
            values = predict(model, ids, names, cfg.selector.dtype, runtime.cluster.score_batch_tokens, progress)
    np.save(out / "scores.npy", values, allow_pickle=False)
    write_json(out / "ids.json", {"rows": names})
    return {
        "rows": len(rows),
        "rows_cut": sum(cut > 0 for cut in cuts),
        "tokens_cut": sum(cuts),
        "tokens": progress.tokens,
        "flops": forward_flops(parameters, progress.tokens),
    }


def run(cfg: SelectorScores, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl: the first model's scores, the others' as parts. Needs an input pool-s<model>-<shard> each."""
    folders: dict[int, dict[int, Path]] = {}
    for name, folder in inputs.items():
        if name.startswith("pool-"):
            match = re.fullmatch(r"pool-s(\d+)-(\d+)", name)
            if match is None:
                raise SelectorError(f"input {name!r}: must be named pool-s<model>-<shard>.")
            folders.setdefault(int(match[1]), {})[int(match[2])] = folder
    if len(folders) != cfg.repeats:
        raise SelectorError(f"scores of {len(folders)} models {sorted(folders)}, but repeats={cfg.repeats}.")
    first, *others = sorted(folders)
    scores = {model: join_shards([shards[number] for number in sorted(shards)]) for model, shards in folders.items()}
    for model in others:
        if odd := sorted(scores[model].keys() ^ scores[first].keys()):
            raise SelectorError(
                f"models {first} and {model} scored different rows: {len(odd)} by one of them only (first: "
                f"{odd[0]!r}). Delete the shards of one and run again."
            )
    shards = [folders[first][number] for number in sorted(folders[first])]
    parts = {f"seed{model}": scores[model] for model in others}
    if all((folder / "errors.npy").is_file() for folder in shards):  # of a probe
        parts["error"] = join_shards(shards, "errors.npy")
    rows = write_rows(
        out / "scores.jsonl",
        (Score(i, score, {name: part[i] for name, part in parts.items()}) for i, score in scores[first].items()),
    )
    agreement: dict[str, float | None] = {}
    for fraction in cfg.fractions:
        chosen = [best(values, fraction) for values in scores.values()]
        shared = [overlap(a, b) for a, b in itertools.combinations(chosen, 2)]
        agreement[f"overlap@{fraction:g}"] = sum(shared) / len(shared) if shared else None
    return {"rows": rows, **agreement, "tokens": 0, "flops": 0}
