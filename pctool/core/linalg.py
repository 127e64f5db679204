"""The kernel: spectral norm, and an odd polynomial of a matrix, forward and backward.

With A = W / sigma, sigma = u^T W v and S = A A^T (the smaller side n of an n x m matrix), the effective
weight is g(A) = P(S) A, P(S) = a0 I + a1 S + a2 S^2 + ... (paper, Claim 3.2: its singular values are
|g(sigma_i)|). A matrix that is taller than wide is transposed on the way in and out, since
P(A A^T) A = A P(A^T A). Coefficients are tensors, so that another polynomial is another value and no branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pctool.core.outer_products import as_outer_products, through_outer_products
from pctool.core.polynomial import MAX_COEFFS
from pctool.core.power_iteration import padded, times_vectors
from pctool.core.products import (
    Precision,
    add_product_,
    available,
    is_transformed,
    mul,
    plus_transpose,
    products,
    rounded,
    symmetric,
    without_autocast,
    working,
)


def precondition(
    W: Tensor, u: Tensor, v: Tensor, coeffs: Sequence[float] | Tensor, *, precision: Precision = "fp32"
) -> Tensor:
    """g(SN(W)) (paper, Sec. 3.2): the spectral norm, then the polynomial with `coeffs` ascending in x^2.

    W [n, m] with a norm between 1e-15 and 1e15, u [n], v [m], coeffs 1 to 5 numbers or a tensor [5] on W's device.
    Evaluated in float32 or better, whatever autocast says, unless `precision` asks for less (see
    `precondition_batch`); returned in W's dtype.
    Raises ValueError for another number of coefficients or what is no floating-point matrix.
    """
    return _oriented(W, _unit(u), _unit(v), coeffs, precision)


def precondition_batch(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    coeffs: Tensor,
    *,
    n_coeffs: int = MAX_COEFFS,
    precision: Precision = "fp32",
) -> list[Tensor]:
    """`precondition` of several matrices at once, each way round, zero-padded to the largest.

    weights: [n_i, m_i]; us, vs: their vectors; coeffs [layers, 5], zero from `n_coeffs` on. Zero rows and columns add
    nothing to the Gram matrix and stay zero. `precision` is that of the matrix products: full float32 whatever the
    process allows; `tf32` on CUDA, or `bf16` with float32 sums (CUDA, and CPUs that have it), with a0 A exact and only
    (P - a0 I) A rough. Where the device lacks it, float32.
    """
    W, u, v, tall = _stacked(weights, us, vs)
    precision = available(precision, W)
    W_hat = _value(working(W), _unit(u), _unit(v), coeffs, n_coeffs, precision, False).to(W.dtype)
    values = W_hat.unbind(0) if len(weights) > 1 else (W_hat.squeeze(0),)  # unbind's gradient is a copy
    wide = [x.t() if flip else x for x, flip in zip(weights, tall, strict=True)]
    found = [x if x.shape == own.shape else x[: len(own), : own.shape[1]] for x, own in zip(values, wide, strict=True)]
    return [x.t() if flip else x for x, flip in zip(found, tall, strict=True)]


def _stacked(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, list[bool]]:
    """W [layers, n, m], u [layers, n], v [layers, m] of the matrices lying down, zero-padded; which of them stood."""
    tall = [W.shape[0] > W.shape[1] for W in weights]
    wide = [W.t() if flip else W for W, flip in zip(weights, tall, strict=True)]
    left = [v if flip else u for u, v, flip in zip(us, vs, tall, strict=True)]
    right = [u if flip else v for u, v, flip in zip(us, vs, tall, strict=True)]
    if len(weights) == 1:
        return wide[0].unsqueeze(0), left[0].unsqueeze(0), right[0].unsqueeze(0), tall
    return padded(wide), padded(left), padded(right), tall


def left_factor(
    W: Tensor,
    u: Tensor,
    v: Tensor,
    coeffs: Tensor,
    *,
    n_coeffs: int = MAX_COEFFS,
    precision: Precision = "fp32",
) -> Tensor:
    """Q = P(A A^T) / sigma [n, n], the factor with g(SN(W)) = Q W, for W [n, m] that is not tall.

    A layer that maps few vectors is cheaper as Q (W x) than with Q W made: two products with the long side (the Gram
    matrix, and one backward) in place of five. Where `outer_products.apply_factor` maps far fewer than n a CPU saves
    most of the backward one, too. u [n], v [m], coeffs [5]; evaluated in float32 or better, a0 exact in each
    `precision` (see `precondition_batch`), the gradient of sigma included; returned in W's dtype.
    """
    A = working(W)
    if n_coeffs == 1:
        return torch.diag((coeffs[0] / _sigma(A, u, v)).expand(len(W))).to(W.dtype)
    how = n_coeffs, available(precision, W), True
    Q = _value(A[None], _unit(u)[None], _unit(v)[None], coeffs[None], *how)
    return Q if Q.dtype == W.dtype else Q.to(W.dtype)


def polynomial_of_matrix(W: Tensor, coeffs: Sequence[float], *, precision: Precision = "fp32") -> Tensor:
    """g(W) = P(W W^T) W for W [n, m] as it stands, without a spectral norm (paper, Claim 3.2).

    Raises ValueError as `precondition`.
    """
    return _oriented(W, None, None, coeffs, precision)


def coefficient_rows(coeffs: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """The polynomials' coefficients as the kernel takes them: [layers, 5], zero-padded, on `like`'s device.

    In the dtype that the kernel works in for `like`. Raises ValueError for none or more than five coefficients.
    """
    for row in coeffs:
        if not 1 <= len(row) <= MAX_COEFFS:
            raise ValueError(f"a polynomial of a matrix takes 1 to {MAX_COEFFS} coefficients, not {len(row)}")
    rows = [[*map(float, row), *[0.0] * (MAX_COEFFS - len(row))] for row in coeffs]
    return torch.tensor(rows, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _oriented(
    W: Tensor, u: Tensor | None, v: Tensor | None, coeffs: Sequence[float] | Tensor, precision: Precision
) -> Tensor:
    if W.dim() != 2 or not W.is_floating_point() or not W.numel():
        raise ValueError(f"need a floating-point matrix, not {W.dtype} of shape {tuple(W.shape)}")
    if isinstance(coeffs, Tensor):
        if coeffs.shape != (MAX_COEFFS,) or coeffs.requires_grad:
            raise ValueError(f"coefficients in a tensor are {MAX_COEFFS} constants, zero-padded; or give a list")
        rows, n_coeffs = coeffs.unsqueeze(0), MAX_COEFFS
    else:
        rows, n_coeffs = coefficient_rows([coeffs], W), len(coeffs)
    tall = W.shape[0] > W.shape[1]
    A = working(W.t() if tall else W).unsqueeze(0)
    left, right = (v, u) if tall else (u, v)
    left, right = (x if x is None else x.unsqueeze(0) for x in (left, right))
    W_hat = _value(A, left, right, rows, n_coeffs, available(precision, W), False).squeeze(0)
    return (W_hat.t() if tall else W_hat).to(W.dtype)


def _sigma(A: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """u^T A v for A of `working`, whatever autocast says."""
    with without_autocast(A.device):
        return torch.dot(_unit(u), torch.mv(A, _unit(v)))


def _unit(x: Tensor) -> Tensor:
    """Unit vectors along the last dimension; what was stored in half precision has lost its length."""
    return x if x.dtype in (torch.float32, torch.float64) else normalize(working(x), dim=-1)


def _polynomial(S: Tensor, a: list[Tensor], n_coeffs: int, precision: Precision) -> tuple[Tensor, Tensor]:
    """P(S), or P(S) - a0 I where products are rough, by Paterson-Stockmeyer; and S^2.

    0, 1, 2, 2 products n x n for degree 3, 5, 7, 9.
    """
    R = rounded(S, precision)
    S2 = symmetric(R, R, precision) if n_coeffs > 2 else S
    P = a[1] * S
    if n_coeffs == 3:
        P = torch.addcmul(P, S2, a[2])
    elif n_coeffs > 3:
        tail = torch.addcmul(a[3] * S, S2, a[4]) if n_coeffs > 4 else a[3] * S
        P = P.add_(symmetric(S2, rounded(_add_identity(tail, a[2]), precision), precision))
    return _add_identity(P, a[0]) if precision == "fp32" else P, S2


def _add_identity(X: Tensor, scale: Tensor) -> Tensor:
    """X + scale I, in X's place."""
    n = X.shape[-1]
    X.view(-1, n * n)[:, :: n + 1].add_(scale.squeeze(-1))
    return X


def _times(P: Tensor, a0: Tensor, X: Tensor, Y: Tensor, precision: Precision) -> Tensor:
    """P(S) X for P of `_polynomial`, Y being X. Where products are rough (P - a0 I) Y is, and a0 X is added exactly."""
    product = mul(P, Y, precision)
    return product if precision == "fp32" else torch.addcmul(product, X, a0)  # a new one, as in `working`


def _evaluate(  # noqa: PLR0917  # the kernel's own arguments, in its order
    W: Tensor, u: Tensor | None, v: Tensor | None, coeffs: Tensor, n_coeffs: int, precision: Precision, factor: bool
) -> tuple[Tensor, ...]:
    """W_hat, or its left `factor`, with what the backward pass needs: rounded W, S, S^2, P of `_polynomial`, and sigma.

    A = W / sigma itself is never made: the small matrices bear the scale.
    """
    a = [x.view(-1, 1, 1) for x in coeffs.unbind(-1)]
    sigma = W.new_ones(())
    if u is not None and v is not None:
        with products(W.device, "fp32"):
            sigma = _dot_exactly(u, times_vectors(W, v))
    if n_coeffs == 1:
        return W * (a[0] / sigma), W, sigma, sigma, sigma, sigma
    B = rounded(W, precision)
    S = symmetric(B, B, precision).div_(sigma.square())
    P, S2 = _polynomial(S, a, n_coeffs, precision)
    Q, a0 = P / sigma, a[0] / sigma
    if not factor:
        return _times(Q, a0, W, W, precision), B, S, S2, P, sigma
    return Q if precision == "fp32" else _add_identity(Q, a0), B, S, S2, P, sigma


def _value(W: Tensor, u: Tensor | None, v: Tensor | None, coeffs: Tensor, *how: Any) -> Tensor:
    """`_PolynomialOfMatrix`; within `torch.func`'s transforms, which know no such function, left to autograd."""
    n_coeffs, _, factor = how
    if is_transformed():
        with products(W.device, "fp32"):
            value, *_ = _evaluate(W, u, v, coeffs, n_coeffs, "fp32", factor)
        return value[0] if factor else value
    made: Tensor = _PolynomialOfMatrix.apply(W, u, v, coeffs, *how)
    return made


class _PolynomialOfMatrix(torch.autograd.Function):
    """P(S) A with A = W / sigma or its left factor P(S) / sigma, and the gradient in closed form.

    u and v are constant; without them sigma = 1.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  # autograd passes them by position
        ctx: Any,
        W: Tensor,
        u: Tensor | None,
        v: Tensor | None,
        coeffs: Tensor,
        n_coeffs: int,
        precision: Precision,
        factor: bool,
    ) -> Tensor:
        """W_hat [layers, n, m] for W [layers, n, m], u [layers, n], v [layers, m], coeffs [layers, 5].

        Or the `factor` Q [n, n] of one layer: with a dimension more its gradient would come as a view, without what
        `outer_products` noted on it.
        """
        with products(W.device, precision):
            value, *saved = _evaluate(W, u, v, coeffs, n_coeffs, precision, factor)
        # coeffs may change in place before the backward pass: APC between two forwards of one graph.
        ctx.save_for_backward(W, u, v, coeffs.clone(), value, *saved)
        ctx.how = n_coeffs, precision, factor
        return value[0] if factor else value

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        """dL/dW for G = dL/dW_hat, or for G = dL/dQ.

        P is a polynomial in S, so <dP, M> = <L, dS> with M = dL/dP, G A^T or G / sigma, and L symmetric. Then
        dL/dA = P G + L A, or L A, and sigma's share is -(<P, M> + <L, S>) u v^T, both over sigma.
        """
        W, u, v, coeffs, value, B, S, S2, P, sigma = ctx.saved_tensors
        n_coeffs, precision, factor = ctx.how
        nothing = (None,) * 6
        a = [x.view(-1, 1, 1) for x in coeffs.unbind(-1)]
        if torch.is_grad_enabled():  # create_graph: the gradient itself will be differentiated, so autograd's road
            with products(G.device, "fp32"):  # exact: not every rough product has a gradient
                value, *_ = _evaluate(W, u, v, coeffs, n_coeffs, "fp32", factor)
                return *torch.autograd.grad(value, W, G[None] if factor else G, create_graph=True), *nothing
        found = as_outer_products(G, W.shape[-1], n_coeffs) if factor else None
        if found is not None:
            a = coeffs[0, :n_coeffs].tolist()
            dW, LS = through_outer_products(found, B[0], S[0], sigma.view(()), a, precision=precision)
            return _without_norm(dW[None], _dot_exactly(G[None], value) + LS, sigma, u, v), *nothing
        G = G[None] if factor else G
        with products(G.device, precision):
            if n_coeffs == 1:
                dW, c = G * (a[0] / sigma), _dot_exactly(G, value)
                return _without_norm(dW, c, sigma, u, v), *nothing
            H = G if factor else rounded(G, precision)  # W_hat's own product takes W: its result must keep its digits
            M = (G if factor else mul(H, B.mT, precision)) / sigma
            L = _gradient_of_gram(M, S, S2, a, n_coeffs, precision)
            rest = L / sigma.square()
            if factor:
                dW = mul(rest, B, precision)
            else:
                dW = _times(P / sigma, a[0] / sigma, G, H, precision)
                dW = add_product_(dW, rest, B, precision)
            # <P, M>; where M or P is rough, as the exact <G, value>, at more traffic.
            PM = _dot_exactly(P, M) if precision == "fp32" else _dot_exactly(G, value)
            return _without_norm(dW, PM + _dot_exactly(L, S), sigma, u, v), *nothing


def _without_norm(dW: Tensor, c: Tensor, sigma: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
    """dW - c / sigma u v^T, sigma's share of the gradient, in dW's place."""
    return dW if u is None or v is None else dW.addcmul_((-c / sigma) * u.unsqueeze(-1), v.unsqueeze(-2))


def _gradient_of_gram(  # noqa: PLR0917
    M: Tensor, S: Tensor, S2: Tensor, a: list[Tensor], n_coeffs: int, precision: Precision
) -> Tensor:
    """L = dL/dS + its transpose for M = dL/dP, so that dL/dA is L A where A enters through S = A A^T."""
    K = plus_transpose(M)
    L = a[1] * K
    if n_coeffs > 2:
        T = mul(S, rounded(K, precision), precision)
        X = a[2] * T
        if n_coeffs > 3:
            inner = torch.addcmul(a[3] * K, plus_transpose(T), a[4]) if n_coeffs > 4 else a[3] * K
            X = X.add_(mul(S2, rounded(inner, precision), precision))
            L = L.addcmul_(symmetric(T, rounded(S, precision), precision), a[3])
        L = L.add_(plus_transpose(X))
    return L


def _dot_exactly(X: Tensor, Y: Tensor) -> Tensor:
    """<X, Y> of each layer, [layers, 1, 1], in full precision."""
    with products(X.device, "fp32"):
        X, Y = X.reshape(len(X), -1), Y.reshape(len(Y), -1)  # flatten has no batching rule of autograd.grad
        if len(X) == 1:
            return torch.dot(X[0], Y[0]).view(1, 1, 1)
        return (X * Y).sum(1).view(-1, 1, 1)
