"""The images that come inside the package, compressed."""

from __future__ import annotations

import importlib.resources
import lzma

import numpy as np

from pctool.data import store
from pctool.errors import InputError

FASHION_PIXELS = 28  # the official images; two rows and columns of zeros on each side make 32


def read_fashion_mnist(asset: str, shape: tuple[int, ...], expected: str) -> np.ndarray:
    """Fashion-MNIST's test images, uint8 [N, 1, 32, 32], 28 x 28 padded with zeros; read-only.

    `asset` is an xz stream of the pixels with each image's columns first (tools/make_fashion_mnist_asset.py
    makes it); `expected` is the SHA-256 of the padded array. Raises InputError where the asset is damaged.
    """
    resource = importlib.resources.files("pctool.data") / "assets" / asset
    try:
        pixels = np.frombuffer(lzma.decompress(resource.read_bytes()), np.uint8)
        columns_first = pixels.reshape(shape[0], FASHION_PIXELS, FASHION_PIXELS)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise InputError(f"the built-in {asset} is damaged ({error}): install pctool again") from error
    margin = (shape[-1] - FASHION_PIXELS) // 2
    padding = ((0, 0), (margin, margin), (margin, margin))
    images = np.pad(columns_first.transpose(0, 2, 1), padding).reshape(shape)
    found = store.sha256(images)
    if found != expected:
        raise InputError(f"the built-in {asset} is damaged: SHA-256 {found}, expected {expected}; install pctool again")
    images.setflags(write=False)
    return images
