"""Decoded images on the disk, once for all runs: an .npy file that is memory-mapped, with its checksum beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from pctool import files, places
from pctool.data import decoding, store
from pctool.data.decoding import EncodedImages
from pctool.data.pictures import Crop, Pictures
from pctool.errors import InputError, MissingError, WriteError

DECODER = 1  # raise it with any change of the pixels that `pictures.render` makes
CHUNK = 256  # images a worker decodes at a time
CHECKED_WHEN_OPENED = 4 << 30  # bytes: smaller files are hashed each time, larger ones by `pctool data verify` only
LONGEST_LABEL = 100  # bytes in a file's name, which may have 255 with what is put around it


class Record(BaseModel):
    """What is known of a cache file; it lies beside it as `<file>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "pctool-images"
    version: int = 1
    dataset: str
    key: str
    images: int
    resolution: int
    crop: Crop
    sha256: str
    pillow: str


def key_of(images: EncodedImages) -> str:
    """SHA-256 (hex) of what the pixels follow from: the encoded images, their number, size and crop."""
    decided = {
        "fingerprint": images.pictures.fingerprint,
        "images": images.count,
        "resolution": images.resolution,
        "crop": images.crop,
        "decoder": DECODER,
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def path_of(label: str, images: EncodedImages) -> Path:
    """Where the decoded array of `images` lies."""
    label = label.encode()[:LONGEST_LABEL].decode(errors="ignore")
    return folder() / f"{label}-{images.resolution}px-{key_of(images)[:16]}.npy"


def folder() -> Path:
    """`images` in the cache folder."""
    return places.cache_dir() / "images"


def find(label: str, images: EncodedImages) -> np.ndarray | None:
    """The decoded images, memory-mapped read-only, or None where no whole file is here.

    A file of all the pictures also serves a run that takes the first of them. Raises InputError for one that the
    system does not let be read.
    """
    for count in (images.count, len(images.pictures)):
        try:
            return open_verified(path_of(label, replace(images, count=count)), full=False)[: images.count]
        except MissingError:
            continue
        except InputError as error:
            if files.is_unreadable(error):
                raise
    return None


def open_verified(path: Path, *, full: bool) -> np.ndarray:
    """The array of a cache file; small files, and all with `full`, are hashed.

    Raises MissingError where it is not here, InputError where it is damaged or unreadable.
    """
    try:
        record = Record.model_validate_json(_record_path(path).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path} is not there") from None
    except OSError as error:
        raise files.read_error(_record_path(path), error) from error
    except ValidationError as error:
        raise InputError(f"{_record_path(path)} is damaged ({str(error).splitlines()[0]}); remove it") from None
    shape = (record.images, 3, record.resolution, record.resolution)
    expected = record.sha256 if full or np.prod(shape, dtype=np.int64) <= CHECKED_WHEN_OPENED else None
    return store.read(path, shape, expected)


def build(
    label: str,
    images: EncodedImages,
    *,
    workers: int | None = None,
    advance: Callable[[int], object] = lambda n: None,
    say: Callable[[str], object] = lambda line: None,
    check: Callable[[], object] = lambda: None,
) -> Path:
    """Decodes all of `images` into the cache, unless a whole file is here; of several processes one does the work.

    `check` is called when all are decoded and may still refuse them. Raises InputError naming a broken image, and
    WriteError (checked before the work: the space on the disk).
    """
    path = path_of(label, images)
    with _lock(path, say):
        if find(label, images) is not None:
            return path
        if path.exists():
            say(f"replacing {path}, which was damaged")
        files.remove_leftovers(path)
        _remove_abandoned()
        free = shutil.disk_usage(path.parent).free
        if free < images.nbytes:
            raise WriteError(
                f"cannot write {path} ({images.nbytes:,} bytes): {free:,} bytes are free; free space, set "
                "PCTOOL_CACHE_DIR to another place, or stream the images with --cache-limit 0"
            )
        digest = hashlib.sha256()
        with files.write_beside(path, images.nbytes) as temporary, temporary.open("wb") as file:
            header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
            np.lib.format.write_array_header_1_0(file, header)
            chunks = [range(i, min(i + CHUNK, len(images))) for i in range(0, len(images), CHUNK)]
            with contextlib.closing(decoding.decoded(images, chunks, workers)) as batches:
                for batch in batches:
                    file.write(batch.data)
                    digest.update(batch.data)
                    advance(len(batch))
            check()
        record = Record(
            dataset=label,
            key=key_of(images),
            images=len(images),
            resolution=images.resolution,
            crop=images.crop,
            sha256=digest.hexdigest(),
            pillow=PIL.__version__,
        )
        files.write_text(_record_path(path), record.model_dump_json(indent=2) + "\n")
    return path


def _remove_abandoned() -> None:
    """Takes away what killed processes left of other files: those whose lock is free."""
    import filelock

    for temporary in folder().glob(f".*.npy.{'[0-9a-f]' * 8}.tmp"):
        path = temporary.with_name(temporary.name[1 : -len(".01234567.tmp")])
        with contextlib.suppress(OSError), filelock.FileLock(_lock_path(path)).acquire(timeout=0):
            files.remove_leftovers(path)


def made_of(pictures: Pictures) -> list[tuple[Path, Record]]:
    """The cache files decoded from `pictures`, with what is known of them. Raises InputError."""
    found = []
    try:
        names = sorted(name for name in os.listdir(folder()) if name.endswith(".npy.json"))
        for path in (folder() / name for name in names):
            with contextlib.suppress(FileNotFoundError, ValidationError):
                record = Record.model_validate_json(path.read_bytes())
                if record.key == key_of(EncodedImages(pictures, record.resolution, record.crop, record.images)):
                    found.append((path.with_suffix(""), record))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise files.read_error(error.filename, error) from error
    return found


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _lock(path: Path, say: Callable[[str], object]) -> AbstractContextManager[None]:
    return files.locked(_lock_path(path), path, say, "set PCTOOL_CACHE_DIR to another place")
