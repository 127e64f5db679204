"""The preconditioning layer of a whole network, with its weights as values.

`Preconditioner.weights()` turns the raw weights into the effective ones, g(SN(W)), once per update; a
network then runs with them through `torch.func.functional_call`. Nothing is cached behind anyone's back,
so nothing can be stale. Raw weights stay the network's own parameters, `<layer>.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pctool.core.layers.state import LayerState
from pctool.core.linalg import initial_vectors, power_iteration, precondition
from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial
from pctool.core.spectra import modified_condition_number, singular_values

Method = Literal["none", "sn", "fpc", "apc"]

PUBLISHED_TAUS = (5.0, 10.0, 20.0, 30.0)  # the authors' thresholds for degrees 3, 5, 7, 9 (their public code)
HISTORY = 5  # APC decides on the mean of so many measurements at most (the authors' public code)


@dataclass(frozen=True)
class Ladder:
    """APC's choice: `polynomials[i]` where modified kappa is above `taus[i]` and not above the next (Sec. 3.4).

    Below the first threshold the polynomial is the identity. Raises ValueError for unequal lengths or
    thresholds that do not rise.
    """

    taus: tuple[float, ...] = PUBLISHED_TAUS
    polynomials: tuple[OddPolynomial, ...] = tuple(PUBLISHED[degree] for degree in (3, 5, 7, 9))

    def __post_init__(self) -> None:
        if len(self.taus) != len(self.polynomials):
            raise ValueError(f"{len(self.polynomials)} polynomials need as many thresholds, not {len(self.taus)}")
        if list(self.taus) != sorted(set(self.taus)):
            raise ValueError(f"thresholds must rise, not {self.taus}")

    def choose(self, modified_kappa: float) -> OddPolynomial:
        """The polynomial for a modified condition number; an infinite one gets the strongest."""
        above = sum(modified_kappa > tau for tau in self.taus)
        return self.polynomials[above - 1] if above else IDENTITY


@dataclass
class _Layer:
    """One weight: where it is, its power-iteration vectors, and what stands behind its spectral norm."""

    name: str
    module: nn.Module
    polynomial: OddPolynomial
    adaptive: bool
    u: Tensor
    v: Tensor
    history: list[float]


class Preconditioner:
    """Spectral norm (`sn`), fixed (`fpc`) or adaptive (`apc`) preconditioning of every convolution and linear layer.

    `none` leaves the raw weights. With `skip_linear` the network's last linear layer gets the spectral norm
    alone, as in the authors' code; for its 1 x m matrix the polynomial would only multiply by g(1).
    `polynomial` is fpc's; `ladder` is apc's. `generator` (CPU) draws the first u and v.
    Raises ValueError for an unknown method or a network without such layers.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        *,
        polynomial: OddPolynomial = PUBLISHED[7],
        ladder: Ladder | None = None,
        n_power_iterations: int = 1,
        skip_linear: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        if method not in ("none", "sn", "fpc", "apc"):
            raise ValueError(f"unknown method {method!r}: one of none, sn, fpc, apc")
        self.network = network
        self.method = method
        self.ladder = ladder or Ladder()
        self.n_power_iterations = n_power_iterations
        self.layers: list[_Layer] = []
        if method == "none":
            return
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        found = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
        if not found:
            raise ValueError("the network has no convolution and no linear layer to precondition")
        last_linear = next((name for name, m in reversed(found) if isinstance(m, nn.Linear)), None)
        for name, module in found:
            skipped = method == "sn" or (skip_linear and name == last_linear)
            u, v = initial_vectors(matrix_of(module), generator)
            start = polynomial if method == "fpc" and not skipped else IDENTITY
            self.layers.append(_Layer(name, module, start, method == "apc" and not skipped, u, v, []))

    def weights(self, *, iterate: bool = True) -> dict[str, Tensor]:
        """Effective weights by parameter name, with their graph: what `functional_call` takes.

        `iterate` runs the power iteration first: once after each update of the raw weights. Without it u and v
        stay as they are, so that a resumed run computes the same bits.
        """
        values: dict[str, Tensor] = {}
        for layer in self.layers:
            W = matrix_of(layer.module)
            if iterate:
                layer.u, layer.v = power_iteration(W, layer.u, layer.v, self.n_power_iterations)
            W_hat = precondition(W, layer.u, layer.v, layer.polynomial.coeffs)
            values[f"{layer.name}.weight"] = W_hat.view(_weight(layer.module).shape)
        return values

    def update_strengths(self) -> bool:
        """APC: measures every layer in float64 and chooses its polynomial; tells whether any changed (Sec. 3.4)."""
        changed = False
        for layer in self.layers:
            if not layer.adaptive:
                continue
            sigmas = singular_values(matrix_of(layer.module).detach())
            layer.history = [*layer.history, modified_condition_number(sigmas)][-HISTORY:]
            chosen = self.ladder.choose(math.fsum(layer.history) / len(layer.history))
            changed |= chosen is not layer.polynomial
            layer.polynomial = chosen
        return changed

    def strengths(self) -> dict[str, int]:
        """The degree in use per layer, 1 for the spectral norm alone."""
        return {layer.name: layer.polynomial.degree for layer in self.layers}

    def state(self) -> dict[str, dict[str, Any]]:
        """What resumption needs, by layer: u, v, the coefficients in use, and APC's last measurements."""
        return {
            layer.name: {
                "u": layer.u,
                "v": layer.v,
                "coeffs": list(layer.polynomial.coeffs),
                "history": list(layer.history),
            }
            for layer in self.layers
        }

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes over `state()` of the same network and method; raises KeyError for a layer it does not name."""
        known = {p.coeffs: p for p in (IDENTITY, *self.ladder.polynomials)}
        for layer in self.layers:
            entry = state[layer.name]
            layer.u, layer.v = entry["u"].to(layer.u), entry["v"].to(layer.v)
            coeffs = tuple(entry["coeffs"])
            layer.polynomial = known.get(coeffs) or OddPolynomial(coeffs)
            layer.history = list(entry["history"])

    def layer_states(self) -> list[LayerState]:
        """What a spectrum records, for every weight of the network (see `layer_states`)."""
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        return layer_states(weights, self.state())


def layer_states(
    weights: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Any]] | None = None
) -> list[LayerState]:
    """The layers of a state dict (weights with two dimensions or more) with what a Preconditioner's state adds."""
    states = []
    for key, weight in weights.items():
        name, _, leaf = key.rpartition(".")
        if leaf != "weight" or weight.dim() < 2:
            continue
        kind: Literal["linear", "conv"] = "linear" if weight.dim() == 2 else "conv"
        entry = (state or {}).get(name)
        if entry is None:
            states.append(LayerState(name, kind, weight, None, None, 0))
            continue
        W = weight.detach().flatten(1)
        sigma_hat = float(torch.dot(entry["u"], torch.mv(W, entry["v"])))
        coeffs = tuple(entry["coeffs"])
        states.append(LayerState(name, kind, weight, sigma_hat, coeffs, 2 * len(coeffs) - 1))
    return states


def matrix_of(module: nn.Module) -> Tensor:
    """The paper's matrix of a layer: out x (in * k * k)."""
    return _weight(module).flatten(1)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
