"""What is asked for: bad requests refused in one line, knots files, and coefficients that are rounded once."""

import json
from fractions import Fraction

import numpy as np
import pytest
from numpy.polynomial import Chebyshev

from pctool.core.polynomial import PUBLISHED, OddPolynomial
from pctool.core.polynomial_models import Fit, Knots, report
from pctool.errors import InputError
from pctool.fitting import fit, fit_polynomial, published, read_knots

REFUSED = {
    "degree 4": ({"degree": 4}, "odd number from 3 to 25"),
    "degree 1": ({"degree": 1}, "odd number from 3 to 25"),
    "degree 27": ({"degree": 27}, "odd number from 3 to 25"),
    "degree 7.0": ({"degree": 7.0}, "odd number"),
    "cutoff 0": ({"cutoff": 0.0}, "cutoff 0 must lie in"),
    "a negative cutoff": ({"cutoff": -0.4}, "must lie in"),
    "a cutoff at gamma_upper": ({"cutoff": 1.1}, "must lie in"),
    "a cutoff above 1": ({"cutoff": 1.05}, "at most 1 with g"),
    "no cutoff": ({"cutoff": None}, "a cutoff is needed"),
    "NaN": ({"cutoff": float("nan")}, "finite"),
    "a negative alpha": ({"alpha": -1.0}, "alpha -1.0: should be greater than or equal to 0"),
    "an infinite alpha": ({"alpha": float("inf")}, "alpha inf"),
    "an empty range": ({"gamma_lower": 1.1}, "gamma_lower 1.1 must"),
    "a huge range": ({"gamma_upper": 5.0}, "gamma_upper 5.0: should be less than or equal to 4"),
    "few points": ({"points": 99}, "points 99: should be greater than or equal to 100"),
    "too many points": ({"points": 100_001}, "points 100001"),
    "another sampling": ({"sampling": "sobol"}, "'grid' or 'uniform'"),
    "a seed for a grid": ({"seed": 3}, "seed belongs to uniform"),
    "a negative seed": ({"seed": -1, "sampling": "uniform"}, "seed -1"),
    "another norm": ({"norm": "l1"}, "'l2' or 'linf'"),
    "another target": ({"target": "two", "cutoff": None}, "'pl' or 'one'"),
    "one from 0": ({"target": "one", "cutoff": None}, "gamma_lower above 0"),
    "one with a cutoff": ({"target": "one", "gamma_lower": 0.1}, "cutoff belongs"),
    "knots away from 1": ({"target": Knots(knots=((0.0, 0.0), (1.0, 0.9))), "cutoff": None}, "free the fit"),
}


@pytest.mark.parametrize(("options", "hint"), REFUSED.values(), ids=REFUSED)
def test_bad_requests_are_refused_in_one_line(options, hint):
    """InputError says what was given and what is allowed."""
    with pytest.raises(InputError) as caught:
        fit_polynomial(**{"cutoff": 0.4, "degree": 7, **options})
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cutoff_above_1_is_for_free_fits():
    """On a longer range PL_1.5 is fitted without g(1) = 1."""
    g = fit_polynomial(1.5, 7, gamma_upper=2.0, at_one=False)
    assert g(1.0) == pytest.approx(1 / 1.5, abs=0.05)


def test_the_fit_is_carried_along():
    """Everything that was asked for, and by what it was solved."""
    g = fit_polynomial(0.5, 5, alpha=3.0, gamma_lower=0.1, gamma_upper=1.2, points=300, at_one=False)
    assert (g.degree, g.fit.cutoff, g.fit.alpha, g.fit.gamma_lower, g.fit.gamma_upper) == (5, 0.5, 3.0, 0.1, 1.2)
    assert (g.fit.points, g.fit.sampling, g.fit.seed, g.fit.norm, g.fit.at_one) == (300, "grid", None, "l2", False)
    assert g.fit.certificate is None
    assert fit_polynomial(0.5, 5, norm="linf").fit.solver == "NumPy-Remez"


@pytest.mark.parametrize("domain", [(0.0, 1.21), (0.01, 1.21), (0.25, 4.0)])
def test_coefficients_are_rounded_once(domain):
    """Each power's coefficient is the float nearest to its exact value, summed here from the Chebyshev recurrence."""
    series = Chebyshev(np.random.default_rng(0).normal(size=9), domain=domain)
    request = Fit(cutoff=0.5, gamma_lower=domain[0] ** 0.5, gamma_upper=domain[1] ** 0.5, at_one=False)
    low, high = map(Fraction, series.domain.tolist())
    t = {0: -(high + low) / (high - low), 1: 2 / (high - low)}

    def times_t(p):
        product = [Fraction(0)] * (len(p) + 1)
        for power, a in enumerate(p):
            product[power] += a * t[0]
            product[power + 1] += a * t[1]
        return product

    first, second, exact = [Fraction(1)], times_t([Fraction(1)]), [Fraction(0)] * 9
    for c in series.coef:
        exact = [a + Fraction(float(c)) * (first[i] if i < len(first) else 0) for i, a in enumerate(exact)]
        third = [2 * a for a in times_t(second)]
        third = [a - (first[i] if i < len(first) else 0) for i, a in enumerate(third)]
        first, second = second, third
    assert fit._powers(series, 9, request) == tuple(float(a) for a in exact)


def test_coefficients_that_float64_cannot_carry_are_refused():
    """A steep line at degree 25 on [0.1, 0.5] needs some of 10^15: refused in one line."""
    steep = Knots(knots=((0.0, 0.0), (0.01, -1000.0), (0.5, 1.0)))
    with pytest.raises(InputError, match="coefficients up to"):
        fit_polynomial(None, 25, target=steep, gamma_lower=0.1, gamma_upper=0.5, at_one=False, norm="linf")


def test_knots_are_read_and_fitted(tmp_path):
    """The knots 0, 0 / 0.4, 1 are PL_0.4: the same coefficients."""
    path = tmp_path / "knots.json"
    path.write_text(json.dumps({"format": "pctool-knots", "version": 1, "knots": [[0, 0], [0.4, 1]]}))
    knots = read_knots(path)
    assert fit_polynomial(None, 7, target=knots).coeffs == pytest.approx(fit_polynomial(0.4, 7).coeffs, abs=1e-10)


@pytest.mark.parametrize(
    "knots",
    [
        [[0, 0]],
        [[0.1, 0], [1, 1]],
        [[0, 0.1], [1, 1]],
        [[0, 0], [0.5, 1], [0.5, 0]],
        [[0, 0], [1, 1e4]],
        [[0, 0], [1]],
        3,
    ],
    ids=["one", "not from 0", "f(0) not 0", "a jump", "huge", "half a knot", "no list"],
)
def test_knots_that_are_no_function_are_refused(knots, tmp_path):
    """InputError names the file."""
    path = tmp_path / "knots.json"
    path.write_text(json.dumps({"format": "pctool-knots", "version": 1, "knots": knots}))
    with pytest.raises(InputError, match=r"knots\.json"):
        read_knots(path)


@pytest.mark.parametrize("degree", PUBLISHED)
def test_a_published_polynomial_carries_its_fit(degree, tmp_path):
    """Its coefficients are the table's, its report is measured against its cutoff, and it survives a file."""
    g = published(degree)
    assert g == PUBLISHED[degree]
    assert report(g).max_error < 0.14
    g.save(tmp_path / "p.json")
    assert OddPolynomial.load(tmp_path / "p.json").fit == g.fit


def test_what_was_not_published_is_refused():
    """Degree 11 was not."""
    with pytest.raises(InputError, match="3, 5, 7 or 9"):
        published(11)


def test_integers_of_numpy_are_integers():
    """As they come out of a loop over an array; what only looks like one is refused."""
    plain = fit_polynomial(0.4, 7, points=500, sampling="uniform", seed=3)
    assert fit_polynomial(0.4, np.int64(7), points=np.int64(500), sampling="uniform", seed=np.uint8(3)) == plain
    with pytest.raises(InputError, match=r"degree 7\.0 is not allowed"):
        fit_polynomial(0.4, 7.0)
