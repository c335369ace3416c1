"""What the authors' released selections are like, from their rows alone: no model is needed.

In: the selections and their rows.  Out: a ``Finding`` for each question: a table and a sentence made from it.
Source: sizes int(share * 52,001): arXiv 2505.05327's released code. What each number is: the finding's docstring.
Known gap: the pool isn't here. "The rest" of a selection is the rest of the union of all released selections, of which
the rows selected as worst are a large part; only what chance gives is computed for the whole pool.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.released_selections.released_data import POOL, Released, Selection, label
from experiments.released_selections.released_intervals import by_chance, drawn
from experiments.released_selections.released_texts import QUESTIONS, verb_noun, words
from icon_repro.report.intervals import Interval, auc, share

UNION = "union"
ROWS = 500  # to which selections are cut, at random, where a number grows with the rows it is counted in
SEED = 0
Places = NDArray[np.intp]
Codes = NDArray[np.intp]
Line = Mapping[str, Any]  # column -> text, number, Interval, or None where there is nothing


@dataclass(frozen=True)
class Finding:
    """One question's answer: a table and the sentence made from it."""

    name: str
    question: str
    lines: Sequence[Line]
    text: str


def said(interval: Interval, digits: int = 2) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def lengths(released: Released) -> NDArray[np.float64]:
    """Characters of each row's response."""
    return np.array([len(row.output) for row in released.rows], np.float64)


def codes(values: Iterable[Hashable]) -> Codes:
    """Equal values get equal numbers, from 0 on in order of appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.intp)


def distinct(values: Codes) -> int:
    return int(np.count_nonzero(np.bincount(values)))


def effective(values: Codes) -> float:
    """exp of the entropy: the number of equally frequent values that would be as hard to guess."""
    counts = np.bincount(values)
    shares = counts[counts > 0] / len(values)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def opposed(released: Released) -> list[tuple[Selection, Selection]]:
    """For each model with rows selected as worst: its largest selection of the best, and these."""
    found = []
    for low in (s for s in released.selections if s[1].startswith("low_")):
        tops = [s for s in released.selections if s[0] == low[0] and s[1].startswith("top_")]
        found += [(max(tops, key=lambda s: len(released.selections[s])), low)] if tops else []
    return found


def find_contents(released: Released) -> Finding:
    """Rows, share of the pool, input, URLs, empty responses and mean lengths (characters) of each selection."""
    rows = released.rows
    with_input = np.array([bool(row.input) for row in rows])
    url = np.array(["http://" in row.prompt or "https://" in row.prompt for row in rows])
    empty = np.array([not row.output.strip() for row in rows])
    response, prompt = lengths(released), np.array([len(row.instruction) + len(row.input) for row in rows])

    def line(name: str, chosen: Places) -> Line:
        return {
            "selection": name,
            "rows": len(chosen),
            "share of the pool": len(chosen) / POOL,
            "with input": share(int(with_input[chosen].sum()), len(chosen)),
            "URL in prompt": int(url[chosen].sum()),
            "empty response": int(empty[chosen].sum()),
            "response": float(response[chosen].mean()),
            "response, median": float(np.median(response[chosen])),
            "prompt": float(prompt[chosen].mean()),
        }

    lines = [line(label(s), chosen) for s, chosen in released.selections.items()]
    lines.append(line(UNION, np.arange(len(rows))))
    best = [chosen for s, chosen in released.selections.items() if s[1].startswith("top_")]
    shares = [float(with_input[chosen].mean()) for chosen in best]
    return Finding(
        "contents",
        "What is in each selection?",
        lines,
        f"Sizes are int(share x {POOL:,}). {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the rows of a "
        f"selection of the best have an input, {100 * lines[-1]['with input'].value:.0f} % of the union. "
        f"Of {len(best)} such selections {holding(best, url)} with a URL in the prompt, {holding(best, empty)} with an "
        "empty response.",
    )


def holding(selections: Sequence[Places], marked: NDArray[np.bool_]) -> str:
    """How many selections hold marked rows, and how many different rows that is."""
    some = [chosen for chosen in selections if marked[chosen].any()]
    number = int(marked[np.unique(np.concatenate(some))].sum()) if some else 0
    return f"{len(some)} hold rows ({number} in all)"


def shared(released: Released, one: Selection, other: Selection) -> Line:
    """How many rows two selections share, as a share of the first, and what two random draws from the pool share."""
    a, b = released.selections[one], released.selections[other]
    both = len(np.intersect1d(a, b))
    chance = by_chance(POOL, len(a), len(b))
    return {
        "selection": label(one),
        "other": label(other),
        "rows": len(a),
        "in both": both,
        "share": share(both, len(a)),
        "Jaccard": both / (len(a) + len(b) - both),
        "by chance": Interval(chance.value / len(a), chance.low / len(a), chance.high / len(a)),
        "times chance": both / chance.value,
    }


def find_nesting(released: Released) -> Finding:
    """How much of a model's smaller selection of the best is in its larger ones."""
    tops = [s for s in released.selections if s[1].startswith("top_")]
    pairs = [(a, b) for a, b in itertools.combinations(tops, 2) if a[0] == b[0]]
    lines = [shared(released, a, b) for a, b in pairs]
    values = [line["share"].value for line in lines]
    return Finding(
        "nesting",
        "Is the best 1 % inside the best 5 % and 10 %?",
        lines,
        f"A ranking would nest them fully (1.00). {min(values):.2f} to {max(values):.2f} of a smaller selection is in "
        "a larger one of the same model: each percentage has a classifier of its own."
        if values
        else "No model has two selections of the best.",
    )


def find_models(released: Released) -> Finding:
    """How many rows the selections of two models share, and those of the best and the worst of one model."""
    pairs = [
        (a, b)
        for a, b in itertools.combinations(released.selections, 2)
        if (a[0] != b[0] and a[1] == b[1]) or (a[0] == b[0] and a[1][:3] != b[1][:3])
    ]
    lines = [shared(released, a, b) for a, b in pairs]
    across = [line for line, (a, b) in zip(lines, pairs, strict=True) if a[0] != b[0]]
    within = [line for line, (a, b) in zip(lines, pairs, strict=True) if a[0] == b[0]]
    text = "There is only one model."
    if across:
        values, times = (
            [f(line) for line in across] for f in (lambda x: x["share"].value, lambda x: x["times chance"])
        )
        text = (
            f"Two models' selections of equal size share {min(values):.2f} to {max(values):.2f} of their rows, "
            f"{min(times):.1f} to {max(times):.1f} times what chance gives."
        )
    if within:
        twice = [np.intersect1d(released.selections[a], released.selections[b]) for a, b in pairs if a[0] == b[0]]
        text += (
            f" {len(np.unique(np.concatenate(twice)))} rows are in a selection of the best and in one of the worst of "
            "the same model."
        )
    return Finding("models", "Do models select the same rows?", lines, text)


def find_length(released: Released) -> Finding:
    """AUC of the response's characters: a selection against the rest of the union; best against worst of a model.

    The rows selected as worst are short and a third of the union: the last column leaves them out of the rest.
    """
    response = lengths(released)
    lows = [chosen for s, chosen in released.selections.items() if s[1].startswith("low_")]
    worst_of_all = np.unique(np.concatenate(lows)) if lows else np.empty(0, np.intp)

    def line(name: str, against: str, chosen: Places, others: Places) -> dict[str, Any]:
        return {
            "selection": name,
            "against": against,
            "rows": len(chosen),
            "others": len(others),
            "mean": float(response[chosen].mean()),
            "mean of others": float(response[others].mean()),
            "AUC": auc(response[chosen], response[others]),
        }

    lines = []
    for s, chosen in released.selections.items():
        lines.append(line(label(s), "rest of the union", chosen, released.rest(s)))
        if s[1].startswith("top_"):
            others = np.setdiff1d(released.rest(s), worst_of_all)
            lines[-1]["AUC, worst left out"] = auc(response[chosen], response[others])
    tops = [one for one in lines if "AUC, worst left out" in one]
    ranges = [[one[column].value for one in tops] for column in ("AUC", "AUC, worst left out")]
    text = (
        "Length alone tells a selection of the best from the rest of the union with AUC "
        f"{min(ranges[0]):.2f} to {max(ranges[0]):.2f}, without the rows selected as worst {min(ranges[1]):.2f} to "
        f"{max(ranges[1]):.2f}."
    )
    for top, low in opposed(released):
        best, worst = released.selections[top], released.selections[low]
        both = np.intersect1d(best, worst)
        lines.append(line(label(top), label(low), best, worst))
        if len(both):
            apart = (np.setdiff1d(best, both), np.setdiff1d(worst, both))
            lines.append(line(label(top), f"{label(low)}, without {len(both)} shared", *apart))
        text += f" It tells {label(top)} from {label(low)} with {said(lines[-1]['AUC'], 3)}."
    return Finding("length", "Are selected responses long?", lines, text)


def find_tasks(released: Released) -> Finding:
    """Verbs and verb-noun pairs of the instructions, in ``ROWS`` rows of each selection drawn 200 times."""
    pairs = [verb_noun(row.instruction) for row in released.rows]
    question = np.array([verb in QUESTIONS for verb, _ in pairs])
    without = np.array([not noun for _, noun in pairs])
    both, verbs = codes(pairs), codes(verb for verb, _ in pairs)
    size = min(ROWS, *(len(chosen) for chosen in released.selections.values()))
    generator = np.random.default_rng(SEED)

    def line(name: str, chosen: Places) -> Line:
        def counted(statistic: Callable[[Codes], float], values: Codes) -> Interval:
            return drawn(lambda members: statistic(values[members]), chosen, size, generator)

        return {
            "selection": name,
            "drawn": size,
            "verbs": counted(distinct, verbs),
            "effective verbs": counted(effective, verbs),
            "verb-noun pairs": counted(distinct, both),
            "effective pairs": counted(effective, both),
            "questions": share(int(question[chosen].sum()), len(chosen)),
            "without noun": share(int(without[chosen].sum()), len(chosen)),
        }

    lines = [line(label(s), chosen) for s, chosen in released.selections.items()]
    lines.append(line(UNION, np.arange(len(released.rows))))
    chance = lines[-1]["verb-noun pairs"]
    fewer = [one["selection"] for one in lines[:-1] if one["verb-noun pairs"].value < chance.low]
    more = [one["selection"] for one in lines[:-1] if one["verb-noun pairs"].value > chance.high]
    return Finding(
        "tasks",
        "Do selections lose kinds of tasks?",
        lines,
        f"{size} rows of the union hold {chance.value:.0f} [{chance.low:.0f}, {chance.high:.0f}] distinct verb-noun "
        f"pairs. Fewer, outside that range: {', '.join(fewer) or 'none'}. More: {', '.join(more) or 'none'}.",
    )


def find_duplicates(released: Released) -> Finding:
    """Rows that repeat an earlier row of the same selection, and how many do in as many random rows of the union.

    Words of an instruction count once and in any order, those of a response in their order; case and marks don't count.
    """
    rows = released.rows
    kinds = {
        "same instruction": codes(row.instruction for row in rows),
        "instruction of the same words": codes(tuple(sorted(set(words(row.instruction)))) for row in rows),
        "same response": codes(row.output for row in rows),
        "response of the same words": codes(words(row.output) for row in rows),
    }
    everything, generator = np.arange(len(rows)), np.random.default_rng(SEED)

    def repeated(values: Codes, members: Places) -> int:
        return len(members) - distinct(values[members])

    lines = []
    for name, chosen in [*((label(s), c) for s, c in released.selections.items()), (UNION, everything)]:
        line: dict[str, Any] = {"selection": name, "rows": len(chosen)}
        for kind, values in kinds.items():
            line[kind] = repeated(values, chosen)
            if name != UNION:
                line[f"{kind}, by chance"] = drawn(
                    lambda members, values=values: repeated(values, members),  # type: ignore[misc]
                    everything,
                    len(chosen),
                    generator,
                )
        lines.append(line)
    whole = lines[-1]
    return Finding(
        "duplicates",
        "Do selections hold the same row twice?",
        lines,
        f"No selection names a row twice. Of {len(rows):,} rows of the union {whole['same instruction']} repeat the "
        f"instruction of an earlier one, {whole['instruction of the same words']} its words in any order; "
        f"{whole['same response']} repeat a response, {whole['response of the same words']} its words.",
    )
