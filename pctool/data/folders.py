"""Any folder or ZIP of images, in the order of the files' names."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pctool import files, picture_files, places
from pctool.data import pictures
from pctool.errors import InputError, WriteError


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
        """Image `i` in mode RGB. Raises InputError naming one that is broken or too large."""
        try:
            data = picture_files.read_member(_archive(self.path, os.getpid()), self.names[i])
        except InputError as error:
            raise InputError(f"{self.name(i)} {error}") from error
        return pictures.decode(data, self.name(i))


def open_path(path: Path) -> FolderPictures | ZipPictures:
    """The images of a folder or a ZIP. Raises InputError where there is nothing, or no images."""
    path = Path(os.path.realpath(path))  # Path.resolve raises where links go round in a circle
    if files.is_folder(path, "the name of a data set, a folder of images or a ZIP"):
        return _open_folder(path)
    with picture_files.open_zip(path, "a folder of images or a ZIP") as archive:
        found = picture_files.of_zip(archive)
    picture_files.check_some(path, found)
    members = sorted((info.filename, info.file_size, info.CRC) for info in found)
    return ZipPictures(path, tuple(name for name, _, _ in members), _digest(members))


def _open_folder(folder: Path) -> FolderPictures:
    """Contents are hashed once: names, sizes and times that are as before stand for them the next time."""
    names = sorted(picture_files.of_folder(folder), key=lambda name: name.split("/"))
    picture_files.check_some(folder, names)
    # The time of the last change of any kind, too: a program can set that of the content back.
    stats = [_stat(folder / name) for name in names]
    listing = _digest(
        [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in zip(names, stats, strict=True)]
    )
    known = places.cache_dir() / "folders" / f"{_digest(str(folder))[:16]}.json"
    fingerprint = _remembered(known, listing)
    if fingerprint is None:
        sums = [hashlib.sha256(_read(folder / name)).hexdigest() for name in names]
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
        if path.stat().st_size > picture_files.MAX_FILE:
            raise InputError(f"{path} has more than {picture_files.MAX_FILE:,} bytes; leave it out")
        return path.read_bytes()
    except OSError as error:
        raise files.read_error(path, error) from error


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise files.read_error(path, error) from error


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@functools.lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:  # its file position must not cross a fork
    return picture_files.open_zip(path, "a folder of images or a ZIP")
