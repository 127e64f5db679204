"""The images of a folder or of a ZIP: every file is looked at once before any is scored, so that counts are known."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pctool.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")  # Pillow's readers of these; no other is tried, whatever the file holds
GREY_MODES = frozenset({"1", "L", "LA"})
TRANSPARENT_MODES = frozenset({"LA", "RGBA", "PA"})
MODES = GREY_MODES | TRANSPARENT_MODES | {"RGB", "P", "YCbCr", "CMYK"}
# What Pillow, zipfile and zlib raise for an image that is damaged or foreign.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError),
    *(zlib.error, zipfile.BadZipFile),
)
READERS = 4  # threads; decoders release the GIL


@dataclass(frozen=True)
class _Seen:
    """What the first look at a file found; `problem` instead of the rest where it cannot be used."""

    name: str
    sha256: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)  # height, width
    problem: str | None = None


@dataclass(frozen=True)
class ImageFiles:
    """The readable images of a folder (with its subfolders) or of a ZIP, in the order of their names.

    Files that cannot be read are left out and counted in `skipped`. Transparency is dropped, and among colour
    images grey ones become three equal channels, as clean-fid does; `notes` count both, and sizes that differ.
    InputError where nothing is left.
    """

    source: Path
    candidates: tuple[str, ...]
    names: tuple[str, ...] = field(init=False)
    shape: tuple[int, int, int] = field(init=False)  # channels, height, width: the most frequent
    shapes: tuple[tuple[int, int, int], ...] = field(init=False)  # all there are
    sha256: str = field(init=False)  # of names and contents
    skipped: tuple[str, ...] = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.candidates:
            raise InputError(f"{self.source} holds no images ({', '.join(sorted(SUFFIXES))})")
        with self._opened() as archive, ThreadPoolExecutor(READERS) as pool:
            looks = list(pool.map(lambda name: self._look(archive, name), self.candidates))
        good, broken = ([look for look in looks if (look.problem is None) is usable] for usable in (True, False))
        if not good:
            raise InputError(f"{self.source} holds no readable image: {broken[0].name} {broken[0].problem}")
        colour = any(look.mode not in GREY_MODES for look in good)
        counts = Counter((3 if colour else 1, *look.size) for look in good)
        digest = hashlib.sha256("".join(f"{look.name}\0{look.sha256}\n" for look in good).encode())
        set_ = object.__setattr__
        set_(self, "names", tuple(look.name for look in good))
        set_(self, "shapes", tuple(shape for shape, _ in counts.most_common()))
        set_(self, "shape", self.shapes[0])
        set_(self, "sha256", digest.hexdigest())
        set_(self, "skipped", (_skipped(self.source, broken, len(looks)),) if broken else ())
        set_(self, "notes", tuple(_notes(self.source, good, colour, len(good) - counts[self.shape])))

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, batch_size: int, chosen: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the images with the numbers `chosen` (all) as uint8 [b, C, H, W], b at most `batch_size`.

        Each batch is of one size; where sizes differ, one reading of `batch_size` files becomes several batches.
        """
        names = self.names if chosen is None else [self.names[i] for i in chosen]
        with self._opened() as archive, ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), batch_size):
                groups: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
                for image in pool.map(lambda name: self._read(archive, name), names[start : start + batch_size]):
                    groups.setdefault(image.shape, []).append(image)
                yield from (np.stack(images) for images in groups.values())

    def _opened(self) -> zipfile.ZipFile | _Folder:
        return _Folder(self.source) if self.source.is_dir() else open_zip(self.source)

    def _look(self, archive: zipfile.ZipFile | _Folder, name: str) -> _Seen:
        try:
            data = archive.read(name)
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                picture.load()
                mode, size = picture.mode, (picture.height, picture.width)
        except UNREADABLE as error:
            reason = "of no known format" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
            return _Seen(name, problem=f"is not a readable image ({reason})")
        if mode not in MODES:
            return _Seen(name, problem=f"is of mode {mode}; save it as 8-bit RGB or grey")
        return _Seen(name, hashlib.sha256(data).hexdigest(), mode, size)

    def _read(self, archive: zipfile.ZipFile | _Folder, name: str) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(archive.read(name)), formats=FORMATS) as picture:
                pixels = np.asarray(picture.convert("L" if self.shape[0] == 1 else "RGB"))
        except UNREADABLE as error:
            raise InputError(f"{self.source}: {name} changed while it was scored ({error}); start again") from error
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _skipped(source: Path, broken: list[_Seen], total: int) -> str:
    return f"{len(broken):,} of {total:,} files in {source}: the first, {broken[0].name}, {broken[0].problem}"


def _notes(source: Path, good: list[_Seen], colour: bool, n_other_sizes: int) -> Iterator[str]:
    transparent = sum(look.mode in TRANSPARENT_MODES for look in good)
    grey = sum(look.mode in GREY_MODES for look in good) if colour else 0
    if transparent:
        yield f"{transparent:,} of {len(good):,} images in {source} have transparency, which was dropped"
    if grey:
        yield f"{grey:,} of {len(good):,} images in {source} are grey and became colour"
    if n_other_sizes:
        yield f"{n_other_sizes:,} of {len(good):,} images in {source} are of another size than the rest"


@dataclass(frozen=True)
class _Folder:
    """A folder with the methods of a ZipFile that reading takes."""

    path: Path

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive at `path`. InputError where it is none."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a readable ZIP ({error}); give a folder of images, a .zip or a .npz"
        ) from error
