"""The rules for verb and noun of an instruction, and the normal form of texts."""

import pytest

from experiments.released_selections.released_texts import singular, verb_noun, words


@pytest.mark.parametrize(
    "instruction, expected",
    [
        ("Write a short story about a dragon.", ("write", "story")),
        ("Please give me three tips for better sleep", ("give", "tip")),
        ("Can you calculate the mean of these numbers?", ("calculate", "mean")),
        ("I need you to draft an email inviting our clients", ("draft", "email")),
        ("Given the text below, list its main ideas.", ("list", "idea")),
        ("Compare and contrast the two theories.", ("compare", "theory")),
        ("Describe how waves carry energy.", ("describe", "")),
        ("What is the capital of France?", ("what", "capital")),
        ("Name the figure mentioned in the article", ("name", "figure")),
        ("Design a machine learning model", ("design", "model")),
        ("Analyze 3 news articles", ("analyze", "article")),
        ("Tell me about it", ("tell", "")),
        ('"Summarize" this', ("summarize", "")),
        ("In one sentence", ("in", "sentence")),  # an opening clause without a comma is taken for the verb
        ("Suppose that, ", ("suppose", "")),
        ("", ("", "")),
        ("1 + 1 = ?", ("", "")),
    ],
)
def test_verb_noun_of_an_instruction(instruction: str, expected: tuple[str, str]) -> None:
    assert verb_noun(instruction) == expected


@pytest.mark.parametrize(
    "plural, expected",
    [("stories", "story"), ("boxes", "box"), ("classes", "class"), ("cats", "cat"), ("bus", "bus"), ("analysis",) * 2],
)
def test_singular_of_a_noun(plural: str, expected: str) -> None:
    assert singular(plural) == expected


def test_words_ignore_case_marks_and_spaces() -> None:
    assert words("Hello,  WORLD_2!") == words("hello world 2") == ("hello", "world", "2")
    assert words("hello world") != words("world hello")
