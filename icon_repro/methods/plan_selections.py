"""The selections of every method, fraction and selection seed.

With several pools each method selects from each. A control that is matched to another method reads that method's
selection, so it is planned after all others; the order of the result is that of ``methods``.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

from icon_repro.data.options import CandidatesSize, DataConfig
from icon_repro.data.planner import Planner
from icon_repro.engine.artifact import Step
from icon_repro.methods.icon.options import IconConfig, TuningSaved
from icon_repro.methods.icon.plan import IconInputs, icon_scores
from icon_repro.methods.options import RandomConfig, RowTokens, SelectBudget, SelectConfig, repetitions
from icon_repro.methods.plan import Methods
from icon_repro.train.options import TrainConfig, Tuning


class Selecting(Protocol):
    """What planning selections reads of a configuration, whatever else that holds."""

    methods: dict[str, Any]
    fractions: list[float]
    budget: SelectBudget
    training: TrainConfig
    data: DataConfig


@dataclass(frozen=True)
class Selection:
    """What a method selects at a fraction."""

    method: str  # its name in ``methods``
    fraction: float
    seed: int | None  # of a method that selects with several; with several pools the pool's number
    label: str  # begins the names of its steps
    step: Step
    universe: Step  # what it selects from
    pool: int | None


class Selections:
    """Builds the selections from one universe.

    Args:
        read: what ICon reads.
        universe: the rows that all methods rank.
        pool: its number, where there are several.
    """

    def __init__(self, planner: Planner, config: Selecting, read: IconInputs, universe: Step, pool: int | None) -> None:
        self.planner, self.config, self.read, self.universe, self.pool = planner, config, read, universe, pool
        self.methods = Methods(planner, read.model, universe, read.assessment, config.training.deepspeed)
        self.tokens: dict[str, Step] = {}  # for budget=tokens
        if config.budget is SelectBudget.tokens:
            counted = RowTokens(config.training.max_length)
            name = "row-tokens" if pool is None else f"row-tokens-r{pool}"
            both = {"model": read.model, "candidates": universe}
            self.tokens["tokens"] = planner.step("row_tokens", "prepare", name, counted, inputs=both)

    def all(self) -> list[Selection]:
        """In the order of ``methods``, then selection seeds, then fractions."""
        methods = self.config.methods
        matched = {name for name, method in methods.items() if getattr(method, "matched_to", None) is not None}
        planned: dict[str, list[Selection]] = {}
        for name in [*(n for n in methods if n not in matched), *(n for n in methods if n in matched)]:
            planned[name] = []
            for repeat, (own_seed, method) in enumerate(repetitions(methods[name])):
                seed = own_seed if self.pool is None else self.pool
                label = name if seed is None else f"{name}-r{seed}"
                if name in matched:
                    scores = self._matched(label, method, repeat, planned[method.matched_to])
                else:
                    scores = self._scores(label, method)
                planned[name] += [self._select(name, f, seed, label, scores[f]) for f in self.config.fractions]
        return [selection for name in methods for selection in planned[name]]

    def _select(self, name: str, fraction: float, seed: int | None, label: str, scores: Step) -> Selection:
        part = f"{label}-f{fraction:g}"
        inputs = {"scores": scores, "universe": self.universe, **self.tokens}
        step = self.planner.step("select", "select", part, SelectConfig(fraction, self.config.budget), inputs=inputs)
        return Selection(name, fraction, seed, part, step, self.universe, self.pool)

    def _scores(self, label: str, method: object) -> dict[float, Step]:
        """For each fraction the step with the scores that it is selected by."""
        config = self.config
        if not isinstance(method, IconConfig):
            return dict.fromkeys(config.fractions, self.methods.scores(label, method))
        training, among = config.training, None if self.planner.whole else self.planner.bound()
        frozen = training.tuning is Tuning.lora
        saved = TuningSaved(training.epochs, training.max_length, frozen, max(config.fractions), among)
        return icon_scores(self.planner, label, method, self.read, config.fractions, saved)

    def _matched(self, label: str, method: RandomConfig, repeat: int, others: list[Selection]) -> dict[float, Step]:
        """The draw number ``repeat`` follows the other method's repeat of that number, from the first on again."""
        made = {}
        for fraction in self.config.fractions:
            followed = [other.step for other in others if other.fraction == fraction]
            inputs = {"candidates": self.universe, "selection": followed[repeat % len(followed)]}
            name = f"{label}-f{fraction:g}"
            made[fraction] = self.planner.step("random_matched", "score", name, method, inputs=inputs)
        return made


def over_pools(planner: Planner, config: Selecting, read: IconInputs) -> list[Selection]:
    """The selections from each of ``data.pools`` disjoint pools, ordered by method, then pool: slices of ICon's order.

    Every method ranks a pool by itself. A pool's number takes the place of the selection seed.
    """
    data = config.data
    size = data.candidates.size
    assert size is not None  # config.load
    found: list[Selection] = []
    for pool in range(data.pools):
        part = CandidatesSize(size, pool * size)
        rows = planner.step("candidates", "prepare", f"candidates-r{pool}", part, inputs={"order": read.order})
        found += Selections(planner, config, replace(read, order=rows, selected_from=rows), rows, pool).all()
    methods = list(config.methods)
    return sorted(found, key=lambda selection: methods.index(selection.method))
