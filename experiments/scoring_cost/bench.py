"""What scoring costs at each level, as a ratio to the released scripts' loop.

Run: ``python experiments/scoring_cost/bench.py`` in a checkout.
In: the experiment ``scoring_cost`` (5,000 candidates x 1,020 assessment rows), the pilot's matrix.  Out: a table; as
the last line one JSON object with the speed-ups.
In one process, with the same model and rows, each level scores the same sample of pairs: a few candidates against
assessment rows at equal steps of length, so that their mean length is that of all. The whole job's time is the
sample's, scaled: pairs by their number, a context that is shared by all rows by the number of candidates.

    loop        one pair a forward pass, two contexts, a new random text for each pair of as many characters as the
                candidate has, LM head at every position: as the released scripts do it
    L1          the same pairs in batches, LM head where an answer token is predicted: equal NLLs
    L2b         paper's control, one random text a candidate of as many tokens, both prefixes computed once
    L3          candidate contexts as L2b, control from a bank of random texts that all candidates share
    L4          L3 with the share of pairs that adaptive scoring needs on the pilot's matrix
    L5          L3 with the pairs that budget=auto needs there, few rows in use and one pass of a probe

L3 is given in float32 and in the dtypes that the fidelity check chooses, for all rows (the default of L3 and L4) and
for the rows that L5 has in use; the check's own cost is counted. Levels are timed in turns, and the best turn of each
counts: a busy moment meets all of them.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.pilot.pilot import load as load_pilot
from experiments.pilot.pilot_findings import tasks_of
from experiments.scoring_cost.rebuild import table
from icon_repro.config.compose import composed
from icon_repro.config.load import Config
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Store, ordered
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.lm.nll import answer_nll, make_prefix
from icon_repro.lm.tokens import Encoded, mask_labels, pack
from icon_repro.methods.icon import adaptive, few
from icon_repro.methods.icon.control import bank_lengths, noise_ids
from icon_repro.methods.icon.fidelity import Trials
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import Compat, Control, IconConfig, ScoreDtype, resolved, round_ends, rows_in_use
from icon_repro.methods.icon.pairs import Engine, candidate_text, make_engine

_EQUAL = 1e-5  # nats per token, between levels that must agree
_REPLAYS = 20


class BenchError(ValueError):
    """Two levels that must agree don't, or the pilot's matrix isn't there."""


@dataclass
class Level:
    """Measured seconds of a level on the sample, and the whole job's."""

    name: str
    what: str
    pairs: int  # contexts x rows in the sample
    tokens: int  # through the model
    sample_s: float
    job_s: float
    contexts_s: float = 0.0  # of job_s: contexts that rows share, once a candidate


@dataclass
class Sample:
    """What is timed: some candidates against the rows of some of the batches that the whole job makes."""

    candidates: list[Example]
    rows: list[Example]
    pool: list[Example]  # all candidates of the job
    batch_share: float  # batches of the sample over all

    @property
    def factor(self) -> float:
        """Pairs of the job over those of the sample."""
        return len(self.pool) / len(self.candidates) / self.batch_share

    @property
    def contexts(self) -> float:
        """Candidates of the job over those of the sample."""
        return len(self.pool) / len(self.candidates)


class _Counter(Progress):
    """Counts tokens without saying so: the levels speak for themselves."""

    def advance(self, units: int = 1, tokens: int = 0) -> None:
        self.done += units
        self.tokens += tokens


def prepared(overrides: Sequence[str]) -> tuple[Config, dict[str, Path], Runtime]:
    """The experiment's config and the folders of its model, order and assessment, made if they aren't there."""
    config = composed("scoring_cost", overrides)
    store, cache = Store(Path(config.paths.work)), Path(config.paths.cache)
    shard = next(step for step in plan(config).steps if step.label == "score/icon-shard-0000")
    needed = {name: shard.inputs[name] for name in ("model", "order", "assessment")}
    summary = run(ordered(needed.values()), store, config.cluster, cache, print)
    if summary.failed:
        raise BenchError(f"could not prepare: {summary.failed}")
    inputs = {name: store.path(step) for name, step in needed.items()}
    return config, inputs, Runtime(config.cluster, cache, "bench", terminal=None)


def draw(config: Config, inputs: dict[str, Path], engine: Engine, candidates: int, batches: int) -> Sample:
    """Candidates in the middle of equal steps of length; the rows of batches at equal steps of the packing plan."""
    pool = read_rows(inputs["order"] / "rows.jsonl", Example)[: config.data.candidates.size]
    assessment = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    by_length = sorted(pool, key=lambda row: (len(candidate_text(row)), row.id))
    lengths = [len(row.ids) + 1 if (row := engine.layout.row(x).after_context) else 0 for x in assessment]
    plan_of_all = pack(lengths, engine.budget.tokens)
    batches = min(batches, len(plan_of_all))
    taken = [plan_of_all[int((k + 0.5) * len(plan_of_all) / batches)] for k in range(batches)]
    return Sample(
        [by_length[int((k + 0.5) * len(by_length) / candidates)] for k in range(candidates)],
        [assessment[i] for batch in taken for i in batch],
        pool,
        batches / len(plan_of_all),
    )


def loop(engine: Engine, picked: Sample) -> tuple[Level, NDArray[np.float64]]:
    """One pair a forward pass, as the released scripts: (2, candidates, rows) NLLs after candidate and control."""
    model, layout = engine.model, engine.layout
    rows = [layout.row(row) for row in picked.rows]
    found = np.full((2, len(picked.candidates), len(rows)), np.nan)
    separator, tokens = layout.separator(), 0
    start = time.perf_counter()
    for c, candidate in enumerate(picked.candidates):
        own = layout.context(candidate_text(candidate))[0]
        for r, (row, example) in enumerate(zip(rows, picked.rows, strict=True)):
            if row.after_context is None:
                continue
            noise = engine.random_context(candidate, f"{candidate.id}:{example.id}")
            for place, context in enumerate((own, noise)):
                ids = context + separator + row.after_context.ids
                labels = mask_labels(ids, len(ids) - row.after_context.answer_tokens)
                batch = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}
                with torch.inference_mode():
                    output = model(**{k: v.to(model.device) for k, v in batch.items()}, use_cache=False)
                found[place, c, r] = float(output.loss)
                tokens += len(ids)
    seconds = time.perf_counter() - start
    return Level("loop", "batch 1, as released", found.size, tokens, seconds, seconds * picked.factor), found


def engine_level(
    engine: Engine, picked: Sample, name: str, what: str, *, control: bool
) -> tuple[Level, NDArray[np.float64]]:
    """Candidates, and their random contexts if ``control``, through the engine: (1 or 2, candidates, rows) NLLs.

    A context that all rows share is run once, in the job as in the sample: its time grows with candidates only.
    """
    rows, ids = [engine.layout.row(row) for row in picked.rows], [row.id for row in picked.rows]
    progress = _Counter("bench", sys.maxsize, "pair", None)
    start = time.perf_counter()
    found = [[engine.candidate(x, rows, progress) for x in picked.candidates]]
    if control:
        found.append([engine.control(x, rows, ids, progress) for x in picked.candidates])
    seconds = time.perf_counter() - start
    shared = prefix_seconds(engine, picked, control=control)
    job = (seconds - shared) * picked.factor + shared * picked.contexts
    values = np.array(found)
    return Level(name, what, values.size, progress.tokens, seconds, job, shared * picked.contexts), values


def prefix_seconds(engine: Engine, picked: Sample, *, control: bool) -> float:
    """Time of the contexts that the rows share."""
    separator, start = engine.layout.separator(), time.perf_counter()
    for row in picked.candidates:
        make_prefix(engine.model, engine.layout.context(candidate_text(row))[0] + separator)
        if control and engine.cfg.control is Control.per_candidate:
            make_prefix(engine.model, engine.random_context(row, row.id) + separator)
    return time.perf_counter() - start


def bank_seconds(engine: Engine, picked: Sample, icon: IconConfig, pool_lengths: Sequence[int]) -> tuple[float, int]:
    """Time of the whole job's bank, from its shortest and longest text, and the number of its contexts."""
    rows = [engine.layout.row(row).after_context for row in picked.rows]
    lengths = bank_lengths(icon.bank.lengths, pool_lengths)
    start = time.perf_counter()
    for length in (lengths[0], lengths[-1]):
        noise = noise_ids(engine.layout.tokenizer, length, icon.seed, f"bank:{length}:0")
        engine.mean_nll(engine.layout.bos + noise + engine.layout.separator(), rows)
    contexts = len(lengths) * icon.bank.draws
    return (time.perf_counter() - start) / 2 * contexts / picked.batch_share, contexts


def adaptive_share(folder: Path, icon: IconConfig, fraction: float) -> tuple[float, float, float]:
    """Pairs that adaptive scoring needs on the pilot's matrix over all, the overlap with full scoring, its least."""
    task = tasks_of(load_pilot(folder)).bank
    found = [adaptive.replay(task, [fraction], icon.adaptive, np.random.default_rng(seed)) for seed in range(_REPLAYS)]
    overlaps = [outcome.overlap[fraction] for outcome in found]
    return statistics.fmean(o.pairs for o in found) / task.size, statistics.fmean(overlaps), min(overlaps)


def auto_share(folder: Path, icon: IconConfig, fraction: float, rows: int) -> tuple[float, float, float]:
    """Pairs and rounds a candidate that budget=auto needs on the pilot's matrix with ``rows`` in use; its overlap."""
    task = tasks_of(load_pilot(folder)).bank
    alike = np.load(folder.parent / "price" / "alike.npy", allow_pickle=False).astype(np.float64)
    ends = round_ends(rows, icon.auto)
    found = [
        few.replay(task, alike, [fraction], ends, np.random.default_rng(seed), rows, icon.adaptive.error)
        for seed in range(_REPLAYS)
    ]
    rounds = statistics.fmean(float((np.searchsorted(ends, one.met) + 1).mean()) for one in found)
    pairs = statistics.fmean(one.pairs for one in found) / len(task)
    return pairs, rounds, statistics.fmean(one.overlap[fraction] for one in found)


class Remembered(Trials):
    """Scores the sample once in each dtype, however often it is asked to choose."""

    known: dict[ScoreDtype, tuple[NDArray[np.float64], float]]
    timed: dict[ScoreDtype, dict[str, Any]]

    def scored(self, dtype: ScoreDtype) -> tuple[NDArray[np.float64], float]:
        self.known = getattr(self, "known", {})
        if dtype not in self.known:
            self.known[dtype] = super().scored(dtype)
        return self.known[dtype]

    def in_turns(self, dtypes: Sequence[ScoreDtype]) -> dict[ScoreDtype, dict[str, Any]]:
        self.timed = getattr(self, "timed", {}) or super().in_turns(dtypes)
        return self.timed


def agree(what: str, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest difference of two levels' NLLs.

    Raises:
        BenchError: beyond rounding, or other pairs are missing.
    """
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        raise BenchError(f"{what}: other pairs have no scored token.")
    largest = float(np.nanmax(np.abs(a - b)))
    if largest > _EQUAL:
        raise BenchError(f"{what}: NLLs differ by {largest:.1e}, more than {_EQUAL:.0e} nats per token.")
    return largest


def bench(overrides: Sequence[str], candidates: int, batches: int, pilot: Path, turns: int) -> dict[str, Any]:
    """Time all levels; returns the ratios, and the levels as a list."""
    config, inputs, runtime = prepared(overrides)
    icon = resolved(config.methods["icon"])
    official = resolved(IconConfig(compat=Compat.official, seed=icon.seed))
    own_control = replace(icon, control=Control.per_candidate)
    rows, in_use = config.data.assessment.expected_rows, rows_in_use(1020, 5000, icon.auto)
    share, overlap, least = adaptive_share(pilot, icon, 0.15)  # first: a missing pilot is said before the long work
    pairs, rounds, auto_overlap = auto_share(pilot, icon, 0.15, in_use)
    engine = make_engine(own_control, inputs, runtime, ScoreDtype.float32)
    released = Engine(engine.model, Layout(engine.layout.tokenizer, official), official, engine.budget)
    picked = draw(config, inputs, engine, candidates, batches)
    lengths = [len(engine.layout.context(candidate_text(row))[0]) - len(engine.layout.bos) for row in picked.pool]
    engine.candidate(picked.candidates[0], [engine.layout.row(row) for row in picked.rows[-8:]])  # warm
    start = time.perf_counter()
    progress = _Counter("bench", sys.maxsize, "pair", None)
    middle = sorted(picked.rows, key=lambda row: len(row.instruction) + len(row.response))[
        : max(12, len(picked.rows) // 2)
    ]
    trials = Remembered(own_control, picked.pool[:8], middle, inputs, runtime, progress)
    checked = trials.chosen(rows)
    check_s = time.perf_counter() - start
    few_checked = trials.chosen(min(rows, in_use))
    print(
        f"dtype: {checked['dtype']} for {rows} rows, {few_checked['dtype']} for {in_use}; {check_s:.0f} s", flush=True
    )
    low = {
        name: make_engine(own_control, inputs, runtime, ScoreDtype(name))
        for name in {checked["dtype"], few_checked["dtype"]} - {"float32"}
    }
    levels: dict[str, Level] = {}
    values: dict[str, NDArray[np.float64]] = {}
    banks: dict[str, float] = {}
    contexts = 0

    def note(level: Level, found: NDArray[np.float64]) -> None:
        print(f"{level.name}: {level.sample_s:.1f} s for {level.pairs} pairs, {level.tokens} tokens", flush=True)
        values[level.name] = found
        if level.name not in levels or level.job_s < levels[level.name].job_s:
            levels[level.name] = level

    for _ in range(turns):
        note(*loop(released, picked))
        note(*engine_level(released, picked, "L1", "batched, LM head where needed", control=True))
        what = "one noise text a candidate, prefixes shared"
        note(*engine_level(engine, picked, "L2b", what, control=True))
        for name, scorer in {"float32": engine, **low}.items():
            note(*engine_level(scorer, picked, f"L3_{name}", f"noise bank, {name}", control=False))
            seconds, contexts = bank_seconds(scorer, picked, icon, lengths)
            banks[name] = min(seconds, banks.get(name, seconds))
    single = np.array([[_alone(engine, picked, c, r) for r in (0, -1)] for c in range(candidates)])
    equal = {
        "L1 and loop": agree("L1 and loop", values["L1"], values["loop"]),
        "L2b and single pairs": agree("L2b and single pairs", values["L2b"][0][:, [0, -1]], single),
    }
    agree("L3 and L2b", values["L3_float32"][0], values["L2b"][0])
    chosen, few_chosen = (found["dtype"] for found in (checked, few_checked))
    plain, fast = levels[f"L3_{chosen}"], levels[f"L3_{few_chosen}"]
    once = banks[chosen] + check_s
    auto_s = fast.contexts_s * (rounds + 1) + (fast.job_s - fast.contexts_s) * pairs / rows
    auto_s += banks[few_chosen] * min(1.0, in_use / rows) + check_s
    made = [
        *(replace(one, job_s=one.job_s + banks.get(one.name.removeprefix("L3_"), 0.0)) for one in levels.values()),
        replace(plain, name="L3", what=f"noise bank, default dtype: {chosen}", job_s=plain.job_s + once),
        replace(plain, name="L4", what=f"adaptive: {share:.0%} of the pairs", job_s=plain.job_s * share + once),
        replace(fast, name="L5", what=f"budget=auto: {pairs:.0f} of {in_use} rows, {few_chosen}", job_s=auto_s),
    ]
    slow = made[0]
    return {
        **{level.name: round(slow.job_s / level.job_s, 2) for level in made[1:]},
        "L4_overlap": round(overlap, 4),
        "L4_overlap_least": round(least, 4),
        "L4_share_of_pairs": round(share, 4),
        "L5_overlap": round(auto_overlap, 4),
        "L5_rows_a_candidate": round(pairs, 2),
        "dtype": chosen,
        "dtype_tried": checked["tried"],
        "dtype_for_few_rows": few_chosen,
        "dtype_tried_for_few_rows": few_checked["tried"],
        "largest_difference": equal,
        "job": {"candidates": len(picked.pool), "rows": rows, "bank_contexts": contexts},
        "sample": {
            "candidates": candidates,
            "rows": len(picked.rows),
            "share_of_batches": round(picked.batch_share, 4),
            "turns": turns,
        },
        "levels": [vars(level) for level in made],
    }


def _alone(engine: Engine, picked: Sample, candidate: int, row: int) -> float:
    """NLL of one pair in a pass of its own, without a cache."""
    laid = engine.layout.row(picked.rows[row]).after_context
    assert laid is not None
    before = engine.layout.context(candidate_text(picked.candidates[candidate]))[0] + engine.layout.separator()
    whole = Encoded(before + laid.ids, len(before) + laid.answer_start)
    pad = engine.layout.tokenizer.pad_token_id
    assert isinstance(pad, int)
    sums, counts = answer_nll(engine.model, [whole], pad)
    return float(sums[0] / counts[0])


def main(arguments: list[str] | None = None) -> int:
    """Time the levels and print them."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the experiment scoring_cost, key=value")
    parser.add_argument("--candidates", type=int, default=2, help="in the sample")
    parser.add_argument("--batches", type=int, default=6, help="of assessment rows, in the sample")
    parser.add_argument("--turns", type=int, default=2, help="of all levels, one after the other")
    parser.add_argument("--pilot", type=Path, default=Path("results/pilot"), help="folder of the pilot's matrices")
    parser.add_argument("--out", type=Path, help="folder for bench.json and table.md")
    given = parser.parse_args(arguments)
    try:
        result = bench(given.overrides, given.candidates, given.batches, given.pilot, given.turns)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    text = table(result)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        write_json(given.out / "bench.json", result)
        (given.out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    print(json.dumps({key: value for key, value in result.items() if key != "levels"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
