"""The plug-in: one line in anybody's model, equal to the values' road, on every kind of layer."""

import copy
import io
import warnings

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
from pctool.core import linalg
from pctool.core.layers.parametrization import preconditioning
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial

KINDS = {
    "linear": lambda: nn.Linear(7, 4),
    "tall": lambda: nn.Linear(4, 9),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
    "conv3d": lambda: nn.Conv3d(2, 5, 2),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "transposed2d": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed3d": lambda: nn.ConvTranspose3d(2, 5, 2),
    "grouped-transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 6, 3), nn.LeakyReLU(0.1), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 1)]
    return nn.Sequential(*layers).double()


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_both_roads_agree(method):
    """From the same weights and vectors, the parametrized model and the weights as values give equal output and
    gradients, the polynomials of apc included."""
    values, parametrized = model(), model()
    taus = (1.2, 1.5, 2.0, 2.5)
    pre = Preconditioner(values, method, ladder=pctool.Ladder(taus=taus))
    pre.update_strengths()
    pctool.precondition_(parametrized, method, taus=taus)
    assert pctool.update_strengths_(parametrized) == pre.strengths() if method == "apc" else True
    for name, entry in pre.state().items():
        own = preconditioning(parametrized.get_submodule(name))
        own._u.copy_(entry["u"])
        own._v.copy_(entry["v"])
    ours = functional_call(values, pre.weights(), (images(),))
    theirs = parametrized(images())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    a = torch.autograd.grad(ours.square().sum(), values[0].weight)[0]
    b = torch.autograd.grad(theirs.square().sum(), parametrized[0].parametrizations.weight.original)[0]
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", [old_spectral_norm, new_spectral_norm], ids=["hooks", "parametrization"])
def test_spectral_norm_is_replaced_and_its_vectors_are_taken_over(form):
    """Either form goes, with one warning; the raw parameter stays the same object, u and v the same numbers."""
    net = model()
    for layer in (net[0], net[2]):
        form(layer)
    net(images())
    if form is old_spectral_norm:
        raw, u = net[0].weight_orig, net[0].weight_u.clone()
    else:
        raw, u = net[0].parametrizations.weight.original, net[0].parametrizations.weight[0]._u.clone()
    kept = raw.detach().clone()
    with pytest.warns(UserWarning, match="replaced spectral_norm on 2 layers"):
        pctool.precondition_(net, "fpc")
    assert net[0].parametrizations.weight.original is raw
    assert torch.equal(raw, kept)
    assert torch.equal(preconditioning(net[0])._u, u)
    assert [name for name in net.state_dict() if "weight_" in name] == []
    net(images()).sum().backward()
    assert torch.isfinite(raw.grad).all()


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


def test_cached_computes_each_weight_once():
    """Within parametrize.cached(): one power iteration and one kernel call per layer, and the sum of the gradients."""
    net = pctool.precondition_(model(), "fpc")
    net.eval()
    x, y = images(1), images(2)
    raw = net[0].parametrizations.weight.original
    loss = net(x).sum() + net(y).square().sum()
    (expected,) = torch.autograd.grad(loss, raw)
    calls = []
    forward = linalg._PolynomialOfMatrix.forward
    with pytest.MonkeyPatch.context() as patch, parametrize.cached():
        patch.setattr(linalg._PolynomialOfMatrix, "forward", staticmethod(lambda *a: (calls.append(1), forward(*a))[1]))
        loss = net(x).sum() + net(y).square().sum()
        (gradient,) = torch.autograd.grad(loss, raw)
    assert len(calls) == 2  # two convolutions; the last linear layer has the spectral norm alone
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
    assert (
        pctool.core.layers.parametrization.preconditioning(other[0]).get_extra_state()
        == preconditioning(net[0]).get_extra_state()
    )
    for seed in range(4):
        assert torch.equal(net(images(seed)), other(images(seed)))


@pytest.mark.parametrize("form", ["plain", "hooks", "parametrization"])
def test_other_forms_of_state_dict_load_strictly(form):
    """A plain layer's file, and both of stock spectral_norm, load in a preconditioned model: the raw weights are
    theirs, and u, v theirs or warmed up on them."""
    source = model(7)
    raw = source[0].weight.detach().clone()
    if form != "plain":
        wrap = old_spectral_norm if form == "hooks" else new_spectral_norm
        for layer in (source[0], source[2], source[4]):
            wrap(layer)
        source(images())
    net = pctool.precondition_(model(), "fpc")
    net.load_state_dict(source.state_dict())
    assert torch.equal(net[0].parametrizations.weight.original, raw)
    own = preconditioning(net[0])
    estimate = float(own._u @ own.matrix(raw) @ own._v)
    if form == "hooks":  # its vectors have seen one iteration, and are taken as they are
        assert torch.equal(own._u, source[0].weight_u)
        assert torch.equal(own._v, source[0].weight_v)
    else:
        assert estimate == pytest.approx(float(torch.linalg.matrix_norm(own.matrix(raw), 2)), rel=0.05)


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


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_compiled_without_a_break_and_equal(method):
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


def _ddp_worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net = DistributedDataParallel(pctool.precondition_(model(), "apc", taus=(1.2, 1.5, 2.0, 2.5), update_every=2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        net(images(2 * step + rank)).square().mean().backward()
        optimizer.step()
    torch.save(net.module.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_of_ddp_equal_one(tmp_path):
    """Two ranks with half the batch each end with the same weights, vectors and strengths as one process."""
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
            assert a[name]["coeffs"] == b[name]["coeffs"] == value["coeffs"]
            assert a[name]["forwards"] == value["forwards"]


class _Integers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: pctool.precondition(nn.Linear(3, 3)), "preconditioned already"),
        (nn.ReLU, "no parameter 'weight'"),
        (lambda: nn.Embedding(3, 4), "embedding"),
        (_Integers, "int64"),
        (lambda: nn.BatchNorm2d(3), "not a real matrix"),
        (lambda: nn.LazyLinear(3), "one forward first"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "parametrized by _WeightNorm"),
    ],
)
def test_what_cannot_be_preconditioned_is_a_clear_valueerror(layer, message):
    """Twice, no weight, an embedding, integers, a vector, a lazy layer, another parametrization."""
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
    with pytest.raises(ValueError, match="update_every is 0"):
        pctool.precondition_(model(), update_every=0)
