"""FID's own network: the 2015 Inception as the TorchScript file that NVIDIA published and clean-fid uses."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from pctool.errors import InputError
from pctool.places import cache_dir

FILE_NAME = "inception-2015-12-05.pt"
SIZE = 299  # pixels a side of its input
Scorer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


def default_path() -> Path:
    """Where the weights are looked for when no file is named."""
    return cache_dir() / "weights" / FILE_NAME


def scorer(data: bytes, path: Path, device: torch.device) -> tuple[Scorer, bool]:
    """The network in `data` (read from `path`) as a function, and whether it gives probabilities.

    [n, 3, 299, 299] in [0, 255] -> features of its `layers`, called as clean-fid calls them: (x - 128) / 128,
    resized outside. Probabilities are the softmax of `output.weight` times the features, without the bias, as in
    the original Inception score; a file without `output` has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of torch.jit to whoever loads such a file
            base = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except Exception as error:  # torch raises whatever its reader meets in a foreign or damaged file
        reason = type(error).__name__
        raise InputError(f"{path} is no TorchScript file ({reason}); give {FILE_NAME}") from None
    if not hasattr(base, "layers"):
        raise InputError(f"{path} is TorchScript, but not of Inception: it has no 'layers'; give {FILE_NAME}")
    head = base.output.weight if hasattr(base, "output") and hasattr(base.output, "weight") else None

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = base.layers((x - 128) / 128).flatten(1)
        return features, None if head is None else F.linear(features, head).softmax(1)

    return score, head is not None
