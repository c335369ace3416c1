"""Verdicts against the baselines: which are compared, paired differences, Holm, and what is said of what is missing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up_runs import changed, number, result, row, solved, task, with_cell
from scipy.stats import ttest_rel
from statsmodels.regression.linear_model import OLS

from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import RunsError
from icon_repro.report.statistics import StatsError, holm
from icon_repro.report.tables import markdown
from icon_repro.report.verdicts import HEADER, caption, comparisons, document, table, tidy

ONE_RUN = "(this selection and this training seed only)"


def lines(rows: list[ResultRow]) -> list[dict[str, str]]:
    header, cells = table(comparisons(rows))
    return [dict(zip(header, cell, strict=True)) for cell in cells]


def runs(method: str, share: float, seeds: int = 1, fraction: float = 0.15, **more: Any) -> list[ResultRow]:
    """Runs whose items are of the same difficulty for all methods."""
    return [
        row(method, fraction, seed, {"arc": result(solved(share + 0.01 * seed, 400, 1))}, **more)
        for seed in range(seeds)
    ]


def test_each_method_is_compared_with_both_baselines_of_its_fraction() -> None:
    rows = [row("base"), row("full", 1.0, 0)]
    for fraction in (0.05, 0.15):
        rows += [row(method, fraction, 0) for method in ("random", "longest", "icon")]
    found = [(line["method"], line["fraction"], line["against"]) for line in lines(rows)]
    expected = [("longest", "random"), ("icon", "random"), ("icon", "longest")]
    assert found == [(method, f, against) for f in ("0.05", "0.15") for method, against in expected]


def test_difference_is_paired_by_item_and_adjusted_over_all_comparisons() -> None:
    shares = {"random": 0.5, "longest": 0.52, "icon": 0.56}
    values = {name: [float(x) for x in solved(share, 400, 1)] for name, share in shares.items()}
    found = lines([runs(name, share)[0] for name, share in shares.items()])
    tests = [ttest_rel(values[line["method"]], values[line["against"]]) for line in found]
    adjusted = holm([float(test.pvalue) for test in tests])
    for line, test, p in zip(found, tests, adjusted, strict=True):
        low, high = test.confidence_interval(0.95)
        gain = sum(values[line["method"]]) / 400 - sum(values[line["against"]]) / 400
        assert line["difference"] == f"{100 * gain:+.2f}"
        assert line["95 % interval"] == f"[{100 * low:+.2f}, {100 * high:+.2f}]"
        assert line["p (Holm)"] == ("<0.001" if p < 0.001 else f"{p:.3f}")
        assert line["verdict"] == (f"better {ONE_RUN}" if p < 0.05 else "not distinguishable")
    assert {line["verdict"] for line in found} == {f"better {ONE_RUN}"}  # the same items are hard for all
    assert float(found[0]["detectable"].split()[0]) > float(found[0]["difference"]) * 0.5


def test_p_by_benchmark_is_the_paired_test_of_their_means() -> None:
    generator = np.random.default_rng(0)
    names = [f"b{i}" for i in range(6)]
    shares = {"random": 0.5 + 0.3 * generator.random(6), "longest": 0.5 + 0.3 * generator.random(6)}
    shares["icon"] = shares["random"] + 0.06 + 0.02 * generator.random(6)
    means: dict[str, list[float]] = {}
    rows = []
    for method, own in shares.items():
        items = [solved(share, 200 + 50 * i, i) for i, share in enumerate(own)]
        means[method] = [text.count("1") / len(text) for text in items]
        rows.append(row(method, 0.15, 0, {n: result(text) for n, text in zip(names, items, strict=True)}))
    found = lines(rows)
    tests = [ttest_rel(means[line["method"]], means[line["against"]]).pvalue for line in found]
    adjusted = [f"{p:.3f}" if p >= 0.001 else "<0.001" for p in holm([float(p) for p in tests])]
    assert [line["p by benchmark (Holm)"] for line in found] == adjusted
    assert len(set(adjusted)) > 1 and [line["p (Holm)"] for line in found] != adjusted


def test_p_by_benchmark_of_a_single_benchmark_is_by_its_tasks() -> None:
    def group(shares: list[float]) -> dict[str, Any]:
        items = [solved(share, 40 * (i + 1), i) for i, share in enumerate(shares)]
        total = sum(map(len, items))
        parts = [{"name": f"t{i}", "weight": len(x) / total, "values": x} for i, x in enumerate(items)]
        return {**result("".join(items)), "outcomes": {"ids": "abc", "parts": parts}}

    rows = [
        row("random", 0.15, 0, {"mmlu": group([0.4, 0.5, 0.6])}),
        row("icon", 0.15, 0, {"mmlu": group([0.5, 0.65, 0.7])}),
    ]
    (line,) = lines(rows)
    values = [[float(x) for x in part.values or ""] for r in rows for part in r.benchmarks["mmlu"].outcomes.parts]
    gains = np.concatenate([np.subtract(b, a) for a, b in zip(values[:3], values[3:], strict=True)])
    tasks = np.repeat([0, 1, 2], [40, 80, 120])  # each item weighs the same: the sandwich estimate over tasks
    fitted = OLS(gains, np.ones(240)).fit(cov_type="cluster", cov_kwds={"groups": tasks}, use_t=True)
    assert line["p by benchmark (Holm)"] == f"{fitted.pvalues[0]:.3f}"
    (single,) = lines([row("random", 0.15, 0), row("icon", 0.15, 0)])
    assert single["p by benchmark (Holm)"] == "-"


def test_worse_and_not_distinguishable_are_said() -> None:
    rows = [*runs("random", 0.6), *runs("longest", 0.6), *runs("icon", 0.4)]
    found = {(line["method"], line["against"]): line["verdict"] for line in lines(rows)}
    assert found == {
        ("longest", "random"): "not distinguishable",
        ("icon", "random"): f"worse {ONE_RUN}",
        ("icon", "longest"): f"worse {ONE_RUN}",
    }


def test_seeds_that_differ_as_much_as_methods_leave_nothing_to_tell() -> None:
    def seeds(method: str, shares: list[float]) -> list[ResultRow]:
        return [row(method, 0.15, s, {"arc": result(solved(x, 400, 1))}) for s, x in enumerate(shares)]

    rows = [*seeds("random", [0.5, 0.6, 0.7]), *seeds("icon", [0.8, 0.6, 0.7])]
    (line,) = lines(rows)
    assert (line["runs"], line["its runs"], line["verdict"]) == ("3", "3", "not distinguishable")
    assert float(line["detectable"].split()[0]) > 15
    (single,) = lines([rows[0], rows[3]])
    assert single["verdict"] == f"better {ONE_RUN}"  # of one seed only items count


def test_effect_of_a_training_seed_that_methods_share_cancels() -> None:
    def seeds(method: str, shares: list[float], first: int) -> list[ResultRow]:
        return [row(method, 0.15, first + s, {"arc": result(solved(x, 400, 1))}) for s, x in enumerate(shares)]

    shares, higher = [0.5, 0.6, 0.7], [0.56, 0.66, 0.76]
    (paired,) = lines([*seeds("random", shares, 0), *seeds("icon", higher, 0)])
    assert paired["verdict"] == "better (this selection only)"
    (apart,) = lines([*seeds("random", shares, 0), *seeds("icon", higher, 5)])
    assert apart["verdict"] == "not distinguishable"


def test_measure_of_which_lower_is_better_has_verdicts_and_a_correction_of_its_own() -> None:
    tasks = {"arc": task(), "held_out": task(higher=False)}
    good, bad = ([level + 0.01 * (i % 7) + 0.001 * (i % 3) * level for i in range(60)] for level in (1.0, 2.0))
    rows = [
        row("random", 0.15, 0, {"arc": result("0101"), "held_out": result(bad, "nll")}, tasks=tasks),
        row("icon", 0.15, 0, {"arc": result("0101"), "held_out": result(good, "nll")}, tasks=tasks),
    ]
    average, held_out = lines(rows)
    assert (average["measure"], average["difference"], average["verdict"]) == (
        "average",
        "+0.00",
        "not distinguishable",
    )
    assert (held_out["measure"], held_out["verdict"], held_out["p (Holm)"]) == (
        "held_out",
        f"better {ONE_RUN}",
        "<0.001",
    )
    assert held_out["difference"].startswith("-1.0")
    text = caption(rows, comparisons(rows))
    assert all(f"- {name}: 1 comparisons, 1 with results\n" in text for name in ("average", "held_out"))
    assert "- held_out: its items have no groups" in text


def test_missing_result_is_missing_and_no_part_of_the_correction() -> None:
    rows = [*runs("random", 0.5), *runs("icon", 0.56), row("ifd", 0.15, 0, {}, {"arc": "failed"})]
    icon, ifd = lines(rows)
    assert [ifd[name] for name in HEADER[7:]] == ["missing"] * 6
    (alone,) = lines(rows[:2])
    assert icon == alone
    assert "- average: 2 comparisons, 1 with results\n" in caption(rows, comparisons(rows))


def test_metric_without_items_is_compared_by_its_errors() -> None:
    rows = [
        row("random", 0.15, 0, {"glue": number(0.5, 0.03)}),
        row("icon", 0.15, 0, {"glue": number(0.6, 0.04)}),
        row("ifd", 0.15, 0, {"glue": number(0.6, None)}),
    ]
    icon, ifd = lines(rows)
    assert (icon["difference"], icon["95 % interval"]) == ("+10.00", "[+0.20, +19.80]")
    assert ifd["verdict"] == "missing"


@pytest.mark.parametrize("methods, named", [(("random", "icon"), "longest"), (("longest", "icon"), "random")])
def test_missing_baseline_is_said(methods: tuple[str, ...], named: str) -> None:
    rows = [row("base"), *(row(method, 0.15, 0) for method in methods)]
    text = caption(rows, comparisons(rows))
    assert f"- missing baseline: no `{named}` at fraction 0.15, so no verdict against it\n" in text
    assert text.count("missing baseline") == 1


def test_caption_tells_of_single_runs() -> None:
    rows = [*runs("random", 0.5), *runs("icon", 0.5), *runs("ifd", 0.5, seeds=2)]
    assert "- average: 1 of 2 comparisons about this training seed only" in caption(rows, comparisons(rows))
    assert "- average: all comparisons about this training seed only" in caption(rows[:2], comparisons(rows[:2]))
    several = [*runs("random", 0.5, 2), *runs("icon", 0.5, 2)]
    assert "training seed only" not in caption(several, comparisons(several))
    assert "all comparisons about this selection only" in caption(several, comparisons(several))
    drawn = [replace(one, selection_seed=s) for s in range(3) for one in runs("random", 0.5, 2)]
    rows = [*drawn, *runs("icon", 0.5, 2)]
    assert "only:" not in caption(rows, comparisons(rows))


# ---------------------------------------------------------------- groups, controls of one length, the primary outcome


def nll(level: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A cell of 24 rows in 8 groups whose own levels differ."""
    values = (level * (1 + np.repeat(np.random.default_rng(seed).standard_normal(8), 3))).tolist()
    part = {"name": "", "weight": 1.0, "values": values, **more}
    return {**result(values, "nll"), "outcomes": {"ids": "x", "parts": [part]}}


def held_out(method: str, cells: list[dict[str, Any]], **more: Any) -> list[ResultRow]:
    tasks = {"held_out": task(higher=False)}
    return [row(method, 0.15, seed, {"held_out": cell}, tasks=tasks, **more) for seed, cell in enumerate(cells)]


def test_groups_and_sizes_of_items_go_into_the_verdict() -> None:
    groups = [f"g{i // 3}" for i in range(24)]
    plain, by_group = (
        lines([*held_out("random", [nll(1.0, **more)]), *held_out("icon", [nll(1.8, **more)])])[0]
        for more in ({}, {"groups": groups})
    )
    assert plain["difference"] == by_group["difference"]
    wide, narrow = (
        np.subtract(*map(float, line["95 % interval"].strip("[]").split(", "))) for line in (by_group, plain)
    )
    assert abs(wide) > 1.5 * abs(narrow)
    sizes = [100.0] * 3 + [1.0] * 21
    (sized,) = lines([*held_out("random", [nll(1.0, sizes=sizes)]), *held_out("icon", [nll(1.8, sizes=sizes)])])
    assert sized["difference"] != plain["difference"]
    rows = [*held_out("random", [nll(1.0, groups=[*groups[:-1], "alone"])]), *held_out("icon", [nll(1.0)])]
    with pytest.raises(StatsError, match="items have other clusters"):
        comparisons(rows)
    rows[1] = held_out("icon", [nll(1.5, groups=[*groups[:-1], "alone"])])[0]
    assert "- held_out: groups of one item, each drawn by itself: alone" in caption(rows, comparisons(rows))


def test_runs_of_one_method_with_other_groups_are_refused() -> None:
    cells = [nll(1.0, groups=["a", "b"] * 12), nll(1.0)]
    with pytest.raises(RunsError, match=r"runs of random-0\.15 differ in groups"):
        comparisons([*held_out("random", cells), *held_out("icon", [nll(1.0), nll(1.0)])])


def test_one_shift_of_all_rows_is_not_enough() -> None:
    one, two = ([level + i / 7 for i in range(9)] for level in (1.0, 2.0))
    rows = [*held_out("random", [result(one, "nll")]), *held_out("icon", [result(two, "nll")])]
    (line,) = lines(rows)
    assert (line["verdict"], line["95 % interval"], line["p (Holm)"]) == ("not enough", "not enough", "-")
    assert "- held_out: not enough for a verdict: outcomes don't vary" in caption(rows, comparisons(rows))


def test_values_in_0_to_1_arent_taken_for_shares_unless_declared() -> None:
    cells = [nll(0.01, seed) for seed in (0, 1)]
    rows = [*held_out("random", cells[:1]), *held_out("icon", cells[1:])]
    assert comparisons(rows)[0].found is not None and comparisons(rows)[0].found.bounds is None
    rows = [*runs("random", 0.5), *runs("icon", 0.6)]
    assert comparisons(rows)[0].found.bounds == (-1.0, 1.0)  # type: ignore[union-attr]
    rows = [with_cell(one, "arc", metric="own") for one in rows]
    assert comparisons(rows)[0].found.bounds is None  # type: ignore[union-attr]
    rows = [changed(one, tasks={"arc": {**task(), "bounds": [0, 2]}}) for one in rows]
    assert comparisons(rows)[0].found.bounds == (-2.0, 2.0)  # type: ignore[union-attr]


def test_a_control_of_matched_length_is_compared_with_random_and_its_method_alone() -> None:
    rows = [row(method, 0.15, 0) for method in ("random", "longest", "icon", "ifd")]
    rows.append(row("random_icon", 0.15, 0, matched_to="icon"))
    found = {(line["method"], line["against"]) for line in lines(rows)}
    controls = {(method, name) for method in ("icon", "ifd") for name in ("random", "longest")}
    assert found == {("longest", "random"), ("icon", "random_icon"), ("random_icon", "random")} | controls


def test_one_selection_gets_the_variance_between_selections_of_random() -> None:
    shares = [0.45, 0.5, 0.55, 0.6]
    drawn = [row("random", 0.15, 0, {"arc": result(solved(x, 400, 1))}, selection_seed=s) for s, x in enumerate(shares)]
    others = [row(name, 0.15, 0, {"arc": result(solved(x, 400, 1))}) for name, x in (("longest", 0.5), ("icon", 0.6))]
    alone = lines(others)[0]
    assert alone["verdict"].startswith("better (this selection")
    found = {(line["method"], line["against"]): line for line in lines([*drawn, *others])}
    assert found["icon", "longest"]["verdict"] == found["icon", "random"]["verdict"] == "not distinguishable"


def test_primary_comparison_comes_first_and_isnt_corrected() -> None:
    rows = [*runs("random", 0.5), *runs("longest", 0.505), *runs("icon", 0.53)]
    primary = {"measure": "average", "comparison": ["icon", "random"], "unit": "selection", "fraction": None}
    header, cells = table(comparisons(rows), primary)
    first, *others = [dict(zip(header, cell, strict=True)) for cell in cells]
    assert (first["role"], first["method"], first["against"]) == ("primary", "icon", "random")
    assert [one["role"] for one in others] == ["exploratory"] * 2
    assert first["p (Holm)"] == "<0.001" and first["verdict"] == f"better {ONE_RUN}"
    text = document(rows, comparisons(rows), primary, "", markdown)
    assert text.startswith(
        "**Primary outcome, set beforehand**: average, icon against random, unit of replication: selection."
    )
    assert text.index("## Primary comparison") < text.index("## Exploratory comparisons")
    without = document(rows, comparisons(rows), None, "", markdown)
    assert without.startswith("No primary outcome was set beforehand") and "## Primary comparison" not in without
    assert "Its results are missing" in document(rows[:2], comparisons(rows[:2]), primary, "", markdown)


def test_primary_comparison_at_several_fractions_is_corrected_over_them() -> None:
    shares = {"random": 0.5, "icon": 0.53}
    rows = [one for fraction in (0.05, 0.15) for name, x in shares.items() for one in runs(name, x, fraction=fraction)]
    primary = {"measure": "average", "comparison": ["icon", "random"], "unit": "selection", "fraction": None}
    two = tidy(comparisons(rows), primary)
    assert [line["role"] for line in two] == ["primary", "primary"]
    alone = tidy(comparisons(rows), {**primary, "fraction": 0.15})[0]
    assert alone["role"] == "primary" and alone["p holm"] == alone["p"]
    for line in two:
        assert isinstance(line["p"], float) and isinstance(alone["detectable"], float)
        assert line["p holm"] == pytest.approx(2 * line["p"]) and line["detectable"] > alone["detectable"]
    text = document(rows, comparisons(rows), primary, "", markdown)
    assert "icon at fraction 0.05" in text and "icon at fraction 0.15" in text


def test_selections_of_another_fraction_lend_no_variance() -> None:
    shares = [0.45, 0.5, 0.55, 0.6]
    others = [row(name, 0.15, 0, {"arc": result(solved(x, 400, 1))}) for name, x in (("longest", 0.5), ("icon", 0.6))]

    def drawn(fraction: float) -> list[ResultRow]:
        cells = [{"arc": result(solved(x, 400, 1))} for x in shares]
        return [row("random", fraction, 0, cell, selection_seed=s) for s, cell in enumerate(cells)]

    def found(fraction: float) -> dict[str, str]:
        return next(line for line in lines([*drawn(fraction), *others]) if line["against"] == "longest")

    assert found(0.05)["verdict"].startswith("better (this selection")
    assert found(0.15)["verdict"] == "not distinguishable"


def test_caption_says_in_how_many_comparisons_one_selection_borrows() -> None:
    drawn = [replace(one, selection_seed=s) for s in range(3) for one in runs("random", 0.5, 2)]
    rows = [*drawn, *runs("icon", 0.5, 2), *runs("longest", 0.5, 2)]
    text = "- average: in 3 of 3 comparisons a method has one selection and is taken to vary as another's selections do"
    assert text in caption(rows, comparisons(rows))
    assert "has one selection" not in caption(drawn, comparisons(drawn))
    assert "has one selection and is taken" not in caption(rows[-4:], comparisons(rows[-4:]))
