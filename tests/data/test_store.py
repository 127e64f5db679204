"""Canonical files on the disk."""

import hashlib
import random

import numpy as np
import pytest

from pctool.data import store
from pctool.errors import InputError, MissingError, WriteError


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)


def test_sum_is_of_the_pixels_in_c_order(images):
    """The sum is hashlib's over `tobytes()`, for a strided view as well."""
    assert store.sha256(images) == hashlib.sha256(images.tobytes()).hexdigest()
    view = images.transpose(0, 2, 3, 1)
    assert store.sha256(view) == hashlib.sha256(view.tobytes()).hexdigest()


def test_read_gives_what_was_written_read_only(images, tmp_path):
    """A written array comes back equal, memory-mapped and read-only, and NumPy itself can read the file."""
    path = tmp_path / "a" / "train.npy"
    store.write(path, images)
    back = store.read(path, images.shape, store.sha256(images))
    assert isinstance(back, np.memmap)
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, images)
    np.testing.assert_array_equal(np.load(path), images)
    assert [p.name for p in path.parent.iterdir()] == ["train.npy"]


def test_no_changed_byte_goes_unnoticed(images, tmp_path):
    """A file with any byte of its pixels flipped, its end cut off, or another shape or type is refused in one line."""
    path = tmp_path / "train.npy"
    store.write(path, images)
    good = path.read_bytes()
    start = len(good) - images.nbytes
    rng = random.Random(0)
    changed = [good[:k] + bytes([good[k] ^ 1 << rng.randrange(8)]) + good[k + 1 :] for k in range(start, len(good), 13)]
    for array in (images[:4], images.reshape(5, 3, 64), images.astype(np.int16)):
        np.save(path, array)
        changed.append(path.read_bytes())
    for bad in [*changed, good[:-1], good[:40], b"", b"PK\x03\x04" + good[4:]]:
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"train.npy is damaged") as caught:
            store.read(path, images.shape, store.sha256(images))
        assert "\n" not in str(caught.value)


def test_mutated_headers_never_raise_anything_else(images, tmp_path):
    """300 random changes of the .npy header are read as the same array or refused as damaged."""
    path = tmp_path / "train.npy"
    store.write(path, images)
    good = path.read_bytes()
    rng = random.Random(2)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 2, 8])):
            bad[rng.randrange(128)] = rng.randrange(256)
        path.write_bytes(bad)
        try:
            np.testing.assert_array_equal(store.read(path, images.shape, store.sha256(images)), images)
        except InputError:
            refused += 1
    assert refused > 200


def test_what_is_absent_unreadable_or_cannot_be_written(images, tmp_path):
    """No file is a MissingError; what the system does not let be read is an InputError that does not speak of damage;
    a folder below a file is a WriteError."""
    for path in (tmp_path / "train.npy", tmp_path / "train.npy" / "below.npy"):
        with pytest.raises(MissingError, match=path.name):
            store.read(path, images.shape, store.sha256(images))
        (tmp_path / "train.npy").touch()
    with pytest.raises(InputError, match=rf"^cannot read {tmp_path}: Is a directory$"):
        store.read(tmp_path, images.shape, store.sha256(images))
    with pytest.raises(WriteError):
        store.write(tmp_path / "train.npy" / "below.npy", images)
