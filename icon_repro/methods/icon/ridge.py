"""Ridge regression in closed form, with an honest error of each prediction.

In: features and targets of rows.  Out: a ``Ridge`` that predicts other rows, with a standard error each.
Features are centred and scaled to a mean squared length of 1. The penalty is the one whose predictions of left-out
rows have the smallest squared error; these follow from one decomposition, without fitting again. Standard errors are
those of the Gaussian process that ridge regression is the mean of, noise of a single row included, scaled such that
the errors of left-out rows have variance 1 in their unit.
Source: Golub, Heath and Wahba, Technometrics 21 (1979); Rasmussen and Williams, Gaussian Processes (2006), chapter 2.
Known gap: the choice of the penalty isn't in the standard errors.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
PENALTIES = np.logspace(-3, 3, 25)  # of features whose mean squared length is 1
LEAST_ROWS = 8


class RidgeError(ValueError):
    """There is nothing to learn from, or a feature that can't be used."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted regression; its arrays can be stored as they are."""

    centre: Matrix  # (d,) of the features
    scale: float
    axes: Matrix  # (d, r) directions in which the rows differ
    weights: Matrix  # (r,) of the targets along them
    shrinkage: Matrix  # (r,) how much of a direction was learned, 0 to 1
    mean: float  # of the targets
    variance: float  # of the targets before anything is known, calibrated on left-out rows
    penalty: float

    def predict(self, features: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
        """(m,) predictions and (m,) standard errors of the true targets around them, of (m, d) features.

        Raises:
            RidgeError: a feature that isn't finite, or another number of them.
        """
        values = (_checked(features, len(self.centre)) - self.centre) * self.scale
        places = values @ self.axes
        unknown = np.maximum((values**2).sum(axis=1) - places**2 @ self.shrinkage, 0.0)
        return self.mean + places @ self.weights, np.sqrt(self.variance * (unknown + self.penalty))


def fit(features: NDArray[np.floating], targets: NDArray[np.floating]) -> tuple[Ridge, Matrix]:
    """The regression, and (n,) the prediction of each row by the others.

    Args:
        features: (n, d).
        targets: (n,).

    Raises:
        RidgeError: fewer than 8 rows, targets or rows that are all equal, or a value that isn't finite.
    """
    goal = np.asarray(targets, np.float64)
    values = _checked(features, features.shape[-1])
    if len(goal) < LEAST_ROWS:
        raise RidgeError(f"{len(goal)} rows to learn from: at least {LEAST_ROWS} are needed. Score more candidates.")
    if not np.isfinite(goal).all():
        raise RidgeError(f"{np.sum(~np.isfinite(goal))} targets aren't finite. Score the candidates again in float32.")
    if np.ptp(goal) == 0:
        raise RidgeError(f"all {len(goal)} targets are {goal[0]:g}: there is nothing to learn. Score more candidates.")
    centre = values.mean(axis=0)
    size = float(((values - centre) ** 2).sum(axis=1).mean())
    if size <= 1e-18 * float((values**2).sum(axis=1).mean()) or size == 0:
        raise RidgeError(f"all {len(goal)} rows have the same features: there is nothing to learn from.")
    scaled = (values - centre) / np.sqrt(size)
    left, roots, right = np.linalg.svd(scaled, full_matrices=False)
    significant = roots > 1e-9 * roots[0]
    left, roots, right = left[:, significant], roots[significant], right[significant]
    along, deviation = left.T @ (goal - goal.mean()), goal - goal.mean()
    best: tuple[float, float, Matrix, Matrix] | None = None
    for penalty in PENALTIES:
        shrinkage = roots**2 / (roots**2 + penalty)
        free = np.maximum(1 - 1 / len(goal) - left**2 @ shrinkage, 1e-9)  # what a row doesn't decide by itself
        errors = (deviation - left @ (shrinkage * along)) / free
        squared = float((errors**2).mean())
        if best is None or squared < best[0]:
            best = squared, float(penalty), errors, free
    assert best is not None
    _, penalty, errors, free = best
    shrinkage = roots**2 / (roots**2 + penalty)
    # the error of a left-out row has the variance penalty / free in units of the targets' variance
    variance = float((errors**2 * free).mean() / penalty)
    weights = roots / (roots**2 + penalty) * along
    fitted = Ridge(centre, size**-0.5, right.T, weights, shrinkage, float(goal.mean()), variance, penalty)
    return fitted, goal - errors


def _checked(features: NDArray[np.floating], width: int) -> Matrix:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or values.shape[1] != width:
        raise RidgeError(f"features of shape {values.shape}: (rows, {width}) are needed.")
    if bad := np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        raise RidgeError(f"the features of {len(bad)} rows aren't finite (first: row {bad[0]}). Use float32.")
    return values
