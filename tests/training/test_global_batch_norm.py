"""Batch norm over all processes; test_ranks.py compares two of them with one."""

import torch
import torch.distributed as dist
from torch import nn

from pctool.training.global_batch_norm import with_global_batch_norm


def test_compiled_it_has_the_same_gradients():
    """Of everything in front of a norm and behind it (`--compile` with several processes), in a group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
        network = with_global_batch_norm(layers)
        x, wanted = torch.randn(5, 3, 8, 8), torch.randn(5, 2, 4, 4)
        parameters = [p for name, p in network.named_parameters() if name != "0.bias"]  # which the norm cancels
        plain = torch.autograd.grad((network(x) * wanted).sum(), parameters)
        compiled = torch.compile(network, backend="aot_eager")
        for ours, expected in zip(torch.autograd.grad((compiled(x) * wanted).sum(), parameters), plain, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
            assert expected.abs().max() > 0.1
    finally:
        dist.destroy_process_group()
