"""LSUN: a class is one LMDB file of JPEG images; an index of its keys, a plain array, gives them numbers."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pctool.data import pictures
from pctool.errors import InputError

KEYS = "keys.npy"  # the index, beside data.mdb


@dataclass(frozen=True)
class LmdbPictures:
    """The values of an LMDB file in the order of `keys`, an .npy file of byte strings; `sha256` is the LMDB's."""

    path: Path
    keys: Path
    count: int
    sha256: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file's own."""
        return hashlib.sha256(repr(("lmdb", self.sha256)).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        """The key of image `i`, and the file."""
        return f"image {self._key(i).decode('ascii', 'backslashreplace')} in {self.path}"

    def _key(self, i: int) -> bytes:
        return bytes(_keys(self.keys)[i])

    def picture(self, i: int) -> Image.Image:
        """Image `i` in mode RGB. Raises InputError naming one that is broken, or whose key is not in the file."""
        import lmdb

        try:
            with _environment(self.path, os.getpid()).begin() as transaction:
                value = transaction.get(self._key(i))
        except lmdb.Error as error:  # large files are not hashed before a run
            problem = f"{self.name(i)} cannot be read: the file is damaged ({error}); import it again"
            raise InputError(problem) from error
        if value is None:
            raise InputError(f"{self.name(i)} is not there: {self.keys} belongs to another file; import it again")
        return pictures.decode(value, self.name(i))


def index(path: Path, what: str) -> np.ndarray:
    """`read_keys` in a process of its own: the C library behind it does not survive every damaged file.

    Raises InputError as `read_keys` does, and where the process crashed.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        try:
            return pool.submit(read_keys, path, what).result()
        except BrokenProcessPool:
            raise InputError(f"{what} is damaged: reading it crashed; copy it again") from None


def read_keys(path: Path, what: str) -> np.ndarray:
    """All keys of an LMDB file in its own order, as byte strings [N].

    Raises InputError, naming `what`, for a file that is none, is cut short, or has no entries.
    """
    import lmdb

    try:
        with open_lmdb(path) as environment:
            if path.stat().st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]:
                raise InputError(f"{what} is cut short; copy it again")
            with environment.begin() as transaction, transaction.cursor() as cursor:
                keys = list(cursor.iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise InputError(f"{what} is not a readable LMDB file ({error})") from error
    if not keys:
        raise InputError(f"{what} holds no images")
    return np.array(keys, f"S{max(map(len, keys))}")


def open_lmdb(path: Path) -> Any:
    """The file `data.mdb`, read only, without the lock file that a read-only place would refuse."""
    import lmdb

    return lmdb.open(
        str(path), subdir=False, readonly=True, lock=False, readahead=False, create=False, meminit=False, max_readers=1
    )


@functools.lru_cache(maxsize=4)
def _environment(path: Path, process: int) -> Any:  # an environment must not cross a fork
    return open_lmdb(path)


@functools.lru_cache(maxsize=4)
def _keys(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)
