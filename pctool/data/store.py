"""The canonical files: `<data folder>/<data set>/<split>.npy`, uint8 [N, C, H, W], checked whenever they are read."""

from __future__ import annotations

import hashlib
import tokenize
from pathlib import Path

import numpy as np

from pctool.errors import InputError, MissingError
from pctool.files import read_error, write_beside


def path_of(data_dir: Path, name: str, split: str) -> Path:
    """Where a split's canonical array lies."""
    return data_dir / name / f"{split}.npy"


def sha256(images: np.ndarray) -> str:
    """SHA-256 (hex) of the array's bytes in C order: the pixels alone, without any file header."""
    return hashlib.sha256(np.ascontiguousarray(images).data.cast("B")).hexdigest()


def read(path: Path, shape: tuple[int, ...], expected: str | None) -> np.ndarray:
    """The array at `path`, memory-mapped read-only, after a check of its shape and of every byte.

    `shape` and `expected` (SHA-256) are what the code pins. The check is made at every call, so that nothing
    unverified is ever used: for the 153.6 MB of CIFAR-10's training images it takes 0.15 s (docs/data.md). Only a
    decoded cache too large for that passes None for `expected`.
    Raises MissingError if there is no file, InputError if it is unreadable or not the array it should be.
    """
    try:
        images = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{path} is not there") from error
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, SyntaxError, EOFError, tokenize.TokenError) as error:
        raise InputError(f"{path} is damaged: not a readable .npy file ({error})") from error
    if images.shape != shape or images.dtype != np.uint8:
        raise InputError(f"{path} is damaged: {images.dtype} {list(images.shape)}, expected uint8 {list(shape)}")
    found = sha256(images) if expected is not None else None
    if found != expected:
        raise InputError(f"{path} is damaged: SHA-256 {found}, expected {expected}")
    return images


def write(path: Path, images: np.ndarray) -> None:
    """Writes the array to `path` as .npy, whole or not at all. Raises WriteError."""
    with write_beside(path, images.nbytes) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(images), allow_pickle=False)
