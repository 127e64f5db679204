"""What a run says of a NaN before it ends."""

import re
from pathlib import Path

import pytest
import torch

from pctool.errors import NonFiniteError
from pctool.training.config import resolve
from pctool.training.finite import Descent, Updates, check_finite
from pctool.training.state import TrainingState

NAN = float("nan")


@pytest.fixture
def state():
    """After a backward pass of D and of G, at step 7."""
    made = TrainingState(resolve({"width_g": 8, "width_d": 8, "batch_size": 2, "method": "fpc", "out": Path("-")}))
    made.step = 7
    made.D(made.G(made.latent(2, "test"))).mean().backward()
    return made


def descent(state, network, loss):
    return Descent.of(network, torch.tensor(loss), getattr(state, network), [])


def said(state, *descents, W_hat=None):
    with pytest.raises(NonFiniteError) as caught:
        check_finite(state, Updates(list(descents), state.preconditioner.weights() if W_hat is None else W_hat))
    return str(caught.value)


def test_finite_is_silent(state):
    """A gradient is, also where its norm overflows in float32."""
    assert descent(state, "D", 1.0).finite
    for p in state.D.parameters():
        p.grad.fill_(3e38)
    assert descent(state, "D", 1.0).finite
    check_finite(state, Updates([descent(state, "D", 1.0)], {}))


def test_the_first_of_several_is_named(state):
    """A step's later updates follow from what they were given: a NaN of theirs is not the cause."""
    fine, first = descent(state, "G", 1.0), descent(state, "G", NAN)
    state.D.linear.weight.grad[0, 0] = NAN
    second = descent(state, "D", 1.0)
    assert "the loss of G is nan" in said(state, fine, first, second)
    assert "the gradient of D.linear.weight is not finite" in said(state, fine, second, first)
    later = Descent.of("G", torch.tensor(1.0), state.G, [fine, first])
    assert later.finite
    assert later.broken
    assert "the loss of G is nan" in said(state, fine, first, later)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_gradient_is_named_by_its_tensor(state, value):
    """Step, network and parameter; the other network's gradients do not count."""
    state.D.blocks[1].conv2.weight.grad[0, 0, 0, 0] = value
    words = said(state, descent(state, "D", 1.0))
    assert words.startswith("step 7: the gradient of D.blocks.1.conv2.weight is not finite; it was not applied")
    assert descent(state, "G", 1.0).finite
    assert not descent(state, "D", 1.0).finite


def test_a_loss_names_the_first_weight_that_is_not_finite(state):
    """Raw before effective, D before G, each in the order of its forward pass; of finite weights it says so."""
    W_hat = {name: value.detach().clone() for name, value in state.preconditioner.weights().items()}
    places = [
        ("G.blocks.2.conv1.bias", state.G.blocks[2].conv1.bias),
        ("G.dense.weight", state.G.dense.weight),
        ("the effective weight of D.linear.weight", W_hat["linear.weight"]),
        ("the effective weight of D.blocks.0.conv1.weight", W_hat["blocks.0.conv1.weight"]),
        ("D.blocks.0.conv1.weight", state.D.blocks[0].conv1.weight),
    ]
    for network in "DG":
        assert re.match(
            rf"step 7: the loss of {network} is nan: all weights of G and D are finite; it was not applied",
            said(state, descent(state, network, NAN), W_hat=W_hat),
        )
    for name, tensor in places:  # each comes before those that are not finite already
        tensor.data.view(-1)[0] = NAN
        words = said(state, descent(state, "D", float("inf")), W_hat=W_hat)
        assert words.startswith(f"step 7: the loss of D is inf: {name} is not finite;")


def test_a_factor_is_named_by_its_layer():
    """Of a convolution in two factors the value is Q: a NaN there is one of the layer's effective weight."""
    flags = {"arch": "cnn", "width_g": 8, "width_d": 64, "batch_size": 2, "method": "fpc", "out": Path("-")}
    state = TrainingState(resolve(flags))
    W_hat = {name: value.detach().clone() for name, value in state.preconditioner.weights().items()}
    W_hat["stages.10.factor"][0, 0] = NAN
    assert "the effective weight of D.stages.10.weight is not finite" in said(
        state, descent(state, "D", NAN), W_hat=W_hat
    )
