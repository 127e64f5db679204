"""The small classifier that scores the built-in data offline; trained by tools/train_fashion_cnn.py."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import safetensors.torch
import torch
from torch import nn

WEIGHTS = "fashion_cnn.safetensors"  # in pctool/evaluation/assets
N_CLASSES = 10  # of Fashion-MNIST
IMAGE_SIZE = 32  # 28 x 28 images zero-padded by two pixels a side
WIDTHS = (24, 48, 96)  # the last is the number of features: with 0.6 MB of weights, 92 % of the test set


def _block(c_in: int, c_out: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]


class FashionCNN(nn.Module):
    """Five 3x3 convolutions with batch norm, averaged over the picture, then one linear layer.

    Input: float [n, 1, 32, 32] in [-1, 1]. Output: logits float [n, 10], in the data set's order of classes.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.body = nn.Sequential(
            *_block(1, first),
            nn.MaxPool2d(2),
            *_block(first, second),
            *_block(second, second),
            nn.MaxPool2d(2),
            *_block(second, third),
            *_block(third, third),
        )
        self.head = nn.Linear(third, N_CLASSES)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the linear layer sees, [n, 96]: the last activations averaged over the picture."""
        return self.body(x).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def weights() -> bytes:
    """The shipped safetensors file; its metadata holds the test accuracy and the command that trained it."""
    return (resources.files("pctool.evaluation") / "assets" / WEIGHTS).read_bytes()


def scorer(data: bytes, device: torch.device) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """[n, 1, 32, 32] in [0, 255] to features [n, 96] and probabilities [n, 10]."""
    net = FashionCNN().to(memory_format=torch.channels_last)
    net.load_state_dict(safetensors.torch.load(data), strict=False)  # batch norm's step counters are not stored
    net.eval().requires_grad_(False).to(device)

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = net.features(x / 127.5 - 1)
        return features, net.head(features).softmax(1)

    return score
