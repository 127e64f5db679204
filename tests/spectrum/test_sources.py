"""From files, folders and patterns to rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pctool
from pctool.core import checkpoint as checkpoints
from pctool.core.layers.preconditioner import Preconditioner
from pctool.errors import InputError
from pctool.spectrum.sources import Measured, Request, Unread, find_checkpoints, measure_all, measure_file, merged

from .samples import row, saved, write_checkpoint


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with checkpoints of steps 0, 10 and 200, which hold `saved(step)`."""
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    for step in (0, 10, 200):
        write_checkpoint(folder / "checkpoints" / f"{step:08d}.pt", step)
    return folder


def _measured(paths: list[Path], request: Request = Request(), jobs: int = 1) -> list[Measured]:  # noqa: B008
    results = list(measure_all(paths, request, jobs))
    assert all(isinstance(result, Measured) for result in results), results
    return [result for result in results if isinstance(result, Measured)]


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


def test_a_run_without_checkpoints_points_to_what_it_recorded(tmp_path: Path) -> None:
    """Its spectrum.h5 can be shown instead."""
    (tmp_path / "spectrum.h5").touch()
    with pytest.raises(InputError, match=r"recorded is in .*spectrum\.h5, give that"):
        find_checkpoints([str(tmp_path)])


def test_rows_are_in_the_order_of_steps_and_equal_a_direct_measurement(run: Path) -> None:
    """Whatever the order of the files."""
    network, rows = merged(_measured(find_checkpoints(["run"])[::-1]))
    assert network == "D"
    assert [each.step for each in rows] == [0, 10, 200]
    for each in rows:
        for got, expected in zip(each.layers, row(each.step).layers, strict=True):
            assert (got.effective == expected.effective).all()


def test_two_jobs_give_what_one_gives(run: Path) -> None:
    """Processes of their own, the same bits: of the raw values and of everything behind them."""
    paths = find_checkpoints(["run"])
    one, two = merged(_measured(paths, jobs=1))[1], merged(_measured(paths, jobs=2))[1]
    assert [each.step for each in two] == [0, 10, 200]
    for left, right in zip(one, two, strict=True):
        assert left.summary == right.summary
        for a, b in zip(left.layers, right.layers, strict=True):
            assert (a.effective == b.effective).all()
            assert a.sigma_over_sigma_hat == b.sigma_over_sigma_hat


def test_what_is_asked_to_stop_stops(run: Path) -> None:
    """No file is begun after the request."""
    asked = iter([False, True])
    assert len(list(measure_all(find_checkpoints(["run"]), Request(), stopped=lambda: next(asked)))) == 1


def test_the_network_and_the_pattern_are_passed_on(run: Path) -> None:
    """G has no normalisation here, and only the layers asked for are measured."""
    _, rows = merged(_measured(find_checkpoints(["run"]), Request("G", "*conv1")))
    assert [layer.name for layer in rows[0].layers] == ["blocks.0.conv1"]
    assert rows[0].layers[0].normalized is None


def test_two_files_of_one_step_are_refused(run: Path) -> None:
    """Steps are unique in a spectrum: both files are named. Equal ones, as best.pt may be, count once."""
    write_checkpoint(run / "copy.pt", 10)
    assert len(merged(_measured(find_checkpoints(["run", "run/copy.pt"])))[1]) == 3
    write_checkpoint(run / "copy.pt", 10, bad=True)
    with pytest.raises(InputError, match=r"00000010\.pt and run/copy\.pt are both of step 10"):
        merged(_measured(find_checkpoints(["run", "run/copy.pt"])))


@pytest.mark.parametrize("difference", ["layers", "normalisation"])
def test_networks_that_differ_are_refused(run: Path, difference: str) -> None:
    """Another architecture, or one with and one without normalisation: both files are named."""
    weights, beside = saved(200)
    if difference == "layers":
        del weights["blocks.0.conv1.weight"]
    else:
        beside.clear()
    path = run / "checkpoints" / "00000200.pt"
    checkpoints.write(path, {"step": 200, "config": "{}", "D": weights, "preconditioner": beside})
    with pytest.raises(InputError, match=r"00000000\.pt and .*00000200\.pt hold different networks"):
        merged(_measured(find_checkpoints(["run"])))


def test_a_file_that_is_no_checkpoint_is_named_with_its_reason(run: Path) -> None:
    """It does not stop the others: the caller decides."""
    (run / "notes.txt").write_text("hello")
    result = measure_file(run / "notes.txt", Request())
    assert isinstance(result, Unread)
    assert "notes.txt is damaged or no weights file" in result.reason


def test_effective_spectra_are_those_of_the_weights_the_network_runs_with(tmp_path: Path) -> None:
    """A real checkpoint: `effective` is NumPy's SVD of what the preconditioner hands to the forward pass."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1), torch.nn.Linear(4, 1))
    preconditioner = Preconditioner(network, "fpc")
    weights = preconditioner.weights()
    path = tmp_path / "3.pt"
    state = {"step": 3, "config": "{}", "D": network.state_dict(), "preconditioner": preconditioner.state()}
    checkpoints.write(path, state)
    _, (measured,) = merged(_measured([path]))
    assert measured.step == 3
    assert [layer.strength for layer in measured.layers] == [7, 7, 1]
    for layer in measured.layers:
        W_hat = weights[f"{layer.name}.weight"].detach().flatten(1).double().numpy()
        assert layer.effective == pytest.approx(np.linalg.svd(W_hat, compute_uv=False), abs=2e-6)  # float32 forward


def test_a_plug_ins_file_shows_its_polynomial(tmp_path: Path) -> None:
    """A state dict of `pctool.precondition_`: degree, estimate and effective values are those of the model itself."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 1))
    pctool.precondition_(net, "fpc", degree=9)
    torch.save(net.state_dict(), tmp_path / "D.pt")
    measured = measure_file(tmp_path / "D.pt", Request())
    assert isinstance(measured, Measured)
    assert measured.row is not None
    found = {layer.name: layer for layer in measured.row.layers}
    assert (found["0"].strength, found["2"].strength) == (9, 1)
    for name, sigmas in pctool.singular_values(net).items():
        np.testing.assert_allclose(found[name].effective, sigmas, rtol=1e-5)
