"""Figures: what they draw, that they come out, and that the same spectrum gives the same bytes."""

from __future__ import annotations

import dataclasses
import io
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pctool.errors import InputError
from pctool.spectrum.drawing import STYLE
from pctool.spectrum.measure import measure
from pctool.spectrum.normalisation_plots import ratio_figure, strength_figure
from pctool.spectrum.plots import condition_figure, evolution_figure, figures, heatmap_figure, smallest_figure
from pctool.spectrum.reader import Spectrum, parse_spectrum
from pctool.spectrum.store import file_image

from .samples import row, states


def _spectrum(steps: int = 3, normalised: bool = True) -> Spectrum:
    return parse_spectrum(file_image([row(step, normalised) for step in range(steps)], "x", "D"), "x")


def test_the_smallest_figure_draws_the_five_smallest_effective_values() -> None:
    """A panel a layer whose lines are the last five columns of `effective`, smallest first (Fig. 1)."""
    spectrum = _spectrum()
    panels = smallest_figure(spectrum).axes
    assert [ax.get_title() for ax in panels] == [layer.name for layer in spectrum.layers]
    for ax, layer in zip(panels, spectrum.layers, strict=True):
        drawn = np.array([line.get_ydata() for line in ax.lines])
        assert (drawn == layer.effective[:, ::-1][:, :5].T).all()
        assert ax.get_ylim()[0] == 0.0


def test_the_condition_figure_draws_both_kappas_of_every_layer() -> None:
    """A line a layer, on logarithmic axes (Fig. 2)."""
    spectrum = _spectrum()
    left, right = condition_figure(spectrum).axes
    for ax, key in ((left, "kappa"), (right, "modified_kappa")):
        assert ax.get_yscale() == "log"
        for line, layer in zip(ax.lines, spectrum.layers, strict=True):
            assert np.array_equal(line.get_ydata(), getattr(layer, key))
            assert line.get_label() == layer.name


def test_the_heat_map_is_of_the_worst_conditioned_layer() -> None:
    """The largest modified kappa of the raw weight at the last step names the layer; SN(W) beside the effective, from
    step 0 on."""
    spectrum = _spectrum()
    worst = max(spectrum.layers, key=lambda layer: float(layer.modified_kappa_raw[-1]))
    figure = heatmap_figure(spectrum)
    assert worst.name in figure.get_suptitle()
    assert figure.axes[0].get_xlim()[0] == 0.0
    before, after = (ax.collections[0].get_array() for ax in figure.axes[:2])
    assert worst.normalized is not None
    assert np.allclose(before, worst.normalized.T.clip(min=before.min()))
    assert np.allclose(after, worst.effective.T.clip(min=after.min()))


def test_the_ratio_figure_draws_every_layer_and_shades_what_is_beyond_the_fit() -> None:
    """sigma / sigma_hat over the steps (Fig. 5); the shade begins at 1.1; nothing without normalisation."""
    spectrum = _spectrum()
    figure = ratio_figure(spectrum)
    assert figure is not None
    (ax,) = figure.axes
    for line, layer in zip(ax.lines, spectrum.layers, strict=True):
        assert np.array_equal(line.get_ydata(), layer.sigma_over_sigma_hat)
    assert ax.patches[0].get_y() == 1.1
    assert ratio_figure(_spectrum(normalised=False)) is None


def test_the_strength_figure_is_a_strip_a_layer() -> None:
    """Its cells are the degrees, its ticks the layers; colours differ for every degree there is."""
    spectrum = _spectrum()
    chosen = (1, 3, 5, 7, 9)
    layers = [
        dataclasses.replace(spectrum.layers[0], name=str(degree), strength=np.full(3, degree)) for degree in chosen
    ]
    figure = strength_figure(dataclasses.replace(spectrum, layers=tuple(layers)))
    assert figure is not None
    ax = figure.axes[0]
    mesh = ax.collections[0]
    assert (mesh.get_array() == np.repeat(chosen, 3).reshape(5, 3)).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(degree) for degree in chosen]
    assert len({tuple(colour) for colour in mesh.to_rgba(np.array(chosen))}) == 5
    assert strength_figure(_spectrum(normalised=False)) is None


@pytest.mark.parametrize(("steps", "normalised"), [(1, True), (3, False)])
def test_every_figure_comes_out_as_png_and_svg(steps: int, normalised: bool) -> None:
    """Also for a single step, and without normalisation."""
    made = figures(_spectrum(steps, normalised))
    names = {"condition", "heatmap", "smallest"} | ({"ratio", "strength"} if normalised else set())
    assert set(made) == {f"{name}.{end}" for name in names for end in ("png", "svg")}
    for name, data in made.items():
        if name.endswith("png"):
            image = Image.open(io.BytesIO(data))
            assert image.width >= 600
            colours = image.convert("RGB").getcolors(2**24)
            assert colours is not None
            assert len(colours) > 50
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")


def test_the_same_spectrum_gives_the_same_bytes() -> None:
    """No date, no random ids: a figure that is there already need not be overwritten."""
    spectrum = _spectrum()
    one_layer = dataclasses.replace(spectrum, layers=spectrum.layers[:1])
    assert figures(one_layer) == figures(one_layer)


def test_nan_and_inf_leave_gaps() -> None:
    """A layer that was never measured, and one of rank 0, do not stop any figure."""
    broken = states(0)[:2]
    broken[0].weight[0, 0, 0, 0] = math.nan
    broken[1] = dataclasses.replace(broken[1], weight=broken[1].weight * 0)
    made = parse_spectrum(file_image([measure(0, broken), measure(1, broken)], "x", "D"), "x")
    assert len(figures(made)) == 10
    only = dataclasses.replace(made, layers=made.layers[:1])
    assert len(figures(only)) == 10


def test_the_evolution_figure_is_written_whole(tmp_path: Path) -> None:
    """A PNG with the title's run; an older picture is replaced; nothing else is left in the folder."""
    source, picture = tmp_path / "s.h5", tmp_path / "out" / "evolution.png"
    source.write_bytes(file_image([row(step) for step in range(3)], "x", "D"))
    evolution_figure(source, picture, "APC")
    first = picture.read_bytes()
    assert Image.open(io.BytesIO(first)).format == "PNG"
    source.write_bytes(file_image([row(step) for step in range(5)], "x", "D"))
    evolution_figure(source, picture, "APC")
    assert picture.read_bytes() != first
    assert [path.name for path in picture.parent.iterdir()] == ["evolution.png"]


def test_the_evolution_of_no_spectrum_is_refused(tmp_path: Path) -> None:
    """Text in the file's place: InputError, no picture."""
    (tmp_path / "s.h5").write_text("x")
    with pytest.raises(InputError, match=r"s\.h5"):
        evolution_figure(tmp_path / "s.h5", tmp_path / "e.png", "x")
    assert not (tmp_path / "e.png").exists()


def test_no_display_and_no_pyplot_are_needed() -> None:
    """Importing the figures leaves pyplot, and with it any window system, alone."""
    code = "import pctool.spectrum.plots, sys; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _renamed(spectrum: Spectrum, names: list[str]) -> Spectrum:
    one = spectrum.layers[0]
    return dataclasses.replace(spectrum, layers=tuple(dataclasses.replace(one, name=name) for name in names))


def _legend(figure: Figure | None) -> list[str]:
    assert figure is not None
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_layer_is_in_the_legend() -> None:
    """Also one that begins with "_", which Matplotlib would hide; of long names the end."""
    spectrum = _renamed(_spectrum(), ["_stem", "_blocks.0", "encoder.stage10.blocks.11.residual_branch.conv2"])
    for figure in (condition_figure(spectrum), ratio_figure(spectrum)):
        assert _legend(figure) == ["_stem", "_blocks.0", "..s.11.residual_branch.conv2"]


def test_a_deep_networks_figures_keep_their_axes() -> None:
    """54 layers of long names: the axes are as wide as beside a short legend, and the title stays off the legend."""
    with mpl.rc_context(STYLE):
        widths = []
        for names in (["conv"], [f"encoder.stage{i // 5}.blocks.{i}.residual_branch.conv{i}" for i in range(54)]):
            figure = condition_figure(_renamed(_spectrum(), names))
            figure.draw_without_rendering()
            widths.append(figure.axes[0].get_window_extent().width)
            assert not figure._suptitle.get_window_extent().overlaps(figure.legends[0].get_window_extent())
    assert widths[1] > 0.75 * widths[0]


def test_names_hold_no_mathematics() -> None:
    """A "$" is a letter like any other, in every figure."""
    made = figures(_renamed(_spectrum(), ["a$\\frac{$"]))
    assert all(
        b"a$\\frac{$" in made[f"{name}.svg"] for name in ("smallest", "condition", "strength", "ratio", "heatmap")
    )
    assert not any(b"mathdefault" in data for data in made.values())
