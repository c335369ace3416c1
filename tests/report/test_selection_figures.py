"""Figures of selections against obvious loops; samples, their order and their excerpts."""

import itertools

import numpy as np
import pytest

from icon_repro.data.rows import Example, Score
from icon_repro.report.figures.material import Material, NotMade, Ranked
from icon_repro.report.figures.samples import EXCERPT, excerpt, samples
from icon_repro.report.figures.selection_figures import embedded, ifd, length, overlaps, reliable
from icon_repro.report.figures.series import Bars, Curve, Grid, Scatter

GENERATOR = np.random.default_rng(3)
IDS = [f"{place:04x}" for place in range(60)]
LENGTHS = {name: int(GENERATOR.integers(1, 400)) for name in IDS}
ROWS = {name: Example(name, f"Do {name}.", "", "x" * LENGTHS[name]) for name in IDS}


def ranked(method: str, seed: int | None = None, *, random: bool = False) -> Ranked:
    values = {name: float(GENERATOR.normal() + LENGTHS[name] / 200 * (method == "long")) for name in IDS}
    best = sorted(values, key=lambda name: -values[name])
    scores = {name: Score(name, value, {"part": value / 3}) for name, value in values.items()}
    return Ranked(method, seed, scores, {0.1: best[:6], 0.25: best[:15]}, random)


MATERIAL = Material(ROWS, [ranked("random", 0, random=True), ranked("random", 1, random=True), ranked("long")])


def test_length_auc_is_the_share_of_pairs_in_which_the_selected_is_longer() -> None:
    figure = length(MATERIAL)
    bars = {series.name: series for series in figure.panels[-1].series if isinstance(series, Bars)}
    assert list(bars) == ["best 10 %", "best 25 %"]
    for fraction, series in zip((0.1, 0.25), bars.values(), strict=True):
        assert list(series.labels) == ["random-r0", "long"]
        for found, method in zip(series.y, MATERIAL.methods(), strict=True):
            chosen = set(method.selected[fraction])
            pairs = [(LENGTHS[a], LENGTHS[b]) for a in chosen for b in IDS if b not in chosen]
            assert found == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))
    assert "long: AUC" in figure.panels[1].title


def test_length_points_are_ranks_with_the_selected_above_the_rest() -> None:
    rest, selected = length(MATERIAL).panels[1].series
    assert isinstance(rest, Scatter) and isinstance(selected, Scatter) and rest.labels and selected.labels
    assert len(rest.y) + len(selected.y) == len(IDS) and min(selected.y) > max(rest.y)
    assert all(x == LENGTHS[name] for x, name in zip(selected.x, selected.labels, strict=True))


def test_overlap_is_the_shared_part_of_the_smaller_selection() -> None:
    (grid,) = overlaps(MATERIAL).panels[0].series
    assert isinstance(grid, Grid) and "random-r1 25 %" in grid.rows and len(grid.rows) == 6
    chosen = [ids for one in MATERIAL.ranked for ids in one.selected.values()]
    for (i, a), (j, b) in itertools.product(enumerate(chosen), enumerate(chosen)):
        assert grid.values[i][j] == pytest.approx(sum(name in b for name in a) / min(len(a), len(b)))


def test_overlap_has_what_two_random_selections_share() -> None:
    figure = overlaps(MATERIAL)
    (grid,) = figure.panels[0].series
    assert isinstance(grid, Grid) and grid.low is not None and grid.high is not None and "60 rows" in figure.caption
    sizes = [6 if name.endswith(" 10 %") else 15 for name in grid.rows]
    generator = np.random.default_rng(0)
    for i, j in ((0, 0), (0, 1), (1, 1)):  # slow: by drawing
        least = min(sizes[i], sizes[j])
        drawn = [
            len(set(generator.permutation(60)[: sizes[i]]) & set(generator.permutation(60)[: sizes[j]])) / least
            for _ in range(4000)
        ]
        inside = np.mean([grid.low[i][j] <= share <= grid.high[i][j] for share in drawn])
        assert inside > 0.94 and np.mean(np.array(drawn) > grid.high[i][j]) < 0.035
    assert grid.high[0][0] < 1  # a selection shares with itself more than by chance


def test_overlap_of_too_many_selections_says_how_many_are_left_out() -> None:
    figure = overlaps(Material(ROWS, [ranked("random", seed) for seed in range(20)]))
    (grid,) = figure.panels[0].series
    assert isinstance(grid, Grid) and len(grid.rows) == 24 and "16 of 40 selections aren't shown" in figure.caption


def test_ifd_histogram_has_all_rows_above_one_too() -> None:
    values = {name: 0.5 + 0.01 * place for place, name in enumerate(IDS)}
    figure = ifd(Material(ROWS, MATERIAL.ranked, {"ifd": values}))
    everything, *own = figure.panels[0].series
    assert isinstance(everything, Curve) and everything.name == "all 60" and max(everything.x) > 1
    assert sum(everything.y) == pytest.approx(58 / 60)  # the two ends lie beyond the middle 99 %
    assert "2 rows beyond" in figure.caption and [series.name for series in own] == ["random-r0 25 %", "long 25 %"]


def test_embedded_maps_every_row_once_a_method() -> None:
    vectors = np.concatenate([GENERATOR.normal(size=(30, 8)) - 20, GENERATOR.normal(size=(30, 8)) + 20])
    figure = embedded(Material(ROWS, MATERIAL.ranked, vectors=(IDS, vectors.astype(np.float32))))
    assert [panel.title for panel in figure.panels] == ["random-r0", "long"]
    places = {}
    for series in figure.panels[1].series:
        assert isinstance(series, Scatter) and series.labels
        places |= dict(zip(series.labels, zip(series.x, series.y, strict=True), strict=True))
    assert sorted(places) == IDS
    halves = [np.array([places[name] for name in IDS[part]]) for part in (slice(30), slice(30, 60))]
    gap = np.linalg.norm(halves[0].mean(axis=0) - halves[1].mean(axis=0))
    assert gap > 2 * max(half.std() for half in halves)  # groups that lie apart stay apart


def test_reliability_grows_with_rows_as_spearman_brown_says() -> None:
    task = GENERATOR.normal(size=(200, 1)) + GENERATOR.normal(size=(200, 64)) * 3
    figure = reliable(Material(contributions={"icon": task}))
    expected, observed = figure.panels[0].series
    assert list(expected.x)[-1] == 64 and list(observed.x)[-1] == 32
    for count, value in zip(expected.x, expected.y, strict=True):
        assert value == pytest.approx(1 / (1 + 9 / count), abs=0.06)  # variances 1 and 9
    for count, value in zip(observed.x, observed.y, strict=True):
        assert value == pytest.approx(1 / (1 + 9 / count), abs=0.12)


@pytest.mark.parametrize(
    "make, material, reason",
    [
        (length, Material(), "no selection"),
        (overlaps, Material(ROWS, []), "selections: 0"),
        (ifd, MATERIAL, "no method computes IFD"),
        (ifd, Material(absent={"ifd": "a file is gone"}), "a file is gone"),
        (embedded, MATERIAL, "no method embeds"),
        (reliable, Material(absent={"reliability": "adaptive scoring"}), "adaptive scoring"),
    ],
)
def test_figure_of_nothing_says_why_there_is_none(make, material, reason) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotMade, match=reason):
        make(material)


def test_samples_are_both_ends_of_each_ranking_without_random_ones() -> None:
    found = samples(MATERIAL)
    assert {sample["method"] for sample in found} == {"long"} and len(found) == 10
    scores = {name: score.score for name, score in MATERIAL.ranked[2].scores.items()}
    order = sorted(IDS, key=lambda name: -scores[name])
    assert [sample["id"] for sample in found] == [*order[:5], *order[:-6:-1]]
    assert found[0]["selected_at"] == [0.1, 0.25] and found[-1]["selected_at"] == []
    assert found[0]["rank"] == 1 and found[5]["rank"] == 60 and found[0]["characters"] == LENGTHS[order[0]]
    assert all("response" not in sample and len(sample["excerpt"]) <= EXCERPT for sample in found)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Say it.", "Say it."),
        ("a\nb\t c", "a b c"),
        ("a\u202eb\x00c", "a b c"),
        ("\ud800x", "x"),
        ("w" * 100, "w" * 79 + "…"),
    ],
)
def test_excerpt_is_one_short_line_of_what_can_be_shown(text: str, expected: str) -> None:
    assert excerpt(Example("a", text, "", "secret")) == expected
