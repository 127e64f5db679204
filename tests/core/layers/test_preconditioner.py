"""Fixed and adaptive preconditioning of a whole network, with weights as values."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.layers.state import layer_states
from pctool.core.layers.strength import Ladder
from pctool.core.linalg import polynomial_of_matrix, precondition
from pctool.core.polynomial import PUBLISHED, OddPolynomial


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 1)).double()


def with_modified_kappa(kappa: float, n: int = 10) -> torch.Tensor:
    """A matrix whose largest singular value is kappa times its smallest, the one value in the lowest 10 %."""
    sigmas = torch.full((n,), kappa, dtype=torch.float64)
    sigmas[-1] = 1.0
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    return q @ torch.diag(sigmas)


def test_every_method_puts_its_own_thing_on_each_layer():
    """sn: degree 1 everywhere; fpc: its degree on all but the last linear layer; none: nothing."""
    net = network()
    assert Preconditioner(net, "none").weights() == {}
    assert Preconditioner(net, "sn").strengths() == {"0": 1, "2": 1, "4": 1}
    assert Preconditioner(net, "fpc", polynomial=PUBLISHED[5]).strengths() == {"0": 5, "2": 5, "4": 1}
    everywhere = Preconditioner(net, "fpc", polynomial=PUBLISHED[5], skip_linear=False)
    assert everywhere.strengths() == {"0": 5, "2": 5, "4": 5}


def test_effective_weights_are_g_of_the_normalised_ones():
    """The value of each layer is g(SN(W)) in W's own shape, its singular values |g(sigma / sigma_hat)|."""
    net = network()
    pre = Preconditioner(net, "fpc", polynomial=PUBLISHED[7])
    values = pre.weights()
    for layer in pre.layers[:2]:
        W = net.get_parameter(f"{layer.name}.weight").detach()
        sigmas = torch.linalg.svdvals(W.flatten(1)) / torch.dot(layer.u, W.flatten(1) @ layer.v)
        expected = PUBLISHED[7](sigmas).abs().sort(descending=True).values
        measured = torch.linalg.svdvals(values[f"{layer.name}.weight"].flatten(1))
        torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-12)
        assert values[f"{layer.name}.weight"].shape == W.shape


def test_one_value_for_real_and_fake_gives_the_gradient_of_recomputing_at_every_forward():
    """Weights computed once and used twice give the same raw gradient as recomputing them for each use."""
    net = network()
    x, y = torch.randn(2, 3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    pre = Preconditioner(net, "fpc", polynomial=PUBLISHED[3])
    once = pre.weights()
    loss = functional_call(net, once, (x,)).sum() - functional_call(net, once, (y,)).square().sum()
    shared = torch.autograd.grad(loss, list(net.parameters()))
    loss = functional_call(net, pre.weights(), (x,)).sum() - functional_call(net, pre.weights(), (y,)).square().sum()
    for a, b in zip(shared, torch.autograd.grad(loss, list(net.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kappa", "degree"), [(2.0, 1), (4.99, 1), (5.01, 3), (9.9, 3), (10.1, 5), (20.1, 7), (30.1, 9), (1e9, 9)]
)
def test_apc_chooses_by_the_authors_thresholds(kappa, degree):
    """Modified kappa <= 5 identity, <= 10 degree 3, <= 20 degree 5, <= 30 degree 7, else degree 9."""
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1)).double()
    net[0].weight.data = with_modified_kappa(kappa)
    pre = Preconditioner(net, "apc")
    pre.update_strengths()
    assert pre.strengths() == {"0": degree, "1": 1}


def test_apc_decides_on_the_mean_of_the_last_five():
    """Six measurements, 40 then five of 4: the first has left the mean, so the layer needs no polynomial."""
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1)).double()
    pre = Preconditioner(net, "apc")
    net[0].weight.data = with_modified_kappa(40.0)
    assert pre.update_strengths()
    assert pre.strengths()["0"] == 9
    net[0].weight.data = with_modified_kappa(4.0)
    seen = []
    for _ in range(5):
        pre.update_strengths()
        seen.append(pre.strengths()["0"])
    assert seen == [7, 5, 5, 5, 1]  # means 22, 16, 13, 11.2, 4


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_state_restores_the_same_bits(method):
    """A preconditioner that took over another's state computes the same weights and the same next ones."""
    net = network()
    old = Preconditioner(net, method)
    old.update_strengths()
    old.advance()
    new = Preconditioner(net, method, generator=torch.Generator().manual_seed(99))
    new.load_state(old.state())
    for _ in range(2):
        a, b = old.weights(), new.weights()
        assert all(torch.equal(a[name], b[name]) for name in a)
        old.advance()
        new.advance()
    assert new.strengths() == old.strengths()
    assert new.state().keys() == old.state().keys()


def test_layer_states_say_what_is_applied():
    """Every weight matrix appears with its estimate u^T W v and coefficients; biases and batch norm do not."""
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 1)).double()
    pre = Preconditioner(net, "fpc", polynomial=PUBLISHED[3])
    conv, linear = pre.layer_states()
    W = net[0].weight.detach().flatten(1)
    assert (conv.name, conv.kind, conv.strength, conv.coeffs) == ("0", "conv", 3, PUBLISHED[3].coeffs)
    assert conv.sigma_hat == pytest.approx(float(torch.linalg.matrix_norm(W, 2)), rel=0.05)
    assert (linear.name, linear.kind, linear.strength, linear.coeffs) == ("3", "linear", 1, (1.0,))
    bare = layer_states(net.state_dict())
    assert [(s.name, s.sigma_hat, s.coeffs, s.strength) for s in bare] == [
        ("0", None, None, 0),
        ("3", None, None, 0),
    ]


def test_mistakes_are_clear_valueerrors():
    """An unknown method or precision, no measurements, no weights, thresholds that do not rise or do not match."""
    with pytest.raises(ValueError, match="unknown method 'pc'"):
        Preconditioner(network(), "pc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        Preconditioner(network(), "fpc", precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown precision 'fp16'"):
        polynomial_of_matrix(torch.eye(3), (1.0,), precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="history is 0"):
        Preconditioner(network(), "apc", history=0)
    with pytest.raises(ValueError, match="no convolution"):
        Preconditioner(nn.Sequential(nn.ReLU()), "sn")
    with pytest.raises(ValueError, match="rise"):
        Ladder(taus=(5.0, 5.0, 20.0, 30.0))
    with pytest.raises(ValueError, match="4 polynomials"):
        Ladder(taus=(5.0,))


def test_ladder_of_other_polynomials_is_applied_as_given():
    """A fitted ladder's polynomial is what the layer applies, coefficients and all."""
    own = OddPolynomial((1.4, -0.4))
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1)).double()
    net[0].weight.data = with_modified_kappa(3.0)
    pre = Preconditioner(net, "apc", ladder=Ladder((2.0,), (own,)))
    pre.update_strengths()
    layer = pre.layers[0]
    expected = precondition(net[0].weight, layer.u, layer.v, own.coeffs)
    assert torch.equal(pre.weights()["0.weight"], expected)
