"""Weighted least squares: the best of its kind, by two independent solvers, and the published polynomials."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pctool.core.polynomial import PUBLISHED, PUBLISHED_CUTOFFS, OddPolynomial
from pctool.core.polynomial_models import Fit
from pctool.errors import InputError
from pctool.fitting import fit_polynomial, least_squares

X = np.linspace(0, 1.1, 5001)
degrees = st.sampled_from(range(3, 15, 2))
cutoffs = st.floats(0.05, 1.0)


def weighted_error(g, fit):
    """The sum of eq. 5, written out."""
    x = least_squares.sample_points(fit)
    return float(np.sum(x**fit.alpha * (g(x) - fit.function()(x)) ** 2))


@pytest.mark.parametrize("degree", PUBLISHED)
def test_defaults_give_the_published_polynomials(degree):
    """Within 0.005 in sup norm on [0, 1.1] of each published set, with g(1) = 1."""
    g = fit_polynomial(PUBLISHED_CUTOFFS[degree], degree)
    assert np.abs(g(X) - PUBLISHED[degree](X)).max() < 0.005
    assert g(1.0) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("degree", "total"), [(3, 1.009), (5, 0.996), (7, 1.005), (9, 0.9995)])
def test_without_the_constraint_the_sums_are_the_known_ones(degree, total):
    """Free fits have g(1) = 1.009, 0.996, 1.005, 0.9995 for the published cutoffs."""
    assert sum(fit_polynomial(PUBLISHED_CUTOFFS[degree], degree, at_one=False).coeffs) == pytest.approx(total, abs=2e-3)


@pytest.mark.parametrize(
    ("degree", "expected"),
    [
        (3, (1.5087, -0.5087)),
        (5, (2.0985, -1.6768, 0.5782)),
        (7, (2.9102, -4.6549, 4.0335, -1.2888)),
        (9, (3.6352, -9.3294, 14.2521, -10.4975, 2.9395)),
    ],
)
def test_many_points_give_the_continuous_limit(degree, expected):
    """With 4,000 points g is that of the integral (eq. 4), as far as its coefficients' four decimals go."""
    g = fit_polynomial(PUBLISHED_CUTOFFS[degree], degree, points=4000)
    np.testing.assert_allclose(g(X), OddPolynomial(expected)(X), rtol=0, atol=1.5e-4)


@settings(max_examples=25, deadline=None)
@example(5, 0.270661912479535, 0.0, False, "grid")  # a second tolerance used to begin where the first had failed
@given(degrees, cutoffs, st.sampled_from([0.0, 2.0, 4.0]), st.booleans(), st.sampled_from(["grid", "uniform"]))
def test_it_is_numpys_least_squares_in_powers(degree, cutoff, alpha, at_one, sampling):
    """NumPy's SVD-based lstsq, in plain odd powers with g(1) = 1 put in by elimination, finds the same function."""
    g = fit_polynomial(cutoff, degree, alpha=alpha, at_one=at_one, sampling=sampling, points=500)
    x = least_squares.sample_points(g.fit)
    f = np.minimum(x / cutoff, 1)
    powers = x[:, None] ** np.arange(1, degree + 1, 2)
    if at_one:  # a0 = 1 - a1 - a2 - ...
        powers, f = powers[:, 1:] - powers[:, :1], f - x
    a = np.linalg.lstsq(x[:, None] ** (alpha / 2) * powers, x ** (alpha / 2) * f)[0]
    expected = OddPolynomial((1 - a.sum(), *a) if at_one else tuple(a))
    np.testing.assert_allclose(g(X), expected(X), rtol=0, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(degrees, cutoffs, st.booleans(), st.lists(st.floats(-1, 1), min_size=7, max_size=7), st.floats(-6, 0))
def test_no_other_polynomial_has_a_smaller_weighted_error(degree, cutoff, at_one, direction, exponent):
    """Nothing of the same degree and constraint, near or far, is better in the sum of eq. 5."""
    g = fit_polynomial(cutoff, degree, at_one=at_one, points=300)
    change = np.array(direction[: len(g.coeffs)]) * 10**exponent
    if at_one:
        change -= change.mean()
    other = OddPolynomial(tuple(np.array(g.coeffs) + change))
    best = weighted_error(g, g.fit)
    assert weighted_error(other, g.fit) >= best * (1 - 1e-9) - 1e-15


@settings(max_examples=20, deadline=None)
@given(degrees, st.floats(0.1, 0.9), st.floats(0.5, 3.0), st.sampled_from(["l2", "linf"]))
def test_free_fits_commute_with_scaling_range_and_cutoff(degree, cutoff, scale, norm):
    """Fitting PL_sb on [0, 1.1 s] and scaling back gives the fit of PL_b on [0, 1.1], in both norms."""
    g = fit_polynomial(cutoff, degree, norm=norm, at_one=False, points=500)
    scaled = fit_polynomial(scale * cutoff, degree, norm=norm, at_one=False, gamma_upper=1.1 * scale, points=500)
    np.testing.assert_allclose(scaled(scale * X), g(X), rtol=0, atol=1e-6)


def test_degree_25_with_a_sharp_corner_takes_under_a_second():
    """Degree 25, cutoff 0.05: both solvers agree to 1e-9, g(1) = 1, in under 1 s once cvxpy is loaded."""
    fit_polynomial(0.4, 3)
    start = time.perf_counter()
    g = fit_polynomial(0.05, 25)
    assert time.perf_counter() - start < 1
    assert g(1.0) == pytest.approx(1, abs=1e-9)
    assert (g.fit.solver, g.degree) == ("CLARABEL", 25)


@pytest.mark.parametrize("at_one", [True, False])
def test_the_two_solvers_agree(at_one):
    """cvxpy and SVD give the same coefficients to 1e-10 at degree 25, in the basis where both are computed."""
    fit = Fit(cutoff=0.3)
    x = least_squares.sample_points(fit)
    matrix = x[:, None] ** 2 * least_squares.basis_values(x, 13, (0, 1.21))
    goal = x**2 * fit.function()(x)
    constraint = least_squares.basis_values(np.ones(1), 13, (0, 1.21))[0] if at_one else None
    by_cvxpy, name = least_squares._by_cvxpy(matrix, goal, constraint)
    assert name == "CLARABEL"
    np.testing.assert_allclose(by_cvxpy, least_squares._by_svd(matrix, goal, constraint), rtol=0, atol=1e-10)


@pytest.mark.parametrize("at_one", [True, False])
def test_the_largest_alpha_solves_at_every_degree(at_one):
    """Weight x^16 leaves small x to rounding; still degrees 17 to 25 are solved, no worse in eq. 5 than degree 15."""
    errors = []
    for degree in (15, 17, 21, 25):
        g = fit_polynomial(0.4, degree, alpha=16.0, at_one=at_one)
        errors.append(weighted_error(g, g.fit))
    assert errors == sorted(errors, reverse=True)


def test_a_disagreement_is_refused(monkeypatch):
    """If cvxpy's answer were off by 1e-8, nothing would be returned."""
    honest = least_squares._by_cvxpy

    def off(matrix, goal, constraint):
        answer, name = honest(matrix, goal, constraint)
        return answer + 1e-8, name

    monkeypatch.setattr(least_squares, "_by_cvxpy", off)
    with pytest.raises(InputError, match="differ by"):
        fit_polynomial(0.4, 7)


def test_what_has_no_optimum_is_refused():
    """g(1) = 1 on [0, 0.5] at degree 25: the solver gives up, and that is said in one line."""
    with pytest.raises(InputError, match=r"no optimum|badly conditioned"):
        fit_polynomial(0.4, 25, gamma_upper=0.5)


def test_uniform_points_follow_the_seed():
    """The same seed gives the same fit, another seed another; no seed is seed 0."""
    fits = [fit_polynomial(0.4, 7, sampling="uniform", points=200, seed=seed) for seed in (0, None, 0, 1)]
    assert fits[0] == fits[1] == fits[2] != fits[3]
    assert fits[1].fit.seed == 0
