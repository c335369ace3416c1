"""Digits of awkward tokenizers, and their probabilities against a model asked with one text at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow_baselines import SlowModel
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from icon_repro.data.options import Dtype
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import open_model
from icon_repro.methods.common.digits import DigitError, digit_ids, digit_probabilities


def tokenizer_of(vocabulary: list[str], merges: list[tuple[str, str]], normalizer: Any = None) -> Any:
    """A BPE tokenizer with the given tokens; ``?`` is for unknown characters."""
    tokens = {token: place for place, token in enumerate(["?", *vocabulary])}
    made = Tokenizer(models.BPE(vocab=tokens, merges=merges, unk_token="?"))
    if normalizer is not None:
        made.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


@pytest.mark.parametrize("digits", ["12345", "123456"])
def test_digit_ids_are_the_tokens_of_the_digits(model_step: Path, digits: str) -> None:
    tokenizer = SlowModel(model_step).tokenizer
    assert tokenizer.convert_ids_to_tokens(digit_ids(tokenizer, digits)) == list(digits)


def test_digit_ids_word_start_before_every_text_as_in_llama_2_is_no_part_of_the_digit() -> None:
    start = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = tokenizer_of(["▁", "\n", *"12345"], [], start)
    assert len(tokenizer("1", add_special_tokens=False)["input_ids"]) == 2
    assert tokenizer.convert_ids_to_tokens(digit_ids(tokenizer, "12345")) == list("12345")


def test_digit_ids_bytes_of_a_digit_are_refused() -> None:
    half = normalizers.Replace("4", "xy")
    with pytest.raises(DigitError, match="no single token for the digit '4'"):
        digit_ids(tokenizer_of(["\n", "x", "y", *"1235"], [], half), "12345")


def test_digit_ids_digit_merged_with_the_line_break_is_refused() -> None:
    tokenizer = tokenizer_of(["\n", *"12345", "\n3"], [("\n", "3")])
    with pytest.raises(DigitError, match="no single token for the digit '3'"):
        digit_ids(tokenizer, "12345")


def test_digit_ids_one_token_for_several_digits_is_refused() -> None:
    with pytest.raises(DigitError, match="one token for several of the digits 123456"):
        digit_ids(tokenizer_of(["\n", *"1234"], []), "123456")  # 5 and 6 are unknown


def test_digit_probabilities_equal_those_of_single_texts(model_step: Path, runtime: Runtime) -> None:
    slow = SlowModel(model_step)
    rows = [slow.bos + slow.ids(text) for text in ("Rate: ", "How good is it? ", "A much longer question\n" * 9, "x")]
    digits = digit_ids(slow.tokenizer, "123")
    model, budget = open_model(model_step, Dtype.float32, runtime)
    with runtime.progress(len(rows), "row") as progress:
        found = digit_probabilities(model, rows, digits, budget, progress)
        assert progress.tokens == sum(map(len, rows))
    expected = [np.exp(slow.log_probabilities(ids)[-1])[digits] for ids in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
