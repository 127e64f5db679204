"""What a foreign file's content means: which networks it holds, their layers, and the step they are of.

Nothing in such a file says so in an agreed way; names do. `module.` (data parallel) and `_orig_mod.`
(compiled) in a key say nothing and are dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pctool.core.checkpoint import Network
from pctool.core.layers.extra_state import unpacked
from pctool.core.layers.state import LayerKind, LayerState
from pctool.core.polynomial import MAX_COEFFS
from pctool.errors import InputError
from pctool.spectrum.foreign import GIVE_ANOTHER, check_tensor, mappings

WRAPPERS = {"module", "_orig_mod"}
PLAIN = ".weight"
OLD, NEW = ".weight_orig", ".parametrizations.weight.original"  # the two forms of PyTorch's spectral_norm
# Where weight_norm, in its two forms, keeps what it makes a weight of, and the lengths beside it.
NORMS = {".weight_v": ".weight_g", ".parametrizations.weight.original1": ".parametrizations.weight.original0"}
OTHERWISE = (
    "the file has only what a parametrization other than spectral_norm makes the weight of; save the network without it"
)
EXTRA = ".parametrizations.weight.0._extra_state"  # of pctool.precondition: the polynomial, which the stock forms lack
VECTORS = {OLD: (".weight_u", ".weight_v"), NEW: (".parametrizations.weight.0._u", ".parametrizations.weight.0._v")}

# Words that name a network, as they stand in file names and keys: netD, D_state, discriminator_ema, G-weights.
NAMES: dict[str, Network] = {
    **dict.fromkeys(("d", "netd", "dis", "disc", "discriminator", "critic"), "D"),
    **dict.fromkeys(("g", "netg", "gen", "generator"), "G"),
}
EMA = {"ema", "gema", "averaged"}
# By how exactly they tell: updates before images before passes over the data.
# Not their plurals, which are totals.
STEP_KEYS = ("step", "global_step", "iteration", "iter", "itr", "n_iter", "it", "cur_nimg", "kimg", "epoch")
STEP_WORDS = "step|iteration|iter|itr|it|kimg|epoch|ep|checkpoint|ckpt"
STEP_IN_NAME = re.compile(rf"(?<![a-z])(?:{STEP_WORDS})s?[-_= ]*(\d{{1,18}})(?!\d)", re.IGNORECASE)
NUMBER_AT_END = re.compile(r"(?:^|[-_=. ])(\d{1,18})$")


def named_network(text: str) -> Network | None:
    """The network that a file name or a key tells of, as `netD`, `G_epoch12`, `generator_ema` do; else None."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)} | {text.lower()}
    told = {NAMES[word] for word in words if word in NAMES}
    if words & EMA and told != {"D"}:
        return "G_ema"
    return told.pop() if len(told) == 1 else None


def step_in(content: object) -> int | None:
    """The step that a file's content tells: the outermost whole number called step, iteration, ... or epoch."""
    for _, mapping in mappings(content):
        for key in STEP_KEYS:
            step = _whole(mapping.get(key))
            if step is not None:
                return step
    return None


def step_in_name(path: Path) -> int | None:
    """The step a file's name tells: the number after step, iter, epoch, ...; else one that ends the name."""
    told = STEP_IN_NAME.findall(path.stem) or NUMBER_AT_END.findall(path.stem)
    return int(told[-1]) if told else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool | str) or value is None:
        return None
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return int(number) if number.is_integer() and 0 <= number < 2**53 else None


def networks(content: object) -> dict[Network | None, list[LayerState]]:
    """The layers of each network in a file's content; None stands for one that no key names.

    The first mapping that tells of a network counts, from the outside in. Raises InputError for a tensor that
    claims more than it holds.
    """
    found: dict[Network | None, dict[str, Any]] = {}
    for path, mapping in mappings(content):
        if not any(_layer_of(key) for key, value in mapping.items() if isinstance(value, torch.Tensor)):
            continue
        told = next((name for name in map(named_network, reversed(path)) if name), None)
        for network, weights in _split(mapping, told).items():
            found.setdefault(network, weights)
    states = {network: layer_states(weights) for network, weights in found.items()}
    return {network: layers for network, layers in states.items() if layers}


def _split(mapping: Mapping[str, Any], told: Network | None) -> dict[Network | None, dict[str, Any]]:
    """One state dict may hold several networks, whose names then begin its keys: `netD.conv1.weight`."""
    parts: dict[Network | None, dict[str, Any]] = {}
    bares = [_bare(key) for key in mapping]
    bares = bares if len(set(bares)) == len(bares) else list(mapping)
    for bare, value in zip(bares, mapping.values(), strict=True):
        first, _, rest = bare.partition(".")
        own = named_network(first) if told is None and not re.search(r"\d", first) and "." in rest else None
        parts.setdefault(own or told, {})[rest if own else bare] = value
    return parts


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _layer_of(key: str) -> tuple[str, str] | None:
    """The layer whose raw weight a key holds, and the form of the key; None for anything else."""
    key = f".{key}"
    for form in (OLD, NEW, PLAIN, *NORMS):
        if key.endswith(form):
            return key[1 : -len(form)], form
    return None


def layer_states(weights: Mapping[str, Any]) -> list[LayerState]:
    """The layers of a state dict: weights of two dimensions (linear) or more (convolution), in its order.

    With both forms of PyTorch's `spectral_norm` the estimate is u^T W v of the stored vectors; a file too old
    to hold v has v = W^T u / |W^T u|. Under any other parametrization the weight that is applied is not in the
    file: the layer has a `problem`. Raises InputError as `foreign.check_tensor`.
    """
    states = []
    for key, weight in weights.items():
        layer = _layer_of(key)
        if layer is None or not isinstance(weight, torch.Tensor) or weight.dim() < 2 or not weight.numel():
            continue
        name, form = layer
        if form == PLAIN and f"{name}{OLD}".removeprefix(".") in weights:
            continue  # PyTorch 0.4 kept the normalised weight beside the raw one
        if form in NORMS and f"{name}{NORMS[form]}".removeprefix(".") not in weights:
            continue  # a vector of spectral_norm's
        check_tensor(weight, key)
        short = weight.is_floating_point() and weight.element_size() < 4
        plain = weight.float() if short else weight  # integers stay, and are refused where they are measured
        u, v = (weights.get((name + ending).removeprefix(".")) for ending in VECTORS.get(form, ("", "")))
        sigma_hat = None
        problem = None if form == PLAIN or isinstance(u, torch.Tensor) else OTHERWISE
        if form != PLAIN and isinstance(u, torch.Tensor) and weight.is_floating_point():
            plain, sigma_hat = _estimate(plain, u, v if isinstance(v, torch.Tensor) else None, key)
        kind: LayerKind = "linear" if weight.dim() == 2 else "conv"
        coeffs = None if sigma_hat is None else _coeffs(weights.get(f"{name}{EXTRA}".removeprefix(".")), key)
        strength = 0 if coeffs is None else 2 * len(coeffs) - 1
        states.append(LayerState(name, kind, plain, sigma_hat, coeffs, strength, problem))
    return states


def _coeffs(extra: object, key: str) -> tuple[float, ...]:
    """The polynomial behind the norm: of our own parametrization's state, else none, g(x) = x."""
    if extra is None:
        return (1.0,)
    if isinstance(extra, torch.Tensor):
        check_tensor(extra, f"{key}'s polynomial")
    try:
        coeffs = tuple(unpacked(extra)["coeffs"])
    except ValueError:
        coeffs = (math.nan,)
    if not all(map(math.isfinite, coeffs)):
        raise InputError(f"{key}: its polynomial is not 1 to {MAX_COEFFS} finite numbers; {GIVE_ANOTHER}")
    return coeffs


def _estimate(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor | None, key: str) -> tuple[torch.Tensor, float]:
    """The weight with its output side first, and |u^T W v|.

    PyTorch's matrix of a transposed convolution has the second side first. Which one it was the lengths of u
    and v tell, and where both fit the larger estimate, since no estimate exceeds the norm.
    """
    estimates = []
    for turned in (weight, weight.transpose(0, 1)):
        W = turned.flatten(1).double()
        if u.numel() == len(W) and (v is None or v.numel() == W.shape[1]):
            for vector in (u, v):
                if vector is not None:
                    check_tensor(vector, f"{key}'s vector")
            left = u.flatten().double()
            right = W.T @ left if v is None else v.flatten().double()
            length = float(right.norm()) if v is None else 1.0
            estimate = float(left @ (W @ right)) / (length or 1.0)
            estimates.append((turned, abs(estimate)))
    if not estimates:
        raise InputError(f"{key}: u and v of lengths that do not fit {tuple(weight.shape)}; {GIVE_ANOTHER}")
    return max(estimates, key=lambda pair: pair[1])
