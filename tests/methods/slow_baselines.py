"""Runs a method as the plan wires it, on given rows and a given model; and asks a model about one text at a time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from small import small

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step, ordered
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import build, plain
from icon_repro.engine.targets import function_of
from icon_repro.experiment import Experiment, plan
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.methods.select import top_fraction

ROWS = [
    Example("c5", "Name a colour.", "", "Red."),
    Example("c2", "Add the numbers.", "3 and 4", "The sum of 3 and 4 is 7."),
    Example("c3", "Say why the sky is blue.", "", "Because air scatters blue light. " * 4),
    Example("c1", "Name an animal.", "", "A dog, or the cat."),
    Example("c7", "### Question:\nWhat is 2 + 2?\n\n### Response:", "", "four\n4", ready=True),
    Example("c4", "Translate.", "Guten Tag", "Good day to you, and to all who are with you."),
    Example("c6", "Describe the café in one sentence, please.", "", "the café is open until 10 pm"),
]
ASSESSMENT = [
    Example("a1", "Name three colours.", "", "Red, green and blue."),
    Example("a2", "Explain.", "3 + 4 = 7", "Adding 4 to 3 makes 7, as one can count."),
    Example("a3", "Is it open?", "", "Until 10 pm."),
]


def planned(work: Path, methods: Mapping[str, Any], **changes: Any) -> Experiment:
    """The plan of ``methods`` alone over an unknown number of rows; ``changes``: dots as two underscores."""
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return plan(small(work, {"methods": dict(methods), "data.candidates.size": None, **keys}))


def step_of(experiment: Experiment, name: str = "mine") -> Step:
    """The step with the scores of the method ``name``."""
    return next(step for step in experiment.steps if step.label == f"score/{name}")


def shards_of(step: Step, target: str) -> list[Step]:
    """The steps of the stage function ``target`` that ``step`` needs, in the order of their labels."""
    return sorted((s for s in ordered([step]) if s.target.endswith(target)), key=lambda s: s.label)


@dataclass(frozen=True)
class Ran:
    """What a method made."""

    scores: dict[str, Score]
    failures: dict[str, str]
    metrics: dict[str, Any]
    step: Step
    folders: dict[str, Path]  # of every step by its label
    all_metrics: dict[str, dict[str, Any]]

    @property
    def ranks(self) -> list[str]:
        return top_fraction({i: score.score for i, score in self.scores.items()}, 1.0)


def run_method(
    folder: Path,
    runtime: Runtime,
    model: Path,
    method: Mapping[str, Any],
    rows: Sequence[Example] = ROWS,
    assessment: Sequence[Example] = ASSESSMENT,
    expected_rows: int = 5,
    others: Mapping[str, Path] | None = None,
) -> Ran:
    """Run all scoring steps of ``method`` in this process, each with the parameters that a worker would read.

    The plan expects other rows than there are, so that the last shard has to be an open one.

    Args:
        others: models by name; every other one is ``model``.
    """
    step = step_of(planned(folder / "work", {"mine": method}, data__pool__expected_rows=expected_rows))
    given = {"candidates": rows, "assessment-tiny": assessment}
    folders, metrics = dict[str, Path](), dict[str, dict[str, Any]]()
    for one in ordered([step]):
        if one.stage == "model":
            folders[one.label] = (others or {}).get(one.name, model)
            continue
        out = folders[one.label] = folder / one.folder
        out.mkdir(parents=True, exist_ok=True)
        if one.stage == "prepare":
            write_rows(out / "rows.jsonl", given.get(one.name, []))
            continue
        params = build(type(one.params), json.loads(json.dumps(plain(one.params))))
        runtime.files = {name: Path(file.path) for name, file in one.files.items()}
        inputs = {name: folders[needed.label] for name, needed in one.inputs.items()}
        metrics[one.label] = function_of(one.target)(params, inputs, out, runtime)
    scores = read_rows(folders[step.label] / "scores.jsonl", Score)
    assert len({score.id for score in scores}) == len(scores)
    failures = {row["id"]: row["reason"] for row in read_rows(folders[step.label] / "failures.jsonl", dict)}
    return Ran({s.id: s for s in scores}, failures, metrics[step.label], step, folders, metrics)


class SlowModel:
    """A model asked with one whole text at a time: no batch, no padding, no cache."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = load_model(folder, Dtype.float32, torch.device("cpu"))
        self.tokenizer: Any = load_tokenizer(folder)
        bos = self.tokenizer.bos_token_id
        self.bos: list[int] = [] if bos is None else [bos]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def log_probabilities(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """(len(ids), vocabulary): of the token after each place."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0].double()
        return np.asarray(torch.log_softmax(logits, -1))

    def nll(self, before: Sequence[int], answer: Sequence[int]) -> float:
        """Mean NLL of ``answer`` after ``before``; a first token that nothing stands before isn't counted."""
        ids = [*before, *answer]
        found = self.log_probabilities(ids)
        return float(np.mean([-found[place - 1][ids[place]] for place in range(max(1, len(before)), len(ids))]))

    def hidden(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """(len(ids), hidden size) of the last layer."""
        with torch.no_grad():
            output = self.model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
        return np.asarray(output.hidden_states[-1][0].double())
