"""A convolution as the linear map it is on a periodic grid (after Sedghi, Gupta and Long, arXiv 1805.10408).

On an n x n torus the Fourier transform turns a convolution of stride 1 into one small matrix a frequency,
out x in; the singular values of the map are those of all these matrices together. The paper's tables use the
matrix out x (in k k) instead; both are of the same weight and may differ by orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pctool.core.spectra import EPS, GRAM_ERROR, Array
from pctool.errors import InputError

CHUNK = 4  # frequencies a task: their matrices stay in a core's cache


def operator_singular_values(kernel: Array, grid: int, threads: int = 1) -> Array:
    """Singular values of a kernel [out, in, k, ...] on a torus of `grid` points a side, descending.

    float64 [grid^d min(out, in)] for d spatial sides, each within 1e-10 of the largest of them: square roots of
    the eigenvalues of the smaller Gram matrix a frequency, or an SVD where that would cost digits. Only one of
    the frequencies f and -f is computed, the kernel being real. So many `threads` share the frequencies and
    change no bit. Raises InputError for a grid smaller than the kernel, ValueError for a kernel
    that is not finite.
    """
    spatial = kernel.shape[2:]
    if grid < max(spatial):
        raise InputError(f"--grid {grid} is smaller than a kernel of {max(spatial)}; give at least {max(spatial)}")
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel has non-finite entries")
    largest = float(np.abs(kernel).max())
    if largest == 0.0:
        return np.zeros(grid ** len(spatial) * min(kernel.shape[:2]))
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    taps = np.ascontiguousarray(np.moveaxis(kernel / scale, (0, 1), (-2, -1))).reshape(-1, *kernel.shape[:2])
    phases, counts = _phases(spatial, grid)

    def squares(some: NDArray[np.complex128]) -> Array:
        matrices = _matrices(some, taps)
        return np.asarray(np.linalg.eigvalsh(matrices @ matrices.conj().swapaxes(1, 2)), dtype=np.float64)

    with ThreadPoolExecutor(threads) as pool:  # LAPACK runs without Python's lock
        chunks = [phases[i : i + CHUNK] for i in range(0, len(phases), CHUNK)]
        found = np.concatenate(list(pool.map(squares, chunks)))
    # The same bound as for a matrix, the largest value being that of the whole map: no frequency is worse off.
    rough = found[:, 0] * GRAM_ERROR < EPS * found[:, -1].max()
    sigmas = np.sqrt(found.clip(0.0))
    if rough.any():
        sigmas[rough] = np.linalg.svd(_matrices(phases[rough], taps), compute_uv=False)[:, ::-1]
    return np.sort(np.repeat(sigmas, counts, axis=0), axis=None)[::-1] * scale


def _matrices(phases: NDArray[np.complex128], taps: Array) -> NDArray[np.complex128]:
    """The kernel's Fourier transform [F, n, m] at some frequencies, n <= m: sums of its points times their phases."""
    flat = taps.reshape(len(taps), -1)
    found = np.empty((len(phases), flat.shape[1]), dtype=np.complex128)
    found.real, found.imag = phases.real @ flat, phases.imag @ flat
    matrices = found.reshape(-1, *taps.shape[1:])
    return matrices if matrices.shape[1] <= matrices.shape[2] else matrices.swapaxes(1, 2)


def _phases(sides: Sequence[int], grid: int) -> tuple[NDArray[np.complex128], NDArray[np.int64]]:
    """exp(-2 pi i f t / grid) for frequencies f and points t of the kernel, [F, k^d], and how often each f counts.

    Of f and -f one; a kernel of one point (a 1 x 1 shortcut) has the same matrix everywhere.
    """
    d = len(sides)
    points = np.indices(tuple(sides)).reshape(d, -1)
    if points.shape[1] == 1:
        return np.ones((1, 1), dtype=np.complex128), np.array([grid**d])
    frequencies = np.indices((grid,) * d).reshape(d, -1).T
    weights = grid ** np.arange(d)
    own, other = frequencies @ weights, (-frequencies % grid) @ weights
    kept = own <= other
    turns = (frequencies[kept] @ points % grid) / grid
    return np.exp(-2j * np.pi * turns), np.where(own < other, 2, 1)[kept]
