"""The spectrum file: HDF5 as docs/spectrum.md lays it out, written whole, or row by row while a run goes on.

    /            attrs format, version, source, network, operator
    /step        int64 [T], a dimension scale
    /layers/<name>/...   float64 [T, r] and [T], strength int64 [T], index int64 [r] (a dimension scale)
    /summary/...         float64 [T]

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
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from pctool import files
from pctool.errors import InputError, WriteError

if TYPE_CHECKING:
    from pctool.spectrum.measure import Row  # which imports torch: reading a file does not need it

FORMAT, VERSION = "pctool-spectrum", 1
SPECTRA = ("raw", "normalized", "effective")
SCALARS = ("sigma_over_sigma_hat", "kappa_raw", "modified_kappa_raw", "kappa", "modified_kappa")
SUMMARY = tuple(
    f"{statistic}_{definition}"
    for definition in ("kappa", "modified_kappa")
    for statistic in ("max", "second_max", "mean")
)

CHUNK_BYTES = 2**16  # of a live spectrum: small, since a chunk is allocated whole for its first row
CHUNK_ROWS = 16  # at most, in a live spectrum; 64 in a live column of scalars
COMPRESSED_FROM = 2**16  # bytes of a dataset; below, a chunk's index costs more than compression saves


class SpectrumWriter:
    """Appends rows to one live file.

    `network` is "D", "G" or "G_ema", `source` says where the weights came from. The file is created by the
    first `append`; an existing one is continued. One process writes.
    """

    def __init__(self, path: Path, source: str, network: str, operator: str = "matrix") -> None:
        self.path = path
        self.attrs = {"source": source, "network": network, "operator": operator}

    def append(self, row: Row) -> None:
        """Adds one row, whole or not at all.

        Raises WriteError (the rows before stay), InputError for a file of something else, ValueError for a
        step that is not above the last, or other layers than the file's.
        """
        if not self.path.exists():
            files.write_bytes(self.path, _image(_measured([row]), self.attrs, live=True))
            return
        roomier = None
        with self._opened(in_place=True) as file:
            if _allocates(file, row):
                roomier = io.BytesIO(_image(_stored(file), file.attrs, live=True))
            else:
                _append(file, row)
        if roomier:
            with h5py.File(roomier, "r+") as file:
                _append(file, row)
            files.write_bytes(self.path, roomier.getbuffer())

    def truncate_after(self, step: int) -> None:
        """Drops the rows above `step`, for a run resumed at `step`. No file yet is well."""
        if not self.path.exists():
            return
        with self._opened(in_place=False) as file:
            kept = int(np.searchsorted(file["step"][:], step, side="right"))
            for dataset in _columns(file):
                dataset.resize(kept, axis=0)

    @contextlib.contextmanager
    def _opened(self, in_place: bool) -> Iterator[h5py.File]:
        """The file itself, or a copy in memory that replaces it at the end."""
        with contextlib.ExitStack() as stack:
            try:
                if not self.path.stat().st_size:
                    raise OSError("empty")  # HDF5 would take it for a new file
                raw = stack.enter_context(_InPlace(self.path, "r+")) if in_place else None
                image = raw or io.BytesIO(self.path.read_bytes())
                file = h5py.File(image, "r+")
            except OSError as error:
                if error.errno:  # the system's refusal; HDF5's own complaints have no number
                    reason = os.strerror(error.errno)
                    raise WriteError(f"cannot write {self.path}: {reason}; check permissions and space") from error
                raise InputError(f"{self.path} is damaged or no HDF5 file; move it away") from error
            try:
                with file:
                    if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
                        raise InputError(f"{self.path} is no spectrum file of version {VERSION}; move it away")
                    if "step" not in file or file["step"].chunks is None:
                        raise InputError(f"{self.path} was written whole and cannot grow; move it away")
                    yield file
            except (OSError, RuntimeError) as error:  # h5py has both for a write that fails
                raise WriteError(
                    f"cannot write {self.path}: {error}; free space, or move a damaged file away"
                ) from error
            if isinstance(image, io.BytesIO):
                files.write_bytes(self.path, image.getbuffer())


class _InPlace(io.FileIO):
    """A file that HDF5 reads and writes through Python, whose other threads go on while the disk does not."""

    def readinto(self, buffer: Any) -> int:
        """The whole buffer: HDF5 looks at no count, and takes what lies behind the end for zeros."""
        rest = memoryview(buffer).cast("B")
        while rest and (count := super().readinto(rest)):
            rest = rest[count:]
        rest[:] = bytes(len(rest))
        return len(buffer)

    def write(self, data: Any) -> int:
        """All of it, or an OSError."""
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) or 0 :]
        return len(data)


def file_image(
    rows: Sequence[Row], source: str, network: str, operator: str = "matrix", extra: Mapping[str, Any] | None = None
) -> bytes:
    """A whole spectrum file of at least one row, as bytes: the same rows give the same bytes.

    Large datasets are compressed (shuffle and gzip). `extra` are more attributes of the file; an array stands
    beside `/step` instead. Raises ValueError for steps that do not rise, or rows of other layers than the first's.
    """
    attrs = {"source": source, "network": network, "operator": operator, **(extra or {})}
    return _image(_measured(rows), attrs, live=False)


def layer_key(name: str) -> str:
    """The group of a layer: its name, with "|" for what HDF5 or a terminal would misread."""
    key = "".join(letter if letter.isprintable() and letter != "/" else "|" for letter in name)
    return key if key.strip(".") else f"({key})"


def layer_keys(names: Iterable[str]) -> list[str]:
    """The groups of a network's layers; of names that would make one group the later ones get an apostrophe."""
    keys: dict[str, None] = {}
    for name in names:
        key = layer_key(name)
        while key in keys:
            key += "'"
        keys[key] = None
    return list(keys)


class _Contents(NamedTuple):
    """What a file holds, an entry a row: of each layer its group's name, attributes and columns."""

    steps: NDArray[Any]
    layers: Sequence[tuple[str, Mapping[str, Any], Mapping[str, NDArray[Any]]]]
    summary: Mapping[str, NDArray[Any]]


def _measured(rows: Sequence[Row]) -> _Contents:
    for before, row in itertools.pairwise(rows):
        _check_next(row, before.step, structure(before))
    layers = []
    for i, (key, layer) in enumerate(zip(_keys(rows[0]), rows[0].layers, strict=True)):
        attrs: dict[str, Any] = {"shape": np.array(layer.shape, dtype=np.int64), "kind": layer.kind}
        attrs |= next(({"problem": problem} for row in rows if (problem := _problem(row, i))), {})
        names = [name for name in (*SPECTRA, *SCALARS, "strength") if getattr(layer, name) is not None]
        columns = {name: np.array([getattr(row.layers[i], name) for row in rows]) for name in names}
        layers.append((key, attrs, columns))
    summary = {name: np.array([row.summary[name] for row in rows]) for name in SUMMARY}
    return _Contents(np.array([row.step for row in rows]), layers, summary)


def _stored(file: h5py.File) -> _Contents:
    T = len(file["step"])  # a column may be a row longer
    layers = []
    for key, group in file["layers"].items():
        columns = {name: group[name][:T] for name in (*SPECTRA, *SCALARS, "strength") if name in group}
        layers.append((key, dict(group.attrs), columns))
    return _Contents(file["step"][:], layers, {name: file["summary"][name][:T] for name in SUMMARY})


def _image(contents: _Contents, attrs: Mapping[str, Any], live: bool) -> bytes:
    with h5py.File("spectrum", "w", driver="core", backing_store=False) as file:
        file.attrs.update(format=FORMAT, version=VERSION)
        for name, value in attrs.items():
            if isinstance(value, np.ndarray):
                file.create_dataset(name, data=value)
            else:
                file.attrs[name] = value
        _fill(file, contents, live)
        file.flush()
        return bytes(file.id.get_file_image())


def _fill(file: h5py.File, contents: _Contents, live: bool) -> None:
    """Creates every dataset with its values."""
    step = _dataset(file, "step", contents.steps, live)
    step.make_scale("step")

    def column(group: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
        dataset = _dataset(group, name, values, live)
        dataset.dims[0].attach_scale(step)
        return dataset

    groups = file.create_group("layers", track_order=True)  # the network's order, not the alphabet's
    for key, attrs, columns in contents.layers:
        group = groups.create_group(key)
        group.attrs.update(attrs)
        index = group.create_dataset("index", data=np.arange(1, columns["raw"].shape[1] + 1, dtype=np.int64))
        index.make_scale("index")
        for name, values in columns.items():
            dataset = column(group, name, values)
            if name in SPECTRA:
                dataset.dims[1].attach_scale(index)
    summary = file.create_group("summary")
    for name, values in contents.summary.items():
        column(summary, name, values)


def _dataset(group: h5py.Group, name: str, data: NDArray[Any], live: bool) -> h5py.Dataset:
    if live:
        rows = 64 if data.ndim == 1 else max(1, min(CHUNK_ROWS, CHUNK_BYTES // (data.itemsize * data.shape[1])))
        rows = max(rows, len(data) // 4)  # the next chunk has room for a quarter more
        layout: dict[str, Any] = {"maxshape": (None, *data.shape[1:]), "chunks": (rows, *data.shape[1:])}
    else:
        layout = {"compression": "gzip", "shuffle": True} if data.nbytes >= COMPRESSED_FROM else {}
    return group.create_dataset(name, data=data, **layout)


def _columns(file: h5py.File) -> list[h5py.Dataset]:
    """Every dataset with an entry a step."""
    of_layers = [d for group in file["layers"].values() for name, d in group.items() if name != "index"]
    return [*of_layers, *file["summary"].values(), file["step"]]


def _allocates(file: h5py.File, row: Row) -> bool:
    """Whether a row needs more bytes than the file holds: for the first row of a chunk, or a new attribute."""
    end = len(file["step"])
    noted = [
        layer.problem and "problem" not in group.attrs
        for layer, group in zip(row.layers, file["layers"].values(), strict=False)
    ]
    return any(noted) or any(end % column.chunks[0] == 0 for column in _columns(file))


def _append(file: h5py.File, row: Row) -> None:
    """The new `/step` is written last, after a flush: a row counts once it is whole."""
    steps, groups = file["step"], file["layers"]
    end = len(steps)
    stored = [(key, *group.attrs["shape"], "normalized" in group) for key, group in groups.items()]
    _check_next(row, steps[-1] if end else -1, stored)
    for i, (key, layer) in enumerate(zip(_keys(row), row.layers, strict=True)):
        group = groups[key]
        for name in (*SPECTRA, *SCALARS, "strength"):
            if name in group:
                _put(group[name], end, getattr(layer, name))
        if (problem := _problem(row, i)) and "problem" not in group.attrs:
            group.attrs["problem"] = problem
    for name in SUMMARY:
        _put(file["summary"][name], end, row.summary[name])
    file.flush()
    _put(steps, end, row.step)
    file.flush()


def _put(dataset: h5py.Dataset, end: int, value: object) -> None:
    dataset.resize(end + 1, axis=0)
    dataset[end] = value


def _problem(row: Row, i: int) -> str | None:
    """The reason for a NaN, and since when: a file keeps the first."""
    problem = row.layers[i].problem
    return f"step {row.step}: {problem}" if problem else None


Structure = list[tuple[object, ...]]  # of each layer, in order, its group, its shape, and whether it is normalised


def structure(row: Row) -> Structure:
    """What rows of one file have in common."""
    layers = zip(_keys(row), row.layers, strict=True)
    return [(key, *layer.shape, layer.normalized is not None) for key, layer in layers]


def _keys(row: Row) -> list[str]:
    return layer_keys(layer.name for layer in row.layers)


def _check_next(row: Row, last_step: int, expected: Structure) -> None:
    if row.step <= last_step:
        raise ValueError(f"step {row.step} does not follow step {last_step}")
    if structure(row) != expected:
        raise ValueError(f"step {row.step} has other layers than the steps before: {structure(row)}, not {expected}")
