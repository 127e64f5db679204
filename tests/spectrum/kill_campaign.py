"""`python -m tests.spectrum.kill_campaign FILE N`: kills N processes while they append to FILE, checking it each time.

A process of its own, so that children can be forked from one without threads, and N imports are spared.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import time
from pathlib import Path

from pctool.spectrum.live import SpectrumWriter
from pctool.spectrum.measure import Row
from pctool.spectrum.reader import read_spectrum

from .samples import row

SAMPLES = [row(i) for i in range(50)]


def _row(step: int) -> Row:
    return dataclasses.replace(SAMPLES[step % len(SAMPLES)], step=step)


def _append_until_killed(path: Path, step: int, told: int) -> None:
    """Appends rows, writing a byte to the pipe `told` after each."""
    writer = SpectrumWriter(path, source="x", network="D")
    while True:
        writer.append(_row(step))
        os.write(told, b".")
        step += 1


def _rows_in(path: Path) -> int:
    """How many rows there are, after checking that each is the one written."""
    if not path.exists():
        return 0
    spectrum = read_spectrum(path)
    for step in range(len(spectrum.steps)):
        assert spectrum.steps[step] == step
        for layer, expected in zip(spectrum.layers, _row(step).layers, strict=True):
            assert (layer.raw[step] == expected.raw).all()
            assert (layer.effective[step] == expected.effective).all()
            assert layer.modified_kappa[step] == expected.modified_kappa
        assert spectrum.summary["max_kappa"][step] == _row(step).summary["max_kappa"]
    return len(spectrum.steps)


def main(path: Path, kills: int) -> None:
    """Raises where the file is ever unreadable, a row is wrong, or one that was there is lost.

    A kill comes up to 20 ms after one of the first rows, so that it finds the writer at work on a busy machine, too.
    """
    chance, rows = random.Random(0), 0
    for _ in range(kills):
        hears, told = os.pipe()
        child = os.fork()
        if not child:
            _append_until_killed(path, rows, told)
        os.close(told)
        appended = chance.randrange(4)
        for _ in range(appended):
            assert os.read(hears, 1), "the child has ended by itself"
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(hears)
        after = _rows_in(path)
        assert after >= rows + appended
        rows = after
    print(f"{kills} kills, {rows} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
