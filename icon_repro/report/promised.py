"""What an experiment's tables and claims will stay silent on, however well it runs: known from the plan alone.

In: a plan, and the published numbers and claims beside it.  Out: claims without a verdict and empty cells, by reason.
Every planned result gets a made-up value, and the tables and claims are made of these as a report makes them of real
ones: what is missing then has no step. The values are seen by nobody.
Known gap: a benchmark of which no error is known (F1, MCC) may leave a claim undecided; that shows in the report.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icon_repro.config.load import Until
from icon_repro.engine.artifact import Step, ancestors
from icon_repro.engine.schema import plain
from icon_repro.evaluate.held_out_measures import names
from icon_repro.evaluate.options import TaskConfig, TaskKind
from icon_repro.experiment import Arm, Experiment
from icon_repro.report.collect import LEFT_OUT
from icon_repro.report.paper.claims import Claim, ClaimsError, ClaimVerdict, check_claims, read_claims
from icon_repro.report.paper.measures import StoredResults, results_of
from icon_repro.report.paper.paper_tables import paper_tables
from icon_repro.report.paper.published import PublishedError, published_folder, read_published
from icon_repro.report.rows import (
    BenchmarkFacts,
    BenchmarkResult,
    JudgedResult,
    Outcomes,
    Part,
    ResultRow,
    RowSteps,
    Spent,
)

_SHOWN = 12  # reasons
_UNKNOWN = Outcomes("", [Part("", 1.0, value=0.5)])  # of no known error: no interval is made


@dataclass(frozen=True)
class Silence:
    """What a plan can't say: claims and cells of tables beside the paper's, by the reason."""

    claims: Mapping[str, list[str]] = field(default_factory=dict)  # reason -> ids
    untestable: Mapping[str, list[str]] = field(default_factory=dict)  # claims that no table of ours could tell
    cells: Mapping[str, int] = field(default_factory=dict)  # reason -> how many
    all_claims: int = 0
    all_cells: int = 0

    def lines(self) -> list[str]:
        """For people: a line for each reason, most frequent first."""
        cells = Counter(self.cells)
        texts = [f"{count} of {self.all_cells} cells beside the paper's: {why}" for why, count in cells.most_common()]
        if len(texts) > _SHOWN:
            rest = sum(count for _, count in cells.most_common()[_SHOWN:])
            texts = [*texts[:_SHOWN], f"{rest} more cells, for {len(cells) - _SHOWN} other reasons"]
        for why, ids in {**self.claims, **self.untestable}.items():
            texts.append(f"claim{'s' if len(ids) > 1 else ''} {', '.join(ids)}: {why}")
        return texts


def silence(experiment: Experiment) -> Silence:
    """What the experiment can't say; empty if it names no published numbers, or ends with selections.

    Raises:
        PublishedError, ClaimsError: these can't be read.
    """
    config = experiment.config
    stored = plain(config)
    source = published_folder(stored, Path(config.paths.experiments))
    if source is None or not experiment.arms or config.until is Until.select:
        return Silence()
    promised = results_of(promised_rows(experiment), stored)
    tables = paper_tables(promised, read_published(source))
    cells = [cell for table in tables for line in table.lines for cell in line.cells]
    claims = read_claims(source)
    return Silence(
        *_undecided(claims, promised),
        dict(Counter(cell.missing for cell in cells if cell.missing)),
        len(claims),
        len(cells),
    )


def unsaid_lines(experiment: Experiment) -> list[str]:
    """For action=plan: how many claims and cells the plan has steps for, and why not for the others."""
    if experiment.config.published is None:
        return []
    try:
        unsaid = silence(experiment)
    except (PublishedError, ClaimsError):
        return []  # ``preflight`` names it
    if not unsaid.all_claims and not unsaid.all_cells:
        return []
    undecided = sum(len(ids) for ids in (*unsaid.claims.values(), *unsaid.untestable.values()))
    head = (
        f"beside the paper: can decide {unsaid.all_claims - undecided} of {unsaid.all_claims} claims, and fill "
        f"{unsaid.all_cells - sum(unsaid.cells.values())} of {unsaid.all_cells} cells"
    )
    return [f"{head}; not:" if undecided or unsaid.cells else head, *(f"  {line}" for line in unsaid.lines())]


def _undecided(claims: list[Claim], found: StoredResults) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    untestable: dict[str, list[str]] = {}
    for one in check_claims(claims, found):
        if one.verdict is ClaimVerdict.not_run:
            kind = reasons if one.claim.untestable is None else untestable
            kind.setdefault(one.note, []).append(one.claim.id)
    return reasons, untestable


def promised_rows(experiment: Experiment) -> list[ResultRow]:
    """A row for each arm in which every planned result is there, with a value that means nothing."""
    return [_row(experiment, arm) for arm in experiment.arms]


def _row(experiment: Experiment, arm: Arm) -> ResultRow:
    config = experiment.config
    judge = config.judge
    measures = {m: name for name, task in config.evaluation.tasks.items() for m in _measures(name, task)}
    steps = {m: arm.evaluations[name] for m, name in measures.items() if name in arm.evaluations}
    facts = {m: _facts(config.evaluation.tasks[name]) for m, name in measures.items()}
    for name, group in judge.benchmarks.items():
        facts[name] = BenchmarkFacts(group, None, higher_is_better=True)
        if name in arm.judged:
            steps[name] = arm.judged[name]
    scored = [step for step in ancestors(arm.select) if step.stage == "score"] if arm.select else []
    return ResultRow(
        experiment=config.name,
        model=config.model.name,
        method=arm.method,
        fraction=arm.fraction,
        seed=arm.seed,
        selection_seed=arm.selection_seed,
        tasks=facts,
        benchmarks={name: BenchmarkResult("acc", 0.5, 2, 1, step.folder, _UNKNOWN) for name, step in steps.items()},
        missing=dict.fromkeys(judge.benchmarks.keys() - steps.keys(), LEFT_OUT),
        judged={name: _verdicts(experiment, arm, name, step) for name, step in arm.judged.items()},
        unjudged={},
        selected=None,
        trained=None,
        selection=_spent(scored),
        tuning=_spent([arm.train] if arm.train else []),
        steps=RowSteps(*(step.folder if step else None for step in (arm.select, arm.train))),
        shared_text=None,
        pool=arm.pool,
    )


def _measures(name: str, task: TaskConfig) -> list[str]:
    return names(name, None, task.short_tokens) if task.kind is TaskKind.nll else [name]


def _facts(task: TaskConfig) -> BenchmarkFacts:
    return BenchmarkFacts(task.group, task.chance, higher_is_better=task.kind is not TaskKind.nll)


def _verdicts(experiment: Experiment, arm: Arm, name: str, step: Step) -> JudgedResult:
    judge = experiment.config.judge
    return JudgedResult(
        against="reference" if name in judge.references else judge.whom(arm.method),
        prompts=2,
        judged=2,
        win=1,
        tie=0,
        lose=1,
        failed=0,
        length_controlled_score=None,
        position_consistency=None,
        first_preferred=None,
        longer_wins=None,
        length_winners=None,
        length_losers=None,
        step=step.folder,
        outcomes=Outcomes("", [Part("", 1.0, values="wl")]),
    )


def _spent(steps: list[Step]) -> Spent:
    """What the plan expects, and one operation more: a share of nothing isn't a number."""
    return Spent(sum(step.cost.tokens for step in steps), 1.0 + sum(step.cost.flops for step in steps))
