"""Precision and recall by nearest neighbours (Kynkaanniemi et al., arXiv 1904.06991), in blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 3  # of the paper (Section 3) and its code
BLOCK = 2000  # vectors a side: 32 MB of distances at a time, whatever the number of images
ROUNDING = float(np.finfo(np.float64).eps)


def precision_recall(
    real: NDArray[np.floating], fake: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Share of the fakes inside the reals' manifold, and of the reals inside the fakes'. [n, d] and [m, d].

    A set's manifold is the union of balls around its vectors, each as large as the distance to the vector's k-th
    nearest other one. Distances in float64, between equal vectors 0. ValueError for a set of no more than k vectors.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{neighbours} neighbours take more than {neighbours} vectors, not {len(real)} and {len(fake)}"
        )
    centre = real.mean(0, dtype=np.float64)  # near the origin less is lost to cancellation
    radii = [_squared_radii(x, centre, neighbours) for x in (real, fake)]
    return _coverage(real, fake, centre, *radii)


def _squared_radii(x: NDArray[np.floating], centre: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """Squared distance of each vector to its k-th nearest other one: the (k+1)-th smallest, as it is there itself."""
    nearest = np.full((len(x), neighbours + 1), np.inf)

    def offer(start: int, distances: NDArray[np.float64]) -> None:
        rows = slice(start, start + len(distances))
        candidates = np.concatenate([nearest[rows], distances], 1)
        nearest[rows] = np.partition(candidates, neighbours, 1)[:, : neighbours + 1]

    for start in range(0, len(x), BLOCK):
        for other in range(start, len(x), BLOCK):  # distances are symmetric: each block serves both sides
            distances = _squared_distances(x[start : start + BLOCK], x[other : other + BLOCK], centre)
            offer(start, distances)
            if other > start:
                offer(other, distances.T)
    return nearest.max(1)


def _coverage(
    real: NDArray[np.floating],
    fake: NDArray[np.floating],
    centre: NDArray[np.float64],
    real_radii: NDArray[np.float64],
    fake_radii: NDArray[np.float64],
) -> tuple[float, float]:
    """Share of the fakes in the ball of at least one real, and of the reals in that of at least one fake."""
    fake_inside, real_inside = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for i in range(0, len(real), BLOCK):
        for j in range(0, len(fake), BLOCK):
            reals, fakes = slice(i, i + BLOCK), slice(j, j + BLOCK)
            distances = _squared_distances(real[reals], fake[fakes], centre)
            fake_inside[fakes] |= (distances <= real_radii[reals, None]).any(0)
            real_inside[reals] |= (distances <= fake_radii[fakes]).any(1)
    return float(fake_inside.mean()), float(real_inside.mean())


def _squared_distances(
    a: NDArray[np.floating], b: NDArray[np.floating], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """|a|^2 + |b|^2 - 2 a.b for all pairs, [n, d] and [m, d] to [n, m]; 0 where it is no more than rounding.

    The same pair of vectors comes out a little different in another block, and a ball may have the radius 0.
    """
    x, y = a - centre, b - centre
    lengths = (x * x).sum(1)[:, None] + (y * y).sum(1)
    squared = lengths - 2 * (x @ y.T)
    return np.where(squared > x.shape[1] * ROUNDING * lengths, squared, 0.0)
