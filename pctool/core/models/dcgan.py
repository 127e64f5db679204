"""The plain convolutional networks that the paper's authors trained on LSUN; sizes are the tables below.

They come from one source, the authors' public code, so there is one variant of them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pctool.core.models.blocks import Variant, initialise_discriminator, initialise_generator
from pctool.core.models.factored import FactoredConv2d

# resolution: (default width, G's stages as fractions of the width; the first is the dense 4 x 4 one)
G_STAGES: dict[int, tuple[int, tuple[float, ...]]] = {
    64: (256, (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)),
    128: (512, (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)),
    256: (1024, (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)),
}
# resolution: (default width, D's stages as fractions of the width; each halves the resolution, the last has 4 x 4)
D_STAGES: dict[int, tuple[int, tuple[float, ...]]] = {
    64: (256, (1 / 8, 1 / 4, 1 / 2, 1)),
    128: (512, (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)),
    256: (1024, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)),
}
BASE = 4  # side of G's first stage and of D's last
LEAK = 0.1


class Generator(nn.Module):
    """z [n, dim_z] -> images [n, channels, resolution, resolution] in [-1, 1], by 4x4 deconvolutions."""

    def __init__(self, resolution: int, channels: int, width: int, variant: Variant, dim_z: int) -> None:
        super().__init__()
        self.dim_z = dim_z
        widths = [max(1, round(width * share)) for share in G_STAGES[resolution][1]]
        self.dense = nn.Linear(dim_z, widths[0] * BASE**2)
        self.norm = nn.BatchNorm1d(widths[0] * BASE**2)  # a mean and variance for each position; no ReLU behind it
        stages: list[nn.Module] = []
        for a, b in pairwise(widths):
            stages += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        stages += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.BatchNorm2d(widths[-1]), nn.ReLU()]
        self.stages = nn.Sequential(*stages)
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        initialise_generator(self, variant)

    def forward(self, z: Tensor) -> Tensor:
        h = self.norm(self.dense(z)).unflatten(1, (-1, BASE, BASE)).contiguous(memory_format=torch.channels_last)
        return torch.tanh(self.to_image(self.stages(h)))


class Discriminator(nn.Module):
    """Images [n, channels, resolution, resolution] -> one logit each, [n], by 4x4 convolutions with stride 2."""

    def __init__(self, resolution: int, channels: int, width: int, variant: Variant) -> None:
        super().__init__()
        widths = [channels, *[max(1, round(width * share)) for share in D_STAGES[resolution][1]]]
        stages: list[nn.Module] = []
        for a, b in pairwise(widths):
            stages += [FactoredConv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(widths[-1] * BASE**2, 1, bias=False)
        initialise_discriminator(self, variant, orthogonal=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.stages(x).flatten(1)).squeeze(1)
