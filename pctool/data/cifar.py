"""CIFAR-10 from the forms it is handed around in: the official binary and Python files, and PNG pages.

Each form is six files (five training batches and the test batch) of 10,000 images, in a folder or a tar archive.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pctool.data import sources
from pctool.errors import InputError
from pctool.files import is_folder, read_error
from pctool.picture_files import PICTURE_ERRORS

BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CHANNELS, SIDE = 3, 32
PIXELS = SIDE * SIDE
RECORD = CHANNELS * PIXELS
# The official Python batches have 31 MB each, the PNG pages 23 MB.
MAX_FILE = 64 << 20
# An official Python batch has some 50,000 opcodes (10,000 labels, 10,000 file names); each costs a microsecond.
MAX_OPCODES = 250_000
OFFICIAL_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
OFFICIAL_ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
ALLOWED = (
    "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, the folder either unpacks to, "
    "or a folder of the pages data_batch_1..5.png and test_batch.png"
)


def decode_binary(data: bytes, count: int) -> np.ndarray:
    """uint8 [count, 3, 32, 32] of the official binary form: a label byte, then red, green and blue planes.

    Raises ValueError for another length.
    """
    if len(data) != count * (1 + RECORD):
        raise ValueError(f"{len(data):,} bytes, expected {count * (1 + RECORD):,}")
    records = np.frombuffer(data, np.uint8).reshape(count, 1 + RECORD)
    return records[:, 1:].reshape(count, CHANNELS, SIDE, SIDE)


def decode_python(data: bytes, count: int) -> np.ndarray:
    """uint8 [count, 3, 32, 32] of the official Python form, a pickle, without unpickling it.

    `pickletools.genops` only names the opcodes; the images are the one string of count * 3072 bytes among their
    arguments (text in Latin-1 from the official Python-2 files, bytes from others). Nothing is executed or
    imported. Raises ValueError for a file without exactly one such string, or with too many opcodes.
    """
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in a damaged file's strings
        for i, (_, argument, _) in enumerate(pickletools.genops(data)):
            if i >= MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES:,} opcodes")
            if isinstance(argument, str | bytes | bytearray) and len(argument) == count * RECORD:
                found.append(argument)
    if len(found) != 1:
        raise ValueError(f"{len(found)} strings of {count * RECORD:,} bytes, expected one")
    pixels = found[0].encode("latin-1") if isinstance(found[0], str) else found[0]
    return np.frombuffer(pixels, np.uint8).reshape(count, CHANNELS, SIDE, SIDE)


def decode_page(data: bytes, count: int) -> np.ndarray:
    """uint8 [count, 3, 32, 32] of a PNG page: RGB, 1024 wide, a row an image in reading order.

    Raises ValueError for anything else.
    """
    wanted, rows = f"RGB {PIXELS} x {count}", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            page = Image.open(io.BytesIO(data), formats=["PNG"])
        found = f"{page.mode} {page.width} x {page.height}"
        if found == wanted:
            rows = np.asarray(page)
    except PICTURE_ERRORS as error:
        raise ValueError(f"not a whole PNG image: {error}") from error
    if rows is None:
        raise ValueError(f"{found}, expected {wanted}")
    return rows.transpose(0, 2, 1).reshape(count, CHANNELS, SIDE, SIDE)


@dataclass(frozen=True)
class Form:
    """How the six files are called after their batch, and the function that decodes one."""

    title: str
    suffix: str
    decode: Callable[[bytes, int], np.ndarray]


FORMS = (
    Form("binary", ".bin", decode_binary),
    Form("Python", "", decode_python),
    Form("PNG pages", ".png", decode_page),
)
LIMITS = {batch + form.suffix: MAX_FILE for form in FORMS for batch in BATCHES}


def read(source: Path, count: int, advance: Callable[[int], object]) -> Mapping[str, np.ndarray]:
    """The images in `source`: "train", uint8 [5 * count, 3, 32, 32], and "test", uint8 [count, 3, 32, 32].

    `source` is an archive or a folder (ALLOWED names them), `count` the images in a batch (10,000 but for tests),
    and `advance` is told of every batch's images. Where one place holds two forms, the first found counts.
    Nothing is verified here beyond the form. Raises InputError for another kind of source, and for a file that
    is damaged or missing.
    """
    images = np.empty((len(BATCHES), count, CHANNELS, SIDE, SIDE), np.uint8)
    form: Form | None = None
    missing = list(BATCHES)
    try:
        files = _files(source)
    except OSError as error:
        raise read_error(source, error) from error
    for name, data in files:
        batch, dot, extension = name.partition(".")
        form = form or next(form for form in FORMS if form.suffix == dot + extension)
        if form.suffix != dot + extension:
            continue
        if batch not in missing:
            raise InputError(f"{source} holds {name} twice")
        try:
            images[BATCHES.index(batch)] = form.decode(data, count)
        except (ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"{name} in {source} is not a batch in CIFAR-10's {form.title} form: {error}") from error
        missing.remove(batch)
        advance(count)
    if form is None:
        raise InputError(f"{source} holds no CIFAR-10: allowed are {ALLOWED}")
    if missing:
        raise InputError(f"{source} lacks {', '.join(batch + form.suffix for batch in missing)}")
    return {"train": images[:-1].reshape(-1, CHANNELS, SIDE, SIDE), "test": images[-1]}


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """The batch files of the first place in `source` that has any."""
    if not is_folder(source, f"one of {ALLOWED}"):
        return sources.in_tar(source, LIMITS)
    for folder in (source, *(source / name for name in OFFICIAL_FOLDERS)):
        if any((folder / name).is_file() for name in LIMITS):
            return sources.in_folder(folder, LIMITS)
    for archive in (source / name for name in OFFICIAL_ARCHIVES):
        if archive.is_file():
            return sources.in_tar(archive, LIMITS)
    return iter(())
