"""A live file survives its writer: SIGKILL at random, and a stop after any single write."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from pctool.spectrum import live, store
from pctool.spectrum.reader import parse_spectrum

from .samples import row

ROOT = Path(__file__).parents[2]


def _campaign(path: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.spectrum.kill_campaign", str(path), str(kills)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[2]) > kills // 2  # they were killed at work


def test_twenty_kills(tmp_path: Path) -> None:
    """After each of 20 SIGKILLs the file opens, every row in it is whole, none is lost, and it goes on growing."""
    _campaign(tmp_path / "s.h5", 20)


@pytest.mark.slow
def test_three_hundred_kills(tmp_path: Path) -> None:
    """The same 300 times: 0 unreadable."""
    _campaign(tmp_path / "s.h5", 300)


class _Recorded(io.BytesIO):
    """A file that remembers what it held after every single write."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.moments: list[bytes] = []

    def write(self, data: object) -> int:
        count = super().write(data)  # type: ignore[arg-type]
        self.moments.append(self.getvalue())
        return count

    def truncate(self, size: int | None = None) -> int:
        length = super().truncate(size)
        self.moments.append(self.getvalue())
        return length


def test_the_file_is_whole_after_every_single_write_of_a_row_in_place() -> None:
    """Each of HDF5's some 90 writes of a row leaves a file with the rows before, or with the new one, correct."""
    rows = [row(step) for step in range(18)]
    attrs = {"source": "x", "network": "D", "operator": "matrix"}
    image = store.image_of(store.contents_of(rows[:1]), attrs, live=True)
    moments = 0
    for k in range(1, len(rows)):
        file = _Recorded(image)
        with h5py.File(file, "r+") as opened:
            in_place = not live._allocates(opened, rows[k])
            live._append(opened, rows[k])
        image = file.getvalue()
        assert in_place == (k != 16)  # the second chunk
        if not in_place or k not in {1, 17}:
            continue
        assert {len(moment) for moment in file.moments} == {len(image)}  # nothing was allocated
        for moment in file.moments:
            seen = parse_spectrum(moment, "moment")
            assert len(seen.steps) in {k, k + 1}
            t = len(seen.steps) - 1
            for layer, expected in zip(seen.layers, rows[t].layers, strict=True):
                assert (layer.effective[t] == expected.effective).all()
                assert layer.kappa[t] == expected.kappa
            assert seen.summary["mean_kappa"][t] == rows[t].summary["mean_kappa"]
            moments += 1
    assert moments > 150
