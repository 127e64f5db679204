"""One layer's parametrization: its state, its copies, its counting, compiled and not."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm

import pctool
from pctool.core.layers.parametrization import preconditioning
from pctool.core.polynomial import IDENTITY, PUBLISHED

from .samples import KINDS, images, model


@pytest.mark.parametrize("kind", KINDS)
def test_the_identity_polynomial_is_stock_spectral_norm(kind):
    """g(x) = x equals torch's spectral_norm in value, gradient and next vectors, over three training forwards."""
    torch.manual_seed(0)
    ours = KINDS[kind]().double()
    stock = new_spectral_norm(copy.deepcopy(ours))
    pctool.precondition(ours, IDENTITY)
    own, theirs = preconditioning(ours), stock.parametrizations.weight[0]
    own._u.copy_(theirs._u)
    own._v.copy_(theirs._v)
    for _ in range(3):
        W, W_stock = ours.weight, stock.weight
        torch.testing.assert_close(W, W_stock, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(own._u, theirs._u, rtol=1e-13, atol=1e-13)
    G = torch.randn_like(W)
    (gradient,) = torch.autograd.grad(W, ours.parametrizations.weight.original, G)
    (expected,) = torch.autograd.grad(W_stock, stock.parametrizations.weight.original, G)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_two_forwards_before_a_backward():
    """D(real) and D(fake) in training mode, then one backward: neither u, v nor a change of strength in between
    spoils the first one's gradient, which is that of the two computed apart."""
    net = pctool.precondition_(model(), "apc", taus=(1.2, 1.5, 2.0, 2.5), update_every=1)
    raw = net[0].parametrizations.weight.original
    start = copy.deepcopy(net)
    (net(images(1)).sum() + net(images(2)).sum()).backward()
    expected = torch.zeros_like(raw)
    for seed in (1, 2):
        (gradient,) = torch.autograd.grad(start(images(seed)).sum(), start[0].parametrizations.weight.original)
        expected += gradient
    torch.testing.assert_close(raw.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_copy_goes_its_own_way_from_the_same_state():
    """deepcopy: equal output now, equal measurements later, and no shared state."""
    net = pctool.precondition_(model(), "apc", update_every=2)
    net(images())
    twin = copy.deepcopy(net)
    a, b = net(images(2)), twin(images(2))
    assert torch.equal(a, b)
    twin(images(2))
    assert preconditioning(twin[0]).forwards == preconditioning(net[0]).forwards + 1
    assert preconditioning(twin[0])._u.data_ptr() != preconditioning(net[0])._u.data_ptr()


def test_strict_state_dict_round_trip_restores_the_same_bits():
    """Through torch.save and weights_only loading: weights, vectors, strengths, measurements and the count."""
    taus = (1.2, 1.5, 2.0, 2.5)
    net = pctool.precondition_(model(), "apc", taus=taus, update_every=3)
    for seed in range(4):
        net(images(seed))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = pctool.precondition_(model(9), "apc", taus=taus, update_every=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(preconditioning(other[0]).get_extra_state(), preconditioning(net[0]).get_extra_state())
    for seed in range(4):
        assert torch.equal(net(images(seed)), other(images(seed)))


def test_dtypes_and_autocast():
    """.to(bfloat16) computes in float32 and gives bfloat16; autocast changes no bit of the effective weight."""
    net = pctool.precondition_(model().float(), "fpc").eval()
    plain = net[0].weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net[0].weight, plain)
        assert torch.equal(net[4].weight, net[4].weight.float())
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert half[0].weight.dtype == torch.bfloat16
    again = copy.deepcopy(half).float()
    torch.testing.assert_close(
        half[0].weight.float(), again[0].weight, rtol=0, atol=2**-8 * float(plain.detach().abs().max())
    )
    exact = torch.tensor([[*PUBLISHED[7].coeffs, 0.0]])
    for each in (half, again, copy.deepcopy(half).to(torch.float64)):  # coefficients are never rounded on the way
        torch.testing.assert_close(preconditioning(each[0])._coeffs.double(), exact.double(), rtol=1e-7, atol=0)
    net.to(torch.float64)(images())


def test_apc_counts_training_forwards_by_itself():
    """Measured at registration and at every third training forward; evaluation does not count; nobody calls it."""
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1)).double()
    pctool.precondition_(net, "apc", update_every=3)
    own = preconditioning(net[0])
    x = torch.ones(1, 10, dtype=torch.float64)
    assert len(own.strength.history) == 1
    with torch.no_grad():
        own_raw = net[0].parametrizations.weight.original
        own_raw.copy_(torch.diag(torch.tensor([100.0] * 9 + [1.0], dtype=torch.float64)))
    net.eval()
    for _ in range(5):
        net(x)
    net.train()
    for expected in (1, 1, 2, 2, 2, 3):
        net(x)
        assert len(own.strength.history) == expected
    assert own.strength.history[1:] == pytest.approx([100.0, 100.0])
    assert own.polynomial is PUBLISHED[9]


def test_a_change_applies_a_tenth_of_the_interval_later():
    """update_every 20: measured at forward 20, applied at forward 22 and not before; saved in between it survives."""
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 1)).double()
    pctool.precondition_(net, "apc", update_every=20)
    own = preconditioning(net[0])
    with torch.no_grad():
        net[0].parametrizations.weight.original.copy_(
            torch.diag(torch.tensor([100.0] * 9 + [1.0], dtype=torch.float64))
        )
    x = torch.ones(1, 10, dtype=torch.float64)
    for _ in range(21):
        net(x)
    assert len(own.strength.history) == 1
    twin = copy.deepcopy(net)
    for each in (net, twin):
        each(x)
        assert len(preconditioning(each[0]).strength.history) == 2


@pytest.mark.parametrize("method", ["sn", pytest.param("fpc", marks=pytest.mark.slow), "apc"])
def test_compiled_without_a_break_and_equal(method, compiler):
    """torch.compile(fullgraph=True): the same values, gradients, vectors and strengths; an APC change does not
    compile again."""
    torch._dynamo.reset()
    net = pctool.precondition_(model(), method, update_every=2, history=1)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True)
    torch._dynamo.utils.counters.clear()
    changes = set()
    for step in range(6):
        a, b = net(images(step)), compiled(images(step))
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        for each, out in ((net, a), (twin, b)):
            each.zero_grad()
            out.square().sum().backward()
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10)
        with torch.no_grad():
            for each in (net, twin):
                each[0].parametrizations.weight.original[0] *= 0.4
        changes.add(preconditioning(net[0]).polynomial)
        assert preconditioning(net[0]).polynomial == preconditioning(twin[0]).polynomial
    if method == "apc":
        assert len(changes) > 1, "the weights were to force a change"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("method", ["sn", "fpc"])
def test_the_transforms_of_torch_func(method):
    """Gradients of each sample, Jacobians and Hessians of a preconditioned model equal those taken one by one."""
    net = pctool.precondition_(model(), method).eval()
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    x = images()

    def loss(parameters, image):
        return torch.func.functional_call(net, parameters, image[None]).square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, image in enumerate(x):
        net.zero_grad()
        loss(dict(net.named_parameters()), image).backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(of_each[name][i], parameter.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(lambda image: net(image[None])[0])(x), net(x))
    assert torch.func.jacrev(lambda image: net(image[None])[0])(x[0]).shape == (1, 2, 8, 8)
