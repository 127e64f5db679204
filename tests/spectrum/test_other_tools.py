"""Other tools open the file: h5py, xarray over h5netcdf, pandas' arrays, and the HDF Group's h5dump."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from pctool.spectrum.live import SpectrumWriter
from pctool.spectrum.store import file_image

from .samples import row

STEPS = (0, 10, 20)


@pytest.fixture(params=["whole", "live", "compressed"])
def path(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three rows: as the command writes it, as a run does, and with every dataset compressed."""
    target = tmp_path / "x.h5"
    if request.param == "live":
        writer = SpectrumWriter(target, "x", "D")
        for step in STEPS:
            writer.append(row(step))
        return target
    if request.param == "compressed":
        monkeypatch.setattr("pctool.spectrum.store.COMPRESSED_FROM", 0)
    target.write_bytes(file_image([row(step) for step in STEPS], "x", "D"))
    return target


def test_h5py(path: Path) -> None:
    """Steps, spectra and their scales, as docs/spectrum.md shows it."""
    with h5py.File(path) as file:
        effective = file["layers/blocks.0.conv2/effective"]
        assert effective.dims[0][0][:].tolist() == list(STEPS)
        assert effective.dims[1][0][:].tolist() == [1, 2, 3, 4, 5, 6]
        assert (effective[2] == row(20).layers[1].effective).all()


def test_xarray(path: Path) -> None:
    """`open_dataset` of the root, of a layer and of the summary, with named dimensions and equal numbers."""
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    pytest.importorskip("h5netcdf", reason="h5netcdf is not installed")
    with xarray.open_dataset(path, engine="h5netcdf") as root:
        assert root["step"].values.tolist() == list(STEPS)
        assert root.attrs["format"] == "pctool-spectrum"
    with xarray.open_dataset(path, engine="h5netcdf", group="layers/blocks.0.conv2") as layer:
        assert layer["effective"].dims == ("step", "index")
        assert (layer["raw"].sel(index=6).values == [row(step).layers[1].raw[-1] for step in STEPS]).all()
        assert layer.attrs["kind"] == "conv"
    with xarray.open_dataset(path, engine="h5netcdf", group="summary") as summary:
        assert (summary["mean_kappa"].values == [row(step).summary["mean_kappa"] for step in STEPS]).all()


def test_h5dump(path: Path) -> None:
    """The HDF Group's own reader prints the steps and the largest condition numbers."""
    if shutil.which("h5dump") is None:
        pytest.skip("h5dump is not installed (Debian: hdf5-tools)")

    def dump(name: str) -> list[float]:
        command = ["h5dump", "-y", "-w", "0", "-m", "%.17g", "-d", name, str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        data = text.partition("DATA {")[2].partition("}")[0]
        return [float(number) for number in data.replace(",", " ").split()]

    assert dump("/step") == list(STEPS)
    assert np.array_equal(dump("/summary/max_kappa"), [row(step).summary["max_kappa"] for step in STEPS])
