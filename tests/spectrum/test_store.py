"""The HDF5 layout field by field, growth row by row, and what a full disk or a damaged file does."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pctool.errors import InputError, WriteError
from pctool.spectrum import live, store
from pctool.spectrum.live import SpectrumWriter
from pctool.spectrum.measure import Row, measure
from pctool.spectrum.reader import read_spectrum
from pctool.spectrum.store import SCALARS, SPECTRA, SUMMARY, file_image, layer_key

from .samples import SHAPES, row, states

STEPS = (0, 500, 1000)


def _live(path: Path, rows: list[Row]) -> Path:
    writer = SpectrumWriter(path, source="runs/x", network="D")
    for each in rows:
        writer.append(each)
    return path


@pytest.fixture(params=["live", "whole"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[h5py.File]:
    """The same three rows, appended one by one and written at once."""
    rows = [row(step) for step in STEPS]
    path = tmp_path / "spectrum.h5"
    if request.param == "live":
        _live(path, rows)
    else:
        path.write_bytes(file_image(rows, source="runs/x", network="D"))
    with h5py.File(path, "r") as file:
        yield file


def test_the_layout_is_the_contract_field_by_field(opened: h5py.File) -> None:
    """Attributes, names, dtypes, shapes and values of every dataset."""
    assert dict(opened.attrs) == {
        "format": "pctool-spectrum",
        "version": 1,
        "source": "runs/x",
        "network": "D",
        "operator": "matrix",
    }
    assert set(opened) == {"step", "layers", "summary"}
    assert opened["step"].dtype == np.int64
    assert opened["step"][:].tolist() == list(STEPS)
    assert list(opened["layers"]) == list(SHAPES)  # the network's order
    rows = [row(step) for step in STEPS]
    for i, (name, shape) in enumerate(SHAPES.items()):
        group, r = opened["layers"][name], min(shape[0], math.prod(shape[1:]))
        assert group.attrs["shape"].tolist() == list(shape)
        assert group.attrs["kind"] == ("linear" if name == "linear" else "conv")
        assert set(group) == {*SPECTRA, *SCALARS, "strength", "index"}
        for key in SPECTRA:
            assert group[key].shape == (3, r)
            assert group[key].dtype == np.float64
            assert (group[key][:] == np.array([getattr(each.layers[i], key) for each in rows])).all()
        for key in SCALARS:
            assert group[key].shape == (3,)
            assert group[key].dtype == np.float64
            assert group[key][:].tolist() == [getattr(each.layers[i], key) for each in rows]
        assert group["strength"].dtype == np.int64
        assert group["strength"][:].tolist() == [each.layers[i].strength for each in rows]
    assert set(opened["summary"]) == set(SUMMARY)
    for key in SUMMARY:
        assert opened["summary"][key].dtype == np.float64
        assert opened["summary"][key][:].tolist() == [each.summary[key] for each in rows]


def test_steps_and_indices_are_dimension_scales(opened: h5py.File) -> None:
    """/step is attached to the first dimension of all, each layer's index to the second of its spectra."""
    assert opened["step"].is_scale
    for group in opened["layers"].values():
        assert group["index"].is_scale
        assert group["index"][:].tolist() == list(range(1, group["raw"].shape[1] + 1))
        for key in (*SPECTRA, *SCALARS, "strength"):
            assert group[key].dims[0][0] == opened["step"]
        for key in SPECTRA:
            assert group[key].dims[1][0] == group["index"]
    for dataset in opened["summary"].values():
        assert dataset.dims[0][0] == opened["step"]


def test_what_a_file_without_normalisation_cannot_have_is_left_out(tmp_path: Path) -> None:
    """No normalized, no sigma_over_sigma_hat; all else is there."""
    path = _live(tmp_path / "s.h5", [row(0, normalised=False), row(5, normalised=False)])
    with h5py.File(path, "r") as file:
        assert set(file["layers/linear"]) == {*SPECTRA, *SCALARS, "strength", "index"} - {
            "normalized",
            "sigma_over_sigma_hat",
        }
        assert file["layers/linear/strength"][:].tolist() == [0, 0]


def test_the_same_rows_give_the_same_bytes() -> None:
    """A whole file is a function of its rows: no time stamps, no addresses."""
    rows = [row(step) for step in STEPS]
    first = file_image(rows, "x", "D")
    time.sleep(1.1)  # stamps are in seconds
    assert file_image(rows, "x", "D") == first


def test_large_datasets_of_a_whole_file_are_compressed_and_live_ones_never(tmp_path: Path) -> None:
    """gzip from 64 kB on, losslessly; a live file has none, since a kill during a rewrite would damage it."""
    rows = [row(step) for step in range(1500)]
    with h5py.File(io.BytesIO(file_image(rows, "x", "D")), "r") as file:
        assert file["layers/blocks.0.conv2/raw"].compression == "gzip"
        assert file["layers/blocks.0.conv2/kappa"].compression is None
        assert (file["layers/blocks.0.conv2/raw"][777] == rows[777].layers[1].raw).all()
    path = _live(tmp_path / "s.h5", rows[:2])
    with h5py.File(path, "r") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        assert {dataset.compression for dataset in found} == {None}


def test_steps_must_rise_and_layers_stay(tmp_path: Path) -> None:
    """A step again, an earlier one, or other layers are a programmer's mistake, and change nothing."""
    path = _live(tmp_path / "s.h5", [row(500)])
    before = path.read_bytes()
    writer = SpectrumWriter(path, source="runs/x", network="D")
    for wrong in (row(500), row(499), measure(600, states()[1:]), row(600, normalised=False)):
        with pytest.raises(ValueError, match="step"):
            writer.append(wrong)
    assert len(read_spectrum(path).steps) == 1
    writer.append(row(600))
    assert read_spectrum(path).steps.tolist() == [500, 600]
    with pytest.raises(ValueError, match="does not follow"):
        file_image([row(2), row(2)], "x", "D")
    assert before[:8] == path.read_bytes()[:8]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    """truncate_after keeps the rows up to the step, and appending goes on from there with new values."""
    path = _live(tmp_path / "s.h5", [row(step) for step in (0, 10, 20, 30)])
    writer = SpectrumWriter(path, source="runs/x", network="D")
    writer.truncate_after(15, states())
    assert read_spectrum(path).steps.tolist() == [0, 10]
    writer.append(row(17))
    writer.truncate_after(17, states())
    again = read_spectrum(path)
    assert again.steps.tolist() == [0, 10, 17]
    assert (again.layers[0].raw[2] == row(17).layers[0].raw).all()
    writer.truncate_after(-1, states())
    assert read_spectrum(path).steps.tolist() == []
    writer.append(row(0))
    assert read_spectrum(path).layers[1].kappa.tolist() == [row(0).layers[1].kappa]


def test_truncating_no_file_is_well(tmp_path: Path) -> None:
    """A run that has recorded nothing yet can be resumed."""
    SpectrumWriter(tmp_path / "s.h5", "x", "D").truncate_after(3, states())
    assert list(tmp_path.iterdir()) == []


def test_a_row_left_half_written_is_not_seen_and_is_overwritten(tmp_path: Path) -> None:
    """Columns longer than /step, as a kill leaves them, are cut by readers and by the next append."""
    path = _live(tmp_path / "s.h5", [row(0)])
    with h5py.File(path, "r+") as file:
        file["layers/linear/kappa"].resize(2, axis=0)
        file["summary/max_kappa"].resize(2, axis=0)
    assert read_spectrum(path).layers[3].kappa.tolist() == [row(0).layers[3].kappa]
    SpectrumWriter(path, "runs/x", "D").append(row(1))
    assert read_spectrum(path).summary["max_kappa"].tolist() == [row(i).summary["max_kappa"] for i in (0, 1)]


def test_a_long_file_is_written_again_ever_more_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time with room for a quarter more rows: 200 rows in chunks of 2 take 100 times otherwise. No row is lost."""
    monkeypatch.setattr(store, "CHUNK_ROWS", 2)
    whole, written = live.files.write_bytes, []
    monkeypatch.setattr(live.files, "write_bytes", lambda path, data: (written.append(1), whole(path, data)))
    one = measure(0, states(), "linear")
    rows = [dataclasses.replace(one, step=step) for step in range(200)]
    path = _live(tmp_path / "s.h5", rows)
    assert len(written) < 30
    spectrum = read_spectrum(path)
    assert spectrum.steps.tolist() == list(range(200))
    assert (spectrum.layers[0].raw == one.layers[0].raw).all()
    with h5py.File(path, "r") as file:
        assert file["layers/linear/raw"].shape == (200, 1)


def test_a_layer_that_stays_nan_does_not_rewrite_the_file(tmp_path: Path) -> None:
    """Only the first reason is new: the rows after it are written in place."""
    broken = states()[:1]
    broken[0].weight[0, 0, 0, 0] = math.nan
    path = _live(tmp_path / "s.h5", [measure(step, broken) for step in range(2)])
    before = path.stat().st_ino
    SpectrumWriter(path, "runs/x", "D").append(measure(2, broken))
    assert path.stat().st_ino == before


def test_nan_rows_carry_the_first_reason(tmp_path: Path) -> None:
    """A layer that became NaN keeps its NaN rows and says why and since when."""
    path = _live(tmp_path / "s.h5", [row(0)])
    for step in (1, 2):
        broken = states(step)
        broken[1].weight[0, 0, 0, 0] = math.nan
        SpectrumWriter(path, "runs/x", "D").append(measure(step, broken))
    layer = read_spectrum(path).layers[1]
    assert np.isfinite(layer.raw[0]).all()
    assert np.isnan(layer.raw[1:]).all()
    assert layer.problem == "step 1: the matrix has 1 non-finite of 324 entries"
    with h5py.File(path, "r") as file:
        assert "problem" not in file["layers/linear"].attrs


@pytest.mark.parametrize(("name", "key"), [("a/b\x00c\x1b", "a|b|c|"), ("", "()"), (".", "(.)"), ("a.b", "a.b")])
def test_layer_names_that_hdf5_would_misread_are_replaced(name: str, key: str) -> None:
    """No slash, NUL, control character, empty name or dot becomes a group."""
    assert layer_key(name) == key


def test_layers_whose_names_would_make_one_group_lie_beside_each_other(tmp_path: Path) -> None:
    """In files written whole and live, in the network's order."""
    rows = []
    for step in (0, 1):
        one = states(step)
        names = ["a/b", "a|b", "a\x00b", "c"]
        rows.append(measure(step, [dataclasses.replace(s, name=n) for s, n in zip(one, names, strict=True)]))
    whole = tmp_path / "whole.h5"
    whole.write_bytes(file_image(rows, "x", "D"))
    for path in (whole, _live(tmp_path / "s.h5", rows)):
        found = read_spectrum(path)
        assert [layer.name for layer in found.layers] == ["a|b", "a|b'", "a|b''", "c"]
        for layer, expected in zip(found.layers, rows[1].layers, strict=True):
            assert (layer.raw[1] == expected.raw).all()


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_foreign_file_in_the_place_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    """append and truncate_after raise InputError for what is no spectrum file, and do not touch it."""
    path = tmp_path / "s.h5"
    path.write_bytes(content)
    writer = SpectrumWriter(path, "x", "D")
    with pytest.raises(InputError, match="move it away"):
        writer.append(row(0))
    with pytest.raises(InputError, match="move it away"):
        writer.truncate_after(0, states())
    assert path.read_bytes() == content


def _replaced(name: str, values: object) -> Callable[[h5py.File], None]:
    """Puts something else in the place of what is called so, nothing for None; `*` is the first layer."""

    def damage(file: h5py.File) -> None:
        place = name.replace("*", next(iter(file["layers"])))
        del file[place]
        if values is dict:
            file.create_group(place)
        elif values is not None:
            file.create_dataset(place, data=values, maxshape=(None, *np.shape(values)[1:]), chunks=True)

    return damage


def _fixed(file: h5py.File) -> None:
    del file["summary/max_kappa"]
    file["summary/max_kappa"] = np.zeros(2)


def _shapeless(file: h5py.File) -> None:
    del file["layers"][next(iter(file["layers"]))].attrs["shape"]


@pytest.mark.parametrize(
    "damage",
    [
        *(_fixed, _shapeless, _replaced("summary", None), _replaced("summary/max_kappa", None)),
        *(_replaced("summary/max_kappa", dict), _replaced("layers/*", None), _replaced("layers/*/normalized", None)),
        *(_replaced("layers/*/raw", np.zeros((2, 1))), _replaced("layers/*/raw", [b"x", b"y"])),
        *(
            _replaced("layers/*/kappa", None),
            _replaced("layers/*/kappa", np.zeros(1)),
            _replaced("layers/*/index", None),
        ),
        *(_replaced("step", [2, 1]), _replaced("step", [b"x", b"y"]), _replaced("layers", np.zeros(2))),
    ],
)
def test_hdf5_that_is_damaged_inside_is_refused(tmp_path: Path, damage: Callable[[h5py.File], None]) -> None:
    """Before a run that goes on trains: one line, and the file stays as it is."""
    path = _live(tmp_path / "s.h5", [row(1), row(2)])
    with h5py.File(path, "r+") as file:
        damage(file)
    before = path.read_bytes()
    with pytest.raises(InputError, match="move it away"):
        SpectrumWriter(path, "x", "D").truncate_after(1, states())
    assert path.read_bytes() == before


def test_damage_that_a_thread_meets_ends_the_process(tmp_path: Path) -> None:
    """An error that is kept must keep no lock of HDF5's, for which the main thread would wait for ever."""
    path = _live(tmp_path / "s.h5", [row(1)])
    with h5py.File(path, "r+") as file:
        _shapeless(file)
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pctool.spectrum.live import SpectrumWriter
from tests.spectrum.samples import row
with ThreadPoolExecutor(1) as pool:
    failed = pool.submit(SpectrumWriter(Path({str(path)!r}), "x", "D").append, row(2))
assert "is damaged; move it away" in str(failed.exception())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_other_hdf5_and_whole_files_cannot_grow(tmp_path: Path) -> None:
    """HDF5 of another format, and a spectrum file that was written at once, are refused."""
    other, whole = tmp_path / "other.h5", tmp_path / "whole.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    whole.write_bytes(file_image([row(0)], "x", "D"))
    for path in (other, whole):
        with pytest.raises(InputError, match="move it away"):
            SpectrumWriter(path, "x", "D").append(row(1))


def test_a_full_disk_leaves_the_rows_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 50 file size limits, with a new chunk every second row: WriteError, and the rows before are there."""
    monkeypatch.setattr(store, "CHUNK_ROWS", 2)
    rows = [measure(step, states(step), "*.conv*") for step in range(7)]
    first = _live(tmp_path / "first.h5", rows[:1]).stat().st_size
    all_rows = _live(tmp_path / "all.h5", rows).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = []
    for n, limit in enumerate(np.linspace(0.9 * first, 1.05 * all_rows, 50).astype(int)):
        path = tmp_path / f"{n}.h5"
        writer, count = SpectrumWriter(path, "runs/x", "D"), 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
        try:
            with contextlib.suppress(WriteError):
                for each in rows:
                    writer.append(each)
                    count += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.exists() == (count > 0)
        if count:
            assert read_spectrum(path).steps.tolist() == list(range(count))
        done.append(count)
    assert set(done) == {0, 2, 4, 6, 7}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("operation", ["seek", "readinto", "write", "truncate", "close"])
def test_a_failed_write_in_place_is_reported_and_nothing_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, lasting: bool
) -> None:
    """Whichever operation of a row the system refuses, once or from then on: a WriteError with its reason, the rows
    before readable, and the same append on a mended disk gives the undisturbed file."""
    rows = [row(step) for step in (0, 500, 1000, 1500, 2000)]
    base = _live(tmp_path / "base.h5", rows[:4])  # the fifth fits into the room that the fourth made
    expected = _columns_of(_live(tmp_path / "expected.h5", rows))
    before = _columns_of(base)
    refused = 0
    calls: dict[str, int] = {}

    class Flaky(io.FileIO):
        fails_at = -1

        def _count(self) -> None:
            number = calls[operation] = calls.get(operation, -1) + 1
            if number == self.fails_at or (lasting and 0 <= self.fails_at <= number):
                raise OSError(errno.EIO, "Input/output error")

        def seek(self, offset: int, whence: int = 0) -> int:
            if operation == "seek":
                self._count()
            return super().seek(offset, whence)

        def readinto(self, buffer: Any) -> int:
            if operation == "readinto":
                self._count()
            return super().readinto(buffer)

        def write(self, data: Any) -> int:
            if operation == "write":
                self._count()
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            if operation == "truncate":
                self._count()
            return super().truncate(size)

        def close(self) -> None:
            if not self.closed:
                super().close()
                if operation == "close":
                    self._count()

    class FlakyInPlace(live._InPlace, Flaky):
        pass

    path, number = tmp_path / "run.h5", 0
    while True:
        path.write_bytes(base.read_bytes())
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(live, "_InPlace", FlakyInPlace)
            patch.setattr(Flaky, "fails_at", number)
            said = ""
            try:
                SpectrumWriter(path, source="runs/x", network="D").append(rows[4])
            except WriteError as error:
                said = str(error)
        if not said:
            break
        assert "Input/output error" in said
        refused += 1
        left = _columns_of(path)
        whole = len(left["step"]) == 5
        assert all(np.array_equal(left[name], (expected if whole else before)[name], equal_nan=True) for name in before)
        if not whole:
            SpectrumWriter(path, source="runs/x", network="D").append(rows[4])
            assert all(np.array_equal(a, expected[name], equal_nan=True) for name, a in _columns_of(path).items())
        number += 1
    assert calls.get(operation, -1) < number, "the last try was to be without a failure"
    assert refused or operation == "truncate"  # which HDF5 need not call


def _columns_of(path: Path) -> dict[str, np.ndarray]:
    """Every dataset as far as the file's rows go."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        steps = len(file["step"])

        def take(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and not name.endswith("index"):
                found[name] = item[:steps]

        file.visititems(take)
    return found
