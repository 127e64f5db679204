"""Polynomials in words and plain characters, for a terminal."""

from __future__ import annotations

import math

import numpy as np

from pctool.core.polynomial import OddPolynomial
from pctool.core.polynomial_models import Fit, report
from pctool.core.polynomial_report import LAYER_UPPER
from pctool.fitting.diagnosis import Diagnosis
from pctool.fitting.ladder import FittedLadder

LADDER_NOTES = (
    "most: the largest value of g",
    "falls on: the part of [0, 1] where g falls and singular values change their",
    "order; by: the deepest fall",
    "g(1.2), g(1.5): met where the power iteration underestimates sigma",
    "float32, bfloat16: what their rounding costs",
)


def formula(g: OddPolynomial) -> str:
    """g(x) = x (a0 + a1 x^2 ...) with five digits a coefficient."""
    text = f"{g.coeffs[0]:.5g}"
    for power, a in enumerate(g.coeffs[1:], start=1):
        text += f" {'-' if a < 0 else '+'} {abs(a):.5g} x^{2 * power}"
    return f"g(x) = x ({text})"


def target_name(fit: Fit) -> str:
    """PL_0.4, the constant 1, or the number of knots."""
    if fit.target == "pl":
        return f"PL_{fit.cutoff:g}"
    target = fit.function()
    inner = [f for x, f in zip(target.x, target.f, strict=True) if fit.gamma_lower < x < fit.gamma_upper]
    values = [float(target(fit.gamma_lower)), *inner, float(target(fit.gamma_upper))]
    return f"the constant {values[0]:.4g}" if len(set(values)) == 1 else f"{len(target.x)} knots"


def title(g: OddPolynomial) -> str:
    """One line: the degree, and what it was fitted to and how."""
    fit = g.fit
    if fit is None:
        return f"degree {g.degree}, written by hand"
    how = f"least squares, weight x^{fit.alpha:g}" if fit.norm == "l2" else "smallest maximal error"
    source = "published" if fit.solver == "published" else f"{how}, {fit.solver} {fit.solver_version}"
    at_one = ", g(1) = 1" if fit.at_one else ""
    place = f"[{fit.gamma_lower:.4g}, {fit.gamma_upper:g}]"
    return f"degree {g.degree} for {target_name(fit)} on {place}{at_one} ({source})"


def _kappa(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "infinite"


def _where(places: list[str], meaning: str) -> str:
    return f"{', '.join(places)} ({meaning})" if places else "nowhere"


def summary(g: OddPolynomial, found: Diagnosis) -> str:
    """The report in lines of text, each a thing to act on."""
    rows: list[tuple[str, str]] = []
    if g.fit:
        measured = report(g)
        rows.append(("error", f"{measured.max_error:.4g} at most, {measured.weighted_rms:.4g} weighted"))
        rows.append(("largest value", f"{measured.max_value:.5g}"))
    if g.fit and g.fit.certificate:
        proof = g.fit.certificate
        rows.append(("proven", f"no error below {proof.lower_bound:.7g} ({len(proof.points)} alternations)"))
    falls = [f"{a:.3f} to {b:.3f} by {abs(g(a)) - abs(g(b)):.2g}" for a, b in found.falls]
    above = [f"{a:.3f} to {b:.3f}" for a, b in found.above]
    beyond = ", ".join(f"g({x:g}) = {y:.3g}" for x, y in found.beyond.items())
    rows += [
        (f"g(1), g({found.upper:g})", f"{g(1.0):.5g}, {g(found.upper):.5g}"),
        ("falls", _where(falls, "singular values change their order there")),
        ("above 1.02", _where(above, "the layer's norm passes 1 there")),
        ("beyond", f"{beyond} (met where the power iteration underestimates sigma)"),
        ("rounding", f"{found.float32_error:.1e} in float32, {found.bfloat16_error:.1e} in bfloat16"),
        ("kappa", ", ".join(f"{k} -> {_kappa(v)}" for k, v in found.kappa_after.items())),
    ]
    return "\n".join([title(g), formula(g), *[f"  {name:<15}{text}" for name, text in rows]])


def curve(g: OddPolynomial, width: int = 66, height: int = 14) -> str:
    """g (o) over its target (.) on [0, gamma_upper]."""
    upper = g.fit.gamma_upper if g.fit else LAYER_UPPER
    x = np.linspace(0.0, upper, width)
    layers = [("o", g(x))]
    if g.fit:
        layers.insert(0, (".", np.where(x >= g.fit.gamma_lower, g.fit.function()(x), np.nan)))
    values = np.concatenate([y for _, y in layers])
    top, bottom = max(1.0, float(np.nanmax(values))), min(0.0, float(np.nanmin(values)))
    cells = [[" "] * width for _ in range(height)]
    for mark, y in layers:
        for column in np.flatnonzero(np.isfinite(y)):
            row = round((top - float(y[column])) / (top - bottom) * (height - 1))
            cells[row][column] = mark
    scale = [f"{top:6.2f} |", *[f"{'':6} |"] * (height - 2), f"{bottom:6.2f} |"]
    lines = [label + "".join(cell).rstrip() for label, cell in zip(scale, cells, strict=True)]
    foot = f"{'':8}0{'o g(x)   . target'.center(width - 6)}{upper:>5g}"
    return "\n".join([*lines, f"{'':6} +{'-' * width}", foot])


def ladder_table(ladder: FittedLadder) -> str:
    """A line a rung: when APC takes it, what it does to kappa, and what that costs."""
    lines = [
        f"a layer is left alone up to a kappa of {ladder.goal:g}; rungs keep it there up to the next",
        f"{'':>7} {'':>3} {'kappa':>9} {'':>5} {'':>5} {'':>6} {'falls':>5} {'':>4} {'':>7} {'':>7} {'float':>5}"
        f" {'bfloat':>6}",
        f"{'above':>7} {'deg':>3} {'up to':>9} {'after':>5} {'g(1)':>5} {'most':>6} {'on':>5} {'by':>4} {'g(1.2)':>7}"
        f" {'g(1.5)':>7} {'32':>5} {'16':>6}",
    ]
    for tau, g, rung in zip(ladder.taus, ladder.polynomials, ladder.outcomes(), strict=True):
        change = f"{rung.reach:>9g} {rung.kappa_after:>5.3g}"
        costs = f"{rung.at_one:>5.3f} {rung.largest:>6.3f} {rung.falls_on:>5.0%} {rung.falls_by:>4.2f}"
        growth = " ".join(f"{value:>7.3g}" for value in rung.beyond.values())
        rounding = f"{rung.float32_error:>5.0e} {rung.bfloat16_error:>6.1g}"
        lines.append(f"{tau:>7g} {g.degree:>3} {change} {costs} {growth} {rounding}")
    return "\n".join([*lines, *LADDER_NOTES])
