"""What the figures of a spectrum share: their style, lines a layer, axes over steps, and their way into a file.

Colours are samples of viridis, which the colour-blind can read and which keeps its order in grey; lines
differ by dash as well. Figures are drawn without pyplot, so that no display and no global state is needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pctool.spectrum.reader import Array, Spectrum

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


def edges(steps: NDArray[np.int64]) -> Array:
    """The cell borders around the steps: half-way between neighbours, and as far beyond the ends, if not below 0."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[max(0.0, 2 * steps[0] - middles[0])], middles, [2 * steps[-1] - middles[-1]]])


def layer_lines(ax: Axes, spectrum: Spectrum, values: Sequence[Array]) -> None:
    """A line a layer, from dark to light with its depth."""
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(spectrum.layers)))
    for i, layer in enumerate(spectrum.layers):
        line(ax, spectrum, values[i], colours[i], i).set_label(layer.name)


def line(ax: Axes, spectrum: Spectrum, values: Array, colour: Any, i: int) -> Any:
    """A gap where a value is not finite; a marker where a line would have no length."""
    shown = np.where(np.isfinite(values), values, np.nan)
    marker = "o" if len(spectrum.steps) < 3 else None
    dash = DASHES[i % len(DASHES)]
    (line,) = ax.plot(spectrum.steps, shown, color=colour, linestyle=dash, marker=marker, markersize=3)
    return line


def log_scale(ax: Axes) -> None:
    """Logarithmic, with readable numbers, also where all values are 1."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.9), max(high, 12.0))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def from_zero(*axes: Axes) -> None:
    """A linear axis from 0 up to a little above the largest value, one for all that share it."""
    largest = max(ax.dataLim.ymax for ax in axes)
    axes[0].set_ylim(0.0, 1.05 * largest if 0.0 < largest < np.inf else 1.0)


def label_steps(axes: Sequence[Axes], spectrum: Spectrum) -> None:
    """Few enough marks for small panels; a single step stands in the middle."""
    steps = spectrum.steps.tolist()
    for ax in axes:
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(FixedLocator(steps) if len(steps) == 1 else MaxNLocator(nbins=4, integer=True))


def layer_legend(figure: Figure, ax: Axes) -> None:
    """Beside the axes; in columns of 20, so that a deep network's names stay on the page."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", ncols=math.ceil(len(labels) / 20), handlelength=2.6)


def render(figure: Figure, ending: str) -> bytes:
    """A figure as the bytes of a `png` or `svg` file: the same figure gives the same bytes (in STYLE)."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    figure.savefig(buffer, format=ending, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()
