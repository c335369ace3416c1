"""Hand a loaded model to lm-eval: through transformers, or through vLLM.

In: a model step, maybe a train step.  Out: lm-eval's model object; an adapter is merged in either case.
Source: lm-eval 0.4.13.
Known gap: vLLM was not at hand; only what is passed to lm-eval's class is tested. One GPU.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.options import Backend, EvaluationJob
from icon_repro.evaluate.tasks import EvaluationError
from icon_repro.lm.generate import drop_own_settings
from icon_repro.lm.load import load_tokenizer, load_tuned, positions_of, prepare_device
from icon_repro.lm.tokens import end_ids


def open_backend(cfg: EvaluationJob, inputs: Mapping[str, Path], runtime: Runtime, stack: ExitStack) -> Any:
    """lm-eval's model. Needs inputs["model"]; inputs["tuned"] is a train step.

    Args:
        stack: closed when the model is no longer needed.
    """
    cluster = runtime.cluster
    tokenizer = load_tokenizer(inputs["model"])
    if ends := end_ids(tokenizer):
        # lm-eval tokenises a question with and without its answer: the end of the one would stand in the other
        raise EvaluationError(
            f"the tokenizer puts {tokenizer.decode(ends)!r} after each text, which lm-eval would take for a part of an "
            "answer. Set add_eos_token to false in its tokenizer_config.json, and take the token out of the "
            "post_processor in its tokenizer.json."
        )
    if cfg.backend is Backend.hf:
        device = prepare_device(cluster)
        model: Any = load_tuned(inputs["model"], inputs.get("tuned"), cfg.dtype, device, cluster.attention)
        positions = positions_of(model)
        if positions is not None and cfg.max_length > positions:
            raise EvaluationError(
                f"evaluation.max_length={cfg.max_length}: the model has {positions} positions. Lower "
                f"evaluation.max_length to {positions} or less."
            )
        drop_own_settings(model, tokenizer)
        tokenizer.split_special_tokens = True  # "</s>" in an item is letters, as in all texts
        return HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=cluster.eval_batch_size, max_length=cfg.max_length
        )
    from lm_eval.models.vllm_causallms import VLLM  # optional; requirements.missing has looked for it

    # beside the caches: /tmp is too small for a model on many clusters
    runtime.cache.mkdir(parents=True, exist_ok=True)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vllm-", dir=runtime.cache))
    load_tuned(inputs["model"], inputs.get("tuned"), cfg.dtype, torch.device("cpu"), cluster.attention).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return VLLM(
        pretrained=folder, dtype=cfg.dtype.value, max_model_len=cfg.max_length, seed=cfg.seed, batch_size="auto"
    )
