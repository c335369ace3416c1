"""Score candidates with a few assessment rows that a pilot has chosen, those that rank as all rows do.

In: contributions of the first candidates, the pilot, to all rows in use; of the others to the chosen rows.
Out: the chosen rows; scores on the scale of the mean over all rows, with their error.

Rows differ: in experiments/pilot the ranking by a single row agrees with that by all 256 with a Spearman correlation
from -0.4 to 0.85. The chosen rows are those whose contributions go best with the mean of the others over the pilot's
candidates. A score is a linear function, fitted to the pilot, of a candidate's mean over the chosen rows. Its error is
that of the pilot's candidates when each is left out of the choice and of the fit: the choice flatters itself.
Source: own; choosing items by their correlation with the rest of a test is classical (Nunnally, 1978).
Known gap: one error for all candidates; a probe's prediction as prior was tried and made the ranking of the best worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import selected_count
from icon_repro.methods.icon.few import FewOutcome, FewRowsError, disagreement
from icon_repro.methods.icon.options import LEAST

Matrix = NDArray[np.float64]


def choose(pilot: Matrix, count: int) -> list[int]:
    """Places of the ``count`` rows whose contributions correlate best with the mean of the other rows; best first.

    Args:
        pilot: (b, n) contributions of b candidates to n rows; a row that is the same for all comes last.
    """
    others = (pilot.sum(axis=1, keepdims=True) - pilot) / max(1, pilot.shape[1] - 1)
    one, rest = pilot - pilot.mean(axis=0), others - others.mean(axis=0)
    size = np.sqrt((one**2).sum(axis=0) * (rest**2).sum(axis=0))
    shared = np.divide((one * rest).sum(axis=0), size, out=np.full(len(size), -np.inf), where=size > 0)
    best: list[int] = np.argsort(-shared, kind="stable")[:count].tolist()
    return best


@dataclass(frozen=True)
class Choice:
    """Chosen rows, and what a candidate's mean over them says about its mean over all rows."""

    places: list[int]  # of the rows in use
    slope: float
    level: float
    error: float  # standard error of a score as the mean over all rows
    pilot_error: float  # that of the pilot's own means over the rows in use
    row_noise: float  # variance of a single contribution around its candidate's mean and its row's

    def score(self, means: Matrix) -> Matrix:
        """(c,) scores from (c,) means over the chosen rows."""
        return self.level + self.slope * means


def learned(pilot: Matrix, count: int, total: int) -> Choice:
    """Choose ``count`` rows, and learn what they say about the mean over all ``total`` rows.

    Args:
        pilot: (b, n) contributions of b candidates to the n rows in use, a sample of all.

    Raises:
        FewRowsError: fewer than 8 candidates, or candidates that no row tells apart.
    """
    block, rows = pilot.shape
    truth = pilot.mean(axis=1)
    if block < LEAST:
        raise FewRowsError(f"{block} candidates in the pilot: at least {LEAST} are needed to choose rows by.")
    places, slope, level = _fitted(pilot, count)
    missed = np.empty(block)
    for place in range(block):
        others, its_slope, its_level = _fitted(np.delete(pilot, place, axis=0), count)
        missed[place] = truth[place] - its_level - its_slope * pilot[place, others].mean()
    single = pilot - pilot.mean(axis=0) - (truth - truth.mean())[:, None]
    noise = float((single**2).sum() / max(1, (block - 1) * (rows - 1)))
    sampled = noise / rows * (1 - rows / total)
    error = float(np.sqrt((missed**2).mean() + sampled))
    return Choice(places, slope, level, error, float(np.sqrt(sampled)), noise)


def _fitted(pilot: Matrix, count: int) -> tuple[list[int], float, float]:
    """Chosen rows; slope and level of the mean over all rows on that over these, by least squares."""
    places = choose(pilot, count)
    truth, said = pilot.mean(axis=1), pilot[:, places].mean(axis=1)
    apart = float(((said - said.mean()) ** 2).sum())
    if apart == 0 or not np.ptp(truth):
        raise FewRowsError(f"all {len(pilot)} candidates of the pilot have the same score: there is nothing to learn.")
    slope = float(((said - said.mean()) * (truth - truth.mean())).sum()) / apart
    return places, slope, float(truth.mean() - slope * said.mean())


def replay(
    task: Matrix, fractions: Sequence[float], generator: np.random.Generator, *, rows: int, pilot: int, each: int
) -> FewOutcome:
    """What scoring a full matrix (c, n) would have been, candidates and rows in a random order.

    Args:
        rows: in use; the first ``pilot`` candidates meet all of them, the others the ``each`` that are chosen.
    """
    count, total = task.shape
    order, columns = generator.permutation(count), generator.permutation(total)[:rows]
    first = order[:pilot]
    choice = learned(task[np.ix_(first, columns)], each, total)
    mean = choice.score(task[:, columns[choice.places]].mean(axis=1))
    mean[first] = task[np.ix_(first, columns)].mean(axis=1)
    error, met = np.full(count, choice.error), np.full(count, min(each, rows))
    error[first], met[first] = choice.pilot_error, rows
    cuts = {fraction: selected_count(fraction, count) for fraction in fractions}
    best = {
        cut: [set(np.argsort(-x, kind="stable")[:cut].tolist()) for x in (mean, task.mean(axis=1))]
        for cut in cuts.values()
    }
    overlaps = {fraction: len(best[cut][0] & best[cut][1]) / cut for fraction, cut in cuts.items()}
    return FewOutcome(mean, int(met.sum()), rows, overlaps, disagreement(mean, error, cuts), met)
