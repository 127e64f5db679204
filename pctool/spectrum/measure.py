"""One row of a spectrum: what the layers of a network look like at one step, raw and as applied."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pctool.core.layers.state import LayerState
from pctool.core.linalg import polynomial_of_matrix
from pctool.core.spectra import Array, condition_number, modified_condition_number, singular_values
from pctool.errors import InputError
from pctool.spectrum.operator import operator_singular_values, operator_size


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """A layer at one step. Arrays are float64 [r], descending: r is the smaller side of the matrix, or what
    `operator.operator_singular_values` has.

    `shape`: the weight's own. `raw`: singular values of W. `normalized`: of SN(W) = W / sigma_hat.
    `effective`: of what the layer applies, |g(SN(W))|, or W itself without normalisation.
    `sigma_over_sigma_hat`: the matrix's true norm over the power iteration's estimate.
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
        return [f"layer {layer.name}: {layer.problem}" for layer in self.layers if layer.problem]


def measure(
    step: int, states: Sequence[LayerState], pattern: str = "*", grid: int | None = None, threads: int = 1
) -> Row:
    """Measures the layers whose name fits the glob `pattern`.

    Without `grid` a layer is its matrix, out x in k k, as in the paper; with it a convolution is the operator on
    a torus of so many points a side. So many `threads` share the work and change no bit of the result, if the
    linear algebra itself runs on one thread.
    Raises InputError where no name fits. A layer that is not finite does not stop the others: see `problem`.
    """
    chosen = [state for state in states if fnmatch.fnmatchcase(state.name, pattern)]
    if threads > 1 and grid is None:  # layers at once; an operator shares its frequencies instead
        with ThreadPoolExecutor(threads) as pool:
            layers = tuple(pool.map(measure_layer, chosen))
    else:
        layers = tuple(measure_layer(state, grid, threads) for state in chosen)
    if not layers:
        names = ", ".join(state.name for state in states) or "none"
        raise InputError(f"no layer fits {pattern!r}; its layers are: {names}")
    return Row(step, layers, summarise(layers))


def measure_layer(state: LayerState, grid: int | None = None, threads: int = 1) -> LayerSpectrum:
    """Singular values of one layer: raw, normalised and effective, with their condition numbers."""
    W = state.weight.flatten(1)
    if state.kind == "linear":
        grid = None  # it has no places to move along
    count = min(W.shape) if grid is None else operator_size(state.weight.shape, grid)
    raw = normalized = effective = np.full(count, math.nan)
    ratio = math.nan
    problem = None
    try:
        if state.problem:
            raise ValueError(state.problem)
        matrix = singular_values(W)
        raw = matrix if grid is None else operator_singular_values(_kernel(state), grid, threads)
        of_matrix, effective_of_matrix = _applied(matrix, state)
        ratio = float(of_matrix[0])
        if grid is None:
            normalized, effective = of_matrix, effective_of_matrix
        else:
            normalized, effective = _applied_operator(raw, state, grid, threads)
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
        sigma_over_sigma_hat=None if plain else ratio,
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


def _applied_operator(raw: Array, state: LayerState, grid: int, threads: int) -> tuple[Array, Array]:
    """The same as operators. g acts on the matrix, not on the operator, so its weight has to be formed."""
    if state.sigma_hat is None:
        return raw, raw
    normalized = raw / abs(state.sigma_hat)
    coeffs = state.coeffs or (1.0,)
    if coeffs == (1.0,):
        return normalized, normalized
    A = state.weight.detach().cpu().double() / abs(state.sigma_hat)
    W_hat = polynomial_of_matrix(A.flatten(1), coeffs).reshape(A.shape)
    return normalized, operator_singular_values(W_hat.numpy(), grid, threads)


def _kernel(state: LayerState) -> Array:
    return state.weight.detach().cpu().double().numpy()


def _or_nan(number: Callable[[Array], float], sigmas: Array) -> float:
    return number(sigmas) if np.isfinite(sigmas).all() else math.nan


def summarise(layers: Sequence[LayerSpectrum]) -> dict[str, float]:
    """Table 1's columns by both definitions: largest, second largest and mean over the layers but a head.

    The authors leave out the last linear layer, whose one row always has kappa 1. A head is known by that row and
    not by its place, since not every file keeps the order. Where nothing else was measured, it counts. With one
    layer the second largest is the largest. A layer that could not be measured makes its column NaN: a mean over
    fewer layers would not be comparable.
    """
    counted = [layer for layer in layers if layer.kind != "linear" or layer.shape[0] > 1] or list(layers)
    summary = {}
    for definition in ("kappa", "modified_kappa"):
        values = np.sort([getattr(layer, definition) for layer in counted])[::-1]
        broken = bool(np.isnan(values).any())
        summary[f"max_{definition}"] = math.nan if broken else float(values[0])
        summary[f"second_max_{definition}"] = math.nan if broken else float(values[:2][-1])
        summary[f"mean_{definition}"] = math.nan if broken else float(values.mean())
    return summary
