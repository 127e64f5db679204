"""Small discriminators for the tests of the spectrum package."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from pctool.core import checkpoint as checkpoints
from pctool.core.layers.preconditioner import layer_states
from pctool.core.layers.state import LayerState
from pctool.spectrum.measure import Row, measure

DEGREE_7 = (2.909, -4.649, 4.023, -1.283)  # the published polynomial of degree 7
CONFIG = '{"arch": "cnn", "resolution": 32, "channels": 3, "width_g": 8, "variant": "authors"}'
SHAPES: dict[str, tuple[int, ...]] = {
    "blocks.0.conv1": (6, 3, 3, 3),
    "blocks.0.conv2": (6, 6, 3, 3),
    "blocks.0.shortcut": (6, 3, 1, 1),
    "linear": (1, 6),
}


def saved(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Random weights as a state dict, and what a preconditioner keeps beside them.

    sigma_hat is 2 % below the true norm, as a late power iteration's may be.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    beside = {}
    for key, weight in weights.items():
        U, _, Vh = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
        coeffs = (1.0,) if weight.dim() == 2 else DEGREE_7
        beside[key.removesuffix(".weight")] = {
            "u": 0.98 * U[:, 0].float(),
            "v": Vh[0].float(),
            "coeffs": list(coeffs),
            "history": [],
        }
    return weights, beside


def states(seed: int = 0, normalised: bool = True) -> list[LayerState]:
    """The layers of `saved(seed)`."""
    weights, beside = saved(seed)
    return layer_states(weights, beside if normalised else None)


def write_checkpoint(path: Path, step: int, *, bad: bool = False) -> None:
    """A checkpoint of ours: D with its preconditioner, G without one, of `saved(step)`; `bad` puts a NaN into D."""
    weights, beside = saved(step)
    plain = {key: weight.clone() for key, weight in weights.items()}
    if bad:
        weights["blocks.0.conv2.weight"][0, 0, 0, 0] = math.nan
    checkpoints.write(path, {"step": step, "config": CONFIG, "D": weights, "G": plain, "preconditioner": beside})


def row(step: int, normalised: bool = True) -> Row:
    """A measured row, other weights for every step."""
    return measure(step, states(step, normalised))
