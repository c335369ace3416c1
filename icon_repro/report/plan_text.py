"""Say what a plan would do, stage by stage: steps, tokens, GPU hours, disk, money, and what is missing before it can.

In: a plan, its store, and the problems found before any work.  Out: lines for action=plan; plan=full has each step too.
GPU hours are those of one H100 at rates that were measured or assumed for an 8B model (``READ``, ``TRAINED``).
Known gap: a small model fills a GPU less, and answers that are generated take longer than text that is read; loading,
waiting and judging by an endpoint aren't counted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from icon_repro.config.actions import Keep, PlanDetail
from icon_repro.config.load import Until
from icon_repro.engine.artifact import Cost, Step, Store
from icon_repro.engine.run import Status, status
from icon_repro.evaluate.judge.plan import expected_calls
from icon_repro.experiment import Experiment
from icon_repro.lm.options import Asking
from icon_repro.report.collect import cost_ratios, estimate
from icon_repro.report.disk import downloads, expected_bytes, free_bytes, peak, size
from icon_repro.report.pace import pace, told, two_digits
from icon_repro.report.results import place_of
from icon_repro.report.selection_overlap import planned
from icon_repro.train.options import TrainJob

# operations a second, from results/scoring_cost/h100_8b.json: text that an 8B model read; for training 40 % of the
# measured peak are assumed, as experiments/llama31_8b/hours.py does
READ = 4.4e14
TRAINED = 3.05e14
STAGES = ("model", "prepare", "score", "select", "train", "evaluate", "judge")
_CHANGES = 5  # reasons for a new build that are shown


def lines(experiment: Experiment, store: Store, missing: Sequence[Step], problems: Sequence[str]) -> list[str]:
    """What ``action=plan`` prints.

    Args:
        missing: the steps to do.
        problems: what would stop them.
    """
    config = experiment.config
    states = {step.folder: status(step, store) for step in experiment.steps}
    to_do = {step.folder for step in missing}
    found = list(_each(experiment, states)) if config.plan is PlanDetail.full else []
    total = estimate(list(missing))
    done = len(experiment.steps) - len(missing)
    about = f", about {amount(total)}" if total.tokens else ""
    found.append(f"{len(experiment.steps)} steps: {done} cached, {len(missing)} to do{about}")
    found += _table(experiment, to_do)
    found += _states(states, to_do)
    found += told(pace(experiment.steps, store, config.cluster))
    if missing:
        found += [_disk(experiment, missing), *_selection(experiment)]
    if config.until is Until.evaluate and config.primary is not None:
        from icon_repro.report.power import primary_lines  # scipy.special takes a moment to import

        found += primary_lines(config, place_of(config))
    found += expected_calls(missing)
    if missing:
        found += experiment.notes
    found += unsaid(experiment)
    found += [f"warning: {problem}" for problem in [*planned(experiment, store), *problems]]
    if config.plan is PlanDetail.short:
        found.append("Each step, its folder and why it is to do: plan=full.")
    return found


def unsaid(experiment: Experiment) -> list[str]:
    """Claims and cells beside the paper's that the plan has no step for; nothing if it names no published numbers."""
    if experiment.config.published is None:
        return []
    from icon_repro.report.promised import unsaid_lines  # scipy and yaml take a moment to import

    return unsaid_lines(experiment)


def amount(cost: Cost) -> str:
    """Tokens and operations: ``1.2 M tokens, 3 TFLOP``."""
    return f"{si(cost.tokens)} tokens, {si(cost.flops)}FLOP".replace("  ", " ")


def si(value: float) -> str:
    """1234567 as ``1.23 M``, 12 as ``12 ``: the unit follows."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def _each(experiment: Experiment, states: dict[str, Status]) -> Iterator[str]:
    width = max(len(step.label) for step in experiment.steps)
    for step in experiment.steps:
        state = states[step.folder]
        cost = f"~{amount(step.cost)}" if step.cost.tokens else ""
        note = "; ".join(part for part in (cost if state.state != "cached" else "", state.why) if part)
        yield f"{state.state:<12}{step.label:<{width}}  {step.fingerprint}  {note}".rstrip()


def _table(experiment: Experiment, to_do: set[str]) -> Iterator[str]:
    """By stage how many steps there are, and what those to do take; 60 columns at most."""
    titles = ("stage", "steps", "cached", "tokens", "H100 hours", "disk", "money")
    rows = [titles]
    stages = dict.fromkeys(step.stage for step in experiment.steps)
    for stage in sorted(stages, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES)):
        steps = [step for step in experiment.steps if step.stage == stage]
        missing = [step for step in steps if step.folder in to_do]
        rows.append((stage, str(len(steps)), str(len(steps) - len(missing)), *_takes(missing)))
    missing = [step for step in experiment.steps if step.folder in to_do]
    rows.append(("all", str(len(experiment.steps)), str(len(experiment.steps) - len(missing)), *_takes(missing)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    for first, *others in rows:
        cells = "".join(f"  {cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield f"  {first:<{widths[0]}}{cells}"


def _takes(steps: Sequence[Step]) -> tuple[str, str, str, str]:
    """Tokens, hours, disk and money of steps; ``-`` for none."""
    tokens, disk = sum(step.cost.tokens for step in steps), sum(expected_bytes(step) for step in steps)
    return (si(tokens).strip() if tokens else "-", hours(steps), size(disk) if disk else "-", _money(steps))


def hours(steps: Iterable[Step]) -> str:
    """Hours of one H100, with two digits at most; ``-`` for less than a hundredth."""
    rates = ((step.cost.flops, TRAINED if isinstance(step.params, TrainJob) else READ) for step in steps)
    value = sum(flops / rate for flops, rate in rates) / 3600
    return two_digits(value) if value >= 0.01 else "-"


def _money(steps: Iterable[Step]) -> str:
    """What endpoints are paid for; ``?`` where a price isn't set."""
    asked = [step.params for step in steps if isinstance(step.params, Asking)]
    costs = [one.endpoint.cost(one.expected_tokens_in, one.expected_tokens_out) for one in asked]
    unknown = any(not cost and not one.endpoint.local for one, cost in zip(asked, costs, strict=True))
    text = f"{sum(costs):.4g}" if sum(costs) else ""
    return f"{text}{' + ?' if text and unknown else '?' if unknown else ''}" or "-"


def _states(states: dict[str, Status], to_do: set[str]) -> Iterator[str]:
    """Steps that failed or are at work, and what changed since the last build."""
    counts = Counter(state.state for state in states.values())
    for name in ("running", "failed", "blocked", "interrupted"):
        if counts[name]:
            yield f"{counts[name]} {name}: action=status says why, and where the log is"
    if again := sum(states[folder].state == "cached" for folder in to_do):
        yield f"{again} steps whose weights were removed (action=prune) are needed, and built again"
    begins = "changed since the last build: "
    parts = [why.removeprefix(begins).split("; ") for state in states.values() if (why := state.why).startswith(begins)]
    changes = Counter(part for why in parts for part in why if not part.startswith("inputs."))
    for change, count in changes.most_common(_CHANGES):
        yield f"{begins}{change} ({count} step{'s' if count > 1 else ''})"
    if len(changes) > _CHANGES:
        yield f"and {len(changes) - _CHANGES} more changes: plan=full"


def _disk(experiment: Experiment, missing: Sequence[Step]) -> str:
    config = experiment.config
    most = peak(experiment, missing, config.keep)
    text = f"disk: weights and gradients take {size(most)} of {size(free_bytes(Path(config.paths.work)))} free"
    if config.keep is Keep.all and (least := peak(experiment, missing, Keep.none)) < most / 2:
        text += f" (keep=none: {size(least)} at a time)"
    hub = downloads(missing)
    return f"{text}; models from the hub {size(hub)}, in its cache" if hub else text


def _selection(experiment: Experiment) -> list[str]:
    """What selecting costs by each method, in tunings that it saves; a range where fractions differ."""
    ratios: dict[str, list[float]] = {}
    for name, (cost, ratio) in cost_ratios(experiment).items():
        method = name.rpartition("-f")[0]
        if cost.flops and getattr(experiment.config.methods[method], "matched_to", None) is None:  # told of the other
            ratios.setdefault(method, []).append(ratio)
    if not ratios:
        return []
    parts = []
    for name, found in sorted(ratios.items(), key=lambda item: (max(item[1]), item[0])):
        low, high = f"{min(found):.2g}", f"{max(found):.2g}"
        parts.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return [f"selecting, in FLOPs of the tuning that it saves: {', '.join(parts)}"]
