"""Claims: each verdict on made-up results, several arms, what isn't there, and claims that can't be checked."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_runs import result, row, task, with_cell
from paper_runs import judged, published_csv, run, run_json
from small import small

from icon_repro.config.load import conf_dir
from icon_repro.report.outputs import write_all
from icon_repro.report.paper.claims import (
    Checked,
    ClaimsError,
    ClaimVerdict,
    check_claims,
    read_claims,
    statement,
    summary,
    write_claims,
)
from icon_repro.report.paper.measures import results_of
from icon_repro.report.paper.published import GROUPS
from icon_repro.report.rows import BenchmarkFacts, ResultRow
from icon_repro.report.runs import lines, sample
from icon_repro.report.settings import otherwise
from icon_repro.report.statistics import StatsError, difference

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
CLAIM = {"id": "one", "text": "t", "source": "table 1", "measure": "paper_average", "arm": "icon-0.15"}


def checked(rows: list[ResultRow], folder: Path, *claims: dict[str, Any]) -> list[Checked]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.yaml").write_text(yaml.safe_dump([{**CLAIM, **claim} for claim in claims]), encoding="utf-8")
    return check_claims(read_claims(folder), results_of(rows))


def says(rows: list[ResultRow], folder: Path, **claim: Any) -> str:
    (found,) = checked(rows, folder, claim)
    return found.verdict.value


GOOD = [run("full", 1.0, 0, 0.4), run("icon", 0.15, 0, 0.7), run("icon", 0.15, 1, 0.72), run("less", 0.15, 0, 0.55)]


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    "claim, expected",
    [
        ({"against": ["full"]}, "reproduced"),
        ({"against": ["full"], "relation": "below"}, "contradicted"),
        ({"against": ["full"], "margin": 30.0}, "not distinguishable"),
        ({"against": ["full"], "margin": 60.0}, "contradicted"),
        ({"against": ["full"], "margin": 60.0, "relation": "below"}, "reproduced"),
        ({"against": ["full"], "relation": "about", "margin": 31.0, "tolerance": 30.0}, "reproduced"),
        ({"against": ["full"], "relation": "about", "margin": 31.0, "tolerance": 1.0}, "not distinguishable"),
        ({"against": ["full"], "relation": "about", "margin": 80.0, "tolerance": 5.0}, "contradicted"),
        ({"against": ["full", "less-0.15"]}, "reproduced"),
        ({"against": ["icon-0.15"]}, "not distinguishable"),
        ({"against": ["longest-0.15"]}, "not run here"),
        ({"margin": 50.0}, "reproduced"),
        ({"arm": "icon-0.01", "against": ["full"]}, "not run here"),
        ({"model": "qwen25_3b", "against": ["full"]}, "not run here"),
        ({"measure": "KN", "against": ["full"]}, "reproduced"),
        ({"measure": "mmlu", "against": ["full"]}, "reproduced"),
    ],
    ids=str,
)
def test_claim_has_its_verdict(tmp_path: Path, claim: dict[str, Any], expected: str) -> None:
    assert says(GOOD, tmp_path, **claim) == expected


def test_claims_number_and_interval_are_those_of_the_difference(tmp_path: Path) -> None:
    (found,) = checked(GOOD, tmp_path, {"against": ["full"], "measure": "RS"})
    by_label = {line.label: line for line in lines(GOOD)}
    samples = [sample(by_label[name], GROUPS["RS"]) for name in ("icon-0.15", "full")]
    assert samples[0] is not None and samples[1] is not None
    estimate = difference(samples[0], samples[1])
    (finding,) = found.findings
    assert finding.value == pytest.approx(100 * estimate.value)
    assert (finding.low, finding.high) == pytest.approx(tuple(100 * end for end in estimate.interval()))
    assert finding.runs == "2 and 1" and "about this selection only" in found.note


def test_claim_of_single_runs_says_so(tmp_path: Path) -> None:
    rows = [run("full", 1.0, 0, 0.4), run("icon", 0.15, 0, 0.7)]
    (found,) = checked(rows, tmp_path, {"against": ["full"]})
    assert found.verdict is ClaimVerdict.reproduced and "about this selection and this training seed only" in found.note


def test_one_contradiction_outweighs_what_is_missing_and_a_missing_arm_a_success(tmp_path: Path) -> None:
    rows = [GOOD[1], GOOD[3], run("rds", 0.15, 0, 0.95)]
    assert says(rows, tmp_path, against=["less-0.15", "longest-0.15"]) == "not run here"
    assert says(rows, tmp_path, against=["longest-0.15", "rds-0.15", "less-0.15"]) == "contradicted"
    (found,) = checked(rows, tmp_path, {"against": ["less-0.15", "longest-0.15"]})
    assert found.note == "no 'longest' in this experiment"


def test_contradiction_by_one_of_many_arms_needs_a_wider_interval(tmp_path: Path) -> None:
    shares = [s / 1000 for s in range(700, 1000)]
    alone = (s for s in shares if says(_both(s), tmp_path, against=["less-0.15"]) == "contradicted")
    share = next(alone)
    assert says(_both(share), tmp_path, against=["less-0.15", *["less-0.15"] * 19]) == "not distinguishable"


def _both(share: float) -> list[ResultRow]:
    return [run("icon", 0.15, 0, 0.7), run("less", 0.15, 0, share)]


def test_missing_benchmark_leaves_the_average_unchecked(tmp_path: Path) -> None:
    rows = [run("full", 1.0, 0, 0.4, names=["ifeval", "mmlu"]), run("icon", 0.15, 0, 0.7, names=["ifeval", "mmlu"])]
    (found,) = checked(rows, tmp_path, {"against": ["full"]})
    assert found.verdict is ClaimVerdict.not_run and "alpaca_eval: not in this experiment" in found.note
    assert says(rows, tmp_path, against=["full"], measure="average") == "reproduced"


def test_benchmark_of_which_lower_is_better_is_in_its_own_unit(tmp_path: Path) -> None:
    tasks = {"held_out": task(higher=False), "arc": task()}
    values = [[1 + x + (1 + x) * i / 100 for i in range(20)] for x in (0, 1)]
    cells = [{"held_out": result(own, "nll"), "arc": result("01" * 5)} for own in values]
    rows = [row("full", 1.0, 0, cells[1], tasks=tasks), row("icon", 0.15, 0, cells[0], tasks=tasks)]
    (found,) = checked(rows, tmp_path, {"against": ["full"], "measure": "held_out", "relation": "below"})
    assert found.verdict is ClaimVerdict.reproduced and found.findings[0].value == pytest.approx(-1.095)


def test_claim_whose_verdict_depends_on_the_weights_says_so(tmp_path: Path) -> None:
    """By tokens nothing is told apart; by rows one is clearly worse."""
    tasks = {"held": task(higher=False), "held_rows": task(higher=False)}
    noise = [0.1 * (-1) ** item for item in range(40)]
    alike, worse = [1.0 + x for x in noise], [1.5 + x * 0.9 for x in noise]
    cells = [{"held": result(alike, "nll"), "held_rows": result(own, "nll")} for own in (alike[::-1], worse)]
    rows = [row("full", 1.0, 0, cells[0], tasks=tasks), row("icon", 0.15, 0, cells[1], tasks=tasks)]
    (found,) = checked(rows, tmp_path, {"against": ["full"], "measure": "held", "relation": "below"})
    assert "depends on the weights: by rows contradicted" in found.note
    (by_rows,) = checked(rows, tmp_path, {"against": ["full"], "measure": "held_rows", "relation": "below"})
    assert "depends" not in by_rows.note


def test_winning_score_is_read_from_either_side(tmp_path: Path) -> None:
    won = "w" * 60 + "l" * 10 + "t" * 10
    rows = [
        run("full", 1.0, 0, 0.5),
        run("icon", 0.15, 0, 0.5, judged=judged(won, "full")),
        run("less", 0.15, 0, 0.5),
    ]
    claim = {"measure": "winning_score", "margin": 1.0}
    (found,) = checked(rows, tmp_path, {**claim, "against": ["full"]})
    assert found.verdict is ClaimVerdict.reproduced and found.findings[0].value == pytest.approx(1 + 50 / 80)
    (found,) = checked(rows, tmp_path, {**claim, "against": ["less-0.15"]})
    assert found.verdict is ClaimVerdict.not_run and "the judge compares with full" in found.note
    rows[1], rows[2] = run("icon", 0.15, 0, 0.5), run("less", 0.15, 0, 0.5, judged=judged(won, "icon"))
    assert says(rows, tmp_path, **claim, against=["less-0.15"]) == "contradicted"


def test_claims_name_the_judge_behind_them(tmp_path: Path) -> None:
    whose = {"answered_by": {"server": "https://a/v1", "asked": "gpt-4", "named": {"gpt-4-0613": 80}}}
    verdicts = {name: {**one, **whose} for name, one in judged("w" * 60 + "l" * 20, "full").items()}
    rows = [run("full", 1.0, 0, 0.5), run("icon", 0.15, 0, 0.5, judged=verdicts)]
    told = "judged by gpt-4 at https://a/v1 (replies name gpt-4-0613)"
    (found,) = checked(rows, tmp_path, {"measure": "winning_score", "margin": 1.0, "against": ["full"]})
    assert found.verdict is ClaimVerdict.reproduced and told in found.note
    rows = [with_cell(one, "mmlu", **whose) for one in rows]  # as a win rate against a reference has it
    (found,) = checked(rows, tmp_path, {"measure": "mmlu", "against": ["full"]})
    assert told in found.note
    (found,) = checked(rows, tmp_path, {"measure": "arc", "against": ["full"]})
    assert "judged by" not in found.note


def test_costs_are_shares_of_full_tuning_without_an_interval(tmp_path: Path) -> None:
    rows = [
        run("full", 1.0, 0, 0.5, tuning={"tokens": 1, "flops": 10.0}),
        run("icon", 0.15, 0, 0.5, tuning={"tokens": 1, "flops": 2.0}, selection={"tokens": 1, "flops": 30.0}),
    ]
    about = {"relation": "about", "margin": 0.2, "tolerance": 0.01}
    assert says(rows, tmp_path, measure="tuning_share", **about) == "reproduced"
    assert says(rows, tmp_path, measure="total_share", relation="below", margin=1.0) == "contradicted"
    assert says(rows[1:], tmp_path, measure="tuning_share", **about) == "not run here"


def test_untestable_claim_says_why(tmp_path: Path) -> None:
    (found,) = checked(GOOD, tmp_path, {"measure": None, "arm": None, "untestable": "no number is stated"})
    assert (found.verdict, found.note) == (ClaimVerdict.not_run, "no number is stated")


# ---------------------------------------------------------------- files


def test_written_claims_count_verdicts_and_name_arms(tmp_path: Path) -> None:
    found = checked(
        GOOD,
        tmp_path / "in",
        {"against": ["full", "less-0.15"], "published": 5.42},
        {"id": "two", "against": ["full"], "relation": "below"},
        {"id": "three", "against": ["rds-0.15"]},
    )
    assert summary(found) == "3 claims: 1 reproduced, 1 contradicted, 0 not distinguishable, 1 not run here"
    write_claims(found, "toy", tmp_path)
    text = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert (
        summary(found) in text
        and re.search(r"full: \+\d\d\.\d\d \[\+\d\d\.\d\d, \+\d\d\.\d\d\]; less-0.15: \+", text)
        and "| +5.42 |" in text
    )
    with (tmp_path / "claims.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["claim"], r["against"], r["verdict"]) for r in rows] == [
        ("one", "full", "reproduced"),
        ("one", "less-0.15", "reproduced"),
        ("two", "full", "contradicted"),
        ("three", "rds-0.15", "not run here"),
    ]
    assert float(rows[0]["low"]) < float(rows[0]["ours"]) < float(rows[0]["high"]) and rows[3]["ours"] == ""


def test_statement_says_what_is_checked(tmp_path: Path) -> None:
    (found,) = checked(GOOD, tmp_path, {"against": ["full"], "relation": "about", "margin": 5.42, "tolerance": 1.0})
    assert statement(found.claim) == "paper_average of icon-0.15 less that of full: about 5.42 ± 1"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "claim, part",
    [
        ({"arm": "icon"}, "one: arm 'icon': must be base, full, or a method and a fraction"),
        ({"arm": "icon-15"}, "arm 'icon-15'"),
        ({"relation": "about", "margin": 1.0}, "one: tolerance goes with relation=about"),
        ({"relation": "abuot"}, r"\[0\]\.relation='abuot': must be one of"),
        ({"margins": 1.0}, r"\[0\]\.margins: unknown key. Did you mean 'margin'"),
        ({"margin": float("nan")}, "must be finite"),
        ({"measure": None}, "one: give measure and arm, or say why it is untestable"),
        ({"untestable": "x"}, "give one of them"),
        ({"measure": "winning_score"}, "winning_score needs against"),
        ({"measure": "total_share", "against": ["full"]}, "leave out against"),
        ({"measure": "mmul", "against": ["full"]}, "measure 'mmul': unknown. Did you mean 'mmlu'"),
        ({"measure": "winning_score", "arm": "full", "against": ["base"]}, "needs an arm that is a selection"),
        ({"measure": "winning_score", "against": ["less-0.1"]}, "the same fraction only"),
    ],
)
def test_claim_that_cant_be_checked_is_refused_by_name(tmp_path: Path, claim: dict[str, Any], part: str) -> None:
    with pytest.raises(ClaimsError, match=part):
        checked(GOOD, tmp_path, claim)


@pytest.mark.parametrize("text, part", [("{", "isn't YAML"), ("a: 1", "must be a list")])
def test_claims_file_that_isnt_a_list_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ClaimsError, match=part):
        read_claims(tmp_path)


def test_same_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError, match="one: is the id of several claims"):
        checked(GOOD, tmp_path, {}, {})


def test_claim_on_different_items_is_refused(tmp_path: Path) -> None:
    rows = [run("full", 1.0, 0, 0.4), run("icon", 0.15, 0, 0.7)]
    cells = {
        name: replace(cell, outcomes=replace(cell.outcomes, ids=f"other {name}"))
        for name, cell in rows[1].benchmarks.items()
    }
    rows[1] = replace(rows[1], benchmarks=cells)
    with pytest.raises((StatsError, ValueError), match="which items"):
        checked(rows, tmp_path, {"against": ["full"]})


# ---------------------------------------------------------------- the repository's


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/claims.yaml")), ids=lambda path: path.parent.name)
def test_repository_claims_are_valid_and_not_run_without_results(path: Path) -> None:
    claims = read_claims(path.parent)
    assert len(claims) >= 4
    base = run("base", None, None, 0.3)
    tasks = {**base.tasks, "held_out": BenchmarkFacts(None, None, higher_is_better=False)}  # of study_cpu
    found = check_claims(claims, results_of([replace(base, tasks=tasks)]))
    assert {one.verdict for one in found} == {ClaimVerdict.not_run}
    assert all(one.note for one in found)
    experiment = (conf_dir() / "experiment" / f"{path.parent.name}.yaml").read_text(encoding="utf-8")
    assert f"published: {path.parent.name}\n" in experiment


def test_claims_and_tables_of_a_run_with_other_settings_than_its_files_say_so(tmp_path: Path) -> None:
    rows = [run("icon", 0.15, 3, 0.6), run("full", 1.0, 0, 0.4)]
    experiments, folder = tmp_path / "experiments", tmp_path / "results"
    published_csv(experiments / "toy", "table1", [("full", 1.0, "v1", 40.0)])
    (experiments / "toy" / "claims.yaml").write_text(
        "[{id: better, text: t, source: s, measure: mmlu, arm: icon-0.15, against: [full]}]", encoding="utf-8"
    )
    folder.mkdir()
    content = run_json(rows)
    write_all(rows, content, experiments, folder)
    assert "Not experiment" not in (folder / "claims.md").read_text() + (folder / "table.md").read_text()
    settings = [f"evaluation.tasks.t{n}.limit: None -> 2" for n in range(12)]
    noted = {"experiment": "toy", "settings": ["data.candidates.size: 5000 -> 40", *settings]}
    write_all(rows, {**content, "otherwise": noted}, experiments, folder)
    for name in ("claims.md", "table.md"):
        text = " ".join((folder / name).read_text(encoding="utf-8").split())
        assert "Not experiment=toy as its file has it" in text and "data.candidates.size: 5000 -> 40; " in text
        assert "; and 3 more." in text


def test_settings_that_arent_the_files_are_those_that_decide_results(tmp_path: Path) -> None:
    own = small(tmp_path)
    same = {"name": "mine", "seeds": [0, 1], "paths.cache": "elsewhere", "cluster.threads": 3}
    assert otherwise("smoke_tiny", small(tmp_path, same), own) is None
    found = otherwise("smoke_tiny", small(tmp_path, {"data.candidates.size": 20, "evaluation.limit": 3}), own)
    assert found is not None and list(found.settings) == [
        "data.candidates.size: 24 -> 20",
        "evaluation.tasks.tiny.limit: None -> 3",
    ]
