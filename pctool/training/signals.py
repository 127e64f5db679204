"""Signals set a flag; the loop saves in normal code at the end of the step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Which signal asked the run to stop, None while none has."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requeue(self) -> bool:
        """Whether the scheduler should start the job again: USR2 says so, TERM may be a cancellation."""
        return self.signal is signal.SIGUSR2


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """INT, TERM and USR2 set the request while the block runs; a second INT interrupts at once."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.signal is not None:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield request
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
