"""Figures of the authors' released selections.

In: the selections, and what ``released_data`` stored.  Out: panels for ``report.figures.draw``.
Known gap: t-SNE shows which rows are near each other, not how far groups are apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experiments.released_selections.released_data import POOL, Embedded, Released, Selection, label
from experiments.released_selections.released_findings import UNION, Finding, lengths, shared
from experiments.released_selections.released_scores import BIN
from icon_repro.report.figures.series import Curve, Grid, Panel, Scatter, Series
from icon_repro.report.intervals import Interval

Values = NDArray[np.float64]
_POINTS = 101  # of a cumulative distribution


def shown(released: Released) -> list[Selection]:
    """Each model's largest selections of the best and of the worst: as many as a figure can hold."""
    found = dict[tuple[str, str], Selection]()
    for selection in released.selections:  # sizes ascend
        found[selection[0], selection[1][:3]] = selection
    return list(found.values())


def overlap_panels(released: Released) -> list[Panel]:
    """Share of each selection (row) that is in each other (column)."""
    names = [label(s) for s in released.selections]
    values = [[shared(released, a, b)["share"].value for b in released.selections] for a in released.selections]
    return [Panel("is in", "share of", [Grid(names, names, values)])]


def length_panels(released: Released, found: Finding) -> list[Panel]:
    """Distribution of response lengths, and their AUC by the share that is selected."""
    response = lengths(released)
    at_least = np.maximum(response, 1)  # a logarithmic axis has no place for an empty response
    curves: list[Series] = [_distribution(UNION, at_least)]
    curves += [_distribution(label(s), at_least[released.selections[s]]) for s in shown(released)]
    aucs: dict[str, list[tuple[float, Interval]]] = {}
    for selection, line in zip(released.selections, found.lines, strict=False):
        name = selection[0] if selection[1].startswith("top_") else f"{selection[0]}, worst"
        percent = round(100 * len(released.selections[selection]) / POOL, 2)
        aucs.setdefault(name, []).append((percent, line["AUC"]))
    right: list[Series] = []
    for name, points in aucs.items():
        x, y = [p for p, _ in points], [i.value for _, i in points]
        right.append(Curve(name, x, y, [i.low for _, i in points], [i.high for _, i in points]))
    ends = sorted({p for points in aucs.values() for p, _ in points})
    right.append(Curve("no difference", [ends[0], ends[-1]], [0.5, 0.5], marked=False))
    return [
        Panel("response (characters)", "share of rows that are shorter", curves, log_x=True, y_range=(0, 1)),
        Panel("selected (% of the pool)", "AUC of length against the rest", right, y_range=(0, 1)),
    ]


def score_panels(released: Released, measures: Mapping[str, Values]) -> list[Panel]:
    """IFD as a histogram and loss as a distribution, of selections and of all rows of the union."""
    ifd, nll = measures["ifd"], measures["nll"]
    groups = {UNION: np.arange(len(released.rows)), **{label(s): released.selections[s] for s in shown(released)}}
    edges = BIN * np.arange(8, 48)  # 0.24 to 1.41
    left: list[Series] = []
    right: list[Series] = []
    for name, chosen in groups.items():
        known = chosen[np.isfinite(ifd[chosen])]
        counts = np.histogram(ifd[known], edges)[0]
        left.append(Curve(name, (edges[:-1] + BIN / 2).tolist(), (counts / len(known)).tolist(), marked=False))
        right.append(_distribution(name, nll[known]))
    return [
        Panel("IFD (ratio of losses)", f"share of rows in a bin of {BIN}", left),
        Panel("loss of the response (log perplexity, nats)", "share of rows that are below", right, y_range=(0, 1)),
    ]


def map_panels(released: Released, embedded: Embedded) -> list[Panel]:
    """t-SNE of the sample: a panel a model, its largest selections over the rest."""
    panels = []
    low, high = float(embedded.map[:, 1].min()), float(embedded.map[:, 1].max())  # room for the legend above
    for model in dict.fromkeys(s[0] for s in released.selections):
        mine = [s for s in shown(released) if s[0] == model]
        inside = [np.isin(embedded.places, released.selections[s]) for s in mine]
        rest = replace(_points("rest of the sample", embedded, ~np.logical_or.reduce(inside), released), faint=True)
        series: list[Series] = [rest]
        series += [_points(label(s), embedded, chosen, released) for s, chosen in zip(mine, inside, strict=True)]
        panels.append(
            Panel("t-SNE 1", "t-SNE 2", series, y_range=(low - 0.05 * (high - low), high + 0.4 * (high - low)))
        )
    return panels


def _points(name: str, embedded: Embedded, chosen: NDArray[np.bool_], released: Released) -> Scatter:
    x, y = embedded.map[chosen].T
    return Scatter(name, x.tolist(), y.tolist(), [released.rows[i].id for i in embedded.places[chosen]])


def _distribution(name: str, values: Values) -> Curve:
    shares = np.linspace(0, 1, _POINTS)
    x: Sequence[float] = np.quantile(values, shares).tolist()
    return Curve(name, x, shares.tolist(), marked=False)
