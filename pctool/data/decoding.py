"""Encoded images to arrays: a few on demand, or a stream of batches from worker processes that decode ahead."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pctool.data.pictures import CHANNELS, Crop, Pictures, render
from pctool.errors import InputError
from pctool.places import n_processors

READERS = 4  # threads that decode on demand; Pillow's decoders release the interpreter lock
MAX_WORKERS = 8  # by default; more are for slow file systems and 256 px

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedImages:
    """The first `count` of `pictures`, decoded when asked for; read like an array uint8 [N, 3, R, R]."""

    pictures: Pictures
    resolution: int
    crop: Crop
    count: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, C, H, W]"""
        return (self.count, CHANNELS, self.resolution, self.resolution)

    @property
    def nbytes(self) -> int:
        """What the decoded images would take."""
        return self.count * CHANNELS * self.resolution**2

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, 3, R, R]. Raises InputError naming a broken image."""
        chosen = np.arange(self.count)[index]
        with ThreadPoolExecutor(READERS) as pool:
            return self._stacked(list(pool.map(self._one, chosen.tolist())))

    def decode(self, indices: Iterable[int]) -> np.ndarray:
        """The same in this thread alone."""
        return self._stacked([self._one(int(i)) for i in indices])

    def _one(self, i: int) -> np.ndarray:
        return render(self.pictures.picture(i), self.resolution, self.crop, self.pictures.name(i))

    def _stacked(self, images: list[np.ndarray]) -> np.ndarray:
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)


def default_workers() -> int:
    """The processors this process may use, less one for training, and not more than MAX_WORKERS."""
    return max(1, min(MAX_WORKERS, n_processors() - 1))


def decoded(
    images: EncodedImages, batches: Iterable[Iterable[int]], workers: int | None = None
) -> Generator[np.ndarray, None, None]:
    """The batches of indices as uint8 [n, 3, R, R], in order whatever the workers' number; 0 decodes here.

    Closing the generator ends the workers; so does the end of this process, however it ends.
    Raises InputError naming a broken image, or where a worker was killed.
    """
    workers = default_workers() if workers is None else workers
    if workers == 0:
        yield from map(images.decode, batches)
        return
    # Started fresh, not forked: a fork would inherit CUDA, locks and signal handlers of a process with threads.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(images,))
    try:
        yield from ahead(pool, _decode_in_worker, batches, depth=2 * workers)
    except BrokenProcessPool:
        raise InputError(
            "a process that decodes images was killed (too little memory?); use fewer --data-workers"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ahead(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, depth: int) -> Iterator[Result]:
    """`map` with `depth` results in the making, for items without an end."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


_images: EncodedImages | None = None  # of a worker process


def _begin_worker(images: EncodedImages) -> None:
    global _images  # noqa: PLW0603  # a worker has one task in its life
    _images = images
    # Sent to a whole group; the trainer decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A trainer that was killed leaves no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _decode_in_worker(indices: Iterable[int]) -> np.ndarray:
    assert _images is not None
    return _images.decode(indices)
