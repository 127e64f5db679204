"""Generators and discriminators by name: one literal table, sizes as data."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pctool.core.models import cnn, dcgan, resnet
from pctool.core.models.blocks import Variant

Arch = Literal["resnet", "cnn", "dcgan"]

DIM_Z = 128  # z ~ N(0, I_128), in the paper and in SN-GAN
_MODULES = {"resnet": resnet, "cnn": cnn, "dcgan": dcgan}
RESOLUTIONS: dict[str, tuple[int, ...]] = {  # that each architecture is built at
    "resnet": tuple(resnet.G_STAGES),
    "cnn": tuple(cnn.BASE),
    "dcgan": tuple(dcgan.G_STAGES),
}


def default_widths(arch: Arch, resolution: int) -> tuple[int, int]:
    """The published widths of G and D; KeyError for a resolution the table does not have."""
    if arch == "cnn":
        return cnn.DEFAULT_WIDTH, cnn.DEFAULT_WIDTH
    tables = resnet if arch == "resnet" else dcgan
    return tables.G_STAGES[resolution][0], tables.D_STAGES[resolution][0]


def build_generator(arch: Arch, resolution: int, channels: int, width: int, variant: Variant) -> nn.Module:
    """G: z float [n, 128] -> images float [n, channels, resolution, resolution] in [-1, 1].

    Initialised from torch's global generator; KeyError for an unknown arch or resolution.
    """
    return _MODULES[arch].Generator(resolution, channels, width, variant, DIM_Z)


def build_discriminator(arch: Arch, resolution: int, channels: int, width: int, variant: Variant) -> nn.Module:
    """D: images float [n, channels, resolution, resolution] -> logits [n]; weights raw, without normalisation.

    Initialised from torch's global generator; KeyError for an unknown arch or resolution.
    """
    return _MODULES[arch].Discriminator(resolution, channels, width, variant)
