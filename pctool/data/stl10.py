"""STL-10 in its official binary form: 96 x 96, three planes an image, each column by column."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96
RECORD = 3 * SIDE * SIDE


@dataclass(frozen=True)
class StlPictures:
    """The images of one or more `*_X.bin` files, one file after the other; `sums` are the files' SHA-256."""

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    sums: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files' own, in their order."""
        return hashlib.sha256(repr(("stl10", self.sums)).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(self.counts)

    def name(self, i: int) -> str:
        """Its number: STL-10's images have no names."""
        return f"image {i} of STL-10"

    def picture(self, i: int) -> Image.Image:
        """Image `i` in mode RGB. Raises IndexError beyond the last."""
        for path, count in zip(self.files, self.counts, strict=True):
            if i < count:
                return Image.fromarray(_planes(path, count)[i].transpose(2, 1, 0))
            i -= count
        raise IndexError(i)


@functools.lru_cache(maxsize=8)
def _planes(path: Path, count: int) -> np.ndarray:
    """uint8 [count, 3, column, row], memory-mapped."""
    return np.memmap(path, np.uint8, mode="r", shape=(count, 3, SIDE, SIDE))
