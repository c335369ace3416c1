"""Show held-out NLL by length of the response, and whether a verdict depends on how rows are weighed.

In: ``ResultRow``s; the comparisons of ``report.verdicts``.  Out: header and cells of held_out;
a sentence for each comparison whose verdict differs between weights of tokens and of rows.
Known gap: the limits of the bins are fixed; bins have no intervals.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.evaluate.held_out_measures import BY_TOKENS, ROWS, SHORT
from icon_repro.report import verdicts
from icon_repro.report.cells import MISSING, NATS, NOT_APPLICABLE, Cell, Field, about, mean_cell
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import Line, decoded, facts, lines

_LIMITS = (1, 10, 30, 100, 300)  # the first number of response tokens of each bin
_LABELS = [*(f"{low}-{high - 1} tokens" for low, high in pairwise(_LIMITS)), "300 and more"]
_WEIGHTS = ("by tokens", "by rows", "short rows")
CAPTION = """\
NLL of held-out responses in nats a response token, lower is better, ± half of the 95 % interval. by tokens: each
response token weighs the same, of rows with `short_tokens` response tokens and more; by rows: mean over all rows of
each row's mean; short rows: the others, by tokens. Then by length of the response: the sum over a bin's response
tokens over their number, mean over runs. rows and share of tokens: how much of a task is in a cell. Weighed by tokens a
bin counts as its share of tokens says, weighed by rows as its rows do.
"""


def weighted(rows: Sequence[ResultRow]) -> list[str]:
    """Names of the held-out tasks that are measured by tokens and by rows."""
    known = facts(rows)
    return [name for name in known if f"{name}{ROWS}" in known]


def variants(rows: Sequence[ResultRow]) -> set[str]:
    """Names of the measures that are shown beside a task's first one, by tokens."""
    return {f"{name}{other}" for name in weighted(rows) for other in (ROWS, SHORT)}


COLUMNS = ["task", "method", "fraction", "measure", "value", "low", "high", "unit", "runs", "selections", "items"]
COLUMNS += ["share of tokens", "status"]


def table(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]], list[dict[str, Field]]]:
    """Header and cells: of each task the size of the bins, and a line for each method and fraction; and a tidy line
    for each weighting and bin, with ``COLUMNS``. ``share of tokens`` is of the task's, in percent."""
    cells, tidy, known = [], list[dict[str, Field]](), facts(rows)
    for name in weighted(rows):
        measures = [one for one in (name, f"{name}{ROWS}", f"{name}{SHORT}") if one in known]
        absent = ["-"] * (len(_WEIGHTS) - len(measures))
        finished = [line for line in lines(rows) if line.has([name])]
        sizes, bins = np.empty(0), list[NDArray[np.intp]]()
        shares = dict[str, float]()
        if finished:
            _, sizes = _by_row(finished[0], name)
            bins = [np.flatnonzero(np.digitize(sizes, _LIMITS) == place + 1) for place in range(len(_LIMITS))]
            first = [finished[0].rows[0].benchmarks[one] for one in measures]
            counts = [str(cell.items) for cell in first] + absent
            cells.append([name, "rows", "-", *counts, *(str(len(chosen)) for chosen in bins)])
            shares = {
                title: 100 * (cell.scored_tokens or 0) / float(sizes.sum())
                for title, cell in zip(_WEIGHTS, first, strict=False)
            }
            shares |= {
                title: 100 * float(sizes[chosen].sum() / sizes.sum())
                for title, chosen in zip(_LABELS, bins, strict=True)
            }
            parts = [f"{share:.1f} %" for share in shares.values()]
            parts[len(first) : len(first)] = absent
            cells.append([name, "share of tokens", "-", *parts])
        for line in lines(rows):
            fraction = "-" if line.fraction is None else f"{line.fraction:g}"
            if line not in finished:
                cells.append([name, line.method, fraction, *["missing"] * (len(_WEIGHTS) + len(_LIMITS))])
                tidy.append({"task": name, **about(line), **Cell(_WEIGHTS[0], MISSING, NATS).tidy()})
                continue
            weighed = [
                mean_cell(line, [one], title, NATS, 1, 4) for title, one in zip(_WEIGHTS, measures, strict=False)
            ]
            binned = _binned(_by_row(line, name)[0], sizes, bins)
            cells.append([name, line.method, fraction, *(cell.text for cell in weighed), *absent])
            cells[-1] += [cell.text for cell in binned]
            tidy += [
                {"task": name, **about(line), **cell.tidy(), "share of tokens": shares.get(cell.measure)}
                for cell in (*weighed, *binned)
                if cell.text != NOT_APPLICABLE
            ]
    return ["task", "method", "fraction", *_WEIGHTS, *_LABELS], cells, tidy


def _binned(values: NDArray[np.float64], sizes: NDArray[np.float64], bins: Sequence[NDArray[np.intp]]) -> list[Cell]:
    """NLL a token of each bin of rows by the length of their responses."""
    cells = []
    for title, chosen in zip(_LABELS, bins, strict=True):
        if len(chosen):
            value = float(np.average(values[chosen], weights=sizes[chosen]))
            cells.append(Cell(title, f"{value:.4f}", NATS, value, items=len(chosen)))
        else:
            cells.append(Cell(title, NOT_APPLICABLE, NATS))
    return cells


def _by_row(line: Line, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """NLL a token of each row, over the runs of each selection and then over selections; and response tokens."""
    selections: dict[tuple[Any, Any], list[NDArray[np.float64]]] = {}
    sizes = np.empty(0)
    for row in line.rows:
        names = [one for one in (name, f"{name}{SHORT}") if one in row.benchmarks]
        parts = [row.benchmarks[one].outcomes.parts[0] for one in names]
        sizes = np.concatenate([np.asarray(part.sizes, np.float64) for part in parts])
        values = np.concatenate([decoded(part) for part in parts])
        selections.setdefault((row.pool, row.selection_seed), []).append(values)
    return np.mean([np.mean(runs, axis=0) for runs in selections.values()], axis=0), sizes


def weighting_dependent(
    rows: Sequence[ResultRow], compared: Sequence[verdicts.Comparison], primary: Mapping[str, Any] | None = None
) -> list[str]:
    """A sentence for each comparison of a held-out task whose verdict depends on the weights; or that none does.

    Args:
        primary: the experiment's primary comparison, which isn't corrected with the others.
    """
    says = {
        tuple(str(line[key]) for key in ("measure", "method", "fraction", "against")): str(line["verdict"])
        for line in verdicts.tidy(compared, primary)
    }
    sentences = []
    for name in weighted(rows):
        pairs = [
            (key[1:], says[key], says[f"{name}{ROWS}", *key[1:]])
            for key in says
            if key[0] == name and (f"{name}{ROWS}", *key[1:]) in says
        ]
        done = [pair for pair in pairs if "missing" not in pair[1:]]
        depending = [pair for pair in done if pair[1] != pair[2]]
        for (method, fraction, against), by_tokens, by_rows in depending:
            sentences.append(
                f"{name}: {method} at {fraction} against {against} depends on the weights: {by_tokens} by "
                f"{BY_TOKENS}, {by_rows} by rows"
            )
        if done and not depending:
            sentences.append(f"{name}: every verdict is the same by {BY_TOKENS} and by rows")
    return sentences
