"""Samples kept as PNG files, in a folder or a ZIP, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pctool.errors import InputError, WriteError
from pctool.files import write_beside


def check_free(path: Path) -> None:
    """InputError where something is already at `path`; an empty folder is nothing."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise InputError(f"--samples-out {path} exists; choose another name or remove it")


@contextlib.contextmanager
def writer(path: Path) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yields `write(batch)` for uint8 [b, C, H, W]; files are 00000000.png and so on, in a ZIP if `path` ends so.

    They appear at `path` when the block ends well, else nothing does. WriteError for an OSError.
    """
    check_free(path)
    with _zip(path) if path.suffix.lower() == ".zip" else _folder(path) as put:
        count = 0

        def write(batch: NDArray[np.uint8]) -> None:
            nonlocal count
            for image in batch:
                put(f"{count:08d}.png", _png(image))
                count += 1

        yield write


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    with write_beside(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield archive.writestr


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)

        def put(name: str, data: bytes) -> None:
            (temporary / name).write_bytes(data)

        yield put
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"cannot write samples to {path}: {reason}; free space or choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
