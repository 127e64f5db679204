"""What commands print: one JSON object on stdout, everything else readable; bars on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Task

UNLIMITED = 10_000  # columns
SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal


def output() -> Console:
    """The console of a command's answer (stdout); colours only on a terminal and without NO_COLOR.

    What is no terminal has lines as long as they need.
    """
    terminal = sys.stdout.isatty()
    return Console(soft_wrap=not terminal, highlight=False, width=None if terminal else UNLIMITED)


class LastingStderr:
    """stderr for a bar: what can no longer be written, since the terminal was closed, is dropped."""

    def __init__(self) -> None:
        self.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    @property
    def rich_proxied_file(self) -> LastingStderr:
        """Itself: where Rich writes while it stands in for stderr."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stderr, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.stderr.flush()


def note(message: str) -> None:
    """A line for the person watching, on stderr, so that stdout stays the command's answer.

    Where nobody reads any more (Ctrl-C ends `2>&1 | tee` before it ends a run), or the disk of a job's log is full, it
    is dropped: the work goes on.
    """
    with contextlib.suppress(OSError):
        print(f"{message}\n", end="", file=sys.stderr, flush=True)  # one write: threads may say something at once


class PatientOutput(io.TextIOWrapper):
    """A stdout that outlives its reader (`| head`, a terminal): what nobody reads any more is dropped, and the command
    goes on."""

    gone = False
    is_terminal = False

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if not (isinstance(error, BrokenPipeError) or self.is_terminal):
            raise error
        self.gone = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is still buffered goes there
        os.close(nowhere)


def outlive_readers() -> None:
    """Makes stdout a PatientOutput, so that a command ends with its own exit code whoever reads it.

    What stdout's encoding lacks is escaped, as on stderr: the names of files may have any bytes.
    """
    plain = sys.stdout
    if isinstance(plain, io.TextIOWrapper):
        sys.stdout = PatientOutput(
            plain.buffer,
            encoding=plain.encoding,
            errors="backslashreplace",
            line_buffering=plain.line_buffering,
            write_through=plain.write_through,
        )
        sys.stdout.is_terminal = plain.isatty()


def reader_has_gone() -> bool:
    """Whether what is printed is dropped."""
    return isinstance(sys.stdout, PatientOutput) and sys.stdout.gone


def clean_up_when_terminated() -> None:
    """Lets TERM end the command as Ctrl-C does, so that half a file is removed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def print_json(payload: dict[str, Any]) -> None:
    """The answer of `--json`: one object, in strict JSON (NaN is an error, never a word in the output)."""
    print(json.dumps(payload, indent=2, allow_nan=False))


def finite(value: float | None) -> float | None:
    """A number for strict JSON: None in place of inf and NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def print_headers(key: str, found: Mapping[str, str], *, as_json: bool) -> None:
    """What is shipped, by name with a line about each."""
    if as_json:
        print_json({key: dict(found)})
        return
    for name, header in found.items():
        print(f"{name}: {header}")


def columns(rows: Sequence[Sequence[str]], right: int | None = None) -> list[str]:
    """Rows of cells as lines with columns of one width each; the cells of the column `right` end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i == right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


@contextlib.contextmanager
def progress(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`: a bar with speed and remaining time on a terminal, else a line every 10 s on stderr.

    A `total` of 0 or None is one that nobody knows.
    """
    if sys.stderr.isatty():
        with _bar(label, total, unit) as advance:
            yield advance
        return
    start = last = time.monotonic()
    done = 0

    def advance_plain(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            speed = done / (now - start)
            of_all = f"/{total:,}" if total else ""
            rate = f", {speed:,.0f} {unit}/s" if done else ""
            left = f", {(total - done) / speed:.0f} s left" if done and total else ""
            note(f"{label}: {done:,}{of_all} {unit}{rate}{left}")

    yield advance_plain


@contextlib.contextmanager
def _bar(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{unit}/s" if task.speed is None else f"{task.speed:,.0f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=cast(IO[str], LastingStderr())), transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda n: bar.advance(task, n)
