"""Held-out rows through a tiny model: NLLs against a loop, one prompt for all formats of rows, facts of the rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from icon_repro.data.options import Dtype
from icon_repro.data.prompts import alpaca_prompt, tuning_template
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate import held_out
from icon_repro.evaluate.held_out import HeldOutError
from icon_repro.evaluate.options import HeldOutJob, HeldOutRowsJob, HeldOutTemplate
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.tokens import bos_ids, text_ids

PLAIN = Example("p", "Name a colour.", "Warm ones", "Red", "g")
READY = Example("r", "### Question:\nName a colour.\n\n### Response:", "", "Blue, I think", "h", ready=True)
OTHERS = [Example("seen", "x", "", "y"), Example("long", "z " * 300, "", "y"), Example("empty", "x", "", "")]


@pytest.fixture
def inputs(tmp_path: Path, model_step: Path) -> dict[str, Path]:
    made = {"model": model_step, **{name: tmp_path / name for name in ("rows", "assessment", "candidates")}}
    for name, rows in {"rows": [PLAIN, READY, *OTHERS], "assessment": [OTHERS[0]], "candidates": []}.items():
        made[name].mkdir()
        write_rows(made[name] / "rows.jsonl", rows)
    return made


def job(template: HeldOutTemplate) -> HeldOutJob:
    return HeldOutJob("held", dtype=Dtype.float32, max_length=400, template=template)


def scored(job: HeldOutJob, inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> dict[str, float]:
    out = tmp_path / f"out-{job.template.value}"
    out.mkdir()
    held_out.run(job, inputs, out, runtime)
    stored = read_json(out / "items.json")
    return dict(zip(stored["ids"], stored["values"], strict=True))


def nll(model_step: Path, prompt: str, response: str) -> float:
    """Mean over the response's tokens, one row, no padding."""
    tokenizer, model = load_tokenizer(model_step), load_model(model_step, Dtype.float32, torch.device("cpu"))
    before = bos_ids(tokenizer) + text_ids(tokenizer, prompt)[0]
    ids = before + text_ids(tokenizer, response)[0]
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    values = [-float(logs[at - 1, ids[at]]) for at in range(len(before), len(ids))]
    return sum(values) / len(values)


def test_prompt_of_a_mixture_is_one_template_unless_as_is() -> None:
    """Fails where ready prompts stand beside rows in a template: the comparison would see the template."""
    start, end = tuning_template()["without_input"].split("{instruction}")
    texts = [held_out.prompt(row, HeldOutTemplate.tuning) for row in (PLAIN, READY)]
    opening = start.partition(".")[0]  # both templates of tuning begin alike, up to what they say of an input
    assert all(text.startswith(opening.partition(",")[0]) and text.endswith("### Response:") for text in texts)
    assert texts[1] == f"{start}Name a colour.{end}"
    assert texts[0] == alpaca_prompt(PLAIN)  # what tuning itself uses
    mixed = [held_out.prompt(row, HeldOutTemplate.as_is) for row in (PLAIN, READY)]
    assert mixed == [alpaca_prompt(PLAIN), READY.instruction]


@pytest.mark.parametrize("template", HeldOutTemplate)
def test_run_values_equal_a_slow_loop_over_the_prompt_of_each_row(
    template: HeldOutTemplate, inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    found = scored(job(template), inputs, tmp_path, runtime)
    wanted = {row.id: nll(inputs["model"], held_out.prompt(row, template), row.response) for row in (PLAIN, READY)}
    assert found == pytest.approx(wanted, abs=1e-4)
    other = next(one for one in HeldOutTemplate if one is not template)
    changed = nll(inputs["model"], held_out.prompt(READY, other), READY.response)
    assert abs(changed - found["r"]) > 1e-3  # else the loop shows nothing of the prompt


def test_facts_are_of_the_rows_that_are_scored(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    out = tmp_path / "facts"
    out.mkdir()
    facts_job = HeldOutRowsJob("held", max_length=400, template=HeldOutTemplate.tuning)
    metrics = held_out.facts(facts_job, inputs, out, runtime)
    stored = read_json(out / "facts.json")
    tokenizer = load_tokenizer(inputs["model"])
    tokens = [len(text_ids(tokenizer, row.response)[0]) for row in (PLAIN, READY)]
    assert stored == {"ids": ["p", "r"], "tokens": tokens, "groups": ["g", "h"]}
    dropped = {"in the assessment set or among the candidates": 1, "too long": 1, "no response token": 1}
    assert metrics == {"rows": 2, "response_tokens": sum(tokens), "dropped": dropped}
    assert set(scored(job(HeldOutTemplate.tuning), inputs, tmp_path, runtime)) == set(stored["ids"])


def test_rows_of_two_files_are_the_same_by_text_not_by_number(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    write_rows(inputs["candidates"] / "rows.jsonl", [replace(PLAIN, id="7"), replace(OTHERS[0], id=READY.id)])
    assert list(scored(job(HeldOutTemplate.tuning), inputs, tmp_path, runtime)) == [READY.id]


def test_no_row_left_is_refused(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    short: Any = HeldOutRowsJob("held", max_length=16, template=HeldOutTemplate.tuning)
    with pytest.raises(HeldOutError, match=r"evaluation\.tasks\.held: none of 5 rows is left .*'too long': 3"):
        held_out.facts(short, inputs, tmp_path, runtime)
