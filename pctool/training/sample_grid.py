"""Samples side by side, as one picture."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def grid_image(images: torch.Tensor) -> Image.Image:
    """A near-square grid with 2 px between the images; [n, C, H, W] in [-1, 1], grey or RGB."""
    pixels = (
        images.detach().float().cpu().mul(127.5).add(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    )
    n, height, width, channels = pixels.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + 2) - 2, columns * (width + 2) - 2, channels), np.uint8)
    for i, image in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * (height + 2) :, x * (width + 2) :][:height, :width] = image
    return Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet)
