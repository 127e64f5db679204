"""The residual networks of SN-GAN (its Tables 4 to 6) in both variants; sizes are the tables below."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctool.core.models.blocks import (
    LEAK,
    DownBlock,
    UpBlock,
    Variant,
    initialise_discriminator,
    initialise_generator,
)

# resolution: (default width, G's stages as fractions of the width; the first is the dense one). Above 32 px the
# width is that of the narrowest stage: the authors' STL-10 run names 64 so.
G_STAGES: dict[int, tuple[int, tuple[float, ...]]] = {
    32: (256, (1, 1, 1, 1)),
    48: (64, (8, 4, 2, 1)),
    64: (64, (16, 8, 4, 2, 1)),
    128: (64, (16, 16, 8, 4, 2, 1)),
    256: (64, (16, 16, 16, 8, 4, 2, 1)),
}
BOTH, NEITHER, AUTHORS = ("authors", "sngan"), (), ("authors",)  # the variants in which a stage halves the resolution
# resolution: (default width, D's stages as (fraction of the width, in which variants it halves the resolution))
D_STAGES: dict[int, tuple[int, tuple[tuple[float, tuple[str, ...]], ...]]] = {
    32: (128, ((1, BOTH), (1, BOTH), (1, NEITHER), (1, NEITHER))),
    48: (64, ((1, BOTH), (2, BOTH), (4, BOTH), (8, BOTH), (16, AUTHORS))),
    64: (64, ((1, BOTH), (2, BOTH), (4, BOTH), (8, BOTH), (16, NEITHER))),
    128: (64, ((1, BOTH), (2, BOTH), (4, BOTH), (8, BOTH), (16, BOTH), (16, NEITHER))),
    256: (64, ((1, BOTH), (2, BOTH), (4, BOTH), (8, BOTH), (16, BOTH), (16, BOTH), (16, NEITHER))),
}


class Generator(nn.Module):
    """z [n, dim_z] -> images [n, channels, resolution, resolution] in [-1, 1]."""

    def __init__(self, resolution: int, channels: int, width: int, variant: Variant, dim_z: int) -> None:
        super().__init__()
        self.dim_z = dim_z
        widths = [round(width * share) for share in G_STAGES[resolution][1]]
        self.base = resolution >> (len(widths) - 1)
        self.dense = nn.Linear(dim_z, widths[0] * self.base**2)
        blocks = [UpBlock(a, b, variant, self.base << i) for i, (a, b) in enumerate(pairwise(widths))]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(widths[-1])
        kernel = 1 if variant == "authors" else 3
        self.to_image = nn.Conv2d(widths[-1], channels, kernel, padding=kernel // 2)
        initialise_generator(self, variant)

    def forward(self, z: Tensor) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, self.base, self.base)).contiguous(memory_format=torch.channels_last)
        return torch.tanh(self.to_image(F.relu(self.norm(self.blocks(h)))))


class Discriminator(nn.Module):
    """Images [n, channels, resolution, resolution] -> one logit each, [n]."""

    def __init__(self, resolution: int, channels: int, width: int, variant: Variant) -> None:
        super().__init__()
        self.leak = LEAK[variant]
        stages = D_STAGES[resolution][1]
        widths = [channels, *[round(width * share) for share, _ in stages]]
        self.blocks = nn.Sequential(
            *[
                DownBlock(widths[i], widths[i + 1], down=variant in halving, first=i == 0, leak=self.leak)
                for i, (_, halving) in enumerate(stages)
            ]
        )
        self.linear = nn.Linear(widths[-1], 1, bias=False)
        initialise_discriminator(self, variant)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.blocks(x), self.leak).sum((2, 3))
        return self.linear(h).squeeze(1)
