"""The exponential moving average of G that samples and scores come from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ramped_decay(decay: float, step: int) -> float:
    """min(decay, (1 + step) / (10 + step)): without the ramp the noise of the start stays for 1 / (1 - decay) steps."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(G_ema: nn.Module, G: nn.Module, weight: Tensor) -> None:
    """theta_ema <- theta_ema + weight (theta - theta_ema); batch norm's buffers, averages already, are copied.

    `weight`, 1 - decay, is a scalar on the networks' device.
    """
    averaged: list[Tensor] = list(G_ema.parameters())
    current: list[Tensor] = list(G.parameters())
    change = list(torch._foreach_sub(current, averaged))
    torch._foreach_mul_(change, weight)
    torch._foreach_add_(averaged, change)
    buffers: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}  # at once those of a kind
    for old, new in zip(_batch_norms(G_ema), _batch_norms(G), strict=True):
        for name, buffer in old.named_buffers(recurse=False):
            kept, copied = buffers.setdefault(buffer.dtype, ([], []))
            kept.append(buffer)
            copied.append(new.get_buffer(name))
    for old_ones, new_ones in buffers.values():
        torch._foreach_copy_(old_ones, new_ones)


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def initial_share(decay: float, step: int) -> float:
    """How much of the average at `step` is still its initial noise: the product of the ramped decays so far."""
    share = 1.0
    for i in range(step):
        share *= ramped_decay(decay, i)
        if share < 0.01:
            return 0.0
    return share


def notes(decay: float, step: int) -> list[str]:
    """What is to be said of scores of G_ema at `step`: that it is mostly initial noise, where it is."""
    share = initial_share(decay, step)
    if share <= 0.5:
        return []
    return [f"{share:.0%} of G_ema at step {step:,} is its initial noise: the scores say nothing yet"]
