"""Figures of a spectrum over the steps: the paper's Fig. 1 and 2, a heat map, and the evolution at a glance."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from pctool import files
from pctool.spectrum.drawing import (
    LONG_NAME,
    STYLE,
    edges,
    from_zero,
    label_steps,
    layer_legend,
    layer_lines,
    line,
    log_scale,
    plain_numbers,
    render,
    rendered,
)
from pctool.spectrum.normalisation_plots import ratio_figure, strength_figure
from pctool.spectrum.reader import LayerSeries, Spectrum, read_spectrum
from pctool.spectrum.tables import short_name, smallest

COLUMNS = 4  # of panels
LONG_TITLE = 48  # letters


def figures(spectrum: Spectrum) -> dict[str, bytes]:
    """Every figure of a spectrum as file name -> content, PNG and SVG; `ratio` only with normalisation."""
    with mpl.rc_context(STYLE):
        drawn = {
            "smallest": smallest_figure(spectrum),
            "condition": condition_figure(spectrum),
            "heatmap": heatmap_figure(spectrum),
            "strength": strength_figure(spectrum),
            "ratio": ratio_figure(spectrum),
        }
        return rendered(drawn)


def evolution_figure(spectrum_path: Path, png_path: Path, title: str) -> None:
    """Draws how the spectra of a run evolved, SN(W) left and the effective g(SN(W)) right, as one PNG.

    Above the smallest singular value of each layer, below its modified kappa; layers with a single singular
    value (the linear head) are left out, their kappa being 1 for ever. An existing file is replaced.
    Raises InputError for what is no spectrum file, WriteError where the picture cannot be written.
    """
    spectrum = read_spectrum(spectrum_path, smallest=2)
    layers = tuple(layer for layer in spectrum.layers if layer.raw.shape[1] > 1)
    spectrum = replace(spectrum, layers=layers or spectrum.layers)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        # A long name would run into the legend beside the panels.
        figure.suptitle(title if len(title) <= LONG_TITLE else title.replace(": ", ":\n", 1), fontsize=10)
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        layer_lines(axes[0, 0], spectrum, [layer.before[:, -1] for layer in spectrum.layers])
        layer_lines(axes[0, 1], spectrum, [layer.effective[:, -1] for layer in spectrum.layers])
        layer_lines(axes[1, 0], spectrum, [layer.modified_kappa_raw for layer in spectrum.layers])
        layer_lines(axes[1, 1], spectrum, [layer.modified_kappa for layer in spectrum.layers])
        for ax, heading in zip(axes[0], _headings(spectrum.layers[0]), strict=True):
            ax.set_title(heading)
        from_zero(axes[0, 0], axes[0, 1])
        axes[0, 0].set_ylabel("smallest singular value")
        axes[1, 0].set_ylabel("modified kappa")
        log_scale(axes[1, 0])
        label_steps(axes[1], spectrum)
        layer_legend(figure, axes[0, 0])
        files.write_bytes(png_path, render(figure, "png"))


def smallest_figure(spectrum: Spectrum) -> Figure:
    """A panel a layer: the five smallest singular values of the effective weight over the steps (Fig. 1)."""
    figure, axes = _panels(len(spectrum.layers))
    lines: list[Any] = []
    for ax, layer in zip(axes, spectrum.layers, strict=True):
        values = smallest(layer.effective)[:, ::-1]
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, 5))
        drawn = [line(ax, spectrum, values[:, i], colours[i], i) for i in range(values.shape[1])]
        lines = max(lines, drawn, key=len)
        ax.set_title(short_name(layer.name, LONG_NAME))
        from_zero(ax)
    figure.suptitle(f"{spectrum.network}: the five smallest singular values of each effective weight", fontsize=10)
    figure.legend(lines, ["smallest", "2nd", "3rd", "4th", "5th"][: len(lines)], loc="outside lower center", ncols=5)
    label_steps(axes, spectrum)
    for ax in axes[: -min(COLUMNS, len(axes))]:
        ax.set_xlabel("")
    return figure


def condition_figure(spectrum: Spectrum) -> Figure:
    """Condition numbers of the effective weights over the steps, a line a layer (Fig. 2), by both definitions."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for ax, key in zip(axes, ("kappa", "modified_kappa"), strict=True):
        layer_lines(ax, spectrum, [getattr(layer, key) for layer in spectrum.layers])
        ax.set_title(key.replace("_", " "))
        log_scale(ax)
    figure.suptitle(f"{spectrum.network}: condition numbers of the effective weights", fontsize=10)
    label_steps(axes, spectrum)
    layer_legend(figure, axes[0])
    return figure


def heatmap_figure(spectrum: Spectrum) -> Figure:
    """All singular values of one layer over the steps, SN(W) beside the effective weight.

    The layer is the one whose weight has the largest modified kappa at the last step.
    """
    layer = max(spectrum.layers, key=lambda layer: np.nan_to_num(layer.modified_kappa_raw[-1], posinf=np.inf))
    before, after = layer.before, layer.effective
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    largest = np.nan_to_num(np.concatenate([before, after])).max() or 1.0
    # Three decades at most are what colours can tell apart; what is below is drawn as this.
    smallest_shown = min((values[values > 0].min() for values in (before, after) if (values > 0).any()), default=0.0)
    floor = min(max(1e-3 * largest, smallest_shown), 0.9 * largest)
    borders, places = edges(spectrum.steps), np.arange(before.shape[1] + 1) + 0.5
    for ax, values, heading in zip(axes, (before, after), _headings(layer), strict=True):
        shown = values.T.clip(floor, largest)
        mesh = ax.pcolormesh(borders, places, shown, norm=LogNorm(floor, largest), cmap="viridis", rasterized=True)
        ax.set_title(heading)
        ax.grid(visible=False)
    axes[0].invert_yaxis()
    axes[0].set_ylabel("index, largest first")
    bar = figure.colorbar(mesh, ax=axes, label="singular value", format=plain_numbers())
    bar.minorformatter = LogFormatter()  # within a decade it numbers some of what lies between
    figure.suptitle(f"{spectrum.network}: {short_name(layer.name, LONG_TITLE)} over the steps", fontsize=10)
    label_steps(axes, spectrum)
    return figure


def _headings(layer: LayerSeries) -> tuple[str, str]:
    return ("W", "W as applied") if layer.normalized is None else ("normalised, SN(W)", "effective, g(SN(W))")


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(4.0, 2.1 * columns), 0.9 + 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for empty, above in zip(axes[count:], axes[count - columns : count], strict=False):
        empty.remove()
        above.tick_params(labelbottom=True)
    return figure, list(axes[:count])
