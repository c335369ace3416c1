"""Read stored shards as contributions: joined by id, with the control that the method asks for.

In: folders of baseline, bank and shards.  Out: contributions of some candidates to some assessment rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.engine.records import read_json
from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.options import Control, EmptyPair, IconConfig


class IconScoreError(ValueError):
    """Shards and baseline don't belong together, or a pair isn't finite."""


def task_scores(
    candidate: NDArray[np.floating[Any]],
    control: NDArray[np.floating[Any]],
    baseline: NDArray[np.floating[Any]],
    epsilon: float,
) -> NDArray[np.float64]:
    """Contribution of each candidate to each assessment row: the paper's task score.

    Args:
        candidate, control: (c, n) mean NLL after the candidate and after its control, nats per token.
        baseline: (n,) mean NLL without context.

    Returns:
        (c, n) float64; positive where the candidate lowers the perplexity more than its control does.
    """
    with_control, with_candidate = np.exp(np.asarray(control, np.float64)), np.exp(np.asarray(candidate, np.float64))
    return np.asarray((with_control - with_candidate) / (np.exp(np.asarray(baseline, np.float64)) + epsilon))


@dataclass(frozen=True)
class Block:
    """Some candidates against some assessment rows."""

    candidates: list[str]
    columns: NDArray[np.int64]  # positions of the rows in the baseline
    task: NDArray[np.float64]  # (c, columns) contributions


class Matrices:
    """Reads shards of one method against its baseline."""

    def __init__(self, cfg: IconConfig, inputs: Mapping[str, Path]) -> None:
        self.cfg = cfg
        self.zero_shot = np.load(inputs["baseline"] / "nll.npy", allow_pickle=False)
        self.assessment: list[str] = read_json(inputs["baseline"] / "ids.json")["assessment"]
        self._column = {identifier: i for i, identifier in enumerate(self.assessment)}
        if cfg.control is Control.bank:
            described = read_json(inputs["bank"] / "bank.json")
            self._lengths, self._contexts = described["lengths"], described["contexts"]
            self._bank = np.load(inputs["bank"] / "bank.npy", allow_pickle=False)
            if read_json(inputs["bank"] / "ids.json")["assessment"] != self.assessment:
                raise IconScoreError(f"{inputs['bank']}: its assessment rows differ from the baseline's; delete it.")
            if (self._bank.shape[0], *self._bank.shape[2:]) != (len(self._lengths), len(self.assessment)):
                raise IconScoreError(
                    f"{inputs['bank']}: {self._bank.shape} values for {len(self._lengths)} lengths and "
                    f"{len(self.assessment)} assessment rows; delete it."
                )

    def block(self, shard: Path, control: Path | None = None) -> Block:
        """One shard; ``control`` is the shard of the same pairs' random contexts, for the controls that have one.

        Raises:
            IconScoreError: unknown ids, or a pair that isn't finite; names the pair.
        """
        ids = read_json(shard / "ids.json")
        if unknown := [i for i in ids["assessment"] if i not in self._column]:
            raise IconScoreError(
                f"{shard}: {len(unknown)} assessment rows aren't the baseline's (first: {unknown[0]!r}); delete it and "
                "run again."
            )
        columns = np.array([self._column[i] for i in ids["assessment"]], dtype=np.int64)
        candidate = np.load(shard / "candidate.npy", allow_pickle=False)
        if candidate.shape != (len(ids["candidates"]), len(columns)):
            raise IconScoreError(
                f"{shard}: {candidate.shape} values for {len(ids['candidates'])} x {len(columns)} ids."
            )
        after_control = self._control(ids["candidates"], columns, candidate, control)
        task = task_scores(candidate, after_control, self.zero_shot[columns], self.cfg.epsilon)
        bad = np.isinf(task) if self.cfg.empty_pairs is EmptyPair.nan else ~np.isfinite(task)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise IconScoreError(
                f"{shard}: the pair of candidate {ids['candidates'][row]} and assessment row "
                f"{ids['assessment'][column]} isn't finite; it is never averaged in. Score in float32 or bfloat16."
            )
        return Block(ids["candidates"], columns, task)

    def _control(
        self,
        candidates: Sequence[str],
        columns: NDArray[np.int64],
        candidate: NDArray[Any],
        control: Path | None,
    ) -> NDArray[Any]:
        if self.cfg.control is Control.none:
            return np.broadcast_to(self.zero_shot[columns], candidate.shape)
        if self.cfg.control is Control.bank:
            if unknown := [i for i in candidates if i not in self._contexts]:
                raise IconScoreError(f"candidate {unknown[0]!r} isn't one that the bank was made for.")
            wanted = [max(1, self._contexts[i]) for i in candidates]
            if not wanted:
                return np.empty((0, len(columns)))
            return bank_control(self._bank[:, :, columns], self._lengths, wanted)
        assert control is not None
        ids = read_json(control / "ids.json")
        if ids["candidates"] != list(candidates) or ids["assessment"] != [self.assessment[i] for i in columns]:
            raise IconScoreError(f"{control}: its ids differ from the candidates' shard; delete both and run again.")
        values = np.load(control / "control.npy", allow_pickle=False)
        if values.shape != candidate.shape:
            raise IconScoreError(f"{control}: {values.shape} values for {len(candidates)} x {len(columns)} ids.")
        return np.asarray(values)

    def blocks(self, inputs: Mapping[str, Path], prefix: str) -> Iterator[Block]:
        """The shards named ``<prefix>-NNNN`` in their order, one after the other."""
        for name in sorted(name for name in inputs if name.startswith(f"{prefix}-")):
            yield self.block(inputs[name], inputs.get(f"control-{name.rpartition('-')[2]}"))

    def own(self, shard: Path) -> dict[str, tuple[list[str], NDArray[np.float64]]]:
        """By candidate the rows of its own in one shard, and its contributions to them; of budget auto.

        Raises:
            IconScoreError: as ``block``.
        """
        ids = read_json(shard / "ids.json")
        values = np.load(shard / "candidate.npy", allow_pickle=False)
        if values.shape != (sum(map(len, ids["assessment"])),):
            raise IconScoreError(
                f"{shard}: {values.shape} values for {sum(map(len, ids['assessment']))} pairs; delete it."
            )
        if "contexts" in ids:  # rows of the pool that the bank's lengths weren't chosen for are there, too
            self._contexts = {**self._contexts, **dict(zip(ids["candidates"], ids["contexts"], strict=True))}
        by_candidate, first = dict[str, tuple[list[str], NDArray[np.float64]]](), 0
        for candidate, rows in zip(ids["candidates"], ids["assessment"], strict=True):
            if unknown := [i for i in rows if i not in self._column]:
                raise IconScoreError(
                    f"{shard}: row {unknown[0]!r} isn't one of the baseline's; delete it and run again."
                )
            columns = np.array([self._column[i] for i in rows], dtype=np.int64)
            nll = values[None, first : first + len(rows)]
            first += len(rows)
            control = self._control([candidate], columns, nll, None)
            task = task_scores(nll, control, self.zero_shot[columns], self.cfg.epsilon)[0]
            if not np.isfinite(task).all():
                bad = rows[int(np.argmin(np.isfinite(task)))]
                raise IconScoreError(
                    f"{shard}: the pair of candidate {candidate} and assessment row {bad} isn't finite; it is never "
                    "averaged in. Score in float32 or bfloat16."
                )
            by_candidate[candidate] = rows, task
        return by_candidate

    def joined(self, inputs: Mapping[str, Path], prefix: str) -> Block:
        """The shards named ``<prefix>-NNNN`` as one block."""
        parts = [part for part in self.blocks(inputs, prefix) if part.candidates]
        if not parts:
            return Block([], np.empty(0, np.int64), np.empty((0, 0)))
        if any(not np.array_equal(part.columns, parts[0].columns) for part in parts):
            raise IconScoreError(f"the shards {prefix!r} have different assessment rows; delete them and run again.")
        return Block(
            [i for part in parts for i in part.candidates],
            parts[0].columns,
            np.concatenate([part.task for part in parts]),
        )
