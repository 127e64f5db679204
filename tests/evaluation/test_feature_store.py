"""Features on the disk: what they hold, and that nothing of them stays."""

import errno
import os

import numpy as np
import pytest

from pctool.errors import WriteError
from pctool.evaluation.feature_store import FeatureStore
from pctool.places import cache_dir


def test_batches_come_back_in_order_and_leave_no_file():
    """What was added comes back as one float32 array, kept in no file that could be seen or left behind."""
    store = FeatureStore(10)
    x = np.random.default_rng(0).standard_normal((7, 3))
    store.append(x[:4])
    store.append(x[4:])
    np.testing.assert_array_equal(store.features, x.astype(np.float32))
    assert isinstance(store.features, np.memmap)
    assert os.listdir(cache_dir()) == []


@pytest.mark.parametrize("n", [3, 2**18 + 7])
def test_room_where_the_system_has_no_call_for_it(monkeypatch, n):
    """On macOS it is written: every block is there before anything is added, and 0."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    written = []
    monkeypatch.setattr(np, "memmap", lambda file, *a, **k: written.append(os.fstat(file.fileno())) or np.zeros((n, 1)))
    FeatureStore(n).append(np.ones((1, 1)))
    (found,) = written
    assert found.st_size == 4 * n
    assert found.st_blocks * 512 >= 4 * n


def test_limits():
    """More than announced, or asking before anything came, is a ValueError."""
    store = FeatureStore(3)
    with pytest.raises(ValueError, match="no features"):
        _ = store.features
    with pytest.raises(ValueError, match="more than the 3"):
        store.append(np.zeros((4, 2)))


def test_full_disk(monkeypatch):
    """Room is taken before anything is written, so that a full disk is a WriteError with bytes and not a signal."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(WriteError, match=r"80 bytes.*No space left"):
        FeatureStore(10).append(np.zeros((1, 2)))
