"""Inception score (Salimans et al., arXiv 1606.03498), streamed: memory is one row of sums a split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from pctool.errors import InputError

SPLITS = 10  # of the original implementation


class InceptionScore:
    """exp of the mean divergence KL(p(class | image) || p(class)), over `splits` equal parts of `total` images.

    For a part of n images that is exp(mean_i sum_k p_ik log p_ik - sum_k q_k log q_k), q the mean of the p_i, so
    that two running sums a part are enough. `seed` shuffles which image falls into which part (a folder may be
    sorted by class); None leaves them in order. Several streams of the same `total` and `seed`, each from its own
    `first` image on, add up by `merge`.
    """

    def __init__(self, total: int, *, seed: int | None, splits: int = SPLITS, first: int = 0) -> None:
        parts = np.array_split(np.arange(total), min(splits, total))
        self._part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        if seed is not None:
            self._part_of = np.random.default_rng(seed).permutation(self._part_of)
        self._sizes = np.array([len(part) for part in parts])
        self._negative_entropy = np.zeros(len(parts))
        self._sums: NDArray[np.float64] | None = None
        self._first, self._seen = first, 0

    def update(self, probabilities: NDArray[np.floating]) -> None:
        """Adds a batch [n, k] of class probabilities. InputError where it holds NaN, ValueError beyond the total."""
        p = np.asarray(probabilities, np.float64)
        if not np.isfinite(p).all():
            raise InputError("the extractor's class probabilities hold NaN; its weights may be damaged")
        start = self._first + self._seen
        part = self._part_of[start : start + len(p)]
        if len(part) < len(p):
            raise ValueError(f"more than the {len(self._part_of)} images announced")
        if self._sums is None:
            self._sums = np.zeros((len(self._sizes), p.shape[1]))
        np.add.at(self._sums, part, p)
        np.add.at(self._negative_entropy, part, xlogy(p, p).sum(1))
        self._seen += len(p)

    def merge(self, other: InceptionScore) -> None:
        """Adds everything `other` has seen. ValueError where its images fall into other parts."""
        if not np.array_equal(self._part_of, other._part_of):
            raise ValueError("inception scores of another total, seed or number of parts do not add up")
        self._negative_entropy += other._negative_entropy
        if other._sums is not None:
            self._sums = other._sums + (0.0 if self._sums is None else self._sums)
        self._seen += other._seen

    def result(self) -> tuple[float, float]:
        """Mean and standard deviation over the parts. ValueError before all the images came."""
        if self._sums is None or self._seen < len(self._part_of):
            raise ValueError(f"{self._seen} of {len(self._part_of)} images came")
        q = self._sums / self._sizes[:, None]
        scores = np.exp(self._negative_entropy / self._sizes - xlogy(q, q).sum(1))
        return float(scores.mean()), float(scores.std())
