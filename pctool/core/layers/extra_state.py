"""What the plug-in keeps beside a weight, as one tensor: what handles state dicts takes it, safetensors included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pctool.core.layers.strength import HISTORY
from pctool.core.polynomial import MAX_COEFFS

FIRST = 3 + MAX_COEFFS  # entries before the measurements


def packed(state: Mapping[str, Any], longest: int = HISTORY) -> Tensor:
    """coeffs, history, pending and forwards as float64 [8 + longest].

    In it: the number of coefficients, five of them, the count of forwards, the measurement that is not applied yet, the
    last ones. 0, which no condition number is, stands for none.
    """
    coeffs, history = list(state["coeffs"]), list(state["history"])[-longest:] if longest else []
    values = [len(coeffs), *coeffs, *[0.0] * (MAX_COEFFS - len(coeffs)), state["forwards"]]
    values += [state["pending"] or 0.0, *history, *[0.0] * (longest - len(history))]
    return torch.tensor(values, dtype=torch.float64)


def unpacked(packed_state: Tensor) -> dict[str, Any]:
    """The state that `packed` made a tensor. Raises ValueError for another tensor."""
    values = packed_state.tolist() if packed_state.dim() == 1 else []
    if len(values) < FIRST or values[0] not in range(1, MAX_COEFFS + 1) or not math.isfinite(values[1 + MAX_COEFFS]):
        raise ValueError(f"a layer's extra state is {tuple(packed_state.shape)}, and not what pctool writes")
    pending, history = values[FIRST - 1], values[FIRST:]
    return {
        "coeffs": values[1 : 1 + int(values[0])],
        "history": [value for value in history if value],
        "pending": pending or None,
        "forwards": int(values[1 + MAX_COEFFS]),
    }
