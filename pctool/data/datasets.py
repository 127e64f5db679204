"""The data sets by name: what they are and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pctool.data.landed import FilePin
from pctool.data.pictures import Crop
from pctool.errors import InputError, did_you_mean
from pctool.published import PublishedFile


@dataclass(frozen=True)
class Split:
    """A part of a data set: its number of images, and what holds them.

    That is a canonical array, whose bytes have the SHA-256 given, or the official `files` in that order.
    """

    images: int
    sha256: str | None = None
    files: tuple[str, ...] = ()


Form = Literal["arrays", "stl10", "lsun"]


@dataclass(frozen=True)
class DataSet:
    """A data set, kept as canonical arrays uint8 [images, channels, resolution, resolution], a split each, or as
    its official files, which are decoded at one of `resolutions` (`resolution` by default).

    One that comes with the package has an `asset`; any other has the official `archive`. `files` are those kept,
    with what is published of them; `crops` the ways to make their images square, the default first.
    """

    splits: Mapping[str, Split]
    default_split: str
    resolution: int
    channels: int
    licence: str
    address: str
    asset: str | None = None
    archive: PublishedFile | None = None
    form: Form = "arrays"
    resolutions: tuple[int, ...] = ()
    crops: tuple[Crop, ...] = ()
    files: Mapping[str, FilePin] = field(default_factory=dict)

    def shape(self, split: str) -> tuple[int, int, int, int]:
        """The canonical array's shape."""
        return (self.splits[split].images, self.channels, self.resolution, self.resolution)


def _lsun(category: str, images: int, resolution: int, size: int, sha256: str) -> DataSet:
    """A class of LSUN: the number of its training images is published; sizes and sums of the archives are those of
    TensorFlow Datasets' url_checksums/lsun.txt. The resolution is the paper's (its Table 2), 128 where it has both.
    """
    return DataSet(
        splits={"train": Split(images, files=("data.mdb",))},
        default_split="train",
        resolution=resolution,
        channels=3,
        licence="not stated; its authors ask for a citation",
        address="https://www.yf.io/p/lsun",
        archive=PublishedFile(f"http://dl.yf.io/lsun/scenes/{category}_train_lmdb.zip", sha256, size),
        form="lsun",
        resolutions=(64, 128, 256),
        crops=("centre", "resize"),
        files={"data.mdb": FilePin()},
    )


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
        archive=PublishedFile(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    "stl10": DataSet(
        splits={
            "unlabeled": Split(100_000, files=("unlabeled_X.bin",)),
            "train": Split(5_000, files=("train_X.bin",)),
            "test": Split(8_000, files=("test_X.bin",)),
            "all": Split(113_000, files=("unlabeled_X.bin", "train_X.bin", "test_X.bin")),
        },
        default_split="unlabeled",  # what the authors train and score on
        resolution=48,
        channels=3,
        licence="not stated; its authors ask for a citation",
        address="https://cs.stanford.edu/~acoates/stl10/",
        # Size and sum as TensorFlow Datasets' url_checksums/stl10.txt gives them.
        archive=PublishedFile(
            url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            size=2_640_397_119,
            sha256="f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
        ),
        form="stl10",
        resolutions=(32, 48, 64),
        crops=("resize",),
        files={  # MD5 as in torchvision's datasets/stl10.py
            "unlabeled_X.bin": FilePin(2_764_800_000, "5242ba1fed5e4be9e1e742405eb56ca4"),
            "train_X.bin": FilePin(138_240_000, "918c2871b30a85fa023e0c44e0bee87f"),
            "test_X.bin": FilePin(221_184_000, "7f263ba9f9e0b06b93213547f721ac82"),
        },
    ),
    "lsun-bedroom": _lsun(
        "bedroom", 3_033_042, 128, 45_922_737_680, "a15644c2e7153106867f0adb3491fc41224102d1f01b24494fb47d9f5d1f174e"
    ),
    "lsun-living-room": _lsun(
        "living_room",
        1_315_802,
        256,
        22_792_405_188,
        "bd2c52b812c80f73ce3062a221396d13a52b5cce2f813b4cdf61937651281d7a",
    ),
    "lsun-tower": _lsun(
        "tower", 708_264, 256, 12_010_237_081, "440caec74c9641cb51fd235a5970c8e4931c3af875aeb044a8bcca956e106309"
    ),
}


def describe(name: str, also: str = "") -> DataSet:
    """The data set of that name. Raises InputError with the allowed names, what is allowed `also`, and a close name."""
    if name in DATASETS:
        return DATASETS[name]
    guess = did_you_mean(name, DATASETS)
    raise InputError(f"unknown data set '{name}': allowed are {', '.join(DATASETS)}{also}{guess}")


def split_of(name: str, split: str | None) -> str:
    """`split`, or the one to train on. Raises InputError for one that the data set has not."""
    about = describe(name)
    split = split or about.default_split
    if split not in about.splits:
        raise InputError(f"{name} has no split '{split}': allowed are {', '.join(about.splits)}")
    return split
