"""Prompt texts, written out."""

import pytest

from icon_repro.data.prompts import (
    PROMPTS,
    Template,
    alpaca_prompt,
    labelled_prompt,
    plain_prompt,
    prompt_of,
    scoring_prompt,
)
from icon_repro.data.rows import Example

PLAIN = Example("1", "Name three colours.", "", "Red")
WITH_INPUT = Example("2", "Add.", "3 and 4", "7")
READY = Example("3", "### Question:\nWhat is {x}?\n\n### Response:", "", "4", ready=True)
BRACES = Example("4", "Use {instruction} and {0}, {{x}} 100%s {", "{input} } %(a)s", "ok")


def test_scoring_prompt_is_the_released_text() -> None:
    assert scoring_prompt(PLAIN) == "### Instruction:\nName three colours.\n\n### Response:"
    assert scoring_prompt(WITH_INPUT) == "### Instruction:\nAdd.\n\n### Input: 3 and 4\n\n### Response:"


def test_alpaca_prompt_is_stanfords_text() -> None:
    assert alpaca_prompt(PLAIN) == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName three colours.\n\n### Response:"
    )
    assert alpaca_prompt(WITH_INPUT) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n3 and 4\n\n### Response:"
    )


def test_plain_prompt_is_superfilterings_text() -> None:
    assert plain_prompt(PLAIN) == "Name three colours.\n"
    assert plain_prompt(WITH_INPUT) == "Add.\n3 and 4\n"
    assert plain_prompt(READY) == READY.instruction + "\n"


def test_labelled_prompt_is_nuggets_text() -> None:
    assert labelled_prompt(PLAIN) == "Instruction:\nName three colours.\nResponse:\n"
    assert labelled_prompt(WITH_INPUT) == "Instruction:\nAdd.\nInput:\n3 and 4\nResponse:\n"


def test_prompts_ready_text_stays_as_it_is() -> None:
    assert scoring_prompt(READY) == alpaca_prompt(READY) == labelled_prompt(READY) == READY.instruction


def test_prompt_of_a_ready_prompt_is_in_the_template_of_other_rows() -> None:
    same = Example("6", "What is {x}?", "", "4")
    for template in set(Template) - {Template.as_is}:
        assert prompt_of(READY, template) == prompt_of(same, template) == PROMPTS[template](same)
    assert prompt_of(READY, Template.as_is) == READY.instruction


def test_prompt_of_rows_of_two_formats_has_one_template() -> None:
    rows = [
        PLAIN,
        READY,
        Example("7", "### System Prompt:\nBe brief.\n\n### Question:\nWhy?\n\n### Response: ", "", "So.", ready=True),
    ]
    before, after = alpaca_prompt(PLAIN).split(PLAIN.instruction)
    for row in rows:
        text = prompt_of(row, Template.alpaca)
        assert text.startswith(before) and text.endswith(after) and text.count("### Response:") == 1
    assert "Be brief.\n\n### Question:\nWhy?" in prompt_of(rows[-1], Template.alpaca)
    assert len({prompt.startswith(before) for prompt in map(alpaca_prompt, rows)}) == 2, "alpaca_prompt alone mixes two"


def test_prompt_of_a_prompt_of_labels_only_is_not_empty() -> None:
    bare = Example("8", "### Instruction:\n### Response:", "", "x", ready=True)
    assert bare.instruction in prompt_of(bare, Template.plain)


@pytest.mark.parametrize("template", list(Template))
def test_prompts_each_template_has_a_text_of_its_own_without_the_response(template: Template) -> None:
    secret = Example("5", "Name it.", "the input", "ANSWER")
    assert "ANSWER" not in PROMPTS[template](secret)
    others = [PROMPTS[other](secret) for other in Template if other is not template]
    assert PROMPTS[template](secret) not in others and len(others) == len(PROMPTS) - 1


def test_prompts_braces_in_the_data_are_left_alone() -> None:
    assert scoring_prompt(BRACES) == (
        f"### Instruction:\n{BRACES.instruction}\n\n### Input: {BRACES.input}\n\n### Response:"
    )
    assert alpaca_prompt(BRACES).endswith(
        "### Instruction:\nUse {instruction} and {0}, {{x}} 100%s {\n\n### Input:\n{input} } %(a)s\n\n### Response:"
    )
    assert plain_prompt(BRACES) == f"{BRACES.instruction}\n{BRACES.input}\n"
    assert labelled_prompt(BRACES) == f"Instruction:\n{BRACES.instruction}\nInput:\n{BRACES.input}\nResponse:\n"
