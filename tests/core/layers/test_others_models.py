"""What users do to models around the plug-in: averages, checkpointing, tied weights, forks, other file formats."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

import pctool
from pctool.core.layers.parametrization import Preconditioned, preconditioning

from .samples import images, model

STRONGER = pctool.Ladder(taus=(1.0, 1.0001, 1.0002, 1.0003))  # degree 9 for what is not perfectly conditioned


def raw(layer: nn.Module) -> Tensor:
    weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight


def adaptive(net: nn.Module) -> list[Preconditioned]:
    return [own for layer in net.modules() if (own := preconditioning(layer)) is not None and own.strength]


def strengthen(net: nn.Module) -> None:
    """Lets every adaptive layer choose degree 9 when it is measured next."""
    for own in adaptive(net):
        assert own.strength is not None
        own.strength.ladder = STRONGER


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("taus", [(1.0, 2e3, 3e3, 4e3), (1e3, 2e3, 3e3, 4e3)], ids=["degree 3", "identity"])
def test_an_average_applies_the_polynomial_of_the_model(taus: tuple[float, ...], use_buffers: bool) -> None:
    """An AveragedModel of decay 0 equals the model after a change of strength, in what it applies and what it saves."""
    net = pctool.precondition_(model(), "apc", taus=taus)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=use_buffers)
    strengthen(net)
    assert set(pctool.update_strengths_(net).values()) == {1, 9}  # the last linear layer keeps the spectral norm
    for _ in range(2):  # the first update copies
        average.update_parameters(net)
    net.eval()
    average.eval()
    torch.testing.assert_close(average(images()), net(images()), rtol=1e-12, atol=1e-12)
    average.cpu().float().double()
    torch.testing.assert_close(average(images()), net.float().double()(images()), rtol=1e-6, atol=1e-6)
    again = pctool.precondition_(model(3), "apc", taus=taus).eval()
    again.load_state_dict(average.module.state_dict())
    torch.testing.assert_close(again(images()), net(images()), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*use_reentrant")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_repeats_the_forward_and_counts_it_once(use_reentrant: bool) -> None:
    """Gradients, u and the count equal those without checkpointing, at the step where the strengths change too."""
    plain = pctool.precondition_(model(), "apc", taus=(1e3, 2e3, 3e3, 4e3), update_every=20, history=1)
    checkpointed = copy.deepcopy(plain)
    for net in (plain, checkpointed):
        strengthen(net)
    degrees = set()
    for step in range(24):
        x = images(step).requires_grad_()
        for net in (plain, checkpointed):
            net.zero_grad()
        plain(x).square().mean().backward()
        checkpoint(checkpointed, x, use_reentrant=use_reentrant).square().mean().backward()
        torch.testing.assert_close(raw(checkpointed[0]).grad, raw(plain[0]).grad, rtol=1e-12, atol=1e-15)
        degrees.add(preconditioning(plain[0]).polynomial.degree)  # type: ignore[union-attr]
    assert degrees == {1, 9}
    for one, other in zip(adaptive(plain), adaptive(checkpointed), strict=True):
        assert one.forwards == other.forwards == 24
        assert torch.equal(one._u, other._u)


def test_a_spectrum_within_cached_leaves_the_training_alone() -> None:
    """`singular_values` computes past the cache: the next forward iterates, and its gradients reach the weights."""
    net, other = (pctool.precondition_(model(), "fpc") for _ in range(2))
    with parametrize.cached():
        pctool.singular_values(net)
        net(images()).mean().backward()
    other(images()).mean().backward()
    torch.testing.assert_close(raw(net[0]).grad, raw(other[0]).grad, rtol=1e-12, atol=1e-15)
    assert torch.equal(net[0].parametrizations.weight[0]._u, other[0].parametrizations.weight[0]._u)


class Tied(nn.Module):
    """A table of rows that is the last layer's weight too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, i: Tensor) -> Tensor:
        result: Tensor = self.head(self.table(i))
        return result


def test_removal_leaves_what_shares_the_raw_weight_as_it_was() -> None:
    """A tied embedding, and a tied layer outside of what is given, compute the same; the layer gets its own weight."""
    net, i = pctool.precondition_(Tied(), "fpc", skip_linear=False).eval(), torch.arange(4)
    before = net(i)
    with pytest.warns(UserWarning, match="head: the raw weight is used elsewhere"):
        pctool.remove_precondition_(net)
    torch.testing.assert_close(net(i), before, rtol=1e-6, atol=1e-6)
    torch.manual_seed(0)
    pair, x = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)), torch.randn(3, 5)
    pair[2].weight = pair[0].weight
    pctool.precondition_(pair, "fpc", skip_linear=False).eval()
    before = pair(x)
    with pytest.warns(UserWarning, match="elsewhere"):
        pctool.remove_precondition_(pair[0])
    torch.testing.assert_close(pair(x), before, rtol=1e-6, atol=1e-6)
    pctool.remove_precondition_(pair[2])  # the last that has it: nobody else is left
    torch.testing.assert_close(pair(x), before, rtol=1e-6, atol=1e-6)
    torch.manual_seed(0)
    two = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    two[2].weight = two[0].weight
    for layer, degree in ((two[0], 3), (two[2], 9)):
        pctool.precondition(layer, pctool.PUBLISHED[degree])
    before = two.eval()(x)
    with pytest.warns(UserWarning, match="0, 2: the raw weight is used elsewhere"):
        pctool.remove_precondition_(two)
    torch.testing.assert_close(two(x), before, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_a_layer_is_measured() -> None:
    """The child has the measurement: its state dict is there at once, and not waited for in vain."""
    net = nn.Sequential(nn.Linear(600, 600), nn.Linear(600, 1))
    pctool.precondition_(net, "apc", update_every=20)
    for _ in range(20):
        _ = net[0].weight
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        net.state_dict()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert preconditioning(net[0]).strength.state()["pending"] > 1  # type: ignore[union-attr]


def test_weights_that_are_not_finite_can_be_saved() -> None:
    """A measurement of a NaN counts for nothing: state dict and copies stay possible; asked for, it names the layer."""
    net = pctool.precondition_(model(), "apc", update_every=20)
    for _ in range(19):
        net(images())
    history = list(adaptive(net)[0].strength.history)  # type: ignore[union-attr]
    with torch.no_grad():
        raw(net[0])[0, 0, 0, 0] = torch.nan
    for _ in range(4):
        net(images())
        net.state_dict()
        copy.deepcopy(net)
    assert adaptive(net)[0].strength.history == history  # type: ignore[union-attr]
    for verb in (pctool.update_strengths_, pctool.singular_values):
        with pytest.raises(ValueError, match=r"0\.weight has entries that are not finite"):
            verb(net)


def test_a_state_dict_is_tensors(tmp_path: Any) -> None:
    """safetensors takes it, and gives the same model back."""
    net = pctool.precondition_(model(), "apc", taus=(1.0, 1.5, 2.0, 2.5), update_every=2)
    for seed in range(5):
        net(images(seed))
    safetensors.torch.save_file({k: v.cpu() for k, v in net.state_dict().items()}, tmp_path / "d.safetensors")
    again = pctool.precondition_(model(5), "apc", taus=(1.0, 1.5, 2.0, 2.5), update_every=2)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "d.safetensors"))
    for seed in range(5):
        assert torch.equal(net(images(seed)), again(images(seed)))


def test_an_assigned_weight_is_the_raw_one() -> None:
    """`layer.weight = W` as under stock spectral_norm: the parameter takes its values, and stays the same object."""
    layer = pctool.precondition(nn.Linear(6, 4))
    before, wanted = raw(layer), torch.randn(4, 6)
    layer.weight = wanted
    assert raw(layer) is before
    assert torch.equal(before, wanted)


def test_layers_can_be_left_out() -> None:
    """`skip` takes names and patterns; a model with a zero head is possible with it."""
    net = model()
    nn.init.zeros_(net[-1].weight)
    with pytest.raises(ValueError, match="is zero and has no norm to divide by; initialise it first, or skip"):
        pctool.precondition_(net, "fpc")
    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    pctool.precondition_(net, "fpc", skip=[last], skip_linear=False)
    assert preconditioning(net[-1]) is None
    assert preconditioning(net[0]) is not None
    for wrong in (["heads.*"], "0"):
        with pytest.raises(ValueError, match="a list of names and patterns; the layers are 0, "):
            pctool.precondition_(model(), "fpc", skip=wrong)
    three = pctool.precondition_(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), "fpc", skip=["2", "2*"])
    assert [preconditioning(layer) is None for layer in three] == [False, False, True]
    assert preconditioning(three[1]).polynomial.degree == 7  # type: ignore[union-attr]  # not the last linear layer


def test_batched_gradients_of_the_weight() -> None:
    """`is_grads_batched` and a vectorised Jacobian give what one row at a time gives."""
    layer = pctool.precondition(nn.Linear(5, 3, bias=False)).double().eval()
    x = torch.randn(2, 5, dtype=torch.float64)
    rows = [torch.autograd.grad(layer(x).flatten()[i], raw(layer))[0] for i in range(6)]
    batched = torch.autograd.grad(layer(x).flatten(), raw(layer), torch.eye(6).double(), is_grads_batched=True)[0]
    torch.testing.assert_close(batched, torch.stack(rows), rtol=1e-12, atol=1e-14)


def test_more_mistakes_have_a_clear_error() -> None:
    """Pruned, wrapped, exported while it trains, of the wrong type, too large or small, made where nothing trains."""
    pruned = model()
    prune.l1_unstructured(pruned[0], "weight", 0.3)
    with pytest.raises(ValueError, match="0 is pruned"):
        pctool.precondition_(pruned)
    for scale in (1e-25, 1e25):
        extreme = nn.Linear(4, 4)
        extreme.weight.data.mul_(scale)
        with pytest.raises(ValueError, match="between 1e-15 and 1e15"):
            pctool.precondition(extreme)
    coefficients: Any = (1.5, -0.5)
    with pytest.raises(ValueError, match=r"give pctool\.OddPolynomial"):
        pctool.precondition(nn.Linear(4, 4), coefficients)
    count: Any = 2.5
    with pytest.raises(ValueError, match=r"update_every is 2\.5"):
        pctool.precondition_(model(), update_every=count)
    untouched = model()
    with pytest.raises(ValueError, match=r"history is 2\.5"):
        pctool.precondition_(untouched, history=count)
    assert preconditioning(untouched[0]) is None
    pctool.precondition_(model(), update_every=np.int64(10))
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        pctool.precondition_(model())
    made = pctool.precondition_(model())
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        pctool.remove_precondition_(made)
    with pytest.raises(ValueError, match=r"export in eval\(\)"):
        torch.export.export(pctool.precondition_(model(), "apc"), (images(),), strict=False)
    exported = torch.export.export(pctool.precondition_(model(), "apc").eval(), (images(),), strict=False)
    assert np.isfinite(exported.module()(images()).detach().numpy()).all()


def test_weights_that_others_parametrize_have_singular_values() -> None:
    """Under weight_norm, whose weight is made of two parameters, as under none."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    expected = pctool.singular_values(net)
    torch.nn.utils.parametrizations.weight_norm(net[0])
    for name, sigmas in pctool.singular_values(net).items():
        np.testing.assert_allclose(sigmas, expected[name], rtol=1e-6)
    with pytest.raises(ValueError, match=r"0\.weight is on the meta device"):
        pctool.singular_values(net.to("meta"))


@pytest.mark.parametrize("change", ["mean", "half", "dict"])
def test_an_extra_state_that_is_none_is_refused(change: str) -> None:
    """The mean of two state dicts has no polynomial, a rounded one other coefficients; the message says what to do."""
    states = [pctool.precondition_(model(), "fpc", degree=degree).state_dict() for degree in (3, 7)]
    (key, *_) = [key for key in states[0] if key.endswith("_extra_state")]
    wrong: Any = {
        "mean": (states[0][key] + states[1][key]) / 2,
        "half": states[0][key].half(),
        "dict": {"coeffs": [1.0]},
    }
    net = pctool.precondition_(model(), "fpc")
    with pytest.raises(ValueError, match="extra state is not what pctool writes"):
        net.load_state_dict({**states[0], key: wrong[change]})


def test_everything_beside_a_weight_is_on_its_device() -> None:
    """NCCL, which copies buffers between processes, and DataParallel take no CPU tensor of a model on GPUs."""
    weight = nn.Linear(5, 4, device="meta").weight
    vectors = torch.empty(4, device="meta"), torch.empty(5, device="meta")
    own = Preconditioned(weight, 0, pctool.PUBLISHED[7], vectors=vectors)
    assert {name: buffer.device.type for name, buffer in own.named_buffers()} == dict.fromkeys(
        ("_u", "_v", "_coeffs", "_common"), "meta"
    )


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_a_model_without_values_is_filled_by_assignment(method: Any) -> None:
    """Built on the meta device, as large models are, it applies what the other one does; any dtype may come so."""
    net = pctool.precondition_(model(), method).eval()
    expected, state = net(images()), copy.deepcopy(net.state_dict())
    net.to("meta").load_state_dict(state, assign=True)
    assert torch.equal(net(images()), expected)
    wide = pctool.precondition_(model().double(), method).eval()
    wide.load_state_dict(state, assign=True)
    assert torch.equal(wide(images()), expected)
    wide(images()).sum().backward()
    assert all(own._common.device.type == "cpu" for layer in net.modules() if (own := preconditioning(layer)))


def test_batch_norm_of_an_average_sees_the_polynomial_that_it_applies() -> None:
    """`update_bn` runs an averaged model in train(), made before APC chose degree 9."""
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    U, _, V = torch.linalg.svd(torch.randn(8, 8))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(8))
        pctool.precondition_(net, "apc", history=1, skip_linear=False)
        average = AveragedModel(net)
        net[0].weight = U * torch.logspace(0, -2, 8) @ V
    assert pctool.update_strengths_(net) == {"0": 9}
    for _ in range(20):
        net(torch.randn(4, 8))
    average.update_parameters(net)
    assert pctool.strengths(average) == {"module.0": 9}
    x = torch.randn(256, 8)
    applied = average.eval().module[0].weight.detach()
    update_bn([x], average)
    torch.testing.assert_close(average.module[1].running_var, (x @ applied.t()).var(0), rtol=1e-3, atol=0)
