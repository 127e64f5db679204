"""The preconditioning layer in anybody's model: verbs around a parametrization, in place of `spectral_norm`.

Where `Preconditioner` gives a network's weights as values, a layer here computes its weight when it is asked for;
both run the same kernel. Raw weights are `<layer>.parametrizations.weight.original`.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from pctool.core import spectra
from pctool.core.layers.parametrization import Preconditioned, preconditioning, weight_parametrizations
from pctool.core.layers.preconditioner import last_linear
from pctool.core.layers.stock import (
    accept_other_forms,
    drop_hooks,
    effective_weight,
    has_class_of_its_own,
    old_spectral_norms,
    parameters_of_weight,
    raw_weight,
    take_off_parametrizations,
    take_off_spectral_norm,
)
from pctool.core.layers.strength import HISTORY, PUBLISHED_TAUS, AdaptiveStrength, Ladder, check_count
from pctool.core.polynomial import IDENTITY, MAX_COEFFS, PUBLISHED, OddPolynomial
from pctool.core.products import Precision, check_precision

PluginMethod = Literal["sn", "fpc", "apc"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SMALLEST, LARGEST = 1e-15, 1e15  # norms of weights that float32 can square and divide by
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def precondition(
    layer: nn.Module,
    polynomial: OddPolynomial = PUBLISHED[7],
    *,
    n_power_iterations: int | None = None,
    precision: Precision = "fp32",
) -> nn.Module:
    """Puts g(SN(W)) in place of one layer's `weight`, a fixed polynomial; returns the layer (paper, Sec. 3.2).

    A `spectral_norm` found there, old form or new, is replaced and its u and v are taken over, with a warning that
    says so; `n_power_iterations`, if not given, is its own, otherwise 1. Any module that stock `spectral_norm` takes:
    `weight` a floating-point parameter of two dimensions or more. Raises ValueError for one that has none, is zero or
    not finite, is preconditioned already, is parametrized otherwise, or is an embedding.
    """
    _check_settings([polynomial], n_power_iterations, precision)
    _check(layer, type(layer).__name__)
    _say_replaced(_register(layer, {}, polynomial, n_power_iterations=n_power_iterations, precision=precision))
    return layer


def precondition_(
    model: nn.Module,
    method: PluginMethod = "apc",
    *,
    degree: int = 7,
    polynomial: OddPolynomial | None = None,
    taus: tuple[float, ...] = PUBLISHED_TAUS,
    ladder: Ladder | None = None,
    update_every: int = 1000,
    history: int = HISTORY,
    skip_linear: bool = True,
    skip: Sequence[str] = (),
    n_power_iterations: int | None = None,
    precision: Precision = "fp32",
) -> nn.Module:
    """Preconditions every convolution and linear layer of a model, in place; returns the model.

    `fpc` puts the published polynomial of `degree`, or `polynomial`, on each; `apc` chooses per layer from
    `ladder` (the published four with `taus`) by the layer's modified condition number, now and every
    `update_every` training forwards, by the mean of the last `history` measurements (Sec. 3.4); `sn` is the
    spectral norm alone. With `skip_linear` the last linear layer has the spectral norm alone; those whose names match
    one of the patterns `skip` ("head", "blocks.*.gate") are left as they are. Layers that share a weight share its
    preconditioning. A `spectral_norm` found on the way is replaced with one warning, its u and v, and
    `n_power_iterations` where none is given, taken over. Raises ValueError, before anything is changed, for an unknown
    method or degree, a `polynomial` or `ladder` that the method does not use (of a `degree` or `taus` it warns), a
    model without such layers or already within DistributedDataParallel, a pattern that matches none, a layer that
    `precondition` refuses, or a weight that a convolution and a transposed one share.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError("the model is within DistributedDataParallel; call precondition_ before it is wrapped")
    if method not in ("sn", "fpc", "apc"):
        raise ValueError(f"unknown method {method!r}: one of sn, fpc, apc")
    if degree not in PUBLISHED:
        raise ValueError(f"degree is {degree}, published are {', '.join(map(str, PUBLISHED))}")
    if polynomial is not None and method != "fpc":
        raise ValueError(f"polynomial is for method fpc, not {method}; give method='fpc', or leave it out")
    if ladder is not None and method != "apc":
        raise ValueError(f"ladder is for method apc, not {method}; give method='apc', or leave it out")
    # A script may pass all of its settings whatever the method is; another value than the default is meant to act.
    for name, owner, departs in (("degree", "fpc", degree != 7), ("taus", "apc", tuple(taus) != PUBLISHED_TAUS)):
        if departs and method != owner:
            warnings.warn(f"{name} is for method {owner}: {method} does not use it", UserWarning, stacklevel=2)
    check_count("update_every", update_every)
    check_count("history", history)
    chosen = polynomial or PUBLISHED[degree]
    rungs = ladder or Ladder(taus=taus)
    _check_settings([chosen, *rungs.polynomials], n_power_iterations, precision)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}
    last = last_linear(layers)
    unknown = [pattern for pattern in skip if not fnmatch.filter(layers, pattern)]
    if isinstance(skip, str) or unknown:
        raise ValueError(f"skip is {skip!r}, a list of names and patterns; the layers are {', '.join(layers)}")
    layers = {name: layer for name, layer in layers.items() if not any(fnmatch.fnmatch(name, each) for each in skip)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no convolution and no linear layer to precondition")
    for name, layer in layers.items():
        _check(layer, name or type(layer).__name__)
    _check_shared(layers)
    skipped = last if skip_linear else None
    adaptive = {name: AdaptiveStrength(rungs, history) for name in layers if method == "apc" and name != skipped}
    shared: dict[int, Preconditioned] = {}
    replaced = 0
    for name, layer in layers.items():
        replaced += _register(
            layer,
            shared,
            chosen if method == "fpc" and name != skipped else IDENTITY,
            strength=adaptive.get(name),
            update_every=update_every,
            n_power_iterations=n_power_iterations,
            precision=precision,
        )
    _say_replaced(replaced)
    return model


def strengths(model: nn.Module) -> dict[str, int]:
    """The degree in use of every layer of a preconditioned model, 1 for the spectral norm alone; changes nothing.

    Raises ValueError for a model without preconditioning.
    """
    return {name: own.degree for name, _, own in _preconditioned(model)}


def update_strengths_(model: nn.Module) -> dict[str, int]:
    """APC: measures every layer of a preconditioned model and chooses its polynomial now; the degrees by layer.

    A weight that layers share is measured once; a fixed polynomial stays.
    Raises ValueError for a model without preconditioning.
    """
    found = _preconditioned(model)
    weights = {own: (name, weight_parametrizations(layer).original) for name, layer, own in found}  # a shared one once
    for name, weight in weights.values():
        _check_values(weight, name or type(model).__name__)
    for own, (_, weight) in weights.items():
        own.update_strength(weight)
    return strengths(model)


@torch.no_grad()
def remove_precondition_(model: nn.Module) -> nn.Module:
    """Makes the effective weights plain ones and takes the parametrizations off; returns the model.

    A parametrization that was put on top of ours is baked in too. Parameters stay the same objects, so that an
    optimiser keeps them; but a layer whose raw weight others use too, as a tied embedding, gets one of its own, with a
    warning. Raises ValueError for a model without preconditioning, and in inference mode.
    """
    _check_mode()
    found = _preconditioned(model)
    tied = _tied(model, found)
    baked = [(layer, effective_weight(layer)) for _, layer, _ in found]
    for layer, _ in baked:
        take_off_parametrizations(layer)
        drop_hooks(layer._load_state_dict_pre_hooks, lambda hook: getattr(hook, "hook", None) is accept_other_forms)
    for (name, layer, own), (_, W_hat) in zip(found, baked, strict=True):
        if name in tied:
            layer.weight = nn.Parameter(W_hat, bool(layer.weight.requires_grad))
        else:
            layer.weight.copy_(W_hat)  # type: ignore[operator]
        own.n_layers -= 1
    if tied:
        names = ", ".join(name or type(model).__name__ for name in tied)
        reason = "the raw weight is used elsewhere too, so this layer has one of its own now"
        warnings.warn(f"{names}: {reason}", UserWarning, stacklevel=2)
    return model


def _tied(model: nn.Module, found: Sequence[tuple[str, nn.Module, Preconditioned]]) -> list[str]:
    """The preconditioned layers whose raw weight another uses: plainly, with its own polynomial, outside of `model`."""
    parts = {id(weight_parametrizations(layer)) for _, layer, _ in found}
    others = [module for module in model.modules() if id(module) not in parts]
    elsewhere = {id(p) for module in others for p in module.parameters(recurse=False)}
    counts = Counter(own for _, _, own in found)
    users = Counter(id(raw_weight(layer)) for layer in {own: layer for _, layer, own in found}.values())
    return [
        name
        for name, layer, own in found
        if id(raw_weight(layer)) in elsewhere or counts[own] < own.n_layers or users[id(raw_weight(layer))] > 1
    ]


@overload
def singular_values(model: nn.Module) -> dict[str, spectra.Array]: ...


@overload
def singular_values(model: Tensor | NDArray[np.floating]) -> spectra.Array: ...


def singular_values(model: nn.Module | Tensor | NDArray[np.floating]) -> dict[str, spectra.Array] | spectra.Array:
    """Singular values by layer, for every convolution and linear layer of a model: {name: float64 [r]}.

    Descending; of the effective weight where a layer is preconditioned or normalised, with the output channels as
    rows. Nothing is iterated or counted. Of a matrix [n, m] its own values alone. Raises ValueError for weights that
    are not finite.
    """
    if not isinstance(model, nn.Module):
        return spectra.singular_values(model)
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _KINDS):
            for part in parameters_of_weight(layer):
                _check_values(part, name or type(layer).__name__)
            weight = effective_weight(layer)
            found[name] = spectra.singular_values(weight.movedim(_output_dim(layer), 0).flatten(1))
    return found


def _output_dim(layer: nn.Module) -> int:
    """Where a weight has its output channels, as in stock spectral_norm."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def _preconditioned(model: nn.Module) -> list[tuple[str, nn.Module, Preconditioned]]:
    found = [(name, layer, own) for name, layer in model.named_modules() if (own := preconditioning(layer)) is not None]
    if not found:
        raise ValueError(f"{type(model).__name__} has no preconditioned layer; pctool.precondition_ makes them")
    return found


def _check_settings(polynomials: Sequence[OddPolynomial], n_power_iterations: int | None, precision: str) -> None:
    """Raises ValueError for what the kernel could not evaluate later."""
    for g in polynomials:
        if not isinstance(g, OddPolynomial):
            raise ValueError(f"a polynomial is {g!r}; give pctool.OddPolynomial((a0, a1, ...))")
        if len(g.coeffs) > MAX_COEFFS:
            raise ValueError(f"a layer takes polynomials of degree {2 * MAX_COEFFS - 1} at most, not {g.degree}")
    if n_power_iterations is not None:
        check_count("n_power_iterations", n_power_iterations)
    check_precision(precision)
    _check_mode()


def _check_mode() -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError("what is made within torch.inference_mode() cannot be trained; call this outside of it")


def _check_values(weight: Tensor, name: str) -> None:
    """Raises ValueError for a weight that is in pieces (FSDP's), without values, or not finite."""
    if hasattr(weight, "full_tensor"):
        raise ValueError(f"{name}.weight is sharded; do this before fully_shard, or with a model that has it whole")
    if weight.is_meta:
        raise ValueError(f"{name}.weight is on the meta device and has no values; load them first")
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name}.weight has entries that are not finite")


def _check(layer: nn.Module, name: str) -> None:
    """Raises ValueError unless `precondition` can take the layer."""
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        raise ValueError(f"{name} is an embedding: a table of rows, whose singular values no input meets")
    if preconditioning(layer) is not None:
        raise ValueError(f"{name} is preconditioned already; pctool.remove_precondition_ takes it off")
    parts = weight_parametrizations(layer)
    if parts is not None and (len(parts) != 1 or not isinstance(parts[0], _SpectralNorm)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"{name}.weight is parametrized by {kinds}; take that off first "
            "(torch.nn.utils.parametrize.remove_parametrizations)"
        )
    if isinstance(getattr(layer, "weight_g", None), nn.Parameter):  # the form with hooks
        raise ValueError(f"{name} has weight_norm; torch.nn.utils.remove_weight_norm takes that off")
    if hasattr(layer, "weight_mask"):
        raise ValueError(f"{name} is pruned; torch.nn.utils.prune.remove makes that permanent")
    weight = raw_weight(layer)
    dims = {part.dim for part in parts or ()} | {hook.dim for hook in old_spectral_norms(layer)}
    if dims and isinstance(weight, Tensor) and {dim % weight.dim() for dim in dims} != {_output_dim(layer)}:
        raise ValueError(
            f"{name} has spectral_norm along dim {dims.pop()}, not its output channels; take that off first"
        )
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"{name} has not seen an input yet, so its weight has no shape; run one forward first")
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"{name} has no parameter 'weight'")
    _check_parameter(weight, name)


def _check_parameter(weight: nn.Parameter, name: str) -> None:
    """Raises ValueError for a weight that has no norm to divide by, or that could not be trained."""
    if weight.dim() < 2 or weight.dtype not in _DTYPES or not weight.numel():
        raise ValueError(f"{name}.weight is {weight.dtype} of shape {tuple(weight.shape)}, not a real matrix or kernel")
    if weight.is_inference():
        raise ValueError(f"{name}.weight was made within torch.inference_mode() and cannot be trained")
    _check_values(weight, name)
    largest = float(weight.detach().abs().max())
    if largest == 0:
        raise ValueError(f"{name}.weight is zero and has no norm to divide by; initialise it first, or skip the layer")
    if not SMALLEST < largest < LARGEST:
        raise ValueError(f"{name}.weight goes up to {largest:.1e}; its norm has to lie between 1e-15 and 1e15")


def _check_shared(layers: Mapping[str, nn.Module]) -> None:
    """Raises ValueError where one parameter would need two matrices: tied convolution and transposed convolution."""
    first: dict[int, str] = {}
    for name, layer in layers.items():
        other = first.setdefault(id(raw_weight(layer)), name)
        if _output_dim(layers[other]) != _output_dim(layer):
            raise ValueError(f"{name} shares its weight with {other}, but has other output channels; untie them first")


def _register(
    layer: nn.Module,
    shared: dict[int, Preconditioned],
    polynomial: OddPolynomial,
    *,
    n_power_iterations: int | None,
    **settings: Any,
) -> bool:
    """Parametrizes one checked layer, with what its weight has already if it is shared; whether SN was replaced."""
    replaced = take_off_spectral_norm(layer)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    own = shared.get(id(weight))
    if own is None:
        settings["vectors"] = replaced and replaced[:2]
        settings["n_power_iterations"] = n_power_iterations or (replaced.n_iterations if replaced else 1)
        own = Preconditioned(weight, _output_dim(layer), polynomial, **settings)
        shared[id(weight)] = own
    own.train(layer.training)
    own.n_layers += 1
    has_class_of_its_own(layer)
    parametrize.register_parametrization(layer, "weight", own, unsafe=True)  # shape and dtype stay: no trial run
    layer.register_load_state_dict_pre_hook(accept_other_forms)
    return replaced is not None


def _say_replaced(count: int) -> None:
    """One warning at the line that called the verb."""
    if count:
        layers = f"{count} layer{'s' if count > 1 else ''}"
        vectors = "u and v were taken over, or warmed up where they were fresh"
        warnings.warn(f"pctool replaced spectral_norm on {layers}; {vectors}", UserWarning, stacklevel=3)
