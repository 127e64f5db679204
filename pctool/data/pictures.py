"""Where encoded images come from, and the one way in which they become square arrays.

A source is small and picklable: worker processes get a copy and open the files themselves.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from pctool.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Crop = Literal["centre", "resize"]
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")  # no other reader of Pillow is tried, whatever a file holds
OPAQUE_MODES = frozenset({"1", "L", "RGB", "CMYK", "YCbCr"})
ALPHA_MODES = frozenset({"LA", "PA", "RGBA", "P"})  # a palette may have transparent entries
CHANNELS = 3


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
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if _is_deep(picture):  # Pillow would halve the bits of a colour image without a word
                raise InputError(f"{what} has 16 bits a channel; save it as 8-bit RGB or grey")
            picture.load()
        if picture.mode in ALPHA_MODES:
            alpha = picture.convert("RGBA").getchannel("A").getextrema()
            if alpha != (255, 255):
                raise InputError(f"{what} is transparent in places; save it as RGB, on the background it should have")
        elif picture.mode not in OPAQUE_MODES:
            raise InputError(f"{what} is of mode {picture.mode}; save it as 8-bit RGB or grey")
        return picture.convert("RGB")
    except UnidentifiedImageError:
        raise InputError(f"{what} is not a readable image: none of {', '.join(FORMATS)}") from None
    except (
        *(OSError, ValueError, SyntaxError, RuntimeError, EOFError, MemoryError, struct.error, zlib.error),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        raise InputError(f"{what} is not a readable image: {error}") from error


def _is_deep(picture: Image.Image) -> bool:
    """Whether a PNG or PPM, opened and not yet loaded, has over 8 bits a channel: "RGB;16B", or a largest value."""
    if picture.format not in ("PNG", "PPM"):
        return False
    told = [tile[3] for tile in getattr(picture, "tile", ())]  # what the decoder is told
    flat = [value for one in told for value in (one if isinstance(one, tuple) else (one,))]
    return any(";16" in value if isinstance(value, str) else value > 255 for value in flat)


def render(picture: Image.Image, resolution: int, crop: Crop, what: str) -> np.ndarray:
    """uint8 [3, resolution, resolution] of an RGB image.

    `centre` cuts out the middle as it is, as the authors' public code does for LSUN; `resize` first brings the
    short side to `resolution` by Pillow's bicubic filter. Raises InputError, naming `what`, for an image that is
    too small to be cut.
    """
    from PIL import Image

    width, height = picture.size
    short = min(width, height)
    if crop == "resize" and short != resolution:
        width, height = (resolution * side // short for side in (width, height))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if min(width, height) < resolution:
        raise InputError(f"{what} is {width} x {height}, smaller than {resolution} px; use --crop resize")
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    square = picture.crop((left, top, left + resolution, top + resolution))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
