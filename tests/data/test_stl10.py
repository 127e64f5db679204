"""STL-10 from its official binary form."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from pctool import files
from pctool.data import acquire, catalog, landed
from pctool.errors import InputError, MissingError

from . import small_cifar, small_encoded


@pytest.fixture
def stl(monkeypatch):
    """Random images by split; their files are what the catalogue takes for official."""
    images = small_encoded.stl_images()
    small_encoded.install_stl(monkeypatch, small_encoded.stl_files(images))
    return images


def write_source(folder, images, form):
    files = small_encoded.stl_files(images)
    if form == "archive":
        folder.mkdir()
        (folder / "x.tar.gz").write_bytes(small_encoded.stl_targz(files))
        return folder / "x.tar.gz"
    small_cifar.write_folder(folder / "stl10_binary", files)
    return folder / "stl10_binary" if form == "folder" else folder


@pytest.mark.parametrize("form", ["archive", "folder", "parent"])
def test_import_lands_the_files_and_load_gives_48_px(stl, tmp_path, form):
    """From archive, folder or its parent: 48 px images are Pillow's bicubic of the official ones, the right way up."""
    source = write_source(tmp_path / "source", stl, form)
    assert acquire.import_files("stl10", source) == "imported"
    loaded = catalog.load("stl10", workers=0)
    assert loaded.split == "unlabeled"
    assert loaded.images.shape == (6, 3, 48, 48)
    for image, pixels in zip(loaded.images, stl["unlabeled"], strict=True):
        expected = np.asarray(Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))
    assert acquire.import_files("stl10", source) == "already here"


def test_all_is_the_three_parts_in_order(stl, tmp_path):
    """`all` has unlabeled, train and test, and each part has an identity of its own."""
    acquire.import_files("stl10", write_source(tmp_path / "source", stl, "folder"))
    parts = {split: catalog.load("stl10", split, workers=0) for split in ("unlabeled", "train", "test", "all")}
    joined = np.concatenate([parts[split].images for split in ("unlabeled", "train", "test")])
    np.testing.assert_array_equal(parts["all"].images, joined)
    assert len({part.sha256 for part in parts.values()}) == 4
    assert catalog.load("stl10", resolution=64, workers=0).images.shape == (6, 3, 64, 64)


def test_states_and_damage(stl, tmp_path):
    """absent, then here by sizes, verified by every byte; a flipped byte is found by the full check, and mended."""
    assert {state.state for state in catalog.states("stl10")} == {"absent"}
    with pytest.raises(MissingError, match=r"stl10 is not here .*pctool data fetch stl10"):
        catalog.load("stl10")
    source = write_source(tmp_path / "source", stl, "folder")
    acquire.import_files("stl10", source)
    assert {state.state for state in catalog.states("stl10")} == {"here"}
    assert {state.state for state in catalog.states("stl10", full=True)} == {"verified"}
    path = tmp_path / "data" / "stl10" / "train_X.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    states = {state.split: state.state for state in catalog.states("stl10", full=True)}
    assert states == {"unlabeled": "verified", "train": "damaged", "test": "verified", "all": "damaged"}
    assert acquire.import_files("stl10", source) == "imported"
    path.write_bytes(data[:-1])
    assert {state.split for state in catalog.states("stl10") if state.state == "damaged"} == {"train", "all"}
    with pytest.raises(InputError, match=r"train_X.bin is damaged: 82,943 bytes, expected 82,944; replace it"):
        catalog.load("stl10", "train")


def test_other_files_than_the_official_ones_are_refused(stl, tmp_path):
    """A wrong byte, a short or a missing file, a broken archive: one line, nothing counts as here, and what lay in the
    data folder lies there still."""
    own = tmp_path / "data" / "stl10" / "train_X.bin"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    files = small_encoded.stl_files(stl)
    wrong = dict(files, **{"test_X.bin": b"\0" + files["test_X.bin"][1:]})
    cases = {
        r"test_X.bin in .* is not the official file: MD5": wrong,
        r"train_X.bin in .* is not the official file: 100 bytes, expected 82,944": dict(
            files, **{"train_X.bin": bytes(100)}
        ),
        "lacks test_X.bin": {name: data for name, data in files.items() if name != "test_X.bin"},
    }
    for i, (message, content) in enumerate(cases.items()):
        source = small_cifar.write_folder(tmp_path / str(i), content)
        with pytest.raises(InputError, match=message):
            acquire.import_files("stl10", source)
        assert {state.state for state in catalog.states("stl10")} == {"absent"}
        assert own.read_bytes() == b"mine"
    packed = small_encoded.stl_targz(files)
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"cannot read .*"):
        acquire.import_files("stl10", tmp_path / "cut.tar.gz")
    assert not [path for path in (tmp_path / "data").rglob("*.tmp")]


def test_the_pins_are_torchvisions():
    """Sizes follow from the published counts; the MD5 sums are those in torchvision's own reader."""
    torchvision_stl10 = pytest.importorskip("torchvision.datasets.stl10")
    published = dict([*torchvision_stl10.STL10.train_list, *torchvision_stl10.STL10.test_list])
    about = catalog.describe("stl10")
    for name, pin in about.files.items():
        assert pin.md5 == published[name]
        assert pin.size == about.splits[name.removesuffix("_X.bin")].images * 3 * 96 * 96
    assert about.archive.url == torchvision_stl10.STL10.url


def test_the_manifest_names_what_landed(stl, tmp_path):
    """manifest.json holds size and SHA-256 of each file."""
    acquire.import_files("stl10", write_source(tmp_path / "source", stl, "folder"))
    manifest = landed.read_manifest(tmp_path / "data" / "stl10")
    for name, data in small_encoded.stl_files(stl).items():
        assert manifest.files[name] == landed.LandedFile(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_every_byte_is_hashed_once(stl, tmp_path, monkeypatch):
    """`all` shares the files of the other splits."""
    acquire.import_files("stl10", write_source(tmp_path / "source", stl, "folder"))
    hashed: list[str] = []
    sha256_of = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    assert {state.state for state in catalog.states("stl10", full=True)} == {"verified"}
    assert sorted(hashed) == sorted(small_encoded.stl_files(stl))


def test_a_file_that_cannot_be_read_is_not_called_damaged(stl, tmp_path):
    """Its state is its own, no remedy would replace it, and neither import nor fetch tries to."""
    source = write_source(tmp_path / "source", stl, "folder")
    acquire.import_files("stl10", source)
    path = tmp_path / "data" / "stl10" / "test_X.bin"
    path.unlink()
    path.symlink_to(path.name)  # a link to itself, which root cannot read either
    states = {state.split: (state.state, state.problem) for state in catalog.states("stl10")}
    assert states["test"] == ("unreadable", f"cannot read {path}: Too many levels of symbolic links")
    assert (states["all"], states["train"][0]) == (states["test"], "here")
    for bring in (acquire.fetch, lambda name: acquire.import_files(name, source)):
        with pytest.raises(InputError, match=rf"^cannot read {path}: Too many levels of symbolic links$"):
            bring("stl10")
