"""Select the best rows by score: a fraction of all rows, or as many tokens as a random selection of that fraction has.

In: scores.jsonl; for ``budget: tokens`` tokens.json too.  Out: ids.json, best first.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example, Score, best_first, selected_count
from icon_repro.engine.console import LOG
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number


class SelectBudget(enum.Enum):
    rows = "rows"  # the best ``fraction`` of the rows
    tokens = "tokens"  # best first, until as many tokens as a random selection of ``fraction`` has on average


@dataclass
class SelectConfig:
    fraction: float = number(above=0, at_most=1)
    budget: SelectBudget = field(default=SelectBudget.rows, metadata={"legacy": SelectBudget.rows})


class SelectionError(ValueError):
    """The scores can't yield the requested subset."""


def top_fraction(scores: Mapping[str, float], fraction: float, universe: int | None = None) -> list[str]:
    """The ``round(fraction * universe)`` ids (at least one) with the highest scores; ties go to the smaller id.

    Args:
        universe: rows that all methods rank, scored or not; None: as many as have a score.

    Returns:
        All scored ids if fewer have a score than are asked for.

    Raises:
        SelectionError: fraction out of (0, 1], no scores, or a score that isn't finite.
    """
    if not 0 < fraction <= 1:
        raise SelectionError(f"fraction={fraction}: must be in (0, 1].")
    if not scores:
        raise SelectionError("no scores: there is nothing to select from.")
    if bad := sorted(i for i, score in scores.items() if not math.isfinite(score)):
        raise SelectionError(
            f"{len(bad)} of {len(scores)} scores aren't finite (first: id {bad[0]!r}); an example without a scored "
            "answer token gives NaN. Drop it in the prepare stage."
        )
    return best_first(scores)[: selected_count(fraction, len(scores) if universe is None else universe)]


def within_tokens(ranked: Sequence[str], tokens: Mapping[str, int], allowed: float) -> list[str]:
    """The first ids of ``ranked``, so many that their tokens together come nearest to ``allowed``.

    Args:
        tokens: of each row, 0 or more.

    Returns:
        At least one id; the fewer of two numbers that are equally near; all if they have too few tokens together.
    """
    best, nearest, total = 1, math.inf, 0
    for count, identifier in enumerate(ranked, start=1):
        total += tokens[identifier]
        if abs(total - allowed) < nearest:
            best, nearest = count, abs(total - allowed)
    return list(ranked[:best])


def run(cfg: SelectConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ids.json. Needs inputs["scores"], inputs["universe"], the rows that all methods rank, and for a budget of
    tokens inputs["tokens"].

    Returns:
        ``rows`` of the universe, ``scored``, ``selected``, and ``short_by``, rows that lack a score for the fraction;
        for a budget of tokens ``selected_tokens`` and ``token_budget`` instead of ``short_by``; and ``ties``.
    """
    rows = read_rows(inputs["scores"] / "scores.jsonl", Score)
    scores = {row.id: row.score for row in rows}
    if len(scores) < len(rows):
        raise SelectionError(f"{len(rows) - len(scores)} ids have more than one score.")
    universe = {row.id for row in read_rows(inputs["universe"] / "rows.jsonl", Example)}
    if unknown := sorted(scores.keys() - universe):
        raise SelectionError(f"{len(unknown)} scored ids aren't among the rows to select from (first: {unknown[0]!r}).")
    wanted = selected_count(cfg.fraction, len(universe))
    facts = {"rows": len(universe), "scored": len(scores)}
    if cfg.budget is SelectBudget.rows:
        ids = top_fraction(scores, cfg.fraction, len(universe))
        facts |= {"selected": len(ids), "short_by": wanted - len(ids)}
    else:
        tokens: dict[str, int] = read_json(inputs["tokens"] / "tokens.json")
        if missing := sorted(universe - tokens.keys()):
            raise SelectionError(f"{len(missing)} rows have no number of tokens (first: {missing[0]!r}).")
        allowed = wanted / len(universe) * sum(tokens[i] for i in universe)  # mean over all random selections
        ids = within_tokens(top_fraction(scores, 1.0), tokens, allowed)
        used = sum(tokens[i] for i in ids)
        facts |= {"selected": len(ids), "selected_tokens": used, "token_budget": round(allowed)}
        if len(ids) == len(scores) and used < allowed:
            facts["short_by_tokens"] = round(allowed - used)
    facts |= ties(scores, ids)
    for line in told(facts):
        LOG.warning("%s", line)
    write_json(out / "ids.json", ids)
    return facts


def ties(scores: Mapping[str, float], ids: Sequence[str]) -> dict[str, int]:
    """How many scores differ; rows left out with the score of the last one selected, and selected rows with it."""
    last = scores[ids[-1]]
    tied = sum(scores[i] == last for i in ids)
    left_out = sum(score == last for score in scores.values()) - tied
    return {"distinct_scores": len(set(scores.values())), "tied": tied if left_out else 0, "tied_left_out": left_out}


def told(facts: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of a selection, from its counts; counts of an older version may lack."""
    sentences = []
    if facts.get("short_by"):
        sentences.append(f"{facts['short_by']:,} rows fewer than the fraction asks for: too few have a score")
    if facts.get("short_by_tokens"):
        sentences.append(f"{facts['short_by_tokens']:,} tokens fewer than the budget: too few rows have a score")
    if facts.get("distinct_scores") == 1 and facts["scored"] > 1:
        sentences.append(f"all {facts['scored']:,} scores are equal: ids alone decide what is selected")
    elif facts.get("tied_left_out"):
        sentences.append(
            f"tied at the cut: {facts['tied_left_out']:,} rows left out have the score of {facts['tied']:,} selected "
            "ones; ids decide which"
        )
    return sentences
