"""The plain convolutional networks of SN-GAN (its Table 3), leaky ReLU 0.1 in D."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pctool.core.models.blocks import Variant, initialise_discriminator, initialise_generator
from pctool.core.models.factored import FactoredConv2d

DEFAULT_WIDTH = 512  # of both networks: the dense stage of G, the last convolution of D
BASE = {32: 4, 48: 6, 64: 8}  # resolution: side of G's dense stage, and of D's last convolution
LEAK = 0.1
# D's convolutions as (width / channels, kernel, stride)
D_STAGES = ((8, 3, 1), (8, 4, 2), (4, 3, 1), (4, 4, 2), (2, 3, 1), (2, 4, 2), (1, 3, 1))


class Generator(nn.Module):
    """z [n, dim_z] -> images [n, channels, resolution, resolution] in [-1, 1], by three 4x4 deconvolutions."""

    def __init__(self, resolution: int, channels: int, width: int, variant: Variant, dim_z: int) -> None:
        super().__init__()
        self.dim_z, self.base = dim_z, BASE[resolution]
        widths = [width, width // 2, width // 4, width // 8]
        self.dense = nn.Linear(dim_z, width * self.base**2)
        stages: list[nn.Module] = []  # Table 3 has neither batch norm nor ReLU behind the dense layer
        for a, b in pairwise(widths):
            stages += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        self.stages = nn.Sequential(*stages)
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        initialise_generator(self, variant)

    def forward(self, z: Tensor) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, self.base, self.base)).contiguous(memory_format=torch.channels_last)
        return torch.tanh(self.to_image(self.stages(h)))


class Discriminator(nn.Module):
    """Images [n, channels, resolution, resolution] -> one logit each, [n], by seven convolutions."""

    def __init__(self, resolution: int, channels: int, width: int, variant: Variant) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        n_in = channels
        for share, kernel, stride in D_STAGES:
            stages += [FactoredConv2d(n_in, width // share, kernel, stride, padding=1), nn.LeakyReLU(LEAK)]
            n_in = width // share
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(width * BASE[resolution] ** 2, 1, bias=False)
        initialise_discriminator(self, variant)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.stages(x).flatten(1)).squeeze(1)
