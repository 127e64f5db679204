"""Reads a spectrum file into plain arrays, trusting nothing in it: files come from other people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError
from pctool.spectrum.store import FORMAT, SCALARS, SPECTRA, SUMMARY, VERSION

Array = NDArray[np.float64]

MAX_BYTES = 2**30  # all arrays of a file together; 200,000 steps of the paper's largest D make 0.1 GB
MAX_LAYERS = 10_000
HEAP = b"GCOL\x01\x00\x00\x00"


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


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum file: `steps` int64 [T] rising, the layers in the network's order, `summary` float64 [T] each."""

    source: str
    network: str
    operator: str
    steps: NDArray[np.int64]
    layers: tuple[LayerSeries, ...]
    summary: dict[str, Array]


def read_spectrum(path: Path) -> Spectrum:
    """Reads the file at `path`, also while a run writes it: a row that is not whole yet is left out.

    Raises InputError for what is no spectrum file, is damaged, links to other files, or claims absurd sizes.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_BYTES:
            raise InputError(f"{path} is no file of at most {MAX_BYTES:,} bytes; give a spectrum file")
        image = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a spectrum file") from None
    return parse_spectrum(image, str(path))


def parse_spectrum(image: bytes, name: str) -> Spectrum:
    """Reads a file's bytes, `name` standing for its path in messages; otherwise as `read_spectrum`."""
    try:
        _check_heaps(image)
        with h5py.File(h5py.h5f.open_file_image(image, flags=0)) as file:
            return _Reader(file).spectrum()
    except _Refused as error:
        raise InputError(f"{name} is no spectrum file to read: {error}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        # What h5py raises, by the place of the damage.
        raise InputError(f"{name} is damaged or no spectrum file ({type(error).__name__}: {error})") from None


def _check_heaps(image: bytes) -> None:
    """Refuses a free block of no size in the heaps that hold the attributes' text: HDF5 would never return.

    A heap (the format's "global heap") is GCOL, version 1, its size, and blocks of index, references and size.
    """
    start = image.find(HEAP)
    while start >= 0:
        end = min(start + int.from_bytes(image[start + 8 : start + 16], "little"), len(image))
        block = start + 16
        while block + 16 <= end:
            index = int.from_bytes(image[block : block + 2], "little")
            size = int.from_bytes(image[block + 8 : block + 16], "little")
            if index == 0 and size < 16:
                raise _Refused("it is damaged")
            block += size if index == 0 else 16 + (size + 7) // 8 * 8
        start = image.find(HEAP, start + 1)


class _Refused(Exception):
    """What is wrong with a file that HDF5 itself could open."""


class _Reader:
    """Keeps the sum of the sizes met so far."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.bytes = 0

    def spectrum(self) -> Spectrum:
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
            layers=tuple(self.layers(len(steps))),
            summary={name: self.array(summary, name, np.float64, len(steps)) for name in SUMMARY},
        )

    def layers(self, T: int) -> Iterator[LayerSeries]:
        """The layers in the file's order, the first T rows of each."""
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
                    key: self.array(group, key, np.float64, T, ndim=2 if key in SPECTRA else 1)
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

    def array(self, parent: h5py.Group, name: str, dtype: type, T: int | None, ndim: int = 1) -> NDArray[Any]:
        """The first T rows (None: all) of a dataset whose data lie in this file and have the right type."""
        found = self.linked(parent, name)
        if not isinstance(found, h5py.Dataset) or found.dtype != np.dtype(dtype) or found.ndim != ndim:
            raise _Refused(f"{parent.name}/{name} is no {np.dtype(dtype)} array of {ndim} dimensions")
        if found.is_virtual or found.external:
            raise _Refused(f"{parent.name}/{name} takes its data from another file")
        self.bytes += 8 * max(math.prod(found.shape), math.prod(found.chunks or (0,)))
        if self.bytes > MAX_BYTES:
            raise _Refused(f"its arrays claim more than {MAX_BYTES:,} bytes")
        if T is not None and len(found) < T:
            raise _Refused(f"{parent.name}/{name} has {len(found)} rows for {T} steps")
        return found[:T]

    @staticmethod
    def linked(parent: h5py.Group, name: str) -> object:
        """What stands there, unless it is a soft or an external link."""
        if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
            raise _Refused(f"{parent.name}/{name} is a link to another place")
        return parent[name]
