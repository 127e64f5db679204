"""Features on the disk while they are needed: memory does not grow with the number of images."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from numpy.typing import NDArray

from pctool.files import write_error
from pctool.places import cache_dir

ZEROS = bytes(1 << 20)


class FeatureStore:
    """float32 [capacity, d], filled batch by batch, in a file of the cache folder that has no name.

    The system frees it with the process, however that ends: an interrupted evaluation leaves nothing behind.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._filled = 0
        self._array: NDArray[np.float32] | None = None

    def append(self, features: NDArray[np.floating]) -> None:
        """Adds a batch [n, d]. WriteError where the disk has no room; ValueError beyond the capacity."""
        if self._array is None:
            self._array = _room(self._capacity, features.shape[1])
        if self._filled + len(features) > self._capacity:
            raise ValueError(f"more than the {self._capacity} vectors announced")
        self._array[self._filled : self._filled + len(features)] = features
        self._filled += len(features)

    def __len__(self) -> int:
        return self._filled

    @property
    def features(self) -> NDArray[np.float32]:
        """What has been added, [n, d]. ValueError before the first batch."""
        if self._array is None:
            raise ValueError("no features came")
        return self._array[: self._filled]


def _room(n: int, dim: int) -> NDArray[np.float32]:
    size = n * dim * np.dtype(np.float32).itemsize
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # Writing to a map of a file without its blocks would end in SIGBUS on a full disk.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                for start in range(0, size, len(ZEROS)):
                    file.write(ZEROS[: size - start])
                file.flush()
            return np.memmap(file, np.float32, "r+", shape=(n, dim))
    except OSError as error:
        raise write_error(folder / "features", error, size, "choose another place by PCTOOL_CACHE_DIR") from error
