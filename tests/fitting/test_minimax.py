"""Minimax polynomials: against linear programming, with certificates that hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from pctool.core.polynomial_models import Knots, check_certificate, report
from pctool.errors import InputError
from pctool.fitting import fit_polynomial, least_squares, minimax

KNOTS = Knots(knots=((0.0, 0.0), (0.2, 0.7), (0.5, 0.4), (0.9, 1.0)))
degrees = st.sampled_from(range(3, 27, 2))
cutoffs = st.floats(0.02, 1.0)


def fit(cutoff, degree, **options):
    """A minimax fit."""
    return fit_polynomial(cutoff, degree, norm="linf", **options)


def by_linear_programming(fit, size, points=4000):
    """The smallest maximal error on a dense grid, by HiGHS: a lower bound, off by the grid's coarseness only."""
    domain = (fit.gamma_lower**2, fit.gamma_upper**2)
    x = fit.gamma_lower + (fit.gamma_upper - fit.gamma_lower) * (1 - np.cos(np.linspace(0, np.pi, points))) / 2
    x = np.unique([*x, *[k for k in fit.function().x if fit.gamma_lower < k < fit.gamma_upper]])
    values, goal, one = least_squares.basis_values(x, size, domain), fit.function()(x), np.ones((len(x), 1))
    equal = {}
    if fit.at_one:
        row = least_squares.basis_values(np.ones(1), size, domain)
        equal = {"A_eq": np.hstack([row, [[0.0]]]), "b_eq": [1.0]}
    result = linprog(
        [*np.zeros(size), 1.0],
        A_ub=np.vstack([np.hstack([values, -one]), np.hstack([-values, -one])]),
        b_ub=np.concatenate([goal, -goal]),
        bounds=[(None, None)] * (size + 1),
        **equal,
    )
    assert result.status == 0
    return result.fun


@pytest.mark.parametrize("at_one", [True, False])
@pytest.mark.parametrize(("cutoff", "degree"), [(0.8, 3), (0.6, 5), (0.4, 7), (0.3, 9), (1.0, 7), (0.1, 15)])
def test_the_error_is_that_of_linear_programming(cutoff, degree, at_one):
    """A linear program over 4,000 points finds the same smallest error, with and without g(1) = 1."""
    g = fit(cutoff, degree, at_one=at_one)
    assert report(g).max_error == pytest.approx(by_linear_programming(g.fit, len(g.coeffs)), rel=1e-5)


@pytest.mark.parametrize("options", [
    {"target": "one", "gamma_lower": 0.1, "at_one": False},
    {"target": "one", "gamma_lower": 0.1},
    {"target": KNOTS, "at_one": False},
    {"target": KNOTS},
    {"target": KNOTS, "gamma_lower": 0.3, "gamma_upper": 0.8, "at_one": False},
], ids=["one, free", "one", "knots, free", "knots", "part of the knots"])  # fmt: skip
def test_other_targets_match_linear_programming_too(options):
    """f = 1 on [0.1, 1.1], and corners up and down, on the whole range and on a part."""
    for degree in (3, 7, 11):
        g = fit(None, degree, **options)
        assert report(g).max_error == pytest.approx(by_linear_programming(g.fit, len(g.coeffs)), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(degrees, cutoffs, st.booleans())
def test_the_certificate_closes_the_gap(degree, cutoff, at_one):
    """The bound lies within 1e-6, and the rounding, of the maximal error, at one point more than unknowns."""
    g = fit(cutoff, degree, at_one=at_one)
    proof, upper = g.fit.certificate, report(g).max_error
    assert proof.lower_bound <= upper * (1 + 1e-6)
    rounding = degree * 2**-53 * sum(abs(a) * 1.1 ** (2 * i + 1) for i, a in enumerate(g.coeffs))
    assert upper - proof.lower_bound <= 1e-6 * upper + rounding + 1e-12
    assert proof.levelled_error == pytest.approx(upper, rel=1e-6, abs=rounding + 1e-12)
    assert len(proof.points) == len(g.coeffs) + 1 - at_one
    error = np.array([g(x) - float(g.fit.function()(x)) for x in proof.points])
    signed = error * (1 - np.array(proof.points)) if at_one else error
    assert np.all(signed[1:] * signed[:-1] < 0)
    check_certificate(g)


@settings(max_examples=30, deadline=None)
@given(degrees, cutoffs, st.booleans(), st.lists(st.floats(-1, 1), min_size=13, max_size=13), st.floats(-5, 0))
def test_no_other_polynomial_comes_below_the_bound(degree, cutoff, at_one, direction, exponent):
    """Whatever polynomial of the same degree and constraint is tried, its maximal error is not below the bound."""
    g = fit(cutoff, degree, at_one=at_one)
    change = np.array(direction[: len(g.coeffs)]) * 10**exponent
    domain = (0.0, 1.21)
    values = least_squares.basis_values(np.array([*g.fit.certificate.points, 1.0]), len(change), domain) @ change
    if at_one:  # what is added must vanish at 1
        values = values - values[-1] * np.array([*g.fit.certificate.points, 1.0])
    points = np.array(g.fit.certificate.points)
    error = np.abs(g(points) + values[:-1] - g.fit.function()(points)).max()
    assert error >= g.fit.certificate.lower_bound * (1 - 1e-9) - 1e-7


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(range(3, 25, 2)), cutoffs, st.floats(0.3, 0.99))
def test_errors_fall_with_the_degree_and_rise_as_the_cutoff_falls(degree, cutoff, factor):
    """Free minimax errors: a higher degree is never worse, a smaller cutoff never better."""
    error = report(fit(cutoff, degree, at_one=False)).max_error
    assert report(fit(cutoff, degree + 2, at_one=False)).max_error <= error * (1 + 1e-6) + 1e-9
    assert report(fit(cutoff * factor, degree, at_one=False)).max_error >= error * (1 - 1e-6) - 1e-9


def test_random_ranges_and_corners_are_all_certified():
    """80 random targets, ranges and degrees: every exchange ends with a certificate."""
    rng = np.random.default_rng(0)
    for _ in range(80):
        lower = float(rng.choice([0.0, rng.uniform(0, 0.9)]))
        corners = np.cumsum(rng.uniform(0.02, 0.4, rng.integers(2, 8)))
        knots = Knots(
            knots=((0.0, 0.0), *zip(corners.tolist(), rng.uniform(-1, 2, len(corners)).tolist(), strict=True))
        )
        g = fit(
            None,
            int(rng.choice(range(3, 17, 2))),
            gamma_lower=lower,
            gamma_upper=lower + float(rng.uniform(0.3, 2)),
            at_one=False,
            target=knots,
        )
        assert g.fit.certificate.lower_bound >= report(g).max_error * (1 - 1e-5) - 1e-7


def test_a_target_that_a_polynomial_meets_exactly():
    """f = x is its own best fit: no error, and no bound above zero."""
    g = fit(None, 7, target=Knots(knots=((0.0, 0.0), (2.0, 2.0))), at_one=True)
    assert g.coeffs == (1.0, 0.0, 0.0, 0.0)
    assert g.fit.certificate.lower_bound == pytest.approx(0, abs=1e-12)


def test_a_tiny_error_is_bounded_by_what_its_coefficients_prove():
    """An error of 4e-8 with coefficients of 1e3: the stored bound is the least error of g itself at the points."""
    g = fit(None, 25, target="one", gamma_lower=0.6, at_one=False)
    assert report(g).max_error < 1e-7
    assert g.fit.certificate.lower_bound == min(abs(g(x) - 1) for x in g.fit.certificate.points)


def test_without_a_certificate_there_is_no_answer(monkeypatch):
    """An exchange that stops too early is refused, with both bounds."""
    monkeypatch.setattr(minimax, "MAX_EXCHANGES", 1)
    with pytest.raises(InputError, match="no certificate"):
        fit(0.4, 7)
