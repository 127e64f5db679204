"""The minimax polynomial by Remez exchange, with the certificate that no better one exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev

from pctool.core.polynomial_models import CERTIFICATE_GAP, CERTIFICATE_NOISE, Certificate, Fit
from pctool.core.polynomial_report import Array, Target, error_extremes
from pctool.errors import InputError
from pctool.fitting.least_squares import basis_values

MAX_EXCHANGES = 100  # of 3,000 random fits none took more than 12


@dataclass(frozen=True)
class _Problem:
    """Which polynomials are allowed: g = x P(x²), or x (1 + (1 - x²) Q(x²)) where g(1) = 1 is asked for.

    The second form is x plus a free part with a fixed zero at 1, so the signs that alternate in the best fit
    are those of the error times (1 - x); `side` is that factor's sign.
    """

    fit: Fit
    target: Target
    unknowns: int

    @property
    def domain(self) -> tuple[float, float]:
        return self.fit.gamma_lower**2, self.fit.gamma_upper**2

    def side(self, x: Array) -> Array:
        return np.where(x > 1, -1.0, 1.0) if self.fit.at_one else np.ones_like(x)

    def fixed_part(self, x: Array) -> Array:
        return x if self.fit.at_one else np.zeros_like(x)

    def free_part(self, x: Array) -> Array:
        values = basis_values(x, self.unknowns, self.domain)
        return values * (1 - x * x)[:, None] if self.fit.at_one else values

    def series(self, coefficients: Array) -> Chebyshev:
        free = Chebyshev(coefficients, domain=self.domain)
        if not self.fit.at_one:
            return free
        return 1 + (1 - Chebyshev.identity(domain=self.domain)) * free

    def error(self, series: Chebyshev, x: Array) -> Array:
        return x * series(x * x) - self.target(x)


class Candidate(NamedTuple):
    """A polynomial of the exchange: its maximal error, the bound below which none can get, and the proof."""

    upper: float
    lower: float
    series: Chebyshev
    certificate: Certificate


def solve(fit: Fit, size: int) -> tuple[Chebyshev, Certificate]:
    """Minimises max |g - f| over [gamma_lower, gamma_upper], for g(x) = x P(x²) with `size` coefficients.

    Each exchange levels the error on a reference of (unknowns + 1) points and moves them to the extremes of
    the error that results. Returns P over [gamma_lower², gamma_upper²] and its certificate, whose bound lies
    within 1e-6 of the maximal error. Raises InputError where rounding keeps them further apart.
    """
    problem = _Problem(fit, fit.function(), size - fit.at_one)
    series, levelled = _least_squares(problem), 0.0
    best = Candidate(np.inf, 0.0, series, Certificate(points=(), levelled_error=0.0, lower_bound=0.0))
    for _ in range(MAX_EXCHANGES):
        points = error_extremes(series, problem.target, fit.gamma_lower, fit.gamma_upper)
        signed = problem.error(series, points) * problem.side(points)
        chosen = _alternating(points, signed, problem.unknowns + 1)
        candidate = _candidate(series, levelled, points, signed, chosen)
        best = min(best, candidate, key=lambda each: each.upper - each.lower)
        if chosen is None or best.upper - best.lower <= max(1e-3 * CERTIFICATE_GAP * best.upper, CERTIFICATE_NOISE):
            break  # without alternation, rounding has hidden a sign change
        series, levelled = _level(problem, points[chosen])
    if best.upper - best.lower > max(CERTIFICATE_GAP * best.upper, CERTIFICATE_NOISE):
        raise InputError(
            f"no certificate for degree {2 * size - 1}: the error lies between {best.lower:.6g} and "
            f"{best.upper:.6g}; lower the degree, or widen the range"
        )
    return best.series, best.certificate


def _candidate(series: Chebyshev, levelled: float, points: Array, signed: Array, chosen: list[int] | None) -> Candidate:
    """A polynomial with the bounds that its own error proves: its largest value, and where it alternates."""
    lower = float(np.abs(signed[chosen]).min()) if chosen else 0.0
    reference = tuple(points[chosen].tolist()) if chosen else ()
    proof = Certificate(points=reference, levelled_error=levelled, lower_bound=lower)
    return Candidate(float(np.abs(signed).max()), lower, series, proof)


def _least_squares(problem: _Problem) -> Chebyshev:
    """The unweighted least-squares fit, where the exchange starts.

    Its error is orthogonal to every free part, so it changes sign (as `side` counts) as often as is needed.
    """
    nodes, weights = np.polynomial.legendre.leggauss(32)
    pieces = list(problem.target.pieces(problem.fit.gamma_lower, problem.fit.gamma_upper))
    x = np.concatenate([(a + b) / 2 + (b - a) / 2 * nodes for a, b, _ in pieces])
    root = np.sqrt(np.concatenate([(b - a) * weights for a, b, _ in pieces]))
    goal = problem.target(x) - problem.fixed_part(x)
    solution = np.linalg.lstsq(problem.free_part(x) * root[:, None], goal * root)[0]
    return problem.series(solution)


def _level(problem: _Problem, reference: Array) -> tuple[Chebyshev, float]:
    """The polynomial whose error on the reference is +-h with alternating signs (as `side` counts), and |h|."""
    signs = (-1.0) ** np.arange(len(reference)) * problem.side(reference)
    matrix = np.column_stack([problem.free_part(reference), signs])
    solution = np.linalg.solve(matrix, problem.target(reference) - problem.fixed_part(reference))
    return problem.series(solution[:-1]), float(abs(solution[-1]))


def _alternating(points: Array, signed: Array, count: int) -> list[int] | None:
    """Indices of `count` points, the largest error among them, at which `signed` alternates; None if too few."""
    largest: list[int] = []
    for index in range(len(points)):
        if signed[index] == 0:
            continue
        if largest and signed[index] * signed[largest[-1]] > 0:
            if abs(signed[index]) > abs(signed[largest[-1]]):
                largest[-1] = index
        else:
            largest.append(index)
    size = np.abs(signed)
    while len(largest) > count:
        last = len(largest) - 1
        least = min(range(len(largest)), key=lambda place: size[largest[place]])
        if len(largest) == count + 1 and 0 < least < last:
            least = 0 if size[largest[0]] < size[largest[last]] else last
        if 0 < least < last:  # with the smaller neighbour, which leaves the signs alternating
            least -= size[largest[least - 1]] < size[largest[least + 1]]
            del largest[least : least + 2]
        else:
            del largest[least]
    return largest if len(largest) == count else None
