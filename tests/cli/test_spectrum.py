"""`pctool spectrum` from its arguments to its files, its answer and its exit code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pctool.cli.main import run
from pctool.core import checkpoint as checkpoints
from pctool.core.layers.state import LayerState
from pctool.errors import InputError
from pctool.spectrum.reader import read_spectrum
from tests.spectrum.samples import SHAPES, row, states


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with runs/demo and its checkpoints of steps 10 and 20, standing for `states(step)`."""
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "runs" / "demo" / "checkpoints"
    saved.mkdir(parents=True)
    for step in (10, 20):
        (saved / f"{step:08d}.pt").write_text(str(step))

    def read(path: Path) -> dict[str, Any]:
        if not path.read_text().isdigit():
            raise InputError(f"{path} is no checkpoint; give a .pt file")
        return {"step": int(path.read_text())}

    def layer_states(checkpoint: dict[str, Any], network: str) -> list[LayerState]:
        made = states(checkpoint["step"], normalised=network == "D")
        if (tmp_path / "broken").exists() and checkpoint["step"] == 20:
            made[1].weight[0, 0, 0, 0] = math.nan
        return made

    monkeypatch.setattr(checkpoints, "read", read)
    monkeypatch.setattr(checkpoints, "layer_states", layer_states)
    return tmp_path


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, after checking that stdout is empty."""
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def test_a_run_folder_becomes_one_file_and_two_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """demo.spectrum.h5 in the current folder, equal to a direct measurement; the tables, the file, the next command."""
    assert run(["spectrum", "runs/demo"]) == 0
    spectrum = read_spectrum(folder / "demo.spectrum.h5")
    assert spectrum.steps.tolist() == [10, 20]
    assert (spectrum.source, spectrum.network, spectrum.operator) == ("runs/demo", "D", "matrix")
    for layer, expected in zip(spectrum.layers, row(20).layers, strict=True):
        assert (layer.effective[1] == expected.effective).all()
    out = capsys.readouterr().out
    assert all(name in out for name in SHAPES)
    assert f"{row(20).summary['max_kappa']:.2f}" in out
    assert out.splitlines()[-2:] == [
        "all singular values: demo.spectrum.h5",
        "next: pctool spectrum runs/demo --plot figures",
    ]
    assert max(map(len, out.splitlines())) <= 80


def test_the_same_command_again_succeeds_and_changes_nothing(folder: Path) -> None:
    """The same content is no reason to refuse."""
    assert run(["spectrum", "runs/demo"]) == 0
    path = folder / "demo.spectrum.h5"
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert run(["spectrum", "runs/demo"]) == 0
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_another_content_is_overwritten_only_with_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 names the file and --force; then --force replaces it."""
    path = folder / "demo.spectrum.h5"
    path.write_text("mine")
    assert run(["spectrum", "runs/demo", "--plot", "figures"]) == 2
    assert "demo.spectrum.h5 exists with other content; add --force" in _error(capsys)
    assert path.read_text() == "mine"
    assert not (folder / "figures").exists()
    assert run(["spectrum", "runs/demo", "--force"]) == 0
    assert h5py.is_hdf5(path)


def test_plot_writes_all_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three figures as PNG and SVG, and another next command."""
    assert run(["spectrum", "runs/demo", "--plot", "figures", "--out", "sub/x.h5", "--layers", "*conv*"]) == 0
    assert _files(folder) >= {
        "sub/x.h5",
        *(f"figures/{name}.{end}" for name in ("smallest", "condition", "heatmap") for end in ("png", "svg")),
    }
    assert capsys.readouterr().out.splitlines()[-2:] == ["figures: figures", "next: pctool eval runs/demo"]
    assert len(read_spectrum(folder / "sub/x.h5").layers) == 2


def test_json_is_one_strict_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Summary a step, layers at the last one, and nothing else on stdout."""
    assert run(["spectrum", "runs/demo/checkpoints/00000020.pt", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["out"] == "00000020.spectrum.h5"
    assert answer["steps"] == [20]
    measured = row(20)
    assert answer["summary"] == {name: [value] for name, value in measured.summary.items()}
    for layer, expected in zip(answer["layers"], measured.layers, strict=True):
        assert layer["name"] == expected.name
        assert layer["strength"] == expected.strength
        assert layer["kappa"] == expected.kappa
        assert layer["sigma_over_sigma_hat"] == expected.sigma_over_sigma_hat
        assert layer["smallest"] == expected.effective[::-1][:5].tolist()


def test_a_generator_has_no_normalisation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--network G: no sigma_hat in the answer, strength 0, and the flag is repeated in the next command."""
    assert run(["spectrum", "runs/demo", "--network", "G", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {layer["strength"] for layer in answer["layers"]} == {0}
    assert {layer["sigma_over_sigma_hat"] for layer in answer["layers"]} == {None}
    assert run(["spectrum", "runs/demo", "--network", "G", "--layers", "b*", "--out", "g.h5"]) == 0
    follow = "next: pctool spectrum runs/demo --network G --layers 'b*' --out g.h5 --plot figures"
    assert capsys.readouterr().out.splitlines()[-1] == follow


def test_a_layer_that_is_not_finite_ends_in_6_after_everything_was_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN in the file, null in the answer, the layer, step and reason on stderr, exit 6."""
    (folder / "broken").touch()
    assert run(["spectrum", "runs/demo", "--json", "--plot", "figures"]) == 6
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["layers"][1]["kappa"] is None
    assert "1 non-finite of 324" in answer["layers"][1]["problem"]
    assert answer["summary"]["max_kappa"][0] == row(10).summary["max_kappa"]
    assert answer["summary"]["max_kappa"][1] is None
    assert "step 20: blocks.0.conv2: the matrix has 1 non-finite of 324 entries" in printed.err
    layer = read_spectrum(folder / "demo.spectrum.h5").layers[1]
    assert np.isfinite(layer.raw[0]).all()
    assert np.isnan(layer.raw[1]).all()
    assert len(list((folder / "figures").iterdir())) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no checkpoint at nowhere"),
        (["runs"], "no checkpoint at runs"),
        (["runs/*/none*.pt"], "no checkpoint at"),
        (["notes.txt"], "notes.txt is no checkpoint"),
        (["runs/demo", "copy.pt"], "both of step 10"),
        (["runs/demo", "--layers", "conv9"], "no layer fits 'conv9'"),
        (["runs/demo", "--network", "X"], "network"),
        (["runs/demo", "--out", "runs"], "is a folder"),
        (["runs/demo", "--out", "runs/demo/checkpoints/00000010.pt", "--force"], "one of the checkpoints"),
        (["runs/demo", "--plot", "notes.txt"], "notes.txt is a file"),
        ([], "CKPT"),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit 2, the cause in one line on stderr, and the folder as it was."""
    (folder / "notes.txt").write_text("hello")
    (folder / "copy.pt").write_text("10")
    before = _files(folder)
    assert run(["spectrum", *arguments]) == 2
    assert message in _error(capsys)
    assert _files(folder) == before


def test_a_place_that_cannot_be_written_ends_in_5(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out below a file: exit 5 with the path."""
    (folder / "file").touch()
    assert run(["spectrum", "runs/demo", "--out", "file/x.h5"]) == 5
    assert "file/x.h5" in _error(capsys)
