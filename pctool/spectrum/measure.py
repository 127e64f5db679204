"""One row of a spectrum: what the layers of a network look like at one step, raw and as applied."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pctool.core.layers.state import LayerState
from pctool.core.spectra import Array, condition_number, modified_condition_number, singular_values
from pctool.errors import InputError


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """A layer at one step. Arrays are float64 [r], descending, r the smaller side of the matrix.

    `shape`: the weight's own. `raw`: singular values of W. `normalized`: of SN(W) = W / sigma_hat.
    `effective`: of what the layer applies, |g(SN(W))|, or W itself without normalisation.
    `sigma_over_sigma_hat`: the true norm over the power iteration's estimate.
    `kappa*` are `condition_number`s, `modified_kappa*` the paper's Sec. 3.4: `_raw` of W (what APC decides on),
    the others of the effective weight. `strength` is LayerState's. `normalized` and `sigma_over_sigma_hat`
    are None without normalisation; what cannot be measured is NaN, and `problem` says why.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    strength: int
    raw: Array
    normalized: Array | None
    effective: Array
    sigma_over_sigma_hat: float | None
    kappa_raw: float
    modified_kappa_raw: float
    kappa: float
    modified_kappa: float
    problem: str | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """All measured layers at one step, and the summary that `summarise` makes of the whole network."""

    step: int
    layers: tuple[LayerSpectrum, ...]
    summary: dict[str, float]

    @property
    def problems(self) -> list[str]:
        """One text a layer that could not be measured."""
        return [f"{layer.name}: {layer.problem}" for layer in self.layers if layer.problem]


def measure(step: int, states: Sequence[LayerState], pattern: str = "*") -> Row:
    """Measures the layers whose name fits the glob `pattern`.

    Raises InputError where none fits. A layer that is not finite does not stop the others: see `problem`.
    """
    layers = tuple(measure_layer(state) for state in states if fnmatch.fnmatchcase(state.name, pattern))
    if not layers:
        names = ", ".join(state.name for state in states) or "none"
        raise InputError(f"no layer fits {pattern!r}; its layers are: {names}")
    return Row(step, layers, summarise(layers, head=head_name(states)))


def measure_layer(state: LayerState) -> LayerSpectrum:
    """Singular values of one layer: raw, normalised and effective, with their condition numbers."""
    W = state.weight.flatten(1)
    nothing = np.full(min(W.shape), math.nan)
    raw = normalized = effective = nothing
    problem = None
    try:
        raw = singular_values(W)
        normalized, effective = _applied(raw, state)
    except ValueError as error:
        problem = str(error)
    plain = state.sigma_hat is None
    return LayerSpectrum(
        name=state.name,
        kind=state.kind,
        shape=tuple(state.weight.shape),
        strength=state.strength,
        raw=raw,
        normalized=None if plain else normalized,
        effective=effective,
        sigma_over_sigma_hat=None if plain else float(normalized[0]),
        kappa_raw=_or_nan(condition_number, raw),
        modified_kappa_raw=_or_nan(modified_condition_number, raw),
        kappa=_or_nan(condition_number, effective),
        modified_kappa=_or_nan(modified_condition_number, effective),
        problem=problem,
    )


def _applied(raw: Array, state: LayerState) -> tuple[Array, Array]:
    """Singular values of SN(W) and of g(SN(W)); g acts on each singular value (the paper's Claim 3.2)."""
    if state.sigma_hat is None:
        return raw, raw
    if not math.isfinite(state.sigma_hat) or state.sigma_hat == 0.0:
        raise ValueError(f"the power iteration's estimate of the norm is {state.sigma_hat}")
    with np.errstate(over="ignore", invalid="ignore"):
        normalized = raw / abs(state.sigma_hat)
        factors = np.polynomial.polynomial.polyval(normalized**2, state.coeffs or (1.0,))
        effective = np.sort(np.abs(normalized * factors))[::-1]  # g need not be monotone
    if not np.isfinite(effective).all():
        raise ValueError(f"the polynomial overflows at sigma / sigma_hat = {normalized[0]:.3g}")
    return normalized, effective


def _or_nan(number: Callable[[Array], float], sigmas: Array) -> float:
    return number(sigmas) if np.isfinite(sigmas).all() else math.nan


def head_name(states: Sequence[LayerState]) -> str | None:
    """The name of the network's last layer if that is a linear one, as in every discriminator."""
    return states[-1].name if states and states[-1].kind == "linear" else None


def summarise(layers: Sequence[LayerSpectrum], head: str | None) -> dict[str, float]:
    """Table 1's columns by both definitions: largest, second largest and mean over the layers but `head`.

    The authors leave out the last linear layer, whose one row always has kappa 1. Where nothing but the head
    was measured, it counts. With one layer the second largest is the largest. A layer that could not be
    measured makes its column NaN: a mean over fewer layers would not be comparable.
    """
    counted = [layer for layer in layers if layer.name != head] or list(layers)
    summary = {}
    for definition in ("kappa", "modified_kappa"):
        values = np.sort([getattr(layer, definition) for layer in counted])[::-1]
        broken = bool(np.isnan(values).any())
        summary[f"max_{definition}"] = math.nan if broken else float(values[0])
        summary[f"second_max_{definition}"] = math.nan if broken else float(values[:2][-1])
        summary[f"mean_{definition}"] = math.nan if broken else float(values.mean())
    return summary
