"""Random order, and random rows of given lengths: the controls that every method has to beat.

In: candidates; for ``matched`` another method's selection too.  Out: scores.jsonl.
``run``: the score is a uniform number in [0, 1) drawn from the seed in the order of ids.
``matched`` asks whether a selection is more than its response lengths. The rows to select from are cut at the deciles
of their response lengths in characters. Of each decile as many rows are drawn, without replacement, as the selection
holds, and only drawn rows get a score. Rows of the selection may be drawn too, so a decile never has too few rows.
Known gap: where a selection holds a whole decile, nothing is left to chance there: metric ``forced`` counts these rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_json, read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import nearest, number, unhashed
from icon_repro.methods.base import Build, Method, Setting, repeats_field, reseed_by

DECILES = 10


@dataclass
class RandomConfig:
    """A seeded random order, or rows drawn at random with the response lengths of another method's selection."""

    kind: str = "random"
    seed: int = number(0, at_least=0)
    # a name in ``methods``: as many rows of each decile of response length as its selection holds. Not hashed: the
    # selection itself is an input of the step
    matched_to: str | None = unhashed(None, example="icon")
    repeats: int = repeats_field()


class MatchedError(ValueError):
    """No control can be drawn that matches a selection."""


def plan(build: Build, name: str, options: RandomConfig) -> Step | dict[float, Step]:
    """One step over all rows; for a matched control one for each fraction, with the other method's selection."""
    rows = {"candidates": build.universe}
    if options.matched_to is None:
        return build.step(run, name, options, rows)
    assert build.selected is not None
    selections = {fraction: build.selected(options.matched_to, fraction) for fraction in build.fractions}
    return {
        fraction: build.step(matched, f"{name}-f{fraction:g}", options, {**rows, "selection": selection})
        for fraction, selection in selections.items()
    }


def problems(where: str, options: RandomConfig, setting: Setting) -> list[str]:
    """A control must be matched to another method that makes a selection of its own."""
    other, methods = options.matched_to, setting.methods
    if other is None:
        return []
    where, remedy = f"{where}.matched_to={other!r}", "name a method that makes a selection of its own"
    if other not in methods:
        return [f"{where}: no method of that name.{nearest(other, [n for n in methods if methods[n] is not options])}"]
    if methods[other] is options:
        return [f"{where}: is the control itself; {remedy}, or set {other}.matched_to=null."]
    if (its_own := getattr(methods[other], "matched_to", None)) is not None:
        return [f"{where}: is a matched control too; {remedy}, e.g. {its_own!r}."]
    return []


def meaning(options: RandomConfig) -> str:
    if options.matched_to is None:
        return "a seeded random number; it says nothing about the row"
    return (
        "a seeded random number of a row that was drawn: as many of each decile of response length as another method "
        "selects; other rows have none"
    )


def run(cfg: RandomConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs["candidates"]."""
    ids = sorted(row.id for row in read_rows(inputs["candidates"] / "rows.jsonl", Example))
    numbers = np.random.default_rng(cfg.seed).random(len(ids))
    rows = write_rows(out / "scores.jsonl", (Score(i, float(x)) for i, x in zip(ids, numbers, strict=True)))
    return {"rows": rows, "tokens": 0, "flops": 0}


def matched(cfg: RandomConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl: the rows drawn, each with a random number in [0, 1).

    Needs inputs["candidates"] and inputs["selection"], the step that selected the rows whose lengths are matched.

    Returns:
        ``rows`` to draw from, ``drawn``, ``also_selected`` (drawn rows that the selection holds too) and ``forced``
        (drawn rows of deciles that the selection holds whole).

    Raises:
        MatchedError: a selected row isn't among the candidates; or the selection leaves no choice in any decile.
    """
    characters = {row.id: len(row.response) for row in read_rows(inputs["candidates"] / "rows.jsonl", Example)}
    selected = read_json(inputs["selection"] / "ids.json")
    drawn, forced = draw_matched(characters, selected, np.random.default_rng(cfg.seed))
    write_rows(out / "scores.jsonl", (Score(i, drawn[i]) for i in sorted(drawn)))
    return {
        "rows": len(characters),
        "drawn": len(drawn),
        "also_selected": len(drawn.keys() & set(selected)),
        "forced": forced,
        "tokens": 0,
        "flops": 0,
    }


def deciles(values: Sequence[int]) -> NDArray[np.int64]:
    """The decile (0 to 9) of each value among all; equal values are in one decile, so deciles may differ in size."""
    edges = np.quantile(values, np.arange(1, DECILES) / DECILES)
    return np.searchsorted(edges, values, side="left").astype(np.int64)


def draw_matched(
    characters: Mapping[str, int], selected: Sequence[str], generator: np.random.Generator
) -> tuple[dict[str, float], int]:
    """Ids drawn at random, as many of each decile of ``characters`` as ``selected`` holds.

    Args:
        characters: id -> length of the response; all rows that may be drawn.

    Returns:
        Id drawn -> random number in [0, 1); and how many of them are of deciles that ``selected`` holds whole.

    Raises:
        MatchedError: see ``matched``.
    """
    if unknown := sorted(set(selected) - characters.keys()):
        raise MatchedError(
            f"{len(unknown)} selected rows aren't among the {len(characters)} rows to draw from (first: "
            f"{unknown[0]!r}); their lengths can't be matched. Delete the step of the selection and run again."
        )
    ids = sorted(characters)
    decile = dict(zip(ids, deciles([characters[i] for i in ids]).tolist(), strict=True))
    drawn: list[str] = []
    forced = 0
    for place in range(DECILES):
        rows = [i for i in ids if decile[i] == place]
        wanted = sum(decile[i] == place for i in selected)
        drawn += [rows[k] for k in generator.permutation(len(rows))[:wanted]]
        forced += wanted if wanted == len(rows) else 0
    if forced == len(selected):
        raise MatchedError(
            f"the selection of {len(selected)} rows holds every row of each decile of length that it takes rows of, so "
            "a control of the same lengths is the selection itself. Select a smaller fraction, or remove the control."
        )
    return dict(zip(drawn, generator.random(len(drawn)).tolist(), strict=True)), forced


METHOD = Method(RandomConfig, plan, meaning, problems, reseed_by("seed"))
