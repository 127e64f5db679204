"""Between the two roads: D in a checkpoint of the trainer, and the state dict of a D with the plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pctool.core.layers.extra_state import packed, unpacked
from pctool.core.layers.strength import HISTORY

INSIDE = "parametrizations.weight."
STRENGTH = ("coeffs", "history", "pending")


def to_plugin(weights: Mapping[str, Any], preconditioner: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a D under `precondition_` loads strictly, from a checkpoint's `D` and `preconditioner`.

    Raw weights, u and v, the polynomial in use and APC's measurements pass over; the count of training forwards
    starts at 0. KeyError for a layer whose weight is missing.
    """
    found = dict(weights)
    for name, entry in preconditioner.items():
        inside = f"{name}.{INSIDE}"
        found[f"{inside}original"] = found.pop(f"{name}.weight")
        found[f"{inside}0._u"], found[f"{inside}0._v"] = entry["u"], entry["v"]
        found[f"{inside}0._extra_state"] = packed({**entry, "forwards": 0}, max(HISTORY, len(entry["history"])))
    return found


def from_plugin(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`to_plugin` turned round: the state dict of the plain D, and what `Preconditioner.load_state` takes.

    The count of training forwards stays behind: the trainer measures by its own step.
    """
    weights = dict(state_dict)
    preconditioner = {}
    for name in [key.removesuffix(f".{INSIDE}original") for key in state_dict if key.endswith(f".{INSIDE}original")]:
        inside = f"{name}.{INSIDE}"
        weights[f"{name}.weight"] = weights.pop(f"{inside}original")
        extra = unpacked(weights.pop(f"{inside}0._extra_state"))
        vectors = {"u": weights.pop(f"{inside}0._u"), "v": weights.pop(f"{inside}0._v")}
        preconditioner[name] = vectors | {key: extra[key] for key in STRENGTH}
    return weights, preconditioner
