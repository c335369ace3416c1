"""Plan the selections of every method, fraction and selection seed.

With several pools each method selects from each. The order of the result is that of ``methods``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from icon_repro.data.options import CandidatesSize, DataConfig
from icon_repro.data.planner import Planner
from icon_repro.engine.artifact import Step
from icon_repro.methods.base import Build, Inputs
from icon_repro.methods.kinds import method_of, repetitions
from icon_repro.methods.row_tokens import RowTokens
from icon_repro.methods.select import SelectBudget, SelectConfig
from icon_repro.train.options import TrainConfig


class Selecting(Protocol):
    """What planning selections reads of a configuration, whatever else that holds."""

    methods: dict[str, Any]
    fractions: list[float]
    more_fractions: dict[str, list[float]]
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
        read: what methods read.
        universe: the rows that all methods rank.
        pool: its number, where there are several.
    """

    def __init__(self, planner: Planner, config: Selecting, read: Inputs, universe: Step, pool: int | None) -> None:
        self.planner, self.config, self.read, self.universe, self.pool = planner, config, read, universe, pool
        self.planned: dict[str, list[Selection]] = {}
        self.tokens: dict[str, Step] = {}  # for budget=tokens
        if config.budget is SelectBudget.tokens:
            counted = RowTokens(config.training.max_length)
            name = "row-tokens" if pool is None else f"row-tokens-r{pool}"
            both = {"model": read.model, "candidates": universe}
            self.tokens["tokens"] = planner.step("row_tokens", "prepare", name, counted, inputs=both)

    def all(self) -> list[Selection]:
        """In the order of ``methods``, then selection seeds, then fractions."""
        return [selection for name in self.config.methods for selection in self._of(name)]

    def _of(self, name: str) -> list[Selection]:
        """The selections of a method; planned when they are first asked for, as a control asks for another method's."""
        if name not in self.planned:
            selections = []
            for repeat, (own_seed, options) in enumerate(repetitions(self.config.methods[name])):
                seed = own_seed if self.pool is None else self.pool
                label = name if seed is None else f"{name}-r{seed}"
                fractions = [*self.config.fractions, *self.config.more_fractions.get(name, [])]
                scores = self._scores(label, options, repeat, fractions)
                selections += [self._select(name, f, seed, label, scores[f]) for f in fractions]
            self.planned[name] = selections
        return self.planned[name]

    def _select(self, name: str, fraction: float, seed: int | None, label: str, scores: Step) -> Selection:
        part = f"{label}-f{fraction:g}"
        inputs = {"scores": scores, "universe": self.universe, **self.tokens}
        step = self.planner.step("select", "select", part, SelectConfig(fraction, self.config.budget), inputs=inputs)
        return Selection(name, fraction, seed, part, step, self.universe, self.pool)

    def _scores(self, label: str, options: Any, repeat: int, fractions: Sequence[float]) -> dict[float, Step]:
        """For each fraction the step with the scores that it is selected by."""
        config = self.config

        def selected(other: str, fraction: float) -> Step:
            """Repeat number ``repeat`` follows the other method's repeat of that number, from the first on again."""
            followed = [selection.step for selection in self._of(other) if selection.fraction == fraction]
            return followed[repeat % len(followed)]

        builder = Build(self.planner, self.read, self.universe, config.training, fractions, selected, config.fractions)
        scores = method_of(options).plan(builder, label, options)
        return scores if isinstance(scores, dict) else dict.fromkeys(fractions, scores)


def over_pools(planner: Planner, config: Selecting, read: Inputs) -> list[Selection]:
    """The selections from each of ``data.pools`` disjoint pools, ordered by method, then pool: slices of the order.

    Every method ranks a pool by itself. A pool's number takes the place of the selection seed.
    """
    data = config.data
    size = data.candidates.size
    assert size is not None  # config.load
    selections: list[Selection] = []
    for pool in range(data.pools):
        part = CandidatesSize(size, pool * size)
        rows = planner.step("candidates", "prepare", f"candidates-r{pool}", part, inputs={"order": read.order})
        selections += Selections(planner, config, replace(read, order=rows, selected_from=rows), rows, pool).all()
    methods = list(config.methods)
    return sorted(selections, key=lambda selection: methods.index(selection.method))
