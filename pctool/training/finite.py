"""A NaN or an infinity is not applied and stops the run, and the message says where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pctool.errors import NonFiniteError
from pctool.training.state import TrainingState

KEPT = "it was not applied, the last checkpoint holds"


@dataclass(frozen=True)
class Descent:
    """What an update of G or D went by: its loss, and the largest entry of each parameter's gradient, by name.

    `finite` says whether loss and gradients are; `broken` is 1 where they, or those of an update before it in the step,
    are not, else 0. Both stay where they are computed.
    """

    network: Literal["G", "D"]
    loss: Tensor
    largest: dict[str, Tensor]
    finite: Tensor
    broken: Tensor

    @classmethod
    def of(cls, network: Literal["G", "D"], loss: Tensor, module: nn.Module, before: list[Descent]) -> Descent:
        """After the backward pass of `loss` through `module`, with the step's updates `before` it."""
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        largest = _largest(list(gradients.values()))
        finite = torch.isfinite(torch.stack([loss.detach(), *largest])).all()
        broken = 1 - finite.float()
        if before:
            broken = torch.maximum(broken, before[-1].broken)
        return cls(network, loss.detach(), dict(zip(gradients, largest, strict=True)), finite, broken)


def _largest(gradients: list[Tensor]) -> Sequence[Tensor]:
    """The largest absolute entry of each, by what takes their device least; a NaN is the largest."""
    if gradients and gradients[0].is_cuda:
        return torch._foreach_norm(gradients, math.inf)
    return [gradient.abs().amax() for gradient in gradients]


@dataclass(frozen=True)
class Updates:
    """A step's updates in their order, and D's last effective weights, as `Preconditioner.weights` names them.

    Where an update was not finite no later one was applied: these are of the raw weights that it was computed with.
    """

    descents: list[Descent]
    W_hat: dict[str, Tensor]

    def loss(self, network: Literal["G", "D"]) -> Tensor:
        """The last of the network's updates."""
        return next(descent.loss for descent in reversed(self.descents) if descent.network == network)


def check_finite(state: TrainingState, updates: Updates) -> None:
    """Raises NonFiniteError, naming step and layer, unless every loss and gradient of a step's updates is finite."""
    if not updates.descents[-1].broken:
        return
    first = next(descent for descent in updates.descents if not descent.finite)
    network = first.network
    if not torch.isfinite(first.loss):
        found = (what for what, value in _weights(state, updates.W_hat) if not torch.isfinite(value).all())
        where = next((f"{what} is not finite" for what in found), "all weights of G and D are finite")
        raise NonFiniteError(f"step {state.step}: the loss of {network} is {first.loss.item()}: {where}; {KEPT}")
    name = next(name for name, number in first.largest.items() if not torch.isfinite(number))
    raise NonFiniteError(f"step {state.step}: the gradient of {network}.{name} is not finite; {KEPT}")


def _weights(state: TrainingState, W_hat: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What a loss depends on, by its name: D's parameters, the raw weight before the effective one, then G's."""
    for name, value in state.D.named_parameters():
        yield f"D.{name}", value
        for key in (name, f"{name.removesuffix('.weight')}.factor"):
            if key in W_hat:
                yield f"the effective weight of D.{name}", W_hat[key]
    for name, value in state.G.named_parameters():
        yield f"G.{name}", value
