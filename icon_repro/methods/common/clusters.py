"""Cluster embeddings by K-means, for methods that pick rows from each cluster.

In: ids and vectors of rows in any order.  Out: rows in the order of their ids, or as they came; cluster and centre of
each.
Source: scikit-learn's KMeans with its former default of 10 starts, as nuggets and Cherry_LLM use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.methods.common.options import RowOrder


class ClustersError(ValueError):
    """Fewer rows than clusters."""


@dataclass(frozen=True)
class Clusters:
    """Rows in clusters."""

    ids: list[str]
    vectors: NDArray[np.float64]  # (rows, hidden size)
    labels: NDArray[np.integer[Any]]  # (rows,), the cluster of each
    centres: NDArray[np.float64]  # (clusters, hidden size)

    @property
    def members(self) -> list[NDArray[np.intp]]:
        """The places of each cluster's rows; none where fewer vectors differ than clusters were asked for."""
        return [np.flatnonzero(self.labels == number) for number in range(len(self.centres))]


def clustered(
    ids: Sequence[str],
    vectors: NDArray[np.floating[Any]],
    count: int,
    seed: int,
    option: str,
    order: RowOrder | None = RowOrder.id,
) -> Clusters:
    """``count`` clusters of the rows.

    Args:
        option: the option that ``count`` comes from, for the error.
        order: of the rows in K-means. By id, the result is the same whatever order the rows come in.

    Raises:
        ClustersError: fewer rows than clusters.
    """
    from sklearn.cluster import KMeans

    if len(ids) < count:
        raise ClustersError(
            f"{option}={count}: there are only {len(ids)} rows with an embedding; ask for fewer clusters, or rank more "
            "rows (data.candidates.size, select_from=pool)."
        )
    places = list(range(len(ids))) if order is RowOrder.file else sorted(range(len(ids)), key=lambda i: ids[i])
    ordered = vectors[places].astype(np.float64)
    fitted = KMeans(count, random_state=seed, n_init=10).fit(ordered)
    return Clusters([ids[i] for i in places], ordered, fitted.labels_, fitted.cluster_centers_)
