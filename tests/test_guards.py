"""Guards that stand at every use of a model: positions, end token, control tokens in users' texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

from icon_repro.data.options import Dtype
from icon_repro.lm.chat import ChatError, chat_ids, chat_text
from icon_repro.lm.generate import drop_own_settings, greedy
from icon_repro.lm.gradients import row_gradients
from icon_repro.lm.load import load_model, load_tokenizer, positions_of
from icon_repro.lm.tokens import TokenError, end_ids, text_ids

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT
WITHOUT_SYSTEM = CHAT.replace("messages %}", "messages if m.role != 'system' %}")


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


def chatting(folder: Path, template: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def turns(user: str, system: str = "Judge.") -> list[Mapping[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


@pytest.mark.parametrize("text", ["Ends </s> here <s>", "</s>", "<s></s><pad>"])
def test_control_tokens_in_a_turn_are_letters_and_those_of_the_template_are_not(tiny_model: Path, text: str) -> None:
    tokenizer = chatting(tiny_model, CHAT)
    shown = chat_text(tokenizer, turns(text), reply=True)
    ids = chat_ids(tokenizer, shown)
    assert (ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (1, 2)
    assert tokenizer.pad_token_id not in ids
    assert tokenizer.decode(ids) == f"<s>[system]Judge.</s>[user]{text}</s>[assistant]"
    plain = chat_text(tokenizer, turns("Nothing of the kind"), reply=False)
    assert plain == tokenizer.apply_chat_template(turns("Nothing of the kind"), tokenize=False)
    assert chat_ids(tokenizer, plain) == text_ids(tokenizer, plain, control=True)[0]


@pytest.mark.parametrize("template", [NO_SYSTEM, WITHOUT_SYSTEM])
def test_a_system_text_that_the_template_has_no_place_for_goes_before_the_users(
    tiny_model: Path, template: str
) -> None:
    text = chat_text(chatting(tiny_model, template), turns("Which?"), reply=True)
    assert text == "<s>[user]Judge.\n\nWhich?</s>[assistant]"


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content[:3] }}", "{{ raise_exception('no') }}", "{{ messages | x }}"]
)
def test_a_template_that_loses_a_text_is_refused(tiny_model: Path, template: str) -> None:
    with pytest.raises(ChatError, match="chat template"):
        chat_text(chatting(tiny_model, template), turns("Which of the two?"), reply=True)


def test_a_template_with_the_day_says_the_same_on_every_day(tiny_model: Path) -> None:
    template = '{% set day = strftime_now("%d %b %Y") %}{{ day }} ' + CHAT
    assert chat_text(chatting(tiny_model, template), turns("a"), reply=False).startswith("26 Jul 2024 <s>")


def test_a_models_own_settings_of_generation_change_no_text(model_step: Path) -> None:
    texts = []
    for own in ({}, {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "do_sample": True, "suppress_tokens": [5]}):
        model, tokenizer = load_model(model_step, Dtype.float32, torch.device("cpu")), load_tokenizer(model_step)
        for name, value in own.items():
            setattr(model.generation_config, name, value)
        drop_own_settings(model, tokenizer)
        ids = torch.tensor([tokenizer("the same")["input_ids"]])
        texts.append(
            model.generate(
                input_ids=ids, do_sample=False, max_new_tokens=12, pad_token_id=tokenizer.pad_token_id
            ).tolist()
        )
        found: dict[int, Any] = {}
        greedy(model, tokenizer, [ids[0].tolist()], 12, 1, found.update)
        assert texts[0][0][ids.shape[1] :][: len(found[0].ids)] == found[0].ids
    assert texts[0] == texts[1]


def test_a_tokenizer_that_ends_each_text_is_seen(tiny_model: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert end_ids(tokenizer) == []
    ids = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    assert end_ids(tokenizer) == [tokenizer.eos_token_id]


def test_positions_that_count_from_the_pad_token_are_fewer() -> None:
    shape = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    model = RobertaModel(RobertaConfig(**shape, max_position_embeddings=12, pad_token_id=1)).eval()
    longest = positions_of(model)
    assert longest == 10
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


def test_gradients_of_rows_longer_than_the_positions_are_refused(model_step: Path) -> None:
    model = load_model(model_step, Dtype.float32, torch.device("cpu"))
    model.config.max_position_embeddings = 4
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.lm_head.weight.requires_grad = True
    row = {"input_ids": [3, 4, 5, 6], "labels": [-100, 4, 5, 6]}
    assert row_gradients(model)([row]).shape[0] == 1
    with pytest.raises(TokenError, match="takes 5 tokens, the model has 4 positions"):
        row_gradients(model)([{name: [*ids, 7] for name, ids in row.items()}])
