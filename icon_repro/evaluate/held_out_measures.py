"""Weigh the NLLs of one held-out task in three ways: by tokens, by rows, and of short responses alone.

In: each row's mean NLL over its response tokens, and its facts (response tokens, group).  Out: cells of a report:
    NAME        sum of the NLLs of all response tokens over their number, of rows with ``short_tokens`` and more
    NAME_rows   mean over all rows of each row's mean: a token of a short response counts for more
    NAME_short  as NAME, of the rows with fewer response tokens; isn't there if there are none
Rows are joined by id. A part of the outcomes has ``sizes`` (response tokens) where it is weighed by tokens, and
``groups`` where the rows are of several groups. Imports no numpy: the command line reads results.
Known gap: none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icon_repro.evaluate.items import digest_of, packed

FACTS = "facts.json"
ROWS, SHORT = "_rows", "_short"
BY_TOKENS, BY_ROWS = "tokens", "rows"


class MeasuresError(ValueError):
    """NLLs and facts that aren't of the same rows, or a measure without rows."""


@dataclass(frozen=True)
class RowFacts:
    """Of the scored rows of one held-out task, in the order of their ids."""

    ids: Sequence[str]
    tokens: Sequence[int]  # of the response
    groups: Sequence[str]

    @property
    def digest(self) -> str:
        """As ``ids`` of the outcomes of a step that scored these rows."""
        return digest_of("", self.ids)


def read_facts(stored: Mapping[str, Any]) -> RowFacts:
    """From the content of facts.json."""
    rows = sorted(zip(stored["ids"], stored["tokens"], stored["groups"], strict=True))
    return RowFacts([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def names(name: str, facts: RowFacts | None, short_tokens: int) -> list[str]:
    """Names of the measures of a task; without facts it isn't known whether there are short rows."""
    short = [f"{name}{SHORT}"] if facts is not None and min(facts.tokens) < short_tokens else []
    return [name, f"{name}{ROWS}", *short]


def cells(
    name: str, values: Mapping[str, float], facts: RowFacts, metrics: Mapping[str, Any], short_tokens: int
) -> dict[str, dict[str, Any]]:
    """The cell of each measure.

    Args:
        values: by id, a row's mean NLL in nats a token.
        metrics: of the step, of which what isn't about the mean over rows is kept.
        short_tokens: a row with fewer response tokens is short.

    Raises:
        MeasuresError: see the class.
    """
    if values.keys() != set(facts.ids) or len(values) != len(facts.ids):
        first = sorted(values.keys() ^ set(facts.ids))[:1]
        raise MeasuresError(
            f"{name}: {len(values)} NLLs and facts of {len(facts.ids)} rows (first that only one has: {first}). Delete "
            f"the steps prepare/rows-{name}-... and evaluate/...-{name}-... and run again."
        )
    everything = range(len(facts.ids))
    long = [i for i in everything if facts.tokens[i] >= short_tokens]
    short = [i for i in everything if facts.tokens[i] < short_tokens]
    if not long:
        raise MeasuresError(
            f"evaluation.tasks.{name}.short_tokens={short_tokens}: all {len(short)} rows are shorter (longest: "
            f"{max(facts.tokens)} response tokens). Set it to {max(facts.tokens)} or less; 0 sets no row apart."
        )
    shared = {key: value for key, value in metrics.items() if key not in ("perplexity", "stderr", "value", "items")}
    by_measure = {}
    for measure, chosen, weighting in (
        (name, long, BY_TOKENS),
        (f"{name}{ROWS}", list(everything), BY_ROWS),
        (f"{name}{SHORT}", short, BY_TOKENS),
    ):
        if chosen:
            rows = {"at least": short_tokens} if chosen is long and short else {}
            rows |= {"fewer than": short_tokens} if chosen is short else {}
            cell = _cell(chosen, values, facts, weighting)
            by_measure[measure] = {**shared, "metric": "nll", "weighting": weighting, "response_tokens": rows, **cell}
    return by_measure


def _cell(chosen: Sequence[int], values: Mapping[str, float], facts: RowFacts, weighting: str) -> dict[str, Any]:
    losses = [values[facts.ids[i]] for i in chosen]
    weights = [facts.tokens[i] for i in chosen]
    part: dict[str, Any] = {"name": "", "weight": 1.0, "values": packed(losses)}
    if weighting == BY_TOKENS:
        part["sizes"] = weights
        value = sum(size * one for size, one in zip(weights, losses, strict=True)) / sum(weights)
    else:
        value = sum(losses) / len(losses)
    if len(set(facts.groups)) > 1:
        part["groups"] = [facts.groups[i] for i in chosen]
    outcomes = {"ids": digest_of("", [facts.ids[i] for i in chosen]), "parts": [part]}
    return {"value": value, "items": len(losses), "scored_tokens": sum(weights), "outcomes": outcomes}
