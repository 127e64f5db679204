"""The polynomial's gradient where a factor maps few vectors, against autograd through the textbook form."""

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pctool.core import linalg, products
from pctool.core.outer_products import apply_factor
from pctool.core.polynomial import PUBLISHED
from pctool.core.power_iteration import initial_vectors

COEFFS = [PUBLISHED[d].coeffs for d in (3, 5, 7, 9)]


def matrix(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def few_vectors(weight: list[float], seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors x [p, 200] that a factor maps and the gradient G of what it makes of them, of the given weights."""
    x, G = matrix((200, len(weight)), seed + 1).T, matrix((len(weight), 200), seed)
    return x, torch.tensor(weight).double()[:, None] * G


def factor_gradient(
    loss: Callable[[torch.Tensor], torch.Tensor],
    coeffs: tuple[float, ...],
    dtype: torch.dtype = torch.float64,
    precision: products.Precision = "fp32",
) -> tuple[torch.Tensor, bool]:
    """dL/dW for L = loss(Q), W being 200 x 900; and whether outer products made it."""
    W = matrix((200, 900)).to(dtype).requires_grad_()
    u, v = (x.to(dtype) for x in initial_vectors(matrix((200, 900)), torch.Generator().manual_seed(1)))
    rows = linalg.coefficient_rows([coeffs], W)[0]
    Q = linalg.left_factor(W, u, v, rows, n_coeffs=len(coeffs), precision=precision)
    with mock.patch.object(linalg, "through_outer_products", wraps=linalg.through_outer_products) as few:
        loss(Q).backward()
    return W.grad, few.called


def mapped(x: torch.Tensor, G: torch.Tensor, by: Callable[..., torch.Tensor] = apply_factor) -> Any:
    """A loss of Q with the gradient G at what Q makes of the rows of x."""
    return lambda Q: (by(x.to(Q.dtype), Q) * G.to(Q.dtype)).sum()


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return float((found - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("coeffs", COEFFS, ids=lambda c: f"degree{2 * len(c) - 1}")
@pytest.mark.parametrize("weight", [[1, 1, 1], [1, 1e-4, 1e-9], [1, 0, 0], [0, 0, 0]], ids=str)
def test_few_vectors_make_the_gradient_from_outer_products(coeffs, weight):
    """Of three vectors, however unequal: the gradient by W equals autograd's, through powers of the Gram matrix, to
    1e-12 of its norm."""
    x, G = few_vectors(weight)
    found, by_outer_products = factor_gradient(mapped(x, G), coeffs)
    assert by_outer_products
    W = matrix((200, 900)).requires_grad_()
    u, v = initial_vectors(W.detach(), torch.Generator().manual_seed(1))
    sigma = torch.dot(u, W @ v)
    S = W @ W.T / sigma.square()
    Q = sum(a * torch.linalg.matrix_power(S, k) for k, a in enumerate(coeffs)) / sigma
    mapped(x, G)(Q).backward()
    assert close(found, W.grad, 1e-12)


def test_a_factor_is_applied_as_a_linear_layer():
    """Any Q, symmetric or not: value and gradients of `F.linear`, in `torch.func`'s transforms too."""
    x, Q = matrix((3, 5)).requires_grad_(), matrix((5, 5), 1).requires_grad_()
    assert torch.autograd.gradcheck(apply_factor, (x, Q))
    assert torch.equal(apply_factor(x, Q), F.linear(x, Q))
    rows = torch.func.vmap(apply_factor, in_dims=(0, None))(x.detach()[:, None], Q.detach())
    torch.testing.assert_close(rows[:, 0], F.linear(x, Q).detach())


def test_many_vectors_make_the_gradient_as_usual():
    """150 of 200: the same bits as where nothing is known of them."""
    x, G = few_vectors([1.0] * 150)
    found, by_outer_products = factor_gradient(mapped(x, G), COEFFS[2])
    assert not by_outer_products
    assert torch.equal(found, factor_gradient(mapped(x, G, F.linear), COEFFS[2])[0])


@pytest.mark.parametrize("case", ["twice", "beside a sum", "a hook in place", "a hook"])
def test_a_gradient_that_is_no_single_applications_is_no_outer_product(case):
    """Q applied twice, as to real and fake images in turn, used otherwise too, or its gradient changed by a hook, in
    place or not: what was noted of one application does not count, and the gradient is that of `F.linear`."""
    first, second = few_vectors([1, 1, 1]), few_vectors([1, 2], seed=7)

    def loss(Q: torch.Tensor, by: Callable[..., torch.Tensor]) -> torch.Tensor:
        if "hook" in case:
            Q.register_hook(lambda G: G.mul_(2) if "place" in case else 2 * G)
        value = mapped(*first, by)(Q)
        if case == "twice":
            value = value + mapped(*second, by)(Q)
        return value + Q.square().sum() if case == "beside a sum" else value

    found, by_outer_products = factor_gradient(lambda Q: loss(Q, apply_factor), COEFFS[2])
    assert not by_outer_products
    assert close(found, factor_gradient(lambda Q: loss(Q, F.linear), COEFFS[2])[0], 1e-12)


@pytest.mark.parametrize("what", [0, 1])
def test_vectors_that_change_after_they_were_noted_do_not_count(what):
    """x, or the gradient of what Q makes of it, zeroed before dQ is used: the gradient is that of `F.linear`."""
    x, G = few_vectors([1, 1, 1])
    expected = factor_gradient(mapped(x, G, F.linear), COEFFS[2])[0]

    def loss(Q: torch.Tensor) -> torch.Tensor:
        rows, kept = x.clone(), []
        y = apply_factor(rows, Q)
        y.register_hook(kept.append)

        def change(dQ: torch.Tensor) -> None:
            (rows, kept[0])[what].zero_()

        Q.register_hook(change)
        return (y * G).sum()

    found, by_outer_products = factor_gradient(loss, COEFFS[2])
    assert not by_outer_products
    assert close(found, expected, 1e-12)


def test_a_gradient_that_somebody_keeps():
    """dL/dQ copies deeply without the graph of x, and a backward pass in inference mode notes nothing."""
    x, Q = (2 * matrix((3, 5)).requires_grad_()), matrix((5, 5), 1).requires_grad_()
    (dQ,) = torch.autograd.grad(apply_factor(x, Q).sum(), Q, retain_graph=True)
    assert torch.equal(copy.deepcopy(dQ), dQ)
    y = apply_factor(x, Q).sum()
    with torch.inference_mode():
        torch.testing.assert_close(torch.autograd.grad(y, Q)[0], dQ)


def test_a_backward_pass_within_autocast_is_exact():
    """Of a float32 layer, autocast on where `backward` is called: float32's digits."""
    x, G = few_vectors([1, 1, 1])
    exact = factor_gradient(mapped(x, G, F.linear), COEFFS[2])[0]
    W = matrix((200, 900)).float().requires_grad_()
    u, v = (each.float() for each in initial_vectors(matrix((200, 900)), torch.Generator().manual_seed(1)))
    Q = linalg.left_factor(W, u, v, linalg.coefficient_rows([COEFFS[2]], W)[0], n_coeffs=len(COEFFS[2]))
    dQ = (G.T @ x).float()
    dQ.is_product_of = G.float(), x.float(), [0, 0, 0]
    with torch.autocast("cpu", torch.bfloat16):
        Q.backward(dQ)
    assert close(W.grad.double(), exact, 1e-5)


def test_a_gradient_that_is_no_number_stays_none():
    """A NaN or an infinity in what Q's gradient is made of is not lost."""
    x, G = few_vectors([1, 1, 1])
    for value in ("nan", "inf"):
        found, by_outer_products = factor_gradient(mapped(x, G * float(value)), COEFFS[2])
        assert by_outer_products
        assert not found.isfinite().any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outer_products_keep_the_digits(precision):
    """In float32, and with rough products, the gradient's error against float64 is at most twice the usual way's."""
    if products.available(precision, torch.ones(1)) != precision:
        pytest.skip("no bf16 units")
    x, G = few_vectors([1, 0.5, 1e-2, 1e-3])
    for coeffs in COEFFS:
        exact, _ = factor_gradient(mapped(x, G, F.linear), coeffs)
        errors = []
        for by in (apply_factor, F.linear):
            found, by_outer_products = factor_gradient(mapped(x, G, by), coeffs, torch.float32, precision)
            assert by_outer_products == (by is apply_factor)
            errors.append(float((found - exact).norm() / exact.norm()))
        assert errors[0] <= 2 * errors[1] <= {"fp32": 1e-5, "bf16": 0.1}[precision], errors


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 10), ("bf16", 2)])
def test_outer_products_that_nearly_cancel_keep_the_digits(precision, limit):
    """Real and fake images that differ by a hundredth, their gradients of opposite signs: of the sum bf16's error is
    at most twice the usual way's (of 6e-3), float32's ten times (of 4e-6; measured 3 to 6, by seed). With their
    products as they are it would be 100 times in bf16, 14 in float32 at degree 7."""
    if products.available(precision, torch.ones(1)) != precision:
        pytest.skip("no bf16 units")
    x, G = few_vectors([1, 1])
    other = few_vectors([1, 1], seed=7)
    x, G = torch.cat([x, x + 0.01 * other[0]]), torch.cat([G, -(G + 0.01 * other[1])])
    for coeffs in COEFFS:
        exact, _ = factor_gradient(mapped(x, G, F.linear), coeffs)
        few, usual = (
            factor_gradient(mapped(x, G, by), coeffs, torch.float32, precision)[0] for by in (apply_factor, F.linear)
        )
        assert (few - exact).norm() <= limit * (usual - exact).norm(), coeffs


@pytest.mark.parametrize(("degree", "expected"), [(3, 1.7), (7, 3.2)])
def test_the_documented_flop_of_few_vectors(degree, expected):
    """docs/performance.md: of D's last convolution at 48 px, 64 vectors, in n^2 m, the products of n x n included."""
    W = matrix((1024, 4608)).float().requires_grad_()
    u, v = initial_vectors(W.detach())
    coeffs = PUBLISHED[degree].coeffs
    x, G = matrix((64, 1024)).float(), matrix((64, 1024), 1).float()
    mkl = mock.patch.object(products, "has_slow_mkl", return_value=False)  # the counter does not know oneDNN's products
    with mkl, FlopCounterMode(display=False) as counter:
        rows = linalg.coefficient_rows([coeffs], W)[0]
        apply_factor(x, linalg.left_factor(W, u, v, rows, n_coeffs=len(coeffs))).backward(G)
    applied = 2 * 2 * 64 * 1024**2  # to x, and Q's gradient
    assert (counter.get_total_flops() - applied) / (1024**2 * 4608) == pytest.approx(expected, abs=0.05)


def test_weights_in_half_precision_have_their_own_gradient():
    """Q's gradient is rounded on the way: no outer products, but float32's gradient to bf16's digits."""
    x, G = few_vectors([1, 1, 1])
    found, by_outer_products = factor_gradient(mapped(x, G), COEFFS[0], torch.bfloat16)
    assert not by_outer_products
    assert close(found.double(), factor_gradient(mapped(x, G), COEFFS[0])[0], 0.05)
