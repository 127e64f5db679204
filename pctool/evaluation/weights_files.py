"""The weights of the networks that score: as they are published, and where each file is kept."""

from __future__ import annotations

from pathlib import Path

from pctool.places import cache_dir
from pctool.published import PublishedFile


class WeightsFile(PublishedFile):
    """A published file that is kept in `weights` in the cache folder."""

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return cache_dir() / "weights" / self.name


# FID's Inception of 2015 as a state dict, as torch-fidelity publishes it; pytorch-fid's file has the same bytes.
INCEPTION = WeightsFile(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
)
# The same network as TorchScript, as NVIDIA publishes it for StyleGAN and clean-fid takes it.
INCEPTION_SCRIPT = WeightsFile(
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    95_607_719,
)
