"""The preconditioning layer in anybody's model: a parametrization in place of `spectral_norm`, and verbs for it.

Where `Preconditioner` gives a network's weights as values, this computes a layer's weight when it is asked for,
with PyTorch's own `torch.nn.utils.parametrize`: one power iteration per training forward, as stock
`spectral_norm`, and the same kernel. Raw weights are `<layer>.parametrizations.weight.original`.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook

from pctool.core.layers.preconditioner import last_linear
from pctool.core.layers.strength import DELAY, HISTORY, PUBLISHED_TAUS, AdaptiveStrength, Ladder
from pctool.core.linalg import (
    MAX_COEFFS,
    Precision,
    coefficient_rows,
    initial_vectors,
    power_iteration,
    precondition_batch,
    spectral_norm,
)
from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial

PluginMethod = Literal["sn", "fpc", "apc"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)

# Compiled code cannot hold Python objects: it counts its forwards through an operator that finds them here.
_alive: weakref.WeakValueDictionary[int, _Preconditioned] = weakref.WeakValueDictionary()
_keys = itertools.count()


class _Preconditioned(nn.Module):
    """Raw weight -> g(SN(W)): power-iteration vectors, the polynomial, and APC's state.

    `dim` is the output channels' dimension, as in stock `spectral_norm`; the matrix has it first.
    """

    _u: Tensor
    _v: Tensor
    _coeffs: Tensor

    def __init__(
        self,
        weight: Tensor,
        dim: int,
        *,
        polynomial: OddPolynomial,
        strength: AdaptiveStrength | None,
        update_every: int,
        n_power_iterations: int,
        precision: Precision,
        vectors: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.fixed, self.strength = polynomial, strength
        self.update_every = update_every
        self.n_power_iterations = n_power_iterations
        self.precision: Precision = precision
        self.forwards = 0  # training forwards so far; under APC, what a measurement falls due by
        W = self._matrix(weight.detach())
        u, v = vectors if vectors is not None else initial_vectors(W)
        self.register_buffer("_u", u.to(W).clone())
        self.register_buffer("_v", v.to(W).clone())
        self.register_buffer("_coeffs", coefficient_rows([IDENTITY.coeffs], W), persistent=False)
        self._enter()
        if strength is not None:
            self.update_strength(weight)
        self._refresh()

    def _enter(self) -> None:
        self.key = next(_keys)
        _alive[self.key] = self

    @property
    def polynomial(self) -> OddPolynomial:
        """What stands behind the spectral norm now."""
        return self.strength.polynomial if self.strength else self.fixed

    def _refresh(self) -> None:
        self._coeffs.copy_(coefficient_rows([self.polynomial.coeffs], self._coeffs))

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    def forward(self, weight: Tensor) -> Tensor:
        """g(SN(W)) in the weight's own shape and dtype; in training mode after `n_power_iterations`."""
        W = self._matrix(weight)
        compiling = torch.compiler.is_compiling()
        if self.training:
            if self.strength is not None:
                if compiling:
                    torch.ops.pctool.count_forward(W.detach(), self._coeffs, self.key)
                else:
                    self.count_forward(W.detach())
            u, v = power_iteration(W, self._u, self._v, self.n_power_iterations)
            self._u.copy_(u)
            self._v.copy_(v)
        # Copies, since a second forward changes the buffers before the first one's backward (GANs do this).
        u, v = self._u.clone(), self._v.clone()
        adaptive = compiling and self.strength is not None  # any strength then, without another compilation
        if self.polynomial.degree == 1 and not adaptive:
            A = spectral_norm(W, u, v)
            W_hat = A if self.polynomial.coeffs[0] == 1 else self.polynomial.coeffs[0] * A
        else:
            n_coeffs = MAX_COEFFS if adaptive else len(self.polynomial.coeffs)
            (W_hat,) = precondition_batch([W], [u], [v], self._coeffs, n_coeffs=n_coeffs, precision=self.precision)
        moved = weight.movedim(self.dim, 0).shape
        return W_hat.reshape(moved).movedim(0, self.dim)

    def count_forward(self, W: Tensor) -> None:
        """One training forward of the matrix W: APC's measurements start and apply as they fall due."""
        assert self.strength is not None
        self.forwards += 1
        if self.forwards % self.update_every == 0:
            self.strength.measure(W)
        if self.forwards % self.update_every == self.update_every // DELAY and self.strength.apply():
            self._refresh()

    def update_strength(self, weight: Tensor) -> bool:
        """APC: measures the raw weight and chooses now; whether the polynomial changed."""
        if self.strength is None:
            return False
        self.strength.measure(self._matrix(weight.detach()))
        changed = self.strength.apply()
        self._refresh()
        return changed

    def get_extra_state(self) -> dict[str, Any]:
        """Coefficients, APC's measurements and the count of training forwards, as plain values."""
        plain = {"coeffs": list(self.fixed.coeffs), "history": [], "pending": None}
        return {**(self.strength.state() if self.strength else plain), "forwards": self.forwards}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over `get_extra_state()`: the coefficients too, since they belong to the weights."""
        self.forwards = state["forwards"]
        if self.strength:
            self.strength.load_state(state)
        else:
            self.fixed = OddPolynomial(tuple(state["coeffs"]))
        self._refresh()

    def __getstate__(self) -> dict[str, Any]:
        if self.strength:  # a measurement under way cannot be copied, its value can
            self.strength.load_state(self.strength.state())
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._enter()


@torch.library.custom_op("pctool::count_forward", mutates_args=("coeffs",))
def _count_forward(W: Tensor, coeffs: Tensor, key: int) -> None:
    layer = _alive[key]
    layer.count_forward(W)
    coeffs.copy_(layer._coeffs)


def precondition(
    layer: nn.Module,
    polynomial: OddPolynomial = PUBLISHED[7],
    *,
    n_power_iterations: int = 1,
    precision: Precision = "fp32",
) -> nn.Module:
    """Puts g(SN(W)) in place of one layer's `weight`, a fixed polynomial; returns the layer (paper, Sec. 3.2).

    A `spectral_norm` found there, old form or new, is replaced and its u and v are taken over, with a warning that
    says so. Any module that stock `spectral_norm` takes: `weight` a floating-point parameter of two dimensions or
    more. Raises ValueError for one that has none, is preconditioned already, is parametrized otherwise, or is
    an embedding.
    """
    _check(layer, type(layer).__name__)
    replaced = _register(layer, polynomial, None, 1, n_power_iterations, precision, {})
    _say_replaced(int(replaced))
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
    n_power_iterations: int = 1,
    precision: Precision = "fp32",
) -> nn.Module:
    """Preconditions every convolution and linear layer of a model, in place; returns the model.

    `fpc` puts the published polynomial of `degree`, or `polynomial`, on each; `apc` chooses per layer from
    `ladder` (the published four with `taus`) by the layer's modified condition number, now and every
    `update_every` training forwards, by the mean of the last `history` measurements (Sec. 3.4); `sn` is the
    spectral norm alone. With `skip_linear` the last linear layer has the spectral norm alone. Layers that share
    a weight share its preconditioning. A `spectral_norm` found on the way is replaced, u and v taken over, with
    one warning. Raises ValueError, before anything is changed, for an unknown method or degree, a model without such
    layers or a layer that `precondition` refuses.
    """
    if method not in ("sn", "fpc", "apc"):
        raise ValueError(f"unknown method {method!r}: one of sn, fpc, apc")
    if degree not in PUBLISHED:
        raise ValueError(f"degree is {degree}, published are {', '.join(map(str, PUBLISHED))}")
    if update_every < 1:
        raise ValueError(f"update_every is {update_every}, allowed is 1 or more")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no convolution and no linear layer to precondition")
    for name, layer in layers.items():
        _check(layer, name or type(layer).__name__)
    skipped = last_linear(layers) if skip_linear else None
    chosen = polynomial or PUBLISHED[degree]
    rungs = ladder or Ladder(taus=taus)
    shared: dict[int, _Preconditioned] = {}
    replaced = 0
    for name, layer in layers.items():
        plain = method == "sn" or name == skipped
        strength = AdaptiveStrength(rungs, history) if method == "apc" and not plain else None
        fixed = chosen if method == "fpc" and not plain else IDENTITY
        replaced += _register(layer, fixed, strength, update_every, n_power_iterations, precision, shared)
    _say_replaced(replaced)
    return model


def update_strengths_(model: nn.Module) -> dict[str, int]:
    """APC: measures every layer of a preconditioned model and chooses its polynomial now; the degrees by layer.

    Raises ValueError for a model without preconditioning.
    """
    degrees = {}
    for name, layer, parametrization in _preconditioned(model):
        parametrization.update_strength(layer.parametrizations["weight"].original)  # type: ignore[union-attr,index]
        degrees[name] = parametrization.polynomial.degree
    return degrees


@torch.no_grad()
def remove_precondition_(model: nn.Module) -> nn.Module:
    """Makes the effective weights plain ones and takes the parametrizations off; returns the model.

    Parameters stay the same objects, so that an optimiser keeps them. Raises ValueError for a model without
    preconditioning.
    """
    baked = []
    for _, layer, parametrization in _preconditioned(model):
        mode = parametrization.training
        W_hat = parametrization.eval()(layer.parametrizations["weight"].original)  # type: ignore[union-attr,index]
        parametrization.train(mode)
        baked.append((layer, W_hat))
    for layer, _ in baked:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        _drop(layer._load_state_dict_pre_hooks, lambda hook: getattr(hook, "hook", None) is _accept_other_forms)
    for layer, W_hat in baked:
        layer.weight.copy_(W_hat)  # type: ignore[operator,union-attr]
    return model


def _preconditioned(model: nn.Module) -> list[tuple[str, nn.Module, _Preconditioned]]:
    found = []
    for name, layer in model.named_modules():
        own = _own(layer)
        if own is not None:
            found.append((name, layer, own))
    if not found:
        raise ValueError(f"{type(model).__name__} has no preconditioned layer; pctool.precondition_ makes them")
    return found


def _own(layer: nn.Module) -> _Preconditioned | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    first = layer.parametrizations["weight"][0]  # type: ignore[union-attr,index]
    return first if isinstance(first, _Preconditioned) else None


def _check(layer: nn.Module, name: str) -> None:
    """Raises ValueError unless `precondition` can take the layer."""
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        raise ValueError(f"{name} is an embedding: a table of rows, whose singular values no input meets")
    if _own(layer) is not None:
        raise ValueError(f"{name} is preconditioned already; pctool.remove_precondition_ takes it off")
    if parametrize.is_parametrized(layer, "weight"):
        parts = list(layer.parametrizations["weight"])  # type: ignore[union-attr,index,arg-type,call-overload]
        if len(parts) != 1 or not isinstance(parts[0], _SpectralNorm):
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise ValueError(f"{name}.weight is parametrized by {kinds}; take that off first")
        weight = layer.parametrizations["weight"].original  # type: ignore[union-attr,index]
    else:
        weight = getattr(layer, "weight_orig" if _old_hook(layer) else "weight", None)
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"{name} has not seen an input yet, so its weight has no shape; run one forward first")
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"{name} has no parameter 'weight'")
    if weight.dim() < 2 or not weight.is_floating_point():
        raise ValueError(f"{name}.weight is {weight.dtype} of shape {tuple(weight.shape)}, not a real matrix or kernel")


def _register(
    layer: nn.Module,
    polynomial: OddPolynomial,
    strength: AdaptiveStrength | None,
    update_every: int,
    n_power_iterations: int,
    precision: Precision,
    shared: dict[int, _Preconditioned],
) -> bool:
    """Parametrizes one checked layer; whether a `spectral_norm` was replaced."""
    vectors = _take_off_spectral_norm(layer)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    own = shared.get(id(weight))
    if own is None:
        own = shared[id(weight)] = _Preconditioned(
            weight,
            1 if isinstance(layer, _TRANSPOSED) else 0,
            polynomial=polynomial,
            strength=strength,
            update_every=update_every,
            n_power_iterations=n_power_iterations,
            precision=precision,
            vectors=vectors,
        )
    own.train(layer.training)
    parametrize.register_parametrization(layer, "weight", own, unsafe=True)  # shape and dtype stay: no trial run
    layer.register_load_state_dict_pre_hook(_accept_other_forms)
    return vectors is not None


def _take_off_spectral_norm(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Removes either form of stock `spectral_norm`, the raw parameter kept; its u and v, None where there is none."""
    if parametrize.is_parametrized(layer, "weight"):
        stock: Any = layer.parametrizations["weight"][0]  # type: ignore[union-attr,index]
        vectors = stock._u.detach().clone(), stock._v.detach().clone()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        return vectors
    if not _old_hook(layer):
        return None
    parts: Any = layer
    vectors = parts.weight_u.detach().clone(), parts.weight_v.detach().clone()
    _drop(layer._forward_pre_hooks, lambda hook: isinstance(hook, SpectralNorm))
    _drop(layer._state_dict_hooks, lambda hook: isinstance(hook, SpectralNormStateDictHook))
    _drop(
        layer._load_state_dict_pre_hooks,
        lambda hook: isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook),
    )
    del parts.weight, parts.weight_u, parts.weight_v
    raw = layer._parameters.pop("weight_orig")
    layer.register_parameter("weight", raw)
    return vectors


def _old_hook(layer: nn.Module) -> bool:
    hooks = layer._forward_pre_hooks.values()
    return any(isinstance(hook, SpectralNorm) and hook.name == "weight" for hook in hooks)


def _drop(hooks: Any, unwanted: Any) -> None:
    for key in [key for key, hook in hooks.items() if unwanted(hook)]:
        del hooks[key]


def _say_replaced(count: int) -> None:
    if count:
        layers = f"{count} layer{'s' if count > 1 else ''}"
        warnings.warn(
            f"pctool replaced spectral_norm on {layers}; u and v were taken over", UserWarning, stacklevel=3
        )


def _accept_other_forms(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: one of the plain layer, or of stock `spectral_norm`, gets this layer's names.

    What it lacks is filled in: u and v warmed up on its weight, the polynomial as it stands.
    """
    own = _own(layer)
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
    if isinstance(weight, Tensor) and f"{inside}.0._u" not in state_dict:
        vectors = initial_vectors(own._matrix(weight.detach()))
        state_dict[f"{inside}.0._u"], state_dict[f"{inside}.0._v"] = vectors
    if weight is not None:
        state_dict.setdefault(f"{inside}.0._extra_state", own.get_extra_state())


def preconditioned_parts(model: nn.Module) -> Iterator[tuple[str, Tensor, _Preconditioned]]:
    """Each preconditioned layer's name, raw weight and parametrization."""
    for name, layer, own in _preconditioned(model):
        yield name, layer.parametrizations["weight"].original, own  # type: ignore[union-attr,index,misc]
