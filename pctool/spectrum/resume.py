"""An interrupted measurement: a spectrum file of the rows so far, which the same command takes up again.

Such a file is one like any other, with two things beside: the attribute `unfinished` says what was being
measured, and `/checkpoint` which file each row is of. Neither is in the file that is written at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pctool.errors import InputError
from pctool.spectrum.measure import LayerSpectrum, Row
from pctool.spectrum.reader import LayerSeries, Spectrum, parse_spectrum
from pctool.spectrum.sources import Measured, Request, merged
from pctool.spectrum.store import SCALARS, SPECTRA, file_image

MARK, FILES = "unfinished", "checkpoint"


def unfinished_image(results: Sequence[Measured], request: Request, source: str) -> bytes:
    """The file of what is measured so far; InputError as `merged`."""
    network, rows = merged(results)
    by_step = {result.row.step: result.path for result in results if result.row}
    keys = np.array([_key(by_step[row.step]) for row in rows], dtype="S64")
    extra = {MARK: _mark(request), FILES: keys}
    return file_image(rows, source, network, request.operator, extra)


def already_measured(target: Path, request: Request, paths: Sequence[Path]) -> list[Measured] | None:
    """What `target` holds of a measurement that was interrupted; None where it is no such file.

    A file that has changed since is measured again, and so is one with a layer that could not be measured,
    whose reason the file does not keep.
    """
    if not os.path.isfile(target):  # or it may not be looked at
        return None
    try:
        image = target.read_bytes()
        spectrum = parse_spectrum(image, str(target))
    except (OSError, InputError):
        return None
    with h5py.File(h5py.h5f.open_file_image(image, flags=0)) as file:
        if not isinstance(file.get(FILES, getlink=True), h5py.HardLink):  # not there, or a link to another file
            return None
        keys: Any = file[FILES]
        whole = isinstance(keys, h5py.Dataset) and keys.dtype == "S64" and keys.shape == spectrum.steps.shape
        if file.attrs.get(MARK) != _mark(request) or not whole or keys.external or keys.is_virtual:
            return None
        names = keys[:].tolist()
    current = {_key(path): path for path in paths}
    network: Any = spectrum.network
    done = [(current.get(name), row) for name, row in zip(names, rows_of(spectrum), strict=True)]
    return [Measured(path, network, row) for path, row in done if path and not _has_nan(row)]


def _mark(request: Request) -> str:
    return json.dumps([request.network, request.pattern, request.grid])


def _key(path: Path) -> bytes:
    """A name for a file as it is now."""
    found = path.stat()
    return hashlib.sha256(f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}".encode()).hexdigest().encode()


def _has_nan(row: Row) -> bool:
    return any(np.isnan(layer.raw).any() or np.isnan(layer.effective).any() for layer in row.layers)


def rows_of(spectrum: Spectrum) -> list[Row]:
    """The rows a file was made of, but for the reasons of what could not be measured."""

    def layer(series: LayerSeries, t: int) -> LayerSpectrum:
        columns = {name: getattr(series, name) for name in (*SPECTRA, *SCALARS)}
        fields: dict[str, Any] = {name: None if values is None else values[t] for name, values in columns.items()}
        return LayerSpectrum(series.name, series.kind, series.shape, int(series.strength[t]), **fields)

    return [
        Row(
            int(step),
            tuple(layer(series, t) for series in spectrum.layers),
            {name: float(values[t]) for name, values in spectrum.summary.items()},
        )
        for t, step in enumerate(spectrum.steps)
    ]
