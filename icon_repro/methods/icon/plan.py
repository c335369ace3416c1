"""Plan the steps of ICon: dtype check, baseline, bank, shards or rounds, scores of candidates, selection model.

In: an IconConfig.  Out: for each fraction the step whose scores it is selected by.
A shard is a slice of the pool's order, so more candidates only add shards. What a step doesn't use is set to the
default before it is hashed: another value of it leaves the step, and its hours, as they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from icon_repro.data.cost import FROZEN_TRAINING, FULL_TRAINING, tokens_of, training_flops
from icon_repro.engine.artifact import Cost, Step
from icon_repro.methods.base import Build
from icon_repro.methods.icon.options import (
    POOL_ROWS,
    AdaptiveConfig,
    AutoConfig,
    Budget,
    Control,
    Features,
    IconConfig,
    IconRound,
    IconShard,
    NearRows,
    ProbeConfig,
    ScoreDtype,
    SelectorConfig,
    SelectorJob,
    SelectorKind,
    SelectorScores,
    SelectorShard,
    SelectorTarget,
    TuningSaved,
    resolved,
    round_ends,
    rows_in_use,
)
from icon_repro.methods.icon.steps import STEPS
from icon_repro.train.options import Tuning

_LAYOUT = (
    "skip_first_tokens",
    "empty_pairs",
    "drop_first_token",
    "separator",
    "max_context_tokens",
    "max_prompt_tokens",
    "max_response_tokens",
    "dtype",
)
_BANK_LENGTHS = 4  # of the grid that the plan expects to be scored
_STILL_ACTIVE = 0.75  # share of the candidates that a round leaves, as the plan expects it
_LEAST_ACTIVE = 0.12
_NEAR_A_CUT = 0.5  # share of the candidates that a round of budget auto scores further; 0.48 in results/price
# of AutoConfig: what scoring without a selection model uses, and before one
_FEW = ("first_rows", "growth", "rows")
_POOL = ("first_rows", "rows", "pilot_candidates", "cost_ratio", "least_candidates")


def _only(icon: IconConfig, *names: str) -> IconConfig:
    """The default config with the values of ``icon`` for ``names``: what a step uses."""
    return replace(resolved(IconConfig(control=Control.none)), **{name: getattr(icon, name) for name in names})


@dataclass
class _Sizes:
    """What the plan expects, in tokens."""

    candidates: int
    rows: int
    row: float
    context: float
    selected_from: float  # a row of the pool that is selected from

    def pairs(self, candidates: float, rows: float) -> float:
        return candidates * (self.context + rows * self.row)


class _Icon:
    """Builds the steps of one ICon method. Pairs bear no method's name: two methods share those that are the same."""

    def __init__(self, build: Build, name: str, icon: IconConfig) -> None:
        planner = build.planner
        self.build, self.planner, self.name, self.icon = build, planner, name, resolved(icon)
        if icon.budget is Budget.auto and icon.selector is not None and icon.auto.rows is None:
            self.icon = replace(self.icon, auto=replace(icon.auto, rows=POOL_ROWS))
        self.order, self.selected_from = build.order, build.selected_from
        self.data = {"model": build.model, "order": build.order, "assessment": build.assessment}
        data = planner.config.data
        self.sizes = _Sizes(
            min(planner.expected(), icon.candidates or planner.expected()),
            planner.assessment(),
            tokens_of(data.assessment.expected_prompt_chars + data.assessment.expected_response_chars),
            tokens_of(data.pool.expected_prompt_chars + data.pool.expected_response_chars),
            tokens_of(data.selected_from.expected_prompt_chars + data.selected_from.expected_response_chars),
        )
        self.stop = planner.bound()  # of the rows that dtype and bank are checked on and made for
        self.scored = min((n for n in (self.stop, icon.candidates) if n is not None), default=None)
        self.inputs: dict[str, Step] = {}  # of the aggregation
        self.check: dict[str, Step] = {}
        self.few: Step  # with budget auto: the assessment rows in use
        self.learned: float = self.sizes.candidates  # that the selection model learns from

    def step(
        self, key: str, name: str, params: Any, inputs: Mapping[str, Step], tokens: float = 0.0, **more: Any
    ) -> Step:
        function, version = STEPS[key]
        return self.build.step(function, name, params, inputs, tokens, version=version, **more)

    def common(self) -> None:
        """Check of the dtype, baseline and bank."""
        icon, sizes = self.icon, self.sizes
        if icon.dtype is not ScoreDtype.float32:
            sample = icon.fidelity
            tokens = 4 * sizes.pairs(sample.candidates, sample.rows)
            checked = _only(icon, *_LAYOUT, "fidelity", "epsilon", "noise_unit", "seed")
            with_control = Control.none if icon.control is Control.none else Control.per_candidate
            if icon.budget is Budget.auto:  # how many rows decide about a candidate, the first alone before a model
                first, more = icon.auto.first_rows, icon.auto.rows
                few = AutoConfig(first_rows=first, rows=first if icon.selector else more)
                checked = replace(checked, budget=Budget.auto, auto=few)
            params = IconShard(replace(checked, control=with_control), 0, self.stop)
            self.inputs["dtype"] = self.step("dtype", "icon-dtype", params, self.data, tokens)
            if icon.dtype is ScoreDtype.auto:
                self.check = {"dtype": self.inputs["dtype"]}
        rows = self.rows_in_use()
        only: dict[str, Step] = {}
        if icon.budget is Budget.auto:
            texts = {"order": self.order, "assessment": self.data["assessment"]}
            self.few = self.step("few_rows", "icon-rows", self._order_job("rows"), texts)
            only = {"sequence": self.few}
        alone = _only(icon, "empty_pairs", "drop_first_token", "max_prompt_tokens", "max_response_tokens", "dtype")
        shared = {key: step for key, step in self.data.items() if key != "order"}
        self.inputs["baseline"] = self.step(
            "baseline", "icon-baseline", alone, {**shared, **self.check, **only}, rows * sizes.row
        )
        if icon.control is Control.bank:
            bank = IconShard(_only(icon, *_LAYOUT, "bank", "seed"), 0, self.stop)
            tokens = sizes.pairs(_BANK_LENGTHS * icon.bank.draws, rows)
            self.inputs["bank"] = self.step("bank", "icon-bank", bank, {**self.data, **self.check, **only}, tokens)

    def shards(
        self,
        part: str,
        target: str,
        rows: float,
        *,
        kept: Sequence[str] = (),
        first: int | None = None,
        share: float = 1.0,
        sequence: Step | None = None,
    ) -> dict[str, Step]:
        """Shards ``<part>-NNNN`` over the ``first`` candidates (None: all scored); a ``share`` meets ``rows`` rows.

        A shard holds about as many pairs as ``shard_candidates`` candidates have with all assessment rows. Some are
        empty if fewer candidates are there than expected; without a bound the last is open.
        """
        icon, sizes = self.icon, self.sizes
        pairs = _only(icon, *_LAYOUT, "shard_candidates", *kept)
        inputs = {**self.data, **self.check, **({"sequence": sequence} if sequence else {})}
        size = (
            icon.shard_candidates if sequence is None else math.ceil(icon.shard_candidates * sizes.rows / max(rows, 1))
        )
        made = {}
        head = icon.candidates if first is None else first
        for number, (begin, end, stop) in enumerate(self.planner.slices(size, head=head)):
            tokens = sizes.pairs((end - begin) * share, rows) if rows and share else 0.0
            label = f"{part}-{number:04d}"
            made[label] = self.step(target, f"icon-{label}", IconShard(pairs, begin, stop), inputs, tokens)
        return made

    def full(self) -> Step:
        """All pairs."""
        rows = self.sizes.rows
        parts = self.shards("shard", "shard", rows)
        if self.icon.control in (Control.per_candidate, Control.per_pair):
            each = (
                rows if self.icon.control is Control.per_candidate else rows * (1 + self.sizes.context / self.sizes.row)
            )
            parts |= self.shards("control", "control", each, kept=("control", "noise_unit", "seed"))
        return self.step(
            "scores", self.name, _only(self.icon, "control", "empty_pairs", "epsilon"), {**self.inputs, **parts}
        )

    def adaptive(self, fractions: Sequence[float]) -> Step:
        """Rounds, each of which waits for the one before."""
        icon, sizes = self.icon, self.sizes
        rounds = len(round_ends(sizes.rows, icon.adaptive))
        job = IconRound(
            _only(icon, "control", "empty_pairs", "epsilon", "budget", "adaptive"),
            self.scored,
            sorted(fractions),
            rounds,
        )
        # the first round needs neither the fractions nor the error
        order = AdaptiveConfig(seed=icon.adaptive.seed)
        paced = replace(order, first_rows=icon.adaptive.first_rows, growth=icon.adaptive.growth)
        begun = IconRound(replace(_only(icon, "budget"), adaptive=paced), self.scored, [], rounds)
        begin = self.step("start", "icon-start", begun, {"order": self.order, "assessment": self.data["assessment"]})
        known = {"start": begin, **self._read()}
        ends = round_ends(sizes.rows, icon.adaptive, rounds)
        for number in range(rounds):
            part = f"round{number:02d}"
            sequence = self.step("round", f"icon-{part}", job, known) if number else begin
            width = ends[number] - (ends[number - 1] if number else 0)
            active = max(_LEAST_ACTIVE, _STILL_ACTIVE**number)
            known |= self.shards(part, "shard", width, share=active, sequence=sequence)
        return self.step("adaptive", self.name, job, {**known, **self._checked()})

    def auto(self, fractions: Sequence[float]) -> Step:
        """Few rows of its own for each candidate, in rounds."""
        icon, sizes = self.icon, self.sizes
        ends = round_ends(self.rows_in_use(), icon.auto)
        begin = self.step("few_start", "icon-start", self._order_job("rows"), {"order": self.order, "rows": self.few})
        features = self.step(
            "features",
            "icon-features",
            Features(ProbeConfig(depths=icon.auto.depths), SelectorConfig().pool_max_length, self.scored),
            {"model": self.data["model"], "order": self.order},
            sizes.candidates * min(sizes.context, SelectorConfig().pool_max_length),
        )
        known = {"rows": self.few, "start": begin, "features": features, **self._read()}
        job = self._few_job(fractions, _FEW, len(ends))
        for number, end in enumerate(ends):
            part = f"round{number:02d}"
            sequence = self.step("few_round", f"icon-{part}", job, known) if number else begin
            width = end - (ends[number - 1] if number else 0)
            known |= self.shards(part, "own", width, share=_NEAR_A_CUT if number else 1.0, sequence=sequence)
        return self.step("few_scores", self.name, job, {**known, **self._checked()})

    def pooled(self, fractions: Sequence[float], saved: TuningSaved) -> Step:
        """Before a selection model: a pilot meets all rows in use and chooses those that the others meet."""
        icon = self.icon
        read = {"order": self.order, "rows": self.few}
        block = self.step("pool_pilot", "icon-pilot", self._order_job("rows", "pilot_candidates"), read)
        first = self.shards("pilot", "own", self.rows_in_use(), first=icon.auto.pilot_candidates, sequence=block)
        job = self._few_job(fractions, _POOL, 1)
        job = replace(job, saved=saved, icon=replace(job.icon, selector=icon.selector))
        inputs = {**read, **self._read(), **self._checked(), **first}
        begin = self.step("pool_start", "icon-start", replace(job, fractions=[]), inputs)
        self.learned = self._affordable(saved)
        share = max(0.0, self.learned - icon.auto.pilot_candidates) / self.sizes.candidates
        known = {"rows": self.few, "start": begin, **self._read(), **self._checked(), **first}
        known |= self.shards("round00", "own", icon.auto.first_rows, share=share, sequence=begin)
        return self.step("pool_scores", self.name, job, known)

    def _few_job(self, fractions: Sequence[float], used: Sequence[str], rounds: int) -> IconRound:
        """What the rounds of budget auto know, with the options ``used`` of AutoConfig."""
        chosen = replace(
            _only(self.icon, "control", "empty_pairs", "epsilon", "budget"),
            adaptive=AdaptiveConfig(seed=self.icon.adaptive.seed, error=self.icon.adaptive.error),
            auto=replace(AutoConfig(), **{name: getattr(self.icon.auto, name) for name in used}),
        )
        return IconRound(chosen, self.scored, sorted(fractions), rounds)

    def _order_job(self, *used: str) -> IconRound:
        """What the choice of the rows in use and of the first pairs needs to know, with these options of AutoConfig."""
        named = (*used, *(() if self.icon.selector else ("first_rows",)))
        auto = replace(AutoConfig(), **{name: getattr(self.icon.auto, name) for name in named})
        order = AdaptiveConfig(seed=self.icon.adaptive.seed)
        return IconRound(replace(_only(self.icon), adaptive=order, auto=auto), self.scored, [], 0)

    def rows_in_use(self) -> int:
        """Assessment rows that the plan expects to be in use: all, or those of budget auto."""
        if self.icon.budget is not Budget.auto:
            return self.sizes.rows
        return rows_in_use(self.sizes.rows, self.sizes.candidates, self.icon.auto)

    def _checked(self) -> dict[str, Step]:
        return {"dtype": self.inputs["dtype"]} if "dtype" in self.inputs else {}

    def _read(self) -> dict[str, Step]:
        return {key: step for key, step in self.inputs.items() if key in ("baseline", "bank")}

    def _affordable(self, saved: TuningSaved) -> float:
        """Candidates that the plan expects ``budget=auto`` to choose; as ``auto`` does from what it measured."""
        icon, sizes, rows = self.icon, self.sizes, self.rows_in_use()
        selector = icon.selector
        assert selector is not None
        whole = self.planner.expected(self.planner.whole)
        tuned = whole * min(sizes.selected_from, saved.max_length) * saved.epochs * (1 - saved.fraction)
        tuned *= FROZEN_TRAINING if saved.frozen else FULL_TRAINING
        spent = whole * min(sizes.selected_from, selector.pool_max_length) * selector.repeats
        spent += rows * sizes.row + sizes.pairs(_BANK_LENGTHS * icon.bank.draws, rows)
        spent += self.inputs["dtype"].cost.tokens if "dtype" in self.inputs else 0
        learned = sizes.context * selector.learning_passes
        each = sizes.pairs(1, icon.auto.first_rows) + learned
        pilot = min(icon.auto.pilot_candidates, sizes.candidates)
        spent += sizes.pairs(pilot, rows) + pilot * learned + sizes.pairs(selector.near, icon.auto.first_rows)
        most = pilot + (icon.auto.cost_ratio * tuned - spent) / each
        return min(sizes.candidates, max(most, icon.auto.least_candidates, pilot))

    def selected_by(self, scores: Step, fractions: Sequence[float]) -> dict[float, Step]:
        """The selection model: one for all fractions, or, with a binary target, one for each."""
        selector = self.icon.selector
        assert selector is not None
        if selector.target is SelectorTarget.rank:
            made = self._selector(scores, sorted(selector.tested_fractions), "", fractions)
            return dict.fromkeys(fractions, made)
        return {fraction: self._selector(scores, [fraction], f"f{fraction:g}-", []) for fraction in fractions}

    def _selector(self, scores: Step, fractions: list[float], label: str, cuts: Sequence[float]) -> Step:
        selector = self.icon.selector
        assert selector is not None
        sizes, planner = self.sizes, self.planner
        parameters = planner.config.model.parameters
        if selector.kind is SelectorKind.probe:
            return self._probe(selector, scores, fractions, label, cuts)
        learned = self.learned * (1 - selector.held_out) * min(sizes.context, selector.max_length) * selector.epochs
        parts: dict[str, Step] = {}
        for repeat in range(selector.repeats):
            seed = selector.seed + repeat
            trained = self.step(
                "selector",
                f"{self.name}-{label}selector-s{seed}",
                SelectorJob(replace(selector, repeats=1, seed=0, shard_rows=1), fractions, seed),
                {"model": self.data["model"], "order": self.order, "scores": scores},
                cost=Cost(learned, training_flops(parameters, learned, frozen=True)),
                resumable=True,
            )
            for number, (first, end, stop) in enumerate(planner.slices(selector.shard_rows, whole=planner.whole)):
                part = f"pool-s{repeat}-{number:04d}"
                parts[part] = self.step(
                    "selector_pool",
                    f"{self.name}-{label}{part}",
                    SelectorShard(replace(selector, repeats=1, seed=0, shard_rows=1), first, stop),
                    {"model": self.data["model"], "selector": trained, "order": self.selected_from},
                    (end - first) * min(sizes.selected_from, selector.pool_max_length),
                )
        job = SelectorScores(fractions, selector.repeats)
        return self.step("selector_scores", f"{self.name}-{label}pool", job, {"scores": scores, **parts})

    def _probe(
        self, selector: SelectorConfig, scores: Step, fractions: list[float], label: str, cuts: Sequence[float]
    ) -> Step:
        """One model for all ``cuts``, the fractions that are selected; ``fractions`` are those that it is tested on."""
        sizes, used = self.sizes, ("kind", "probe", "target", "held_out", "pool_max_length")
        read = replace(SelectorConfig(), **{name: getattr(selector, name) for name in used})
        inputs = {"model": self.data["model"], "order": self.order, "scores": scores}
        tokens = self.learned * min(sizes.context, selector.pool_max_length)
        fitted = self.step("probe", f"{self.name}-{label}probe", SelectorJob(read, fractions, 0), inputs, tokens)
        parts: dict[str, Step] = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(selector.shard_rows, whole=self.planner.whole)):
            part = f"pool-s0-{number:04d}"
            parts[part] = self.step(
                "probe_pool",
                f"{self.name}-{label}{part}",
                SelectorShard(replace(read, held_out=SelectorConfig().held_out), first, stop),
                {"model": self.data["model"], "selector": fitted, "order": self.selected_from},
                (end - first) * min(sizes.selected_from, selector.pool_max_length),
            )
        known, job = {"scores": scores, **parts}, NearRows(_only(self.icon), 0, [])
        if selector.near:
            job = NearRows(_only(self.icon, "control", "empty_pairs", "epsilon"), selector.near, sorted(cuts))
            chosen = self.step("probe_near", f"{self.name}-near", job, known)
            known |= {"near": chosen, **self._read(), **self._near(selector, chosen)}
        return self.step("probe_scores", f"{self.name}-{label}pool", job, known)

    def _near(self, selector: SelectorConfig, chosen: Step) -> dict[str, Step]:
        """Shards of the pool's rows near a cut."""
        pairs, planner = _only(self.icon, *_LAYOUT, "shard_candidates"), self.planner
        inputs = {**self.data, "order": self.selected_from, **self.check, "sequence": chosen}
        slices = list(planner.slices(selector.shard_rows, whole=planner.whole))
        tokens = self.sizes.pairs(selector.near, self.icon.auto.first_rows) / len(slices)
        labels = [f"near-{number:04d}" for number in range(len(slices))]
        return {
            label: self.step("own", f"{self.name}-{label}", IconShard(pairs, first, stop), inputs, tokens)
            for label, (first, _, stop) in zip(labels, slices, strict=True)
        }


def plan(build: Build, name: str, icon: IconConfig) -> Step | dict[float, Step]:
    """The step with the scores, or for each fraction the one that it is selected by."""
    training, among = build.training, None if build.whole else build.planner.bound()
    frozen = training.tuning is Tuning.lora
    saved = TuningSaved(training.epochs, training.max_length, frozen, max(build.common), among)
    made = _Icon(build, name, icon)
    made.common()
    if icon.budget is Budget.full:
        scores = made.full()
    elif icon.budget is Budget.adaptive:
        scores = made.adaptive(build.common)
    else:
        scores = made.auto(build.common) if icon.selector is None else made.pooled(build.common, saved)
    return scores if icon.selector is None else made.selected_by(scores, build.fractions)
