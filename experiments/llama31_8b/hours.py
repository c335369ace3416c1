"""What an experiment takes in GPU hours, from its plan and a speed measured on a GPU.

Run: ``python experiments/llama31_8b/hours.py`` in a checkout.
In: an experiment; what ``bench_gpu`` printed (results/scoring_cost/h100_8b.json).  Out: tables in Markdown, the ones in
experiments/README.md.
Pairs of ICon: the plan's number of pairs over the measured pairs a second, one context each.  Other forward passes: the
plan's operations at the rate at which those pairs went through the model.  Training: the plan's operations at an
assumed share of the measured peak, a third more with gradient checkpointing, which repeats the forward pass.
Known gap: training, the selection model and evaluation were never timed on such a GPU; answers that are generated take
longer than text that is read, and are counted as read; judging, loading of models, waiting and dead time are left out.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.config.compose import composed
from icon_repro.config.load import Config
from icon_repro.data.cost import forward_flops, tokens_of
from icon_repro.engine.artifact import Step, ancestors
from icon_repro.engine.records import read_json
from icon_repro.engine.targets import TARGETS
from icon_repro.experiment import Experiment, plan
from icon_repro.report.pace import two_digits
from icon_repro.report.tables import markdown

MEASURED = Path("results/scoring_cost/h100_8b.json")
_BENCH_PARAMETERS = 8_030_261_248  # of bench_gpu's shape 8b
_ICON, _LESS = "icon_repro.methods.icon.", "icon_repro.methods.less"
_PAIRS = {f"{_ICON}{name}" for name in ("pairs:shard", "pairs:control_shard", "pairs:own_shard")}
_GRADIENTS = {f"{_LESS}:shard", f"{_LESS}_exact:means", f"{_LESS}_exact:shard"}
_TRAINING = {TARGETS["train"][0], f"{_ICON}selector:train", *_GRADIENTS}
_LEVELS = {
    "as released: a random text for every pair": ["methods.icon.compat=official"],
    "a random text for every candidate": ["methods.icon.control=per_candidate"],
    "noise bank (default)": [],
    "noise bank, adaptive": ["methods.icon.budget=adaptive"],
    "noise bank, budget=auto": ["methods.icon.budget=auto"],
}


@dataclass(frozen=True)
class Speed:
    """What one GPU does."""

    pairs_per_s: float  # of one context each, for the model of the bench
    flops_per_s: float  # of reading, in the plan's operations, which count the head on every token
    training_flops_per_s: float


def speed(measured: dict[str, Any], training_share: float) -> Speed:
    """From the JSON object of ``bench_gpu``; ``training_share`` of the measured peak is assumed for training."""
    shared = measured["shared"]
    return Speed(
        pairs_per_s=shared["pairs_per_s"],
        flops_per_s=forward_flops(_BENCH_PARAMETERS, shared["tokens_per_s"]),
        training_flops_per_s=training_share * measured["peak_tflops"] * 1e12,
    )


def hours(steps: Iterable[Step], config: Config, rate: Speed) -> float:
    """GPU hours of ``steps``, each counted once."""
    row = _row_tokens(config)
    size = config.model.parameters / _BENCH_PARAMETERS
    seconds = 0.0
    for step in {step.folder: step for step in steps}.values():
        if step.target in _PAIRS:
            seconds += step.cost.tokens / row / rate.pairs_per_s * size
        elif step.target in _TRAINING:
            repeated = 4 / 3 if config.cluster.gradient_checkpointing and step.stage == "train" else 1
            seconds += step.cost.flops * repeated / rate.training_flops_per_s
        else:
            seconds += step.cost.flops / rate.flops_per_s
    return seconds / 3600


def scoring(experiment: Experiment, methods: Iterable[str] | None = None) -> list[Step]:
    """The steps that the scores of ``methods`` (None: of all) need, tunings among them too."""
    chosen = None if methods is None else set(methods)
    selects = [arm.select for arm in experiment.arms if arm.select and (chosen is None or arm.method in chosen)]
    return [step for select in selects for step in ancestors(select)]


def levels(name: str, rate: Speed, more: Sequence[str]) -> list[list[str]]:
    """Pairs of contexts and rows, and GPU hours of ICon's selection, for each way to score."""
    lines = []
    for label, overrides in _LEVELS.items():
        experiment = plan(composed(name, [*more, *overrides]))
        steps = scoring(experiment, ["icon"])
        pairs = [step for step in steps if step.target in _PAIRS]
        tokens = sum(step.cost.tokens for step in {s.folder: s for s in pairs}.values())
        counted = tokens / _row_tokens(experiment.config)
        taken = [hours(some, experiment.config, rate) for some in (pairs, [s for s in steps if s not in pairs])]
        lines.append([label, two_digits(counted / 1e6), *map(two_digits, (*taken, sum(taken)))])
    return lines


def parts(experiment: Experiment, rate: Speed) -> list[list[str]]:
    """GPU hours of all selection, tuning and evaluation."""
    config, arms = experiment.config, experiment.arms
    tuned = [arm.train for arm in arms if arm.train is not None]
    full = [arm.train for arm in arms if arm.method == "full" and arm.train is not None]
    evaluated = [step for arm in arms for step in arm.evaluations.values()]
    groups = [
        ("selection, all methods", len(config.methods), scoring(experiment)),
        ("tuning on all rows", len(full), full),
        ("tuning on selections", len(tuned) - len(full), [step for step in tuned if step not in full]),
        ("evaluation on all benchmarks", len(arms), evaluated),
    ]
    found = [(label, count, hours(steps, config, rate)) for label, count, steps in groups]
    found.append(("together", len(arms), sum(taken for *_, taken in found)))
    return [[label, str(count), two_digits(taken)] for label, count, taken in found]


def by_method(experiment: Experiment, rate: Speed) -> list[list[str]]:
    """GPU hours of each method's selection, by itself."""
    taken = {name: hours(scoring(experiment, [name]), experiment.config, rate) for name in experiment.config.methods}
    return [[name, two_digits(value)] for name, value in sorted(taken.items(), key=lambda item: (item[1], item[0]))]


def text(name: str, measured: Path, training_share: float, more: Sequence[str]) -> str:
    """The tables of one experiment without a judge."""
    rate = speed(read_json(measured), training_share)
    fixed = ["judge=none", *more]
    whole = plan(composed(name, fixed))
    others = [f"~methods.{other}" for other in whole.config.methods if other not in ("icon", "random", "longest")]
    lean = plan(composed(name, [*fixed, *others, "methods.icon.budget=auto"]))
    table = [[a[0], a[1], a[2], b[1], b[2]] for a, b in zip(parts(lean, rate), parts(whole, rate), strict=True)]
    return "\n".join(
        [
            markdown(
                ["ICon's pairs", "million", "hours of pairs", "of the rest", "together"], levels(name, rate, fixed)
            ),
            markdown(["part", "ICon, random, longest", "hours", "all methods", "hours"], table),
            markdown(["selection by", "hours"], by_method(whole, rate)),
        ]
    )


def _row_tokens(config: Config) -> float:
    """Of an assessment row, as the plan expects it: what it counts for a pair."""
    rows = config.data.assessment
    return tokens_of(rows.expected_prompt_chars + rows.expected_response_chars)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of an experiment."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--experiment", default="llama31_8b")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="what bench_gpu printed last")
    parser.add_argument("--training-share", type=float, default=0.4, help="of the measured peak, assumed for training")
    parser.add_argument("overrides", nargs="*", help="key=value, as of icon_repro")
    given = parser.parse_args(arguments)
    if not 0 < given.training_share <= 1:
        parser.error(f"--training-share={given.training_share:g}: must be in (0, 1].")
    print(text(given.experiment, given.measured, given.training_share, given.overrides))
    return 0


if __name__ == "__main__":
    sys.exit(main())
