"""Claims of `pctool.core.spectra` against NumPy's SVD and hand-made values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pctool.core.spectra import condition_number, modified_condition_number, singular_values

RNG = np.random.default_rng(0)
SHAPES = ((1, 1), (1, 7), (7, 1), (2, 2), (3, 17), (5, 5), (6, 20), (20, 6), (9, 10), (24, 72), (72, 24), (48, 48))


def _with_spectrum(sigmas: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    n, m = shape
    r = min(n, m)
    U = np.linalg.qr(RNG.standard_normal((n, r)))[0]
    V = np.linalg.qr(RNG.standard_normal((m, r)))[0]
    return (U * sigmas) @ V.T


def _spectra(r: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for exponent in range(13):
        kappa = 10.0**exponent
        yield f"geometric, kappa {kappa:g}", np.geomspace(1.0, 1.0 / kappa, r)
        yield f"one small, kappa {kappa:g}", np.r_[np.ones(r - 1), 1.0 / kappa]
    yield "one zero", np.r_[np.ones(r - 1), 0.0]
    yield "half zero", np.r_[np.linspace(1.0, 0.5, r - r // 2), np.zeros(r // 2)]
    yield "repeated", np.repeat([3.0, 0.2], [r - r // 2, r // 2])
    yield "near the QR threshold", np.geomspace(1.0, 1.0 / 2.1e5, r)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_singular_value_is_within_1e_10_of_sigma_max(shape: tuple[int, int]) -> None:
    """1,080 matrices: kappa 1 to 1e12, rank-deficient, repeated values; at scales 1, 1e-30 and 1e30."""
    for what, sigmas in _spectra(min(shape)):
        for scale in (1.0, 1e-30, 1e30):
            W = _with_spectrum(sigmas * scale, shape)
            expected = np.linalg.svd(W, compute_uv=False)
            got = singular_values(W)
            assert got.dtype == np.float64
            assert (np.diff(got) <= 0).all(), what
            assert np.abs(got - expected).max() <= 1e-10 * expected[0], f"{what}, scale {scale:g}"
            # float32 keeps 24 bits: beyond this ratio the smallest value is its rounding's, not the matrix's.
            if expected[-1] > 2.0**-14 * expected[0]:
                assert got[-1] == pytest.approx(expected[-1], rel=1e-6), f"{what}, scale {scale:g}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_low_precision_storage_costs_nothing(dtype: torch.dtype) -> None:
    """The smallest value of a stored matrix agrees to 1e-6 relative with the SVD of those very numbers."""
    for kappa in (1.0, 30.0, 1e3):
        W = torch.from_numpy(_with_spectrum(np.geomspace(1.0, 1.0 / kappa, 16), (16, 144))).to(dtype)
        expected = np.linalg.svd(W.double().numpy(), compute_uv=False)
        assert singular_values(W)[-1] == pytest.approx(expected[-1], rel=1e-6)


def test_the_smaller_gram_side_and_the_fallback_agree_with_the_transpose() -> None:
    """W and its transpose have the same singular values, on either side of the threshold."""
    for kappa in (10.0, 1e9):
        W = _with_spectrum(np.geomspace(1.0, 1.0 / kappa, 10), (10, 40))
        assert singular_values(W) == pytest.approx(singular_values(W.T), rel=0, abs=1e-13)


def test_a_power_of_two_scales_exactly() -> None:
    """Scaling by powers of two changes no bit of the result, down to subnormal and up to huge numbers."""
    W = RNG.standard_normal((8, 30))
    for exponent in (-900, -100, 3, 900):
        assert (singular_values(np.ldexp(W, exponent)) == np.ldexp(singular_values(W), exponent)).all()


def test_zero_matrices_have_zero_singular_values() -> None:
    """A zero matrix gives exact zeros, one a dimension of its smaller side."""
    assert singular_values(np.zeros((3, 9))).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_entries_are_counted_not_computed_with(bad: float) -> None:
    """NaN and inf raise before any decomposition, naming how many entries."""
    W = torch.ones(4, 5)
    W[1, 2] = W[3, 0] = bad
    with pytest.raises(ValueError, match="2 non-finite of 20"):
        singular_values(W)


def test_values_beyond_float64_are_an_error() -> None:
    """A finite matrix whose norm exceeds float64 raises and does not give inf."""
    with pytest.raises(ValueError, match="overflow"):
        singular_values(np.full((50, 50), 1e308))


@pytest.mark.parametrize(
    "W", [torch.ones(3), torch.ones(2, 2, 2), torch.ones(0, 3), torch.ones(2, 2, dtype=torch.int64)]
)
def test_what_is_no_matrix_is_refused(W: torch.Tensor) -> None:
    """Vectors, stacks, empty and integer matrices raise ValueError."""
    with pytest.raises(ValueError, match="matrix"):
        singular_values(W)


def test_a_weight_with_gradient_is_measured_and_left_alone() -> None:
    """A Parameter works, and neither its value nor its gradient is touched."""
    W = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    singular_values(W)
    assert W.grad is None
    assert W.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_condition_number_by_hand() -> None:
    """kappa = sigma_max / sigma_min, in any order; inf for a rank-deficient matrix."""
    assert condition_number([4.0, 1.0, 2.0]) == 4.0
    assert condition_number([3.0]) == 1.0
    assert condition_number([1.0, 0.0]) == math.inf
    assert condition_number([0.0, 0.0]) == math.inf
    assert condition_number([1.0, 1e-12]) == pytest.approx(1e12)


def test_rounding_does_not_make_a_singular_matrix_invertible() -> None:
    """kappa of a matrix with one dependent row is inf, although its computed sigma_min is not zero."""
    W = RNG.standard_normal((12, 60))
    W[5] = W[3] - W[7]
    assert condition_number(singular_values(W)) == math.inf


def test_modified_condition_number_by_hand() -> None:
    """sigma_max over the mean of the lowest ceil(r / 10) values (Sec. 3.4)."""
    assert modified_condition_number([8.0, 4.0, 2.0]) == 4.0
    twenty_one = np.r_[np.full(18, 6.0), 3.0, 2.0, 1.0]  # ceil(2.1) = 3, mean 2
    assert modified_condition_number(twenty_one) == 3.0
    assert modified_condition_number([6.0, 3.0, 2.0, 1.0], fraction=0.5) == 4.0
    assert modified_condition_number([6.0, 3.0, 2.0, 1.0], fraction=1.0) == 2.0
    assert modified_condition_number(np.r_[np.ones(19), 0.0]) == 2.0  # one zero of the lowest two
    assert modified_condition_number(np.r_[np.ones(8), 0.0]) == math.inf


def test_a_tenth_of_a_round_number_is_exact() -> None:
    """ceil(0.1 r) is r / 10 for multiples of ten, whatever 0.1 is in binary (0.1 * 70 > 7)."""
    for r in range(10, 1100, 10):
        sigmas = np.r_[np.ones(r - r // 10), np.full(r // 10, 0.5)]
        assert modified_condition_number(sigmas) == 2.0, r


def test_condition_numbers_refuse_what_is_not_finite() -> None:
    """NaN, inf, nothing, and a fraction outside (0, 1] raise ValueError."""
    for bad in ([1.0, math.nan], [math.inf, 1.0], []):
        with pytest.raises(ValueError, match="finite"):
            condition_number(bad)
    for fraction in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction"):
            modified_condition_number([1.0], fraction)


@pytest.mark.slow
def test_gram_is_faster_than_svd() -> None:
    """A discriminator's largest layers take less time than NumPy's SVD of the same matrices."""
    W = RNG.standard_normal((256, 2304))

    def best(measure: Callable[[NDArray[np.float64]], object]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            measure(W)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(singular_values) < best(lambda A: np.linalg.svd(A, compute_uv=False))
