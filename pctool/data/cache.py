"""Decoded images on the disk, once for all runs: an .npy file that is memory-mapped, with its checksum beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from pctool import files, places
from pctool.data import decoding, store
from pctool.data.decoding import EncodedImages
from pctool.errors import InputError, MissingError, WriteError

DECODER = 1  # raise it with any change of the pixels that `pictures.render` makes
CHUNK = 256  # images a worker decodes at a time
CHECKED_WHEN_OPENED = 4 << 30  # bytes: smaller files are hashed each time, larger ones by `pctool data verify` only


class Record(BaseModel):
    """What is known of a cache file; it lies beside it as `<file>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "pctool-images"
    version: int = 1
    dataset: str
    key: str
    images: int
    resolution: int
    crop: str
    sha256: str
    pillow: str


def key_of(images: EncodedImages, count: int | None = None) -> str:
    """SHA-256 (hex) of what the pixels follow from: the encoded images, their number, size and crop."""
    decided = {
        "fingerprint": images.pictures.fingerprint,
        "images": images.count if count is None else count,
        "resolution": images.resolution,
        "crop": images.crop,
        "decoder": DECODER,
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def path_of(label: str, images: EncodedImages, count: int | None = None) -> Path:
    """Where the decoded array of `images` lies."""
    return folder() / f"{label}-{images.resolution}px-{key_of(images, count)[:16]}.npy"


def folder() -> Path:
    """`images` in the cache folder."""
    return places.cache_dir() / "images"


def find(label: str, images: EncodedImages) -> np.ndarray | None:
    """The decoded images, memory-mapped read-only, or None where no whole file is here.

    A file of all the pictures also serves a run that takes the first of them.
    """
    for count in (images.count, len(images.pictures)):
        try:
            return open_verified(path_of(label, images, count), full=False)[: images.count]
        except (MissingError, InputError):
            continue
    return None


def open_verified(path: Path, *, full: bool) -> np.ndarray:
    """The array of a cache file; small files, and all with `full`, are hashed.

    Raises MissingError where it is not here, InputError where it is damaged.
    """
    try:
        record = Record.model_validate_json(_record_path(path).read_bytes())
    except FileNotFoundError:
        raise MissingError(f"{path} is not there") from None
    except (OSError, ValidationError) as error:
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
) -> Path:
    """Decodes all of `images` into the cache, unless a whole file is here; of several processes one does the work.

    Raises InputError naming a broken image, and WriteError (checked before the work: the space on the disk).
    """
    path = path_of(label, images)
    with _lock(path, say):
        if find(label, images) is not None:
            return path
        if path.exists():
            say(f"replacing {path}, which was damaged")
        files.remove_leftovers(path)
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


def of_dataset(label: str) -> list[tuple[Path, Record]]:
    """The cache files made of a data set, with what is known of them."""
    found = []
    for path in sorted(folder().glob("*.npy.json")):
        with contextlib.suppress(OSError, ValidationError):
            record = Record.model_validate_json(path.read_bytes())
            if record.dataset == label:
                found.append((path.with_suffix(""), record))
    return found


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


@contextlib.contextmanager
def _lock(path: Path, say: Callable[[str], object]) -> Iterator[None]:
    store.make_folder(path.parent)
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that writes {path}")
            lock.acquire()
    except OSError as error:
        raise files.write_error(path, error) from error
    try:
        yield
    finally:
        lock.release()
