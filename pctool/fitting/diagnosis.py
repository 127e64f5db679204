"""What a polynomial will do in a network: order, overshoot, growth, rounding, condition numbers; in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pctool.core.polynomial import OddPolynomial
from pctool.core.polynomial_report import (
    LAYER_UPPER,
    bfloat16_error,
    bisect,
    falls,
    float32_error,
    size_extremes,
    value_extremes,
)

OVERSHOOT = 1.02  # a layer's norm may pass 1 by this much before it is worth a line
KAPPAS = (2, 5, 10, 30, 100, 1000)
BEYOND = (1.2, 1.5)  # sigma over the power iteration's estimate of it: after a bad start, and after none


@dataclass(frozen=True)
class Diagnosis:
    """What is worth knowing before training with a polynomial, on its own range, up to 1.1 at least.

    `falls`: intervals on which |g| falls, so that singular values change their order. `above`: intervals with
    |g| > 1.02, where the layer's norm is no longer bounded by 1. `beyond`: g at 1.2 and 1.5, which it meets where
    the power iteration underestimates sigma. `float32_error`, `bfloat16_error`: of evaluating the
    coefficients. `kappa_after`: by the condition number of a spectrum spread over [1/kappa, 1]; infinite where
    g reaches 0.
    """

    upper: float
    falls: tuple[tuple[float, float], ...]
    above: tuple[tuple[float, float], ...]
    beyond: dict[float, float]
    float32_error: float
    bfloat16_error: float
    kappa_after: dict[int, float]

    def as_json(self) -> dict[str, Any]:
        """The same in JSON's terms: an infinite condition number is null."""
        return {
            "falls": [list(interval) for interval in self.falls],
            "above_1.02": [list(interval) for interval in self.above],
            "beyond": {f"{x:g}": value for x, value in self.beyond.items()},
            "float32_error": self.float32_error,
            "bfloat16_error": self.bfloat16_error,
            "kappa_after": {str(k): v if math.isfinite(v) else None for k, v in self.kappa_after.items()},
        }


def diagnose(g: OddPolynomial) -> Diagnosis:
    """Looks at a polynomial on the range of its fit, extended to 1.1 where that ends lower, or on [0, 1.1]."""
    lower, upper = (g.fit.gamma_lower, max(g.fit.gamma_upper, LAYER_UPPER)) if g.fit else (0.0, LAYER_UPPER)
    return Diagnosis(
        upper=upper,
        falls=tuple(falls(g, lower, upper)),
        above=_above(g, lower, upper),
        beyond={x: g(x) for x in BEYOND},
        float32_error=float32_error(g, upper),
        bfloat16_error=bfloat16_error(g, upper),
        kappa_after={kappa: kappa_after(g, kappa) for kappa in KAPPAS},
    )


def kappa_after(g: OddPolynomial, kappa: float, upper: float = 1.0) -> float:
    """max |g| / min |g| on [1/kappa, upper]: the condition number behind g of a spectrum spread over it.

    The new singular values are |g(sigma)|, so a zero of g inside makes it infinite.
    """
    values = g(value_extremes(g, 1 / kappa, upper))
    if values.min() <= 0 <= values.max():
        return math.inf
    sizes = np.abs(values)
    return float(sizes.max() / sizes.min())


def _above(g: OddPolynomial, lower: float, upper: float) -> tuple[tuple[float, float], ...]:
    """The intervals with |g| > OVERSHOOT; |g| is monotone between neighbouring extremes, so each hides one crossing."""
    x = size_extremes(g, lower, upper)
    edges: list[float] = [lower] if abs(g(lower)) > OVERSHOOT else []
    for start, end in pairwise(x.tolist()):
        if (abs(g(start)) > OVERSHOOT) != (abs(g(end)) > OVERSHOOT):
            edges.append(bisect(lambda t: abs(g(t)) - OVERSHOOT, start, end))
    if len(edges) % 2:
        edges.append(upper)
    return tuple(zip(edges[::2], edges[1::2], strict=True))
