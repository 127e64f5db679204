"""Batches of real images on the training device: from memory, from a mapped file, or decoded as they come.

A feed is given the indices, batch for batch, and may read ahead in them; what it yields depends on nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pctool.data import decoding
from pctool.data.catalog import ImageSet
from pctool.data.decoding import EncodedImages

SHARE_OF_MEMORY = 0.25  # of what is free on a GPU: a larger set stays on the host
READ_AHEAD = 2  # batches, of a mapped file
SMALL = 1 << 30  # bytes: a smaller file is in the system's cache after an epoch, and a thread would only cost


class Feed(Protocol):
    """The images of a run."""

    def __len__(self) -> int:
        """How many there are."""

    def batches(self, indices: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """For each int64 [n] (on the CPU): uint8 [n, C, H, W] on the device. Close it to end what reads ahead."""


def open_feed(dataset: ImageSet, device: torch.device, workers: int | None = None) -> Feed:
    """The feed that suits the set: on a GPU where it fits, else mapped, else by `workers` decoding processes."""
    if device.type == "cuda" and device.index is None:  # this thread's: one that reads ahead would take the first
        device = torch.device("cuda", torch.cuda.current_device())
    if isinstance(dataset.images, EncodedImages):
        return StreamedFeed(dataset.images, device, workers)
    if device.type == "cuda" and dataset.images.nbytes <= SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return ResidentFeed(torch.tensor(dataset.images).to(device))
    return MappedFeed(dataset.images, device)


def moved(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; to a GPU from pinned memory, since another copy would wait for all that the GPU has to do."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


@dataclass(frozen=True)
class ResidentFeed:
    """`images`, uint8 [N, C, H, W], live on the device."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, indices: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """`Feed.batches`, indexed on the device."""
        for index in indices:
            yield self.images[moved(index, self.images.device)]


@dataclass(frozen=True)
class MappedFeed:
    """`images`, uint8 [N, C, H, W], in the host's memory or a mapped file; a thread reads large ones ahead."""

    images: np.ndarray
    device: torch.device

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, indices: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """`Feed.batches`, copied to the device."""
        if self.images.nbytes <= SMALL:
            yield from map(self._batch, indices)
            return
        with ThreadPoolExecutor(1) as pool:
            yield from decoding.ahead(pool, self._batch, indices, depth=READ_AHEAD)

    def _batch(self, index: Tensor) -> Tensor:
        return moved(torch.from_numpy(self.images[index.numpy()]), self.device)


@dataclass(frozen=True)
class StreamedFeed:
    """`images` decoded by worker processes (0: here), a few batches ahead."""

    images: EncodedImages
    device: torch.device
    workers: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, indices: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """`Feed.batches`; InputError naming a broken image."""
        wanted = (index.numpy() for index in indices)
        with contextlib.closing(decoding.decoded(self.images, wanted, self.workers)) as batches:
            for batch in batches:
                yield moved(torch.from_numpy(batch), self.device)
