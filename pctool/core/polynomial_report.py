"""What an odd polynomial does on a range, found at its exact extremes: errors, largest value, where it falls.

Everything rests on one fact: for g(x) = x P(y), y = x², the derivative g'(x) = P(y) + 2 y P'(y) is a
polynomial of P's own degree in y. Written in Chebyshev polynomials over [lower², upper²], its roots are the
eigenvalues of a small well-conditioned matrix, so no extreme is missed between the points of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.polynomial import Chebyshev

from pctool.core.polynomial import OddPolynomial

FALL_TOLERANCE = 1e-6  # a smaller fall is the rounding of a polynomial of degree 25, not its shape
LAYER_UPPER = 1.1  # a layer evaluates g around 1, on the paper's [0, 1.1] (section 3.3), whatever g was fitted on
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Target:
    """A piecewise-linear target f: linear between the knots, constant before the first and after the last."""

    x: tuple[float, ...]
    f: tuple[float, ...]

    @classmethod
    def piecewise(cls, cutoff: float) -> Target:
        """PL_b of section 3.3: x/b below the cutoff b, 1 from there on."""
        return cls((0.0, cutoff), (0.0, 1.0))

    @classmethod
    def constant(cls) -> Target:
        """f = 1, for ranges that start above 0: what an ideal preconditioner would do (section 3.1)."""
        return cls((0.0,), (1.0,))

    def __call__(self, x: Array | float) -> Any:
        """f(x), elementwise, float64."""
        return np.interp(x, self.x, self.f)

    def pieces(self, lower: float, upper: float) -> Iterator[tuple[float, float, float]]:
        """The linear pieces (start, end, slope) that make up f on [lower, upper], in order."""
        inside = [x for x in self.x if lower < x < upper]
        edges = [lower, *inside, upper]
        slopes = np.diff(self.f) / np.diff(self.x) if len(self.x) > 1 else np.zeros(0)
        for start, end in pairwise(edges):
            knot = int(np.searchsorted(self.x, (start + end) / 2))
            between = 0 < knot < len(self.x)
            yield start, end, float(slopes[knot - 1]) if between else 0.0


def series_of(coeffs: tuple[float, ...], lower: float, upper: float) -> Chebyshev:
    """P of g(x) = x P(x²) as a Chebyshev series in y = x² over [lower², upper²]; float64."""
    powers = np.polynomial.Polynomial(coeffs)
    return Chebyshev.interpolate(powers, len(coeffs) - 1, domain=[lower**2, upper**2])


def flat_points(series: Chebyshev, lower: float, upper: float, slope: float = 0.0) -> Array:
    """The x between lower and upper, sorted, where g(x) = x P(x²) has this slope; P is a series in y = x²."""
    derivative = series + 2 * Chebyshev.identity(domain=series.domain) * series.deriv() - slope
    size = np.abs(derivative.coef).max()
    if size == 0:
        return np.zeros(0)
    # A leading coefficient at rounding level would send roots to infinity; without it none moves by more.
    roots = derivative.trim(tol=1e-15 * size).roots()
    # A double root splits into a complex pair 1e-8 apart; a point too many does no harm here.
    width = float(series.domain[1] - series.domain[0])
    real = roots.real[np.abs(roots.imag) <= 1e-6 * width]
    y = real[(real >= lower**2) & (real <= upper**2)]
    return np.sort(np.sqrt(np.maximum(y, 0.0)))


def error_extremes(series: Chebyshev, target: Target, lower: float, upper: float) -> Array:
    """Every local extreme of g - f on [lower, upper] is among these, sorted: ends, knots, flat points."""
    points = [np.array([lower, upper])]
    for start, end, slope in target.pieces(lower, upper):
        points += [np.array([start]), flat_points(series, start, end, slope)]
    return np.unique(np.concatenate(points))


def value_extremes(g: OddPolynomial, lower: float, upper: float) -> Array:
    """Points of [lower, upper], sorted, between which g is monotone; the ends are the first and the last."""
    inner = flat_points(series_of(g.coeffs, lower, upper), lower, upper)
    return np.unique(np.concatenate([[lower], inner, [upper]]))


def size_extremes(g: OddPolynomial, lower: float, upper: float) -> Array:
    """Points of [lower, upper], sorted, between which |g| is monotone: those of `value_extremes`, and zeros."""
    x = value_extremes(g, lower, upper)
    zeros = [bisect(g, a, b) for a, b in pairwise(x.tolist()) if min(g(a), g(b)) < 0 < max(g(a), g(b))]
    return np.unique(np.concatenate([x, zeros]))


def bisect(function: Callable[[float], float], start: float, end: float) -> float:
    """A zero of a monotone function between two points at which its signs differ."""
    positive = function(start) > 0
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (middle, end) if (function(middle) > 0) == positive else (start, middle)
    return (start + end) / 2


def falls(g: OddPolynomial, lower: float, upper: float) -> list[tuple[float, float]]:
    """The intervals of [lower, upper] on which |g| falls, by more than FALL_TOLERANCE each."""
    x = size_extremes(g, lower, upper)
    drop = -np.diff(np.abs(g(x)))
    return [(float(x[i]), float(x[i + 1])) for i in np.flatnonzero(drop > FALL_TOLERANCE)]


def weighted_rms(g: OddPolynomial, target: Target, lower: float, upper: float, alpha: float) -> float:
    """√(∫ x^alpha (g - f)² dx / ∫ x^alpha dx) over [lower, upper] (eq. 4), by 64 Gauss nodes a piece."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    squares = total = 0.0
    for start, end, _ in target.pieces(lower, upper):
        x = (start + end) / 2 + (end - start) / 2 * nodes
        weight = weights * (end - start) / 2 * (x / upper) ** alpha
        squares += float(np.sum(weight * (g(x) - target(x)) ** 2))
        total += float(np.sum(weight))
    return float(np.sqrt(squares / total))


def measures(g: OddPolynomial, target: Target, lower: float, upper: float, alpha: float) -> dict[str, float | bool]:
    """The entries of a polynomial file's report: errors against the target, values of g, monotone or not."""
    points = error_extremes(series_of(g.coeffs, lower, upper), target, lower, upper)
    return {
        "max_error": float(np.abs(g(points) - target(points)).max()),
        "weighted_rms": weighted_rms(g, target, lower, upper, alpha),
        "g_at_one": g(1.0),
        "g_at_gamma_upper": g(upper),
        "max_value": float(g(value_extremes(g, lower, upper)).max()),
        "monotone": not falls(g, lower, upper),
    }


def _round_float32(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64)


def _round_bfloat16(x: Array) -> Array:
    """To the nearest bfloat16 (float32 without its lower 16 bits), ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return nearest.astype(np.uint32).view(np.float32).astype(np.float64)


def _rounding_error(g: OddPolynomial, upper: float, rounded: Callable[[Array], Array]) -> float:
    """max |g in low precision - g| over 2001 representable points of [0, upper], Horner, each step rounded.

    float64 carries a product or sum of two such numbers far enough for the rounding to be the format's own.
    """
    x = rounded(np.linspace(0.0, upper, 2001))
    coeffs = rounded(np.array(g.coeffs))
    square = rounded(x * x)
    value = np.full_like(x, coeffs[-1])
    for a in coeffs[-2::-1]:
        value = rounded(rounded(value * square) + a)
    return float(np.abs(rounded(x * value) - g(x)).max())


def float32_error(g: OddPolynomial, upper: float = 1.1) -> float:
    """The largest error on [0, upper] of evaluating g in float32, its coefficients rounded too."""
    return _rounding_error(g, upper, _round_float32)


def bfloat16_error(g: OddPolynomial, upper: float = 1.1) -> float:
    """The largest error on [0, upper] of evaluating g in bfloat16, its coefficients rounded too."""
    return _rounding_error(g, upper, _round_bfloat16)
