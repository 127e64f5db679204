"""Work beside the training: measuring spectra, writing files. A GPU's steps are too short to wait for a disk."""

from __future__ import annotations

import collections
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST = 3  # pieces of work under way, each with its copy of what it writes: a step's spectrum, samples and checkpoint


class Background:
    """Does one piece of work after the other, in the order given, in a thread of its own.

    After one that fails none is done; its error comes up in the next call of `check`, `wait`, or to do more.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pctool-records")
        self._under_way: collections.deque[Future[None]] = collections.deque()
        self._last: Future[None] | None = None
        self.error: BaseException | None = None

    def __call__(self, work: Callable[..., object], *arguments: Any) -> None:
        """Has `work(*arguments)` done, whose arguments nobody may change; waits while there is too much to do."""
        self._settle(MOST - 1)
        self._last = self._thread.submit(self._do, work, arguments)
        self._under_way.append(self._last)

    def busy(self) -> bool:
        """Whether anything is still to be done; any thread may ask."""
        last = self._last
        return last is not None and not last.done()

    def check(self) -> None:
        """Raises the error of a piece of work that has failed."""
        if self.error is not None:
            raise self.error

    def wait(self) -> None:
        """Returns when all is done."""
        self._settle(0)

    def close(self, *, give_up: bool = False) -> None:
        """Ends when all is done, or gives up what is not begun; says nothing of an error.

        Never while a file is being written, which belongs to nobody afterwards: an interrupt is raised behind it, or in
        its place the error of what was written.
        """
        interrupted = False
        if give_up:
            self.error = self.error or KeyboardInterrupt()
        while self._under_way:
            try:
                self._under_way[0].result()
                self._under_way.popleft()
            except KeyboardInterrupt as again:
                self.error = self.error or again
                interrupted = True
        self._thread.shutdown()
        if interrupted:
            self.check()

    def _settle(self, most: int) -> None:
        while len(self._under_way) > most:
            self._under_way[0].result()
            self._under_way.popleft()
        self.check()

    def _do(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self.error is None:
            try:
                work(*arguments)
            except BaseException as error:
                self.error = error
