"""Images that are there: an array, a folder, a ZIP, or the `.npz` other toolkits write; read in batches."""

from __future__ import annotations

import functools
import hashlib
import math
import tokenize
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from pctool import picture_files
from pctool.errors import InputError
from pctool.evaluation.image_files import ALLOWED, look_at
from pctool.files import is_folder

# What is raised for an .npz that is damaged, foreign or larger than memory.
UNREADABLE_NPZ = (*picture_files.ZIP_ERRORS, TypeError, SyntaxError, tokenize.TokenError)
MOST_PACKED = 1032  # no deflated data unpack to more than that many times their size
Shape = tuple[int, int, int]  # channels, height, width


class Images(Protocol):
    """A set of images. `shapes`: all that occur, `shape`: the most frequent. `skipped`, `notes`: for the result.

    What inherits it has one shape and leaves out nothing, unless it says otherwise.
    """

    @property
    def shape(self) -> Shape: ...
    @property
    def shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @property
    def sha256(self) -> str: ...
    @property
    def skipped(self) -> tuple[str, ...]:
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int: ...
    def batches(self, batch_size: int, chosen: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the images with the (rising) numbers `chosen` (all) as uint8 [b, C, H, W], each batch of one size."""
        ...


@dataclass(frozen=True)
class ImageArray(Images):
    """Images in memory (or memory-mapped), uint8 [N, C, H, W]; `known_sha256` where they have been hashed before."""

    images: NDArray[np.uint8]
    known_sha256: str | None = None

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @functools.cached_property
    def sha256(self) -> str:
        """Of shape and pixels, or `known_sha256`."""
        return self.known_sha256 or array_sha256(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, chosen: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the images with the numbers `chosen` (all) as uint8 [b, C, H, W]."""
        numbers = range(len(self)) if chosen is None else chosen
        for start in range(0, len(numbers), batch_size):
            yield self.images[np.asarray(numbers[start : start + batch_size])]


@dataclass(frozen=True)
class ArrayFile(Images):
    """`arr_0` of an .npz, uint8 [N, H, W, C] with one or three channels, as guided-diffusion and its kin write it.

    Read in pieces, packed or not: such files hold 10 GB.
    """

    path: Path

    @functools.cached_property
    def _stored(self) -> tuple[int, int, int, int]:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
                shape, fortran, dtype = _header(file)
                stored = archive.getinfo("arr_0.npy").file_size - file.tell()
            packed = self.path.stat().st_size
        except UNREADABLE_NPZ as error:
            raise InputError(f"{self.path} is not an .npz with an array arr_0 ({error})") from error
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape or fortran:
            raise InputError(f"{self.path}: arr_0 is {dtype} {list(shape)}; it must be uint8 [N, H, W, 1 or 3]")
        if math.prod(shape) != stored or stored > MOST_PACKED * packed:
            raise InputError(f"{self.path} is damaged: arr_0 claims {list(shape)}, which is not what it holds")
        return shape[0], shape[1], shape[2], shape[3]

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        _, height, width, channels = self._stored
        return channels, height, width

    @functools.cached_property
    def sha256(self) -> str:
        """Of shape and pixels."""
        digest = hashlib.sha256(repr(self._stored).encode())
        for batch in self.batches(1000):
            digest.update(np.ascontiguousarray(batch).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return self._stored[0]

    def batches(self, batch_size: int, chosen: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the images with the (rising) numbers `chosen` (all) as uint8 [b, C, H, W]."""
        wanted = set(range(len(self)) if chosen is None else (int(i) for i in chosen))
        channels, height, width = self.shape
        batch: list[NDArray[np.uint8]] = []
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
                _header(file)
                for i in range(max(wanted, default=-1) + 1):
                    pixels = np.frombuffer(file.read(height * width * channels), np.uint8)
                    if i in wanted:
                        batch.append(pixels.reshape(height, width, channels).transpose(2, 0, 1))
                    if len(batch) == batch_size:
                        yield np.stack(batch)
                        batch = []
        except UNREADABLE_NPZ as error:
            raise InputError(f"{self.path} is damaged ({error}); write it again") from error
        if batch:
            yield np.stack(batch)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type of the .npy that `file` is at the start of; `file` is then at its data."""
    read = np.lib.format.read_array_header_1_0
    return (read if np.lib.format.read_magic(file) == (1, 0) else np.lib.format.read_array_header_2_0)(file)


def describe(shape: tuple[int, ...]) -> str:
    """[C, H, W] for people: `32x32 grey`."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def open_images(path: Path) -> Images:
    """A folder, a `.zip` or a `.npz`. InputError where there is nothing, or nothing usable.

    Every image of a folder or ZIP is read once here; what is hidden is passed over, as clean-fid does.
    """
    names = image_names(path)
    if names is not None:
        return look_at(path, names)
    opened = ArrayFile(path)
    len(opened)  # reads the header, and with it refuses another file
    return opened


def image_names(path: Path) -> tuple[str, ...] | None:
    """The images in a folder or ZIP, none of them read; None for an `.npz`. InputError where there are none."""
    if is_folder(path, ALLOWED):
        names = picture_files.of_folder(path)
    elif path.suffix.lower() == ".npz":
        return None
    else:
        with picture_files.open_zip(path, ALLOWED) as archive:
            names = [info.filename for info in picture_files.of_zip(archive)]
    picture_files.check_some(path, names)
    return tuple(sorted(names))


def array_sha256(images: NDArray[np.uint8]) -> str:
    """Hash of shape and pixels, for what a set of images is known by."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
