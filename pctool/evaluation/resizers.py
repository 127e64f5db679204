"""The two ways in which images reach a network's input size; they move FID by points, so each score names its own."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

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


def by_matrices(images: Tensor, size: int, resizer: Resizer) -> Tensor:
    """The same for uint8 [n, C, H, W] where they are, as products with each side's weights: for GPUs.

    float32 [n, C, size, size], equal to `clean` and `legacy` to 1e-4, their sums being in another order.
    """
    x = images.float()
    if resizer == "none":
        return x
    height, width = (torch.from_numpy(_weights(length, size, resizer)).to(x.device) for length in x.shape[2:])
    resized = height @ (x @ width.T)
    return resized.clamp(0, 255) if resizer == "clean" else resized


@functools.lru_cache(64)
def _weights(length: int, size: int, resizer: Resizer) -> NDArray[np.float32]:
    """What each of `size` output pixels takes of each input pixel, [size, length]: the images of unit vectors."""
    units = np.eye(length, dtype=np.float32)
    if resizer == "clean":
        return np.array(Image.fromarray(units).resize((length, size), Image.Resampling.BICUBIC))
    low, high, share = _taps(length, size)
    return units[low] + (units[high] - units[low]) * share[:, None]


def _taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Both neighbours of each output pixel and the share of the second, in float32 as TensorFlow computes them."""
    place = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = place.astype(np.intp)
    return low, np.minimum(low + 1, length - 1), place - low.astype(np.float32)
