"""What the plug-in keeps beside a weight, as one tensor: what handles state dicts takes it, safetensors included."""

from __future__ import annotations

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


def unpacked(packed_state: object) -> dict[str, Any]:
    """The state that `packed` made a tensor. Raises ValueError for anything else, an average of states for example."""
    found = packed_state if isinstance(packed_state, Tensor) else torch.empty(0)
    values = found.tolist() if found.dim() == 1 and found.dtype == torch.float64 and len(found) >= FIRST else [0.0]
    n, coeffs, (forwards, pending, *history) = values[0], values[1 : FIRST - 2], values[FIRST - 2 :] or (0.5, 0.0)
    if n not in range(1, MAX_COEFFS + 1) or any(coeffs[int(n) :]) or not float(forwards).is_integer():
        raise ValueError(
            "a layer's extra state is not what pctool writes; save the model's state dict with this version"
        )
    return {
        "coeffs": coeffs[: int(n)],
        "history": [value for value in history if value],
        "pending": pending or None,
        "forwards": int(forwards),
    }
