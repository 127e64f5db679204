"""Ladders for adaptive preconditioning: polynomials of rising strength, and when to move from one to the next."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from pctool.core.polynomial import OddPolynomial
from pctool.core.polynomial_models import Certificate, Knots
from pctool.core.polynomial_report import falls, value_extremes
from pctool.errors import InputError
from pctool.fitting.diagnosis import kappa_after
from pctool.fitting.fit import fit_polynomial, published

DEGREES = (3, 5, 7, 9)  # of the paper's APC (section 3.4)
DEFAULT_KAPPA_AFTER = 5.0  # what the paper's APC leaves alone: its first threshold
KAPPA_AFTER_RANGE = (1.2, 100.0)


@dataclass(frozen=True)
class Ladder:
    """Above `taus[i]` APC uses `polynomials[i]`; each brings kappas up to `reach[i]` down to `goal`.

    `reach[i]` is `taus[i + 1]`; above the last reach, kappa after it grows in proportion.
    """

    taus: tuple[float, ...]
    polynomials: tuple[OddPolynomial, ...]
    reach: tuple[float, ...]
    goal: float

    def outcomes(self) -> list[tuple[float, float, float, float]]:
        """Of each rung: its reach, kappa after it there, its largest value, the part of [0, 1] where it falls."""
        found = []
        for g, reach in zip(self.polynomials, self.reach, strict=True):
            upper = g.fit.gamma_upper if g.fit else 1.0
            largest = float(g(value_extremes(g, 0.0, upper)).max())
            falling = sum(end - start for start, end in falls(g, 0.0, 1.0))
            found.append((reach, kappa_after(g, reach), largest, falling))
        return found


def fit_ladder(goal: float = DEFAULT_KAPPA_AFTER, *, gamma_upper: float = 1.1) -> Ladder:
    """The strongest ladder: for each degree the polynomial that brings the largest kappa down to `goal`.

    That is the equal-ripple polynomial: the minimax fit of a constant on [1/kappa, gamma_upper], which swings
    between two values whose ratio is the smallest condition number that its degree can reach there. Each is
    scaled so that its largest value is 1: the layer's norm stays bounded as under spectral normalisation. A
    layer whose kappa is `goal` or less is left alone. Raises InputError for values out of range.
    """
    _check(goal)
    if not 1 < gamma_upper <= 4:
        raise InputError(f"gamma_upper {gamma_upper:g} must lie in (1, 4] for a ladder; try 1.1")
    reach = tuple(_round_down(_reach(degree, goal, gamma_upper)) for degree in DEGREES)
    polynomials = tuple(
        equal_ripple(degree, kappa, gamma_upper=gamma_upper) for degree, kappa in zip(DEGREES, reach, strict=True)
    )
    return Ladder((goal, *reach[:-1]), polynomials, reach, goal)


def published_ladder(goal: float = DEFAULT_KAPPA_AFTER) -> Ladder:
    """The published polynomials, with thresholds at which each leaves a condition number of `goal`."""
    _check(goal)
    polynomials = tuple(published(degree) for degree in DEGREES)
    reach = tuple(_round_down(_last_below(functools.partial(kappa_after, g), goal)) for g in polynomials)
    return Ladder((goal, *reach[:-1]), polynomials, reach, goal)


def equal_ripple(degree: int, kappa: float, *, gamma_upper: float = 1.1) -> OddPolynomial:
    """The odd polynomial of a degree with the smallest max/min on [1/kappa, gamma_upper], its largest value 1.

    Its fit says so with a certificate: the minimax fit of a constant, which is 1 before the scaling.
    """
    g = fit_polynomial(
        None, degree, gamma_lower=1 / kappa, gamma_upper=gamma_upper, norm="linf", at_one=False, target="one"
    )
    if g.fit is None or g.fit.certificate is None:
        raise ValueError("a minimax fit carries its certificate")
    proof = g.fit.certificate
    scale = 1 / float(g(value_extremes(g, 1 / kappa, gamma_upper)).max())
    proof = Certificate(
        points=proof.points,
        levelled_error=proof.levelled_error * scale,
        lower_bound=proof.lower_bound * scale,
    )
    target = Knots(knots=((0.0, 0.0), (1 / kappa, scale)))
    fit = g.fit.model_copy(update={"target": target, "certificate": proof})
    return OddPolynomial(tuple(scale * a for a in g.coeffs), fit)


def _reach(degree: int, goal: float, gamma_upper: float) -> float:
    """The largest kappa that a degree brings down to `goal`."""

    def best(kappa: float) -> float:
        return kappa_after(equal_ripple(degree, kappa, gamma_upper=gamma_upper), kappa, gamma_upper)

    return _last_below(best, goal)


def _check(kappa: float) -> None:
    low, high = KAPPA_AFTER_RANGE
    if not low <= kappa <= high:
        raise InputError(f"a condition number of {kappa:g} after each rung is not allowed: {low:g} to {high:g}; try 5")


def _last_below(rising: Callable[[float], float], goal: float) -> float:
    """The largest kappa in (1, 1e6) with rising(kappa) <= goal, to 1e-6 relative, by bisection of its logarithm."""
    low, high = 0.0, math.log(1e6)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(math.exp(middle)) <= goal else (low, middle)
    return math.exp(low)


def _round_down(value: float) -> float:
    """To four digits, downwards: the promise holds for the threshold as it is written."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return round(math.floor(value / unit) * unit, 10)
