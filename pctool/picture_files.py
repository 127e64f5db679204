"""Image files in folders and ZIPs: which ones count, and what they hold. Training and scoring read them alike."""

from __future__ import annotations

import io
import lzma
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sized
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image, UnidentifiedImageError

from pctool import files
from pctool.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")  # no other reader of Pillow is tried, whatever a file holds
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr", "CMYK"})  # Pillow's of 8 bits
MAX_FILE = 1 << 30  # bytes of an image file, and what one in a ZIP may unpack to: a bomb would take all memory
# What Python's ZIP reader raises for damaged input: for an encrypted member RuntimeError, for an unknown method
# NotImplementedError.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError),
    *(RuntimeError, NotImplementedError, KeyError, MemoryError),
)
# What Pillow raises for a damaged image: IndexError where a chunk is empty.
PICTURE_ERRORS = (
    *(OSError, ValueError, SyntaxError, RuntimeError, EOFError, MemoryError, LookupError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def of_folder(folder: Path) -> list[str]:
    """The image files in a folder and its subfolders. Raises InputError."""
    return [name for name in files.visible_files(folder) if _is_image(name)]


def open_zip(path: Path, allowed: str) -> zipfile.ZipFile:
    """The archive at `path`. Raises InputError where it is none, with what is `allowed`."""
    try:
        return zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise InputError(f"{path} is not a readable ZIP ({error}); give {allowed}") from error


def of_zip(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The image files in a ZIP. Raises InputError where two have one name: only the last could be read."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if not info.filename or info.is_dir() or not _is_image(info.filename) or files.is_hidden(info.filename):
            continue
        if info.filename in found:
            raise InputError(f"{archive.filename} holds {info.filename} twice; write it again without one of them")
        found[info.filename] = info
    return list(found.values())


def check_some(path: Path, found: Sized) -> None:
    """Raises InputError where no images were found in `path`."""
    if not found:
        raise InputError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def read_file(path: Path) -> bytes:
    """An image file. Raises InputError, to go behind its name, where it cannot be read or has over MAX_FILE bytes."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"has more than {MAX_FILE:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file in a ZIP. Raises InputError, to be put behind its name, where it is damaged or beyond MAX_FILE bytes."""
    try:
        if archive.getinfo(name).file_size > MAX_FILE:
            raise InputError(f"unpacks to more than {MAX_FILE:,} bytes")
        return archive.read(name)
    except ZIP_ERRORS as error:
        raise InputError(f"cannot be read: {error}") from error


def decode(data: bytes) -> Image.Image:
    """An image file's pixels, in the mode they have.

    Raises InputError, to be put behind its name, for a file that is broken, of another format, larger than Pillow's
    limit against decompression bombs, or of more than 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if _is_deep(picture):  # Pillow would halve the bits of a colour image without a word
                raise InputError("has 16 bits a channel; save it as 8-bit RGB or grey")
            picture.load()
    except UnidentifiedImageError:
        raise InputError(f"is not a readable image: none of {', '.join(FORMATS)}") from None
    except PICTURE_ERRORS as error:
        raise InputError(f"is not a readable image: {' '.join(str(error).split())}") from error
    if picture.mode not in MODES:
        raise InputError(f"is of mode {picture.mode}; save it as 8-bit RGB or grey")
    return picture


def _is_deep(picture: Image.Image) -> bool:
    """Whether a PNG or PPM, opened and not yet loaded, has over 8 bits a channel: "RGB;16B", or a largest value."""
    if picture.format not in ("PNG", "PPM"):
        return False
    told = [tile[3] for tile in getattr(picture, "tile", ())]  # what the decoder is told
    flat = [value for one in told for value in (one if isinstance(one, tuple) else (one,))]
    return any(";16" in value if isinstance(value, str) else value > 255 for value in flat)


def flattened(picture: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The picture in `mode`, whatever it says of transparency."""
    picture.info.pop("transparency", None)  # Pillow would look for a colour to put in its place
    return picture.convert(mode)
