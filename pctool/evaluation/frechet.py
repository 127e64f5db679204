"""Moments streamed in float64, and the Frechet distance between the two Gaussians that have them."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError

Array = NDArray[np.float64]


class Moments:
    """Mean and covariance of feature vectors that arrive in batches; memory is d x d, whatever their number.

    Batches are combined by the pairwise update of Chan, Golub and LeVeque (1983), which centres before it squares
    and so loses nothing to cancellation.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean: Array = np.zeros(dim)
        self._scatter: Array = np.zeros((dim, dim))  # sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Self:
        """The moments of one batch [n, d]. InputError where it holds NaN or infinity."""
        x = np.asarray(features, np.float64)
        if not np.isfinite(x).all():
            raise InputError("the extractor's features hold NaN or infinity; its weights may be damaged")
        moments = cls(x.shape[1])
        if len(x):
            moments.n = len(x)
            moments.mean = x.mean(0)
            centred = x - moments.mean
            moments._scatter = centred.T @ centred
        return moments

    def update(self, features: NDArray[np.floating]) -> None:
        """Adds a batch [n, d] of any float type."""
        self.merge(self.of(features))

    def merge(self, other: Moments) -> None:
        """Adds everything `other` has seen."""
        n = self.n + other.n
        if other.n == 0:
            return
        delta = other.mean - self.mean
        self._scatter += other._scatter + np.outer(delta, delta * (self.n * other.n / n))
        self.mean = self.mean + delta * (other.n / n)
        self.n = n

    @property
    def cov(self) -> Array:
        """Unbiased covariance [d, d], as `numpy.cov` gives it. ValueError for fewer than two vectors."""
        if self.n < 2:
            raise ValueError(f"a covariance takes at least two vectors, not {self.n}")
        return self._scatter / (self.n - 1)


def frechet_distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), in float64 (Dowson and Landau, 1982).

    With roots A = R R^T, B = S S^T the trace of the last term is the sum of the singular values of R^T S, which are the
    square roots of the eigenvalues of R^T B R: symmetric problems only, so that nothing can turn complex. InputError
    where an argument is not finite.
    """
    for name, value in (("mean", mean_a), ("covariance", cov_a), ("mean", mean_b), ("covariance", cov_b)):
        if not np.isfinite(value).all():
            raise InputError(f"a {name} holds NaN or infinity, so there is no Frechet distance")
    root = _cholesky(cov_a) if _cholesky(cov_b) is not None else None
    if root is not None:
        shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ cov_b @ root), 0)).sum()
    else:
        shared = np.linalg.svd(_root(cov_a).T @ _root(cov_b), compute_uv=False).sum()
    delta = mean_a - mean_b
    distance = delta @ delta + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    return max(float(distance), 0.0)


def _cholesky(cov: Array) -> Array | None:
    """The lower factor of a covariance of full rank, None for any other. It is the quicker root by far."""
    try:
        factor = np.asarray(np.linalg.cholesky(cov), np.float64)
    except np.linalg.LinAlgError:
        return None
    pivots = factor.diagonal() ** 2
    return factor if pivots.min() > _rounding(pivots) else None


def _root(cov: Array) -> Array:
    """V diag(l)^1/2 of any covariance, as of fewer images than features, [d, rank].

    Directions without variance, to rounding, are dropped: they would add the root of a rounding error each. Roots of
    both sides, since eigenvalues of R^T B R would be squares, of which rounding takes half the digits.
    """
    values, vectors = np.linalg.eigh(cov)
    kept = values > _rounding(values)
    root: Array = vectors[:, kept] * np.sqrt(values[kept])
    return root


def _rounding(values: Array) -> float:
    """Eigenvalues up to this are rounding errors of a symmetric matrix (the tolerance of `matrix_rank`)."""
    return float(np.max(np.abs(values), initial=0.0) * len(values) * np.finfo(np.float64).eps)
