"""Where encoded images come from, and the one way in which they become square arrays.

A source is small and picklable: worker processes get a copy and open the files themselves.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from PIL import Image

from pctool import picture_files
from pctool.errors import InputError

Crop = Literal["centre", "resize"]
CHANNELS = 3
MAX_PIXELS = (1 << 30) // 12  # that an image may have once resized: 256 MiB, Pillow's limit for one it opens


class Pictures(Protocol):
    """Encoded images in a fixed order."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that changes with any of the encoded images, or with their order."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What to call image `i` in a message."""

    def picture(self, i: int) -> Image.Image:
        """Image `i`, decoded, in mode RGB. Raises InputError naming it where it is broken."""


def decode(data: bytes, what: str) -> Image.Image:
    """An image file's bytes as RGB; grey becomes three equal channels.

    Raises InputError, naming `what`, for a file that is broken, of another format, larger than Pillow's limit
    against decompression bombs, of more than 8 bits, or transparent anywhere.
    """
    try:
        picture = picture_files.decode(data)
        if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise InputError("is transparent in places; save it as RGB, on the background it should have")
        return picture_files.flattened(picture, "RGB")
    except InputError as error:
        raise InputError(f"{what} {error}") from error
    except picture_files.PICTURE_ERRORS as error:  # more entries of transparency than a palette has colours
        raise InputError(f"{what} is not a readable image: {error}") from error


def render(picture: Image.Image, resolution: int, crop: Crop, what: str) -> np.ndarray:
    """uint8 [3, resolution, resolution] of an RGB image.

    `centre` cuts out the middle as it is, as the authors' public code does for LSUN; `resize` first brings the
    short side to `resolution` by Pillow's bicubic filter. Raises InputError, naming `what`, for an image that is
    too small to be cut, or so long that MAX_PIXELS would not hold it.
    """
    width, height = picture.size
    short = min(width, height)
    if crop == "resize" and short != resolution:
        width, height = (resolution * side // short for side in (width, height))
        if width * height > MAX_PIXELS:
            raise InputError(f"{what} is {picture.width} x {picture.height}: too long to be resized; crop it")
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if min(width, height) < resolution:
        raise InputError(f"{what} is {width} x {height}, smaller than {resolution} px; use --crop resize")
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    square = picture.crop((left, top, left + resolution, top + resolution))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
