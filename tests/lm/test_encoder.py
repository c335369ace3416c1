"""Encoders: pooled hidden states against a loop without padding, and which models are taken for one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from icon_repro.data.model_files import ModelError
from icon_repro.data.options import Dtype
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.budget import TokenBudget
from icon_repro.lm.hidden import Pooling, pooled
from icon_repro.lm.load import load_encoder, load_model, open_encoder

_DRAW = torch.Generator().manual_seed(5)
ROWS = [torch.randint(4, 56, (length,), generator=_DRAW).tolist() for length in (5, 1, 17, 9, 2, 40, 9)]
CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", [1, 30, 4096])
@pytest.mark.parametrize("pooling", [Pooling.mean, Pooling.weighted, Pooling.last])
def test_pooled_encoder_equals_a_loop_without_padding(
    encoder_step: Path, runtime: Runtime, pooling: Pooling, tokens: int
) -> None:
    model, _ = open_encoder(encoder_step, Dtype.float32, runtime)
    found = pooled(model, ROWS, pooling, TokenBudget(model, tokens), normalise=True, encoder=True)
    for row, vector in zip(ROWS, found, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([row])).last_hidden_state[0].double().numpy()
        weights = {Pooling.mean: np.ones(len(row)), Pooling.weighted: np.arange(len(row)) + 1.0}
        expected = states[-1] if pooling is Pooling.last else weights[pooling] @ states
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=0, atol=1e-5)


def test_pooled_encoder_reads_in_both_directions(encoder_step: Path) -> None:
    model = load_encoder(encoder_step, Dtype.float32, CPU)
    one, other = ([5, 6, 7, last] for last in (8, 9))
    with torch.no_grad():
        first = [model(input_ids=torch.tensor([row])).last_hidden_state[0, 0] for row in (one, other)]
    assert (first[0] - first[1]).abs().max() > 1e-3


def test_encoder_isnt_loaded_as_a_causal_model(encoder_step: Path) -> None:
    with pytest.raises(ModelError, match=r"a bert reads in both directions.*encoder=true"):
        load_model(encoder_step, Dtype.float32, CPU)


def test_causal_model_isnt_loaded_as_an_encoder(model_step: Path) -> None:
    with pytest.raises(ModelError, match=r"isn't an encoder; set encoder=false"):
        load_encoder(model_step, Dtype.float32, CPU)
