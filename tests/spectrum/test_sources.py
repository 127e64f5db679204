"""From files, folders and patterns to rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pctool.core import checkpoint as checkpoints
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.layers.state import LayerState
from pctool.errors import InputError
from pctool.spectrum.sources import find_checkpoints, measure_checkpoints

from .samples import row, states


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with checkpoints of steps 0, 10 and 200, which stand for `states(step)`."""
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    (folder / "checkpoints").mkdir(parents=True)
    for step in (0, 10, 200):
        (folder / "checkpoints" / f"{step:08d}.pt").write_text(str(step))

    def read(path: Path) -> dict[str, Any]:
        if not path.read_text().isdigit():
            raise InputError(f"{path} is no checkpoint")
        return {"step": int(path.read_text())}

    def layer_states(checkpoint: dict[str, Any], network: str) -> list[LayerState]:
        return states(checkpoint["step"], normalised=network == "D")

    monkeypatch.setattr(checkpoints, "read", read)
    monkeypatch.setattr(checkpoints, "layer_states", layer_states)
    return folder


def test_folders_files_and_patterns_are_found_once_each(run: Path) -> None:
    """A run folder gives its checkpoints by rising step; what is named twice counts once."""
    files = [run / "checkpoints" / f"{step:08d}.pt" for step in (0, 10, 200)]
    assert find_checkpoints(["run"]) == files
    assert find_checkpoints(["run/checkpoints"]) == files
    assert find_checkpoints(["r*/check*/*1*.pt", "./run"]) == [files[1], files[0], files[2]]
    assert find_checkpoints(["**/*.pt"]) == files
    assert find_checkpoints([str(files[2]), str(files[0])]) == [files[2], files[0]]


@pytest.mark.parametrize("text", ["nothing", "r*/none*.pt", "run/checkpoints/none"])
def test_an_input_without_checkpoints_is_named(run: Path, text: str) -> None:
    """No such path, an empty pattern, an empty folder: the message says what to give."""
    (run / "checkpoints" / "none").mkdir()
    with pytest.raises(InputError, match="run folder"):
        find_checkpoints([text])


def test_rows_are_in_the_order_of_steps_and_equal_a_direct_measurement(run: Path) -> None:
    """Whatever the order of the files; `advance` counts every file."""
    counted: list[int] = []
    paths = find_checkpoints(["run"])
    rows = measure_checkpoints(paths[::-1], advance=counted.append)
    assert [each.step for each in rows] == [0, 10, 200]
    assert counted == [1, 1, 1]
    for each in rows:
        for got, expected in zip(each.layers, row(each.step).layers, strict=True):
            assert (got.effective == expected.effective).all()


def test_the_network_and_the_pattern_are_passed_on(run: Path) -> None:
    """G has no normalisation here, and only the layers asked for are measured."""
    rows = measure_checkpoints(find_checkpoints(["run"]), "G", "*conv1")
    assert [layer.name for layer in rows[0].layers] == ["blocks.0.conv1"]
    assert rows[0].layers[0].normalized is None


def test_two_files_of_one_step_are_refused(run: Path) -> None:
    """Steps are unique in a spectrum: both files are named."""
    (run / "copy.pt").write_text("10")
    with pytest.raises(InputError, match=r"00000010\.pt and run/copy\.pt are both of step 10"):
        measure_checkpoints(find_checkpoints(["run", "run/copy.pt"]))


@pytest.mark.parametrize("difference", ["layers", "normalisation"])
def test_networks_that_differ_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch, difference: str) -> None:
    """Another architecture, or one with and one without normalisation: both files are named."""

    def layer_states(checkpoint: dict[str, Any], network: str) -> list[LayerState]:
        if checkpoint["step"] < 200:
            return states(0)
        return states(0)[1:] if difference == "layers" else states(0, normalised=False)

    monkeypatch.setattr(checkpoints, "layer_states", layer_states)
    with pytest.raises(InputError, match=r"00000000\.pt and .*00000200\.pt hold different networks"):
        measure_checkpoints(find_checkpoints(["run"]))


def test_a_file_that_is_no_checkpoint_is_refused(run: Path) -> None:
    """Whatever `checkpoint.read` refuses."""
    (run / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt is no checkpoint"):
        measure_checkpoints(find_checkpoints(["run/notes.txt"]))


def test_effective_spectra_are_those_of_the_weights_the_network_runs_with(tmp_path: Path) -> None:
    """A real checkpoint: `effective` is NumPy's SVD of what the preconditioner hands to the forward pass."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1), torch.nn.Linear(4, 1))
    preconditioner = Preconditioner(network, "fpc")
    weights = preconditioner.weights()
    path = tmp_path / "3.pt"
    saved = {"step": 3, "config": "{}", "D": network.state_dict(), "preconditioner": preconditioner.state()}
    checkpoints.write(path, saved)
    (measured,) = measure_checkpoints([path])
    assert measured.step == 3
    assert [layer.strength for layer in measured.layers] == [7, 7, 1]
    for layer in measured.layers:
        W_hat = weights[f"{layer.name}.weight"].detach().flatten(1).double().numpy()
        assert layer.effective == pytest.approx(np.linalg.svd(W_hat, compute_uv=False), abs=2e-6)  # float32 forward
