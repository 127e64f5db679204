"""Figures of a spectrum over the steps: the paper's Fig. 1 and 2, a heat map, and the evolution at a glance.

Colours are samples of viridis, which the colour-blind can read and which keeps its order in grey; lines
differ by dash as well. Figures are drawn without pyplot, so that no display and no global state is needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pctool import files
from pctool.spectrum.reader import Array, LayerSeries, Spectrum, read_spectrum
from pctool.spectrum.tables import smallest

STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "legend.frameon": False,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "svg.hashsalt": "pctool",  # the same figure gives the same bytes
    "svg.fonttype": "none",
}
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
PNG_DPI = 160
COLUMNS = 4  # of panels


def figures(spectrum: Spectrum) -> dict[str, bytes]:
    """Every figure of a spectrum as file name -> content, PNG and SVG."""
    with mpl.rc_context(STYLE):
        drawn = {
            "smallest": smallest_figure(spectrum),
            "condition": condition_figure(spectrum),
            "heatmap": heatmap_figure(spectrum),
        }
        return {
            f"{name}.{ending}": render(figure, ending) for name, figure in drawn.items() for ending in ("png", "svg")
        }


def evolution_figure(spectrum_path: Path, png_path: Path, title: str) -> None:
    """Draws how the spectra of a run evolved, SN(W) left and the effective g(SN(W)) right, as one PNG.

    Above the smallest singular value of each layer, below its modified kappa; layers with a single singular
    value (the linear head) are left out, their kappa being 1 for ever. An existing file is replaced.
    Raises InputError for what is no spectrum file, WriteError where the picture cannot be written.
    """
    spectrum = read_spectrum(spectrum_path)
    layers = tuple(layer for layer in spectrum.layers if layer.raw.shape[1] > 1)
    spectrum = replace(spectrum, layers=layers or spectrum.layers)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        figure.suptitle(title, fontsize=10)
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        _layer_lines(axes[0, 0], spectrum, [_normalized(layer)[:, -1] for layer in spectrum.layers])
        _layer_lines(axes[0, 1], spectrum, [layer.effective[:, -1] for layer in spectrum.layers])
        _layer_lines(axes[1, 0], spectrum, [layer.modified_kappa_raw for layer in spectrum.layers])
        _layer_lines(axes[1, 1], spectrum, [layer.modified_kappa for layer in spectrum.layers])
        for ax, heading in zip(axes[0], _headings(spectrum.layers[0]), strict=True):
            ax.set_title(heading)
        _from_zero(axes[0, 0], axes[0, 1])
        axes[0, 0].set_ylabel("smallest singular value")
        axes[1, 0].set_ylabel("modified kappa")
        _log_scale(axes[1, 0])
        _label_steps(axes[1], spectrum)
        _layer_legend(figure, axes[0, 0])
        files.write_bytes(png_path, render(figure, "png"))


def smallest_figure(spectrum: Spectrum) -> Figure:
    """A panel a layer: the five smallest singular values of the effective weight over the steps (Fig. 1)."""
    figure, axes = _panels(len(spectrum.layers))
    lines: list[Any] = []
    for ax, layer in zip(axes, spectrum.layers, strict=True):
        values = smallest(layer.effective)[:, ::-1]
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, 5))
        drawn = [_line(ax, spectrum, values[:, i], colours[i], i) for i in range(values.shape[1])]
        lines = max(lines, drawn, key=len)
        ax.set_title(layer.name)
        _from_zero(ax)
    figure.suptitle(f"{spectrum.network}: the five smallest singular values of each effective weight", fontsize=10)
    figure.legend(lines, ["smallest", "2nd", "3rd", "4th", "5th"][: len(lines)], loc="outside lower center", ncols=5)
    _label_steps(axes, spectrum)
    for ax in axes[: -min(COLUMNS, len(axes))]:
        ax.set_xlabel("")
    return figure


def condition_figure(spectrum: Spectrum) -> Figure:
    """Condition numbers of the effective weights over the steps, a line a layer (Fig. 2), by both definitions."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for ax, key in zip(axes, ("kappa", "modified_kappa"), strict=True):
        _layer_lines(ax, spectrum, [getattr(layer, key) for layer in spectrum.layers])
        ax.set_title(key.replace("_", " "))
        _log_scale(ax)
    figure.suptitle(f"{spectrum.network}: condition numbers of the effective weights", fontsize=10)
    _label_steps(axes, spectrum)
    _layer_legend(figure, axes[0])
    return figure


def heatmap_figure(spectrum: Spectrum) -> Figure:
    """All singular values of one layer over the steps, SN(W) beside the effective weight.

    The layer is the one whose weight has the largest modified kappa at the last step.
    """
    layer = max(spectrum.layers, key=lambda layer: np.nan_to_num(layer.modified_kappa_raw[-1], posinf=np.inf))
    before, after = _normalized(layer), layer.effective
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    largest = np.nan_to_num(np.concatenate([before, after])).max() or 1.0
    floor = 1e-3 * largest  # three decades are what colours can tell apart; what is below is drawn as this
    edges, places = _edges(spectrum.steps), np.arange(before.shape[1] + 1) + 0.5
    for ax, values, heading in zip(axes, (before, after), _headings(layer), strict=True):
        shown = values.T.clip(floor, largest)
        mesh = ax.pcolormesh(edges, places, shown, norm=LogNorm(floor, largest), cmap="viridis", rasterized=True)
        ax.set_title(heading)
        ax.grid(visible=False)
    axes[0].invert_yaxis()
    axes[0].set_ylabel("index, largest first")
    figure.colorbar(mesh, ax=axes, label="singular value")
    figure.suptitle(f"{spectrum.network}: {layer.name} over the steps", fontsize=10)
    _label_steps(axes, spectrum)
    return figure


def _normalized(layer: LayerSeries) -> Array:
    """Of SN(W), or of W itself where there is no normalisation."""
    return layer.raw if layer.normalized is None else layer.normalized


def _headings(layer: LayerSeries) -> tuple[str, str]:
    return ("W", "W as applied") if layer.normalized is None else ("normalised, SN(W)", "effective, g(SN(W))")


def _edges(steps: NDArray[np.int64]) -> Array:
    """The cell borders around the steps: half-way between neighbours, and as far beyond the ends."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(4.0, 2.1 * columns), 0.9 + 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for empty, above in zip(axes[count:], axes[count - columns : count], strict=False):
        empty.remove()
        above.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def _layer_lines(ax: Axes, spectrum: Spectrum, values: Sequence[Array]) -> None:
    """A line a layer, from dark to light with its depth."""
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(spectrum.layers)))
    for i, layer in enumerate(spectrum.layers):
        _line(ax, spectrum, values[i], colours[i], i).set_label(layer.name)


def _line(ax: Axes, spectrum: Spectrum, values: Array, colour: Any, i: int) -> Any:
    """A gap where a value is not finite; a marker where a line would have no length."""
    shown = np.where(np.isfinite(values), values, np.nan)
    marker = "o" if len(spectrum.steps) < 3 else None
    dash = DASHES[i % len(DASHES)]
    (line,) = ax.plot(spectrum.steps, shown, color=colour, linestyle=dash, marker=marker, markersize=3)
    return line


def _log_scale(ax: Axes) -> None:
    """Logarithmic, with readable numbers, also where all values are 1."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.9), max(high, 12.0))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _from_zero(*axes: Axes) -> None:
    """A linear axis from 0 up to a little above the largest value, one for all that share it."""
    largest = max(ax.dataLim.ymax for ax in axes)
    axes[0].set_ylim(0.0, 1.05 * largest if 0.0 < largest < np.inf else 1.0)


def _label_steps(axes: Sequence[Axes], spectrum: Spectrum) -> None:
    """Few enough marks for small panels; a single step stands in the middle."""
    steps = spectrum.steps.tolist()
    for ax in axes:
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(FixedLocator(steps) if len(steps) == 1 else MaxNLocator(nbins=4, integer=True))


def _layer_legend(figure: Figure, ax: Axes) -> None:
    """Beside the axes; in columns of 20, so that a deep network's names stay on the page."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", ncols=math.ceil(len(labels) / 20), handlelength=2.6)


def render(figure: Figure, ending: str) -> bytes:
    """A figure as the bytes of a `png` or `svg` file: the same figure gives the same bytes (in STYLE)."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    figure.savefig(buffer, format=ending, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()
