"""The parts of the residual networks, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from pctool.core.models.blocks import average_pool


@pytest.mark.parametrize("format_", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 6), (1, 4, 2, 2), (2, 5, 3, 3)])
def test_the_average_is_pytorchs(shape, format_):
    """Value, gradient, and the gradient of a gradient penalty are those of `F.avg_pool2d`; odd sides lose a row."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=format_).requires_grad_()
    found = []
    for pool in (average_pool, lambda x: F.avg_pool2d(x, 2)):
        y = pool(x)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (penalty,) = torch.autograd.grad(slope.square().sum(), x)
        assert y.is_contiguous(memory_format=format_)
        assert slope.is_contiguous(memory_format=format_)
        found.append((y, slope, penalty))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
