"""Residual blocks and initialisations, in the two variants that the published results come from.

`authors` is the public code of the paper's first author, `sngan` is Miyato et al. (arXiv 1802.05957, and their public
code). They differ in D's activation (leaky ReLU 0.1 but for ReLU in the first block, ReLU), G's upsampling (bilinear,
nearest), the last convolution of G (1x1, 3x3) and the initialisation.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctool.core.models import resampling
from pctool.core.models.factored import FactoredConv2d

Variant = Literal["authors", "sngan"]

LEAK = {"authors": 0.1, "sngan": 0.0}  # negative slope in the residual D, but for its first block, which has ReLU
UPSAMPLING: dict[Variant, resampling.Upsampling] = {"authors": "bilinear", "sngan": "nearest"}


class UpBlock(nn.Module):
    """G's block in -> out -> out from `side` to twice the resolution, with batch norm before each convolution."""

    enlarge: Tensor

    def __init__(self, n_in: int, n_out: int, variant: Variant, side: int) -> None:
        super().__init__()
        self.upsampling = UPSAMPLING[variant]
        few = self.upsampling == "bilinear" and side <= resampling.LARGEST_MATRIX
        self.register_buffer("enlarge", resampling.bilinear_matrix(side) if few else torch.empty(0), persistent=False)
        self.norm1 = nn.BatchNorm2d(n_in)
        kind = resampling.DoublingConv2d if self.upsampling == "nearest" else nn.Conv2d
        self.conv1 = kind(n_in, n_out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        if self.upsampling == "bilinear":
            h = resampling.doubled(h, self.upsampling, self.enlarge)
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        # A 1x1 convolution and an upsampling whose weights sum to 1 commute: the cheap order is the low resolution.
        return h + resampling.doubled(self.shortcut(x), self.upsampling, self.enlarge)


class DownBlock(nn.Module):
    """D's block in -> in -> out with pre-activation; the first of a network is in -> out -> out without one."""

    def __init__(self, n_in: int, n_out: int, *, down: bool, first: bool, leak: float) -> None:
        super().__init__()
        width = n_out if first else n_in
        self.down, self.first, self.leak = down, first, 0.0 if first else leak
        self.conv1 = FactoredConv2d(n_in, width, 3, padding=1)
        self.conv2 = FactoredConv2d(width, n_out, 3, padding=1)
        self.shortcut = FactoredConv2d(n_in, n_out, 1) if down or n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.leaky_relu(x, self.leak)
        h = self.conv2(F.leaky_relu(self.conv1(h), self.leak), halve=self.down)
        # Average pooling commutes with the 1x1 shortcut, so it goes first: a quarter of the work.
        return h + self.shortcut(resampling.average_pool(x) if self.down else x)


@torch.no_grad()
def initialise_generator(G: nn.Module, variant: Variant) -> None:
    """Xavier normal, transposed convolutions and biases as PyTorch draws them (authors); Glorot uniform with SN-GAN's
    gains, biases 0 (sngan)."""
    for name, module in _weighted(G):
        if variant == "sngan":
            _initialise_as_sngan(name, module)
        elif not isinstance(module, nn.ConvTranspose2d):
            nn.init.xavier_normal_(module.weight)


@torch.no_grad()
def initialise_discriminator(D: nn.Module, variant: Variant, *, orthogonal: bool = False) -> None:
    """Xavier uniform, biases as PyTorch draws them (authors); Glorot uniform with SN-GAN's gains, biases 0 (sngan).

    `orthogonal` is what the authors start their LSUN nets with.
    """
    for name, module in _weighted(D):
        if orthogonal:
            nn.init.orthogonal_(module.weight)
        elif variant == "sngan":
            _initialise_as_sngan(name, module)
        else:
            nn.init.xavier_uniform_(module.weight)


Weighted = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def _weighted(network: nn.Module) -> list[tuple[str, Weighted]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, Weighted)]


def _initialise_as_sngan(name: str, module: Weighted) -> None:
    """Gain sqrt(2) for a block's convolutions, 1 for shortcuts, dense layers and G's last one; biases 0."""
    plain = isinstance(module, nn.Linear) or name.endswith(("shortcut", "to_image"))
    nn.init.xavier_uniform_(module.weight, gain=1.0 if plain else 2.0**0.5)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
