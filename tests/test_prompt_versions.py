"""Texts that models are shown aren't hashed by themselves: whoever changes one raises the versions of its stages.

Each entry pins the sha256 of the texts and the versions that the stages which show them had at least by then. When a
text is changed on purpose: raise the versions where the steps are planned, then write the new sum and versions here.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from worlds import WORLDS, World

from icon_repro.data.benchmark import multiple_choice
from icon_repro.data.prompts import PROMPTS, Template, complexity_question, prompt_of, quality_question
from icon_repro.data.rows import Example
from icon_repro.evaluate.judge import protocols
from icon_repro.evaluate.judge.options import Protocol
from icon_repro.methods import alpagasus, selectit
from icon_repro.methods.common.questions import QUESTIONS as SELECTIT_QUESTIONS

EXAMPLES = [
    Example("1", "Name three colours.", "", "Red, green, blue."),
    Example("2", "Add.", "3 and 4", "7"),
    Example("3", "### Question:\nWhy?\n### Answer:", "", "So.", ready=True),
]
QUESTIONS = [
    {"question": "Why?", "options": "A. So.\nB. No.", "answer": "B", "passage": text} for text in (None, "It.")
]


def of_rows(*prompts: Callable[[Example], Any]) -> Any:
    return [[prompt(row) for row in EXAMPLES] for prompt in prompts]


def judged(protocol: Protocol) -> Any:
    return [protocols.messages(protocol, "Why?", "So.", answer) for answer in ("", "Because.")]


_M = "icon_repro.methods."
ICON = {
    f"{_M}icon.{name}": 1
    for name in ("fidelity:run", "pairs:bank", "pairs:shard", "pairs:control_shard", "pairs:own_shard", "auto:features")
} | {f"{_M}icon.pairs:baseline": 2}
SELECTOR = {f"{_M}icon.selector:train": 1, f"{_M}icon.selector:pool": 1}
CHOOSE = {  # any template
    f"{_M}common.answers:shard": 1,
    f"{_M}common.embeddings:shard": 1,
    f"{_M}nuggets:shard": 1,
    "icon_repro.judge.likelihood:run": 1,
}
LESS = {f"{_M}less:shard": 2, f"{_M}less_exact:means": 1, f"{_M}less_exact:shard": 1}
TUNING = {"icon_repro.train:run": 1, "icon_repro.held_out:run": 1, "icon_repro.judge.answers:run": 1, **LESS}
BENCHMARK = {"icon_repro.data.benchmark:run": 1}
JUDGED = {"icon_repro.judge.pairwise:endpoint": 1, "icon_repro.judge.local:run": 1}
TEXTS: dict[str, tuple[Callable[[], Any], str, dict[str, int]]] = {
    "scoring": (lambda: of_rows(PROMPTS[Template.scoring]), "c399d60c188fd71c", {**ICON, **SELECTOR, **CHOOSE}),
    "alpaca": (lambda: of_rows(PROMPTS[Template.alpaca]), "e1c4798a8e2c2216", {**TUNING, **CHOOSE}),
    "plain": (lambda: of_rows(PROMPTS[Template.plain]), "d9b7cef9962070d5", CHOOSE),
    "labelled": (lambda: of_rows(PROMPTS[Template.labelled]), "c9d477f4bb514cfd", CHOOSE),
    "as_is": (lambda: of_rows(PROMPTS[Template.as_is]), "d83493267a4c0992", CHOOSE),
    "wrapped": (lambda: of_rows(lambda row: prompt_of(row, Template.alpaca)), "846dacc903a1bdb0", {**CHOOSE, **LESS}),
    "deita": (lambda: of_rows(complexity_question, quality_question), "5c3d1cb6d0978c50", {f"{_M}deita:shard": 1}),
    "selectit": (
        lambda: [of_rows(lambda row, q=q: selectit.prompt(row, q)) for q in SELECTIT_QUESTIONS],  # type: ignore[misc]
        "a8d13df643fae0fa",
        {f"{_M}selectit:shard": 1},
    ),
    "alpagasus": (lambda: of_rows(alpagasus.messages), "d1f35acb767b77df", {f"{_M}alpagasus:ratings": 1}),
    "benchmark": (
        lambda: [multiple_choice(row, "here") for row in QUESTIONS],
        "f0534f653ddc9582",
        {"icon_repro.data.benchmark:run": 1},
    ),
    "vicuna10": (lambda: judged(Protocol.vicuna10), "822f7b3e3bf67d37", JUDGED),
    "pair_v2": (lambda: judged(Protocol.pair_v2), "d8fd29ba2d6cacf8", JUDGED),
}


def sum_of(texts: Any) -> str:
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Version of each target in the plans of all worlds."""
    folder = tmp_path_factory.mktemp("worlds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return {step.target: step.version for name in WORLDS for step in World(folder / name, name).steps({})}


@pytest.mark.parametrize("name", TEXTS)
def test_prompt_texts_are_those_of_their_stages_versions(name: str, planned: dict[str, int]) -> None:
    texts, expected, versions = TEXTS[name]
    assert sum_of(texts()) == expected, f"the texts of {name!r} changed: raise the versions of {', '.join(versions)}"
    assert {key: planned[key] >= version for key, version in versions.items()} == dict.fromkeys(versions, True)


def test_prompt_texts_of_every_template_and_protocol_are_pinned() -> None:
    assert {one.value for one in (*Template, *Protocol)} <= set(TEXTS)


def test_sum_of_texts_sees_a_changed_letter() -> None:
    texts = TEXTS["alpaca"][0]()
    changed = json.loads(json.dumps(texts).replace("appropriately", "Appropriately", 1))
    assert changed != texts and sum_of(changed) != sum_of(texts)
