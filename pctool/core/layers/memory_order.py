"""A weight as the matrix that lies in memory, and back: channels_last kernels are not copied into the paper's order."""

from __future__ import annotations

import torch
from torch import Tensor


def in_memory_order(weight: Tensor) -> Tensor:
    """The matrix with its columns as they lie in memory: the same singular values, and no copy of channels_last."""
    return (weight.permute(0, 2, 3, 1) if _channels_last(weight) else weight).flatten(1)


def as_weight(W: Tensor, weight: Tensor) -> Tensor:
    """Back from `in_memory_order` to the weight's shape and memory format.

    Dense whatever the strength is (a batch's slice or a transpose is not): compiled code depends on the strides.
    """
    entries = W.reshape(-1)
    if not _channels_last(weight):
        return entries.view(weight.shape)
    n, channels, height, width = weight.shape
    return entries.view(n, height, width, channels).permute(0, 3, 1, 2)


def paper_order(v: Tensor, weight: Tensor) -> Tensor:
    """v [m] of `in_memory_order` in the columns' order of `weight.flatten(1)`."""
    return as_weight(v.unsqueeze(0), weight[:1]).flatten() if _channels_last(weight) else v


def memory_order(v: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `paper_order`."""
    return v.view(weight.shape[1:]).permute(1, 2, 0).flatten() if _channels_last(weight) else v


def _channels_last(weight: Tensor) -> bool:
    return weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
