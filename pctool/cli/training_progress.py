"""The progress of `pctool train`: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pctool.cli.console import SECONDS_BETWEEN_LINES, LastingStderr, note, progress
from pctool.core.products import has_fast_bf16
from pctool.training.config import TrainConfig
from pctool.training.recorder import StepReport, Watcher

BAR = 20
TAKEN = len("train") + BAR + len("/ 00:00:00") + 4  # columns beside the status, but for the steps
LONG_ON_A_CPU = 10_000  # steps; at the smallest default widths a step takes a second on two cores


class TrainingProgress(Watcher):
    """A bar with losses, speed, remaining time and APC strengths on a terminal, a line every 10 s elsewhere."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.total = config.steps
        self.last_line = 0.0

    def __enter__(self) -> TrainingProgress:
        if sys.stderr.isatty():
            columns = (
                TextColumn("train"),
                BarColumn(bar_width=BAR),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
            )
            self.bar = Progress(*columns, console=Console(file=cast(IO[str], LastingStderr())))
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def note(self, message: str) -> None:
        note(message)

    def begin(self, step: int, total_steps: int) -> None:
        self.total = total_steps
        if self.bar is not None:
            self.task = self.bar.add_task("train", total=total_steps, completed=step, status="")
        if self.config.precision == "bf16" and not has_fast_bf16(self.config.device):
            note("this machine computes bf16 slowly; a run keeps the precision that it began with")
        if self.config.device == "cpu" and total_steps - step >= LONG_ON_A_CPU:
            note("this may take hours on a CPU; a run of minutes: pctool train --preset demo")
        if self.config.compile:
            note("torch.compile works through the first steps, for a minute or so")
        what = f"{self.config.dataset}, {self.config.arch}, {self.config.method}, {self.config.precision}"
        note(
            f"training {what} on {self.config.device} into {self.config.out}; Ctrl-C saves, the same command continues"
        )

    def step(self, report: StepReport) -> None:
        if self.bar is not None:
            room = self.bar.console.width - TAKEN - 2 * len(f"{self.total:,}")
            status = textwrap.shorten(_status(report), max(room, 4), placeholder=" …")
            self.bar.update(self.task, completed=report.step, status=status)
            return
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES and report.step < self.total:
            return
        self.last_line = now
        images = (self.total - report.step) * self.config.batch_size * self.config.d_iters
        left = timedelta(seconds=round(images / report.images_per_second))
        note(f"step {report.step:,}/{self.total:,}, {left} left, {_status(report)}")

    def scoring(self, total: int) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        if self.bar is None:
            return progress("score", total, "images")
        return self._scoring_task(self.bar, total)

    @contextlib.contextmanager
    def _scoring_task(self, bar: Progress, total: int) -> Iterator[Callable[[int], object]]:
        task = bar.add_task("score", total=total, status="scoring")
        try:
            yield lambda n: bar.advance(task, n)
        finally:
            bar.remove_task(task)


def _status(report: StepReport) -> str:
    counts = Counter(report.strengths.values())
    strengths = ", ".join(f"{degree} on {count}" for degree, count in sorted(counts.items()))
    return f"D {report.loss_d:.3f} G {report.loss_g:+.3f}, {report.images_per_second:.0f} images/s" + (
        f", degree {strengths} layers" if counts else ""
    )
