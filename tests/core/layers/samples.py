"""Layers and a small discriminator to precondition."""

import torch
from torch import nn

KINDS = {
    "linear": lambda: nn.Linear(7, 4),
    "tall": lambda: nn.Linear(4, 9),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
    "conv3d": lambda: nn.Conv3d(2, 5, 2),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "transposed2d": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed3d": lambda: nn.ConvTranspose3d(2, 5, 2),
    "grouped-transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 6, 3), nn.LeakyReLU(0.1), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 1)]
    return nn.Sequential(*layers).double()


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
