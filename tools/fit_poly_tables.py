"""Computes the tables of docs/fit-poly.md: `python tools/fit_poly_tables.py` writes them, `--check` compares them.

Takes about half a minute on one core.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pctool.core.polynomial import PUBLISHED, OddPolynomial
from pctool.core.polynomial_models import report
from pctool.fitting import fit_polynomial, published
from pctool.fitting.diagnosis import BEYOND, diagnose, kappa_after
from pctool.fitting.ladder import DEGREES, FittedLadder, equal_ripple, fit_ladder, published_ladder
from pctool.fitting.least_squares import basis_values

PAGE = Path(__file__).parent.parent / "docs" / "fit-poly.md"
FIT_DEGREES = (3, 5, 7, 9, 11, 15, 21, 25)
CUTOFFS = (0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05)
KAPPAS = (5, 10, 30)
RIPPLES = (1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 5.0)
DOMAIN = (0.0, 1.1**2)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [list(head), *map(list, rows)]]
    lines.insert(1, "|" + "---|" * (lines[0].count("|") - 1))
    return "\n".join(lines)


def errors() -> str:
    """The smallest maximal error of each degree for each cutoff, and the least weighted error; g(1) = 1."""

    def cell(degree: int, cutoff: float) -> str:
        minimax = report(fit_polynomial(cutoff, degree, norm="linf")).max_error
        weighted = report(fit_polynomial(cutoff, degree)).weighted_rms
        return f"{minimax:.4f} / {weighted:.5f}"

    rows = [[str(degree), *[cell(degree, cutoff) for cutoff in CUTOFFS]] for degree in FIT_DEGREES]
    return table(["degree", *[f"b = {cutoff:g}" for cutoff in CUTOFFS]], rows)


def best_kappa(degree: int, kappa: float, constraints: Callable[[Any], list[Any]]) -> float:
    """The smallest kappa out under g(1) = 1 and further linear constraints, on 2,000 points, by cvxpy.

    Maximises the least value of g on [1/kappa, 1] for a largest value of 1 there.
    """
    cvxpy: Any = importlib.import_module("cvxpy")
    unknown, least = cvxpy.Variable((degree + 1) // 2), cvxpy.Variable()

    def g(x: Any) -> Any:
        return basis_values(x, unknown.size, DOMAIN) @ unknown

    spectrum = np.geomspace(1 / kappa, 1, 2000)
    limits = [g(np.ones(1)) == 1, g(spectrum) >= least, *constraints(g)]
    problem = cvxpy.Problem(cvxpy.Maximize(least), limits)
    problem.solve(solver=cvxpy.CLARABEL)
    if problem.status != cvxpy.OPTIMAL:
        raise RuntimeError(f"degree {degree}, kappa {kappa}: {problem.status}")
    return 1 / float(least.value)


def ordered(g: Any) -> list[Any]:
    """g never falls on [0, 1]: singular values keep their order, and none passes 1."""
    values = g(np.linspace(0, 1, 2000))
    return [values[1:] >= values[:-1]]


def bounded(g: Any) -> list[Any]:
    """g does not pass 1 on [0, 1.1], but may fall."""
    return [g(np.linspace(0, 1.1, 2000)) <= 1]


def beaten() -> str:
    """Kappa out for three kappas: the published polynomials against the best of their degree, three ways."""
    rows = []
    for degree in DEGREES:
        of_each = (
            [kappa_after(PUBLISHED[degree], kappa) for kappa in KAPPAS],
            [best_kappa(degree, kappa, ordered) for kappa in KAPPAS],
            [best_kappa(degree, kappa, bounded) for kappa in KAPPAS],
            [kappa_after(equal_ripple(degree, kappa), kappa, 1.1) for kappa in KAPPAS],
        )
        rows.append([str(degree), *[" / ".join(f"{value:.3g}" for value in each) for each in of_each]])
    return table(["degree", "published", "best that keeps the order", "best with g ≤ g(1) = 1", "equal ripple"], rows)


def costs() -> str:
    """What the published and the equal-ripple polynomials for kappa 10 do apart from kappa."""

    def row(name: str, g: OddPolynomial) -> list[str]:
        found = diagnose(g)
        deepest = max((abs(g(a)) - abs(g(b)) for a, b in found.falls), default=0.0)
        largest = report(g).max_value
        beyond = [f"{value:.3g}" for value in found.beyond.values()]
        rounding = [f"{found.float32_error:.0e}", f"{found.bfloat16_error:.1g}"]
        return [name, f"{g(1.0):.3f}", f"{largest:.3f}", f"{deepest:.3f}", *beyond, *rounding]

    rows = [row(f"published {degree}", published(degree)) for degree in DEGREES]
    rows += [row(f"equal ripple {degree}", equal_ripple(degree, 10.0)) for degree in DEGREES]
    head = ["polynomial", "g(1)", "largest", "deepest fall", "g(1.2)", "g(1.5)", "float32", "bfloat16"]
    return table(head, rows)


def ladders() -> str:
    """The thresholds of ladders that leave a kappa of 5, and their costs."""

    def row(name: str, ladder: FittedLadder) -> list[str]:
        outcomes = ladder.outcomes()
        reach = [f"{outcome.reach:.4g}" for outcome in outcomes]
        lowest = min(outcome.at_one for outcome in outcomes)
        growth = [" / ".join(f"{outcome.beyond[x]:.3g}" for outcome in outcomes) for x in BEYOND]
        float32 = f"{max(outcome.float32_error for outcome in outcomes):.0e}"
        bfloat16 = f"{max(outcome.bfloat16_error for outcome in outcomes):.1g}"
        deepest = f"{max(outcome.falls_by for outcome in outcomes):.2f}"
        return [name, *reach, f"{lowest:.2f}", deepest, *growth, float32, bfloat16]

    rows = [row("published", published_ladder())]
    rows += [row(f"ripple {ripple:g}", fit_ladder(ripple=ripple)) for ripple in RIPPLES]
    costs = ["least g(1)", "deepest fall", *[f"g({x:g})" for x in BEYOND], "float32", "bfloat16"]
    return table(["ladder", *[f"degree {d} up to" for d in DEGREES], *costs], rows)


TABLES = {"errors": errors, "beaten": beaten, "costs": costs, "ladders": ladders}


def fill(page: str) -> str:
    """The page with the text between each pair of its markers replaced by the table of that name."""
    for name, compute in TABLES.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(start)
        if not found or end not in rest:
            raise ValueError(f"{PAGE} has no place for the table {name!r}")
        page = before + start + compute() + "\n" + end + rest.partition(end)[2]
    return page


def main() -> int:
    """Writes the tables, or with --check says whether they are as the code computes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table differs")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page)
    if check:
        return int(filled != page)
    PAGE.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
