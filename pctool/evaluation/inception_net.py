"""The Inception of 2015 that FID is defined by, as a module whose state dict is the published one.

torchvision's Inception v3 has the same layers under the same names. Three things differ in the network that
TensorFlow published: average pools leave the padding out of the mean, the last block has a maximum pool in that
place, and there are 1008 classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import Inception3
from torchvision.models import inception as blocks

N_FEATURES, N_CLASSES = 2048, 1008


def _mean_pool(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum_pool(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _BlockA(blocks.InceptionA):
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), fives, threes, self.branch_pool(_mean_pool(x))]


class _BlockC(blocks.InceptionC):
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return [self.branch1x1(x), once, twice, self.branch_pool(_mean_pool(x))]


class _BlockE(blocks.InceptionE):
    _pool = staticmethod(_mean_pool)

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
        split_twice = [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return [self.branch1x1(x), *split, *split_twice, self.branch_pool(self._pool(x))]


class _LastBlock(_BlockE):
    _pool = staticmethod(_maximum_pool)


class FIDInception(Inception3):
    """float [n, 3, 299, 299], (pixel - 128) / 128 -> features [n, 2048], before the layer `fc` of 1008 classes."""

    def __init__(self) -> None:
        super().__init__(num_classes=N_CLASSES, aux_logits=False, init_weights=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
        self.Mixed_6b, self.Mixed_6c = _BlockC(768, 128), _BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = _BlockC(768, 160), _BlockC(768, 192)
        self.Mixed_7b, self.Mixed_7c = _BlockE(1280), _LastBlock(2048)
        self.dropout = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            if name != "fc":
                x = layer(x)
        return x.flatten(1)
