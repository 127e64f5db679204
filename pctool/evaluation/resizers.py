"""The two ways in which images reach a network's input size; they move FID by points, so each score names its own."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Resizer = Literal["clean", "legacy", "none"]


def clean(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """clean-fid's: Pillow's bicubic filter with antialiasing, a channel at a time in float, clipped to [0, 255].

    [n, 3, H, W] to [n, 3, size, size] (Parmar, Zhang and Zhu, arXiv 2104.11222).
    """
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (size, size))
    return np.stack([resize(image) for image in images.transpose(0, 2, 3, 1)]).transpose(0, 3, 1, 2)


def legacy(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """TensorFlow 1's bilinear one, which the original FID and Inception score had in their graph: no antialiasing.

    [n, C, H, W] to [n, C, size, size]. Output pixel i samples the input at i * H / size (corners not aligned, pixel
    centres not shifted), between that pixel and the next, the last one repeated.
    """
    x = images.astype(np.float32)
    low, high, share = _taps(x.shape[3], size)
    x = x[..., low] + (x[..., high] - x[..., low]) * share
    low, high, share = _taps(x.shape[2], size)
    return x[:, :, low] + (x[:, :, high] - x[:, :, low]) * share[:, None]


def _taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Both neighbours of each output pixel and the share of the second, in float32 as TensorFlow computes them."""
    place = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = place.astype(np.intp)
    return low, np.minimum(low + 1, length - 1), place - low.astype(np.float32)
