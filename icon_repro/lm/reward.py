"""Score a prompt with its response by a reward model: a trained head on the state of the last token.

In: the folder of a model step, token ids of whole chats.  Out: (rows,) float64 rewards; of a gated model also its
attributes, (rows, objectives).
Source: Wang et al., arXiv 2406.12845 (ArmoRM); names and shapes of the weights, the gating network and where it reads
the prompt: configuration and module published with RLHFlow/ArmoRM-Llama3-8B-v0.1@eb2676d. That module is code in the
model's folder, which is never run here: the architecture is written out below.
Differs: heads stay float32 in every dtype of the backbone; the published example runs them in bfloat16.
Known gap: not compared with the published weights, which need a hub; tested on random weights in the same layout.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaModel,
    LlamaPreTrainedModel,
    PreTrainedModel,
)

from icon_repro.data.model_files import ModelError
from icon_repro.data.options import Dtype
from icon_repro.engine.progress import Progress
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.budget import TokenBudget, in_batches, padded, refuse_longer
from icon_repro.lm.load import budget_of, load_tokenizer, load_weights, location_of, positions_of, prepare_device

_GATED_SETTINGS = ("num_objectives", "gating_temperature", "gating_hidden_dim", "gating_n_hidden")


class Gating(nn.Module):
    """Weights of the objectives from the state of the prompt: a perceptron, softmax with a temperature, one scale."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        widths = [config.hidden_size, *[config.gating_hidden_dim] * config.gating_n_hidden, config.num_objectives]
        self.layers = nn.ModuleList(nn.Linear(inside, outside) for inside, outside in pairwise(widths))
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = float(config.gating_temperature)

    def forward(self, prompt: Tensor) -> Tensor:
        """(B, hidden size) to (B, objectives)."""
        *hidden, last = self.layers
        for layer in hidden:
            prompt = torch.relu(layer(prompt))
        return torch.softmax(last(prompt) / self.temperature, dim=1) * self.logit_scale[0]


class GatedRewardModel(LlamaPreTrainedModel):
    """ArmoRM: attributes of the response, mixed by weights that depend on the prompt."""

    _keep_in_fp32_modules_strict = ("regression_layer", "reward_transform_matrix", "gating")

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, config.num_objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.zeros(config.num_objectives, config.num_objectives))
        self.gating = Gating(config)
        self.post_init()

    def heads(self, response: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards (B,) and attributes (B, objectives).

        Args:
            response: (B, hidden size), states of the last tokens.
            prompt: (B, hidden size), states where the prompts end.
        """
        attributes = self.regression_layer(response)
        rewards = (self.gating(prompt) * (attributes @ self.reward_transform_matrix)).sum(dim=1)
        return rewards, attributes


def load_reward_model(
    folder: Path, dtype: Dtype, device: torch.device, attention: str = "sdpa", *, gated: bool
) -> PreTrainedModel:
    """The trained reward model of a model step, in eval mode on ``device``: gated, or a classifier with one label.

    Raises:
        ModelError: its configuration or its weights, by name and shape, aren't those of the architecture.
    """
    location = location_of(folder)
    name = location["pretrained_model_name_or_path"]
    config = AutoConfig.from_pretrained(**location)
    more: dict[str, Any] = {}
    if gated:
        if config.model_type != "llama":
            raise ModelError(f"{name}: architecture armorm has a Llama inside, not a {config.model_type}.")
        if missing := [setting for setting in _GATED_SETTINGS if not hasattr(config, setting)]:
            raise ModelError(
                f"{name}: config.json has no {', '.join(missing)}: it isn't of the architecture armorm. A reward model "
                "with a single output is of the architecture classifier."
            )
        kind = GatedRewardModel
    else:
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise ModelError(f"{name}: transformers has no sequence classifier of this architecture.")
        if config.num_labels != 1:
            raise ModelError(f"{name}: a classifier with {config.num_labels} labels; a reward model has one.")
        kind, more = AutoModelForSequenceClassification, {"pad_token_id": load_tokenizer(folder).pad_token_id}
    model: PreTrainedModel = load_weights(
        kind,
        folder,
        attention,
        dtype=getattr(torch, dtype.value),
        what="this reward model (see methods.<name>.architecture)",
        **more,
    )
    if not gated and not hasattr(model, "score"):
        raise ModelError(f"{name}: its sequence classifier, {type(model).__name__}, has no head named 'score'.")
    if not gated:
        model.score.float()
    return model.to(device).eval()


def open_reward_model(
    folder: Path, dtype: Dtype, runtime: Runtime, *, gated: bool
) -> tuple[PreTrainedModel, TokenBudget]:
    """As ``icon_repro.lm.load.open_model``, but a reward model."""
    device = prepare_device(runtime.cluster)
    model = load_reward_model(folder, dtype, device, runtime.cluster.attention, gated=gated)
    return model, budget_of(model, runtime)


@torch.inference_mode()
def rewards(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    prompt_ends: Sequence[int] | None,
    budget: TokenBudget,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The reward of each row, and the attributes that a gated model makes it of.

    Args:
        rows: token ids of whole chats; none may be empty.
        prompt_ends: place in each row whose state stands for the prompt; for a gated model only.

    Returns:
        (len(rows),) and (len(rows), objectives); no objectives (0) for a classifier.

    Raises:
        TokenError: a row is longer than the model's positions.
    """
    refuse_longer("a chat", max(map(len, rows), default=0), positions_of(model), "Lower max_length.")
    gated = isinstance(model, GatedRewardModel)
    scores = np.empty(len(rows))
    attributes = np.empty((len(rows), model.config.num_objectives if gated else 0))

    def work(batch: list[int]) -> None:
        ids, lengths = padded([rows[i] for i in batch], model.device)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        each = torch.arange(len(batch), device=model.device)
        response = hidden[each, lengths - 1]
        if gated:
            assert prompt_ends is not None
            prompt = hidden[each, torch.tensor([prompt_ends[i] for i in batch], device=model.device)]
            reward, objectives = model.heads(response.float(), prompt.float())
            attributes[batch] = objectives.double().cpu().numpy()
        else:
            reward = model.score(response.float())[:, 0]
        scores[batch] = reward.double().cpu().numpy()
        progress.advance(len(batch), int(lengths.sum()))

    in_batches([len(row) for row in rows], budget, work)
    return scores, attributes
