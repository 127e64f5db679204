"""Stock `spectral_norm`, both forms: a layer's weight under it, taking it off, reading its state dicts into ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook

from pctool.core.layers.parametrization import preconditioning, weight_parametrizations
from pctool.core.power_iteration import initial_vectors

WARM = 0.5  # u^T W v is at least this share of |W v| and of |W^T u| after one iteration, and far less of drawn u, v


def take_off_parametrizations(layer: nn.Module) -> None:
    """Those of `weight` of this module alone, the raw parameter kept.

    PyTorch takes the property away from the module's class, which copies by `copy.deepcopy` share.
    """
    has_class_of_its_own(layer)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def has_class_of_its_own(layer: nn.Module) -> None:
    """Gives a parametrized module a copy of its class, which PyTorch may change."""
    if parametrize.is_parametrized(layer):
        shared = type(layer)
        members = {name: value for name, value in vars(shared).items() if name not in {"__dict__", "__weakref__"}}
        layer.__class__ = type(shared.__name__, shared.__bases__, members)


class PowerIteration(NamedTuple):
    """Where the iteration of a `spectral_norm` stood, and how many each training forward did."""

    u: Tensor
    v: Tensor
    n_iterations: int


def take_off_spectral_norm(layer: nn.Module) -> PowerIteration | None:
    """Removes either form of stock `spectral_norm`, the raw parameter kept; what it did, None where there is none.

    The old form's u and v that no forward has iterated are warmed up, as the new form's are.
    """
    stock = weight_parametrizations(layer)
    if stock is not None:
        u, v = stock[0]._u.detach().clone(), stock[0]._v.detach().clone()
        take_off_parametrizations(layer)
        return PowerIteration(u, v, stock[0].n_power_iterations)
    hooks = old_spectral_norms(layer)
    if not hooks:
        return None
    parts: Any = layer
    W = hooks[0].reshape_weight_to_matrix(parts.weight_orig.detach())
    u, v = _warm(W, parts.weight_u.detach().clone(), parts.weight_v.detach().clone())
    found = PowerIteration(u, v, hooks[0].n_power_iterations)
    drop_hooks(layer._forward_pre_hooks, lambda hook: isinstance(hook, SpectralNorm))
    drop_hooks(layer._state_dict_hooks, lambda hook: isinstance(hook, SpectralNormStateDictHook))
    drop_hooks(
        layer._load_state_dict_pre_hooks,
        lambda hook: isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook),
    )
    del parts.weight, parts.weight_u, parts.weight_v
    raw = layer._parameters.pop("weight_orig")
    layer.register_parameter("weight", raw)
    return found


def _warm(W: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The old form's vectors, or where no forward has iterated them, as they were drawn, others that are warmed up."""
    W = W.to(u)
    lengths = torch.stack([torch.linalg.vector_norm(W @ v), torch.linalg.vector_norm(W.t() @ u)])
    return (u, v) if torch.dot(u, W @ v) > WARM * lengths.max() else initial_vectors(W)


def old_spectral_norms(layer: nn.Module) -> list[SpectralNorm]:
    """The hooks by which `torch.nn.utils.spectral_norm` works on the layer's weight."""
    hooks = layer._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, SpectralNorm) and hook.name == "weight"]


def raw_weight(layer: nn.Module) -> Any:
    """What is trained: behind either form of stock `spectral_norm`, or `weight` itself; None without."""
    parts = weight_parametrizations(layer)
    if parts is not None:
        return parts.original
    return getattr(layer, "weight_orig" if old_spectral_norms(layer) else "weight", None)


def parameters_of_weight(layer: nn.Module) -> list[Tensor]:
    """All that a layer's weight is made of: the raw weight, or what other parametrizations keep of it."""
    parts = weight_parametrizations(layer)
    return [raw_weight(layer)] if parts is None else list(parts.parameters(recurse=False))


@torch.no_grad()
def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that the layer applies in eval mode; nothing is iterated or counted."""
    for hook in old_spectral_norms(layer):  # `layer.weight` is what the last forward left
        return hook.compute_weight(layer, do_power_iteration=False)
    parts = weight_parametrizations(layer)
    modes = [(part, part.training) for part in layer.modules()]
    layer.eval()
    weight = layer.weight if parts is None else parts()  # past what `parametrize.cached()` keeps for the training
    for part, mode in modes:
        part.training = mode
    assert isinstance(weight, Tensor)
    return weight


def drop_hooks(hooks: dict[int, Any], unwanted: Callable[[Any], bool]) -> None:
    """Takes the unwanted ones out of a module's table of hooks."""
    for key in [key for key, hook in hooks.items() if unwanted(hook)]:
        del hooks[key]


def accept_other_forms(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: one of the plain layer, or of stock `spectral_norm`, gets this layer's names.

    What it lacks is filled in: u and v warmed up on its weight, the old form's that nobody iterated too, and the
    polynomial as it stands.
    """
    own = preconditioning(layer)
    if own is None:
        return
    inside = f"{prefix}parametrizations.weight"
    names = {"weight_orig": f"{inside}.original", "weight_u": f"{inside}.0._u", "weight_v": f"{inside}.0._v"}
    plain = "weight" if f"{prefix}weight_orig" not in state_dict else "weight_orig"
    names[plain] = f"{inside}.original"
    for old, new in names.items():
        if prefix + old in state_dict and new not in state_dict:
            state_dict[new] = state_dict.pop(prefix + old)
    weight = state_dict.get(f"{inside}.original")
    if isinstance(weight, Tensor) and weight.shape == weight_parametrizations(layer).original.shape:
        W, u, v = own.matrix(weight.detach()), *(state_dict.get(f"{inside}.0.{vector}") for vector in ("_u", "_v"))
        if u is None or v is None:
            u, v = initial_vectors(W)
        elif plain == "weight_orig" and (len(u), len(v)) == W.shape:
            u, v = _warm(W, u, v)
        state_dict[f"{inside}.0._u"], state_dict[f"{inside}.0._v"] = u, v
    if weight is not None:
        state_dict.setdefault(f"{inside}.0._extra_state", own.get_extra_state())
