"""The picture of `fit-poly --plot`: the paper's Fig. 3, and what the polynomials do to small singular values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pctool.core.polynomial import OddPolynomial
from pctool.core.polynomial_report import LAYER_UPPER
from pctool.errors import InputError
from pctool.fitting.text import target_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf", "svg")
# Okabe and Ito's palette, told apart by colour-blind people too; the dashes tell the lines apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (6, 2)), (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)), (0, (2, 2)))


def format_of(name: str) -> str:
    """The picture's format by the name's ending. Raises InputError for another than png, pdf, svg."""
    kind = name.lower().rpartition(".")[2]
    if kind not in FORMATS:
        raise InputError(f"--plot {name}: the name must end in .png, .pdf or .svg")
    return kind


def draw(polynomials: Sequence[OddPolynomial], name: str, taus: Sequence[float] = ()) -> bytes:
    """The picture as a file's bytes; the same polynomials give the same bytes. `name` chooses the format.

    Left: each polynomial over its target. Right: singular value in, singular value out, on logarithmic axes,
    where a slope below 1 is a smaller condition number. A ladder's lines are named by its `taus`. Raises
    InputError for a name's ending, or for more polynomials than there are colours.
    """
    kind = format_of(name)
    if len(polynomials) > len(COLOURS):
        raise InputError(f"--plot draws {len(COLOURS)} polynomials at most, got {len(polynomials)}; leave some out")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "pctool", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(10.5, 4.6), dpi=150)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.06, right=0.985, bottom=0.12, top=0.92, wspace=0.2)
        labels = [f"above {tau:g}: {_label(g)}" for tau, g in zip(taus, polynomials, strict=True)] if taus else None
        _targets_and_fits(left, polynomials)
        _in_and_out(right, polynomials, labels or [_label(g) for g in polynomials])
        buffer = io.BytesIO()
        dateless = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
        figure.savefig(buffer, format=kind, metadata=dateless)
    return buffer.getvalue()


def _label(g: OddPolynomial) -> str:
    return f"degree {g.degree}" + (f", {target_name(g.fit)}" if g.fit else "")


def _targets_and_fits(axes: Axes, polynomials: Sequence[OddPolynomial]) -> None:
    uppers = [g.fit.gamma_upper if g.fit else LAYER_UPPER for g in polynomials]
    for g, upper, colour, dash in zip(polynomials, uppers, COLOURS, DASHES, strict=False):
        x = np.linspace(0.0, upper, 801)
        axes.plot(x, g(x), color=colour, linestyle=dash, linewidth=2)
        if g.fit:
            covered = np.unique([*x[x >= g.fit.gamma_lower], *g.fit.function().x])
            covered = covered[(covered >= g.fit.gamma_lower) & (covered <= upper)]
            axes.plot(covered, g.fit.function()(covered), color=colour, linewidth=4, alpha=0.25)
    axes.set(xlim=(0, max(uppers)), xlabel="singular value of SN(W)", ylabel="g", title="Targets (pale) and fits")


def _in_and_out(axes: Axes, polynomials: Sequence[OddPolynomial], labels: Sequence[str]) -> None:
    x = np.geomspace(1e-3, 1.0, 801)
    axes.loglog(x, x, color="0.5", linewidth=1, label="spectral normalisation alone")
    for g, label, colour, dash in zip(polynomials, labels, COLOURS, DASHES, strict=False):
        axes.loglog(x, np.abs(g(x)), color=colour, linestyle=dash, linewidth=2, label=label)
    axes.set(xlim=(1e-3, 1), ylim=(1e-3, 2), xlabel="singular value in", ylabel="singular value out")
    axes.set_title("What becomes of a singular value")
    axes.legend(loc="lower right")
