"""What `read_spectrum` gives back, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pctool.errors import InputError
from pctool.spectrum import reader
from pctool.spectrum.reader import parse_spectrum, read_spectrum, read_summary
from pctool.spectrum.store import SPECTRA, file_image

from .samples import SHAPES, row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole file of two rows."""
    file = tmp_path / "s.h5"
    file.write_bytes(file_image([row(0), row(5)], source="runs/x", network="G"))
    return file


def test_arrays_come_back_as_they_were_measured(path: Path) -> None:
    """Layers in the network's order with every array, and the attributes."""
    spectrum = read_spectrum(path)
    assert (spectrum.source, spectrum.network, spectrum.operator) == ("runs/x", "G", "matrix")
    assert spectrum.steps.tolist() == [0, 5]
    assert [layer.name for layer in spectrum.layers] == list(SHAPES)
    for i, layer in enumerate(spectrum.layers):
        assert layer.shape == SHAPES[layer.name]
        for t, measured in enumerate((row(0), row(5))):
            for key in SPECTRA:
                assert (getattr(layer, key)[t] == getattr(measured.layers[i], key)).all()
            assert layer.strength[t] == measured.layers[i].strength
            assert layer.modified_kappa[t] == measured.layers[i].modified_kappa
            assert spectrum.summary["mean_modified_kappa"][t] == measured.summary["mean_modified_kappa"]


def test_a_part_of_a_file_is_read_alone(path: Path) -> None:
    """The summary without layers; with `smallest` the last columns of every spectrum, and all other columns whole."""
    whole, summary, part = read_spectrum(path), read_summary(path), read_spectrum(path, smallest=2)
    assert summary.layers == ()
    assert summary.steps.tolist() == [0, 5]
    assert {name: values.tolist() for name, values in summary.summary.items()} == {
        name: values.tolist() for name, values in whole.summary.items()
    }
    for layer, found in zip(whole.layers, part.layers, strict=True):
        assert (found.raw == layer.raw[:, -2:]).all()
        assert (found.effective == layer.effective[:, -2:]).all()
        assert (found.kappa == layer.kappa).all()


def test_a_large_file_may_claim_what_it_can_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound for any file, four times its own size: not more, as of rows that were never written."""
    monkeypatch.setattr(reader, "MAX_BYTES", 1000)
    assert len(read_spectrum(path).steps) == 2
    with h5py.File(path, "r+") as file:
        size = path.stat().st_size
        _replace(file, "layers/linear/raw", shape=(size, 1), dtype="f8", chunks=(1, 1))
    with pytest.raises(InputError, match="claim more than"):
        read_spectrum(path)


def test_without_normalisation_there_is_nothing_normalised(tmp_path: Path) -> None:
    """normalized and sigma_over_sigma_hat are None where the file has none."""
    spectrum = parse_spectrum(file_image([row(0, normalised=False)], "x", "D"), "x")
    assert spectrum.layers[0].normalized is None
    assert spectrum.layers[0].sigma_over_sigma_hat is None


def _replace(file: h5py.File, name: str, **dataset: object) -> None:
    del file[name]
    file.create_dataset(name, **dataset)


def _external_link(file: h5py.File) -> None:
    del file["layers/linear/raw"]
    file["layers/linear/raw"] = h5py.ExternalLink("/etc/hostname", "/x")


def _soft_link(file: h5py.File) -> None:
    del file["summary"]
    file["summary"] = h5py.SoftLink("/layers/linear")


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(2, 1), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(2, 1))
    del file["layers/linear/raw"]
    file.create_virtual_dataset("layers/linear/raw", layout)


def _external_storage(file: h5py.File) -> None:
    _replace(file, "layers/linear/raw", shape=(2, 1), dtype="f8", external=[("/etc/hostname", 0, 16)])


DAMAGE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external link": (_external_link, "link to another place"),
    "soft link": (_soft_link, "link to another place"),
    "virtual dataset": (_virtual, "data from another file"),
    "external storage": (_external_storage, "data from another file"),
    "2^40 rows": (
        lambda file: _replace(file, "layers/linear/raw", shape=(2**40, 1), dtype="f8", chunks=(1, 1)),
        "claim more than",
    ),
    "a chunk of 2 GB": (
        lambda file: _replace(
            file, "layers/linear/raw", shape=(2, 1), dtype="f8", maxshape=(None, None), chunks=(2**20, 2**8)
        ),
        "claim more than",
    ),
    "float32": (lambda file: _replace(file, "summary/max_kappa", data=np.ones(2, "f4")), "no float64 array"),
    "text": (lambda file: _replace(file, "layers/linear/kappa", data=["a", "b"]), "no float64 array"),
    "three dimensions": (lambda file: _replace(file, "layers/linear/raw", data=np.ones((2, 1, 1))), "2 dimensions"),
    "too few rows": (lambda file: _replace(file, "layers/linear/kappa", data=np.ones(1)), "1 rows for 2 steps"),
    "falling steps": (lambda file: _replace(file, "step", data=np.array([5, 0])), "steps do not rise"),
    "a layer that is an array": (lambda file: _replace(file, "layers/linear", data=1), "no group"),
    "another format": (lambda file: file.attrs.update(format="x"), "format and version"),
    "another version": (lambda file: file.attrs.update(version=2), "format and version"),
    "no version": (lambda file: file.attrs.__delitem__("version"), "format and version"),
    "no kind": (lambda file: file["layers/linear"].attrs.__delitem__("kind"), "damaged"),
    "no summary": (lambda file: file.__delitem__("summary"), "link|damaged|group"),
    "no raw": (lambda file: file.__delitem__("layers/linear/raw"), "link|damaged"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_hostile_and_foreign_content_is_one_line_and_no_data(path: Path, what: str) -> None:
    """Links out of the file, virtual data, absurd sizes and other types end in InputError naming the file."""
    change, message = DAMAGE[what]
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message) as refused:
        read_spectrum(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"some text", b"\x89HDF\r\n\x1a\n", bytes(5000)])
def test_what_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty files, text, a bare signature: InputError."""
    file = tmp_path / "s.h5"
    file.write_bytes(content)
    with pytest.raises(InputError, match=str(file)):
        read_spectrum(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """The message gives the path."""
    for file in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(InputError, match=str(file)):
            read_spectrum(file)


def test_a_heap_that_would_never_end_is_refused(path: Path) -> None:
    """A free block of size 0 among the attributes' text, on which HDF5 itself loops for ever."""
    image = bytearray(path.read_bytes())
    start = image.find(b"GCOL\x01\x00\x00\x00")
    assert start > 0
    image[start + 16 : start + 32] = bytes(16)
    with pytest.raises(InputError, match="damaged"):
        parse_spectrum(bytes(image), "s.h5")


def test_a_heap_that_lies_across_two_reads_is_refused(path: Path) -> None:
    """HDF5 may read the signature in two parts."""
    image = bytearray(path.read_bytes())
    start = image.find(reader.HEAP)
    image[start + 16 : start + 32] = bytes(16)
    file = reader._Checked(io.BytesIO(bytes(image)))
    file.seek(start + 3)
    with pytest.raises(OSError, match="damaged"):
        file.readinto(bytearray(4))


def test_damaged_files_are_refused_or_read(path: Path) -> None:
    """100 files with flipped, cleared or missing bytes: an InputError, or a spectrum, never another exception."""
    image, chance, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(image)
        start = chance.randrange(len(image))
        kind = chance.choice(["flip", "clear", "cut"])
        if kind == "cut":
            del damaged[start:]
        else:
            length = 1 if kind == "flip" else 64
            damaged[start : start + length] = bytes(
                chance.randrange(256) if kind == "flip" else 0 for _ in range(length)
            )
        refused += 1
        with contextlib.suppress(InputError):
            parse_spectrum(bytes(damaged), "s.h5")
            refused -= 1
    assert 20 < refused < 100
