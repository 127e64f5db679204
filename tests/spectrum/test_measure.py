"""Claims of `pctool.spectrum.measure` against NumPy on dense matrices."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pctool.core.layers.state import LayerState
from pctool.errors import InputError
from pctool.spectrum.measure import measure, measure_layer

from .samples import DEGREE_7, states


def _conv(weight: torch.Tensor, sigma_hat: float | None = 1.0) -> LayerState:
    return LayerState("conv", "conv", weight, sigma_hat, None if sigma_hat is None else DEGREE_7, 7)


def test_spectra_are_those_of_the_matrices() -> None:
    """raw, normalized and effective equal NumPy's SVD of W, of W / sigma_hat and of P(A A^T) A."""
    for state, layer in zip(states(), measure(0, states()).layers, strict=True):
        W = state.weight.flatten(1).double().numpy()
        assert state.sigma_hat is not None
        A = W / state.sigma_hat
        S = A @ A.T
        P = sum(a * np.linalg.matrix_power(S, k) for k, a in enumerate(state.coeffs or ()))
        assert layer.normalized is not None
        for got, matrix in ((layer.raw, W), (layer.normalized, A), (layer.effective, P @ A)):
            assert got == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=1e-12, abs=1e-12)
        assert layer.sigma_over_sigma_hat == pytest.approx(1 / 0.98, rel=1e-7)
        assert layer.shape == tuple(state.weight.shape)


def test_condition_numbers_are_of_the_raw_and_of_the_effective_weight() -> None:
    """kappa_raw belongs to W, kappa to what the layer applies; the modified ones likewise (r = 6: one value)."""
    layer = measure(0, states()).layers[1]
    assert layer.kappa_raw == pytest.approx(layer.raw[0] / layer.raw[-1])
    assert layer.kappa == pytest.approx(layer.effective[0] / layer.effective[-1])
    assert layer.modified_kappa_raw == layer.kappa_raw
    assert layer.modified_kappa == layer.kappa
    assert layer.kappa < layer.kappa_raw


def test_effective_is_sorted_where_the_polynomial_is_not_monotone() -> None:
    """|g(sigma)| is sorted again: 2x - x^3 takes 1.3 to 0.403, below its value at 0.5."""
    state = LayerState("conv", "conv", torch.diag(torch.tensor([1.3, 0.5])), 1.0, (2.0, -1.0), 3)
    layer = measure_layer(state)
    assert layer.effective == pytest.approx([0.875, 0.403], abs=1e-6)


def test_without_normalisation_the_layer_applies_its_weight() -> None:
    """No sigma_hat: effective is raw, kappa is kappa_raw, and there is nothing normalised."""
    for layer in measure(0, states(normalised=False)).layers:
        assert layer.normalized is None
        assert layer.sigma_over_sigma_hat is None
        assert (layer.effective == layer.raw).all()
        assert layer.kappa == layer.kappa_raw
        assert layer.strength == 0


def test_the_summary_leaves_out_the_linear_layer_of_one_row() -> None:
    """max, second max and mean are over the convolutions, by both definitions, as in the authors' code."""
    measured = measure(0, states())
    assert [layer.name for layer in measured.layers][-1] == "linear"
    for definition in ("kappa", "modified_kappa"):
        values = sorted(getattr(layer, definition) for layer in measured.layers[:-1])
        assert measured.summary[f"max_{definition}"] == values[-1]
        assert measured.summary[f"second_max_{definition}"] == values[-2]
        assert measured.summary[f"mean_{definition}"] == pytest.approx(sum(values) / 3)


def test_a_linear_layer_of_several_rows_counts() -> None:
    """A generator's dense layer is part of its summary."""
    made = states()[:-1]
    dense = LayerState("dense", "linear", torch.diag(torch.arange(1.0, 5.0)), None, None, 0)
    measured = measure(0, [*made, dense])
    assert measured.summary["mean_kappa"] == pytest.approx(np.mean([layer.kappa for layer in measured.layers]))


def test_the_summary_does_not_depend_on_the_order_of_the_layers() -> None:
    """A safetensors file keeps another order than a PyTorch file of the same network."""
    made = states()
    assert measure(0, made[::-1]).summary == pytest.approx(measure(0, made).summary, rel=1e-14)


def test_a_pattern_chooses_layers_and_does_not_change_what_the_head_is() -> None:
    """With one layer the second largest is the largest; the head alone is its own summary."""
    measured = measure(0, states(), "*.conv2")
    assert [layer.name for layer in measured.layers] == ["blocks.0.conv2"]
    assert measured.summary["second_max_kappa"] == measured.summary["max_kappa"] == measured.layers[0].kappa
    assert measure(0, states(), "linear").summary["max_kappa"] == pytest.approx(1.0)
    both = measure(0, states(), "*[er]*").summary["mean_kappa"]
    assert both == pytest.approx(measure(0, states(), "*shortcut").summary["mean_kappa"])


def test_a_pattern_that_fits_nothing_names_the_layers() -> None:
    """The message says what was asked for and what there is."""
    with pytest.raises(InputError, match=r"'conv9'.*blocks\.0\.conv1.*linear"):
        measure(0, states(), "conv9")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_layer_that_is_not_finite_is_nan_with_its_reason_and_the_others_are_whole(bad: float) -> None:
    """One bad entry: all numbers of that layer are NaN, and the summary, which would be of fewer layers."""
    made, good = states(), measure(0, states())
    made[1].weight[2, 0, 1, 1] = bad
    measured = measure(0, made)
    broken = measured.layers[1]
    assert broken.normalized is not None
    for values in (broken.raw, broken.normalized, broken.effective):
        assert values.shape == (6,)
        assert np.isnan(values).all()
    for value in (broken.kappa, broken.kappa_raw, broken.modified_kappa, broken.sigma_over_sigma_hat):
        assert value is not None
        assert math.isnan(value)
    assert all(math.isnan(value) for value in measured.summary.values())
    assert measured.problems == ["layer blocks.0.conv2: the matrix has 1 non-finite of 324 entries"]
    for i in (0, 2, 3):
        assert (measured.layers[i].effective == good.layers[i].effective).all()


@pytest.mark.parametrize(("sigma_hat", "reason"), [(0.0, "estimate"), (math.nan, "estimate"), (1e-200, "overflow")])
def test_a_broken_norm_estimate_leaves_the_raw_spectrum(sigma_hat: float, reason: str) -> None:
    """sigma_hat of 0, NaN or far too small: raw is measured, the rest is NaN, and the reason is given."""
    layer = measure_layer(_conv(torch.eye(4), sigma_hat))
    assert layer.raw.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert layer.kappa_raw == 1.0
    assert np.isnan(layer.effective).all()
    assert math.isnan(layer.kappa)
    assert layer.problem is not None
    assert reason in layer.problem


def test_rank_deficient_layers_have_infinite_kappa_and_a_summary() -> None:
    """inf is a value, not a failure."""
    made = states()
    made[0] = dataclasses.replace(made[0], weight=torch.zeros(6, 3, 3, 3))
    measured = measure(0, made)
    assert measured.layers[0].kappa == math.inf
    assert measured.summary["max_kappa"] == math.inf
    assert math.isfinite(measured.summary["second_max_kappa"])
    assert measured.problems == []
