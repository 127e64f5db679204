"""LSUN from real LMDB files."""

import io
import os
import signal

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from pctool.data import acquire, catalog, lsun
from pctool.errors import InputError

from . import small_encoded


@pytest.fixture
def tower(monkeypatch, tmp_path):
    """A small LSUN class in the real one's place, as it is unpacked in tmp_path; gives its entries by key."""
    small_encoded.install_lsun(monkeypatch)
    return small_encoded.write_lmdb(tmp_path / "tower_train_lmdb", small_encoded.lsun_values())


def pictures(entries):
    return [Image.open(io.BytesIO(entries[key])).convert("RGB") for key in sorted(entries)]


@pytest.mark.parametrize("form", ["zip", "deflated zip", "folder", "parent", "file", "link"])
def test_every_form_gives_the_images_in_key_order(tower, tmp_path, form):
    """ZIP, folder, the folder above, data.mdb or a link to it: the decoded images are the centre cuts, by key."""
    folder = tmp_path / "tower_train_lmdb"
    source = {"folder": folder, "link": folder, "file": folder / "data.mdb", "parent": tmp_path}.get(form)
    if source is None:
        source = small_encoded.zip_folder(folder, tmp_path / "t.zip", 8 if form == "deflated zip" else 0)
    assert acquire.import_files("lsun-tower", source, link=form == "link") == "imported"
    assert (tmp_path / "data" / "lsun-tower" / "data.mdb").is_symlink() == (form == "link")
    loaded = catalog.load("lsun-tower", resolution=128, workers=0)
    cut = transforms.CenterCrop(128)
    expected = np.stack([np.asarray(cut(picture)).transpose(2, 0, 1) for picture in pictures(tower)])
    np.testing.assert_array_equal(loaded.images, expected)


def test_identity_is_that_of_the_images_and_how_they_are_taken(tower, tmp_path):
    """The same whether decoded or streamed; another for another crop, resolution or number."""
    acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb")
    plain = catalog.load("lsun-tower", workers=0)
    assert plain.images.shape == (5, 3, 256, 256)  # the paper's resolution for this class
    assert catalog.load("lsun-tower", cache_limit=0).sha256 == plain.sha256
    others = [
        catalog.load("lsun-tower", cache_limit=0, crop="resize"),
        catalog.load("lsun-tower", cache_limit=0, resolution=128),
        catalog.load("lsun-tower", cache_limit=0, max_images=4),
    ]
    assert len({plain.sha256, *(other.sha256 for other in others)}) == 4


def test_what_does_not_fit_the_limit_is_read_from_the_encoded_images(tower, tmp_path):
    """Above the limit nothing is written, the line says so, and indexing gives what the cache would have given."""
    acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb")
    said = []
    streamed = catalog.load("lsun-tower", resolution=128, cache_limit=5 * 3 * 128 * 128 - 1, say=said.append)
    assert "--cache-limit" in said[0]
    assert not list((tmp_path / "cache").rglob("*.npy"))
    cached = catalog.load("lsun-tower", resolution=128, cache_limit=5 * 3 * 128 * 128, workers=0)
    assert list((tmp_path / "cache").rglob("*.npy"))
    for index in (slice(None), slice(1, 3), np.array([4, 0, 4]), np.array([], np.int64)):
        np.testing.assert_array_equal(streamed.images[index], cached.images[index])
    assert streamed.images.shape == cached.images.shape


def test_damage_is_found(tower, tmp_path):
    """A file cut short, another count, no LMDB, an entry that is no image, an index of another file: one line each."""
    folder = tmp_path / "tower_train_lmdb"
    whole = (folder / "data.mdb").read_bytes()
    data = tmp_path / "data" / "lsun-tower" / "data.mdb"
    for content, message in (
        (whole[:-4096], "is cut short"),
        (b"x" * 100, "is not a readable LMDB file"),
        (b"", "is not a readable LMDB file"),
    ):
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(InputError, match=message):
            acquire.import_files("lsun-tower", tmp_path / "data.mdb")
        assert not data.exists()
    small_encoded.write_lmdb(tmp_path / "more", small_encoded.lsun_values(6))
    with pytest.raises(InputError, match="is not the official lsun-tower: 6 images, expected 5"):
        acquire.import_files("lsun-tower", tmp_path / "more")
    assert not data.exists()
    broken = small_encoded.write_lmdb(tmp_path / "broken", [*small_encoded.lsun_values(4), b"no image"])
    acquire.import_files("lsun-tower", tmp_path / "broken")
    bad = next(key for key, value in broken.items() if value == b"no image").decode()
    with pytest.raises(InputError, match=f"image {bad} in .*data.mdb is not a readable image"):
        catalog.load("lsun-tower", workers=0)
    assert not [path for path in (tmp_path / "cache" / "images").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("first", [0, 8192], ids=["the head", "the tree"])
def test_damage_after_the_import_is_one_line(tower, tmp_path, first):
    """Pages overwritten by zeros, the size the same: a run names the file and ends, without a traceback."""
    acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb")
    data = tmp_path / "data" / "lsun-tower" / "data.mdb"
    whole = data.read_bytes()
    data.unlink()  # what an earlier test mapped stays as it is
    data.write_bytes(whole[:first] + bytes(len(whole) - first))
    streamed = catalog.load("lsun-tower", cache_limit=0)
    with pytest.raises(
        InputError, match=r"data.mdb cannot be read: the file is damaged \(.*\); import it again"
    ) as caught:
        streamed.images[:1]
    assert "\n" not in str(caught.value)


def test_several_classes_in_one_folder_are_told_apart(tower, tmp_path):
    """The folder above several classes is refused with their names before anything is copied."""
    small_encoded.write_lmdb(tmp_path / "tower_val_lmdb", small_encoded.lsun_values(2))
    with pytest.raises(InputError, match=r"more than once \(.*tower_train_lmdb, .*tower_val_lmdb\); name one of these"):
        acquire.import_files("lsun-tower", tmp_path)
    assert not list((tmp_path / "data").rglob("*.mdb"))


def test_a_file_that_already_lies_in_its_place_is_not_lost(tower, tmp_path):
    """A data.mdb that was put where it belongs by hand is imported from there, linked or not."""
    folder = tmp_path / "data" / "lsun-tower"
    (tmp_path / "tower_train_lmdb").rename(folder.parent.mkdir() or folder)
    assert acquire.import_files("lsun-tower", folder, link=True) == "imported"
    assert not (folder / "data.mdb").is_symlink()
    (folder / "manifest.json").unlink()
    before = (folder / "data.mdb").stat().st_ino
    assert acquire.import_files("lsun-tower", folder) == "imported"
    assert (folder / "data.mdb").stat().st_ino == before  # nor copied
    assert catalog.load("lsun-tower", resolution=128, workers=0).images.shape == (5, 3, 128, 128)


@pytest.mark.parametrize("link", [False, True])
def test_what_is_refused_leaves_the_users_files_alone(tower, tmp_path, link):
    """A file with another number of images is not removed where it lies in its place, nor does one from elsewhere take
    the place of what is there."""
    folder = tmp_path / "data" / "lsun-tower"
    small_encoded.write_lmdb(folder, small_encoded.lsun_values(6))
    before = (folder / "data.mdb").read_bytes()
    for source in (folder, folder / "data.mdb"):
        with pytest.raises(InputError, match="6 images, expected 5"):
            acquire.import_files("lsun-tower", source, link=link)
        assert (folder / "data.mdb").read_bytes() == before
    (tmp_path / "tower_train_lmdb" / "data.mdb").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=r"data.mdb in .*tower_train_lmdb is not a readable LMDB file"):
        acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb", link=link)
    assert (folder / "data.mdb").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"data.mdb", "lock.mdb", ".lock"}


def crash(path, what):
    os.kill(os.getpid(), signal.SIGBUS)


def test_a_file_that_crashes_its_reader_is_one_line(tower, tmp_path, monkeypatch):
    """What kills the C library (a page number beyond the end does) kills a process of its own, not the command."""
    monkeypatch.setattr(lsun, "read_keys", crash)
    with pytest.raises(InputError, match="is damaged: reading it crashed"):
        acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb")
    assert not (tmp_path / "data" / "lsun-tower" / "data.mdb").exists()


def test_the_index_is_a_plain_array(tower, tmp_path):
    """keys.npy holds the keys in the file's order as byte strings: no pickle, and a damaged one is refused."""
    acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb")
    path = tmp_path / "data" / "lsun-tower" / "keys.npy"
    assert np.load(path, allow_pickle=False).tolist() == sorted(tower)
    np.testing.assert_array_equal(lsun.read_keys(path.with_name("data.mdb"), "it"), sorted(tower))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [state.state for state in catalog.states("lsun-tower", full=True)] == ["damaged"]
    with pytest.raises(InputError, match=r"keys.npy is damaged: SHA-256 .* replace it with 'pctool data fetch"):
        catalog.load("lsun-tower")


def test_published_counts():
    """The three classes have the numbers of training images that LSUN's authors give."""
    counts = {name: catalog.describe(f"lsun-{name}").splits["train"].images for name in ("bedroom", "tower")}
    assert counts == {"bedroom": 3_033_042, "tower": 708_264}
    assert catalog.describe("lsun-living-room").splits["train"].images == 1_315_802
