"""What a spectrum needs to know of one layer: its raw weight and what is applied to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pctool.core.polynomial import OddPolynomial

LayerKind = Literal["conv", "linear"]


@dataclass(frozen=True)
class LayerState:
    """A layer at one moment.

    `weight`: raw weight, its output side first (its matrix is `weight.flatten(1)`, out x in*k*k).
    `sigma_hat`: the power iteration's estimate u^T W v of the spectral norm, None without normalisation.
    `coeffs`: of the polynomial behind SN, ascending in x^2, `(1.0,)` for SN alone, None without normalisation.
    `strength`: the polynomial's degree, 1 for identity, 0 for no normalisation.
    `problem`: why the layer cannot be measured.
    """

    name: str
    kind: LayerKind
    weight: torch.Tensor
    sigma_hat: float | None
    coeffs: tuple[float, ...] | None
    strength: int
    problem: str | None = None


def layer_states(
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, Mapping[str, Any]] | None = None,
    transposed: Collection[str] = (),
) -> list[LayerState]:
    """The layers of a state dict (weights with two dimensions or more) with what a Preconditioner's state adds.

    `transposed` names those whose weight is stored in x out, as that of a transposed convolution is.
    """
    states = []
    for key, stored in weights.items():
        name, _, leaf = key.rpartition(".")
        if leaf != "weight" or stored.dim() < 2:
            continue
        kind: LayerKind = "linear" if stored.dim() == 2 else "conv"
        weight = stored.transpose(0, 1) if name in transposed else stored
        entry = (state or {}).get(name)
        if entry is None:
            states.append(LayerState(name, kind, weight, None, None, 0))
            continue
        W = weight.detach().flatten(1)
        sigma_hat = float(torch.dot(entry["u"], torch.mv(W, entry["v"])))
        coeffs = OddPolynomial(tuple(map(float, entry["coeffs"]))).coeffs
        states.append(LayerState(name, kind, weight, sigma_hat, coeffs, 2 * len(coeffs) - 1))
    return states
