"""A file of either road loads in the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pctool
from pctool import from_plugin, to_plugin
from pctool.core.layers.preconditioner import Method, Preconditioner
from pctool.core.layers.strength import Ladder

TAUS = (1.5, 2.0, 3.0, 4.0)  # so that strengths differ between these small layers


def network() -> nn.Sequential:
    torch.manual_seed(3)
    D = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16 * 4, 10), nn.Linear(10, 1))
    return D.double().to(memory_format=torch.channels_last)


def trained(method: Method) -> tuple[nn.Sequential, Preconditioner]:
    D = network()
    pre = Preconditioner(D, method, polynomial=pctool.PUBLISHED[5], ladder=Ladder(TAUS))
    pre.update_strengths()
    with torch.no_grad():
        for parameter in D.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    pre.measure()  # under APC, one measurement that has not been applied
    pre.advance()
    return D, pre


def with_plugin(method: Method) -> nn.Sequential:
    D = network()
    pctool.precondition_(D, method, degree=3 if method == "fpc" else 7, **({"taus": TAUS} if method == "apc" else {}))
    return D


def effective(D: nn.Module) -> dict[str, Tensor]:
    D.eval()
    return {f"{name}.weight": layer.weight for name, layer in D.named_children() if hasattr(layer, "weight")}


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_a_checkpoints_d_computes_the_same_with_the_plug_in(method: Method) -> None:
    """Strengths, u and v pass over: every effective weight is the trainer's, to float64's rounding."""
    D, pre = trained(method)
    plug = with_plugin(method)
    plug.load_state_dict(to_plugin(D.state_dict(), pre.state()), strict=True)
    ours = effective(plug)
    for name, W_hat in pre.weights().items():
        torch.testing.assert_close(ours[name], W_hat, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["sn", "fpc", "apc"])
def test_a_plug_ins_state_dict_continues_in_the_trainer(method: Method) -> None:
    """There and back, weights and state are bit for bit what they were, and the trainer's next step is the same."""
    D, pre = trained(method)
    plug = with_plugin(method)
    plug.load_state_dict(to_plugin(D.state_dict(), pre.state()))
    weights, state = from_plugin(plug.state_dict())

    other = network()
    again = Preconditioner(other, method, polynomial=pctool.PUBLISHED[5], ladder=Ladder(TAUS))
    other.load_state_dict(weights, strict=True)
    again.load_state(state)
    assert weights.keys() == D.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in D.state_dict().items())
    for name, entry in pre.state().items():
        assert all(torch.equal(state[name][key], entry[key]) for key in ("u", "v"))
        assert all(state[name][key] == entry[key] for key in ("coeffs", "history", "pending"))
    assert again.apply_strengths() == pre.apply_strengths()
    assert again.strengths() == pre.strengths()
    again.advance()
    pre.advance()
    continued = again.weights()
    assert all(torch.equal(continued[name], W_hat) for name, W_hat in pre.weights().items())
