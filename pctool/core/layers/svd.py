"""The SVD baseline: weights parametrised as U^T diag(d) V with a D-optimal penalty (Jiang et al., ICLR 2019).

U [r, n] and V [r, m] are kept near orthogonal rows by a penalty, d [r] near each other by another; after each update
d is divided by its largest entry, so that the spectral norm is about 1. r is the smaller side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ORTHOGONALITY = 10.0  # weight of the whole penalty (Jiang et al., public code)
SPREAD = 0.1  # weight of -mean(log d) within it
SMALLEST = 1e-6  # log d needs d > 0: d is clamped from below after each update


class SvdWeights:
    """Replaces `weight` of each named layer by the parameters `svd_u`, `svd_d`, `svd_v`.

    `weight` stays as a buffer that holds the product, so that files and spectra find it where it was. Start: U and
    V orthogonal, d = 1, drawn from `generator` (CPU).
    """

    def __init__(self, layers: dict[str, nn.Module], generator: torch.Generator | None = None) -> None:
        self.layers = layers
        for module in layers.values():
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            n, m = weight.flatten(1).shape
            rank = min(n, m)
            for name, width in (("svd_u", n), ("svd_v", m)):
                start = torch.empty(rank, width, dtype=weight.dtype)
                start = nn.init.orthogonal_(start, generator=generator).to(weight.device)
                module.register_parameter(name, nn.Parameter(start))
            module.register_parameter("svd_d", nn.Parameter(weight.new_ones(rank)))
            del module._parameters["weight"]
            module.register_buffer("weight", weight.detach().clone())
        self.advance()

    @torch.no_grad()
    def advance(self) -> None:
        """Follows an update of the factors: d is kept positive, its largest entry at 1; `weight` is their product."""
        for module in self.layers.values():
            d = module.get_parameter("svd_d").clamp_(min=SMALLEST)
            d /= d.max()
        for name, value in self.weights().items():
            self.layers[name.removesuffix(".weight")].get_buffer("weight").copy_(value)

    def weights(self) -> dict[str, Tensor]:
        """W = U^T diag(d) V by parameter name, with its graph."""
        values = {}
        for name, module in self.layers.items():
            U, d, V = _factors(module)
            values[f"{name}.weight"] = ((U.t() * d) @ V).view(module.get_buffer("weight").shape)
        return values

    def penalty(self) -> Tensor:
        """10 sum over layers of |U U^T - I|_F^2 + |V V^T - I|_F^2 - 0.1 mean(log d); what D's loss adds."""
        terms = []
        for module in self.layers.values():
            U, d, V = _factors(module)
            eye = torch.eye(len(d), dtype=d.dtype, device=d.device)
            off = (U @ U.t() - eye).square().sum() + (V @ V.t() - eye).square().sum()
            terms.append(ORTHOGONALITY * (off - SPREAD * d.log().mean()))
        return torch.stack(terms).sum()


def _factors(module: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return module.get_parameter("svd_u"), module.get_parameter("svd_d"), module.get_parameter("svd_v")
