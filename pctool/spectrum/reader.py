"""Reads a spectrum file into plain arrays, trusting nothing in it: files come from other people."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError
from pctool.spectrum.store import FORMAT, SCALARS, SPECTRA, SUMMARY, VERSION

Array = NDArray[np.float64]

MAX_BYTES = 2**30  # that all arrays of a file together may claim, whatever its size
PACKED = 4  # how many times its size a larger file may claim: whole ones are compressed
MAX_LAYERS = 10_000
MAX_HEAPS = 2**22  # bytes of all heaps together: a file of ours has some kB
HEAP = b"GCOL\x01\x00\x00\x00"  # the signature of a global heap


@dataclass(frozen=True, eq=False)
class LayerSeries:
    """One layer over T steps: spectra float64 [T, r] descending, the others float64 [T], strength int64 [T].

    The fields mean what they mean in `measure.LayerSpectrum`; `problem` says what was wrong first.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    strength: NDArray[np.int64]
    raw: Array
    effective: Array
    kappa_raw: Array
    modified_kappa_raw: Array
    kappa: Array
    modified_kappa: Array
    normalized: Array | None = None
    sigma_over_sigma_hat: Array | None = None
    problem: str | None = None

    @property
    def before(self) -> Array:
        """What the polynomial meets: singular values of SN(W), of W itself where there is no normalisation."""
        return self.raw if self.normalized is None else self.normalized


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum file: `steps` int64 [T] rising, the layers in the network's order, `summary` float64 [T] each."""

    source: str
    network: str
    operator: str
    steps: NDArray[np.int64]
    layers: tuple[LayerSeries, ...]
    summary: dict[str, Array]


def read_spectrum(path: Path, smallest: int | None = None) -> Spectrum:
    """Reads the file at `path`, also while a run writes it: a row that is not whole yet is left out.

    With `smallest` every spectrum has so many columns at most, those of the smallest values: what figures over the
    steps need of a file that may be larger than memory.
    Raises InputError for what is no spectrum file, is damaged, links to other files, or claims absurd sizes.
    """
    return _read(path, lambda reader: reader.spectrum(smallest))


def read_summary(path: Path) -> Spectrum:
    """The steps and the summary alone, without layers: quick also where the file is huge. Otherwise as above."""
    return _read(path, lambda reader: reader.spectrum(layers=False))


def parse_spectrum(image: bytes, name: str) -> Spectrum:
    """Reads a file's bytes, `name` standing for its path in messages; otherwise as `read_spectrum`."""
    return _parse(io.BytesIO(image), len(image), name, _Reader.spectrum)


def _read(path: Path, what: Callable[[_Reader], Spectrum]) -> Spectrum:
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait
            raise InputError(f"{path} is no file; give a spectrum file")
        with path.open("rb", buffering=0) as file:
            return _parse(file, path.stat().st_size, str(path), what)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a spectrum file") from error


def _parse(raw: BinaryIO, size: int, name: str, what: Callable[[_Reader], Spectrum]) -> Spectrum:
    try:
        with h5py.File(_Checked(raw), "r") as file:
            return what(_Reader(file, max(MAX_BYTES, PACKED * size)))
    except _Refused as error:
        raise InputError(f"{name} is no spectrum file to read: {error}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        # What h5py raises, by the place of the damage.
        raise InputError(f"{name} is damaged or no spectrum file ({type(error).__name__}: {error})") from None


class _Checked(io.RawIOBase):
    """What HDF5 reads a file through: it refuses a free block of no size in the heaps that hold the attributes' text.

    HDF5 would never return from such a heap (the format's "global heap"): GCOL, version 1, its size, and blocks of
    index, references and size.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.checked: dict[int, int] = {}  # where a heap begins, and how many bytes it has

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()

    def readinto(self, buffer: Any) -> int:
        """The whole buffer: HDF5 looks at no count, and takes what lies behind the end for zeros."""
        place = self.raw.tell()
        before = min(place, len(HEAP) - 1)  # a signature may lie across two reads
        data = self._at(place - before, before + len(buffer) + len(HEAP) - 1)
        start = data.find(HEAP)
        while start >= 0:
            self._check_heap(place - before + start)
            start = data.find(HEAP, start + 1)
        found = data[before : before + len(buffer)]
        memoryview(buffer).cast("B")[:] = found + bytes(len(buffer) - len(found))
        self.raw.seek(place + len(buffer))
        return len(buffer)

    def _at(self, place: int, count: int) -> bytes:
        self.raw.seek(place)
        parts = []
        while count > 0 and (part := self.raw.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _check_heap(self, start: int) -> None:
        if start in self.checked:
            return
        size = int.from_bytes(self._at(start + 8, 8), "little")
        heap = self._at(start, min(size, MAX_HEAPS))
        self.checked[start] = len(heap)
        if sum(self.checked.values()) > MAX_HEAPS:
            raise OSError("its heaps are too large")
        block = 16
        while block + 16 <= len(heap):
            index = int.from_bytes(heap[block : block + 2], "little")
            length = int.from_bytes(heap[block + 8 : block + 16], "little")
            if index == 0 and length < 16:
                raise OSError("a heap is damaged")
            block += length if index == 0 else 16 + (length + 7) // 8 * 8


class _Refused(Exception):
    """What is wrong with a file that HDF5 itself could open."""


class _Reader:
    """Keeps the sum of the sizes met so far, `most` at most."""

    def __init__(self, file: h5py.File, most: int) -> None:
        self.file = file
        self.most = most
        self.bytes = 0

    def spectrum(self, smallest: int | None = None, *, layers: bool = True) -> Spectrum:
        """The whole file; raises _Refused, and whatever h5py raises of a damaged one."""
        attrs = self.file.attrs
        if attrs.get("format") != FORMAT or attrs.get("version") != VERSION:
            raise _Refused(f"format and version are not {FORMAT} {VERSION}")
        steps = self.array(self.file, "step", np.int64, None)
        if (np.diff(steps) <= 0).any():
            raise _Refused("the steps do not rise")
        summary = self.group(self.file, "summary")
        return Spectrum(
            source=str(attrs.get("source", "")),
            network=str(attrs.get("network", "")),
            operator=str(attrs.get("operator", "")),
            steps=steps,
            layers=tuple(self.layers(len(steps), smallest)) if layers else (),
            summary={name: self.array(summary, name, np.float64, len(steps)) for name in SUMMARY},
        )

    def layers(self, T: int, smallest: int | None) -> Iterator[LayerSeries]:
        """The layers in the file's order, the first T rows of each, the last columns of their spectra."""
        groups = self.group(self.file, "layers")
        if len(groups) > MAX_LAYERS:
            raise _Refused(f"it has {len(groups)} layers, at most {MAX_LAYERS} are read")
        for name in groups:
            group = self.group(groups, name)
            yield LayerSeries(
                name=name,
                kind=str(group.attrs["kind"]),
                shape=tuple(int(side) for side in group.attrs["shape"]),
                strength=self.array(group, "strength", np.int64, T),
                problem=str(group.attrs["problem"]) if "problem" in group.attrs else None,
                **{
                    key: self.array(group, key, np.float64, T, smallest)
                    for key in (*SPECTRA, *SCALARS)
                    if key in group or key not in ("normalized", "sigma_over_sigma_hat")
                },
            )

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        """A group that lies in this file."""
        found = self.linked(parent, name)
        if not isinstance(found, h5py.Group):
            raise _Refused(f"{name} is no group")
        return found

    def array(self, parent: h5py.Group, name: str, dtype: type, T: int | None, last: int | None = None) -> NDArray[Any]:
        """The first T rows and `last` columns (None: all) of a dataset whose data lie in this file, of that type."""
        ndim = 2 if name in SPECTRA else 1
        found = self.linked(parent, name)
        if not isinstance(found, h5py.Dataset) or found.dtype != np.dtype(dtype) or found.ndim != ndim:
            raise _Refused(f"{parent.name}/{name} is no {np.dtype(dtype)} array of {ndim} dimensions")
        if found.is_virtual or found.external:
            raise _Refused(f"{parent.name}/{name} takes its data from another file")
        self.bytes += 8 * max(math.prod(found.shape), math.prod(found.chunks or (0,)))
        if self.bytes > self.most:
            raise _Refused(f"its arrays claim more than {self.most:,} bytes")
        if T is not None and len(found) < T:
            raise _Refused(f"{parent.name}/{name} has {len(found)} rows for {T} steps")
        return found[:T] if last is None or ndim == 1 else found[:T, max(0, found.shape[1] - last) :]

    @staticmethod
    def linked(parent: h5py.Group, name: str) -> object:
        """What stands there, unless it is a soft or an external link."""
        if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
            raise _Refused(f"{parent.name}/{name} is a link to another place")
        return parent[name]
