"""A convolution as the linear map it is on a periodic grid (after Sedghi, Gupta and Long, arXiv 1805.10408).

On an n x n torus the Fourier transform turns a convolution of stride 1 into one small matrix a frequency,
out x in; the singular values of the map are those of all these matrices together. The paper's tables use the
matrix out x (in k k) instead; both are of the same weight and may differ by orders of magnitude.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pctool.core.spectra import EPS, GRAM_ERROR, Array
from pctool.errors import InputError

CHUNK = 16  # frequencies a task: enough to keep two cores busy to the end


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
    matrices, counts = _frequencies(kernel / scale, grid)
    chunks = [matrices[i : i + CHUNK] for i in range(0, len(matrices), CHUNK)]
    with ThreadPoolExecutor(threads) as pool:  # LAPACK runs without Python's lock
        squares = np.concatenate(list(pool.map(_squares, chunks)))
    # The same bound as for a matrix, the largest value being that of the whole map: no frequency is worse off.
    ceiling = squares[:, -1].max()
    rough = squares[:, 0] * GRAM_ERROR < EPS * ceiling
    sigmas = np.sqrt(squares.clip(0.0))
    if rough.any():
        sigmas[rough] = np.linalg.svd(matrices[rough], compute_uv=False)[:, ::-1]
    return np.sort(np.repeat(sigmas, counts, axis=0), axis=None)[::-1] * scale


def _squares(matrices: NDArray[np.complex128]) -> Array:
    return np.asarray(np.linalg.eigvalsh(matrices @ matrices.conj().swapaxes(1, 2)), dtype=np.float64)


def _frequencies(kernel: Array, grid: int) -> tuple[NDArray[np.complex128], NDArray[np.int64]]:
    """The matrices that differ, [F, n, m] with n <= m, and how often each occurs on the grid.

    Of f and -f one; a kernel of one point (a 1 x 1 shortcut) has the same matrix everywhere.
    """
    sides = kernel.ndim - 2
    if math.prod(kernel.shape[2:]) == 1:
        grid_points = np.zeros((1, sides), dtype=np.int64)
        counts = np.array([grid**sides])
    else:
        points = np.indices((grid,) * sides).reshape(sides, -1).T
        mirrored = -points % grid
        weights = grid ** np.arange(sides)
        own, other = points @ weights, mirrored @ weights
        grid_points, counts = points[own <= other], np.where(own < other, 2, 1)[own <= other]
    spectrum: Any = np.ascontiguousarray(np.moveaxis(kernel, (0, 1), (-2, -1)))  # [k, ..., out, in]
    for _ in range(sides):  # transform the first side, which moves behind the others
        k = spectrum.shape[0]
        phases = np.exp(-2j * np.pi * (np.outer(np.arange(grid), np.arange(k)) % grid) / grid)
        spectrum = np.moveaxis(np.tensordot(phases, spectrum, axes=(1, 0)), 0, sides - 1)
    matrices: NDArray[np.complex128] = spectrum[tuple(grid_points.T)].astype(np.complex128)
    return (matrices if matrices.shape[1] <= matrices.shape[2] else matrices.swapaxes(1, 2)), counts
