"""Guards that stand at every use of a model: positions, end token, control tokens in users' texts."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from icon_repro.lm.tokens import text_ids


@pytest.mark.parametrize("text", ["Price: <s>10</s> 8 euros", "</s>", "a<pad>b"])
def test_control_tokens_in_a_text_are_letters(tiny_model: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids, _ = text_ids(tokenizer, text)
    assert not special & set(ids)
    template, _ = text_ids(tokenizer, text, control=True)
    assert special & set(template)
    plain = "no such token in here"
    assert text_ids(tokenizer, plain) == text_ids(tokenizer, plain, control=True)
