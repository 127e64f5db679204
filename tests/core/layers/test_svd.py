"""The SVD baseline against its published form."""

import math

import pytest
import torch
from torch import nn

from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.layers.svd import SMALLEST, SvdWeights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 40)).double()


def test_weights_are_the_product_with_the_largest_d_at_one():
    """W = U^T diag(d) V: orthogonal rows give the singular values d, the largest 1, in the layer's own shape."""
    net = network()
    svd = SvdWeights({"0": net[0], "2": net[2]})
    drawn = {}
    for name, d in (("0", net[0].svd_d), ("2", net[2].svd_d)):
        drawn[name] = d.data.uniform_(0.5, 3.0).clone()
    svd.advance()
    values = svd.weights()
    for name, layer in (("0", net[0]), ("2", net[2])):
        torch.testing.assert_close(layer.svd_d.data, drawn[name] / drawn[name].max(), rtol=1e-15, atol=0)
        expected = layer.svd_d.sort(descending=True).values
        found = torch.linalg.svdvals(values[f"{name}.weight"].flatten(1))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(layer.weight, values[f"{name}.weight"].detach())
    assert values["0.weight"].shape == (6, 2, 3, 3)
    assert values["2.weight"].shape == (40, 24)


def test_d_does_not_grow():
    """An optimizer that follows -log d, which has no minimum, moves the entries below the largest; that one stays 1.

    By the division of the parameter itself, as in both public codes: were it only in the product, d would grow by about
    a learning rate a step, and all that acts on d / max d fade.
    """
    net = network()
    svd = SvdWeights({"2": net[2]})
    d = net[2].svd_d
    d.data.uniform_(0.2, 1.0)
    optimizer = torch.optim.Adam([d], lr=1e-2, betas=(0.5, 0.999))
    smallest = []
    for _ in range(300):
        svd.advance()
        assert float(d.detach().max()) == 1.0
        smallest.append(float(d.detach().min()))
        optimizer.zero_grad()
        svd.penalty().backward()
        optimizer.step()
    assert smallest[-1] > 2 * smallest[0]


def test_penalty_is_the_published_one():
    """10 sum (|UU^T - I|^2 + |VV^T - I|^2 - 0.1 mean log d): zero at the start, worked out by hand after a change."""
    net = network()
    svd = SvdWeights({"0": net[0]})
    assert float(svd.penalty().detach()) == pytest.approx(0, abs=1e-20)
    with torch.no_grad():
        net[0].svd_u *= 2  # UU^T = 4 I: |3 I|^2 = 9 * 6
        net[0].svd_d.fill_(math.e)
    assert float(svd.penalty().detach()) == pytest.approx(10 * (54 - 0.1))


def test_d_is_kept_positive():
    """An update that made d negative is clamped before the next evaluation, so that log d exists."""
    net = network()
    svd = SvdWeights({"0": net[0]})
    net[0].svd_d.data[0] = -1.0
    svd.advance()
    assert float(net[0].svd_d[0].detach()) == SMALLEST
    assert math.isfinite(svd.penalty().detach())


def test_the_network_trains_its_factors_alone():
    """Under method svd the parameters are factors and biases; the weight is a buffer that files and spectra read."""
    net = network()
    pre = Preconditioner(net, "svd")
    names = {name for name, _ in net.named_parameters()}
    assert names == {f"{i}.{part}" for i in (0, 2) for part in ("svd_u", "svd_d", "svd_v", "bias")}
    assert {"0.weight", "2.weight"} <= set(net.state_dict())
    assert [(s.name, s.strength, s.sigma_hat) for s in pre.layer_states()] == [("0", 0, None), ("2", 0, None)]
    assert pre.penalty() is not None
    assert Preconditioner(network(), "sn").penalty() is None
