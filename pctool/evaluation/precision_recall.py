"""Precision and recall by nearest neighbours (Kynkaanniemi et al., arXiv 1904.06991), in blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 3  # of the paper (Section 3) and its code
BLOCK = 2000  # vectors a side: 32 MB of distances at a time, whatever the number of images


def precision_recall(
    real: NDArray[np.floating], fake: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Share of the fakes inside the reals' manifold, and of the reals inside the fakes'. [n, d] and [m, d].

    A set's manifold is the union of balls around its vectors, each as large as the distance to the vector's k-th
    nearest other one. Distances in float64. ValueError for a set of no more than k vectors.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{neighbours} neighbours take more than {neighbours} vectors, not {len(real)} and {len(fake)}"
        )
    precision = _covered(fake, real, _squared_radii(real, neighbours))
    recall = _covered(real, fake, _squared_radii(fake, neighbours))
    return precision, recall


def _squared_radii(x: NDArray[np.floating], neighbours: int) -> NDArray[np.float64]:
    """Squared distance of each vector to its k-th nearest other one: the (k+1)-th smallest, as it is there itself."""
    radii = np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        nearest = np.empty((len(rows), 0))
        for other in range(0, len(x), BLOCK):
            candidates = np.concatenate([nearest, _squared_distances(rows, x[other : other + BLOCK])], 1)
            kept = min(neighbours + 1, candidates.shape[1])
            nearest = np.partition(candidates, kept - 1, 1)[:, :kept]
        radii[start : start + len(rows)] = nearest.max(1)
    return radii


def _covered(queries: NDArray[np.floating], x: NDArray[np.floating], squared_radii: NDArray[np.float64]) -> float:
    """Share of the queries that lie in the ball of at least one vector of `x`."""
    inside = 0
    for start in range(0, len(queries), BLOCK):
        rows = queries[start : start + BLOCK]
        hit = np.zeros(len(rows), bool)
        for other in range(0, len(x), BLOCK):
            distances = _squared_distances(rows, x[other : other + BLOCK])
            hit |= (distances <= squared_radii[other : other + BLOCK]).any(1)
        inside += int(hit.sum())
    return inside / len(queries)


def _squared_distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """|a|^2 + |b|^2 - 2 a.b for all pairs, [n, d] and [m, d] to [n, m]; never below 0."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    centre = y.mean(0)  # near the origin less is lost to cancellation
    x -= centre
    y -= centre
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)
    return np.maximum(squared, 0, out=squared)
