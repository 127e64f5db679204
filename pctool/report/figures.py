"""Figures that overlay methods: condition numbers, smallest singular values, scores and losses over the steps.

A method is a colour and a dash, its further seeds are thinner lines of the same. The colours are Okabe and
Ito's, chosen to be told apart by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pctool.report.rows import Row
from pctool.report.runs import Run
from pctool.report.tables import title_of
from pctool.spectrum.drawing import DASHES, STYLE, plain_numbers, render, rendered
from pctool.spectrum.normalisation_plots import strength_figure
from pctool.spectrum.plots import heatmap_figure
from pctool.spectrum.reader import Array, LayerSeries, read_spectrum

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MANY_DECADES = 1e3  # over more, the numbers between the powers of ten would overlap
Series = tuple[Any, Any]  # steps and values, as arrays or lists


def overlays(rows: Sequence[Row]) -> dict[str, bytes]:
    """Every figure there is data for, as file name -> content, PNG and SVG."""
    with mpl.rc_context(STYLE):
        drawn = {
            "condition": _figure(rows, CONDITION, "Condition numbers of D's effective weights", log=True, shared=True),
            "smallest": _figure(rows, SMALLEST, "Smallest singular value of any layer of D", shared=True),
            "scores": _figure(rows, _score_panels(rows), "Scores over the steps"),
            "losses": _figure(rows, LOSSES, "Losses"),
        }
        return rendered(drawn)


def spectra_of(run: Run) -> dict[str, bytes]:
    """A run's own spectra as captions -> PNG: its worst layer's as a heat map, and the strengths; {} without any."""
    if run.spectrum is None or not len(run.spectrum.steps):
        return {}
    whole = read_spectrum(run.path / "spectrum.h5")
    with mpl.rc_context(STYLE):
        drawn = {
            "All singular values of the worst-conditioned layer over the steps.": heatmap_figure(whole),
            "The polynomial's degree of each layer over the steps.": strength_figure(whole),
        }
        return {caption: render(figure, "png") for caption, figure in drawn.items() if figure}


Panels = dict[str, Callable[[Row, Run], Series | None]]


def _summary(name: str) -> Callable[[Row, Run], Series | None]:
    return lambda row, run: (run.spectrum.steps, run.spectrum.summary[name]) if run.spectrum else None


def _smallest_of(sigmas: Callable[[LayerSeries], Array]) -> Callable[[Row, Run], Series | None]:
    """Of the layers with more than one singular value: not the head."""

    def series(row: Row, run: Run) -> Series | None:
        layers = run.spectrum.layers if run.spectrum else ()
        values = [sigmas(layer)[:, -1] for layer in layers if layer.raw.shape[1] > 1]
        return (run.spectrum.steps, np.min(values, axis=0)) if run.spectrum and values else None

    return series


def _logged(name: str) -> Callable[[Row, Run], Series | None]:
    def series(row: Row, run: Run) -> Series | None:
        points = [(entry["step"], entry[name]) for entry in run.stats if isinstance(entry.get(name), int | float)]
        return ([step for step, _ in points], [value for _, value in points]) if points else None

    return series


def _scored(metric: str) -> Callable[[Row, Run], Series | None]:
    def series(row: Row, run: Run) -> Series | None:
        found = [(entry["step"], entry.get("scores")) for entry in run.metrics if row.metric == metric]
        points = {step: scores[metric] for step, scores in found if isinstance(scores, dict) and metric in scores}
        return (sorted(points), [points[step] for step in sorted(points)]) if points else None

    return series


def _score_panels(rows: Sequence[Row]) -> Panels:
    """One a distance: those of two networks have no common scale."""
    return {title_of(metric): _scored(metric) for metric in dict.fromkeys(row.metric for row in rows) if metric}


CONDITION: Panels = {
    "largest kappa": _summary("max_kappa"),
    "largest modified kappa": _summary("max_modified_kappa"),
    "mean kappa": _summary("mean_kappa"),
    "mean modified kappa": _summary("mean_modified_kappa"),
}
SMALLEST: Panels = {
    "normalised, SN(W)": _smallest_of(lambda layer: layer.before),
    "effective, g(SN(W))": _smallest_of(lambda layer: layer.effective),
}
LOSSES: Panels = {"D": _logged("loss_d"), "G": _logged("loss_g")}


def _figure(
    rows: Sequence[Row], panels: Panels, title: str, *, log: bool = False, shared: bool = False
) -> Figure | None:
    """None where no run has anything to draw."""
    columns = max(1, min(2, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(7.5, 0.9 + 2.0 * lines + 0.16 * len(rows)), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey="row" if shared else False, squeeze=False)
    handles: dict[str, Any] = {}
    for ax in grid.ravel()[len(panels) :]:
        ax.remove()
    for ax, (name, series) in zip(grid.ravel(), panels.items(), strict=False):
        ax.set_title(name)
        for i, row in enumerate(rows):
            for seed, run in enumerate(row.runs):
                found = series(row, run)
                if found:
                    handles.setdefault(row.label, _line(ax, *found, i, thin=seed > 0))
        if log and ax.lines:
            ax.set_yscale("log")
            ax.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
            low, high = ax.get_ylim()
            ax.yaxis.set_major_formatter(plain_numbers())
            ax.yaxis.set_minor_formatter(plain_numbers() if high < MANY_DECADES * low else NullFormatter())
    if not handles:
        return None
    for ax in grid[-1]:
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    figure.suptitle(title, fontsize=10)
    figure.legend(handles.values(), handles, loc="outside lower left", handlelength=3.0)
    return figure


def _line(ax: Axes, steps: Any, values: Any, i: int, *, thin: bool) -> Any:
    """A gap where a value is not finite; points where there are few."""
    shown = np.where(np.isfinite(np.asarray(values, dtype=float)), values, np.nan)
    style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
    style |= {"linewidth": 0.7 if thin else 1.5, "marker": "o" if len(shown) < 4 else None, "markersize": 3.5}
    return ax.plot(steps, shown, **style)[0]
