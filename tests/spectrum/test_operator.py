"""Convolutions as operators, against the SVD of the dense matrix of the map."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pctool.core.layers.state import LayerState
from pctool.errors import InputError
from pctool.spectrum.measure import measure, measure_layer
from pctool.spectrum.operator import operator_singular_values

from .samples import DEGREE_7, states

RNG = np.random.default_rng(0)


def _dense(kernel: np.ndarray, grid: int) -> np.ndarray:
    """The matrix of the periodic convolution, a column an input point: PyTorch's convolution of a padded unit image."""
    _out, inputs, *sides = kernel.shape
    d = len(sides)
    unit = torch.eye(inputs * grid**d, dtype=torch.float64).reshape(-1, inputs, *[grid] * d)
    padding = [n for side in reversed(sides) for n in (0, side - 1)]
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[d]
    image = convolve(F.pad(unit, padding, mode="circular"), torch.from_numpy(kernel))
    return image.flatten(1).T.numpy()


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((3, 2, 3, 3), 5), ((2, 5, 3, 3), 4), ((4, 4, 1, 1), 3), ((3, 3, 4, 4), 6), ((3, 4, 3), 7), ((2, 2, 2, 2, 2), 3)],
)
def test_every_singular_value_of_the_dense_operator(shape: tuple[int, ...], grid: int) -> None:
    """Within 1e-10 of the largest, for odd and even kernels and grids, in one, two and three dimensions."""
    kernel = RNG.standard_normal(shape)
    expected = np.linalg.svd(_dense(kernel, grid), compute_uv=False)
    got = operator_singular_values(kernel, grid)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-10 * expected[0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rank_deficient_operators(scale: float) -> None:
    """Differences, whose zero frequency vanishes, and kernels of low rank: the same bound, by the SVD."""
    laplace = np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None] * scale
    low = np.einsum("o,i,yx->oiyx", *(RNG.standard_normal(n) for n in (4, 4)), RNG.standard_normal((3, 3))) * scale
    for kernel in (laplace, low, 0.0 * low):
        expected = np.linalg.svd(_dense(kernel, 6), compute_uv=False)
        assert np.abs(operator_singular_values(kernel, 6) - expected).max() <= 1e-10 * expected[0]


def test_conditioned_operators_against_the_fourier_transform() -> None:
    """60 kernels, kappa up to 1e9, wide and tall, of many sizes and scales: 1e-10 of the largest value, against the
    SVDs of NumPy's FFT of the padded kernel."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        k, grid = rng.integers(1, 5), rng.integers(4, 9)
        outputs, inputs = rng.integers(1, 24, size=2)
        turned = np.linalg.qr(rng.standard_normal((outputs, outputs)))[0] * np.logspace(0, -rng.uniform(0, 9), outputs)
        kernel = np.einsum("ab,bcyx->acyx", turned, rng.standard_normal((outputs, inputs, k, k)))
        kernel *= 10.0 ** rng.integers(-30, 30)
        transformed = np.moveaxis(np.fft.fft2(kernel, (grid, grid)), (0, 1), (-2, -1))
        expected = np.sort(np.linalg.svd(transformed, compute_uv=False), axis=None)[::-1]
        assert np.abs(operator_singular_values(kernel, int(grid)) - expected).max() <= 1e-10 * expected[0]


def test_an_orthonormal_matrix_is_no_orthonormal_operator() -> None:
    """Rows that are orthonormal as out x in k k: kappa is 1 as a matrix, and far from it as an operator."""
    matrix = np.linalg.qr(RNG.standard_normal((72, 8)))[0].T
    layer = LayerState("conv", "conv", torch.from_numpy(matrix.reshape(8, 8, 3, 3)), None, None, 0)
    assert measure_layer(layer).kappa == pytest.approx(1.0)
    assert measure_layer(layer, grid=16).kappa > 100


def test_the_effective_operator_is_that_of_the_effective_weight() -> None:
    """g acts on the matrix: its weight P(A A^T) A is formed, and taken as an operator, wide or tall."""
    for shape in ((4, 3, 3, 3), (30, 2, 3, 3)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        W = weight.flatten(1).double().numpy()
        state = LayerState("conv", "conv", weight, float(np.linalg.norm(W, 2)), DEGREE_7, 7)
        A = W / state.sigma_hat
        S = A @ A.T
        W_hat = sum(a * np.linalg.matrix_power(S, k) for k, a in enumerate(DEGREE_7)) @ A
        layer = measure_layer(state, grid=5)
        assert layer.normalized is not None
        for got, matrix in ((layer.raw, W), (layer.normalized, A), (layer.effective, W_hat)):
            expected = np.linalg.svd(_dense(matrix.reshape(shape), 5), compute_uv=False)
            assert got == pytest.approx(expected, rel=0, abs=1e-10 * expected[0])
        assert layer.sigma_over_sigma_hat == pytest.approx(1.0)  # of the matrix, as the polynomial sees it


def test_linear_layers_are_matrices_in_either_view() -> None:
    """They have no places to move along."""
    matrix, operator = measure(0, states()), measure(0, states(), grid=4)
    assert (matrix.layers[-1].raw == operator.layers[-1].raw).all()
    assert [len(layer.raw) for layer in operator.layers] == [16 * 3, 16 * 6, 16 * 3, 1]


def test_threads_change_no_bit() -> None:
    """One and three threads, over frequencies and over layers."""
    code = (
        "import numpy as np; from pctool.spectrum.measure import measure; from tests.spectrum.samples import states\n"
        "for grid in (8, None):\n"
        "    one, three = (measure(0, states(), grid=grid, threads=n) for n in (1, 3))\n"
        "    assert all((a.effective == b.effective).all() for a, b in zip(one.layers, three.layers))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_grid_smaller_than_the_kernel_is_refused() -> None:
    """A kernel would overlap itself: the smallest grid is named."""
    with pytest.raises(InputError, match=r"--grid 2 .* at least 3"):
        operator_singular_values(np.ones((1, 1, 3, 3)), 2)


def test_a_kernel_that_is_not_finite_is_a_problem_of_its_layer() -> None:
    """NaN, as many as the operator has values, with the reason."""
    state = states()[1]
    state.weight[0, 0, 0, 0] = np.inf
    layer = measure_layer(state, grid=4)
    assert layer.raw.shape == (96,)
    assert np.isnan(layer.raw).all()
    assert layer.problem == "the matrix has 1 non-finite of 324 entries"
