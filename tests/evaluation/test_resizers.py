"""The two resizers against their definitions."""

import numpy as np
import pytest
import torch
from PIL import Image

from pctool.evaluation import resizers

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 11, 7), np.uint8)


@pytest.mark.parametrize("size", [5, 7, 11, 16])
def test_legacy_is_the_double_loop_of_tensorflow(size):
    """Output pixel i lies at i * H / size, between floor and the next pixel, the last repeated: pixel by pixel."""
    found = resizers.legacy(IMAGES, size)
    _, _, height, width = IMAGES.shape
    for row in range(size):
        for column in range(size):
            y, x = row * height / size, column * width / size
            top, left = int(y + 1e-6), int(x + 1e-6)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            pixels = IMAGES.astype(float)
            upper = pixels[:, :, top, left] * (1 - dx) + pixels[:, :, top, right] * dx
            lower = pixels[:, :, bottom, left] * (1 - dx) + pixels[:, :, bottom, right] * dx
            np.testing.assert_allclose(found[:, :, row, column], upper * (1 - dy) + lower * dy, atol=1e-3)


def test_clean_is_pillow_s_bicubic_in_float():
    """Channel by channel by Pillow's bicubic filter on floats, clipped and not rounded."""
    found = resizers.clean(IMAGES, 16)
    for image, ours in zip(IMAGES, found, strict=True):
        for channel, resized in zip(image, ours, strict=True):
            theirs = Image.fromarray(channel.astype(np.float32)).resize((16, 16), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(resized, np.asarray(theirs).clip(0, 255))
    assert found.dtype == np.float32
    assert (found != found.round()).any()


def test_same_size_is_left_as_it_is():
    """At the size it has, an image comes through both unchanged."""
    square = IMAGES[..., :7, :]
    for resize in (resizers.clean, resizers.legacy):
        np.testing.assert_array_equal(resize(square, 7), square)


@pytest.mark.parametrize("resizer", ["clean", "legacy"])
@pytest.mark.parametrize("size", [5, 7, 11, 16, 299])
def test_matrices_resize_as_both(resizer, size):
    """The products for GPUs, on images that are not square: up to the order of sums those of either resizer."""
    found = resizers.by_matrices(torch.tensor(IMAGES), size, resizer)
    np.testing.assert_allclose(found.numpy(), getattr(resizers, resizer)(IMAGES, size), rtol=0, atol=1e-4)
    assert found.dtype == torch.float32


def test_matrices_leave_what_is_not_resized():
    """Without a resizer pixels are only made floats."""
    np.testing.assert_array_equal(resizers.by_matrices(torch.from_numpy(IMAGES), 16, "none").numpy(), IMAGES)
