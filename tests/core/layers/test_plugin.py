"""The plug-in: one line in anybody's model, equal to the values' road, on every kind of layer."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm

import pctool
from pctool.core.layers.parametrization import Preconditioned, preconditioning
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.polynomial import PUBLISHED, OddPolynomial

from .samples import KINDS, images, model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_gets_g_of_its_normalised_matrix(kind):
    """For each layer that stock spectral_norm accepts: its matrix's singular values become |g(sigma / sigma_hat)|."""
    torch.manual_seed(0)
    layer = KINDS[kind]().double()
    raw = layer.weight.detach().clone()
    stock = new_spectral_norm(copy.deepcopy(layer))  # its choice of the matrix is the reference for ours
    matrix = stock.parametrizations.weight[0]._reshape_weight_to_matrix(raw)
    pctool.precondition(layer, PUBLISHED[7]).eval()
    own = preconditioning(layer)
    estimate = own._u @ matrix @ own._v
    expected = PUBLISHED[7](torch.linalg.svdvals(matrix) / estimate).abs().sort(descending=True).values
    effective = stock.parametrizations.weight[0]._reshape_weight_to_matrix(layer.weight.detach())
    torch.testing.assert_close(torch.linalg.svdvals(effective), expected, rtol=1e-12, atol=1e-12)
    assert layer.weight.shape == raw.shape


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_both_roads_agree(method):
    """From the same weights and vectors, the parametrized model and the weights as values give equal output and
    gradients, the polynomials of apc included."""
    values, parametrized = model(), model()
    taus = (1.2, 1.5, 2.0, 2.5)
    pre = Preconditioner(values, method, ladder=pctool.Ladder(taus=taus))
    pre.update_strengths()
    pctool.precondition_(parametrized, method, **({"taus": taus} if method == "apc" else {}))
    assert pctool.update_strengths_(parametrized) == pre.strengths() if method == "apc" else True
    for name, entry in pre.state().items():
        own = preconditioning(parametrized.get_submodule(name))
        own._u.copy_(entry["u"])
        own._v.copy_(entry["v"])
    pre.advance()
    ours = functional_call(values, pre.weights(), (images(),))
    theirs = parametrized(images())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    a = torch.autograd.grad(ours.square().sum(), values[0].weight)[0]
    b = torch.autograd.grad(theirs.square().sum(), parametrized[0].parametrizations.weight.original)[0]
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_shared_weights_stay_shared():
    """Two layers with one Parameter use one effective weight, its gradient counts both; removal keeps the tie."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    net[2].weight = net[0].weight
    pctool.precondition_(net, "fpc", skip_linear=False).eval()
    assert preconditioning(net[0]) is preconditioning(net[2])
    assert len([p for p in net.parameters() if p.dim() == 2]) == 1
    x = torch.randn(3, 5, dtype=torch.float64)
    before = net(x)
    pctool.remove_precondition_(net)
    assert net[0].weight is net[2].weight
    torch.testing.assert_close(net(x), before, rtol=1e-13, atol=1e-13)
    pctool.precondition_(net, "apc", skip_linear=False)
    assert set(pctool.update_strengths_(net)) == {"0", "2"}
    assert len(preconditioning(net[0]).strength.history) == 2  # at the start, and once for both


def test_a_weight_shared_along_different_dimensions_is_refused():
    """A convolution and the transposed one that is tied to it would need two norms of one parameter."""
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 3))
    net[1].weight = net[0].weight
    with pytest.raises(ValueError, match="1 shares its weight with 0, but has other output channels"):
        pctool.precondition_(net)
    assert not parametrize.is_parametrized(net[0])


class _Half(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 0.5 * weight


def test_removal_keeps_what_was_put_on_top():
    """Another parametrization, registered after ours, is in the plain weights too."""
    net = pctool.precondition_(model(), "fpc").eval()
    parametrize.register_parametrization(net[0], "weight", _Half())
    expected = net(images())
    pctool.remove_precondition_(net)
    assert torch.equal(net(images()), expected)


def test_removal_leaves_the_effective_weights_in_the_same_parameters():
    """After remove_precondition_ a plain model computes the same, has plain names, and its optimiser still works."""
    net = pctool.precondition_(model(), "apc", taus=(1.2, 1.5, 2.0, 2.5)).eval()
    raw = net[0].parametrizations.weight.original
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    expected = net(images())
    pctool.remove_precondition_(net)
    torch.testing.assert_close(net(images()), expected, rtol=0, atol=0)
    assert net[0].weight is raw
    assert set(net.state_dict()) == set(model().state_dict())
    net(images()).sum().backward()
    before = net[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(net[0].weight, before)
    net.load_state_dict(model(5).state_dict())
    with pytest.raises(ValueError, match="no preconditioned layer"):
        pctool.remove_precondition_(net)


@pytest.mark.parametrize("of_the_copy", [True, False])
@pytest.mark.parametrize("change", ["remove", "precondition", "replace"])
def test_what_is_done_to_a_copy_leaves_the_original_alone(change, of_the_copy):
    """PyTorch shares a parametrized layer's class with its deep copies, and takes properties away from it or adds some:
    removal, preconditioning a layer whose bias is parametrized, and replacing a spectral_norm change one alone."""
    net = model()
    if change == "remove":
        pctool.precondition_(net, "fpc")
    elif change == "precondition":
        parametrize.register_parametrization(net[0], "bias", _Half())
    else:
        new_spectral_norm(net[0])
    twin = copy.deepcopy(net)
    changed, other = (twin, net) if of_the_copy else (net, twin)
    expected = other.eval()(images())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        (pctool.remove_precondition_ if change == "remove" else pctool.precondition_)(changed.eval())
    changed(images()).sum().backward()
    assert torch.equal(other(images()), expected)
    assert torch.equal(copy.deepcopy(changed)(images()), changed(images()))


def test_shapes_are_found_on_the_meta_device():
    """A preconditioned model goes there, and its forward gives the shape."""
    net = pctool.precondition_(model(), "fpc")
    shape = net(images()).shape
    assert net.to("meta")(images().to("meta")).shape == shape


def test_cached_computes_each_weight_once():
    """Within parametrize.cached() two forwards evaluate each layer once, with one power iteration, and their gradients
    add up."""
    net, once = pctool.precondition_(model(), "fpc"), pctool.precondition_(model(), "fpc")
    x, y = images(1), images(2)
    raw = net[0].parametrizations.weight.original
    once(x)  # one iteration
    once.eval()
    loss = once(x).sum() + once(y).square().sum()
    (expected,) = torch.autograd.grad(loss, once[0].parametrizations.weight.original)
    parametrizations = [module for module in net.modules() if isinstance(module, Preconditioned)]
    evaluated = []
    for each in parametrizations:
        each.register_forward_hook(lambda module, _, W_hat: evaluated.append(module))
    with parametrize.cached():
        loss = net(x).sum() + net(y).square().sum()
        (gradient,) = torch.autograd.grad(loss, raw)
    assert evaluated == parametrizations
    assert torch.equal(parametrizations[0]._u, once[0].parametrizations.weight[0]._u)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def _ddp_worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    built = model(rank)
    if rank:
        nn.init.orthogonal_(built[0].weight)  # the spectral norm alone would do, had it kept this weight
    net = DistributedDataParallel(pctool.precondition_(built, "apc", taus=(1.2, 1.5, 2.0, 2.5), update_every=2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        net(images(2 * step + rank)).square().mean().backward()
        optimizer.step()
    torch.save(net.module.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_of_ddp_equal_one(tmp_path):
    """Two ranks with half the batch each end with the same weights, vectors and strengths as one process, though the
    second had built, and measured, other weights before it got those of the first."""
    mp.spawn(_ddp_worker, (str(tmp_path),), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    net = pctool.precondition_(model(), "apc", taus=(1.2, 1.5, 2.0, 2.5), update_every=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        batch = torch.cat([images(2 * step), images(2 * step + 1)])
        net(batch).square().mean().backward()
        optimizer.step()
    for name, value in net.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(a[name], b[name])
            torch.testing.assert_close(a[name], value, rtol=1e-9, atol=1e-9)
        else:
            assert a[name] == b[name]
            assert a[name]["coeffs"] == value["coeffs"]
            assert a[name]["forwards"] == value["forwards"]
            assert a[name]["history"] == pytest.approx(value["history"])


class _Integers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: pctool.precondition(nn.Linear(3, 3)), "preconditioned already"),
        (nn.ReLU, "no parameter 'weight'"),
        (lambda: nn.Embedding(3, 4), "embedding"),
        (_Integers, "int64"),
        (lambda: nn.BatchNorm2d(3), "not a real matrix"),
        (lambda: nn.LazyLinear(3), "one forward first"),
        (lambda: nn.Linear(3, 3, device="meta"), "meta device"),
        (lambda: nn.Conv2d(0, 3, 3), "not a real matrix"),
        (lambda: _zero(nn.Linear(3, 3)), "weight is zero"),
        (lambda: new_spectral_norm(nn.Conv2d(3, 8, 3), dim=1), "along dim 1"),
        (lambda: old_spectral_norm(nn.Conv2d(3, 8, 3), dim=1), "along dim 1"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "by _WeightNorm; .*remove_parametrizations"),
        (lambda: nn.utils.weight_norm(nn.Linear(3, 3)), "nn.utils.remove_weight_norm"),
    ],
)
def test_what_cannot_be_preconditioned_is_a_clear_valueerror(layer, message):
    """Twice, no weight, an embedding, integers, a vector, a lazy, empty or zero layer, another parametrization."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls lazy modules a feature under development
        built = layer()
    with pytest.raises(ValueError, match=message):
        pctool.precondition(built)


def test_a_mistake_in_one_layer_changes_none():
    """precondition_ checks every layer first: with the last one refused, the first is untouched."""
    net = model()
    pctool.precondition(net[4], OddPolynomial((1.5, -0.5)))
    with pytest.raises(ValueError, match="4 is preconditioned already"):
        pctool.precondition_(net)
    assert not parametrize.is_parametrized(net[0])
    for arguments, message in [(("pc",), "unknown method"), ((), "no convolution")]:
        with pytest.raises(ValueError, match=message):
            pctool.precondition_(nn.Sequential(nn.ReLU()), *arguments)
    with pytest.raises(ValueError, match="degree is 4"):
        pctool.precondition_(model(), "fpc", degree=4)
    steep = OddPolynomial((1.0,) * 6)
    broken = model()
    broken[2].weight.data[0, 0] = float("nan")
    for net, settings, message in [
        (model(), {"method": "fpc", "polynomial": steep}, "degree 9 at most, not 11"),
        (model(), {"ladder": pctool.Ladder((5.0,), (steep,))}, "degree 9 at most"),
        (model(), {"n_power_iterations": 0}, "n_power_iterations is 0"),
        (model(), {"precision": "fp16"}, "unknown precision 'fp16'"),
        (model(), {"history": 0}, "history is 0"),
        (broken, {}, "2.weight has entries that are not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            pctool.precondition_(net, **{"method": "apc", **settings})
        assert not parametrize.is_parametrized(net[0])
    with pytest.raises(ValueError, match="update_every is 0"):
        pctool.precondition_(model(), update_every=0)


def test_singular_values_are_of_the_weights_as_they_are_applied():
    """Per layer those of the effective weight, against NumPy; asking neither iterates
    nor counts; a matrix has its own."""
    net = pctool.precondition_(model(), "fpc")
    own = preconditioning(net[0])
    before = own._u.clone()
    found = pctool.singular_values(net)
    assert torch.equal(own._u, before)
    assert list(found) == ["0", "2", "4"]
    net.eval()
    for name, sigmas in found.items():
        matrix = net.get_submodule(name).weight.detach().flatten(1).numpy()
        np.testing.assert_allclose(sigmas, np.linalg.svd(matrix, compute_uv=False), rtol=1e-9)
    np.testing.assert_allclose(pctool.singular_values(np.diag([1.0, 3.0])), [3.0, 1.0])
    layer = old_spectral_norm(nn.Linear(4, 3), n_power_iterations=50).eval()  # its `weight` is set by a forward alone
    with torch.no_grad():
        layer.weight_orig *= 7
    (before,) = pctool.singular_values(layer).values()
    layer(torch.ones(1, 4))
    np.testing.assert_allclose(before, np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False), rtol=1e-5)


def test_what_the_method_does_not_use_is_not_taken_in_silence():
    """A polynomial or ladder of another method is refused, a degree or thresholds beside the defaults warned of: a
    script may pass all of its settings."""
    g = pctool.OddPolynomial((1.5, -0.5))
    for method in ("apc", "sn"):
        with pytest.raises(ValueError, match=f"polynomial is for method fpc, not {method}; give method='fpc'"):
            pctool.precondition_(model(), method, polynomial=g)
        with pytest.warns(UserWarning, match=f"degree is for method fpc: {method} does not use it"):
            pctool.precondition_(model(), method, degree=3)
        pctool.precondition_(model(), method, degree=7)
    for method in ("fpc", "sn"):
        with pytest.raises(ValueError, match=f"ladder is for method apc, not {method}"):
            pctool.precondition_(model(), method, ladder=pctool.Ladder())
        with pytest.warns(UserWarning, match=f"taus is for method apc: {method} does not use it"):
            pctool.precondition_(model(), method, taus=(2, 3, 4, 5))
        pctool.precondition_(model(), method, taus=[5, 10, 20, 30])


def test_degrees_can_be_looked_at():
    """Without measuring anew: by name, and in what print shows; the trainer's class is not for such a model."""
    net = pctool.precondition_(model(), "fpc", degree=5)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    assert set(pctool.strengths(net).values()) == {1, 5}
    assert "degree=5" in repr(net)
    with pytest.raises(ValueError, match=r"is parametrized already, .*pctool\.strengths says the degrees"):
        pctool.Preconditioner(net, "apc")
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
