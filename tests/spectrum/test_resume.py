"""An interrupted measurement is readable, and what continues it ends in the same bytes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pctool.cli.main import run
from pctool.spectrum import sources
from pctool.spectrum.reader import read_spectrum
from pctool.spectrum.resume import already_measured, rows_of, unfinished_image
from pctool.spectrum.sources import Measured, Request, measure_file
from pctool.spectrum.store import file_image

from .samples import row, write_checkpoint

STEPS = (0, 10, 20, 30, 40)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with five checkpoints in `run`."""
    monkeypatch.chdir(tmp_path)
    for step in STEPS:
        write_checkpoint(tmp_path / "run" / "checkpoints" / f"{step:08d}.pt", step)
    return tmp_path


class _Interrupting:
    """Measures as ever; sends this process a signal during the file of a given count, and counts."""

    def __init__(self, number: signal.Signals, during: int) -> None:
        self.number, self.during, self.count = number, during, 0

    def __call__(self, path: Path, request: Request, threads: int = 1) -> object:
        self.count += 1
        if self.count == self.during:
            os.kill(os.getpid(), self.number)
        return measure_file(path, request, threads)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_interrupted_continues_to_the_same_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Exit 75 with three rows readable; the same command measures two more, and the bytes are those of one go."""
    assert run(["spectrum", "run", "--out", "whole.h5"]) == 0
    interrupting = _Interrupting(number, during=3)
    monkeypatch.setattr(sources, "measure_file", interrupting)
    assert run(["spectrum", "run", "--out", "x.h5"]) == 75
    assert "interrupted after 3 of 5 checkpoints, kept in x.h5" in capsys.readouterr().err
    assert read_spectrum(folder / "x.h5").steps.tolist() == [0, 10, 20]
    assert run(["spectrum", "run", "--out", "x.h5"]) == 0
    assert interrupting.count == 5
    assert (folder / "x.h5").read_bytes() == (folder / "whole.h5").read_bytes()


def test_files_of_two_networks_continue_as_they_began(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """D's are chosen by the names of all files, also when those that are left are G's alone."""
    for name in ("D-step=1", "D-step=2", "G-step=1", "G-step=2"):
        torch.save({"fc.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(1))}, f"model={name}.pth")
    command = ["spectrum", "model=*.pth", "--out", "x.h5"]
    assert run([*command[:-1], "whole.h5"]) == 0
    monkeypatch.setattr(sources, "measure_file", _Interrupting(signal.SIGINT, during=2))
    assert run(command) == 75
    assert run(command) == 0, capsys.readouterr().err
    assert (folder / "x.h5").read_bytes() == (folder / "whole.h5").read_bytes()


def test_an_interruption_before_anything_is_measured_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 130: there is nothing to keep."""

    def nothing(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return iter(())

    monkeypatch.setattr("pctool.cli.spectrum_session.measure_all", nothing)
    assert run(["spectrum", "run"]) == 130
    assert not (folder / "run.spectrum.h5").exists()


def test_a_file_of_somebody_else_is_not_used_for_what_is_done_so_far(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --force it stays as it is when the measurement is interrupted: exit 130."""
    (folder / "run.spectrum.h5").write_text("mine")
    monkeypatch.setattr(sources, "measure_file", _Interrupting(signal.SIGINT, during=3))
    assert run(["spectrum", "run"]) == 130
    assert (folder / "run.spectrum.h5").read_text() == "mine"


def _results(folder: Path, request: Request) -> list[Measured]:
    paths = sorted((folder / "run" / "checkpoints").glob("*.pt"))
    return [result for result in (measure_file(path, request) for path in paths) if isinstance(result, Measured)]


def test_only_the_same_request_continues(folder: Path) -> None:
    """Another network, pattern or view begins anew, and so does a finished file."""
    request = Request(None, "*conv*")
    results = _results(folder, request)
    paths = [result.path for result in results]
    target = folder / "x.h5"
    target.write_bytes(unfinished_image(results[:2], request, "run"))
    begun = already_measured(target, request, paths)
    assert begun is not None
    assert [result.path for result in begun] == paths[:2]
    for other in (Request(), Request("G", "*conv*"), Request(None, "*conv*", 8)):
        assert already_measured(target, other, paths) is None
    rows = [result.row for result in results if result.row]
    target.write_bytes(file_image(rows, "run", "D"))
    assert already_measured(target, request, paths) is None
    for content in (b"", b"something else"):
        target.write_bytes(content)
        assert already_measured(target, request, paths) is None
    assert already_measured(folder / "none.h5", request, paths) is None


def test_a_checkpoint_that_changed_or_could_not_be_measured_is_measured_again(folder: Path) -> None:
    """By its path, size and time; a NaN's reason is not kept, so its file is read again."""
    write_checkpoint(folder / "run" / "checkpoints" / "00000010.pt", 10, bad=True)
    results = _results(folder, Request())
    paths = [result.path for result in results]
    target = folder / "x.h5"
    target.write_bytes(unfinished_image(results, Request(), "run"))
    os.utime(paths[3], ns=(1, 1))
    begun = already_measured(target, Request(), paths)
    assert begun is not None
    assert [result.path for result in begun] == [paths[0], paths[2], paths[4]]


def test_rows_survive_the_file(tmp_path: Path) -> None:
    """Every number of every row, bit by bit, with and without normalisation."""
    for normalised in (True, False):
        rows = [row(step, normalised) for step in (3, 5)]
        path = tmp_path / "x.h5"
        path.write_bytes(file_image(rows, "x", "D"))
        for got, expected in zip(rows_of(read_spectrum(path)), rows, strict=True):
            assert (got.step, got.summary) == (expected.step, expected.summary)
            for a, b in zip(got.layers, expected.layers, strict=True):
                assert vars(a).keys() == vars(b).keys()
                for name in vars(a):
                    left, right = getattr(a, name), getattr(b, name)
                    assert np.array_equal(left, right) if isinstance(right, np.ndarray) else left == right


def test_a_finished_file_says_nothing_of_interruptions(folder: Path) -> None:
    """Neither the mark nor the list of files."""
    assert run(["spectrum", "run"]) == 0
    with h5py.File(folder / "run.spectrum.h5") as file:
        assert set(file.attrs) == {"format", "version", "source", "network", "operator"}
        assert set(file) == {"step", "layers", "summary"}
