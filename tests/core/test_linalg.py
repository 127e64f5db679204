"""The kernel, against the SVD, autograd and PyTorch's own spectral_norm, in float64."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as stock_spectral_norm

from pctool.core import linalg
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.outer_products import apply_factor
from pctool.core.polynomial import PUBLISHED, OddPolynomial
from pctool.core.power_iteration import initial_vectors, power_iteration, power_iteration_

SHAPES = {"wide": (5, 11), "tall": (11, 5), "square": (6, 6), "row": (1, 7), "column": (7, 1)}
COEFFS = [PUBLISHED[d].coeffs for d in (3, 5, 7, 9)]


def matrix(shape: tuple[int, int], seed: int = 0, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(*shape, dtype=torch.float64, generator=generator)
    if rank is not None:
        W = W[:, :rank] @ torch.randn(rank, shape[1], dtype=torch.float64, generator=generator)
    return W


@pytest.mark.parametrize("coeffs", COEFFS, ids=lambda c: f"degree{2 * len(c) - 1}")
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("shape", [SHAPES["wide"], SHAPES["tall"], SHAPES["square"]])
def test_singular_values_of_the_result_are_g_of_sigma(shape, rank, coeffs):
    """Claim 3.2: the singular values of P(A A^T) A are |g(sigma)|, for any shape and rank."""
    W = matrix(shape, rank=rank)
    A = W / torch.linalg.matrix_norm(W, 2)
    expected = OddPolynomial(coeffs)(torch.linalg.svdvals(A)).abs().sort(descending=True).values
    torch.testing.assert_close(
        torch.linalg.svdvals(linalg.polynomial_of_matrix(A, coeffs)), expected, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("coeffs", COEFFS, ids=lambda c: f"degree{2 * len(c) - 1}")
def test_result_keeps_the_singular_vectors(coeffs):
    """g(A) = U g(Sigma) V^T with A's own U and V: not merely the right spectrum, the right matrix."""
    A = matrix(SHAPES["tall"]) / 8
    U, sigmas, Vh = torch.linalg.svd(A, full_matrices=False)
    expected = U @ torch.diag(OddPolynomial(coeffs)(sigmas)) @ Vh
    torch.testing.assert_close(linalg.polynomial_of_matrix(A, coeffs), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_coeffs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_pass_gradcheck(shape, n_coeffs):
    """The closed-form backward, spectral norm included, equals finite differences for every degree and shape."""
    W = matrix(shape).requires_grad_()
    coeffs = torch.linspace(0.7, -1.3, n_coeffs, dtype=torch.float64).tolist()
    u, v = initial_vectors(W, torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda W: linalg.precondition(W, u, v, coeffs), (W,))
    assert torch.autograd.gradcheck(lambda W: linalg.polynomial_of_matrix(W, coeffs), (W,))


def naive(W: torch.Tensor, u: torch.Tensor, v: torch.Tensor, coeffs: tuple[float, ...]) -> torch.Tensor:
    """Horner on the rectangular matrix, differentiated by autograd: an independent road."""
    A = W / torch.dot(u, W @ v)
    value = coeffs[-1] * A
    for a in reversed(coeffs[:-1]):
        value = A @ A.T @ value + a * A
    return value


def gradients(function, W: torch.Tensor, *arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """The value and dL/dW for a fixed random dL/dvalue."""
    W = W.clone().requires_grad_()
    value = function(W, *arguments)
    (gradient,) = torch.autograd.grad(value, W, matrix(tuple(value.shape), seed=9).to(value.dtype))
    return value.detach(), gradient


HARD = {
    "1 x 1": matrix((1, 1)),
    "1 x 40": matrix((1, 40)),
    "40 x 1": matrix((40, 1)),
    "2 x 3": matrix((2, 3)),
    "40 x 40": matrix((40, 40)),
    "64 x 200": matrix((64, 200)),
    "300 x 40": matrix((300, 40)),
    "530 x 520, half of its Gram matrix mirrored": matrix((530, 520)),
    "520 x 530": matrix((520, 530)),
    "rank 3": matrix((30, 50), rank=3),
    "kappa 1e8": torch.linalg.qr(matrix((40, 40))).Q
    @ torch.diag(torch.logspace(0, -8, 40)).double()
    @ matrix((40, 90)),
    "scale 1e-30": matrix((8, 20)) * 1e-30,
    "scale 1e30": matrix((8, 20)) * 1e30,
}


@pytest.mark.parametrize("coeffs", COEFFS, ids=lambda c: f"degree{2 * len(c) - 1}")
@pytest.mark.parametrize("name", HARD)
def test_value_and_gradient_equal_autograd_of_a_naive_horner(name, coeffs):
    """Value and gradient agree with autograd through the textbook form to 1e-10 of the largest entry, for u, v short
    of convergence.

    Mutations that this must catch (tests/test_mutations.py makes them): a transposed Gram matrix, a gradient without
    sigma's share, u and v swapped.
    """
    W = HARD[name]
    u, v = power_iteration(W, *initial_vectors(W, torch.Generator().manual_seed(5)), 1)
    (value, gradient), (value_naive, gradient_naive) = (
        gradients(function, W, u, v, coeffs) for function in (linalg.precondition, naive)
    )
    torch.testing.assert_close(value, value_naive, rtol=0, atol=1e-10 * float(value_naive.abs().max()))
    slack = 1e-14 / float(u @ W @ v)  # a 1 x 1 matrix's gradient is zero up to rounding
    torch.testing.assert_close(gradient, gradient_naive, rtol=0, atol=1e-10 * float(gradient_naive.abs().max()) + slack)


@pytest.mark.parametrize("coeffs", [(0.7,), *COEFFS], ids=lambda c: f"degree{2 * len(c) - 1}")
@pytest.mark.parametrize("name", [name for name, W in HARD.items() if W.shape[0] <= W.shape[1]])
def test_the_left_factor_times_w_is_the_weight(name, coeffs):
    """Q W, differentiated through Q and W, equals autograd through the textbook form to 1e-10 of the largest entry."""
    W = HARD[name]
    u, v = power_iteration(W, *initial_vectors(W, torch.Generator().manual_seed(5)), 1)
    rows = linalg.coefficient_rows([coeffs], W)[0]

    def factored(W):
        return linalg.left_factor(W, u, v, rows, n_coeffs=len(coeffs)) @ W

    value, gradient = gradients(factored, W)
    expected, expected_gradient = gradients(naive, W, u, v, coeffs)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    # of a row, W's share and Q's cancel
    slack = 1e-13 * float(expected.abs().max() / W.abs().max()) + 1e-14 / float(u @ W @ v)
    atol = 1e-10 * float(expected_gradient.abs().max()) + slack
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=atol)


def test_a_large_matrixs_gradient_differentiates():
    """With `create_graph`, autograd's own road through the mirrored products: the same gradient to 1e-10."""
    W = matrix((520, 530)).requires_grad_()
    u, v = initial_vectors(W.detach(), torch.Generator().manual_seed(1))
    for coeffs in COEFFS:
        value = linalg.precondition(W, u, v, coeffs)
        closed, through = (
            torch.autograd.grad(value, W, matrix((520, 530), 3), create_graph=graph, retain_graph=True)[0].detach()
            for graph in (False, True)
        )
        assert float((closed - through).norm()) <= 1e-10 * float(closed.norm())


def test_the_left_factor_differentiates_twice():
    """A double backward in W itself, as a penalty on W's gradient needs, gives finite differences' answer."""
    W = matrix((4, 7)).requires_grad_()
    u, v = initial_vectors(W.detach(), torch.Generator().manual_seed(1))
    rows = linalg.coefficient_rows([PUBLISHED[7].coeffs], W)[0]
    x = matrix((2, 4), 3).requires_grad_()
    for function in (lambda Q, x: Q, lambda Q, x: apply_factor(x, Q)):
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda W, x: function(linalg.left_factor(W, u, v, rows), x), (W, x))  # noqa: B023


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_scale_of_float32_weights_does_not_matter(scale):
    """Norms of 1e-15 and 1e15: the value is that of norm 1, and the gradient times the norm too."""
    W = (matrix((20, 50)) / torch.linalg.matrix_norm(matrix((20, 50)), 2)).float()
    u, v = initial_vectors(W, torch.Generator().manual_seed(1))
    for coeffs in COEFFS:
        value, gradient = gradients(linalg.precondition, W, u, v, coeffs)
        scaled, its_gradient = gradients(linalg.precondition, W * scale, u, v, coeffs)
        torch.testing.assert_close(scaled, value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(its_gradient * scale, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("max_degree", [1, 9])
def test_a_batch_equals_its_members_one_by_one(max_degree):
    """Different sides, orientations and degrees in one zero-padded batch: the value and gradient of each is what it
    has alone, and its vectors, iterated with the others, are too."""
    shapes = [(6, 20), (6, 6), (13, 6), (6, 9), (20, 6), (1, 4), (2, 2)]
    rows = [PUBLISHED[d].coeffs for d in (9, 3, 5, 7, 3, 9, 5)] if max_degree > 1 else [(1.0,), (0.5,)] * 3 + [(2.0,)]
    weights = [matrix(shape, seed).requires_grad_() for seed, shape in enumerate(shapes)]
    vectors = [initial_vectors(W, torch.Generator().manual_seed(1)) for W in weights]
    coeffs = linalg.coefficient_rows(rows, weights[0])
    us, vs, n_coeffs = [u for u, _ in vectors], [v for _, v in vectors], max(map(len, rows))
    batch = linalg.precondition_batch(weights, us, vs, coeffs, n_coeffs=n_coeffs)
    loss = sum((matrix(tuple(x.shape), 7) * x).sum() for x in batch)
    grads = torch.autograd.grad(loss, weights)
    for W, (u, v), row, value, gradient in zip(weights, vectors, rows, batch, grads, strict=True):
        alone = linalg.precondition(W, u, v, row)
        torch.testing.assert_close(value, alone, rtol=1e-13, atol=1e-13)
        (expected,) = torch.autograd.grad((matrix(tuple(alone.shape), 7) * alone).sum(), W)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    iterated = [power_iteration(W, u, v, 2) for W, u, v in zip(weights, us, vs, strict=True)]
    power_iteration_(weights, us, vs, 2)
    for found, expected in zip(zip(us, vs, strict=True), iterated, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_bf16_products_compile_without_a_break(compiler):
    """Whether the machine has units for them is asked outside of the graph."""
    torch._dynamo.reset()
    W = matrix((8, 20)).float()
    u, v = initial_vectors(W, torch.Generator().manual_seed(1))
    low = functools.partial(linalg.precondition, u=u, v=v, coeffs=PUBLISHED[5].coeffs, precision="bf16")
    torch.testing.assert_close(torch.compile(low, fullgraph=True)(W), low(W), rtol=2e-2, atol=2e-2)


def test_coefficients_are_values_compiled_once(compiler):
    """Compiled with coefficients as a tensor: equal to eager, forward and back, and another polynomial is no other
    graph."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    W = matrix(SHAPES["wide"])
    u, v = initial_vectors(W, torch.Generator().manual_seed(1))
    compiled = torch.compile(lambda W, coeffs: linalg.precondition(W, u, v, coeffs), fullgraph=True)
    for degree in (3, 9):
        (row,) = linalg.coefficient_rows([PUBLISHED[degree].coeffs], W)
        eager = gradients(lambda W: linalg.precondition(W, u, v, PUBLISHED[degree].coeffs), W)  # noqa: B023
        for a, b in zip(gradients(compiled, W, row), eager, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(("degree", "tolerance"), [(3, 2e-4), (5, 5e-4), (7, 1e-3), (9, 1e-2)])
def test_low_precision_keeps_a0_times_a_exact(degree, tolerance, monkeypatch):
    """bf16 products alone for (P - a0 I) A: singular values at kappa 1e3 within a fraction of a percent, and far
    closer than the whole product in bf16. On CPUs without bf16 units too, which compute the same slowly."""
    monkeypatch.setattr("pctool.core.products.has_fast_bf16", lambda device: True)
    Q = torch.linalg.qr(matrix((64, 64))).Q
    Z = torch.linalg.qr(matrix((200, 64), seed=1)).Q
    W = (Q * torch.logspace(0, -3, 64, dtype=torch.float64)) @ Z.T
    u, v = power_iteration(W, *initial_vectors(W, torch.Generator().manual_seed(1)), 50)
    coeffs = PUBLISHED[degree].coeffs
    (exact, exact_gradient) = gradients(linalg.precondition, W, u, v, coeffs)
    low, low_gradient = gradients(
        lambda W: linalg.precondition(W, u.float(), v.float(), coeffs, precision="bf16"), W.float()
    )
    sigmas = torch.linalg.svdvals(exact)
    error = ((torch.linalg.svdvals(low.double()) - sigmas) / sigmas).abs().max()
    plain = (naive(W.bfloat16(), u.bfloat16(), v.bfloat16(), coeffs)).double()
    assert error < tolerance
    assert error < 0.2 * ((torch.linalg.svdvals(plain) - sigmas) / sigmas).abs().max()
    assert (low_gradient - exact_gradient).norm() < 0.02 * exact_gradient.norm()


@pytest.mark.parametrize("build", [lambda: nn.Linear(7, 12), lambda: nn.Conv2d(3, 8, 3)], ids=["linear", "conv"])
def test_coefficients_one_are_pytorchs_spectral_norm_over_several_updates(build):
    """g(x) = x is torch's spectral_norm, in value and gradient, step by step while the weights change."""
    torch.manual_seed(3)
    ours = build().double()
    stock = stock_spectral_norm(copy.deepcopy(ours))
    pre = Preconditioner(nn.Sequential(ours), "sn", n_power_iterations=1)
    entry = {**pre.state()["0"], "u": stock.parametrizations.weight[0]._u, "v": stock.parametrizations.weight[0]._v}
    pre.load_state({"0": entry})
    raw = stock.parametrizations.weight.original
    for step in range(5):
        pre.advance()
        W_hat, W_stock = pre.weights()["0.weight"], stock.weight
        torch.testing.assert_close(W_hat, W_stock, rtol=1e-14, atol=1e-14)
        G = torch.randn(W_stock.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        (gradient,) = torch.autograd.grad(W_hat, ours.weight, G)
        (gradient_stock,) = torch.autograd.grad(W_stock, raw, G)
        torch.testing.assert_close(gradient, gradient_stock, rtol=1e-13, atol=1e-13)
        with torch.no_grad():
            ours.weight.sub_(0.1 * gradient)
            raw.sub_(0.1 * gradient_stock)


def test_power_iteration_converges_from_below_to_the_spectral_norm():
    """u^T W v never exceeds the spectral norm and reaches it to 1e-10 with enough iterations."""
    W = matrix((20, 30))
    true = torch.linalg.matrix_norm(W, 2)
    u, v = initial_vectors(W, torch.Generator().manual_seed(0))
    assert torch.dot(u, W @ v) <= true
    u, v = power_iteration(W, u, v, 300)
    torch.testing.assert_close(torch.dot(u, W @ v), true, rtol=1e-10, atol=0)


@pytest.mark.parametrize("coeffs", COEFFS, ids=lambda c: f"degree{2 * len(c) - 1}")
@pytest.mark.parametrize("shape", [SHAPES["wide"], SHAPES["tall"]])
def test_second_derivatives_in_the_weight_are_right(shape, coeffs):
    """Differentiating the gradient again (create_graph) passes gradgradcheck: right, not silently zero."""
    W = matrix(shape).requires_grad_()
    u, v = initial_vectors(W, torch.Generator().manual_seed(1))
    assert torch.autograd.gradgradcheck(lambda W: linalg.precondition(W, u, v, coeffs), (W,))


def test_gradient_penalty_in_the_input_reaches_the_raw_weight():
    """A penalty on dD/dx (double in x, first order in the weights' graph) equals the naive Horner's gradient."""
    W = (matrix(SHAPES["wide"]) / 5).requires_grad_()
    u, v = initial_vectors(W, torch.Generator().manual_seed(2))
    results = []
    for function in (linalg.precondition, naive):
        x = torch.linspace(-1, 1, 11, dtype=torch.float64).requires_grad_()
        out = torch.tanh(function(W, u, v, PUBLISHED[5].coeffs) @ x).sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), W)[0])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("coeffs", [(1.0,), PUBLISHED[9].coeffs], ids=["sn", "degree9"])
def test_autocast_leaves_the_kernel_in_full_precision(coeffs):
    """Under bf16 autocast the result is bit for bit the float32 one, forward and backward, vectors included."""
    W = matrix((16, 40)).float().requires_grad_()
    u, v = initial_vectors(W, torch.Generator().manual_seed(0))
    plain = linalg.precondition(W, u, v, coeffs)
    (gradient,) = torch.autograd.grad(plain.square().sum(), W)
    with torch.autocast("cpu", torch.bfloat16):
        under = linalg.precondition(W, u, v, coeffs)
        for a, b in zip(power_iteration(W, u, v, 1), power_iteration(W.double(), u, v, 1), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        (gradient_under,) = torch.autograd.grad(under.square().sum(), W)
    assert torch.equal(plain, under)
    assert torch.equal(gradient, gradient_under)


@pytest.mark.parametrize("coeffs", [(1.0,), PUBLISHED[7].coeffs], ids=["sn", "degree7"])
def test_half_precision_weights_are_computed_in_float32(coeffs):
    """A bfloat16 weight gives the float32 result of that weight, rounded once."""
    W = matrix((16, 40)).bfloat16()
    u, v = initial_vectors(W.float(), torch.Generator().manual_seed(0))
    half, full = linalg.precondition(W, u, v, coeffs), linalg.precondition(W.float(), u, v, coeffs)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, full.bfloat16())


@pytest.mark.parametrize(
    ("W", "coeffs", "message"),
    [
        (torch.ones(2, 3), (1.0,) * 6, "1 to 5 coefficients"),
        (torch.ones(2, 3), (), "1 to 5 coefficients"),
        (torch.ones(2, 3, 3), (1.0, 2.0), "matrix"),
        (torch.ones(2, 3, dtype=torch.int64), (1.0, 2.0), "floating-point"),
        (torch.ones(0, 3), (1.0, 2.0), "matrix"),
        (torch.ones(2, 3), torch.ones(2), "5 constants"),
        (torch.ones(2, 3), torch.ones(5, requires_grad=True), "5 constants"),
    ],
)
def test_a_programmers_mistake_is_a_clear_valueerror(W, coeffs, message):
    """Too many coefficients, none, some that want a gradient, a tensor that is no matrix, integers: ValueError."""
    with pytest.raises(ValueError, match=message):
        linalg.polynomial_of_matrix(W, coeffs)
