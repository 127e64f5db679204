"""From a target to a polynomial: checks what is asked for, solves, and turns the answer into coefficients."""

from __future__ import annotations

import dataclasses
import math
import operator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.polynomial.chebyshev import cheb2poly
from numpy.polynomial.polynomial import polyadd, polymul
from pydantic import ValidationError

from pctool.core.polynomial import PUBLISHED, PUBLISHED_CUTOFFS, OddPolynomial
from pctool.core.polynomial_file import first_problem, read_model
from pctool.core.polynomial_models import (
    MAX_COEFFICIENT,
    MAX_DEGREE,
    Certificate,
    Fit,
    Knots,
    Version,
    check_certificate,
    proven_bound,
)
from pctool.errors import InputError
from pctool.fitting import least_squares, minimax

MAX_EVALUATION_ERROR = 1e-6  # of the stored coefficients in float64; the report could not be trusted beyond


class KnotsFile(Knots):
    """The file of `--target FILE`: {"format": "pctool-knots", "version": 1, "knots": [[0, 0], [x, f], ...]}."""

    format: Literal["pctool-knots"]
    version: Version


def read_knots(path: Path) -> Knots:
    """A piecewise-linear target by its corners. Raises InputError."""
    return Knots(knots=read_model(path, KnotsFile, "docs/fit-poly.md shows a knots file").knots)


def fit_polynomial(
    cutoff: float | None,
    degree: int,
    *,
    alpha: float = 4.0,
    gamma_lower: float = 0.0,
    gamma_upper: float = 1.1,
    points: int = 2000,
    sampling: str = "grid",
    seed: int | None = None,
    norm: str = "l2",
    at_one: bool = True,
    target: str | Knots = "pl",
) -> OddPolynomial:
    """The best odd polynomial of a degree (3, 5, ..., 25) for a target on [gamma_lower, gamma_upper].

    `norm` "l2" minimises the sum of x^alpha (g(x) - f(x))² over the sample points (eq. 5): `points` of them on
    an even grid, or drawn uniformly with `seed` (0 where it is None). "linf" minimises max |g - f| and proves
    it; alpha then only weights the report, and points, sampling and seed are not used. `at_one` asks for
    g(1) = 1. `target` is "pl" (PL_b, with b = `cutoff`), "one" (f = 1; gamma_lower above 0), or knots; the last
    two take no cutoff. The result carries its `fit`. Raises InputError for anything out of range.
    """
    degree, points, seed = (_integer(number) for number in (degree, points, seed))
    if not (isinstance(degree, int) and degree % 2 == 1 and 3 <= degree <= MAX_DEGREE):
        raise InputError(f"degree {degree} is not allowed: an odd number from 3 to {MAX_DEGREE}; try 7")
    if sampling == "uniform" and seed is None:
        seed = 0
    try:
        fit = Fit(
            cutoff=cutoff,
            alpha=alpha,
            gamma_lower=gamma_lower,
            gamma_upper=gamma_upper,
            points=points,
            sampling=sampling,  # type: ignore[arg-type]  # the model checks these three words
            seed=seed,
            norm=norm,  # type: ignore[arg-type]
            at_one=at_one,
            target=target,  # type: ignore[arg-type]
        )
    except ValidationError as error:
        raise InputError(f"cannot fit: {first_problem(error)}") from error
    return _solve(fit, (degree + 1) // 2)


def _integer(number: Any) -> Any:
    """NumPy's integers as Python's, which the models ask for; anything else as it is, for them to refuse."""
    return operator.index(number) if isinstance(number, np.integer) else number


def _solve(fit: Fit, size: int) -> OddPolynomial:
    if fit.norm == "l2":
        series, solver, version = least_squares.solve(fit, size)
        fit = fit.model_copy(update={"solver": solver, "solver_version": version})
        return OddPolynomial(_powers(series, size, fit), fit)
    series, certificate = minimax.solve(fit, size)
    fit = fit.model_copy(update={"solver": "NumPy-Remez", "solver_version": np.__version__})
    return certified(_powers(series, size, fit), fit, certificate)


def certified(coeffs: tuple[float, ...], fit: Fit, proof: Certificate) -> OddPolynomial:
    """A minimax fit with the bound that its final coefficients, rounded as they are, prove at the proof's points.

    Raises InputError where the rounding leaves the bound too far below the maximal error.
    """
    bound = proven_bound(OddPolynomial(coeffs), fit, proof.points)
    points = proof.points if bound > 0 else ()
    proof = proof.model_copy(update={"points": points, "lower_bound": max(bound, 0.0)})
    g = OddPolynomial(coeffs, fit.model_copy(update={"certificate": proof}))
    try:
        check_certificate(g)
    except ValueError as error:
        raise InputError(
            f"no certificate for degree {g.degree}: {error}; lower the degree or widen the range"
        ) from error
    return g


def _powers(series: Chebyshev, size: int, fit: Fit) -> tuple[float, ...]:
    """The coefficients of P in powers of y, each rounded once: the arithmetic before is exact, in fractions.

    Under g(1) = 1 the first coefficient takes up what the roundings leave of the sum. Raises InputError where
    float64 coefficients cannot carry the polynomial at all.
    """
    low, high = (Fraction(float(edge)) for edge in series.domain)
    t = np.array([-(high + low) / (high - low), 2 / (high - low)], dtype=object)  # t = t[0] + t[1] y
    exact = np.array([Fraction(0)], dtype=object)
    for coefficient in cheb2poly(np.array([Fraction(float(c)) for c in series.coef], dtype=object))[::-1]:
        exact = polyadd(polymul(exact, t), np.array([coefficient], dtype=object))
    coeffs = [float(a) for a in exact] + [0.0] * (size - len(exact))
    if fit.at_one:
        coeffs[0] += 1 - math.fsum(coeffs)
    x = np.linspace(fit.gamma_lower, fit.gamma_upper, 1001)
    gap = float(np.abs(OddPolynomial(tuple(coeffs))(x) - x * series(x * x)).max())
    largest = max(map(abs, coeffs))
    if not gap <= MAX_EVALUATION_ERROR or largest > MAX_COEFFICIENT:
        raise InputError(
            f"degree {2 * size - 1} on [{fit.gamma_lower:g}, {fit.gamma_upper:g}] has coefficients up to "
            f"{largest:.1e}, which lose {gap:.1e} in float64; lower the degree or widen the range"
        )
    return tuple(coeffs)


def published(degree: int) -> OddPolynomial:
    """A published polynomial, with the fit that gives it to within 0.005: what its report is measured against.

    Its authors drew about 1000 uniform points with a seed that they do not give; the file says `seed` null.
    Raises InputError for a degree that was not published.
    """
    if degree not in PUBLISHED:
        raise InputError(f"no polynomial of degree {degree} was published: 3, 5, 7 or 9; or fit one")
    fit = Fit(cutoff=PUBLISHED_CUTOFFS[degree], points=1000, sampling="uniform", solver="published")
    return dataclasses.replace(PUBLISHED[degree], fit=fit)
