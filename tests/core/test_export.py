"""Exported weights compute what the network of the checkpoint does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
import torch

from pctool.core.export import description, plain_weights, to_safetensors
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.models import build_discriminator
from pctool.errors import InputError


def _checkpoint(method: Any) -> tuple[dict[str, Any], torch.nn.Module, Preconditioner]:
    torch.manual_seed(0)
    D = build_discriminator("resnet", 32, 3, 8, "authors").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer = Preconditioner(D, method)
    layer.advance()
    config = json.dumps({"arch": "resnet", "resolution": 32, "channels": 3, "width_d": 8, "seed": 1})
    return {"step": 7, "config": config, "D": D.state_dict(), "preconditioner": layer.state()}, D, layer


@pytest.mark.parametrize("method", ["none", "sn", "fpc", "apc", "svd"])
def test_a_plain_network_with_the_exported_weights_is_the_discriminator(method: str) -> None:
    """Its weights are those of the preconditioner up to the order in which columns are summed (that one takes them as
    they lie in memory), its logits those of the network that runs with them."""
    checkpoint, D, layer = _checkpoint(method)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        weights = layer.weights()
        expected = torch.func.functional_call(D, weights, (images,))
        plain = build_discriminator("resnet", 32, 3, 8, "authors").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        exported = plain_weights(checkpoint, "D")
        plain.load_state_dict(exported)
        for key, weight in weights.items():
            torch.testing.assert_close(exported[key], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(plain(images), expected, rtol=1e-5, atol=1e-5)  # another memory layout
    assert all(value.is_contiguous() for value in exported.values())


def test_the_checkpoint_is_left_alone() -> None:
    """Its raw weights are what they were."""
    checkpoint, D, _ = _checkpoint("fpc")
    before = {key: value.clone() for key, value in D.state_dict().items()}
    plain_weights(checkpoint, "D")
    assert all(torch.equal(checkpoint["D"][key], value) for key, value in before.items())


def test_the_description_says_how_the_network_is_built() -> None:
    """Texts only, as safetensors wants them; the degrees are those of the layers."""
    checkpoint, _, layer = _checkpoint("fpc")
    about = description(checkpoint, "D")
    assert (about["network"], about["step"], about["arch"], about["width_d"]) == ("D", "7", "resnet", "8")
    assert json.loads(about["degrees"]) == layer.strengths()
    assert all(isinstance(text, str) for text in about.values())


@pytest.mark.parametrize("change", ["missing network", "other vectors", "not finite"])
def test_what_does_not_fit_is_one_line(change: str) -> None:
    """No such network, vectors of another layer, a NaN: InputError."""
    checkpoint, _, _ = _checkpoint("sn")
    if change == "missing network":
        with pytest.raises(InputError, match="holds no G"):
            plain_weights(checkpoint, "G")
        return
    if change == "other vectors":
        checkpoint["preconditioner"]["blocks.0.conv1"]["u"] = torch.ones(3)
    else:
        checkpoint["D"]["blocks.0.conv1.bias"][0] = torch.nan
    with pytest.raises(InputError, match=r"does not fit D|not finite"):
        plain_weights(checkpoint, "D")


def test_the_same_content_gives_the_same_bytes() -> None:
    """And safetensors reads them back."""
    checkpoint, _, _ = _checkpoint("sn")
    tensors, about = plain_weights(checkpoint, "D"), description(checkpoint, "D")
    images = {to_safetensors(tensors, dict(reversed(about.items())) if i % 2 else about) for i in range(8)}
    assert len(images) == 1
    back = safetensors.torch.load(images.pop())
    assert all(torch.equal(back[key], value) for key, value in tensors.items())
