"""Weighted least squares (the paper's eq. 5) by cvxpy, checked against an independent solution by SVD."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import warnings
from typing import Any

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.polynomial.chebyshev import chebvander

from pctool.core.polynomial_models import Fit
from pctool.core.polynomial_report import Array
from pctool.errors import InputError

AGREEMENT = 1e-9  # in sup norm on the range; two correct solvers in this basis differ by 1e-12 or less
# CLARABEL's own 1e-8 leaves 1e-7 in the coefficients. The tightest at which it reports an optimum is taken, each begun
# afresh: from where it has failed it fails again.
SOLVER_TOLERANCES = (1e-15, 1e-14, 1e-13)


def sample_points(fit: Fit) -> Array:
    """The x_i of eq. 5, float64 [points]: an even grid with both ends, or seeded uniform draws."""
    if fit.sampling == "grid":
        return np.linspace(fit.gamma_lower, fit.gamma_upper, fit.points)
    return np.random.default_rng(fit.seed).uniform(fit.gamma_lower, fit.gamma_upper, fit.points)


def basis_values(x: Array, size: int, domain: tuple[float, float]) -> Array:
    """x T_j(t(x²)) for j < size, float64 [len(x), size]; t maps `domain`, in x², to [-1, 1].

    These span the odd polynomials of degree 2 size - 1 and stay nearly orthogonal up to degree 25, where powers
    of x would lose every digit.
    """
    low, high = domain
    return x[:, None] * chebvander((2 * x * x - low - high) / (high - low), size - 1)


def solve(fit: Fit, size: int) -> tuple[Chebyshev, str, str]:
    """Minimises sum x_i^alpha (g(x_i) - f(x_i))² over g(x) = x P(x²) with `size` coefficients.

    With `fit.at_one` under the equality g(1) = 1. Returns P over [gamma_lower², gamma_upper²], the solver's
    name and its version. Raises InputError where the problem is too badly conditioned for the two solutions
    to agree to 1e-9.
    """
    domain = (fit.gamma_lower**2, fit.gamma_upper**2)
    x = sample_points(fit)
    root = (x / fit.gamma_upper) ** (fit.alpha / 2)
    matrix = root[:, None] * basis_values(x, size, domain)
    goal = root * fit.function()(x)
    constraint = basis_values(np.ones(1), size, domain)[0] if fit.at_one else None
    coefficients, name = _by_cvxpy(matrix, goal, constraint)
    check = _by_svd(matrix, goal, constraint)
    grid = np.linspace(fit.gamma_lower, fit.gamma_upper, 1001)
    gap = np.abs(basis_values(grid, size, domain) @ (coefficients - check)).max()
    if not gap <= AGREEMENT:
        raise InputError(
            f"degree {2 * size - 1} with alpha {fit.alpha:g} is too badly conditioned: {name} and SVD differ by "
            f"{gap:.1e}, {AGREEMENT:g} is allowed; lower the degree or alpha, or take more points"
        )
    return Chebyshev(coefficients, domain=domain), name, importlib.metadata.version(name.lower())


def _by_cvxpy(matrix: Array, goal: Array, constraint: Array | None) -> tuple[Array, str]:
    cvxpy: Any = importlib.import_module("cvxpy")  # late: half a second, and its names are not typed

    q, r = np.linalg.qr(matrix)  # orthogonal on the weighted points: a large alpha leaves small x hardly any weight
    unknown = cvxpy.Variable(matrix.shape[1])
    objective = cvxpy.Minimize(cvxpy.sum_squares(q @ unknown - goal))
    problem = cvxpy.Problem(objective, [] if constraint is None else [np.linalg.solve(r.T, constraint) @ unknown == 1])
    for tolerance in SOLVER_TOLERANCES:
        limits = {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance}
        with warnings.catch_warnings(), contextlib.suppress(cvxpy.error.SolverError):
            warnings.simplefilter("ignore")  # of an inaccurate solution: the status says so as well
            problem.solve(solver=cvxpy.CLARABEL, warm_start=False, **limits)
        if problem.status == cvxpy.OPTIMAL:
            return np.linalg.solve(r, unknown.value), problem.solver_stats.solver_name
    raise InputError("CLARABEL found no optimum: lower the degree or alpha, or widen the range")


def _by_svd(matrix: Array, goal: Array, constraint: Array | None) -> Array:
    """The same minimum by singular values: the constraint's null space, then least squares in it."""
    if constraint is None:
        return np.asarray(np.linalg.lstsq(matrix, goal)[0], dtype=np.float64)
    q, r = np.linalg.qr(constraint[:, None], mode="complete")
    fixed, free = q[:, 0] / r[0, 0], q[:, 1:]
    return fixed + free @ _by_svd(matrix @ free, goal - matrix @ fixed, None)
