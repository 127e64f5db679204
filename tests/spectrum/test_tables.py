"""What is printed fits, and says what was measured."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from pctool.spectrum.reader import Spectrum, parse_spectrum
from pctool.spectrum.store import file_image
from pctool.spectrum.tables import bar, layer_table, number, smallest, summary_table

from .samples import SHAPES, row


def _spectrum(steps: int = 2) -> Spectrum:
    return parse_spectrum(file_image([row(step) for step in range(steps)], "x", "D"), "x")


def _lines(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, no_color=True, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def test_the_summary_has_both_definitions_in_the_papers_order() -> None:
    """A row a step: max, second and mean kappa, then the modified ones, with two decimals."""
    lines = _lines(summary_table(_spectrum()))
    last = row(1).summary
    expected = [last[f"{s}_{d}"] for d in ("kappa", "modified_kappa") for s in ("max", "second_max", "mean")]
    assert lines[-1].split() == ["1", *(f"{value:.2f}" for value in expected)]
    assert "D" in lines[0]


def test_a_long_run_shows_twelve_steps_with_both_ends() -> None:
    """Of 40 steps 12 are shown, the first and the last among them."""
    steps = [line.split()[0] for line in _lines(summary_table(_spectrum(40)))[3:]]
    assert len(steps) == 12
    assert (steps[0], steps[-1]) == ("0", "39")


def test_every_layer_has_its_row_in_80_columns() -> None:
    """Matrix, strength, both kappas, the smallest values from the smallest, and the bar; nothing is cut off."""
    lines = _lines(layer_table(_spectrum(), 80))
    assert max(map(len, lines)) <= 80
    for line, name, layer in zip(lines[2:], SHAPES, row(1).layers, strict=True):
        cells = line.split()
        shape = SHAPES[name]
        assert cells[:3] == [name, f"{shape[0]}x{math.prod(shape[1:])}", str(layer.strength)]
        assert float(cells[3]) == pytest.approx(layer.kappa, rel=5e-3)
        assert float(cells[4]) == pytest.approx(layer.modified_kappa, rel=5e-3)
        assert [float(cell) for cell in cells[5:-1]] == pytest.approx(layer.effective[::-1][:5], abs=6e-3)
        assert "…" not in line


def test_the_widest_values_still_fit() -> None:
    """Long names, 1024 x 9216 matrices, huge kappas and tiny values fit in 80 columns."""
    spectrum = _spectrum()
    wide = np.tile(np.r_[1.0, np.geomspace(9e-9, 3e-12, 5)], (2, 1))
    layer = dataclasses.replace(
        spectrum.layers[1],
        name="a.module.far.down.in.a.network.conv",
        shape=(1024, 1024, 3, 3),
        effective=wide,
        kappa=np.full(2, 3.2e11),
        modified_kappa=np.full(2, np.inf),
    )
    long = dataclasses.replace(spectrum, layers=(layer,))
    line = _lines(layer_table(long, 80))[-1]
    assert len(line) <= 80
    assert line.split()[:6] == [".." + layer.name[-15:], "1024x9216", "7", "3e+11", "inf", "~0"]
    assert "…" not in line
    assert _lines(layer_table(long, 100), 100)[-1].split()[0] == layer.name  # a wider terminal
    assert _lines(layer_table(long), 200)[-1].split()[0] == layer.name  # no terminal, any width


def test_layers_that_could_not_be_measured_show_a_dash() -> None:
    """NaN is '-', in every column."""
    spectrum = _spectrum()
    nan = np.full(2, np.nan)
    layer = dataclasses.replace(spectrum.layers[0], effective=np.full((2, 6), np.nan), kappa=nan, modified_kappa=nan)
    line = _lines(layer_table(dataclasses.replace(spectrum, layers=(layer,))))[-1]
    assert line.split()[3:] == ["-"] * 8


def test_without_block_characters_everything_is_ascii() -> None:
    """For terminals of another encoding."""
    assert "\n".join(_lines(layer_table(_spectrum(), ascii_only=True))).isascii()


def test_large_singular_values_keep_their_digits() -> None:
    """In four characters, as raw weights without normalisation have them."""
    values = np.array([[12345.0, 9999.4, 149.6, 95.04, 14.96, 9.99]])
    layer = dataclasses.replace(_spectrum(1).layers[0], effective=values)
    line = _lines(layer_table(dataclasses.replace(_spectrum(1), layers=(layer,))))[-1]
    assert line.split()[5:10] == ["9.99", "15.0", "95.0", "150", "9999"]


def test_the_bar_falls_from_the_largest_to_the_smallest() -> None:
    """Eight places, full height for the largest, the lowest level for zero."""
    assert bar(np.linspace(1.0, 0.0, 64)) == "█▇▆▅▄▃▂▁"
    assert bar(np.ones(3)) == "████████"
    assert bar(np.zeros(3)) == "-"
    assert bar(np.array([np.nan, 1.0])) == "-"


def test_numbers_by_hand() -> None:
    """Two decimals as in the paper, 'inf' and '-' for what is not finite."""
    assert [number(value) for value in (113.546, 1.0, 2.5e7, math.inf, math.nan)] == [
        "113.55",
        "1.00",
        "2.5e+07",
        "inf",
        "-",
    ]


def test_the_five_smallest() -> None:
    """The tail of descending values, per step; all where there are fewer than five."""
    assert smallest(np.arange(9.0)[::-1]).tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert smallest(np.ones((2, 3))).shape == (2, 3)
