"""Convolutions in two factors: the same logits and gradients as with the effective weight made, by less arithmetic."""

import copy
from unittest import mock

import pytest
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from pctool.core import linalg, products
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.layers.strength import Ladder
from pctool.core.models import build_discriminator
from pctool.core.models.factored import FactoredConv2d, factored_layers
from pctool.core.polynomial import PUBLISHED

IMAGES = (4, 3, 48, 48)
LAST = ["blocks.2.conv2"]
LAST += [f"blocks.{i}.{name}" for i in (3, 4) for name in ("conv1", "conv2", "shortcut")]


def pair(method: str, dtype: torch.dtype = torch.float64, width: int = 16, **settings):
    """Two equal discriminators with their preconditioners: the second is told the shape of its batches."""
    torch.manual_seed(0)
    networks = [build_discriminator("resnet", 48, 3, width, "authors").to(dtype, memory_format=torch.channels_last)]
    networks.append(copy.deepcopy(networks[0]))
    for images, network in zip((None, IMAGES), networks, strict=True):
        generator = torch.Generator().manual_seed(1)
        pre = Preconditioner(network, method, images=images, generator=generator, **settings)
        pre.update_strengths()
        yield network, pre


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(IMAGES, dtype=dtype, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("arch", "resolution", "width", "batch", "expected"),
    [
        ("resnet", 48, 64, 64, {"blocks.3.conv2", "blocks.4.conv1", "blocks.4.conv2", "blocks.4.shortcut"}),
        ("resnet", 32, 128, 64, set()),
        ("dcgan", 128, 512, 128, {"stages.8"}),
        ("cnn", 32, 512, 128, {"stages.10"}),
    ],
)
def test_layers_with_half_as_many_positions_as_columns_are_factored(arch, resolution, width, batch, expected):
    """48 px, 64 images: the last block maps 64 x 3 x 3 positions by a matrix of 4608 columns, and when pooled 64 by
    another and by its shortcut's, of 1024 rows. The block before it pools to 576 for a matrix of 2304. At 32 px each
    image alone has 64 positions of 1152 columns. 4 x 4 positions of dcgan's last convolution, 128 px."""
    D = build_discriminator(arch, resolution, 3, width, "authors")
    assert factored_layers(D, (batch, 3, resolution, resolution)) == expected


def test_a_tall_weight_of_three_by_three_is_not_factored():
    """Its smaller side is that of patches: no factor on the channels stands for it. One of 1 x 1 is."""
    for kernel, expected in ((3, set()), (1, {"0"})):
        network = torch.nn.Sequential(FactoredConv2d(3, 64, kernel, padding=kernel // 2))
        assert factored_layers(network, (1, 3, 2, 2)) == expected


def test_the_deepest_layers_gradient_comes_from_outer_products():
    """Four images are four positions of the last block's second convolution, 256 x 1152, and shortcut, 256 x 128: at
    degree 3 their gradients come from outer products, the others' with 36 positions or more do not."""
    D, pre = list(pair("fpc", polynomial=PUBLISHED[3]))[1]
    loss = functional_call(D, pre.weights(), (images(),)).square().sum()
    with mock.patch.object(linalg, "through_outer_products", wraps=linalg.through_outer_products) as taken:
        loss.backward()
    assert sorted(tuple(call.args[1].shape) for call in taken.call_args_list) == [(128, 256), (256, 1152)]


def test_a_biass_gradient_keeps_its_digits_where_images_nearly_cancel():
    """Gradients of +1 on real and -1 on fake images but for noise: off their float64 sum by less than 1e-7 of what is
    added up (measured 3e-8). Within the convolution oneDNN is off by 1e-6."""
    torch.manual_seed(0)
    layer, x = FactoredConv2d(4, 8, 3, padding=1), torch.randn(32, 4, 32, 32)
    real = torch.arange(32) < 16
    G = torch.randn(32, 8, 32, 32) * 0.1 + torch.where(real, 1.0, -1.0)[:, None, None, None]
    expected = G.double().sum((0, 2, 3))
    layer(x).backward(G)
    assert ((layer.bias.grad - expected).norm() / G.double().abs().sum((0, 2, 3)).norm()).item() < 1e-7


def test_halving_is_for_three_by_three_weights():
    """Others are refused: they would give another result."""
    with pytest.raises(ValueError, match="3, 3"):
        FactoredConv2d(3, 4, 1)(torch.randn(1, 3, 8, 8), halve=True)


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
def test_logits_and_gradients_are_those_of_the_effective_weights(degree):
    """In float64 to 1e-12 of each gradient's norm, those of the images too."""
    found = []
    for D, pre in pair("fpc", polynomial=PUBLISHED[degree]):
        x = images().requires_grad_()
        y = functional_call(D, pre.weights(), (x,))
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [x, *D.parameters()])])
    assert [layer.name for layer in pre.layers if layer.factored] == LAST
    for factored, whole in zip(found[1], found[0], strict=True):
        assert float((factored - whole).norm()) <= 1e-12 * float(whole.norm())


def test_every_strength_of_apc_keeps_the_same_names():
    """Thresholds that spread the layers over the strengths, the identity included: equal logits, and the names of the
    weights stay, which compiled code depends on."""
    (whole, a), (factored, b) = pair("apc", ladder=Ladder((1.7, 2.0, 2.3, 4.0)))
    names = list(b.weights())
    torch.testing.assert_close(
        functional_call(factored, b.weights(), (images(),)),
        functional_call(whole, a.weights(), (images(),)),
        rtol=1e-12,
        atol=1e-14,
    )
    assert a.strengths() == b.strengths()
    assert len({b.strengths()[name] for name in LAST}) > 1
    for layer in b.layers:
        if layer.adaptive:
            layer.adaptive.ladder = Ladder((90.0, 91.0, 92.0, 93.0))
    assert b.update_strengths()
    assert {b.strengths()[name] for name in LAST} == {1}
    assert list(b.weights()) == names
    assert [name for name in names if name.endswith("factor")] == [f"{name}.factor" for name in LAST]


def test_a_gradient_penalty_is_the_same():
    """The squared gradient at the images, differentiated through D again: each raw weight's gradient to 1e-11."""
    found = []
    for D, pre in pair("fpc"):
        x = images().requires_grad_()
        (slope,) = torch.autograd.grad(functional_call(D, pre.weights(), (x,)).sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append([p.grad for p in D.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    for factored, whole in zip(found[1], found[0], strict=True):
        assert float((factored - whole).norm()) <= 1e-11 * float(whole.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("taus", [(1.7, 2.0, 2.3, 4.0), (90.0, 91.0, 92.0, 93.0)], ids=["polynomials", "identity"])
def test_weights_in_half_precision(dtype, taus):
    """Q has W's dtype as every effective weight: D computes in it, and the logits are those without factors to 3e-2."""
    (whole, a), (factored, b) = pair("apc", dtype, ladder=Ladder(taus))
    values = b.weights()
    assert {value.dtype for value in values.values()} == {dtype}
    logits = functional_call(factored, values, (images(dtype),))
    expected = functional_call(whole, a.weights(), (images(dtype),))
    assert float((logits - expected).detach().norm()) <= 3e-2 * float(expected.detach().norm())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rough_arithmetic_is_no_rougher(precision):
    """Under bf16 autocast, Q in float32 or from bf16 products: the gradients' error against float64 is at most a
    tenth more than with the effective weight made (measured: 12.1 % and 12.3 %)."""
    (D, pre), _ = pair("fpc", width=32)
    functional_call(D, pre.weights(), (images(),)).tanh().sum().backward()
    exact = torch.cat([p.grad.flatten() for p in D.parameters()])
    errors = []
    for D, pre in pair("fpc", torch.float32, 32, precision=precision):
        with torch.autocast("cpu", torch.bfloat16):
            y = functional_call(D, pre.weights(), (images(torch.float32),))
        y.float().tanh().sum().backward()
        errors.append(float((torch.cat([p.grad.flatten() for p in D.parameters()]) - exact).norm() / exact.norm()))
    assert errors[1] <= 1.1 * errors[0] <= 0.2, errors


def test_fewer_operations():
    """A forward and backward pass of D with the polynomial takes less arithmetic factored."""
    flops = []
    mkl = mock.patch.object(products, "has_slow_mkl", return_value=False)  # the counter does not know oneDNN's products
    for D, pre in pair("fpc", torch.float32):
        with mkl, FlopCounterMode(display=False) as counter:
            functional_call(D, pre.weights(), (images(torch.float32),)).sum().backward()
        flops.append(counter.get_total_flops())
    assert flops[1] < 0.9 * flops[0], flops


def test_the_factor_is_no_state():
    """Checkpoints and exports know weights alone."""
    D = build_discriminator("resnet", 48, 3, 8, "authors")
    assert [name for name in D.state_dict() if "factor" in name] == []
