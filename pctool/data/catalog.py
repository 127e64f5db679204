"""The data sets by name: what they are, where they come from, and the one function that loads them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pctool import places
from pctool.data import builtin, store
from pctool.errors import InputError, MissingError


@dataclass(frozen=True)
class Split:
    """A part of a data set: its number of images, and the SHA-256 of its canonical array's bytes."""

    images: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """The official file of a data set: address, size in bytes, SHA-256."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A data set. Its canonical arrays are uint8 [images, channels, resolution, resolution], a split each.

    One that comes with the package has an `asset`; any other has the official `archive`.
    """

    splits: Mapping[str, Split]
    default_split: str
    resolution: int
    channels: int
    licence: str
    address: str
    asset: str | None = None
    archive: Archive | None = None

    def shape(self, split: str) -> tuple[int, int, int, int]:
        """The canonical array's shape."""
        return (self.splits[split].images, self.channels, self.resolution, self.resolution)


DATASETS: dict[str, DataSet] = {
    "fashion-mnist": DataSet(
        # Of the official images padded to 32 x 32; tests compare the unpadded bytes with the published sum.
        splits={"test": Split(10_000, "2364637858a173aa0e745190f014fc8725b7e094c85554c0da5de720bfb02d3d")},
        default_split="test",
        resolution=32,
        channels=1,
        licence="MIT",
        address="https://github.com/zalandoresearch/fashion-mnist",
        asset="fashion-mnist-test.xz",
    ),
    "cifar10": DataSet(
        # Of the pixels of data_batch_1..5.bin and test_batch.bin in that order; docs/data.md has the evidence.
        splits={
            "train": Split(50_000, "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111"),
            "test": Split(10_000, "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56"),
        },
        default_split="train",
        resolution=32,
        channels=3,
        licence="not stated; its authors ask for a citation",
        address="https://www.cs.toronto.edu/~kriz/cifar.html",
        # Size and sum as TensorFlow Datasets' url_checksums/cifar10.txt gives them.
        archive=Archive(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in canonical order, verified.

    `images` is uint8 [N, C, H, W] and read-only (memory-mapped where it is a file): copy it once, as in
    `torch.tensor(images)`. `sha256` is of these bytes, so it differs where `max_images` cut the set.
    """

    name: str
    split: str
    images: np.ndarray
    sha256: str


State = Literal["built in", "verified", "absent", "damaged"]


@dataclass(frozen=True)
class SplitState:
    """What is here of a split: its state, where it lies (None: in the package), and what is wrong, if anything."""

    name: str
    split: str
    state: State
    path: Path | None
    problem: str | None


def describe(name: str) -> DataSet:
    """The data set of that name. Raises InputError with the allowed names, and with a close one."""
    if name in DATASETS:
        return DATASETS[name]
    close = difflib.get_close_matches(name, DATASETS, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"unknown data set '{name}': allowed are {', '.join(DATASETS)}{guess}")


def load(name: str, split: str | None = None, data_dir: Path | None = None, max_images: int | None = None) -> ImageSet:
    """The images of a split, every byte checked against the sum pinned here.

    `split` defaults to the one to train on; `max_images` takes that many from the start (all, if there are fewer).
    Raises InputError for an unknown name or split, a `max_images` below 1 and damaged data, MissingError for
    data that is not here.
    """
    about = describe(name)
    split = split or about.default_split
    if split not in about.splits:
        raise InputError(f"{name} has no split '{split}': allowed are {', '.join(about.splits)}")
    if max_images is not None and max_images < 1:
        raise InputError(f"max_images is {max_images}: allowed are 1 and more")
    images = _read(name, split, data_dir)
    sha256 = about.splits[split].sha256
    if max_images is not None and max_images < len(images):
        images = images[:max_images]
        sha256 = store.sha256(images)
    return ImageSet(name, split, images, sha256)


def _read(name: str, split: str, data_dir: Path | None) -> np.ndarray:
    about = DATASETS[name]
    shape, expected = about.shape(split), about.splits[split].sha256
    if about.asset is not None:
        return builtin.read_fashion_mnist(about.asset, shape, expected)
    path = store.path_of(places.data_dir(data_dir), name, split)
    try:
        return store.read(path, shape, expected)
    except MissingError as error:
        raise MissingError(f"{name} is not here ({path}): get it with {_remedy(name, data_dir)}") from error
    except InputError as error:
        raise InputError(f"{error}; replace it with {_remedy(name, data_dir)}") from error


def _remedy(name: str, data_dir: Path | None) -> str:
    place = f" --data-dir {data_dir}" if data_dir else ""
    return f"'pctool data fetch {name}{place}' or 'pctool data import {name} --from FILE|FOLDER{place}'"


def states(name: str, data_dir: Path | None = None) -> list[SplitState]:
    """What is here of each split, every byte read. Raises InputError for an unknown name."""
    about = describe(name)
    folder = places.data_dir(data_dir)
    found = []
    for split in about.splits:
        path = None if about.asset else store.path_of(folder, name, split)
        state: State = "built in" if about.asset else "verified"
        problem = None
        try:
            _read(name, split, data_dir)
        except MissingError as error:
            state, problem = "absent", str(error)
        except InputError as error:
            state, problem = "damaged", str(error)
        found.append(SplitState(name, split, state, path, problem))
    return found
