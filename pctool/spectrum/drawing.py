"""What the figures of a spectrum share: their style, lines a layer, axes over steps, and their way into a file.

Colours are samples of viridis, which the colour-blind can read and which keeps its order in grey; lines
differ by dash as well. Figures are drawn without pyplot, so that no display and no global state is needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pctool.spectrum.reader import Array, Spectrum
from pctool.spectrum.tables import short_name

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
    "text.parse_math": False,  # a name may hold a "$"
}
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
PNG_DPI = 160
LONG_NAME = 28  # letters of a layer's name in a legend or above a panel; the end of a longer one is shown
AXES_WIDTH = 5.5  # inches beside a legend
LETTER, HANDLE = 0.065, 0.6  # inches of a legend: a letter of 8 points, and what stands beside a name


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
    ax.yaxis.set_major_formatter(plain_numbers())


def plain_numbers() -> FuncFormatter:
    """0.01 and 1000, not powers of ten."""
    return FuncFormatter(lambda value, _: f"{value:g}")


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
    """Beside the axes, which the figure's title keeps to; in columns of 20, for which the figure is made wider."""
    names = [short_name(str(line.get_label()), LONG_NAME) for line in ax.lines]  # also those that begin with "_"
    columns = math.ceil(len(names) / 20)
    wide = columns * (HANDLE + LETTER * max(map(len, names), default=0))
    width = max(figure.get_figwidth(), AXES_WIDTH + wide)
    figure.set_figwidth(width)
    figure.suptitle(figure.get_suptitle(), x=(width - wide) / width / 2, fontsize=10)
    figure.legend(ax.lines, names, loc="outside right upper", ncols=columns, handlelength=2.6)


def rendered(figures: Mapping[str, Figure | None]) -> dict[str, bytes]:
    """Figures as file name -> content, each as PNG and as SVG (in STYLE); what is None is left out."""
    return {
        f"{name}.{ending}": render(figure, ending)
        for name, figure in figures.items()
        if figure
        for ending in ("png", "svg")
    }


def render(figure: Figure, ending: str) -> bytes:
    """A figure as the bytes of a `png` or `svg` file: the same figure gives the same bytes (in STYLE)."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    figure.savefig(buffer, format=ending, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()
