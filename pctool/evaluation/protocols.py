"""Named protocols: what exactly a score was made of. docs/eval.md has their meaning in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pctool.evaluation.generate import BatchNorm
from pctool.evaluation.resizers import Resizer


@dataclass(frozen=True)
class NamedProtocol:
    """`n_fake` samples against `n_real` real images (None: the whole split); the inception score takes `n_is` samples.

    `resizer` holds for Inception. `splits`: of the data sets for which it is not the one to train on.
    """

    n_fake: int
    n_real: int | None
    n_is: int | None = None  # None: n_fake
    resizer: Resizer = "clean"
    network: Literal["G_ema", "G"] = "G_ema"
    bn: BatchNorm = "running"
    batch_size: int = 100
    splits: Mapping[str, str] = field(default_factory=dict)


PROTOCOLS: dict[str, NamedProtocol] = {
    # What clean-fid's tables use, and the same with the resizer of the original code.
    "clean-50k": NamedProtocol(50_000, None),
    "legacy-50k": NamedProtocol(50_000, None, resizer="legacy"),
    # The first author's public code: G in training mode with batches of 100, Inception of TensorFlow.
    "paper": NamedProtocol(
        10_000, 10_000, 50_000, resizer="legacy", network="G", bn="batch", batch_size=100, splits={"cifar10": "test"}
    ),
    # SN-GAN (arXiv 1802.05957, Section 4) and its code: FID of 5,000 samples and 10,000 real images, IS of 10 x 5,000.
    "sngan": NamedProtocol(5_000, 10_000, 50_000, resizer="legacy", network="G"),
    # The built-in images are 10,000, and both sides get as many.
    "fashion-10k": NamedProtocol(10_000, 10_000),
}
CUSTOM = "custom"


def default_for(extractor: str) -> str:
    """The protocol when none is named."""
    return "fashion-10k" if extractor == "fashion-cnn" else "clean-50k"
