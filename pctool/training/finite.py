"""A NaN or an infinity stops the run before it is applied, and the message says where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from pctool.errors import NonFiniteError
from pctool.training.state import TrainingState

KEPT = "nothing was applied, the last checkpoint holds"


def check_finite(state: TrainingState, network: Literal["G", "D"], loss: Tensor, W_hat: dict[str, Tensor]) -> None:
    """Raises NonFiniteError, naming step and layer, unless the network's loss and all its gradients are finite.

    `W_hat` are D's effective weights, as `Preconditioner.weights` names them, that the loss was computed with.
    """
    parameters = getattr(state, network).named_parameters()
    named = [(name, p.grad) for name, p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm([gradient for _, gradient in named])
    if torch.isfinite(total + loss.detach()):
        return
    if not torch.isfinite(loss):
        found = (what for what, value in _weights(state, W_hat) if not torch.isfinite(value).all())
        where = next((f"{what} is not finite" for what in found), "all weights of G and D are finite")
        raise NonFiniteError(f"step {state.step}: the loss of {network} is {loss.item()}: {where}; {KEPT}")
    for name, gradient in named:  # a norm may overflow with every entry finite, which is no error
        if not torch.isfinite(gradient).all():
            raise NonFiniteError(f"step {state.step}: the gradient of {network}.{name} is not finite; {KEPT}")


def _weights(state: TrainingState, W_hat: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What a loss depends on, by its name: D's parameters, the raw weight before the effective one, then G's."""
    for name, value in state.D.named_parameters():
        yield f"D.{name}", value
        for key in (name, f"{name.removesuffix('.weight')}.left"):
            if key in W_hat:
                yield f"the effective weight of D.{name}", W_hat[key]
    for name, value in state.G.named_parameters():
        yield f"G.{name}", value
