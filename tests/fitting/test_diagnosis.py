"""What a polynomial will do: condition numbers, overshoot, and falls, against spectra and dense grids."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial
from pctool.fitting import fit_polynomial
from pctool.fitting.diagnosis import diagnose, kappa_after

eighths = st.integers(-80, 80).map(lambda n: n / 8)
coefficients = st.lists(eighths, min_size=1, max_size=6).map(tuple)


@pytest.mark.parametrize(
    ("degree", "expected"), [(3, (3.36, 6.66, 19.9)), (7, (1.87, 3.56, 10.5)), (9, (1.56, 2.89, 8.47))]
)
def test_the_published_polynomials_do_what_is_known(degree, expected):
    """Kappa out for kappa 5, 10, 30, to three digits."""
    found = [kappa_after(PUBLISHED[degree], kappa) for kappa in (5, 10, 30)]
    assert found == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("degree", "expected"), [(3, (2.40, 4.47, 12.9)), (7, (1.37, 2.20, 5.83)), (9, (1.22, 1.82, 4.62))]
)
def test_equal_ripple_polynomials_do_what_linear_programming_says(degree, expected):
    """The smallest kappa that a degree can reach on [1/kappa, 1.1], for kappa 5, 10, 30, to three digits."""
    for kappa, best in zip((5, 10, 30), expected, strict=True):
        g = fit_polynomial(None, degree, norm="linf", target="one", gamma_lower=1 / kappa, at_one=False)
        assert kappa_after(g, kappa, 1.1) == pytest.approx(best, rel=5e-3)


@settings(max_examples=60, deadline=None)
@given(coefficients, st.sampled_from([2.0, 10.0, 100.0]))
def test_kappa_after_is_that_of_a_dense_spectrum(coeffs, kappa):
    """The condition number of |g(sigma)| for 20,001 singular values from 1/kappa to 1, or more by a grid's gap."""
    g = OddPolynomial(coeffs)
    sizes = np.abs(g(np.linspace(1 / kappa, 1, 20_001)))
    stated = kappa_after(g, kappa)
    if math.isfinite(stated):
        slope = sum(abs(a) * (2 * i + 1) for i, a in enumerate(coeffs)) / 20_000
        assert stated >= sizes.max() / sizes.min() * (1 - 1e-12)
        assert stated <= (sizes.max() + slope) / max(sizes.min() - slope, 1e-300)
    else:
        values = g(np.linspace(1 / kappa, 1, 20_001))
        assert values.min() <= 1e-3 * sizes.max() + 1e-300 or values.max() >= -1e-3 * sizes.max()


def test_the_identity_changes_no_kappa_and_has_no_faults():
    """g(x) = x: kappa stays, nothing falls; on [0, 1.1] it passes 1.02 from 1.02 on."""
    found = diagnose(IDENTITY)
    assert found.kappa_after == pytest.approx({2: 2, 5: 5, 10: 10, 30: 30, 100: 100, 1000: 1000})
    assert found.falls == ()
    assert found.above == ((pytest.approx(1.02), 1.1),)
    assert found.beyond == {1.2: 1.2, 1.5: 1.5}
    assert found.bfloat16_error == 0


def test_growth_beyond_the_range_is_the_known_one():
    """g9(1.2) = 1.25 and g9(1.5) = 15.5."""
    assert diagnose(PUBLISHED[9]).beyond == pytest.approx({1.2: 1.25, 1.5: 15.5}, rel=5e-3)


@settings(max_examples=60, deadline=None)
@given(coefficients)
def test_above_and_falls_are_where_a_dense_grid_sees_them(coeffs):
    """Inside the intervals |g|, the singular value, exceeds 1.02 (or falls), outside it does not."""
    g = OddPolynomial(coeffs)
    found = diagnose(g)
    x = np.linspace(0, 1.1, 5001)

    def inside(points, intervals, margin):
        return np.any([(points > a + margin) & (points < b - margin) for a, b in intervals] or [points < -1], axis=0)

    assert np.all(np.abs(g(x))[inside(x, found.above, 1e-9)] > 1.02 - 1e-9)
    assert np.all(np.abs(g(x))[~inside(x, found.above, -1e-9)] <= 1.02 + 1e-9)
    middle = (x[1:] + x[:-1]) / 2
    change = np.diff(np.abs(g(x)))
    assert np.all(change[inside(middle, found.falls, 3e-4)] <= 1e-9)
    assert np.all(change[~inside(middle, found.falls, -3e-4)] >= -1e-6)


def test_negative_values_count_by_their_size():
    """g = -2x: a singular value passes 1.02 from 0.51 on, and none changes its order; x - 2x^3 falls to its zero."""
    found = diagnose(OddPolynomial((-2.0,)))
    assert found.above == ((pytest.approx(0.51), 1.1),)
    assert found.falls == ()
    (start, end) = diagnose(OddPolynomial((1.0, -2.0))).falls[0]
    assert (start, end) == (pytest.approx(6**-0.5), pytest.approx(0.5**0.5))


def test_a_fit_on_a_short_range_is_looked_at_up_to_where_the_layer_uses_it():
    """Fitted on [0, 0.2], g explodes before 1: overshoot up to 1.1 and the float32 error there are reported."""
    found = diagnose(fit_polynomial(0.1, 9, gamma_upper=0.2, at_one=False))
    assert found.upper == 1.1
    assert found.above[-1][1] == 1.1
    assert found.float32_error > 1


def test_a_zero_makes_kappa_infinite_and_json_null():
    """g = x - x^3 sends 1 to 0; the JSON stays strict."""
    found = diagnose(OddPolynomial((1.0, -1.0)))
    assert math.isinf(found.kappa_after[2])
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["kappa_after"]["2"] is None
