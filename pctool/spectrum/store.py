"""The spectrum file, HDF5 as docs/spectrum.md lays it out, written whole; live.py writes it row by row.

/            attrs format, version, source, network, operator
/step        int64 [T], a dimension scale
/layers/<name>/...   float64 [T, r] and [T], strength int64 [T], index int64 [r] (a dimension scale)
/summary/...         float64 [T]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

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


def file_image(
    rows: Sequence[Row], source: str, network: str, operator: str = "matrix", extra: Mapping[str, Any] | None = None
) -> bytes:
    """A whole spectrum file of at least one row, as bytes: the same rows give the same bytes.

    Large datasets are compressed (shuffle and gzip). `extra` are more attributes of the file; an array stands
    beside `/step` instead. Raises ValueError for steps that do not rise, or rows of other layers than the first's.
    """
    attrs = {"source": source, "network": network, "operator": operator, **(extra or {})}
    return image_of(contents_of(rows), attrs, live=False)


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


class Contents(NamedTuple):
    """What a file holds, an entry a row: of each layer its group's name, attributes and columns."""

    steps: NDArray[Any]
    layers: Sequence[tuple[str, Mapping[str, Any], Mapping[str, NDArray[Any]]]]
    summary: Mapping[str, NDArray[Any]]


def contents_of(rows: Sequence[Row]) -> Contents:
    """Of at least one row. Raises ValueError as `file_image`."""
    for before, row in itertools.pairwise(rows):
        check_next(row, before.step, structure(before))
    layers = []
    for i, (key, layer) in enumerate(zip(keys_of(rows[0]), rows[0].layers, strict=True)):
        attrs: dict[str, Any] = {"shape": np.array(layer.shape, dtype=np.int64), "kind": layer.kind}
        attrs |= next(({"problem": problem} for row in rows if (problem := problem_of(row, i))), {})
        names = [name for name in (*SPECTRA, *SCALARS, "strength") if getattr(layer, name) is not None]
        columns = {name: np.array([getattr(row.layers[i], name) for row in rows]) for name in names}
        layers.append((key, attrs, columns))
    summary = {name: np.array([row.summary[name] for row in rows]) for name in SUMMARY}
    return Contents(np.array([row.step for row in rows]), layers, summary)


def image_of(contents: Contents, attrs: Mapping[str, Any], live: bool) -> bytes:
    """A file's bytes; a `live` one can grow, and nothing in it is compressed."""
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


def _fill(file: h5py.File, contents: Contents, live: bool) -> None:
    """Creates every dataset with its values."""
    step = _dataset(file, "step", contents.steps, live)
    step.make_scale("step")

    def column(group: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
        dataset = _dataset(group, name, values, live)
        dataset.dims[0].attach_scale(step)
        return dataset

    layout = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    layout.set_link_creation_order(h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED)  # the network's order
    layout.set_obj_track_times(False)  # older h5py would keep the second in which the file was made
    groups = h5py.Group(h5py.h5g.create(file.id, b"layers", gcpl=layout))
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


def problem_of(row: Row, i: int) -> str | None:
    """The reason for a NaN, and since when: a file keeps the first."""
    problem = row.layers[i].problem
    return f"step {row.step}: {problem}" if problem else None


Structure = list[tuple[object, ...]]  # of each layer, in order, its group, its shape, and whether it is normalised


def structure(row: Row) -> Structure:
    """What rows of one file have in common."""
    layers = zip(keys_of(row), row.layers, strict=True)
    return [(key, *layer.shape, layer.normalized is not None) for key, layer in layers]


def keys_of(row: Row) -> list[str]:
    """The groups of a row's layers."""
    return layer_keys(layer.name for layer in row.layers)


def check_next(row: Row, last_step: int, expected: Structure) -> None:
    """Raises ValueError for a row that cannot follow: not above the last step, or of other layers."""
    if row.step <= last_step:
        raise ValueError(f"step {row.step} does not follow step {last_step}")
    if structure(row) != expected:
        raise ValueError(f"step {row.step} has other layers than the steps before: {structure(row)}, not {expected}")
