"""Figures of what normalisation and adaptive control did: sigma / sigma_hat (the paper's Fig. 5), strengths."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from pctool.core.polynomial_report import LAYER_UPPER
from pctool.spectrum.drawing import LONG_NAME, edges, label_steps, layer_legend, layer_lines
from pctool.spectrum.reader import Spectrum
from pctool.spectrum.tables import short_name

STRENGTHS = (0, 1, 3, 5, 7, 9)
MEANING = {0: "none", 1: "1, SN alone"}


def ratio_figure(spectrum: Spectrum) -> Figure | None:
    """sigma / sigma_hat over the steps, a line a layer (Fig. 5); None without normalisation.

    The shaded part is beyond the published polynomials' range, where they leave 1 quickly.
    """
    ratios = [layer.sigma_over_sigma_hat for layer in spectrum.layers]
    present = [ratio for ratio in ratios if ratio is not None]
    if not present:
        return None
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    ax = figure.subplots()
    nothing = np.full(len(spectrum.steps), np.nan)
    layer_lines(ax, spectrum, [nothing if ratio is None else ratio for ratio in ratios])
    values = np.concatenate(present)
    finite = values[np.isfinite(values)]
    ax.set_ylim(min(0.99, finite.min(initial=1.0) - 0.01), max(1.15, 1.02 * finite.max(initial=1.0)))
    ax.axhspan(LAYER_UPPER, ax.get_ylim()[1], color="0.93", zorder=0)
    ax.set_ylabel("sigma / sigma_hat")
    figure.suptitle(f"{spectrum.network}: the true norm over the power iteration's estimate", fontsize=10)
    label_steps([ax], spectrum)
    layer_legend(figure, ax)
    return figure


def strength_figure(spectrum: Spectrum) -> Figure | None:
    """The polynomial's degree of each layer over the steps, as a strip a layer: what APC chose (Sec. 3.4).

    None without normalisation.
    """
    degrees = np.array([layer.strength for layer in spectrum.layers])
    if not degrees.any():
        return None
    figure = Figure(figsize=(7.5, 1.2 + 0.22 * len(spectrum.layers)), layout="constrained")
    ax = figure.subplots()
    colours = ["0.95", *mpl.colormaps["viridis"](np.linspace(1.0, 0.1, len(STRENGTHS) - 1))]
    bounds = [-0.5, 0.5, 2.0, 4.0, 6.0, 8.0, 10.0]
    mesh = ax.pcolormesh(
        edges(spectrum.steps),
        np.arange(len(degrees) + 1) - 0.5,
        degrees.clip(0, STRENGTHS[-1]),  # a fixed polynomial may be of a higher degree
        cmap=ListedColormap(colours),
        norm=BoundaryNorm(bounds, len(STRENGTHS)),
        rasterized=True,
    )
    ax.hlines(np.arange(1, len(degrees)) - 0.5, *ax.get_xlim(), color="white", linewidth=2.0)
    ax.set_yticks(range(len(degrees)), [short_name(layer.name, LONG_NAME) for layer in spectrum.layers])
    ax.invert_yaxis()
    ax.grid(visible=False)
    bar = figure.colorbar(mesh, ax=ax, label="degree")
    middles = [(low + high) / 2 for low, high in itertools.pairwise(bounds)]
    bar.set_ticks(middles, labels=[MEANING.get(degree, str(degree)) for degree in STRENGTHS])
    bar.minorticks_off()
    figure.suptitle(f"{spectrum.network}: the polynomial's degree a layer", fontsize=10)
    label_steps([ax], spectrum)
    return figure
