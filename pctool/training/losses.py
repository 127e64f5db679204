"""The two losses of the paper (Sec. 4): hinge for the ResNet, log for the CNN; logits in, one number out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))); logits [n] -> scalar (SN-GAN, eq. 17)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g(fake: Tensor) -> Tensor:
    """-mean D(G(z)); logits [n] -> scalar (SN-GAN, eq. 18)."""
    return -fake.mean()


def log_d(real: Tensor, fake: Tensor) -> Tensor:
    """-mean log s(D(x)) - mean log(1 - s(D(G(z)))), s the sigmoid; logits [n] -> scalar (Goodfellow et al. 2014)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def log_g(fake: Tensor) -> Tensor:
    """-mean log s(D(G(z))), the non-saturating form; logits [n] -> scalar (Goodfellow et al. 2014)."""
    return F.softplus(-fake).mean()


@dataclass(frozen=True)
class Loss:
    """What D minimises of (real, fake) logits, and what G minimises of fake ones."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]


LOSSES = {"hinge": Loss(hinge_d, hinge_g), "log": Loss(log_d, log_g)}
