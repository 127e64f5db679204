"""Streams of decoded batches: the same whatever decodes them, and no process left behind."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pctool.data import decoding
from pctool.data.decoding import EncodedImages, decoded
from pctool.data.folders import open_path
from pctool.errors import InputError

from .test_folders import fill

BATCHES = [[3, 1], [0], [5, 5, 2], [4, 0, 1]]


@pytest.fixture
def images(tmp_path):
    """Six encoded images at 32 px."""
    return EncodedImages(open_path(fill(tmp_path / "a", 6)), 32, "resize", 6)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_order_and_pixels_do_not_depend_on_the_workers(images, workers):
    """Batches come in the order asked for, with the pixels of the images asked for, for 0, 1 and 2 workers."""
    found = list(decoded(images, BATCHES, workers))
    assert len(found) == len(BATCHES)
    for batch, indices in zip(found, BATCHES, strict=True):
        np.testing.assert_array_equal(batch, images[indices])


def test_an_endless_stream_reads_a_few_batches_ahead(images):
    """Indices without an end are taken up to twice the workers ahead, and closing ends it."""
    taken = []
    endless = (taken.append(i) or [i % 6] for i in itertools.count())
    stream = decoded(images, endless, workers=1)
    for i in range(3):
        np.testing.assert_array_equal(next(stream), images[[i]])
    assert len(taken) == 3 + 2
    stream.close()


def test_a_broken_image_is_named_by_the_worker(images, tmp_path):
    """The error of a worker process is the one line that this process would give."""
    (tmp_path / "a" / "0.png").write_bytes(b"broken")
    stream = decoded(images, [[1], [0]], workers=1)
    with pytest.raises(InputError, match=r"0.png is not a readable image"):
        list(stream)


def test_a_killed_worker_is_one_line(images, monkeypatch):
    """A worker that the system kills ends the stream with what to do about it."""
    monkeypatch.setattr(decoding, "ahead", lambda *a, **k: kill_then_raise(a[0]))

    def kill_then_raise(pool):
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()
        yield

    with pytest.raises(InputError, match="use fewer --data-workers"):
        list(decoded(images, BATCHES, workers=1))


TRAINER = """
import sys
from pctool.data.decoding import EncodedImages, decoded
from pctool.data.folders import open_path
if __name__ == "__main__":
    images = EncodedImages(open_path(__import__("pathlib").Path(sys.argv[1])), 32, "resize", 6)
    stream = decoded(images, __import__("itertools").repeat([0]), workers=2)
    next(stream), next(stream), next(stream)
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while True: next(stream)
"""


def _ignores(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    return bool(mask & 1 << (number - 1))


def test_a_killed_trainer_leaves_no_worker(images, tmp_path):
    """After SIGKILL of the process that trains, its decoding processes end by themselves; TERM to all is survived."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "trainer.py"), str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    )
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        for pid in workers:  # one may have done all the work while the other was still starting
            while not _ignores(pid, signal.SIGTERM):
                time.sleep(0.01)
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        assert all(alive(pid) for pid in workers)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
