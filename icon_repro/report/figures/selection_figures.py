"""Draw what was selected: against length, each other, IFD and embeddings; reliability of ICon's score.

In: ``Material``.  Out: ``Figure``s, or ``NotMade`` with the reason.
Source: AUC and its interval: ``icon_repro.report.intervals``; reliability: ``icon_repro.methods.agreement``.
Known gap: t-SNE shows which rows are near each other, not how far groups are apart, and another processor's last
digits may draw another map.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, rankdata

from icon_repro.methods.agreement import agreement, columns_for, overlap, reliability
from icon_repro.report.figures.material import Figure, Material, NotMade, Ranked
from icon_repro.report.figures.series import Bars, Curve, Grid, Panel, Scatter, Series
from icon_repro.report.intervals import Interval, auc

_POINTS = 400  # of a scatter: more hide each other
_MAPPED = 600  # rows of a t-SNE
_ITERATIONS = 500  # of a t-SNE: twice as many leave the map nearly as it is, and take seconds
_GRID = 24  # rows and columns of a heat map
_PANELS = 12
_BINS = 40
_SPLITS = 20  # pairs of disjoint sets of assessment rows
_SEED = 0


def length(material: Material) -> Figure:
    """Score against response length, a panel a method, and the AUC of length alone."""
    methods = _with_selection(material)
    characters = {identifier: float(len(row.response)) for identifier, row in material.rows.items()}
    panels = list[Panel]()
    aucs: dict[float, dict[str, Interval]] = {}
    for ranked in methods:
        for fraction, ids in sorted(ranked.selected.items()):
            if (found := _length_auc(ids, characters)) is not None:
                aucs.setdefault(fraction, {})[ranked.label] = found
        if len(panels) < _PANELS - 1:
            panels.append(_explained_once(_length_panel(ranked, characters, aucs), panels))
    bars: list[Series] = []
    names = [ranked.label for ranked in methods]
    for fraction, own in sorted(aucs.items()):
        if list(own) == names:  # bars of one series stand at the same labels
            parts = [own[name] for name in names]
            ends = [(p.value if math.isnan(p.low) else p.low, p.value if math.isnan(p.high) else p.high) for p in parts]
            bars.append(
                Bars(
                    f"best {100 * fraction:g} %",
                    names,
                    [p.value for p in parts],
                    [low for low, _ in ends],
                    [high for _, high in ends],
                    methods=[ranked.method for ranked in methods] if len(aucs) == 1 else None,
                )
            )
    if bars:
        bars.append(Curve("no difference", [-0.5, len(names) - 0.5], [0.5, 0.5], marked=False, faint=True))
        single = f"best {100 * next(iter(aucs)):g} %" if len(aucs) == 1 else "selected"
        title, ticks = f"{single} against the rest", (0, 0.25, 0.5, 0.75, 1)  # above 1 is room for the legend
        label, several = "AUC of length alone", len(aucs) > 1
        panels.append(Panel("", label, bars, y_range=(0, 1.2), ticks_y=ticks, title=title, legend=several))
    left = len(methods) - _PANELS + 1
    more = f" {left} more methods are in the panel of AUCs only." if left > 0 else ""
    aucs_of_length = "; ".join(f"{name} {own.value:.2f}" for name, own in next(iter(aucs.values()), {}).items())
    return Figure(
        "length",
        "Score against response length",
        f"Rank of the score (1: selected first) by the response's characters, at most {_POINTS} rows of each kind; "
        "selected: at the largest fraction. AUC: the probability that a selected row's response is longer than "
        "another row's, which is what a selector that knows nothing but length would be tested against; 0.5 is no "
        f"difference. 95 % intervals: DeLong, rows taken as independent.{more}",
        f"Scatter plots of score rank by length for {', '.join(names)}. Length-only AUC: {aucs_of_length}.",
        panels,
    )


def _explained_once(panel: Panel, before: Sequence[Panel]) -> Panel:
    """``panel`` without its legend if the first of those before it has the same: a legend takes long to lay out."""
    names = [[series.name for series in one.series if not isinstance(series, Grid)] for one in (panel, *before[:1])]
    return replace(panel, legend=len(names) == 1 or names[0] != names[1])


def _length_panel(ranked: Ranked, characters: dict[str, float], aucs: dict[float, dict[str, Interval]]) -> Panel:
    ids = sorted(ranked.scores.keys() & characters.keys())
    ranks = rankdata([ranked.scores[i].score for i in ids]) / len(ids)
    fraction = max(ranked.selected)
    chosen = set(ranked.selected[fraction])
    series: list[Series] = []
    for name, inside in (("rest", False), (f"selected, best {100 * fraction:g} %", True)):
        places = [place for place, identifier in enumerate(ids) if (identifier in chosen) == inside][:_POINTS]
        x = [max(1.0, characters[ids[place]]) for place in places]
        y = [float(ranks[place]) for place in places]
        if places:
            method = ranked.method if inside else ""
            series.append(Scatter(name, x, y, [ids[place] for place in places], faint=not inside, method=method))
    auc_of_length = aucs.get(fraction, {}).get(ranked.label)
    said = "" if auc_of_length is None else f": AUC {auc_of_length.value:.2f}"
    if auc_of_length is not None and not math.isnan(auc_of_length.low):
        said += f" [{auc_of_length.low:.2f}, {auc_of_length.high:.2f}]"
    title, ranks_of_all = f"{ranked.label}{said}", (-0.04, 1.04)
    labels = "response (characters)", "rank of the score"
    return Panel(*labels, series, decades_x=True, title=title, y_range=ranks_of_all, y_as_left=True)


def _length_auc(ids: Sequence[str], characters: dict[str, float]) -> Interval | None:
    """AUC of length of the selected against the rest; None if a side has fewer than two rows."""
    chosen = set(ids)
    inside = [value for identifier, value in characters.items() if identifier in chosen]
    outside = [value for identifier, value in characters.items() if identifier not in chosen]
    return auc(inside, outside) if len(inside) > 1 and len(outside) > 1 else None


def overlaps(material: Material) -> Figure:
    """Share of each selection's rows that is in each other: methods, selection seeds, fractions."""
    every = [
        (f"{ranked.label} {100 * fraction:g} %", ids)
        for ranked in material.ranked
        for fraction, ids in sorted(ranked.selected.items())
        if ids
    ]
    if len(every) < 2:
        raise NotMade(f"selections: {len(every)}; two are needed")
    shown = every[:_GRID]
    names = [name for name, _ in shown]
    values = [[overlap(a, b) for _, b in shown] for _, a in shown]
    apart = [(values[i][j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    most, one, other = max(apart)
    count = max(len(material.rows), *(len(ids) for _, ids in shown))
    ends = [[_chance(len(a), len(b), count) for _, b in shown] for _, a in shown]
    chance = [[[cell[end] for cell in row] for row in ends] for end in (0, 1)]
    sizes = {len(ids) for _, ids in shown}
    at = f", that is {ends[0][1][0]:.2f} to {ends[0][1][1]:.2f}" if len(sizes) == 1 else ""
    left = len(every) - len(shown)
    more = f" {left} of {len(every)} selections aren't shown." if left else ""
    return Figure(
        "overlap",
        "Overlap of selections",
        "Share of the smaller selection that is in both. Hatched: within what two selections drawn at random of all "
        f"{count:,} rows share in 95 of 100 cases{at}.{more}",
        f"Heat map of the overlap of {len(names)} selections; the most alike are {one} and {other} with {most:.2f}.",
        [Panel("", "", [Grid(names, names, values, *chance)])],
    )


def _chance(one: int, two: int, rows: int) -> tuple[float, float]:
    """The overlap of two random selections: ends of what 95 of 100 pairs have (hypergeometric).

    Args:
        rows: that both are drawn from.
    """
    low, high = (hypergeom.ppf(end, rows, one, two) for end in (0.025, 0.975))
    return float(low) / min(one, two), float(high) / min(one, two)


def ifd(material: Material) -> Figure:
    """Histogram of IFD of each method's selection and of all rows."""
    if not material.ifd:
        raise NotMade(material.absent.get("ifd", "no method computes IFD"))
    panels, medians, outside = [], list[str](), 0
    for source, values in material.ifd.items():
        everything = np.array(list(values.values()))
        if not everything.size:
            continue
        low, high = (float(end) for end in np.quantile(everything, [0.005, 0.995]))
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        outside += int(((everything < low) | (everything > high)).sum())
        series: list[Series] = [replace(_histogram(f"all {everything.size:,}", everything, edges), faint=True)]
        for ranked in _with_selection(material)[: _PANELS - 1]:
            fraction = max(ranked.selected)
            selected = np.array([values[i] for i in ranked.selected[fraction] if i in values])
            if selected.size:
                named = f"{ranked.label} {100 * fraction:g} %"
                series.append(replace(_histogram(named, selected, edges), method=ranked.method))
                medians.append(f"{ranked.label} {float(np.median(selected)):.2f}")
        medians.insert(0, f"all {float(np.median(everything)):.2f}")
        title = f"IFD by {source}" if len(material.ifd) > 1 else ""
        panels.append(Panel("IFD (ratio of losses)", "share of rows in a bin", series, title=title, wide_legend=True))
    if not panels:
        raise NotMade("no row has an IFD")
    return Figure(
        "ifd",
        "Instruction-following difficulty of what is selected",
        "Share of rows by IFD, of all rows and of each method's selection at its largest fraction. Rows that a method "
        f"leaves out for an IFD above 1 are among all rows. {outside} rows beyond the middle 99 % aren't shown.",
        f"Histograms of IFD. Medians: {', '.join(medians)}.",
        panels,
    )


def _histogram(name: str, values: NDArray[np.float64], edges: NDArray[np.float64]) -> Curve:
    counts = np.histogram(values, edges)[0]
    return Curve(name, ((edges[:-1] + edges[1:]) / 2).tolist(), (counts / len(values)).tolist(), marked=False)


def embedded(material: Material) -> Figure:
    """t-SNE of a sample of rows, a panel a method: selected over the rest."""
    if material.vectors is None:
        raise NotMade(material.absent.get("tsne", "no method embeds the rows"))
    ids, vectors = material.vectors
    order = sorted(range(len(ids)), key=lambda place: ids[place])[:_MAPPED]  # ids are hashes: a sample at random
    if len(order) < 10:
        raise NotMade(f"{len(order)} rows have an embedding; ten are needed")
    from sklearn.manifold import TSNE  # takes seconds to import

    centred = vectors[order].astype(np.float32)
    centred -= centred.mean(axis=0)
    settings = {"perplexity": min(30, (len(order) - 1) / 3), "init": "pca", "max_iter": _ITERATIONS, "n_jobs": 1}
    places = TSNE(random_state=_SEED, **settings).fit_transform(centred)
    methods = _with_selection(material)
    panels = list[Panel]()
    for ranked in methods[:_PANELS]:
        fraction = max(ranked.selected)
        chosen = set(ranked.selected[fraction])
        series: list[Series] = []
        for name, inside in (("rest", False), (f"best {100 * fraction:g} %", True)):
            inside_places = [i for i, place in enumerate(order) if (ids[place] in chosen) == inside]
            if inside_places:
                x, y = places[inside_places, 0].tolist(), places[inside_places, 1].tolist()
                whose = ranked.method if inside else ""
                series.append(
                    Scatter(name, x, y, [ids[order[i]] for i in inside_places], faint=not inside, method=whose)
                )
        panels.append(_explained_once(Panel("", "", series, title=ranked.label, ticks_x=(), ticks_y=()), panels))
    left = len(methods) - len(panels)
    more = f" {left} more methods aren't shown." if left else ""
    return Figure(
        "tsne",
        "Where the selected rows lie",
        f"t-SNE (perplexity 30, started from PCA) of the embeddings of {len(order):,} of {len(ids):,} rows, the same "
        "map in each panel; near rows are alike, but distances between groups say nothing, and another processor may "
        f"draw another map.{more}",
        f"Maps of {len(order)} rows with the selection of {', '.join(ranked.label for ranked in methods[:_PANELS])}.",
        panels,
    )


def reliable(material: Material) -> Figure:
    """How well ICon's score comes back with other assessment rows, by their number."""
    if not material.contributions:
        raise NotMade(material.absent.get("reliability", "no method scores pairs of candidates and assessment rows"))
    generator = np.random.default_rng(_SEED)
    series: list[Series] = []
    texts = []
    for name, task in material.contributions.items():
        candidates, rows = task.shape
        if candidates < 2 or rows < 4:
            continue
        counts = sorted({max(1, round(rows * part)) for part in (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)})
        expected = [reliability(task, count) for count in counts]
        series.append(Curve(f"{name}, expected", counts, expected, marked=False, method=name))
        halves = [count for count in counts if count <= rows // 2]
        observed = [agreement(task, count, generator, _SPLITS) for count in halves]
        series.append(Scatter(f"{name}, of disjoint rows", halves, observed, method=name))
        needed = columns_for(task, 0.9)
        texts.append(f"{name} {expected[-1]:.2f} with {rows} rows, 0.9 needs {needed if needed else 'more than any'}")
    if not series:
        raise NotMade("fewer than two candidates or four assessment rows")
    return Figure(
        "reliability",
        "Reliability of ICon's score",
        "Share of the score's variance that would come back with other assessment rows, by their number: expected "
        "from the variance components of the pairs, and the correlation of scores from two disjoint sets of rows "
        f"(mean of {_SPLITS} pairs of sets). {'; '.join(texts)}.",
        f"Lines of reliability by assessment rows. {'; '.join(texts)}.",
        [Panel("assessment rows", "reliability (0 to 1)", series, log_x=True, y_range=(-0.1, 1.02))],
    )


def _with_selection(material: Material) -> list[Ranked]:
    methods = [ranked for ranked in material.methods() if any(ranked.selected.values()) and ranked.scores]
    if not methods or not material.rows:
        raise NotMade("no selection is there yet")
    return methods
