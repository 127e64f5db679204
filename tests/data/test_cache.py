"""The decoded cache: built once, checked, shared."""

import json
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import filelock
import numpy as np
import pytest

from pctool.data import cache, catalog
from pctool.data.decoding import EncodedImages
from pctool.data.folders import open_path
from pctool.errors import InputError, WriteError

from .test_folders import fill


@pytest.fixture
def images(tmp_path):
    """Six encoded images at 32 px."""
    return EncodedImages(open_path(fill(tmp_path / "a", 6)), 32, "resize", 6)


def test_it_holds_what_decoding_gives(images):
    """The file is a plain .npy of the decoded images, with its SHA-256 and what it is of beside it."""
    counted = []
    path = cache.build("a", images, workers=0, advance=counted.append)
    array = np.load(path, allow_pickle=False)
    np.testing.assert_array_equal(array, images[:])
    assert sum(counted) == 6
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert (record["images"], record["resolution"], record["crop"]) == (6, 32, "resize")
    assert record["sha256"] == cache.store.sha256(array)
    assert isinstance(cache.find("a", images), np.memmap)
    assert not cache.find("a", images).flags.writeable


def test_it_is_made_once_for_all(images, monkeypatch):
    """Of several that want it at once one decodes; the others wait, say so, and use it."""
    built, said = [], []
    whole = cache.decoding.decoded
    monkeypatch.setattr(cache.decoding, "decoded", lambda *a, **k: built.append(1) or whole(*a, **k))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(cache.build, "a", images, workers=0, say=said.append) for _ in range(4)]
        paths = {future.result() for future in futures}
    assert (len(paths), len(built)) == (1, 1)
    assert all("waiting for another process" in line for line in said)


def test_a_set_of_all_serves_its_first_images(images, tmp_path):
    """max_images takes from the file of all, where that is here, and nothing new is written."""
    folder = str(tmp_path / "a")
    catalog.load(folder, resolution=32, workers=0)
    files = set((tmp_path / "cache" / "images").iterdir())
    three = catalog.load(folder, max_images=3, resolution=32, workers=0)
    assert set((tmp_path / "cache" / "images").iterdir()) == files
    np.testing.assert_array_equal(three.images, images[:3])
    assert three.sha256 != catalog.load(folder, resolution=32).sha256
    assert three.sha256 == catalog.load(folder, max_images=3, resolution=32, cache_limit=0).sha256


@pytest.mark.parametrize("damage", ["flip", "cut", "other record", "no record"])
def test_a_damaged_file_is_made_again(images, damage):
    """A flipped byte, a short file, a broken or missing record: never used, and replaced by the next run."""
    path = cache.build("a", images, workers=0)
    record, data = path.with_name(path.name + ".json"), bytearray(path.read_bytes())
    if damage == "flip":
        data[-7] ^= 4
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "other record":
        record.write_text("{}")
    else:
        record.unlink()
    assert cache.find("a", images) is None
    said = []
    cache.build("a", images, workers=0, say=said.append)
    assert "replacing" in said[0]
    np.testing.assert_array_equal(cache.find("a", images), images[:])


def test_leftovers_of_a_killed_process_are_removed(images):
    """A process killed while it wrote leaves a file of that size; the next to write takes it away, whatever it was to
    become, unless somebody is writing it; and no other."""
    path = cache.path_of("a", images)
    path.parent.mkdir(parents=True)
    left = [path.with_name(f".{name}.0123abcd.tmp") for name in (path.name, "b.npy")]
    others = [path.with_name(name) for name in (f".{path.name}x.0123abcd.tmp", ".c.npy.0123abcd.tmp", "mine.tmp")]
    for file in (*left, *others):
        file.write_bytes(bytes(10))
    with filelock.FileLock(path.with_name(".c.npy.lock")):
        cache.build("a", images, workers=0)
    assert not any(file.exists() for file in left)
    assert all(other.exists() for other in others)


def test_large_files_are_hashed_by_verify_only(images, monkeypatch):
    """Above the limit opening checks the size alone; the full check finds a flipped byte."""
    path = cache.build("a", images, workers=0)
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(data)
    monkeypatch.setattr(cache, "CHECKED_WHEN_OPENED", 10)
    assert cache.find("a", images) is not None
    with pytest.raises(InputError, match="is damaged: SHA-256"):
        cache.open_verified(path, full=True)
    assert [path for path, _ in cache.made_of(images.pictures)] == [path]


def test_a_disk_that_is_too_small_is_said_before_the_work(images, monkeypatch):
    """Bytes wanted, bytes free, and the two ways out; nothing is decoded."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    monkeypatch.setattr(cache.decoding, "decoded", lambda *a: pytest.fail("decoded"))
    with pytest.raises(WriteError, match=r"\(18,432 bytes\): 1 bytes are free; .*PCTOOL_CACHE_DIR.*--cache-limit 0"):
        cache.build("a", images, workers=0)


def test_a_source_that_changes_while_it_is_decoded_is_refused(images, tmp_path, monkeypatch):
    """An image replaced after the identity was taken and before it was decoded: nothing is kept under that identity."""
    whole = cache.decoding.decoded

    def decoded(*arguments):
        (tmp_path / "a" / "0.png").write_bytes((tmp_path / "a" / "2.png").read_bytes())
        return whole(*arguments)

    monkeypatch.setattr(cache.decoding, "decoded", decoded)
    with pytest.raises(InputError, match="a changed while it was decoded; start again"):
        catalog.load(str(tmp_path / "a"), resolution=32, workers=0)
    assert not list((tmp_path / "cache" / "images").glob("*.npy"))


@pytest.mark.parametrize("name", ["n" * 250, "\udcff", "\u00fc" * 120], ids=["long", "not UTF-8", "long in bytes"])
def test_a_source_of_any_name_can_be_cached(tmp_path, name):
    """A folder's name may take all that the system allows, and need not be UTF-8."""
    fill(tmp_path / name)
    loaded = catalog.load(str(tmp_path / name), resolution=32, workers=0)
    assert isinstance(loaded.images, np.memmap)


def test_what_cannot_be_read_is_not_called_damaged(images, tmp_path):
    """A file that the system does not let be read is neither used nor replaced; a folder that cannot be listed and one
    that cannot be made are one line, which names PCTOOL_CACHE_DIR."""
    path = cache.build("a", images, workers=0)
    path.unlink()
    path.mkdir()  # what root cannot read either
    for find in (cache.find, cache.build):
        with pytest.raises(InputError, match=rf"cannot read {path}: Is a directory"):
            find("a", images)
    folder = path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(path.parent.name)
    with pytest.raises(InputError, match=rf"cannot read {path.parent}: Too many levels of symbolic links"):
        cache.made_of(images.pictures)
    path.parent.unlink()
    path.parent.touch()
    with pytest.raises(WriteError, match=r"cannot write .*; set PCTOOL_CACHE_DIR to another place"):
        cache.build("a", images)
    assert folder.is_dir()
