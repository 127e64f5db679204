"""Ladders for adaptive preconditioning: polynomials of rising strength, and when to move from one to the next."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from pctool.core.polynomial import OddPolynomial
from pctool.core.polynomial_models import Knots
from pctool.core.polynomial_report import falls, value_extremes
from pctool.errors import InputError
from pctool.fitting.diagnosis import diagnose, kappa_after
from pctool.fitting.fit import certified, fit_polynomial, published

DEGREES = (3, 5, 7, 9)  # of the paper's APC (section 3.4)
DEFAULT_GOAL = 5.0  # what the paper's APC leaves alone: its first threshold
GOAL_RANGE = (1.2, 100.0)
# More reaches further (docs/fit-poly.md has the figures), and folds large singular values down to 1/ripple.
DEFAULT_RIPPLE = 1.2


@dataclass(frozen=True)
class Outcome:
    """What a rung does: the largest kappa that it serves, kappa after it there, and what that costs.

    `at_one`: g(1), what becomes of the largest singular value. `largest`: of g on [0, gamma_upper].
    `falls_on`: the part of [0, 1] on which g falls, so that singular values change their order; `falls_by`:
    the deepest of these falls. `beyond`: g at 1.2 and 1.5, met where the power iteration underestimates sigma.
    `float32_error`, `bfloat16_error`: of evaluating the coefficients on [0, gamma_upper], 1.1 at least.
    """

    reach: float
    kappa_after: float
    at_one: float
    largest: float
    falls_on: float
    falls_by: float
    beyond: dict[float, float]
    float32_error: float
    bfloat16_error: float


@dataclass(frozen=True)
class FittedLadder:
    """Above `taus[i]` APC uses `polynomials[i]`; each brings kappas up to `reach[i]` down to `goal`.

    `reach[i]` is `taus[i + 1]`; above the last reach, kappa after it grows in proportion.
    """

    taus: tuple[float, ...]
    polynomials: tuple[OddPolynomial, ...]
    reach: tuple[float, ...]
    goal: float

    def outcomes(self) -> list[Outcome]:
        """What each rung does."""
        found = []
        for g, reach in zip(self.polynomials, self.reach, strict=True):
            upper = g.fit.gamma_upper if g.fit else 1.0
            largest = float(g(value_extremes(g, 0.0, upper)).max())
            falling = falls(g, 0.0, 1.0)
            share = sum(end - start for start, end in falling)
            deepest = max((abs(g(start)) - abs(g(end)) for start, end in falling), default=0.0)
            seen = diagnose(g)
            costs = (largest, share, deepest, seen.beyond, seen.float32_error, seen.bfloat16_error)
            found.append(Outcome(reach, kappa_after(g, reach), g(1.0), *costs))
        return found


def fit_ladder(goal: float = DEFAULT_GOAL, *, ripple: float = DEFAULT_RIPPLE, gamma_upper: float = 1.1) -> FittedLadder:
    """A ladder of the strongest polynomials whose large values keep within a ratio of `ripple`.

    They are equal-ripple polynomials: the minimax fit of a constant on [1/kappa, gamma_upper] swings between
    two values, whose ratio is the smallest condition number that its degree can reach there. Each rung takes
    the largest kappa with a ratio of `ripple` at most, and is scaled so that its largest value is 1: the
    layer's norm stays bounded as under spectral normalisation. Smaller singular values lie on the steep part,
    and the rung serves until they leave a condition number of `goal`. Raises InputError for a `goal` outside
    [1.2, 100], a `ripple` outside [1.01, goal], a `gamma_upper` outside (1, 4].
    """
    _check_goal(goal)
    if not 1.01 <= ripple <= goal:
        raise InputError(f"a ripple of {ripple:g} is not allowed: 1.01 to kappa-after ({goal:g}); try 1.2")
    if not 1 < gamma_upper <= 4:
        raise InputError(f"gamma-upper {gamma_upper:g} must lie in (1, 4] for a ladder; try 1.1")
    polynomials = []
    for degree in DEGREES:
        rippling = functools.partial(_ratio, degree, gamma_upper)
        kappa = _round_down(_last_below(rippling, ripple))
        polynomials.append(equal_ripple(degree, kappa, gamma_upper=gamma_upper))
    return _ladder(tuple(polynomials), goal)


def published_ladder(goal: float = DEFAULT_GOAL) -> FittedLadder:
    """The published polynomials, with thresholds at which each leaves a condition number of `goal`."""
    _check_goal(goal)
    return _ladder(tuple(published(degree) for degree in DEGREES), goal)


def _check_goal(goal: float) -> None:
    low, high = GOAL_RANGE
    if not low <= goal <= high:
        raise InputError(f"kappa-after {goal:g} is not allowed: {low:g} to {high:g}; try {DEFAULT_GOAL:g}")


def _ladder(polynomials: tuple[OddPolynomial, ...], goal: float) -> FittedLadder:
    """The thresholds: a layer is left alone up to `goal`, and each polynomial serves as far as it reaches it."""
    reach = tuple(_round_down(_last_below(functools.partial(kappa_after, g), goal)) for g in polynomials)
    return FittedLadder((goal, *reach[:-1]), polynomials, reach, goal)


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
    proof = proof.model_copy(update={"levelled_error": proof.levelled_error * scale})
    target = Knots(knots=((0.0, 0.0), (1 / kappa, scale)))
    return certified(tuple(scale * a for a in g.coeffs), g.fit.model_copy(update={"target": target}), proof)


def _ratio(degree: int, gamma_upper: float, kappa: float) -> float:
    """max/min on [1/kappa, gamma_upper] of the best polynomial there: it rises with kappa."""
    return kappa_after(equal_ripple(degree, kappa, gamma_upper=gamma_upper), kappa, gamma_upper)


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
