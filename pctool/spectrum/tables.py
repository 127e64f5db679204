"""What `pctool spectrum` prints: Table 1's kappa columns over the steps, and the layers of the last one."""

from __future__ import annotations

import math

import numpy as np
from rich.markup import escape
from rich.table import Table

from pctool.spectrum.reader import Array, Spectrum

LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.:-=+*#"
BAR_WIDTH = 8
REST_WIDTH = 63  # at most, of a layer's row: all but its name
LEAST_NAME = 17  # letters of a name in however narrow a terminal: 80 columns hold the table
MOST_ROWS = 12  # of the summary: what fits on a screen with the layers below


def summary_table(spectrum: Spectrum) -> Table:
    """Largest, second largest and mean condition number of the effective weights, a row a step.

    By both definitions: kappa of Sec. 1.2 and the modified kappa of Sec. 3.4, which the authors' code reports.
    Of more than 12 steps it shows 12, evenly spread, the first and the last among them.
    """
    paper = " (Table 1)" if spectrum.network == "D" else ""
    kind = (
        f"effective weights{paper}"
        if spectrum.operator == "matrix"
        else f"effective weights as operators of stride 1, {spectrum.operator}"
    )
    table = Table(
        title=escape(f"Condition numbers of {spectrum.network}'s {kind}"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    table.add_column("step", justify="right")
    for definition in ("kappa", "modified"):
        for statistic in ("max", "2nd", "mean"):
            table.add_column(f"{definition}\n{statistic}", justify="right")
    T = len(spectrum.steps)
    for t in np.unique(np.linspace(0, T - 1, min(T, MOST_ROWS)).round().astype(int)):
        table.add_row(f"{spectrum.steps[t]}", *(number(values[t]) for values in spectrum.summary.values()))
    return table


def layer_table(spectrum: Spectrum, width: int | None = None, ascii_only: bool = False) -> Table:
    """A row a layer at the last step: matrix, strength, both kappas, five smallest values, a bar of all.

    The values are those of the effective weight; the bar runs from the largest to the smallest, full height
    being the largest. Names are cut to fit in `width` columns, None for as many as they need; `ascii_only` is for
    terminals without block characters.
    """
    table = Table(
        title=f"Layers at step {spectrum.steps[-1]}: effective singular values",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", no_wrap=True)
    for heading in ("matrix", "deg", "kappa", "mod."):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("five smallest", no_wrap=True)
    table.add_column("spectrum", no_wrap=True)
    longest = max(len(layer.name) for layer in spectrum.layers)
    room = longest if width is None else max(width - REST_WIDTH, LEAST_NAME)
    for layer in spectrum.layers:
        effective = layer.effective[-1]
        table.add_row(
            escape(short_name(layer.name, room)),
            f"{layer.shape[0]}x{math.prod(layer.shape[1:])}",
            str(layer.strength[-1]),
            _short_kappa(layer.kappa[-1]),
            _short_kappa(layer.modified_kappa[-1]),
            " ".join(_short_sigma(sigma) for sigma in smallest(effective)[::-1]),
            bar(effective, ASCII_LEVELS if ascii_only else LEVELS),
        )
    return table


def short_name(name: str, width: int) -> str:
    """The name, or the end of one with more letters: in a deep network that is where names differ."""
    return name if len(name) <= width else ".." + name[2 - width :]


def smallest(sigmas: Array) -> Array:
    """The five smallest of descending singular values (the paper's Fig. 1), or all where there are fewer."""
    return sigmas[..., -5:]


def number(value: float) -> str:
    """A condition number with the paper's two decimals; "-" for one that could not be measured."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    return f"{value:.2f}" if value < 1e5 else f"{value:.1e}"


def _short_kappa(value: float) -> str:
    """The same in five characters."""
    if not math.isfinite(value):
        return number(value)
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}" if value < 99999.5 else f"{value:.0e}"


def _short_sigma(sigma: float) -> str:
    """A singular value in four characters: .012, 1.05, 149, 3e-5, and ~0 near the accuracy of 1e-10."""
    if math.isnan(sigma):
        return "-"
    if sigma < 0.95e-9:
        return "~0"
    if 0.00095 <= sigma < 0.9995:
        return f"{sigma:.3f}"[1:]
    if 0.9995 <= sigma < 9999.5:
        return f"{sigma:.{2 if sigma < 9.995 else 1 if sigma < 99.95 else 0}f}"
    mantissa, exponent = f"{sigma:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def bar(sigmas: Array, levels: str = LEVELS) -> str:
    """Descending singular values as a bar of eight characters, each the value at its place over the largest."""
    if not np.isfinite(sigmas).all() or not sigmas[0] > 0:
        return "-"
    places = np.linspace(0, len(sigmas) - 1, BAR_WIDTH).round().astype(int)
    heights = (sigmas[places] / sigmas[0] * (len(levels) - 1)).round().astype(int)
    return "".join(levels[height] for height in heights)
