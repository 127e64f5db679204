"""Batch norm over the batches of all processes: what makes several equal one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pctool.core.products import working


class _Sum(torch.autograd.Function):
    """The sum over the ranks; since every rank's result depends on every rank's input, so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total.clone()  # PyTorch 2.11, where it compiles this, loses the gradient of what changed in place

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Tensor:
        total = G.clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks, on any device; torch's own SyncBatchNorm refuses CPU tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.BatchNorm2d`; in training mode with the mean and variance of the global batch, differentiably."""
        return _global_norm(self, x) if self.training else super().forward(x)


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`GlobalBatchNorm2d` for vectors [n, C], as the first layer of `dcgan`'s G gives them."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.BatchNorm1d`; in training mode with the mean and variance of the global batch, differentiably."""
        return _global_norm(self, x) if self.training else super().forward(x)


def _global_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    work = working(x)
    count = dist.get_world_size() * work.numel() / work.shape[1]
    mean = _Sum.apply(work.sum(dims)) / count
    centred = work - mean.view(shape)
    var = _Sum.apply(centred.square().sum(dims)) / count
    with torch.no_grad():
        unbiased = var.detach() * (count / (count - 1))
        for buffer, batch in (("running_mean", mean.detach()), ("running_var", unbiased)):
            running = norm.get_buffer(buffer)
            running.lerp_(batch.to(running), norm.momentum or 0.0)
        norm.get_buffer("num_batches_tracked").add_(1)
    scale = norm.weight * (var + norm.eps).rsqrt()
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)


def with_global_batch_norm(network: nn.Module) -> nn.Module:
    """The network with every batch norm seeing the global batch, parameters and buffers the same."""
    forms: dict[type, type] = {nn.BatchNorm1d: GlobalBatchNorm1d, nn.BatchNorm2d: GlobalBatchNorm2d}
    for module in network.modules():
        if type(module) in forms:
            module.__class__ = forms[type(module)]
    return network
