"""Power iteration: the vectors u and v by which a spectral norm is estimated, of one matrix or of several at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from pctool.core.products import without_autocast, working

WARM_UP_ITERATIONS = 15  # as `torch.nn.utils.parametrizations.spectral_norm`; one cold iteration is far below sigma


@torch.no_grad()
def power_iteration(W: Tensor, u: Tensor, v: Tensor, n_iterations: int) -> tuple[Tensor, Tensor]:
    """`n_iterations` of u <- W v / |W v|, v <- W^T u / |W^T u| (paper, Sec. 3.3; SN-GAN, Algorithm 1).

    W [n, m], u [n], v [m]; returns new tensors of u's and v's dtype, computed in float32 or better. Starting
    from v is PyTorch's order, and the better one after a weight update.
    """
    kept = u.dtype
    with without_autocast(W.device):
        W = working(W)
        u, v, eps = u.to(W.dtype), v.to(W.dtype), torch.finfo(W.dtype).tiny
        for _ in range(n_iterations):
            u = normalize(torch.mv(W, v), dim=0, eps=eps)
            v = normalize(torch.mv(W.t(), u), dim=0, eps=eps)
    return u.to(kept), v.to(kept)


@torch.no_grad()
def power_iteration_(weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], n_iterations: int) -> None:
    """`power_iteration` of several matrices at once, zero-padded to the largest, in place of us and vs.

    weights: [n_i, m_i] each way round; for many small ones, whose launches would cost more than their products.
    """
    if len(weights) == 1:
        for kept, new in zip((us[0], vs[0]), power_iteration(weights[0], us[0], vs[0], n_iterations), strict=True):
            kept.copy_(new)
        return
    W, v = working(padded(weights)), working(padded(vs))
    with without_autocast(W.device):
        eps = torch.finfo(W.dtype).tiny
        for _ in range(n_iterations):
            u = normalize(times_vectors(W, v), dim=1, eps=eps)
            v = normalize(times_vectors(W.mT, u), dim=1, eps=eps)
    for old, new in ((us, u), (vs, v)):
        torch._foreach_copy_(list(old), [x[: len(kept)] for x, kept in zip(new, old, strict=True)])


def initial_vectors(W: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Unit vectors u [n], v [m] after `WARM_UP_ITERATIONS` from a Gaussian start, in W's dtype and device."""
    u = torch.randn(W.shape[0], generator=generator, dtype=torch.float64).to(W)
    v = torch.randn(W.shape[1], generator=generator, dtype=torch.float64).to(W)
    return power_iteration(W.detach(), normalize(u, dim=0), normalize(v, dim=0), WARM_UP_ITERATIONS)


def padded(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of several with as many dimensions, each zero-padded to the largest."""
    shape = torch.Size(map(max, zip(*(x.shape for x in tensors), strict=True)))
    missing = ([k - own for k, own in zip(shape, x.shape, strict=True)] for x in tensors)
    margins = ([n for k in reversed(sides) for n in (0, k)] for sides in missing)
    return torch.stack([pad(x, m) if any(m) else x for x, m in zip(tensors, margins, strict=True)])


def times_vectors(W: Tensor, x: Tensor) -> Tensor:
    """W x of each layer, [layers, n], for W [layers, n, m] and x [layers, m].

    A product of matrices with one column is no work for a GPU's kernels: as such 6 MB took an H100 56 microseconds.
    """
    if len(W) == 1:
        return torch.mv(W[0], x[0]).unsqueeze(0)
    return (W * x.unsqueeze(-2)).sum(-1) if W.is_cuda else (W @ x.unsqueeze(-1)).squeeze(-1)
