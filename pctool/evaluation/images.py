"""Images that come as files: a folder, a ZIP, or the `.npz` other toolkits write; read in batches, never repaired."""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pctool.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")  # Pillow's readers of these; no other is tried, whatever the file holds
GREY_MODES = frozenset({"1", "L"})
COLOUR_MODES = frozenset({"RGB", "P", "YCbCr", "CMYK"})
# What numpy, zipfile and zlib raise for an .npz that is damaged, foreign or larger than memory.
UNREADABLE_NPZ = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, MemoryError, SyntaxError),
    *(tokenize.TokenError, zlib.error, zipfile.BadZipFile),
)
# The same for an image in a folder or in a ZIP, by Pillow.
UNREADABLE_IMAGE = (
    *(OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError),
    *(zlib.error, zipfile.BadZipFile),
)
READERS = 4  # threads; decoders release the GIL


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder (with its subfolders) or of a ZIP, in the order of their names.

    Grey files stay grey (one channel), palettes and CMYK become RGB. One kind and one size for all.
    """

    source: Path
    names: tuple[str, ...]
    shape: tuple[int, int, int] = field(init=False)  # channels, height, width: the first file's

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError(f"{self.source} holds no images ({', '.join(sorted(SUFFIXES))})")
        with self._opened() as archive:
            object.__setattr__(self, "shape", self._decode(archive, self.names[0]).shape)

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, batch_size: int, n: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the first `n` images (all) as uint8 [b, C, H, W]. InputError naming a file that does not fit."""
        names = self.names[:n]
        with self._opened() as archive, ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), batch_size):
                chunk = names[start : start + batch_size]
                images = list(pool.map(lambda name: self._decode(archive, name), chunk))
                for name, image in zip(chunk, images, strict=True):
                    if image.shape != self.shape:
                        raise InputError(
                            f"{self.source}: {name} is {describe(image.shape)}, {self.names[0]} is "
                            f"{describe(self.shape)}; all images must be of one size and kind"
                        )
                yield np.stack(images)

    def _opened(self) -> zipfile.ZipFile | _Folder:
        return _Folder(self.source) if self.source.is_dir() else _open_zip(self.source)

    def _decode(self, archive: zipfile.ZipFile | _Folder, name: str) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(archive.read(name)), formats=FORMATS) as picture:
                if picture.mode not in GREY_MODES | COLOUR_MODES:
                    raise InputError(
                        f"{self.source}: {name} is of mode {picture.mode}; save it as 8-bit RGB or grey without alpha"
                    )
                grey = picture.mode in GREY_MODES
                pixels = np.asarray(picture.convert("L" if grey else "RGB"))
        except UNREADABLE_IMAGE as error:
            reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(f"{self.source}: {name} is not a readable image ({reason})") from error
        return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class ImageArray:
    """Images in memory, uint8 [N, C, H, W], with the interface of `ImageFiles`."""

    images: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, n: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the first `n` images (all) as uint8 [b, C, H, W]."""
        chosen = self.images[:n]
        for start in range(0, len(chosen), batch_size):
            yield chosen[start : start + batch_size]


@dataclass(frozen=True)
class _Folder:
    """A folder with the two methods of a ZipFile that reading takes."""

    path: Path

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def describe(shape: tuple[int, ...]) -> str:
    """[C, H, W] for people: `32x32 grey`."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def open_images(path: Path) -> ImageFiles | ImageArray:
    """A folder, a `.zip` or a `.npz`. InputError where there is nothing, or nothing usable."""
    if path.is_dir():
        names = (str(file.relative_to(path)) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return ImageFiles(path, tuple(sorted(names)))
    if not path.is_file():
        raise InputError(f"{path} is not there; give a folder of images, a .zip or a .npz")
    if path.suffix.lower() == ".npz":
        return ImageArray(_read_npz(path))
    with _open_zip(path) as archive:
        names = (name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES)
        return ImageFiles(path, tuple(sorted(names)))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a readable ZIP ({error}); give a folder of images, a .zip or a .npz"
        ) from error


def _read_npz(path: Path) -> NDArray[np.uint8]:
    """`arr_0`, uint8 [N, H, W, C] with one or three channels, as guided-diffusion and its kin write it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = arrays["arr_0"]
    except UNREADABLE_NPZ as error:
        raise InputError(f"{path} is not an .npz with an array arr_0 ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise InputError(f"{path}: arr_0 is {images.dtype} {list(images.shape)}; it must be uint8 [N, H, W, 1 or 3]")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def array_sha256(images: NDArray[np.uint8]) -> str:
    """Hash of shape and pixels, for what a set of images is known by."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
