"""Any folder or ZIP of images, in the order of the files' names."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pctool import files, places
from pctool.data import pictures
from pctool.data.sources import ZIP_ERRORS
from pctool.errors import InputError, WriteError

if TYPE_CHECKING:
    from PIL import Image

MAX_FILE = 1 << 30  # bytes that an image in a ZIP may unpack to: a bomb would take all memory


@dataclass(frozen=True)
class FolderPictures:
    """The image files in a folder and its subfolders, sorted by name; `fingerprint` is of names and contents."""

    folder: Path
    names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The file of image `i`."""
        return str(self.folder / self.names[i])

    def picture(self, i: int) -> Image.Image:
        """Image `i` in mode RGB. Raises InputError naming a file that is broken, or has gone."""
        return pictures.decode(_read(self.folder / self.names[i]), self.name(i))


@dataclass(frozen=True)
class ZipPictures:
    """The image files in a ZIP, sorted by name; `fingerprint` is of names, sizes and the archive's CRC-32 sums."""

    path: Path
    names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The file of image `i`, and the archive."""
        return f"{self.names[i]} in {self.path}"

    def picture(self, i: int) -> Image.Image:
        """Image `i` in mode RGB. Raises InputError naming one that is broken or unpacks to over MAX_FILE bytes."""
        try:
            archive = _archive(self.path, os.getpid())
            if archive.getinfo(self.names[i]).file_size > MAX_FILE:
                raise InputError(f"{self.name(i)} unpacks to more than {MAX_FILE:,} bytes")
            data = archive.read(self.names[i])
        except ZIP_ERRORS as error:
            raise InputError(f"{self.name(i)} cannot be read: {error}") from error
        return pictures.decode(data, self.name(i))


def open_path(path: Path) -> FolderPictures | ZipPictures:
    """The images of a folder or a ZIP. Raises InputError where there is nothing, or no images."""
    path = path.resolve()
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the name of a data set, a folder of images or a ZIP")
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(
                (info.filename, info.file_size, info.CRC)
                for info in archive.infolist()
                if not info.is_dir() and _is_image(info.filename)
            )
    except ZIP_ERRORS as error:
        raise InputError(f"{path} is not a readable ZIP ({error}); give a folder of images or a ZIP") from error
    _check_some(path, members)
    return ZipPictures(path, tuple(name for name, _, _ in members), _digest(members))


def _is_image(name: str) -> bool:
    """By its ending; what is hidden is passed over."""
    return PurePosixPath(name).suffix.lower() in pictures.SUFFIXES and not files.is_hidden(name)


def _open_folder(folder: Path) -> FolderPictures:
    """Contents are hashed once: names, sizes and times that are as before stand for them the next time."""
    found = ((path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*")))
    images = [(path, name) for path, name in found if _is_image(name) and path.is_file()]
    paths, names = [path for path, _ in images], [name for _, name in images]
    _check_some(folder, names)
    stats = [path.stat() for path in paths]
    listing = _digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)])
    known = places.cache_dir() / "folders" / f"{_digest(str(folder))[:16]}.json"
    fingerprint = _remembered(known, listing)
    if fingerprint is None:
        sums = [hashlib.sha256(_read(path)).hexdigest() for path in paths]
        fingerprint = _digest(list(zip(names, sums, strict=True)))
        with contextlib.suppress(WriteError):  # a cache folder that cannot be written costs a second reading, no more
            files.write_text(known, json.dumps({"folder": str(folder), "listing": listing, "sha256": fingerprint}))
    return FolderPictures(folder, tuple(names), fingerprint)


def _remembered(known: Path, listing: str) -> str | None:
    try:
        record = json.loads(known.read_text(encoding="utf-8"))
        return str(record["sha256"]) if record["listing"] == listing else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _check_some(path: Path, found: list) -> None:
    if not found:
        raise InputError(f"{path} holds no images ({', '.join(sorted(pictures.SUFFIXES))})")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@functools.lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:  # its file position must not cross a fork
    return zipfile.ZipFile(path)
