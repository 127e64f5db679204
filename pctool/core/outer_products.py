"""The backward pass of a polynomial that was applied to few vectors, through outer products.

Applied to p vectors the factor Q = P(S) / sigma [n, n] has a gradient dL/dQ that is a sum of p outer products. Then L
(see `linalg`) is a sum of 2 k p for degree 2 k + 1, and L W [n, m] takes 8 k p n m FLOP in place of 2 n^2 m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pctool.core.products import matmul

SPARE_VECTORS = 8  # more random vectors than outer products: without, the basis misses 1e-5 of G in float32
TOLERANCE = 8.0  # units of rounding: the product of 64 vectors of 1024 is itself off by 1, what is found by 3
WORTH_WHILE = 0.8  # of the usual FLOP; at 0.98 and 0.95 (512 x 1024, degrees 3 and 7) it took as long as the usual way


def as_outer_products(G: Tensor, n_vectors: int, m: int, n_coeffs: int) -> tuple[Tensor, Tensor] | None:
    """left [r, n] and right [r, n] with G = left^T right for G [n, n], r a little above `n_vectors`.

    None where G needs more than r, or where L W for W [n, m] costs about as much as usual. On CPUs alone: a GPU would
    have to wait for the answer, which decides what comes next; nor in compiled code, which cannot branch by it. The
    rows of `left` are an orthonormal basis of G's product with a few random vectors (Halko et al., arXiv 0909.4061);
    that they leave nothing of G is checked.
    """
    n, r, k = len(G), n_vectors + SPARE_VECTORS, n_coeffs - 1
    usual, this_way = n * m + (0, 1, 3, 3)[k - 1] * n * n, 2 * k * r * (2 * m + n) + 5 * r * n  # FLOP / 2n
    if G.device.type != "cpu" or torch.compiler.is_compiling() or this_way > WORTH_WHILE * usual:
        return None
    basis = torch.randn(n, r, dtype=G.dtype, generator=torch.Generator().manual_seed(0))
    for X in (G, G.t(), G):  # once alone would miss 1e-6 of G in float32, in place of 3e-7
        basis = torch.linalg.qr(matmul(X, basis)).Q
    right = matmul(basis.t(), G)
    missed, all_of_it = (_norm(x) for x in (G - matmul(basis, right), G))
    return (basis.t(), right) if missed <= TOLERANCE * torch.finfo(G.dtype).eps * all_of_it else None


def through_outer_products(
    found: tuple[Tensor, Tensor], W: Tensor, S: Tensor, sigma: Tensor, coeffs: list[float]
) -> tuple[Tensor, Tensor]:
    """L W / sigma^2 [n, m] and <L, S> for dL/dQ as `as_outer_products` has it.

    With l_i = left S^i / sigma and r_j = right S^j, L is the sum of a_(i + j + 1) (l_i^T r_j + r_j^T l_i) over
    i + j < k, and <L, S> that of 2 q a_q <l_i, r_(q - i)> over q = 1 to k.
    """
    left, right = found
    k, r = len(coeffs) - 1, len(left)
    pairs = [torch.cat([left / sigma, right])]
    while len(pairs) < max(k, 2):
        pairs.append(matmul(pairs[-1], S))
    dots = [2 * q * coeffs[q] * (pairs[q - q // 2][:r] * pairs[q // 2][r:]).sum() for q in range(1, k + 1)]
    partners = [pair.roll(r, 0) for pair in pairs]
    sums = [torch.stack([coeffs[i + j + 1] * partners[i] for i in range(k - j)]).sum(0) for j in range(k)]
    dA = matmul(torch.cat(sums).t() / sigma.square(), matmul(torch.cat(pairs[:k]), W))
    return dA, torch.stack(dots).sum()


def _norm(x: Tensor) -> Tensor:
    """Of any scale: squares of float32 end at 1e-38 and 1e38."""
    return torch.linalg.vector_norm(x, dtype=torch.float64)
