"""Small discriminators for the tests of the spectrum package."""

from __future__ import annotations

import torch

from pctool.core.layers.state import LayerKind, LayerState
from pctool.spectrum.measure import Row, measure

DEGREE_7 = (2.909, -4.649, 4.023, -1.283)  # the published polynomial of degree 7
SHAPES: dict[str, tuple[int, ...]] = {
    "blocks.0.conv1": (6, 3, 3, 3),
    "blocks.0.conv2": (6, 6, 3, 3),
    "blocks.0.shortcut": (6, 3, 1, 1),
    "linear": (1, 6),
}


def states(seed: int = 0, normalised: bool = True) -> list[LayerState]:
    """Random layers; sigma_hat is 2 % below the true norm, as a late power iteration's may be."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for name, shape in SHAPES.items():
        kind: LayerKind = "linear" if len(shape) == 2 else "conv"
        weight = torch.randn(shape, generator=generator)
        sigma_hat = 0.98 * float(torch.linalg.matrix_norm(weight.flatten(1).double(), 2)) if normalised else None
        strength = (1 if kind == "linear" else 7) if normalised else 0
        coeffs = {0: None, 1: (1.0,), 7: DEGREE_7}[strength]
        made.append(LayerState(name, kind, weight, sigma_hat, coeffs, strength))
    return made


def row(step: int, normalised: bool = True) -> Row:
    """A measured row, other weights for every step."""
    return measure(step, states(step, normalised))
