"""Odd polynomials: evaluation on floats, arrays and tensors, and the published table."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

from pctool.core.polynomial import IDENTITY, PUBLISHED, PUBLISHED_CUTOFFS, OddPolynomial
from pctool.core.polynomial_models import Fit

COEFFS = [(1.0,), (0.5, -2.0), (2.083, -1.643, 0.560), tuple(np.linspace(-1, 2, 13))]


def power_form(coeffs: tuple[float, ...]) -> Polynomial:
    """The same polynomial in NumPy's own ascending powers of x, zeros between."""
    ascending = np.zeros(2 * len(coeffs))
    ascending[1::2] = coeffs
    return Polynomial(ascending)


@pytest.mark.parametrize("coeffs", COEFFS, ids=len)
def test_values_are_those_of_the_power_form(coeffs):
    """g(x) = x (a0 + a1 x^2 + ...): equal to NumPy's polynomial with these odd coefficients."""
    x = np.linspace(-1.3, 1.3, 101)
    np.testing.assert_allclose(
        OddPolynomial(coeffs)(x), power_form(coeffs)(x), rtol=0, atol=1e-14 * sum(map(abs, coeffs)) * 30
    )


@pytest.mark.parametrize("coeffs", COEFFS, ids=len)
def test_floats_arrays_and_tensors_agree_and_keep_their_type(coeffs):
    """A float gives a float, a float32 array a float32 array, a tensor a tensor of its dtype; float64 to the bit."""
    g = OddPolynomial(coeffs)
    x = np.linspace(0, 1.1, 7)
    values = [g(float(each)) for each in x]
    assert all(isinstance(value, float) for value in values)
    assert values == g(x).tolist() == g(torch.from_numpy(x)).tolist()
    assert g(x.astype(np.float32)).dtype == np.float32
    assert g(torch.from_numpy(x).bfloat16()).dtype == torch.bfloat16


def test_tensors_carry_gradients():
    """The derivative that autograd finds is the derivative of the power form."""
    x = torch.linspace(-1, 1, 9, dtype=torch.float64, requires_grad=True)
    PUBLISHED[9](x).sum().backward()
    expected = power_form(PUBLISHED[9].coeffs).deriv()(x.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("degree", "at_upper"), [(3, 0.983), (5, 1.006), (7, 0.991), (9, 1.008)])
def test_published_sets(degree, at_upper):
    """Each published set has its degree, sums to 1, and g(1.1) as known to three digits."""
    g = PUBLISHED[degree]
    assert g.degree == degree == 2 * len(g.coeffs) - 1
    assert g(1.0) == pytest.approx(1, abs=1e-12)
    assert g(1.1) == pytest.approx(at_upper, abs=5e-4)
    assert degree in PUBLISHED_CUTOFFS


def test_identity_changes_nothing():
    """IDENTITY is g(x) = x, of degree 1."""
    assert (IDENTITY.degree, IDENTITY(0.37)) == (1, 0.37)


@pytest.mark.parametrize("coeffs", [(), (1.0, float("nan")), (float("inf"),)])
def test_no_or_non_finite_coefficients_are_a_programmers_mistake(coeffs):
    """ValueError names what was given."""
    with pytest.raises(ValueError, match="finite"):
        OddPolynomial(coeffs)


def test_a_fit_takes_no_part_in_comparisons():
    """Polynomials are equal, and hash alike, by their coefficients; they cannot be changed."""
    fitted = dataclasses.replace(PUBLISHED[7], fit=Fit(cutoff=0.4))
    assert fitted == PUBLISHED[7]
    assert len({fitted, PUBLISHED[7]}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.coeffs = (1.0,)


def test_importing_it_imports_nothing_heavy():
    """The layer's kernel imports this module: it must not bring pydantic, NumPy or torch by itself."""
    code = (
        "import sys, pctool.core.polynomial\n"
        "heavy = {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
