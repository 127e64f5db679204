"""Odd polynomials g(x) = x (a0 + a1 x² + a2 x⁴ + ...): what the preconditioner does to a singular value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

MAX_COEFFS = 5  # that a layer takes: degree 9, the strongest that the paper uses (Sec. 3.3, "Search space")

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pctool.core.polynomial_models import Fit

    Number = TypeVar("Number", float, np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class OddPolynomial:
    """g(x) = x (a0 + a1 x² + ...), the paper's search space G_k (section 3.3).

    `coeffs`: a0, a1, ..., ascending in x², finite. Applied to a matrix A with singular values sigma, the
    preconditioner P(A Aᵀ) A, P(y) = a0 + a1 y + ..., has the singular values |g(sigma)| (Claim 3.2).
    `fit`: how the coefficients were found, None for coefficients written by hand; it takes no part in
    comparisons. Raises ValueError for no coefficients or a non-finite one.
    """

    coeffs: tuple[float, ...]
    fit: Fit | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        coeffs = tuple(float(a) for a in self.coeffs)
        if not coeffs or not all(math.isfinite(a) for a in coeffs):
            raise ValueError(f"coeffs must be one or more finite numbers, got {self.coeffs}")
        object.__setattr__(self, "coeffs", coeffs)

    @property
    def degree(self) -> int:
        """2 len(coeffs) - 1."""
        return 2 * len(self.coeffs) - 1

    def __call__(self, x: Number) -> Number:
        """g(x) by Horner's rule, elementwise, in the dtype of x (a float, a NumPy array or a tensor)."""
        square = x * x
        value: Any = self.coeffs[-1]
        for a in self.coeffs[-2::-1]:
            value = value * square + a
        return x * value

    def save(self, path: Path | str, *, force: bool = False) -> None:
        """Writes the polynomial as JSON (docs/fit-poly.md); the same content again is no error.

        Raises InputError where `path` holds another content and `force` is False, WriteError where it cannot
        be written, ValueError for a degree or a coefficient that the format does not allow.
        """
        from pctool.core.polynomial_file import write_polynomial

        write_polynomial(Path(path), self, force=force)

    @classmethod
    def load(cls, path: Path | str) -> OddPolynomial:
        """Reads what `save` wrote, or a file made by hand. Raises InputError for anything else."""
        from pctool.core.polynomial_file import read_polynomial

        return read_polynomial(Path(path))


IDENTITY = OddPolynomial((1.0,))
"""Spectral normalisation alone: g(x) = x."""

# The sets that the paper's authors use, of their public code (the paper prints no digits; its section 3.3 and
# Fig. 3 name the cutoffs). Each sums to 1: g(1) = 1.
PUBLISHED: dict[int, OddPolynomial] = {
    3: OddPolynomial((1.507, -0.507)),
    5: OddPolynomial((2.083, -1.643, 0.560)),
    7: OddPolynomial((2.909, -4.649, 4.023, -1.283)),
    9: OddPolynomial((3.625, -9.261, 14.097, -10.351, 2.890)),
}
"""The published polynomials by degree."""

PUBLISHED_CUTOFFS: dict[int, float] = {3: 0.8, 5: 0.6, 7: 0.4, 9: 0.3}
"""The cutoff b of the target PL_b that each published polynomial was fitted to (section 3.3)."""
