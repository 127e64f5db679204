"""The preconditioning layer of a whole network, with its weights as values.

`Preconditioner.weights()` turns the raw weights into the effective ones, g(SN(W)), once per update; a
network then runs with them through `torch.func.functional_call`. Nothing is cached behind anyone's back,
so nothing can be stale. Raw weights stay the network's own parameters, `<layer>.weight`. Where a convolution maps
far fewer vectors than its matrix is long, the value is the factor Q of g(SN(W)) = Q W, or W Q, and the network applies
both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pctool.core.layers.memory_order import as_weight, in_memory_order, memory_order, paper_order
from pctool.core.layers.state import LayerState, layer_states
from pctool.core.layers.strength import HISTORY, AdaptiveStrength, Ladder, is_due
from pctool.core.layers.svd import SvdWeights
from pctool.core.linalg import coefficient_rows, left_factor, precondition_batch
from pctool.core.models.factored import factored_layers
from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial
from pctool.core.power_iteration import initial_vectors, power_iteration_
from pctool.core.products import Precision, check_precision
from pctool.core.snapshot import snapshot

Method = Literal["none", "sn", "fpc", "apc", "svd"]
METHODS: tuple[Method, ...] = get_args(Method)

# A matrix with more entries keeps the device busy by itself, and copying it into a batch only costs: on a CPU core the
# 32 px discriminator's weights (128 x 1152 each) took longer batched than one by one. On a GPU, where a launch costs
# as much as such a product, the limit is an estimate: no other was tried.
LARGEST_IN_A_BATCH = {"cpu": 2**14, "cuda": 2**20}
MOST_PADDING = 4  # times the entries of the matrices in a batch


@dataclass
class _Layer:
    """One weight: where it is, its power-iteration vectors (v in memory order), and what stands behind its norm."""

    name: str
    module: nn.Module
    fixed: OddPolynomial
    adaptive: AdaptiveStrength | None
    u: Tensor
    v: Tensor
    factored: bool

    @property
    def key(self) -> str:
        """Where `functional_call` puts the layer's value."""
        return f"{self.name}.{'factor' if self.factored else 'weight'}"

    @property
    def polynomial(self) -> OddPolynomial:
        return self.adaptive.polynomial if self.adaptive else self.fixed

    @property
    def matrix(self) -> Tensor:
        return in_memory_order(_weight(self.module))


@dataclass(frozen=True)
class _Batch:
    """Layers that are evaluated at once: their polynomials as the kernel takes them."""

    layers: list[_Layer]
    coeffs: Tensor
    n_coeffs: int

    def tensors(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The layers' matrices, u and v."""
        return [layer.matrix for layer in self.layers], [x.u for x in self.layers], [x.v for x in self.layers]


def _groups(layers: list[_Layer]) -> list[list[_Layer]]:
    """Large and factored layers each by itself; small ones together, the largest first, while padding takes little.

    Padded lying down, for the polynomial, and as they are, for the power iteration.
    """

    def alone(layer: _Layer) -> bool:
        return layer.factored or layer.matrix.numel() > LARGEST_IN_A_BATCH.get(layer.u.device.type, 2**20)

    groups = [[layer] for layer in layers if alone(layer)]
    small = sorted((layer for layer in layers if not alone(layer)), key=lambda layer: -layer.matrix.numel())
    while small:
        group, left = list[_Layer](), list[_Layer]()
        for layer in small:
            shapes = [each.matrix.shape for each in (*group, layer)]
            fits = _padded(shapes) <= MOST_PADDING * sum(map(math.prod, shapes))
            (group if fits else left).append(layer)
        groups.append(group)
        small = left
    return groups


def _padded(shapes: Sequence[tuple[int, ...]]) -> int:
    """Entries of a batch of matrices, padded as they are or lying down, whichever takes more."""
    rows, columns = map(max, zip(*shapes, strict=True))
    low, high = map(max, zip(*map(sorted, shapes), strict=True))
    return len(shapes) * max(rows * columns, low * high)


class Preconditioner:
    """Spectral norm (`sn`), fixed (`fpc`) or adaptive (`apc`) preconditioning of every convolution and linear layer.

    Transposed convolutions are left as they are (`precondition_` takes them). `none` leaves the raw weights; `svd`
    replaces them by the SVD baseline's factors, so that optimisers have to be made afterwards. With `skip_linear` the
    network's last linear layer gets the spectral norm alone, as in the authors' code; for its 1 x m matrix the
    polynomial would only multiply by g(1). `polynomial` is fpc's; `ladder` and `history` (measurements in APC's mean)
    are apc's. `precision` is that of the polynomial's matrix products (`linalg.precondition_batch`). `images` is the
    shape of D's batches: by it the convolutions that are cheaper so get their polynomial in two factors
    (`models.factored`). `generator` (CPU) draws the first vectors.
    Raises ValueError for an unknown method or a network without such layers.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        *,
        polynomial: OddPolynomial = PUBLISHED[7],
        ladder: Ladder | None = None,
        history: int = HISTORY,
        n_power_iterations: int = 1,
        skip_linear: bool = True,
        precision: Precision = "fp32",
        images: tuple[int, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: one of {', '.join(METHODS)}")
        if n_power_iterations < 1:
            raise ValueError(f"n_power_iterations is {n_power_iterations}, allowed is 1 or more")
        check_precision(precision)
        self.network = network
        self.n_power_iterations = n_power_iterations
        self.precision = precision
        self.layers: list[_Layer] = []
        self.svd: SvdWeights | None = None
        self._batches: list[_Batch] = []
        if method == "none":
            return
        found = preconditioned_layers(network)
        if not found:
            raise ValueError("the network has no convolution and no linear layer to precondition")
        if others := [name for name, module in found.items() if parametrize.is_parametrized(module, "weight")]:
            raise ValueError(
                f"{others[0]} is parametrized already, as by precondition_ or spectral_norm; of the plug-in's layers "
                "pctool.strengths says the degrees"
            )
        if method == "svd":
            self.svd = SvdWeights(found, generator)
            return
        skipped = last_linear(found) if skip_linear else None
        factored = factored_layers(network, images) if images else set[str]()
        for name, module in found.items():
            u, v = initial_vectors(in_memory_order(_weight(module)), generator)
            plain = method == "sn" or name == skipped
            fixed = polynomial if method == "fpc" and not plain else IDENTITY
            adaptive = AdaptiveStrength(ladder or Ladder(), history) if method == "apc" and not plain else None
            self.layers.append(_Layer(name, module, fixed, adaptive, u, v, not plain and name in factored))
        self._plan()

    def _plan(self) -> None:
        """Puts the layers into batches, those with a polynomial and those without apart."""
        self._batches = []
        for plain in (True, False):
            for members in _groups([layer for layer in self.layers if (layer.polynomial.degree == 1) == plain]):
                coeffs = [layer.polynomial.coeffs for layer in members]
                rows = coefficient_rows(coeffs, members[0].u)
                self._batches.append(_Batch(members, rows, max(map(len, coeffs))))

    @torch.no_grad()
    def advance(self) -> None:
        """Follows an update of the raw weights, once after each: u and v by the power iteration, in place."""
        if self.svd is not None:
            self.svd.advance()
        for batch in self._batches:
            power_iteration_(*batch.tensors(), self.n_power_iterations)

    def weights(self) -> dict[str, Tensor]:
        """Effective weights by parameter name, with their graph: what `functional_call` takes.

        Of a factored layer it is Q, as `<layer>.factor`, beside the network's own weight. u and v stay as they are, so
        that a resumed run computes the same bits; their graph is to be used before the next `advance`.
        """
        if self.svd is not None:
            return self.svd.weights()
        values: dict[str, Tensor] = {}
        for batch in self._batches:
            how: Any = {"n_coeffs": batch.n_coeffs, "precision": self.precision}
            first = batch.layers[0]
            if first.factored:
                W, u, v = first.matrix, first.u, first.v
                lying = (W, u, v) if len(W) <= W.shape[1] else (W.t(), v, u)
                values[first.key] = left_factor(*lying, batch.coeffs[0], **how)
                continue
            found = precondition_batch(*batch.tensors(), batch.coeffs, **how)
            for layer, W_hat in zip(batch.layers, found, strict=True):
                values[layer.key] = as_weight(W_hat, _weight(layer.module))
        # In the network's order whatever the strengths are: compiled code that takes them depends on the order of keys.
        return {layer.key: values[layer.key] for layer in self.layers}

    def penalty(self) -> Tensor | None:
        """What D's loss adds under `svd`, a scalar with its graph; None for the other methods."""
        return self.svd.penalty() if self.svd is not None else None

    def measure(self) -> None:
        """APC: starts measuring every layer's modified condition number, in float64 (Sec. 3.4)."""
        for layer in self.layers:
            if layer.adaptive:
                layer.adaptive.measure(layer.matrix)

    def apply_strengths(self) -> bool:
        """APC: chooses each layer's polynomial by the measurements that `measure` started; whether any changed."""
        return self._changed([layer.adaptive.apply() for layer in self.layers if layer.adaptive])

    def follow(self, step: int, every: int) -> bool:
        """APC, once a step: `measure` at each multiple of `every`, `apply_strengths` a tenth of `every` later."""
        if not is_due(step, every):
            return False
        adaptive = [(layer.adaptive, layer) for layer in self.layers if layer.adaptive]
        return self._changed([each.follow(layer.matrix, step, every) for each, layer in adaptive])

    def _changed(self, changes: list[bool]) -> bool:
        if any(changes):
            self._plan()
        return any(changes)

    def update_strengths(self) -> bool:
        """`measure` and `apply_strengths` at once."""
        self.measure()
        return self.apply_strengths()

    def strengths(self) -> dict[str, int]:
        """The degree in use per layer, 1 for the spectral norm alone."""
        return {layer.name: layer.polynomial.degree for layer in self.layers}

    def state(self) -> dict[str, dict[str, Any]]:
        """What resumption needs, by layer: u, v, the coefficients in use, and APC's last measurements."""
        plain: dict[str, Any] = {"history": [], "pending": None}
        return {
            layer.name: {
                "u": layer.u.clone(),
                "v": paper_order(layer.v, _weight(layer.module)).clone(),
                **({"coeffs": list(layer.fixed.coeffs), **plain} if not layer.adaptive else layer.adaptive.state()),
            }
            for layer in self.layers
        }

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes over `state()` of the same network, the network's weights having been loaded.

        What another method's state lacks starts anew: u and v from a state without any, APC without measurements.
        Raises KeyError for a layer that the state does not name, ValueError for vectors of another shape.
        """
        for layer in self.layers:
            if not state:
                layer.u, layer.v = initial_vectors(layer.matrix)
                continue
            entry = state[layer.name]
            if (entry["u"].shape, entry["v"].shape) != (layer.u.shape, layer.v.shape):
                raise ValueError(f"u and v of {layer.name} are of another shape")
            layer.u = entry["u"].to(layer.u, copy=True)
            layer.v = memory_order(entry["v"].to(layer.v, copy=True), _weight(layer.module))
            if layer.adaptive:
                layer.adaptive.load_state(entry)
        self._plan()

    def layer_states(self) -> list[LayerState]:
        """What a spectrum records, for every weight of the network (see `layer_states`), as copies in main memory."""
        return layer_states(snapshot(self.network.state_dict()), snapshot(self.state()))


def preconditioned_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of a network, transposed convolutions left out, by name."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def last_linear(layers: Mapping[str, nn.Module]) -> str | None:
    """The name of the last linear layer, None without one."""
    return next((name for name, module in reversed(list(layers.items())) if isinstance(module, nn.Linear)), None)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
