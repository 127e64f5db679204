"""The kernel: spectral norm by power iteration, and an odd polynomial of a matrix, forward and backward.

With A = W / sigma, sigma = u^T W v and S = A A^T (the smaller side n of an n x m matrix), the effective
weight is g(A) = P(S) A, P(S) = a0 I + a1 S + a2 S^2 + ... (paper, Claim 3.2: its singular values are
|g(sigma_i)|). A matrix that is taller than wide is transposed on the way in and out, since
P(A A^T) A = A P(A^T A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

MAX_COEFFS = 5  # degree 9, the strongest polynomial the paper uses (Sec. 3.3, "Search space")
WARM_UP_ITERATIONS = 15  # as `torch.nn.utils.parametrizations.spectral_norm`; one cold iteration is far below sigma


@torch.no_grad()
def power_iteration(W: Tensor, u: Tensor, v: Tensor, n_iterations: int) -> tuple[Tensor, Tensor]:
    """`n_iterations` of u <- W v / |W v|, v <- W^T u / |W^T u| (paper, Sec. 3.3; SN-GAN, Algorithm 1).

    W [n, m], u [n], v [m]; returns new tensors. Starting from v is PyTorch's order, and the better one
    after a weight update.
    """
    for _ in range(n_iterations):
        u = normalize(torch.mv(W, v), dim=0)
        v = normalize(torch.mv(W.t(), u), dim=0)
    return u, v


def initial_vectors(W: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Unit vectors u [n], v [m] after `WARM_UP_ITERATIONS` from a Gaussian start, in W's dtype and device."""
    u = torch.randn(W.shape[0], generator=generator, dtype=torch.float64).to(W)
    v = torch.randn(W.shape[1], generator=generator, dtype=torch.float64).to(W)
    return power_iteration(W.detach(), normalize(u, dim=0), normalize(v, dim=0), WARM_UP_ITERATIONS)


def spectral_norm(W: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """SN(W) = W / (u^T W v) with u and v constant, so that the gradient flows through sigma.

    W [n, m], u [n], v [m]; SN-GAN eq. 8, and what PyTorch's `spectral_norm` computes.
    """
    return W / torch.dot(u, torch.mv(W, v))


def precondition(W: Tensor, u: Tensor, v: Tensor, coeffs: Sequence[float]) -> Tensor:
    """g(SN(W)) (paper, Sec. 3.2): the spectral norm, then the polynomial with `coeffs` ascending in x^2.

    W [n, m], u [n], v [m]; float32 or float64, never lower, whatever autocast says. Raises ValueError for more
    than `MAX_COEFFS` coefficients.
    """
    if len(coeffs) == 1:
        return coeffs[0] * spectral_norm(W, u, v) if coeffs[0] != 1 else spectral_norm(W, u, v)
    return _oriented(W, u, v, coeffs)


def polynomial_of_matrix(W: Tensor, coeffs: Sequence[float]) -> Tensor:
    """g(W) = P(W W^T) W for W [n, m] as it stands, without a spectral norm (paper, Claim 3.2).

    Raises ValueError for more than `MAX_COEFFS` coefficients.
    """
    return _oriented(W, None, None, coeffs)


def _oriented(W: Tensor, u: Tensor | None, v: Tensor | None, coeffs: Sequence[float]) -> Tensor:
    if not 1 <= len(coeffs) <= MAX_COEFFS:
        raise ValueError(f"a polynomial of a matrix takes 1 to {MAX_COEFFS} coefficients, not {len(coeffs)}")
    if W.dim() != 2 or not W.is_floating_point():
        raise ValueError(f"need a floating-point matrix, not {W.dtype} of shape {tuple(W.shape)}")
    coeffs = tuple(float(a) for a in coeffs)
    if W.shape[0] > W.shape[1]:
        return _PolynomialOfMatrix.apply(W.t(), v, u, coeffs).t()
    return _PolynomialOfMatrix.apply(W, u, v, coeffs)


def _polynomial_of_gram(S: Tensor, coeffs: Sequence[float]) -> tuple[Tensor, Tensor]:
    """P(S) by Paterson-Stockmeyer, and S^2: 0, 1, 2, 2 products n x n for degree 3, 5, 7, 9."""
    a = (*coeffs, *[0.0] * (MAX_COEFFS - len(coeffs)))
    P = a[1] * S
    S2 = S @ S if len(coeffs) > 2 else S
    if len(coeffs) == 3:
        P = P + a[2] * S2
    elif len(coeffs) > 3:
        tail = a[3] * S + a[4] * S2 if a[4] else a[3] * S
        tail.diagonal().add_(a[2])
        P = P + S2 @ tail
    P.diagonal().add_(a[0])
    return P, S2


def _evaluate(W: Tensor, u: Tensor | None, v: Tensor | None, coeffs: Sequence[float]) -> tuple[Tensor, ...]:
    """W_hat with what the backward pass needs: A, S, S^2, P(S) and sigma."""
    sigma = torch.dot(u, torch.mv(W, v)) if u is not None and v is not None else W.new_ones(())
    A = W / sigma
    S = A @ A.t()
    P, S2 = _polynomial_of_gram(S, coeffs)
    return P @ A, A, S, S2, P, sigma


class _PolynomialOfMatrix(torch.autograd.Function):
    """P(S) A with A = W / sigma, and its gradient in closed form (u, v constant; sigma = 1 without them)."""

    @staticmethod
    def forward(ctx: Any, W: Tensor, u: Tensor | None, v: Tensor | None, coeffs: tuple[float, ...]) -> Tensor:
        with torch.autocast(W.device.type, enabled=False):
            W_hat, *saved = _evaluate(W, u, v, coeffs)
        ctx.save_for_backward(W, u, v, *saved)
        ctx.coeffs = coeffs
        return W_hat

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None, None, None]:
        """dL/dW for G = dL/dW_hat.

        P is a polynomial in S, so <dP, M> = <L, dS> with M = G A^T and L symmetric below. Then
        dL/dA = P G + L A, and sigma's share is -<dL/dA, A> u v^T, both over sigma.
        """
        W, u, v, A, S, S2, P, sigma = ctx.saved_tensors
        a = (*ctx.coeffs, *[0.0] * (MAX_COEFFS - len(ctx.coeffs)))
        with torch.autocast(G.device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph: the gradient itself will be differentiated, so autograd's road
                W_hat, *_ = _evaluate(W, u, v, ctx.coeffs)
                return *torch.autograd.grad(W_hat, W, G, create_graph=True), None, None, None
            M = G @ A.t()
            K = M + M.t()
            L = a[1] * K
            if len(ctx.coeffs) > 2:
                T = S @ K
                X = a[2] * T
                if len(ctx.coeffs) > 3:
                    X = X + S2 @ (a[3] * K + a[4] * (T + T.t()))
                    L = L + a[3] * (T @ S)
                L = L + X + X.t()
            dW = P @ G + L @ A
            if u is not None:
                c = torch.sum(P * M) + torch.sum(L * S)
                dW = dW - c * torch.outer(u, v)
            return dW / sigma, None, None, None
