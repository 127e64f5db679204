"""What a polynomial does on a range, against dense grids, quadrature, and PyTorch's own low precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from pctool.core import polynomial_report
from pctool.core.polynomial import PUBLISHED, OddPolynomial
from pctool.core.polynomial_report import Target

KNOTS = Target((0.0, 0.2, 0.5, 0.9), (0.0, 0.6, 0.4, 1.0))
TARGETS = {"PL_0.4": Target.piecewise(0.4), "constant": Target.constant(), "knots": KNOTS}

eighths = st.integers(-80, 80).map(lambda n: n / 8)
coefficients = st.lists(eighths, min_size=1, max_size=8).map(tuple)


def test_targets_are_what_the_paper_says():
    """PL_b is x/b below b and 1 from there on; the constant is 1 everywhere; knots are joined by lines."""
    x = np.array([0.0, 0.1, 0.4, 0.7, 1.1])
    np.testing.assert_allclose(Target.piecewise(0.4)(x), [0, 0.25, 1, 1, 1], atol=1e-15)
    np.testing.assert_array_equal(Target.constant()(x), np.ones(5))
    np.testing.assert_allclose(KNOTS(x), [0, 0.3, 0.6 - 0.2 * 2 / 3, 0.7, 1], atol=1e-15)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("lower", [0.0, 0.1, 0.45])
def test_pieces_make_up_the_target(target, lower):
    """Neighbouring pieces meet, cover the range, and each has the target's own slope."""
    pieces = list(target.pieces(lower, 1.1))
    assert [pieces[0][0], pieces[-1][1]] == [lower, 1.1]
    assert [p[1] for p in pieces[:-1]] == [p[0] for p in pieces[1:]]
    for start, end, slope in pieces:
        assert slope == pytest.approx((target(end) - target(start)) / (end - start), abs=1e-12)


def test_flat_points_of_a_known_cubic():
    """g = 3x - x^3 rests at 1 and falls from there on, |g| to the zero at 3^0.5; it has the slope 2.25 at 0.5."""
    g = OddPolynomial((3.0, -1.0))
    series = polynomial_report.series_of(g.coeffs, 0.0, 2.0)
    assert polynomial_report.flat_points(series, 0.0, 2.0) == pytest.approx([1.0], abs=1e-14)
    assert polynomial_report.flat_points(series, 0.0, 2.0, slope=2.25) == pytest.approx([0.5], abs=1e-14)
    assert polynomial_report.falls(g, 0.0, 2.0) == [(pytest.approx(1.0), pytest.approx(3**0.5))]
    assert polynomial_report.falls(g, 0.0, 0.9) == []


@settings(max_examples=60, deadline=None)
@given(coefficients, st.sampled_from(sorted(TARGETS)), st.sampled_from([0.0, 0.1, 0.45]))
def test_no_point_of_a_dense_grid_lies_beyond_the_extremes(coeffs, name, lower):
    """Maximal error and value are never below a grid's 20,001 points, and exceed them by the grid's gap at most."""
    g, target = OddPolynomial(coeffs), TARGETS[name]
    found = polynomial_report.measures(g, target, lower, 1.1, 4.0)
    x = np.linspace(lower, 1.1, 20_001)
    size = 1 + sum(abs(a) * (2 * i + 1) ** 2 * 1.1 ** (2 * i + 1) for i, a in enumerate(coeffs))
    step = 1.1 / 20_000
    for stated, seen in [(found["max_error"], np.abs(g(x) - target(x)).max()), (found["max_value"], g(x).max())]:
        assert -1e-12 * size <= stated - seen <= step * size
    falling = polynomial_report.falls(g, lower, 1.1)
    assert found["monotone"] == (not falling)
    assert all(abs(g(start)) - abs(g(end)) > 1e-6 for start, end in falling)
    outside = np.all([(x <= start) | (x >= end) for start, end in falling], axis=0) if falling else x >= 0
    assert np.all(np.diff(np.abs(g(x)))[outside[1:] & outside[:-1]] > -1e-6)


@settings(max_examples=30, deadline=None)
@given(coefficients, st.sampled_from(sorted(TARGETS)), st.sampled_from([0.0, 2.0, 4.0, 3.5]))
def test_weighted_rms_is_the_integral(coeffs, name, alpha):
    """The root of the weighted mean square, as SciPy's adaptive quadrature finds it piece by piece."""
    g, target = OddPolynomial(coeffs), TARGETS[name]
    squares = total = 0.0
    for start, end, _ in target.pieces(0.0, 1.1):
        squares += quad(lambda x: x**alpha * float(g(x) - target(x)) ** 2, start, end, epsabs=1e-13)[0]
        total += quad(lambda x: x**alpha, start, end, epsabs=1e-13)[0]
    rms = polynomial_report.weighted_rms(g, target, 0.0, 1.1, alpha)
    assert rms == pytest.approx(np.sqrt(squares / total), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_errors_are_those_of_pytorch(degree, dtype):
    """The stated float32 and bfloat16 errors are what Horner's rule loses in PyTorch's own arithmetic, to the bit."""
    g = PUBLISHED[degree]
    x = torch.linspace(0, 1.1, 2001, dtype=torch.float64).to(dtype)
    value = torch.full_like(x, g.coeffs[-1])
    for a in g.coeffs[-2::-1]:
        value = value * (x * x) + torch.tensor(a, dtype=dtype)
    expected = float(((x * value).double() - g(x.double())).abs().max())
    measure = polynomial_report.float32_error if dtype == torch.float32 else polynomial_report.bfloat16_error
    assert measure(g) == expected > 0
