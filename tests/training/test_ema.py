"""The average of G, against the recursion written out."""

import copy

import pytest
import torch
from torch import nn

from pctool.training import ema


def test_ramp():
    """min(decay, (1 + step) / (10 + step)): 0.1 at the start, the decay itself in the end."""
    assert ema.ramped_decay(0.9999, 0) == 0.1
    assert ema.ramped_decay(0.9999, 90) == 0.91
    assert ema.ramped_decay(0.9999, 10**6) == 0.9999


def test_recursion_and_buffers():
    """Parameters follow decay * old + (1 - decay) * new; batch norm's buffers are G's own."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    average = copy.deepcopy(G)
    expected = [p.detach().clone() for p in G.parameters()]
    for _ in range(3):
        G(torch.randn(5, 3, dtype=torch.float64))
        with torch.no_grad():
            for p in G.parameters():
                p.add_(torch.randn_like(p))
        ema.update(average, G, torch.tensor(0.3, dtype=torch.float64))
        expected = [0.7 * e + 0.3 * p.detach() for e, p in zip(expected, G.parameters(), strict=True)]
    for averaged, e in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(averaged, e)
    assert torch.equal(average[1].running_mean, G[1].running_mean)
    assert int(average[1].num_batches_tracked) == 3


def test_initial_noise_is_gone_after_two_hundred_steps():
    """With the ramp less than 1e-7 of the start is left after 200 steps; at 0.9999 throughout it would be 98 %."""
    left = 1.0
    for step in range(200):
        left *= ema.ramped_decay(0.9999, step)
    assert left < 1e-7
    assert abs(0.9999**200 - 0.98) < 0.001


def test_initial_share():
    """What is left of the noise is the product of the decays; a note says so while that is more than half."""
    assert ema.initial_share(0.9999, 0) == 1
    assert ema.initial_share(0.9999, 2) == pytest.approx(1 / 10 * 2 / 11)
    assert ema.initial_share(0.9999, 1000) == 0
    assert ema.notes(0.9999, 0) == ["100% of G_ema at step 0 is its initial noise: the scores say nothing yet"]
    assert ema.notes(0.9999, 1) == []
