"""What a small model says about the rows of the authors' released selections: IFD, perplexity, embeddings.

In: the selections, and the numbers that ``released_data`` stored.  Out: findings, as ``released_findings``.
Source: IFD: arXiv 2308.12032; the effective number of vectors (Vendi score): arXiv 2210.02410; the published range of
the selected rows' IFD: the figure of arXiv 2505.05327.
Known gap: the published IFD is under another model, and over the whole pool.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.released_selections.released_data import Embedded, Released, label
from experiments.released_selections.released_findings import SEED, UNION, Finding, Line, Places, lengths, opposed, said
from experiments.released_selections.released_intervals import auc_within, drawn, mean
from icon_repro.report.intervals import Interval, auc, share

PUBLISHED = (0.65, 1.02)  # IFD of the selected rows, and the bin where most are: 0.87 to 0.90
BIN = 0.03  # width of a bin of IFD, as the published peak
BANDS = 50  # of response length, with equally many rows, within which rows count as equally long; at most
_IN_A_BAND = 20  # rows, at least
_FEWEST = 100  # rows of a selection in the sample of vectors, to say anything about it
Values = NDArray[np.float64]


def bands(released: Released) -> NDArray[np.intp]:
    """The band of response length that each row is in."""
    response = lengths(released)
    number = max(1, min(BANDS, len(response) // _IN_A_BAND))
    return np.searchsorted(np.quantile(response, np.arange(1, number) / number), response, side="right")


def peak(values: Values) -> float:
    """Lower end of the bin of IFD that holds most values."""
    numbers = np.floor(values / BIN + 1e-9).astype(np.intp)
    found, counts = np.unique(numbers, return_counts=True)
    return float(found[counts.argmax()] * BIN)


def find_scores(released: Released, measures: Mapping[str, Values]) -> Finding:
    """IFD and perplexity (geometric mean) of each selection; AUC against the rest, also within bands of length."""
    band, ifd, nll = bands(released), measures["ifd"], measures["nll"]
    known = np.flatnonzero(np.isfinite(ifd) & np.isfinite(nll))

    def line(name: str, against: str, chosen: Places, others: Places | None) -> Line:
        mine = np.intersect1d(chosen, known)
        logs = mean(nll[mine])
        made: dict[str, Any] = {
            "selection": name,
            "against": against,
            "rows with a value": len(mine),
            "IFD": mean(ifd[mine]),
            "above 1": share(int((ifd[mine] > 1).sum()), len(mine)),
            "in 0.65-1.02": share(int(((ifd[mine] >= PUBLISHED[0]) & (ifd[mine] <= PUBLISHED[1])).sum()), len(mine)),
            "peak": peak(ifd[mine]),
            "perplexity": Interval(*(float(np.exp(x)) for x in (logs.value, logs.low, logs.high))),
        }
        if others is None:
            return made
        theirs = np.intersect1d(others, known)
        for title, values in (("IFD", ifd), ("perplexity", nll)):
            made[f"AUC of {title}"] = auc(values[mine], values[theirs])
            within, _ = auc_within(values[mine], values[theirs], band[mine], band[theirs])
            made[f"AUC of {title}, equal length"] = within
        return made

    rest = "rest of the union"
    lines = [line(label(s), rest, chosen, released.rest(s)) for s, chosen in released.selections.items()]
    text = ""
    for top, low in opposed(released):
        both = np.intersect1d(released.selections[top], released.selections[low])
        apart = [np.setdiff1d(released.selections[s], both) for s in (top, low)]
        lines.append(line(label(top), f"{label(low)}, without {len(both)} shared", *apart))
        told = {key: said(lines[-1][key]) for key in lines[-1] if key.startswith("AUC")}
        text += (
            f"{label(top)} against {label(low)}: " + ", ".join(f"{key} {value}" for key, value in told.items()) + ". "
        )
    lines.append(line(UNION, "-", np.arange(len(released.rows)), None))
    text += f"{len(released.rows) - len(known)} rows of the union have no value."
    return Finding("scores", "What are IFD and perplexity of the selected rows?", lines, text)


def distance(cosines: Values) -> float:
    """Mean cosine distance of two different rows.

    Args:
        cosines: (rows, rows).
    """
    count = len(cosines)
    return float(1 - (cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def effective_rows(cosines: Values) -> float:
    """Vendi score: exp of the entropy of the eigenvalues of the cosines over their number; from 1 to the rows.

    Args:
        cosines: (rows, rows).
    """
    values = np.linalg.eigvalsh(cosines / len(cosines))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def centred(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Vectors without what all rows share, of length 1 again: raw ones all point the same way."""
    own = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return np.asarray(own / np.linalg.norm(own, axis=1, keepdims=True))


def find_diversity(released: Released, embedded: Embedded) -> Finding:
    """Mean cosine distance and effective number of equally many rows of each selection, drawn 200 times."""
    vectors, generator = centred(embedded.vectors), np.random.default_rng(SEED)
    cosines = vectors @ vectors.T
    inside = {s: np.flatnonzero(np.isin(embedded.places, chosen)) for s, chosen in released.selections.items()}
    size = min((len(chosen) for chosen in inside.values() if len(chosen) >= _FEWEST), default=0)
    if not size:
        return Finding(
            "diversity",
            "Do selections lose kinds of texts?",
            [],
            f"Not known: no selection has {_FEWEST} rows in the sample.",
        )

    def among(statistic: Callable[[Values], float], members: Places) -> float:
        return statistic(cosines[np.ix_(members, members)])

    def line(name: str, chosen: Places) -> Line:
        made: dict[str, Any] = {"selection": name, "rows in the sample": len(chosen), "drawn": size}
        if len(chosen) < size:
            return {**made, "cosine distance": None, "effective rows": None}
        for title, statistic in (("cosine distance", distance), ("effective rows", effective_rows)):
            made[title] = drawn(partial(among, statistic), chosen, size, generator)
        return made

    lines = [line(label(s), chosen) for s, chosen in inside.items()]
    lines.append(line("all of the sample", np.arange(len(vectors))))
    chance = lines[-1]["effective rows"]
    fewer = [x["selection"] for x in lines[:-1] if x["effective rows"] and x["effective rows"].value < chance.low]
    more = [x["selection"] for x in lines[:-1] if x["effective rows"] and x["effective rows"].value > chance.high]
    return Finding(
        "diversity",
        "Do selections lose kinds of texts?",
        lines,
        f"{size} rows of the sample are worth {chance.value:.1f} [{chance.low:.1f}, {chance.high:.1f}] with nothing in "
        f"common. Fewer, outside that range: {', '.join(fewer) or 'none'}. More: {', '.join(more) or 'none'}.",
    )
