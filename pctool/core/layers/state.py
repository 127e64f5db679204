"""What a spectrum needs to know of one layer: its raw weight and what is applied to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

LayerKind = Literal["conv", "linear"]


@dataclass(frozen=True)
class LayerState:
    """A layer at one moment.

    `weight`: raw weight, in the layer's own shape (its matrix is `weight.flatten(1)`, out x in*k*k).
    `sigma_hat`: the power iteration's estimate u^T W v of the spectral norm, None without normalisation.
    `coeffs`: of the polynomial behind SN, ascending in x^2, `(1.0,)` for SN alone, None without normalisation.
    `strength`: the polynomial's degree, 1 for identity, 0 for no normalisation.
    """

    name: str
    kind: LayerKind
    weight: torch.Tensor
    sigma_hat: float | None
    coeffs: tuple[float, ...] | None
    strength: int
