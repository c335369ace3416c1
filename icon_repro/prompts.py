"""Prompt texts, each with its source. The only place that turns an example into a prompt.

Sources: ``scoring_prompt``: arXiv 2505.05327, released scoring scripts; ``alpaca_prompt``: Stanford Alpaca's train.py;
``plain_prompt``: Superfiltering's scripts; ``labelled_prompt``: nuggets' scripts.
"""

from collections.abc import Callable

from icon_repro.config_methods import Template
from icon_repro.records import Example

_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
_ALPACA_NO_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def scoring_prompt(example: Example) -> str:
    """The prompt of a candidate or assessment row in ICon's scoring; a ready prompt stays as it is."""
    if example.ready:
        return example.instruction
    if example.input:
        return f"### Instruction:\n{example.instruction}\n\n### Input: {example.input}\n\n### Response:"
    return f"### Instruction:\n{example.instruction}\n\n### Response:"


def alpaca_prompt(example: Example) -> str:
    """The prompt for instruction tuning; a ready prompt stays as it is."""
    if example.ready:
        return example.instruction
    template = _ALPACA_INPUT if example.input else _ALPACA_NO_INPUT
    return template.format(instruction=example.instruction, input=example.input)


def plain_prompt(example: Example) -> str:
    """Instruction and input, a line each; a ready prompt stays as it is, on a line."""
    return f"{example.instruction}\n{example.input}\n" if example.input else f"{example.instruction}\n"


def labelled_prompt(example: Example) -> str:
    """Instruction, input and response, each under its label; a ready prompt stays as it is."""
    if example.ready:
        return example.instruction
    middle = f"Input:\n{example.input}\n" if example.input else ""
    return f"Instruction:\n{example.instruction}\n{middle}Response:\n"


PROMPTS: dict[Template, Callable[[Example], str]] = {
    Template.alpaca: alpaca_prompt,
    Template.scoring: scoring_prompt,
    Template.plain: plain_prompt,
    Template.labelled: labelled_prompt,
}
