"""A convolution as the linear map it is on a periodic grid (after Sedghi, Gupta and Long, arXiv 1805.10408).

On an n x n torus the Fourier transform turns a convolution of stride 1 into one small matrix a frequency,
out x in; the singular values of the map are those of all these matrices together. The paper's tables use the
matrix out x (in k k) instead; both are of the same weight and may differ by orders of magnitude.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from pctool.core.spectra import EPS, Array
from pctool.errors import InputError

Complex = NDArray[np.complex128]
Frequencies = NDArray[np.int64]

MOST_VALUES = 2**25  # of a layer: 2048 channels on a 128 x 128 torus
TASK = 2**17  # complex numbers a task, 2 MiB: as much as a core's cache holds

# The Gram matrices below sum over pairs of points, and may lose a digit more than a product of two matrices does:
# a stricter bound on eps * kappa^2 than `pctool.core.spectra` has, kappa 2e4. Worst of 300 kernels: 1.4e-12 sigma_max.
GRAM_ERROR = 1e-7


def operator_singular_values(kernel: Array, grid: int, threads: int = 1) -> Array:
    """Singular values of a kernel [out, in, k, ...] on a torus of `grid` points a side, descending.

    float64 [grid^d min(out, in)] for d spatial sides, each within 1e-10 of the largest of them: square roots of
    the eigenvalues of the smaller Gram matrix a frequency, or an SVD where that would cost digits. Only one of
    the frequencies f and -f is computed, the kernel being real. So many `threads` share the frequencies and
    change no bit. Raises InputError as `operator_size`, ValueError for a kernel that is not finite.
    """
    operator_size(kernel.shape, grid)
    spatial = kernel.shape[2:]
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel has non-finite entries")
    largest = float(np.abs(kernel).max())
    if largest == 0.0:
        return np.zeros(grid ** len(spatial) * min(kernel.shape[:2]))
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    taps = np.moveaxis(kernel / scale, (0, 1), (-2, -1))
    taps = np.ascontiguousarray(taps if taps.shape[-2] <= taps.shape[-1] else taps.swapaxes(-1, -2))
    frequencies, counts = _frequencies(spatial, grid)
    gram = _Gram(taps, grid)

    def eigenvalues(some: Frequencies) -> Array:
        return torch.linalg.eigvalsh(torch.from_numpy(gram(some))).numpy()  # PyTorch's LAPACK is faster

    def by_svd(some: Frequencies) -> Array:
        return np.asarray(np.linalg.svd(_matrices(some, taps, grid), compute_uv=False)[:, ::-1], dtype=np.float64)

    with ThreadPoolExecutor(threads) as pool:  # LAPACK runs without Python's lock
        found = np.concatenate(list(pool.map(eigenvalues, _tasks(frequencies, gram.size))))
        # The largest value is that of the whole map: no frequency has to be better than that.
        rough = found[:, 0] * GRAM_ERROR < EPS * found[:, -1].max()
        sigmas = np.sqrt(found.clip(0.0))
        if rough.any():
            sigmas[rough] = np.concatenate(list(pool.map(by_svd, _tasks(frequencies[rough], gram.size))))
    return np.sort(np.repeat(sigmas, counts, axis=0), axis=None)[::-1] * scale


def operator_size(shape: Sequence[int], grid: int) -> int:
    """How many singular values a kernel [out, in, k, ...] has on a torus.

    Raises InputError for a grid smaller than the kernel, or one of more than 2^25 values.
    """
    spatial = shape[2:]
    if grid < max(spatial):
        raise InputError(f"--grid {grid} is smaller than a kernel of {max(spatial)}; give at least {max(spatial)}")
    count = grid ** len(spatial) * min(shape[:2])
    if count > MOST_VALUES:
        limit = f"at most {MOST_VALUES:,} are computed; give a smaller grid"
        raise InputError(f"--grid {grid} gives a layer {count:,} singular values, {limit}")
    return int(count)


class _Gram:
    """M M^* of the kernel's Fourier transform M(f) = sum_t K_t exp(-i f t), from sums over pairs of its points.

    M M^* = sum_d C_d exp(-i f d) with C_d the sum of K_t K_s^T over t - s = d, and C_-d = C_d^T. The C_d are real,
    few (13 up to sign for 3 x 3), and made once; a frequency then costs additions and no product of matrices.
    """

    def __init__(self, taps: Array, grid: int) -> None:
        """Of points K_t [k, ..., n, m] on a torus of `grid` points a side."""
        self.grid = grid
        *sides, n, _m = taps.shape
        self.size = n * n
        sums: dict[tuple[int, ...], Array] = {}
        for t, s in itertools.product(np.ndindex(*sides), repeat=2):
            d = tuple(a - b for a, b in zip(t, s, strict=True))
            if d >= (0,) * len(d):
                sums[d] = sums.get(d, 0.0) + taps[t] @ taps[s].T
        self.distances = np.array(list(sums))
        C = np.array(list(sums.values()))
        zero = (self.distances == 0).all(axis=1)
        C[zero] /= 2.0  # it is its own transpose, the others stand for two
        self.even = (C + C.swapaxes(1, 2)).reshape(len(C), -1)
        self.odd = (C - C.swapaxes(1, 2)).reshape(len(C), -1)

    def __call__(self, frequencies: Frequencies) -> Complex:
        """[F, n, n] at some frequencies [F, d]."""
        angles = _angles(frequencies, self.distances, self.grid)
        found = np.empty((len(angles), self.size), dtype=np.complex128)
        found.real, found.imag = np.cos(angles) @ self.even, -np.sin(angles) @ self.odd
        n = math.isqrt(self.size)
        return found.reshape(-1, n, n)


def _angles(frequencies: Frequencies, places: NDArray[np.int64], grid: int) -> Array:
    """2 pi f t / grid in [0, 2 pi), [F, T]: reduced as integers, so that the angle is exact to a rounding."""
    turns: Array = (frequencies @ places.T % grid) / grid
    return 2.0 * np.pi * turns


def _matrices(frequencies: Frequencies, taps: Array, grid: int) -> Complex:
    """The kernel's Fourier transform [F, n, m] at some frequencies: sums of its points times their phases."""
    *sides, n, m = taps.shape
    angles = _angles(frequencies, np.indices(sides).reshape(len(sides), -1).T, grid)
    flat = taps.reshape(-1, n * m)
    return (np.cos(angles) @ flat - 1j * (np.sin(angles) @ flat)).reshape(-1, n, m)


def _tasks(frequencies: Frequencies, size: int) -> list[Frequencies]:
    """Parts of them for one task each, as large as matrices of `size` entries let them be."""
    length = max(1, TASK // size)
    return [frequencies[i : i + length] for i in range(0, len(frequencies), length)]


def _frequencies(sides: Sequence[int], grid: int) -> tuple[Frequencies, NDArray[np.int64]]:
    """The frequencies [F, d], 0 to grid - 1 along each side, and how often each counts.

    Of f and -f one; a kernel of one point (a 1 x 1 shortcut) has the same matrix everywhere.
    """
    d = len(sides)
    if max(sides) == 1:
        return np.zeros((1, d), dtype=np.int64), np.array([grid**d])
    frequencies = np.indices((grid,) * d).reshape(d, -1).T
    weights = grid ** np.arange(d)
    own, other = frequencies @ weights, (-frequencies % grid) @ weights
    kept = own <= other
    return frequencies[kept], np.where(own < other, 2, 1)[kept]
