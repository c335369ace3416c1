"""The NLL engine against transformers' own loss, an obvious loop, and what must not matter: padding, order, batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from icon_repro.data.options import Dtype
from icon_repro.engine.records import read_lines
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.nll import NonFiniteError, answer_nll, head_is_plain, make_prefix
from icon_repro.lm.tokens import IGNORED, Encoded, TokenError, bos_ids, encode, mask_labels, pack

TEXTS = [
    ("Name three colours.", "Red, green and blue."),
    ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches the eye from all sides."),
    ("x", "y"),
    ("Übersetze: the café is open", "das Café ist geöffnet bis 22 Uhr"),
]


@pytest.fixture(scope="module")
def loaded(model_step: Path) -> tuple[Any, Any]:
    return load_model(model_step, Dtype.float32, torch.device("cpu")), load_tokenizer(model_step)


def rows_of(tokenizer: Any) -> list[Encoded]:
    return [encode(tokenizer, prompt, answer) for prompt, answer in TEXTS]


def slow_sum(model: Any, prefix: list[int], row: Encoded) -> float:
    """One row, one forward pass over all of it, log-probabilities picked one by one."""
    ids = prefix + row.ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    total = 0.0
    for position in range(len(prefix) + row.answer_start, len(ids)):
        total -= float(torch.log_softmax(logits[position - 1], -1)[ids[position]])
    return total


@pytest.mark.parametrize("length", [0, 1, 37])
def test_answer_nll_with_prefix_equals_slow_loop(loaded: tuple[Any, Any], length: int) -> None:
    model, tokenizer = loaded
    prefix = torch.randint(5, 250, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    rows = rows_of(tokenizer)
    sums, counts = answer_nll(model, rows, tokenizer.pad_token_id, make_prefix(model, prefix))
    expected = [slow_sum(model, prefix, row) for row in rows]
    assert counts.tolist() == [row.answer_tokens for row in rows]
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums / counts, torch.tensor(expected).double() / counts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_qwen"])
def test_answer_nll_golden_models_equals_transformers_loss(shared: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "weights").symlink_to(shared / "golden" / name)
    (tmp_path / "model.json").write_text('{"hub_id": null, "commit": null}')
    model = load_model(tmp_path, Dtype.float32, torch.device("cpu"))
    tokenizer = load_tokenizer(tmp_path)
    found = [row for _, row in read_lines(shared / "golden" / "assessment.jsonl")]
    start = bos_ids(tokenizer)
    assert bool(start) == (name == "tiny_llama")
    rows = []
    for row in found:
        item = encode(tokenizer, row["inputs"], row["response"], max_prompt_tokens=1024, max_answer_tokens=1024)
        rows.append(Encoded(start + item.ids, item.answer_start + len(start)))
    sums, counts = answer_nll(model, rows, tokenizer.pad_token_id)
    for row, mean in zip(rows, sums / counts, strict=True):
        labels = torch.tensor([mask_labels(row.ids, row.answer_start)])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row.ids]), labels=labels).loss
        assert float(mean) == pytest.approx(float(loss), abs=1e-5)


def test_answer_nll_batch_and_order_have_no_influence(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    rows = rows_of(tokenizer)
    together, _ = answer_nll(model, rows, tokenizer.pad_token_id)
    turned, _ = answer_nll(model, rows[::-1], tokenizer.pad_token_id)
    alone = torch.cat([answer_nll(model, [row], tokenizer.pad_token_id)[0] for row in rows])
    torch.testing.assert_close(together, turned.flip(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_answer_nll_size_of_a_call_of_the_head_has_no_influence(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    rows = rows_of(tokenizer)
    together, _ = answer_nll(model, rows, tokenizer.pad_token_id)
    monkeypatch.setattr("icon_repro.lm.nll._HEAD_ROWS", 3)
    apart, _ = answer_nll(model, rows, tokenizer.pad_token_id)
    torch.testing.assert_close(apart, together, rtol=1e-6, atol=1e-5)


def test_answer_nll_pad_id_has_no_influence(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    rows = rows_of(tokenizer)
    assert torch.equal(answer_nll(model, rows, 7)[0], answer_nll(model, rows, 250)[0])


def test_answer_nll_prefix_is_not_changed_by_use(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prefix = make_prefix(model, [9, 8, 7, 6])
    first, _ = answer_nll(model, rows_of(tokenizer), 0, prefix)
    second, _ = answer_nll(model, rows_of(tokenizer), 0, prefix)
    assert torch.equal(first, second)


def test_answer_nll_nan_in_weights_names_the_rows(loaded: tuple[Any, Any], model_step: Path) -> None:
    model = load_model(model_step, Dtype.float32, torch.device("cpu"))
    with torch.no_grad():
        model.get_input_embeddings().weight[11] = float("nan")
    rows = [Encoded([5, 6, 7], 1), Encoded([5, 11, 7], 1)]
    with pytest.raises(NonFiniteError, match=r"rows \[1\].*float32"):
        answer_nll(model, rows, 0)


@pytest.mark.parametrize("row", [Encoded([5, 6], 0), Encoded([5, 6], 2)])
def test_answer_nll_row_that_cannot_be_scored_is_refused(loaded: tuple[Any, Any], row: Encoded) -> None:
    with pytest.raises(TokenError, match=r"rows \[1\]"):
        answer_nll(loaded[0], [Encoded([5, 6], 1), row], 0)


def test_head_is_plain_capped_logits_take_the_whole_forward_pass(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    row = Encoded([5, 6, 7, 8, 9], 2)
    assert not head_is_plain(model)
    prefix = [20, 21, 22]
    sums, _ = answer_nll(model, [row], 0, make_prefix(model, prefix))
    assert float(sums) == pytest.approx(slow_sum(model, prefix, row), abs=1e-5)


def test_mask_labels_scores_the_answer_only() -> None:
    assert mask_labels([4, 5, 6, 7], 2) == [IGNORED, IGNORED, 6, 7]


def test_encode_answer_has_the_same_ids_in_every_context(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    one, other = encode(tokenizer, "a", "the answer"), encode(tokenizer, "another prompt ", "the answer")
    assert one.ids[one.answer_start :] == other.ids[other.answer_start :]
    assert tokenizer.bos_token_id not in one.ids


def test_encode_limits_are_counted(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    whole = encode(tokenizer, "a long prompt", "a long answer")
    item = encode(tokenizer, "a long prompt", "a long answer", max_prompt_tokens=3, max_answer_tokens=2)
    assert (item.answer_start, item.answer_tokens, item.cut) == (3, 2, len(whole.ids) - 5)


def test_encode_empty_answer_is_refused_with_its_name(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(TokenError, match=r"assessment row a17.*no tokens"):
        encode(loaded[1], "prompt", "", name="assessment row a17")


def test_bos_ids_are_what_the_tokenizer_adds(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    expected = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    assert bos_ids(tokenizer) == expected


@pytest.mark.parametrize("budget", [1, 10, 64, 10_000])
def test_pack_every_row_once_within_the_budget(budget: int) -> None:
    lengths = [7, 3, 30, 3, 12, 1, 30, 9]
    batches = pack(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
