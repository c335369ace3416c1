"""Linear layers in int8 and float8: values against an obvious loop, what is replaced, and who can't."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments.scoring_cost.bench_gpu import SHAPES, random_model
from icon_repro.lm import low_precision
from icon_repro.lm.low_precision import Low, LowLinear, LowPrecisionError, lower, replace_linears, rounded, unsupported

CPU = torch.device("cpu")


@pytest.mark.parametrize("low", Low)
def test_rows_are_rounded_with_a_scale_each(low: Low) -> None:
    torch.manual_seed(0)
    rows = torch.randn(6, 64) * torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 0.0])[:, None]
    values, scale = rounded(rows, low)
    assert values.dtype is low.stored and scale.shape == (6, 1)
    error, largest = (values.float() * scale - rows).abs().amax(dim=1), rows.abs().amax(dim=1)
    assert (error <= largest / (16 if low is Low.float8 else 2 * 127) * 1.001 + 1e-12).all() and error[1] > 0


@pytest.mark.parametrize("bias", [False, True])
def test_int8_product_is_that_of_a_loop_over_tokens_and_outputs(bias: bool) -> None:
    torch.manual_seed(1)
    weight, given = torch.randn(16, 32), torch.randn(2, 3, 32)
    added = torch.randn(16) if bias else None
    found = LowLinear(weight, added, Low.int8)(given)
    assert found.shape == (2, 3, 16) and found.dtype is torch.float32
    for i in range(2):
        for j in range(3):
            token = given[i, j]
            token_scale = max(abs(x) for x in token.tolist()) / 127
            for k in range(16):
                weight_scale = max(abs(x) for x in weight[k].tolist()) / 127
                total = 0
                for x, w in zip(token.tolist(), weight[k].tolist(), strict=True):
                    total += round(x / token_scale) * round(w / weight_scale)
                wanted = total * token_scale * weight_scale + (float(added[k]) if added is not None else 0.0)
                assert found[i, j, k] == pytest.approx(wanted, abs=1e-4)


def test_float8_product_is_that_of_the_rounded_rows() -> None:
    torch.manual_seed(2)
    weight, given = torch.randn(32, 64, dtype=torch.bfloat16), torch.randn(5, 64, dtype=torch.bfloat16)
    found = LowLinear(weight, None, Low.float8)(given)  # torch's reference for CPUs
    (rows, scale), (columns, weight_scale) = rounded(given, Low.float8), rounded(weight, Low.float8)
    wanted = (rows.float() * scale) @ (columns.float() * weight_scale).t()
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)
    assert 0 < (wanted - given.float() @ weight.float().t()).pow(2).mean().sqrt() < 0.06 * wanted.std()


@pytest.mark.parametrize("low", Low)
def test_all_linear_layers_but_the_head_are_replaced(low: Low) -> None:
    model = random_model(SHAPES["tiny"], CPU, getattr(torch, low.around))
    ids = torch.arange(3, 40)[None]
    before = model(ids).logits
    assert replace_linears(model, low) == 2 * 7
    assert isinstance(model.lm_head, nn.Linear)
    assert not any(isinstance(module, nn.Linear) for module in model.model.modules())
    apart = (model(ids).logits - before).float().pow(2).mean().sqrt() / before.float().std()
    assert 0 < apart < 0.1


def test_int8_is_for_cpus_and_float8_for_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unsupported(Low.int8, CPU) is None
    assert "int8 is built for CPUs" in str(unsupported(Low.int8, torch.device("cuda")))
    assert "float8 needs a GPU" in str(unsupported(Low.float8, CPU))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    why = unsupported(Low.float8, torch.device("cuda"))
    assert why == "NVIDIA A100 (compute capability 8.0) has no float8 units; 8.9 is the least"


def test_refusal_names_the_dtype_and_a_remedy() -> None:
    model = random_model(SHAPES["tiny"], CPU, torch.bfloat16)
    with pytest.raises(LowPrecisionError, match=r"dtype=float8: .*needs a GPU\. Set dtype=auto, bfloat16"):
        lower(model, Low.float8)
    bare = SimpleNamespace(get_output_embeddings=lambda: None, modules=lambda: iter([nn.Linear(8, 8)]))
    with pytest.raises(LowPrecisionError, match="no linear layer with sizes divisible by 16"):
        replace_linears(bare, Low.int8)  # type: ignore[arg-type]


def test_product_that_torch_refuses_is_no_support(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("int_mm isn't there\nand more")

    monkeypatch.setattr(low_precision.torch, "_int_mm", refused)
    assert str(unsupported(Low.int8, CPU)).endswith("refuses a small product: int_mm isn't there")
