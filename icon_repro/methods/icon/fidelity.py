"""Choose the dtype to score in: the fastest whose scores differ from float32's by less than they are uncertain anyway.

In: model, order, assessment.  Out: dtype.json: the dtype chosen, and of each dtype tried its speed and how far it is
from float32 on a sample of pairs.
Single NLLs in bfloat16 move by up to 0.1, but a score is a mean over rows. Of the differences of contributions, the
part that is a candidate's own stays, the part of single pairs averages out; both are estimated as variance components,
and their sum at the number of rows in use is compared with the standard error of a score at that number.
With ``auto`` speed is measured in turns, one dtype after the other and again, so that a busy moment meets all of them,
and the best of each counts; all turns are recorded.
int8 (on CPUs) and float8 (on GPUs that have it) round the linear layers' inputs and weights; no dtype is assumed to
be fast or near enough.
Known gap: turns are few and short.
"""

import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icon_repro.data.cost import forward_flops
from icon_repro.data.rows import Example
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import pick_device
from icon_repro.lm.low_precision import Low, LowPrecisionError, unsupported
from icon_repro.lm.nll import NonFiniteError
from icon_repro.methods.agreement import components, spearman
from icon_repro.methods.icon.adaptive import row_sequence
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.methods.icon.options import (
    Budget,
    Control,
    FidelityConfig,
    IconConfig,
    IconShard,
    ScoreDtype,
    resolved,
    rows_in_use,
)
from icon_repro.methods.icon.pairs import Engine, make_engine

_FASTER = 1.1  # than float32, to be worth a look
_TURNS = 3  # of each dtype
_TIMED_ROWS = 16  # in a turn, after one candidate


def run(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write dtype.json. Needs inputs model, order, assessment."""
    icon = resolved(cfg.icon)
    candidates = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop][: icon.fidelity.candidates]
    assessment = {row.id: row for row in read_rows(inputs["assessment"] / "rows.jsonl", Example)}
    sequence = row_sequence(list(assessment), [row.group for row in assessment.values()], 0)
    rows = [assessment[i] for i in sequence[: icon.fidelity.rows]]
    tried = 1 + len(others_of(icon.dtype, pick_device(runtime.cluster.device)))
    with runtime.progress(2 * tried * len(candidates) * len(rows), "pair") as progress:
        trials = Trials(icon, candidates, rows, inputs, runtime, progress)
        choice = trials.chosen(_most_rows(icon, len(assessment), inputs["order"], cfg.stop))
    write_json(out / "dtype.json", choice)
    flops = forward_flops(trials.parameters, progress.tokens)
    return {"dtype": choice["dtype"], "tokens": progress.tokens, "flops": flops}


def _most_rows(icon: IconConfig, assessment: int, order: Path, stop: int | None) -> int:
    """Assessment rows that a candidate can meet: all, or those of budget auto."""
    if icon.budget is not Budget.auto:
        return assessment
    return rows_in_use(assessment, len(read_rows(order / "rows.jsonl", Example)[:stop]), icon.auto)


class Trials:
    """A sample of pairs that is scored in several dtypes."""

    def __init__(
        self,
        icon: IconConfig,
        candidates: list[Example],
        rows: list[Example],
        inputs: Mapping[str, Path],
        runtime: Runtime,
        progress: Progress,
    ) -> None:
        # the control of the check is a text of the candidate's own, whatever the method uses
        self.icon = replace(icon, control=Control.none if icon.control is Control.none else Control.per_candidate)
        self.candidates, self.rows = candidates, rows
        self.inputs, self.runtime, self.progress = inputs, runtime, progress
        self.parameters = 0

    def chosen(self, rows_in_use: int) -> dict[str, Any]:
        """Score the sample in float32 and in the dtype asked for, or in those that ``auto`` may choose.

        With ``auto``, a dtype whose best turn isn't faster than float32's isn't looked at further.

        Returns:
            ``dtype`` chosen; ``tried``: by dtype its speed in tokens a second, with ``auto`` the best of its ``turns``;
            whether it ``passes``, and ``compared``.
        """
        automatic = self.icon.dtype is ScoreDtype.auto
        others = others_of(self.icon.dtype, pick_device(self.runtime.cluster.device))
        tried: dict[str, dict[str, Any]] = {"float32": {"passes": True}}
        measured = self.in_turns([ScoreDtype.float32, *others]) if automatic else {}
        if automatic:
            tried["float32"] |= measured[ScoreDtype.float32]
            least = _FASTER * tried["float32"].get("tokens_per_s", 0.0)  # 0: scoring will say what isn't finite
            for dtype in list(others):
                if measured[dtype].get("tokens_per_s", math.inf) < least:
                    tried[dtype.value] = {"passes": False, **measured[dtype], "why": "not faster than float32"}
                    others.remove(dtype)
        exact = None
        for dtype in others:
            if exact is None:
                exact, speed = self.scored(ScoreDtype.float32)
                tried["float32"].setdefault("tokens_per_s", speed)
            try:
                contributions, speed = self.scored(dtype)
            except (NonFiniteError, LowPrecisionError) as error:
                if isinstance(error, LowPrecisionError) and not automatic:
                    raise
                tried[dtype.value] = {"passes": False, "why": str(error)}
                continue
            tried[dtype.value] = {
                "tokens_per_s": speed,
                **measured.get(dtype, {}),
                **compared(exact, contributions, rows_in_use, self.icon.fidelity),
            }
        passing = {name: values["tokens_per_s"] for name, values in tried.items() if values["passes"]}
        return {
            "dtype": max(passing, key=lambda name: passing[name]) if automatic else self.icon.dtype.value,
            "candidates": len(self.candidates),
            "rows": len(self.rows),
            "rows_in_use": rows_in_use,
            "tried": tried,
        }

    def scored(self, dtype: ScoreDtype) -> tuple[NDArray[np.float64], float]:
        """Contributions (c, n) in ``dtype``, and tokens a second."""
        engine = self._engine(dtype)
        laid = [(row.id, engine.layout.row(row)) for row in self.rows]
        laid = [(i, row) for i, row in laid if row.after_context is not None and row.alone is not None]
        ids, rows = [i for i, _ in laid], [row for _, row in laid]
        alone = engine.mean_nll([], [row.alone for row in rows])
        before, started = self.progress.tokens, time.monotonic()
        after = np.array([engine.candidate(row, rows, self.progress) for row in self.candidates])
        if self.icon.control is Control.none:
            control = np.broadcast_to(alone, after.shape)
        else:
            control = np.array([engine.control(row, rows, ids, self.progress) for row in self.candidates])
        speed = (self.progress.tokens - before) / max(time.monotonic() - started, 1e-9)
        _release(engine)
        return task_scores(after, control, alone, self.icon.epsilon), speed

    def in_turns(self, dtypes: Sequence[ScoreDtype]) -> dict[ScoreDtype, dict[str, Any]]:
        """By dtype ``turns``, tokens a second of each, and the best, ``tokens_per_s``; empty if a pair isn't finite."""
        turns: dict[ScoreDtype, list[float]] = {dtype: [] for dtype in dtypes}
        for _ in range(_TURNS):
            for dtype, found in turns.items():
                if all(map(math.isfinite, found)):
                    found.append(self.speed(dtype))
        return {
            dtype: {"tokens_per_s": max(found), "turns": found} if all(map(math.isfinite, found)) else {}
            for dtype, found in turns.items()
        }

    def speed(self, dtype: ScoreDtype) -> float:
        """Tokens a second of one candidate's pairs, after a warm-up on a few; infinite if they can't be scored."""
        try:
            engine = self._engine(dtype)
        except LowPrecisionError:
            return math.inf  # as below
        rows = [row for row in map(engine.layout.row, self.rows) if row.after_context is not None][:_TIMED_ROWS]
        before = self.progress.tokens
        try:
            engine.candidate(self.candidates[0], rows[:2])
            started = time.monotonic()
            engine.candidate(self.candidates[0], rows, self.progress)
        except NonFiniteError:
            return math.inf  # ``scored`` then says which
        finally:
            _release(engine)
        return (self.progress.tokens - before) / max(time.monotonic() - started, 1e-9)

    def _engine(self, dtype: ScoreDtype) -> Engine:
        engine = make_engine(self.icon, self.inputs, self.runtime, dtype)
        self.parameters = engine.parameters
        return engine


def compared(
    exact: NDArray[np.float64], found: NDArray[np.float64], rows_in_use: int, cfg: FidelityConfig
) -> dict[str, Any]:
    """How far contributions (c, n) in some dtype are from float32's, as scores over ``rows_in_use`` rows.

    Returns:
        ``rms`` of the scores' differences, common shift removed, and ``standard_error`` of a score, both at
        ``rows_in_use`` rows; whether their ratio ``passes``; ``spearman`` and the ``largest`` difference in the sample.
    """
    bias, noise = components(found - exact)
    rms = float(np.sqrt(bias + noise / rows_in_use))
    error = float(np.sqrt(components(exact)[1] / rows_in_use))
    shift = (found - exact).mean(axis=1)
    rank = spearman(exact.mean(axis=1), found.mean(axis=1))
    return {
        "rms": rms,
        "standard_error": error,
        "passes": rms <= cfg.max_rms * error,
        "spearman": rank if np.isfinite(rank) else None,
        "largest": float(np.abs(shift - shift.mean()).max()),
    }


def others_of(dtype: ScoreDtype, device: torch.device) -> list[ScoreDtype]:
    """What is compared with float32: the dtype asked for, or with ``auto`` those that the device can do."""
    if dtype is not ScoreDtype.auto:
        return [dtype]
    others = [ScoreDtype.bfloat16, *([ScoreDtype.float16] if device.type == "cuda" else [])]
    return others + [ScoreDtype(low.value) for low in Low if unsupported(low, device) is None]


def _release(engine: Engine) -> None:
    """Give the model's memory back before the next one is loaded."""
    del engine.model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
