"""Halving and doubling the resolution of images [n, channels, height, width], together with what stands beside it."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctool.core.products import is_transformed, linear

Upsampling = Literal["bilinear", "nearest"]

LARGEST_MATRIX = 24  # side of the images up to which a GPU enlarges them by one matrix product in bf16


def convolve_and_halve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)` for x [n, in, h, w] and weight [out, in, 3, 3].

    The mean of four neighbours' convolutions is one convolution in steps of 2. Raises ValueError for other weights.
    """
    _check_kernel(weight)
    return (halve_by_weights if x.is_cuda else halve_by_images)(x, weight, bias)


def halve_by_weights(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`convolve_and_halve` by the mean of four shifted weights: 4/9 of the work."""
    return F.conv2d(x, _neighbours(weight, padded=True, divisor=4), bias, stride=2, padding=1)


def halve_by_images(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`convolve_and_halve` of the mean of four shifted images: a quarter of the work, and an average's gradient."""
    x = _neighbours(x, padded=True, divisor=4)
    if max(x.shape[2:]) > 4:
        return F.conv2d(x, weight, bias, stride=2)
    # One pixel is left: as a matrix product, since oneDNN's convolutions take 15 times as long.
    pixels, rows = (y.permute(0, 2, 3, 1).flatten(1) for y in (x[..., :3, :3], weight))
    return linear(pixels, rows, bias)[..., None, None]


def double_and_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)` as one transposed convolution.

    x [n, in, h, w], weight [out, in, 3, 3]. It is `convolve_and_halve` the other way round, times 4. Raises ValueError
    for other weights.
    """
    _check_kernel(weight)
    return (double_by_weights if x.is_cuda else double_by_images)(x, weight, bias)


def double_by_weights(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`double_and_convolve` by the sum of four shifted weights: 4/9 of the work."""
    summed = _neighbours(weight.flip(2, 3), padded=True, divisor=1).transpose(0, 1)
    return F.conv_transpose2d(x, summed, bias, stride=2, padding=1)


def double_by_images(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`double_and_convolve` by the sum of four shifted images, of a quarter of the work."""
    if x.is_cpu and torch.is_autocast_enabled("cpu"):
        weight = weight.to(torch.get_autocast_dtype("cpu"))  # half as much to copy
    turned = weight.flip(2, 3).transpose(0, 1)
    y = _neighbours(F.conv_transpose2d(x, turned, stride=2), padded=False, divisor=1)
    # oneDNN's transposed convolution takes several times as long with a bias of its own.
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)


def _neighbours(x: Tensor, *, padded: bool, divisor: int) -> Tensor:
    """Each 2 x 2 pixels' sum over `divisor`, of x [n, channels, h, w]: [n, channels, h - 1, w - 1].

    Of x `padded` by zeros all around, [n, channels, h + 1, w + 1].
    """
    if is_transformed():
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)) if padded else x, 2, stride=1, divisor_override=divisor)
    pooled: Tensor = _Neighbours.apply(x, padded, divisor)
    return pooled


class _Neighbours(torch.autograd.Function):
    """`_neighbours` with a gradient of our own: with padding that of the form without, and the other way round.

    PyTorch's takes a CPU four times as long in bf16, and that of its padding is wrong on GPUs in channels_last (its
    #188344; in 2.11).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, padded: bool, divisor: int) -> Tensor:
        ctx.how = {"padded": not padded, "divisor": divisor}
        return F.avg_pool2d(x, 2, stride=1, padding=int(padded), divisor_override=divisor)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None, None]:
        return _neighbours(G, **ctx.how), None, None


def _check_kernel(weight: Tensor) -> None:
    if weight.shape[2:] != (3, 3):
        raise ValueError(f"the weight is {tuple(weight.shape)}, not [out, in, 3, 3]")


class DoublingConv2d(nn.Conv2d):
    """A 3 x 3 `torch.nn.Conv2d` of images whose resolution is doubled before it, each pixel repeated."""

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, in, height, width] -> [batch, out, 2 height, 2 width]."""
        return double_and_convolve(x, self.weight, self.bias)


def doubled(x: Tensor, upsampling: Upsampling, enlarge: Tensor) -> Tensor:
    """x at twice the resolution; `enlarge` is the `bilinear_matrix` of its side, or empty."""
    if x.is_cuda and x.dtype == torch.bfloat16 and enlarge.numel():
        return enlarged(x, enlarge)
    # CUDA's autocast would do it in float32, and what is added to it.
    with torch.autocast("cuda", enabled=False) if x.is_cuda else contextlib.nullcontext():
        return F.interpolate(x, scale_factor=2, mode=upsampling)


def bilinear_matrix(side: int) -> Tensor:
    """The bilinear enlargement of side x side pixels to twice the side, [4 side^2, side^2]; exact in bfloat16."""
    pixels = torch.eye(side * side).view(-1, 1, side, side)
    return F.interpolate(pixels, scale_factor=2, mode="bilinear").flatten(1).t().contiguous().bfloat16()


def enlarged(x: Tensor, matrix: Tensor) -> Tensor:
    """`F.interpolate` by `bilinear_matrix`, in channels_last: in bf16 a fraction of its own kernels' time on a GPU."""
    n, channels, height, width = x.shape
    pixels = torch.bmm(matrix.expand(n, -1, -1), x.permute(0, 2, 3, 1).reshape(n, -1, channels))
    return pixels.view(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def average_pool(x: Tensor) -> Tensor:
    """`F.avg_pool2d(x, 2)`, whose backward pass in channels_last takes a GPU several times as long as a copy."""
    if is_transformed() or x.dim() != 4 or (x.shape[2] | x.shape[3]) & 1:
        return F.avg_pool2d(x, 2)
    fast = x.is_contiguous(memory_format=torch.channels_last)
    pooled: Tensor = _AveragePool.apply(x) if fast else F.avg_pool2d(x, 2)
    return pooled


class _AveragePool(torch.autograd.Function):
    """The mean of 2 x 2 pixels of channels_last images with even sides."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Tensor:
        n, channels, height, width = G.shape
        spread = (G / 4).permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, height, 2, width, 2, channels)
        pixels = spread.reshape(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        return pixels.contiguous(memory_format=torch.channels_last)  # a single pixel's are no copy yet
