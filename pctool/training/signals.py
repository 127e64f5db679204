"""What may stop a run: signals, the time limit, the kappa alarm. They set a flag; the loop saves in normal code.

Before the loop, while data are loaded, nobody looks at a flag: there signals and time limit interrupt at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# What is left of a SLURM allocation when the run saves and ends: time to finish a step and to write.
SLURM_MARGIN = 120.0
LONGEST = 1e8  # seconds that a timer takes


class StopRequest:
    """Who asked the run to stop: the first signal, the time limit, or the kappa alarm with its reason."""

    def __init__(self, seconds: float | None = None) -> None:
        self.signal: signal.Signals | None = None
        self.collapse: str | None = None
        self.interrupts = False
        self._was_late = False  # whether the time limit had passed when the signal came
        self._deadline = None if seconds is None else time.monotonic() + seconds

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def requested(self) -> bool:
        """Whether the run should save and stop after this step."""
        return self.signal is not None or self.collapse is not None or self.out_of_time

    @property
    def requeue(self) -> bool:
        """Whether to start the job again: USR1, USR2 and the time limit say so, TERM may be a cancellation.

        What came first counts: at the end of a job's time SLURM sends TERM too.
        """
        return self.signal in (signal.SIGUSR1, signal.SIGUSR2) or self._by_time

    @property
    def _by_time(self) -> bool:
        return self._was_late if self.signal else self.collapse is None and self.out_of_time

    def hear(self, number: int) -> None:
        """Notes a signal, unless one came before."""
        if self.signal is None:
            self._was_late = self._by_time
            self.signal = signal.Signals(number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """In this block the first signal, or the end of the time, raises KeyboardInterrupt, also if it came before."""
        if not _in_main_thread():
            yield
            return
        self.interrupts = True
        before = signal.signal(signal.SIGALRM, lambda number, frame: self.interrupt())
        try:
            if self.requested:
                raise KeyboardInterrupt
            if self._deadline is not None:
                left = self._deadline - time.monotonic()
                signal.setitimer(signal.ITIMER_REAL, min(max(left, 1e-3), LONGEST))
            yield
        finally:
            self.interrupts = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt within `at_once`, once: what cleans up after it is left alone."""
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt

    def describe(self) -> str:
        """Who asked, in a word: TERM, time limit."""
        return self.signal.name.removeprefix("SIG") if self.signal and not self._was_late else "time limit"


def _in_main_thread() -> bool:
    """Python allows signal handlers only there."""
    return threading.current_thread() is threading.main_thread()


def seconds_left(time_limit: float | str | None) -> float | None:
    """Seconds until a run has to save, None for no end: MINUTES given, or `auto` from SLURM_JOB_END_TIME."""
    if time_limit is None:
        return None
    if time_limit != "auto":
        return float(time_limit) * 60
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) - time.time() - SLURM_MARGIN if end.isdigit() else None


@contextlib.contextmanager
def listen(seconds: float | None = None) -> Iterator[StopRequest]:
    """INT, TERM, HUP, USR1 and USR2 set the request while the block runs; a second INT interrupts at once.

    HUP, a closed terminal, is not listened to where nohup had it ignored.

    `seconds` is the time limit from now on.
    """
    request = StopRequest(seconds)

    def handle(number: int, frame: FrameType | None) -> None:
        again = request.signal is not None
        request.hear(number)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.interrupt()

    if not _in_main_thread():
        yield request
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
