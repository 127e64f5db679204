"""Stock spectral_norm, both forms: replaced in a model, and read from its files."""

import copy

import pytest
import torch
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm

import pctool
from pctool.core.layers.parametrization import preconditioning

from .samples import images, model


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


@pytest.mark.filterwarnings("ignore:pctool replaced")
@pytest.mark.parametrize("form", [old_spectral_norm, new_spectral_norm], ids=["hooks", "parametrization"])
def test_a_replaced_spectral_norm_keeps_its_number_of_iterations(form):
    """Unless another is given; a layer without one iterates once."""
    net = model()
    form(net[0], n_power_iterations=5)
    given = pctool.precondition_(copy.deepcopy(net), "fpc", n_power_iterations=2)
    pctool.precondition_(net, "fpc")
    assert [preconditioning(given[i]).n_power_iterations for i in (0, 2)] == [2, 2]
    assert [preconditioning(net[i]).n_power_iterations for i in (0, 2)] == [5, 1]
    single = pctool.precondition(form(torch.nn.Linear(4, 3), n_power_iterations=3))
    assert preconditioning(single).n_power_iterations == 3


@pytest.mark.parametrize("by", ["replacing", "loading"])
def test_vectors_of_the_old_form_that_nobody_iterated_are_warmed_up(by):
    """They are as they were drawn: the polynomial would be far out of its range, at degree 9 by a factor of 1e15."""
    net = model()
    for layer in (net[0], net[2]):
        old_spectral_norm(layer)
    if by == "replacing":
        with pytest.warns(UserWarning, match="replaced"):
            pctool.precondition_(net, "fpc", degree=9)
    else:
        drawn, net = net.state_dict(), pctool.precondition_(model(), "fpc", degree=9)
        net.load_state_dict(drawn)
    for name, values in pctool.singular_values(net.eval()).items():
        assert values[0] == pytest.approx(1, abs=0.1), name


@pytest.mark.parametrize("shape", [(1, 128), (2, 128), (3, 64), (128, 1)])
def test_no_draw_passes_for_iterated_vectors(shape):
    """Nor where there are few outputs, of which u alone would fit often; what one forward iterated is taken."""
    rows, columns = shape
    for seed in range(100):
        torch.manual_seed(seed)
        drawn = old_spectral_norm(torch.nn.Linear(columns, rows))
        iterated = old_spectral_norm(torch.nn.Linear(columns, rows))
        iterated(torch.ones(1, columns))
        for layer, taken in ((drawn, False), (iterated, True)):
            u, v = layer.weight_u.clone(), layer.weight_v.clone()
            with pytest.warns(UserWarning, match="replaced"):
                own = preconditioning(pctool.precondition(layer))
            if taken:
                assert torch.equal(own._u, u) and torch.equal(own._v, v)  # noqa: PT018
            else:
                estimate = own._u @ own.matrix(layer.parametrizations.weight.original.detach()) @ own._v
                assert estimate > 0.5 * torch.linalg.matrix_norm(layer.parametrizations.weight.original, 2)


@pytest.mark.parametrize("change", ["half", "shape"])
def test_state_dicts_that_differ_are_torchs_to_judge(change):
    """Half precision loads; another shape is the usual error."""
    drawn = old_spectral_norm(torch.nn.ConvTranspose2d(4, 6, 3)).state_dict()
    net = pctool.precondition(torch.nn.ConvTranspose2d(4, 6, 3))
    if change == "half":
        drawn["weight_orig"] = drawn["weight_orig"].half()
        net.load_state_dict(drawn)
    else:
        drawn["weight_orig"] = drawn["weight_orig"].flatten()
        with pytest.raises(RuntimeError, match="size mismatch"):
            net.load_state_dict(drawn)


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
