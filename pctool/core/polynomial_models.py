"""Strict models of polynomial and ladder files: nothing unknown, all finite, every claim recomputed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pctool.core.polynomial import OddPolynomial
from pctool.core.polynomial_report import Target, measures

MAX_DEGREE = 25
REPORT_TOLERANCE = 1e-6
CERTIFICATE_GAP = 1e-6  # of a minimax fit's maximal error and its lower bound, relative
CERTIFICATE_NOISE = 1e-12  # errors below this are float64's rounding, and are not bounded any closer
MIN_WIDTH = 0.01  # of a fit's range: on less, float64 coefficients of any use do not exist
KNOT_DISTANCE = 1e-6  # knots closer than this are a jump

MAX_COEFFICIENT = 1e15  # any polynomial with such coefficients is finite on [0, 4] even in float32
Coefficient = Annotated[float, Field(ge=-MAX_COEFFICIENT, le=MAX_COEFFICIENT)]
Version = Annotated[int, Field(ge=1, le=1)]  # and not Literal[1], which takes true for 1
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[ -~]+$")]
Point = Annotated[float, Field(ge=0, le=1e3)]
Value = Annotated[float, Field(ge=-1e3, le=1e3)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Knots(_Strict):
    """A piecewise-linear target by its corners (x, f(x)): from (0, 0), x rising, constant after the last."""

    knots: Annotated[tuple[tuple[Point, Value], ...], Field(min_length=2, max_length=1000)]

    @model_validator(mode="after")
    def _from_zero_rising(self) -> Knots:
        x = [point[0] for point in self.knots]
        if self.knots[0] != (0.0, 0.0):
            raise ValueError(f"the first knot must be [0, 0], got {list(self.knots[0])}")
        if any(b - a < KNOT_DISTANCE for a, b in pairwise(x)):
            raise ValueError(f"the knots' x must rise, by at least {KNOT_DISTANCE:g} each")
        return self


class Certificate(_Strict):
    """Why no polynomial of the degree (and constraint) has a smaller maximal error than `lower_bound`.

    At `points`, one more than there are free coefficients, the error (times 1 - x under g(1) = 1) changes
    sign from each to the next and is at least `lower_bound`: by de la Vallée Poussin's theorem anything
    better would differ by a polynomial with too many zeros. Without points `lower_bound` is 0.
    """

    points: Annotated[tuple[Annotated[float, Field(ge=0, le=4)], ...], Field(max_length=14)]
    levelled_error: Annotated[float, Field(ge=0)]
    lower_bound: Annotated[float, Field(ge=0)]


class Fit(_Strict):
    """What a polynomial was fitted to (section 3.3), and by what. `cutoff` belongs to the target "pl"."""

    cutoff: float | None
    alpha: Annotated[float, Field(ge=0, le=16)] = 4.0
    gamma_lower: Annotated[float, Field(ge=0)] = 0.0
    gamma_upper: Annotated[float, Field(ge=0.1, le=4)] = 1.1
    points: Annotated[int, Field(ge=100, le=100_000)] = 2000
    sampling: Literal["grid", "uniform"] = "grid"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    norm: Literal["l2", "linf"] = "l2"
    at_one: bool = True
    target: Literal["pl", "one"] | Knots = "pl"
    solver: Name = "none"
    solver_version: Name = "none"
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Fit:
        lower, upper = self.gamma_lower, self.gamma_upper
        if upper - lower < MIN_WIDTH:
            raise ValueError(f"gamma_lower {lower:g} must be at least {MIN_WIDTH} below gamma_upper = {upper:g}")
        if self.target != "pl" and self.cutoff is not None:
            raise ValueError('a cutoff belongs to the target "pl"; leave it out')
        if self.target == "pl":
            self._check_cutoff()
        if self.target == "one" and lower < KNOT_DISTANCE:
            raise ValueError('the target "one" needs gamma_lower above 0, since g(0) = 0; try 0.1')
        value = float(self.function()(1.0))
        if self.at_one and abs(value - 1) > 1e-12:
            raise ValueError(f"the target is {value:g} at 1 and g(1) = 1 is asked for; free the fit (--free)")
        if self.sampling == "grid" and self.seed is not None:
            raise ValueError('a seed belongs to uniform sampling; leave it out or take "uniform"')
        return self

    def _check_cutoff(self) -> None:
        if self.cutoff is None:
            raise ValueError("a cutoff is needed for the target PL_b; try 0.4")
        if not KNOT_DISTANCE <= self.cutoff < self.gamma_upper:
            bounds = f"[{KNOT_DISTANCE:g}, gamma_upper = {self.gamma_upper:g})"
            raise ValueError(f"cutoff {self.cutoff:g} must lie in {bounds}; try 0.4")
        if self.at_one and self.cutoff > 1:
            raise ValueError(f"cutoff {self.cutoff:g} must be at most 1 with g(1) = 1; lower it or free the fit")

    def function(self) -> Target:
        """The target f."""
        if isinstance(self.target, Knots):
            x, f = zip(*self.target.knots, strict=True)
            return Target(x, f)
        if self.cutoff is not None:
            return Target.piecewise(self.cutoff)
        return Target.constant()


class Report(_Strict):
    """What the polynomial does on [gamma_lower, gamma_upper]; recomputed whenever a file is read."""

    max_error: float
    weighted_rms: float
    g_at_one: float
    g_at_gamma_upper: float
    max_value: float
    monotone: bool


class PolynomialFile(_Strict):
    """The polynomial's JSON. `fit` and `report` may be null in a file written by hand."""

    format: Literal["pctool-polynomial"]
    version: Version
    degree: Annotated[int, Field(ge=1, le=MAX_DEGREE)]
    coeffs: Annotated[tuple[Coefficient, ...], Field(min_length=1)]
    fit: Fit | None = None
    report: Report | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PolynomialFile:
        if self.degree != 2 * len(self.coeffs) - 1:
            raise ValueError(
                f"degree {self.degree} needs {(self.degree + 1) / 2:g} coefficients, got {len(self.coeffs)}"
            )
        self._check_report()
        check_certificate(self.polynomial())
        total = math.fsum(self.coeffs)
        if self.fit and self.fit.at_one and abs(total - 1) > REPORT_TOLERANCE:
            raise ValueError(f"at_one says that g(1) = 1, the coefficients give {total:.9g}")
        return self

    def _check_report(self) -> None:
        if self.report is None:
            return
        if self.fit is None:
            raise ValueError("a report without the fit that it reports on; set report to null")
        actual = report(self.polynomial())
        for name, stated in self.report:
            value = getattr(actual, name)
            if abs(value - stated) > REPORT_TOLERANCE * max(1.0, abs(value)):
                raise ValueError(f"the report states {name} = {stated!r}, the coefficients give {value!r}")

    @classmethod
    def of(cls, polynomial: OddPolynomial) -> PolynomialFile:
        """The file of a polynomial. Raises ValueError for a degree or coefficient that is not allowed."""
        return cls(
            format="pctool-polynomial",
            version=1,
            degree=polynomial.degree,
            coeffs=polynomial.coeffs,
            fit=polynomial.fit,
            report=report(polynomial) if polynomial.fit else None,
        )

    def polynomial(self) -> OddPolynomial:
        """The polynomial itself."""
        return OddPolynomial(self.coeffs, self.fit)


class Rung(_Strict):
    """From a modified condition number above `tau` on, APC uses `polynomial` (until the next rung's tau)."""

    tau: Annotated[float, Field(ge=1, le=1e9)]
    polynomial: PolynomialFile


class LadderFile(_Strict):
    """Polynomials of rising strength for APC, with the thresholds between them (section 3.4)."""

    format: Literal["pctool-ladder"]
    version: Version
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _rising(self) -> LadderFile:
        taus = [rung.tau for rung in self.rungs]
        if any(b <= a for a, b in pairwise(taus)):
            raise ValueError(f"the rungs' tau must rise, got {taus}")
        degrees = [rung.polynomial.degree for rung in self.rungs]
        if any(b <= a for a, b in pairwise(degrees)):
            raise ValueError(f"the rungs' degrees must rise, got {degrees}")
        return self


def report(polynomial: OddPolynomial) -> Report:
    """Measures a polynomial against its own fit. Raises ValueError where it has none."""
    fit = polynomial.fit
    if fit is None:
        raise ValueError("a polynomial without a fit has no target to report on")
    values = measures(polynomial, fit.function(), fit.gamma_lower, fit.gamma_upper, fit.alpha)
    return Report.model_validate(values)


def proven_bound(polynomial: OddPolynomial, fit: Fit, points: tuple[float, ...]) -> float:
    """The least error at `points`, signed as a certificate alternates: what they prove; 0 or less proves nothing."""
    f = fit.function()
    signs = [(-1) ** i * (-1 if fit.at_one and x > 1 else 1) for i, x in enumerate(points)]
    signed = [sign * (polynomial(x) - float(f(x))) for sign, x in zip(signs, points, strict=True)]
    return max(min(signed), -max(signed)) if signed else 0.0


def check_certificate(polynomial: OddPolynomial) -> None:
    """Verifies a minimax fit's certificate. Raises ValueError where it is absent, or a claim of it fails.

    The maximal error may pass the bound by 1e-6 of itself, and by what float64 coefficients a_i may lose:
    degree 2^-53 sum |a_i| gamma_upper^(2i + 1), or 1e-12 if that is less.
    """
    fit = polynomial.fit
    if fit is None or (fit.norm == "l2" and fit.certificate is None):
        return
    if fit.certificate is None:
        raise ValueError("a fit of norm linf needs its certificate")
    points, bound = fit.certificate.points, fit.certificate.lower_bound
    count = len(polynomial.coeffs) - fit.at_one + 1
    inside = all(fit.gamma_lower <= x <= fit.gamma_upper for x in points)
    if points and (len(points) != count or list(points) != sorted(set(points)) or not inside):
        raise ValueError(f"the certificate needs {count} rising points of the range, got {len(points)}")
    least = proven_bound(polynomial, fit, points)
    if bound > least * (1 + 1e-9) + 1e-15:
        raise ValueError(f"the certificate claims a lower bound of {bound:g}, its points give {least:g}")
    upper, levelled = report(polynomial).max_error, fit.certificate.levelled_error
    sizes = OddPolynomial(tuple(abs(a) for a in polynomial.coeffs))
    rounding = max(polynomial.degree * 2.0**-53 * sizes(fit.gamma_upper), CERTIFICATE_NOISE)
    if max(upper - bound, abs(upper - levelled)) > CERTIFICATE_GAP * upper + rounding:
        raise ValueError(
            f"the certificate's lower bound {bound:g} and levelled error {levelled:g} are not the error, {upper:g}"
        )
