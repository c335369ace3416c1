"""Check claims about an experiment: each is reproduced, contradicted, not distinguishable, or not run here.

In: ``claims.yaml`` beside the published numbers; ``ResultRow``s.  Out: claims.md, claims.csv.
A claim says that a measure of an arm, or its difference from that of each arm in ``against``, lies above or below
``margin``, or within ``tolerance`` of it. Let L be the 95 % interval of that number (items, and seeds where there are
several). Above: reproduced if all of L lies above the margin, contradicted if all of it lies below; about: reproduced
if L lies within margin +- tolerance, contradicted if it lies outside; else not distinguishable. A claim over several
arms is reproduced if it is for every one of them (an intersection-union test, whose level needs no correction), and
contradicted if it is for one of them, whose interval then has the level 1 - 0.05 / number of arms (Bonferroni).
Known gap: claims are judged one by one; over many claims some verdict may come by chance.
"""

import csv
import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from icon_repro.engine.schema import SchemaError, build, nearest
from icon_repro.evaluate.held_out_measures import ROWS
from icon_repro.lm.answered_by import KEY, told
from icon_repro.report.estimates import ALPHA, Estimate
from icon_repro.report.paper.measures import (
    NotRunError,
    StoredResults,
    benchmark_sample,
    line_of,
    score_sample,
    total_flops,
    tuning_flops,
)
from icon_repro.report.paper.published import BENCHMARKS, GROUPS
from icon_repro.report.runs import Contrasts, Line
from icon_repro.report.statistics import mean
from icon_repro.report.tables import markdown

FILE = "claims.yaml"
_MEANS = {"paper_average": BENCHMARKS, **GROUPS}
_SHARES = {"tuning_share": tuning_flops, "total_share": total_flops}
_MEASURES = ("average", *_MEANS, "winning_score", *_SHARES)


class ClaimsError(ValueError):
    """A claim that can't be checked as it is written."""


class Relation(enum.Enum):
    above = "above"
    below = "below"
    about = "about"


class ClaimVerdict(enum.Enum):
    reproduced = "reproduced"
    contradicted = "contradicted"
    undecided = "not distinguishable"
    not_run = "not run here"


@dataclass
class Claim:
    """One statement. Benchmarks are in points of 100, winning scores from 0 to 2, shares of the cost of full tuning."""

    id: str
    text: str  # in our words
    source: str  # table or figure, and version
    # average (of the experiment's benchmarks), paper_average, IF, KN, RS, a benchmark, winning_score, tuning_share,
    # total_share; None with ``untestable``
    measure: str | None = None
    arm: str | None = None  # icon-0.15, full, base
    against: list[str] = field(default_factory=list)  # arms; empty: the measure itself
    relation: Relation = Relation.above
    margin: float = 0.0
    tolerance: float | None = None  # of ``about``
    published: float | None = None  # the same number in the paper
    set: str = "overall"  # of prompts, for winning_score
    model: str | None = None  # that the claim is about; None: any
    untestable: str | None = None  # why no table of ours can tell


@dataclass(frozen=True)
class Finding:
    """What the results say of a claim against one arm (``against`` is empty for the measure itself)."""

    against: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    runs: str = "-"
    limits: tuple[str, ...] = ()  # what it is about only, e.g. this selection
    why: str = ""  # it isn't there
    judges: Sequence[Mapping[str, Any]] = ()  # who was asked for verdicts behind it
    nats: bool = False  # of NLL: lower is better


@dataclass(frozen=True)
class Checked:
    claim: Claim
    verdict: ClaimVerdict
    findings: Sequence[Finding]
    note: str


def read_claims(folder: Path) -> list[Claim]:
    """The claims in ``folder``; empty if it has no claims.yaml.

    Raises:
        ClaimsError: all problems in one message.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaimsError(f"{path}: isn't YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(stored, list):
        raise ClaimsError(f"{path}: must be a list of claims.")
    problems: list[str] = []
    claims: list[Claim] = []
    for number, one in enumerate(stored):
        try:
            claims.append(build(Claim, one, f"[{number}]"))
        except SchemaError as error:
            problems += error.problems
    ids = [claim.id for claim in claims]
    problems += [f"{name}: is the id of several claims." for name in sorted({i for i in ids if ids.count(i) > 1})]
    problems += [problem for claim in claims for problem in _problems(claim)]
    if problems:
        raise ClaimsError("\n  ".join([f"{path}: {len(problems)} problems:", *problems]))
    return claims


def _problems(claim: Claim) -> list[str]:
    if claim.untestable is not None:
        return [f"{claim.id}: untestable and measure: give one of them."] if claim.measure is not None else []
    if claim.measure is None or claim.arm is None:
        return [f"{claim.id}: give measure and arm, or say why it is untestable."]
    texts = []
    for name in (claim.arm, *claim.against):
        try:
            _arm(name)
        except ClaimsError as error:
            texts.append(f"{claim.id}: {error}")
    if (claim.relation is Relation.about) != (claim.tolerance is not None):
        texts.append(f"{claim.id}: tolerance goes with relation=about.")
    if claim.tolerance is not None and claim.tolerance <= 0:
        texts.append(f"{claim.id}: tolerance={claim.tolerance:g}: must be above 0.")
    if claim.measure == "winning_score" and not claim.against:
        texts.append(f"{claim.id}: winning_score needs against: whom the answers were compared with.")
    if claim.measure in _SHARES and claim.against:
        texts.append(f"{claim.id}: {claim.measure} is a share of full tuning; leave out against.")
    return texts


def _arm(name: str) -> tuple[str, float | None]:
    """``icon-0.15`` -> method and fraction."""
    if name in ("base", "full"):
        return name, {"base": None, "full": 1.0}[name]
    match = re.fullmatch(r"(.+)-(0?\.\d+|1(?:\.0*)?)", name)
    if match is None or float(match[2]) == 0:
        raise ClaimsError(f"arm {name!r}: must be base, full, or a method and a fraction, e.g. icon-0.15.")
    return match[1], float(match[2])


def check_claims(claims: Sequence[Claim], results: StoredResults) -> list[Checked]:
    """A verdict for each claim.

    Raises:
        ClaimsError: a measure that neither the results nor the paper have.
        StatsError: outcomes that can't be compared.
    """
    return [_checked(claim, results) for claim in claims]


def _checked(claim: Claim, results: StoredResults) -> Checked:
    if claim.untestable is not None:
        return Checked(claim, ClaimVerdict.not_run, [], claim.untestable)
    if claim.model is not None and claim.model != results.model:
        why = f"about {claim.model}; this experiment's model is {results.model}"
        return Checked(claim, ClaimVerdict.not_run, [], why)
    says: list[ClaimVerdict] = []
    findings = []
    for name in claim.against or [""]:
        finding, estimate = _finding(claim, results, name)
        findings.append(finding)
        says.append(ClaimVerdict.not_run if finding.why else _verdict(claim, finding, estimate))
    verdict = _joined(says)
    notes = [finding.why for finding in findings if finding.why]
    if whose := told(one for finding in findings for one in finding.judges):
        notes.append(f"judged by {whose}")
    limits = dict.fromkeys(limit for finding in findings for limit in finding.limits)
    if verdict in (ClaimVerdict.reproduced, ClaimVerdict.contradicted) and limits:
        notes.append(f"about {' and '.join(limits)} only: another one may say something else")
    if claim.measure is not None and f"{claim.measure}{ROWS}" in results.tasks and verdict is not ClaimVerdict.not_run:
        by_rows = _checked(replace(claim, measure=f"{claim.measure}{ROWS}"), results).verdict
        if by_rows is not verdict:
            notes.append(f"depends on the weights: by rows {by_rows.value}")
    return Checked(claim, verdict, findings, "; ".join(dict.fromkeys(notes)))


def _joined(says: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """Of a claim over several arms: one contradiction suffices, else all are needed."""
    for verdict in (ClaimVerdict.contradicted, ClaimVerdict.not_run, ClaimVerdict.undecided):
        if verdict in says:
            return verdict
    return ClaimVerdict.reproduced


def _finding(claim: Claim, results: StoredResults, other: str) -> tuple[Finding, Estimate | None]:
    """The number of a claim against ``other`` with its interval; its scale is the claim's."""
    assert claim.measure is not None and claim.arm is not None
    try:
        method, fraction = _arm(claim.arm)
        if claim.measure in _SHARES:
            line = line_of(results, method, fraction)
            value = _SHARES[claim.measure](line) / tuning_flops(line_of(results, "full", 1.0))
            return Finding(other, value, value, value, str(line.runs)), None
        if claim.measure == "winning_score":
            return _score(claim, results, method, fraction, other)
        names = _benchmarks(claim, results)
        scale = 100.0 if any(_higher(results, name) for name in names) else 1.0
        line = line_of(results, method, fraction)
        its_sample = benchmark_sample(results, line, names)
        compared = [line]
        if other:
            compared.append(line_of(results, *_arm(other)))
            benchmark_sample(results, compared[1], names)  # says what is missing
            estimate = Contrasts(list(results.lines.values())).of(line, compared[1], names)
        else:
            estimate = None if its_sample is None else mean(its_sample)
    except NotRunError as error:
        return Finding(other, why=str(error)), None
    runs = " and ".join(str(one.runs) if one.runs else "-" for one in compared)
    whose = [row.benchmarks[name].more.get(KEY) for one in compared for row in one.rows for name in names]
    asked = [one for one in whose if one is not None]
    if estimate is None:
        values = [math.fsum(one.mean(name) for name in names) / len(names) for one in compared]
        value = scale * (values[0] - (values[1] if other else 0.0))
        return Finding(other, value, runs=runs, judges=asked), None
    found_here = _estimated(other, estimate, scale, runs)
    return replace(found_here, nats=scale == 1, judges=asked), estimate.scaled(scale)


def _score(
    claim: Claim, results: StoredResults, method: str, fraction: float | None, other: str
) -> tuple[Finding, Estimate]:
    if fraction is None or method == "full":
        raise ClaimsError(f"{claim.id}: a winning score needs an arm that is a selection, not {claim.arm}.")
    opponent, at = _arm(other)
    if opponent not in ("base", "full") and at != fraction:
        raise ClaimsError(f"{claim.id}: {claim.arm} is judged against the same fraction only, not {other}.")
    line, own = score_sample(results, method, fraction, opponent, claim.set)
    estimate = mean(own)
    asked = [row.judged[claim.set].more[KEY] for row in line.rows if KEY in row.judged[claim.set].more]
    return replace(_estimated(other, estimate, 1.0, str(line.runs)), judges=asked), estimate


def _estimated(other: str, estimate: Estimate, scale: float, runs: str) -> Finding:
    low, high = (scale * float(end) for end in estimate.interval())
    return Finding(other, scale * float(estimate.value), low, high, runs, estimate.limits)


def _benchmarks(claim: Claim, results: StoredResults) -> Sequence[str]:
    assert claim.measure is not None
    if claim.measure == "average":
        return [name for name in results.tasks if _higher(results, name)]
    if claim.measure in _MEANS:
        return _MEANS[claim.measure]
    known = {*results.tasks, *BENCHMARKS}
    if claim.measure not in known:
        raise ClaimsError(
            f"{claim.id}: measure {claim.measure!r}: unknown.{nearest(claim.measure, {*known, *_MEASURES})}"
        )
    return [claim.measure]


def _higher(results: StoredResults, name: str) -> bool:
    """Whether more of a benchmark is better; the paper's are all of that kind."""
    return name not in results.tasks or results.tasks[name].higher_is_better


def compared_lines(found: Sequence[Checked], results: StoredResults) -> list[tuple[Line, Line, Sequence[str]]]:
    """The lines that claims about benchmarks compare, and the benchmarks; those with a number only."""
    pairs = []
    for one in found:
        claim = one.claim
        if claim.measure is None or claim.arm is None or claim.measure in (*_SHARES, "winning_score"):
            continue
        for finding in one.findings:
            if finding.against and not finding.why:
                lines = [line_of(results, *_arm(name)) for name in (claim.arm, finding.against)]
                pairs.append((lines[0], lines[1], _benchmarks(claim, results)))
    return pairs


def _verdict(claim: Claim, finding: Finding, estimate: Estimate | None) -> ClaimVerdict:
    """Of one comparison; a contradiction at the level that several comparisons need."""
    if finding.low is None or finding.high is None:
        return ClaimVerdict.undecided  # no error is known
    wide = (finding.low, finding.high)
    if estimate is not None:
        low, high = estimate.interval(1 - ALPHA / max(1, len(claim.against)))
        wide = (float(low), float(high))
    if claim.relation is Relation.about:
        assert claim.tolerance is not None
        least, most = claim.margin - claim.tolerance, claim.margin + claim.tolerance
        holds, fails = least <= finding.low and finding.high <= most, wide[1] < least or most < wide[0]
    else:
        above, below = finding.low > claim.margin, wide[1] < claim.margin
        if claim.relation is Relation.below:
            above, below = wide[0] > claim.margin, finding.high < claim.margin
        holds, fails = (above, below) if claim.relation is Relation.above else (below, above)
    return ClaimVerdict.reproduced if holds else ClaimVerdict.contradicted if fails else ClaimVerdict.undecided


HEADER = ["claim", "what it says", "source", "checked as", "paper", "ours, 95 % interval", "runs", "verdict", "note"]
CSV = ["claim", "measure", "arm", "against", "relation", "margin", "tolerance", "published", "ours", "low", "high"]
CSV += ["runs", "against runs", "verdict", "note", "source"]


def grid(found: Sequence[Checked]) -> list[list[str]]:
    """Cells below ``HEADER``, a row a claim."""
    rows = []
    for one in found:
        claim = one.claim
        digits = 2 if claim.measure not in (*_SHARES, "winning_score") else 3
        digits = 4 if any(finding.nats for finding in one.findings) else digits
        sign = "+" if claim.against and claim.measure != "winning_score" else ""
        shown = "; ".join(_shown(finding, digits, sign, len(one.findings) > 1) for finding in one.findings)
        paper = "-" if claim.published is None else f"{claim.published:{sign}.{digits}f}"
        runs = "; ".join(dict.fromkeys(finding.runs for finding in one.findings if not finding.why)) or "-"
        cells = [claim.id, claim.text, claim.source, statement(claim), paper, shown or "-", runs]
        rows.append([*cells, one.verdict.value, one.note or "-"])
    return rows


def _shown(finding: Finding, digits: int, sign: str, named: bool) -> str:
    name = f"{finding.against}: " if named else ""
    if finding.value is None:
        return f"{name}missing"
    value = f"{name}{finding.value:{sign}.{digits}f}"
    if finding.low is None or finding.low == finding.high:
        return value
    return f"{value} [{finding.low:{sign}.{digits}f}, {finding.high:{sign}.{digits}f}]"


def statement(claim: Claim) -> str:
    """The claim as it is checked, e.g. ``paper_average of icon-0.15 less that of full: above 0``."""
    if claim.measure is None:
        return "-"
    limit = f"{claim.relation.value} {claim.margin:g}" + (f" ± {claim.tolerance:g}" if claim.tolerance else "")
    if not claim.against:
        return f"{claim.measure} of {claim.arm}: {limit}"
    others = ", ".join(claim.against) if len(claim.against) == 1 else f"each of {', '.join(claim.against)}"
    if claim.measure == "winning_score":
        return f"winning score ({claim.set}) of {claim.arm} against {others}: {limit}"
    return f"{claim.measure} of {claim.arm} less that of {others}: {limit}"


def summary(found: Sequence[Checked]) -> str:
    """How many claims have which verdict."""
    counts: Mapping[ClaimVerdict, int] = {v: sum(one.verdict is v for one in found) for v in ClaimVerdict}
    return f"{len(found)} claims: " + ", ".join(f"{count} {v.value}" for v, count in counts.items())


_CAPTION = """\
Benchmarks in points of 100, differences paired by item; winning scores from 0 to 2, 1 is even; shares of the operations
of tuning on all data; NLL in nats. An interval is that of one claim alone, not corrected for their number. reproduced:
the whole 95 % interval lies where the claim says; contradicted: it lies on the other side; not distinguishable:
neither. Over several arms: reproduced for all, or contradicted by one (interval at the level 1 - 0.05 / arms). not run
here: the note says what is missing. A verdict on a margin of 0 is about the sign alone.
"""


def write_claims(found: Sequence[Checked], experiment: str, folder: Path, notes: Sequence[str] = ()) -> str:
    """Write claims.md, with ``notes`` below it, and claims.csv; returns the summary."""
    text = f"Experiment `{experiment}`. {summary(found)}.\n\n{markdown(HEADER, grid(found))}\n{_CAPTION}"
    text += "".join(f"- {note}\n" for note in notes)
    (folder / "claims.md").write_text(text, encoding="utf-8")
    rows = []
    for one in found:
        claim = one.claim
        for finding in one.findings or [Finding("")]:
            limits = [claim.margin, claim.tolerance, claim.published, finding.value, finding.low, finding.high]
            about = [claim.id, claim.measure or "", claim.arm or "", finding.against, claim.relation.value]
            numbers = ["" if value is None else f"{value:.6g}" for value in limits]
            its_runs, _, other = finding.runs.partition(" and ")  # a model without tuning has none: ``-``
            runs = [count if count.isdigit() else "" for count in (its_runs, other)]
            rows.append([*about, *numbers, *runs, one.verdict.value, one.note, claim.source])
    with (folder / "claims.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([CSV, *rows])
    return summary(found)
