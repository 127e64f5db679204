"""Samples of a generator as the bytes that a picture file would hold."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pctool.core.products import exact
from pctool.errors import NonFiniteError

BatchNorm = Literal["running", "batch"]


def to_uint8(x: torch.Tensor) -> NDArray[np.uint8]:
    """[-1, 1] to {0..255} by round(127.5 x + 127.5). NonFiniteError for NaN or infinity, which bytes would hide."""
    if not torch.isfinite(x).all():
        raise NonFiniteError("the generator's output holds NaN or infinity; score an earlier checkpoint")
    return (127.5 * x + 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@torch.inference_mode()
def generate(
    G: nn.Module,
    n: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    bn: BatchNorm = "running",
    part: range | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yields `n` images in batches: uint8 [b, C, H, W], b at most `batch_size`. G itself is left as it was.

    With `part` only the batches that begin in it, the same as without.

    z is one stream of N(0, I) given by `seed`, so image i depends on (seed, i) alone: n and batch_size change
    nothing beyond float rounding. With `bn="batch"` batch norm uses the statistics of the batch instead, as the
    paper's code does; then batches are always full (the last is cut after it) and their size matters.
    """
    G = copy.deepcopy(G).to(device).eval()
    if bn == "batch":
        for module in G.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
    dim_z: int = G.dim_z  # type: ignore[assignment]  # every generator of core.models has it
    rng = np.random.default_rng(seed)  # its stream does not depend on how it is cut; torch's does
    for start in range(0, n, batch_size):
        wanted = min(batch_size, n - start)
        drawn = batch_size if bn == "batch" else wanted
        z = torch.from_numpy(rng.standard_normal((drawn, dim_z), dtype=np.float32))
        if part is not None and start not in part:
            continue
        with exact(device):
            images = to_uint8(G(z.to(device))[:wanted])
        yield images
