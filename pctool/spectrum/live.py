"""The spectrum file of a run that goes on, written row by row.

A live file is never open between two rows, and a process can be killed at any moment. So a row changes it in
place only where that writes over bytes HDF5 already holds, in an order that keeps the file whole after every
single write. Whatever allocates (a new chunk, a longer index) is done on a copy in memory that is renamed into
place: within HDF5 a kill or a full disk would leave a file that cannot be read. That copy has room for a quarter
more rows, so that a long run writes its file a few times over and not once every few rows. For the same reason
nothing in a live file is compressed, since a compressed chunk moves whenever it is rewritten.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from pctool import files
from pctool.errors import InputError, WriteError
from pctool.spectrum.store import (
    FORMAT,
    SCALARS,
    SPECTRA,
    SUMMARY,
    VERSION,
    Contents,
    Structure,
    check_next,
    contents_of,
    image_of,
    keys_of,
    layer_keys,
    problem_of,
)

if TYPE_CHECKING:
    from pctool.core.layers.state import LayerState
    from pctool.spectrum.measure import Row


class SpectrumWriter:
    """Appends rows to one live file.

    `network` is "D", "G" or "G_ema", `source` says where the weights came from. The file is created by the
    first `append`; an existing one is continued. One process writes.
    """

    def __init__(self, path: Path, source: str, network: str) -> None:
        self.path = path
        self.attrs = {"source": source, "network": network, "operator": "matrix"}

    def append(self, row: Row) -> None:
        """Adds one row, whole or not at all.

        Raises WriteError (the rows before stay), InputError for a file of something else, ValueError for a
        step that is not above the last, or other layers than the file's.
        """
        if not self.path.exists():
            files.write_bytes(self.path, image_of(contents_of([row]), self.attrs, live=True))
            return
        roomier = None
        with self._opened(in_place=True) as file:
            if _allocates(file, row):
                roomier = io.BytesIO(image_of(_stored(file), file.attrs, live=True))
            else:
                _append(file, row)
        if roomier:
            with h5py.File(roomier, "r+") as file:
                _append(file, row)
            files.write_bytes(self.path, roomier.getvalue())

    def truncate_after(self, step: int, layers: Sequence[LayerState]) -> None:
        """Drops the rows above `step`, for a run of such layers that goes on from `step`. No file yet is well.

        Raises InputError where the file is of other layers or damaged, and as `append`.
        """
        if not self.path.exists():
            return
        with self._opened(in_place=False) as file:
            keys = layer_keys(layer.name for layer in layers)
            expected = [(key, *x.weight.shape, x.sigma_hat is not None) for key, x in zip(keys, layers, strict=True)]
            if _structure(file) != expected:
                raise InputError(f"{self.path} is of other layers than the network's; move it away")
            if not _is_whole(file):
                raise InputError(f"{self.path} is damaged; move it away")
            kept = int(np.searchsorted(file["step"][:], step, side="right"))
            for dataset in _columns(file):
                dataset.resize(kept, axis=0)

    @contextlib.contextmanager
    def _opened(self, in_place: bool) -> Iterator[h5py.File]:
        """The file itself, or a copy in memory that replaces it at the end."""
        raw: _InPlace | None = None
        try:
            with contextlib.ExitStack() as stack:
                if not self.path.stat().st_size:
                    raise InputError(f"{self.path} is damaged or no HDF5 file; move it away")  # HDF5 sees a new one
                raw = stack.enter_context(_InPlace(self.path, "r+")) if in_place else None
                image = raw or io.BytesIO(self.path.read_bytes())
                file = stack.enter_context(self._file(image))
                if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
                    raise InputError(f"{self.path} is no spectrum file of version {VERSION}; move it away")
                if "step" not in file or file["step"].chunks is None:
                    raise InputError(f"{self.path} was written whole and cannot grow; move it away")
                yield file
        except Exception as error:
            if raw is not None and raw.problem:
                raise self._unwritten(raw.problem) from error
            if isinstance(error, OSError | RuntimeError):  # h5py has both for what fails
                raise self._unwritten(error) from error
            if isinstance(error, LookupError | TypeError | AttributeError):  # there is no column where one should be
                raise InputError(f"{self.path} is damaged; move it away") from error
            raise
        if raw is not None and raw.problem:
            raise self._unwritten(raw.problem) from raw.problem
        if isinstance(image, io.BytesIO):
            files.write_bytes(self.path, image.getvalue())

    def _file(self, image: io.RawIOBase | io.BytesIO) -> h5py.File:
        try:
            return h5py.File(image, "r+")
        except OSError as error:
            raise InputError(f"{self.path} is damaged or no HDF5 file; move it away") from error

    def _unwritten(self, error: Exception) -> WriteError:
        reason = getattr(error, "strerror", None) or error
        return WriteError(
            f"cannot write {self.path}: {reason}; check permissions and space, or move a damaged file away"
        )


class _InPlace(io.FileIO):
    """A file that HDF5 reads and writes through Python, whose other threads go on while the disk does not.

    HDF5 loses some errors of such a file, and crashes over others. So none reaches it: the first is kept in `problem`,
    and from then on nothing is written, as if the process had been killed there.
    """

    problem: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The place, also where it cannot be gone to: what is read or written there then counts for nothing."""
        try:
            return super().seek(offset, whence)
        except OSError as error:
            self.problem = self.problem or error
            return offset

    def readinto(self, buffer: Any) -> int:
        """The whole buffer: HDF5 looks at no count, and takes what lies behind the end for zeros."""
        rest = memoryview(buffer).cast("B")
        try:
            while rest and (count := super().readinto(rest)):
                rest = rest[count:]
        except OSError as error:
            self.problem = self.problem or error
        rest[:] = bytes(len(rest))
        return len(buffer)

    def write(self, data: Any) -> int:
        """All of it, or nothing more."""
        rest = memoryview(data)
        try:
            while rest and not self.problem:
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.problem = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """To the size that HDF5 gives the file, unless something failed."""
        try:
            return super().truncate(size) if not self.problem else size or 0
        except OSError as error:
            self.problem = error
            return size or 0

    def close(self) -> None:
        """Network file systems report here what they could not write."""
        try:
            super().close()
        except OSError as error:
            self.problem = self.problem or error


def _groups(file: h5py.File) -> list[tuple[str, h5py.Group]]:
    """The layers. As a list: h5py's own iterator holds its lock while it waits, for ever where an error keeps it."""
    return list(file["layers"].items())


def _structure(file: h5py.File) -> Structure:
    return [(key, *group.attrs["shape"], "normalized" in group) for key, group in _groups(file)]


def _is_whole(file: h5py.File) -> bool:
    """Whether every column is there, of numbers, can grow, and has an entry for each step."""
    T = len(file["step"])
    columns: list[tuple[h5py.Dataset, tuple[int, ...]]] = [(file["summary"][name], ()) for name in SUMMARY]
    for _, group in _groups(file):
        beyond = () if "normalized" in group else ("normalized", "sigma_over_sigma_hat")
        r = len(group["index"])
        columns += [(group[name], (r,)) for name in SPECTRA if name not in beyond]
        columns += [(group[name], ()) for name in (*SCALARS, "strength") if name not in beyond]
    steps = file["step"]
    rising = steps.dtype.kind == "i" and bool((np.diff(steps[:]) > 0).all())
    return rising and all(
        column.chunks is not None and column.dtype.kind in "fi" and len(column) >= T and column.shape[1:] == rest
        for column, rest in columns
    )


def _stored(file: h5py.File) -> Contents:
    T = len(file["step"])  # a column may be a row longer
    layers = []
    for key, group in _groups(file):
        columns = {name: group[name][:T] for name in (*SPECTRA, *SCALARS, "strength") if name in group}
        layers.append((key, dict(group.attrs), columns))
    return Contents(file["step"][:], layers, {name: file["summary"][name][:T] for name in SUMMARY})


def _columns(file: h5py.File) -> list[h5py.Dataset]:
    """Every dataset with an entry a step."""
    of_layers = [group[name] for _, group in _groups(file) for name in list(group) if name != "index"]
    return [*of_layers, *[file["summary"][name] for name in list(file["summary"])], file["step"]]


def _allocates(file: h5py.File, row: Row) -> bool:
    """Whether a row needs more bytes than the file holds: for the first row of a chunk, or a new attribute."""
    end = len(file["step"])
    noted = [
        layer.problem and "problem" not in group.attrs
        for layer, (_, group) in zip(row.layers, _groups(file), strict=False)
    ]
    return any(noted) or any(end % column.chunks[0] == 0 for column in _columns(file))


def _append(file: h5py.File, row: Row) -> None:
    """The new `/step` is written last, after a flush: a row counts once it is whole."""
    steps, groups = file["step"], file["layers"]
    end = len(steps)
    check_next(row, steps[-1] if end else -1, _structure(file))
    for i, (key, layer) in enumerate(zip(keys_of(row), row.layers, strict=True)):
        group = groups[key]
        for name in (*SPECTRA, *SCALARS, "strength"):
            if name in group:
                _put(group[name], end, getattr(layer, name))
        if (problem := problem_of(row, i)) and "problem" not in group.attrs:
            group.attrs["problem"] = problem
    for name in SUMMARY:
        _put(file["summary"][name], end, row.summary[name])
    file.flush()
    _put(steps, end, row.step)
    file.flush()


def _put(dataset: h5py.Dataset, end: int, value: object) -> None:
    dataset.resize(end + 1, axis=0)
    dataset[end] = value
