"""The backward pass of a polynomial that was applied to few vectors, through outer products.

Applied to p vectors the factor Q = P(S) / sigma [n, n] has a gradient dL/dQ that is a sum of p outer products. Then L
(see `linalg`) is a sum of 2 k p for degree 2 k + 1, and L W [n, m] takes 8 k p n m FLOP in place of 2 n^2 m. Autograd
hands on dL/dQ alone, so `apply_factor` notes on it what it is the sum of.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pctool.core.products import Linear, Precision, is_traced, matmul, mul, products, rounded

WORTH_WHILE = 0.8  # of the usual FLOP


def apply_factor(x: Tensor, Q: Tensor) -> Tensor:
    """Q on the rows of x: x Q^T [p, n] for x [p, n] and Q [n, n].

    On CPUs Q's gradient remembers the two matrices whose product it is, but in code that is compiled or transformed.
    """
    if not x.is_cpu or is_traced():
        return F.linear(x, Q)
    y: Tensor = _Applied.apply(x, Q)
    return y


class _Applied(Linear):
    """`Linear`, whose gradient of Q remembers what it is the product of."""

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """dL/dx and dL/dQ for G = dL/dy."""
        dx, dQ = Linear.backward(ctx, G)
        if dQ is not None and not dQ.is_inference():  # whose changes nobody counts
            vectors = G.detach(), ctx.saved_tensors[0].detach()  # versions are those of G and x
            noted: Any = dQ
            noted.is_product_of = *vectors, [each._version for each in (*vectors, dQ)]
        return dx, dQ


def as_outer_products(G: Tensor, m: int, n_coeffs: int) -> tuple[Tensor, Tensor] | None:
    """left [p, n], orthonormal rows, and right [p, n] with G = left^T right for G [n, n] = dL/dQ, where that is known.

    None where L W for W [n, m] costs about as much as usual, and where G is anything else than one application's
    gradient as it was: of several autograd adds them up, in a new tensor or in place, which counts as another version
    (what is changed through `.data` or numpy does not). Made orthonormal in full precision, where what nearly cancels,
    real against fake images, still can.
    """
    noted: tuple[Tensor, Tensor, list[int]] | None = getattr(G, "is_product_of", None)
    if noted is None:
        return None
    left, right, versions = noted
    if [each._version for each in (left, right, G)] != versions:
        return None
    n, k = len(G), n_coeffs - 1
    usual, this_way = n * m + (0, 1, 3, 3)[k - 1] * n * n, 2 * k * len(left) * (2 * m + n)  # FLOP / 2n
    if this_way > WORTH_WHILE * usual:
        return None
    with products(G.device, "fp32"):
        basis, R = torch.linalg.qr(left.t())
        return basis.t(), matmul(R, right)


def through_outer_products(
    found: tuple[Tensor, Tensor], B: Tensor, S: Tensor, sigma: Tensor, coeffs: list[float], *, precision: Precision
) -> tuple[Tensor, Tensor]:
    """L W / sigma^2 [n, m] and <L, S> for dL/dQ as `as_outer_products` has it.

    With l_i = left S^i / sigma and r_j = right S^j, L is the sum of a_(i + j + 1) (l_i^T r_j + r_j^T l_i) over
    i + j < k, and <L, S> that of 2 q a_q <l_i, r_(q - i)> over q = 1 to k. B is W, `rounded` for the products of
    `precision` with it; the others are exact.
    """
    left, right = found
    k, r = len(coeffs) - 1, len(left)
    with products(B.device, "fp32"):
        pairs = [torch.cat([left / sigma, right])]
        while len(pairs) < max(k, 2):
            pairs.append(matmul(pairs[-1], S))
        dots = [2 * q * coeffs[q] * (pairs[q - q // 2][:r] * pairs[q // 2][r:]).sum() for q in range(1, k + 1)]
        partners = [pair.roll(r, 0) for pair in pairs]
        sums = [torch.stack([coeffs[i + j + 1] * partners[i] for i in range(k - j)]).sum(0) for j in range(k)]
    with products(B.device, precision):
        long = mul(torch.cat(pairs[:k])[None], B[None], precision)
        dA = mul((torch.cat(sums).t() / sigma.square())[None], rounded(long, precision), precision)
    return dA[0], torch.stack(dots).sum()
