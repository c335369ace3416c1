"""Turn an example into a prompt. No other module does, and each text names its source.

Sources: ``scoring_prompt``: arXiv 2505.05327, released scoring scripts; ``alpaca_prompt``: Stanford Alpaca's train.py;
``plain_prompt``: Superfiltering's scripts; ``labelled_prompt``: nuggets' scripts; ``complexity_question`` and
``quality_question``: as DEITA's code asks its scorers (hkust-nlp/deita@b279f2c), spaces included.
"""

import enum
import re
from collections.abc import Callable
from dataclasses import replace

from icon_repro.data.rows import Example


class Template(enum.Enum):
    alpaca = "alpaca"  # as in tuning
    scoring = "scoring"  # as ICon's candidates
    plain = "plain"  # instruction and input, a line each
    labelled = "labelled"  # Instruction:, Input: and Response:, each on a line of its own (nuggets)
    as_is = "as_is"  # no template: a ready prompt as it stands, else instruction and input


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


_COMPLEXITY = (
    "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {request}  \n##Complexity: "
)
_QUALITY = (
    "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. \n"
    " #Question#:\n{request}\n#Response#:\n{response} \n##Quality: "
)

_FIRST_LABEL = re.compile(r"\A\s*### (?:Instruction|Question):[ \t]*\n")  # of ready prompts, as the assessment rows'
_LAST_LABEL = re.compile(r"\s*### Response:\s*\Z")

QUESTION = ("Question: ", "\nAnswer:")  # before and after a multiple-choice question, as in lm-eval's PIQA


def request(example: Example) -> str:
    """What is asked, without a template: instruction and input, each on its lines; a ready prompt as it is."""
    return f"{example.instruction}\n{example.input}" if example.input else example.instruction


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


def tuning_template() -> dict[str, str]:
    """The texts that ``alpaca_prompt`` fills in; for who uses a tuned model elsewhere."""
    return {"with_input": _ALPACA_INPUT, "without_input": _ALPACA_NO_INPUT}


def plain_prompt(example: Example) -> str:
    """Instruction and input, a line each; a ready prompt stays as it is, on a line."""
    return f"{request(example)}\n"


def labelled_prompt(example: Example) -> str:
    """Instruction, input and response, each under its label; a ready prompt stays as it is."""
    if example.ready:
        return example.instruction
    middle = f"Input:\n{example.input}\n" if example.input else ""
    return f"Instruction:\n{example.instruction}\n{middle}Response:\n"


def complexity_question(example: Example) -> str:
    """Asks DEITA's scorer how complex the prompt is; ends where a digit from 1 to 6 is expected."""
    return _COMPLEXITY.format(request=request(example))


def quality_question(example: Example) -> str:
    """Asks DEITA's scorer how good the response is; ends where a digit from 1 to 6 is expected."""
    return _QUALITY.format(request=request(example), response=example.response)


PROMPTS: dict[Template, Callable[[Example], str]] = {
    Template.alpaca: alpaca_prompt,
    Template.scoring: scoring_prompt,
    Template.plain: plain_prompt,
    Template.labelled: labelled_prompt,
    Template.as_is: request,
}


def prompt_of(row: Example, template: Template) -> str:
    """The prompt of any row in ``template``: a ready prompt is put into the template too.

    ``PROMPTS`` leaves a ready prompt as it stands, so that rows of two formats get two templates. Here a ready prompt
    becomes the template's instruction, without a first "### Instruction:" or "### Question:" and a last
    "### Response:", which the template brings itself. ``Template.as_is`` puts no row into a template.
    """
    if not row.ready or template is Template.as_is:
        return PROMPTS[template](row)
    bare = _LAST_LABEL.sub("", _FIRST_LABEL.sub("", row.instruction))
    return PROMPTS[template](replace(row, instruction=bare or row.instruction, ready=False))
