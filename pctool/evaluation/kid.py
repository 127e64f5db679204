"""Kernel inception distance: the unbiased squared MMD with a cubic kernel (Binkowski et al., arXiv 1801.01401)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_SUBSETS, SUBSET_SIZE = 100, 1000  # those of clean-fid and torch-fidelity


def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x.y / d + 1)^3 for all pairs: [n, d] and [m, d] to [n, m]."""
    product = x @ y.T
    product /= x.shape[1]
    product += 1.0
    return product * product * product


def mmd2(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy; it can be negative. [n, d] and [m, d]."""
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"the unbiased estimate takes at least two vectors a side, not {n} and {m}")
    within_x, within_y = kernel(x, x), kernel(y, y)
    return float(
        (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
        + (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
        - 2 * kernel(x, y).mean()
    )


def kid(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    seed: int,
    n_subsets: int = N_SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> tuple[float, float, float]:
    """Mean, standard deviation and standard error of `mmd2` over random subsets of features [n, d] and [m, d].

    In float64. The error, deviation / sqrt(subsets), is of the mean over subsets of these images; other images would
    give another mean.

    Subsets are drawn without replacement, `subset_size` a side at most. Where both sides are no larger than a
    subset, every subset is the whole: one evaluation, and a deviation of 0.
    """
    size = min(subset_size, len(a), len(b))
    if len(a) == len(b) == size:
        n_subsets = 1
    rng = np.random.default_rng(seed)
    values = [
        mmd2(
            a[rng.choice(len(a), size, replace=False)].astype(np.float64),
            b[rng.choice(len(b), size, replace=False)].astype(np.float64),
        )
        for _ in range(n_subsets)
    ]
    return float(np.mean(values)), float(np.std(values)), float(np.std(values) / np.sqrt(len(values)))
