"""Folders and ZIPs of images."""

import errno
import os
import random
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from pctool import picture_files
from pctool.data import catalog, encoded
from pctool.data.decoding import EncodedImages
from pctool.data.folders import open_path
from pctool.errors import InputError

from . import small_encoded


def fill(folder, n=4):
    """`n` images in subfolders, grey, colour and opaque RGBA, PNG and JPEG, with a text file beside them."""
    (folder / "b").mkdir(parents=True)
    for i in range(n):
        pixels = small_encoded.smooth(70 + i, 90, i)
        if i % 4 == 1:
            pixels = pixels[..., 0]
        if i % 4 == 2:
            pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        kind = "JPEG" if i % 4 == 3 else "PNG"
        (folder / ("b" if i % 2 else ".") / f"{i}.{kind.lower()}").write_bytes(small_encoded.encoded(pixels, kind))
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_and_its_zip_hold_the_same_images(tmp_path):
    """Names in order, subfolders included, other files passed over; grey and opaque RGBA become RGB."""
    folder = fill(tmp_path / "faces")
    packed = small_encoded.zip_folder(folder, tmp_path / "faces.zip", 8)
    from_folder = catalog.load(str(folder), resolution=64, workers=0)
    from_zip = catalog.load(str(packed), resolution=64, workers=0)
    assert from_folder.split is None
    assert from_folder.images.shape == (4, 3, 64, 64)
    np.testing.assert_array_equal(from_folder.images, from_zip.images)
    expected = Image.open(folder / "0.png").resize((64 * 90 // 70, 64), Image.Resampling.BICUBIC)
    left = round((expected.width - 64) / 2)
    np.testing.assert_array_equal(
        from_folder.images[0], np.asarray(expected.crop((left, 0, left + 64, 64))).transpose(2, 0, 1)
    )
    assert catalog.load(str(folder), resolution=64, crop="centre", cache_limit=0).sha256 != from_folder.sha256


def test_what_systems_leave_beside_images_is_no_image(tmp_path):
    """Hidden files and folders, macOS's twins of every file, and a folder called like an image are passed over."""
    folder = fill(tmp_path / "faces")
    for name in ("._0.png", ".thumbs/0.png", "__MACOSX/._0.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")
    (folder / "album.png").mkdir()
    packed = small_encoded.zip_folder(folder, tmp_path / "faces.zip", 8)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("album.png/", b"")
    assert len(zipfile.ZipFile(packed).namelist()) >= 9
    for path in (folder, packed):
        found = open_path(path)
        names = [found.name(i).split(" in ")[0].removeprefix(f"{folder}/") for i in range(len(found))]
        assert [name.removeprefix("faces/") for name in names] == ["0.png", "2.png", "b/1.png", "b/3.jpeg"]
    (tmp_path / ".hidden").mkdir()
    assert len(open_path(folder.rename(tmp_path / ".hidden" / "faces"))) == 4


def test_identity_follows_the_contents_wherever_they_lie(tmp_path):
    """A moved or touched folder keeps its identity; a changed pixel, a new or renamed file changes it."""
    folder = fill(tmp_path / "a")

    def identity(path):
        return catalog.load(str(path), resolution=64, cache_limit=0).sha256

    first = identity(folder)
    os.utime(folder / "0.png", (1, 1))
    assert identity(folder) == first
    moved = folder.rename(tmp_path / "b")
    assert identity(moved) == first
    same_size = bytearray((moved / "0.png").read_bytes())
    same_size[-20] ^= 1
    (moved / "0.png").write_bytes(same_size)
    assert identity(moved) != first
    again = fill(tmp_path / "c")
    (again / "0.png").rename(again / "00.png")
    assert identity(again) not in (first, identity(moved))


def test_a_second_opening_reads_no_contents(tmp_path, monkeypatch):
    """Names, sizes and times as before stand for the contents: a run that is requeued starts at once."""
    folder = fill(tmp_path / "a")
    first = encoded.open_pictures(str(folder), None, None).fingerprint
    monkeypatch.setattr("pctool.data.folders._read", lambda path: pytest.fail(f"read {path}"))
    assert encoded.open_pictures(str(folder), None, None).fingerprint == first


@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_file_is_named(tmp_path, packed):
    """An image that is cut short, or transparent, stops the work with its name; nothing is kept of the rest."""
    folder = fill(tmp_path / "a")
    whole = (folder / "b" / "1.png").read_bytes()
    (folder / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    source = small_encoded.zip_folder(folder, tmp_path / "a.zip") if packed else folder
    with pytest.raises(InputError, match=r"b/1.png.* is not a readable image"):
        catalog.load(str(source), resolution=64, workers=0)
    assert not list((tmp_path / "cache" / "images").glob("[!.]*"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "holds no images"),
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"PK\3\4 not really"), "not a readable ZIP"),
        (lambda path: path.write_bytes(b"text"), "not a readable ZIP"),
    ],
)
def test_what_is_no_set_of_images(tmp_path, make, message):
    """An empty folder, nothing, a file that is no ZIP: one line."""
    path = tmp_path / "x.zip"
    make(path)
    with pytest.raises(InputError, match=message):
        catalog.load(str(path), resolution=64)


def test_a_damaged_zip_member_is_named(tmp_path):
    """A member whose bytes no longer fit its CRC is refused by name."""
    packed = small_encoded.zip_folder(fill(tmp_path / "a"), tmp_path / "a.zip")
    data = bytearray(packed.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    packed.write_bytes(data)
    with pytest.raises(InputError, match=r"0.png in .*a.zip cannot be read"):
        catalog.load(str(packed), resolution=64, workers=0)


def test_an_image_too_small_to_be_cut_is_named(tmp_path):
    """The file, its size and the other crop."""
    folder = fill(tmp_path / "a", 1)
    with pytest.raises(InputError, match=r"a/0.png is 90 x 70, smaller than 128 px; use --crop resize"):
        catalog.load(str(folder), resolution=128, crop="centre", workers=0)


def test_changed_archives_raise_only_inputerror(tmp_path):
    """200 ZIPs with changed bytes, half of them in the directory at the end: images, or one line; never a traceback."""
    whole = small_encoded.zip_folder(fill(tmp_path / "a"), tmp_path / "a.zip", 8).read_bytes()
    rng = random.Random(0)
    ends = set()
    for i in range(200):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 4, 16])):
            position = rng.randrange(len(data)) if rng.random() < 0.5 else len(data) - 1 - rng.randrange(400)
            data[position] = rng.randrange(256)
        path = tmp_path / f"{i}.zip"
        path.write_bytes(data)
        try:
            opened = open_path(path)
            EncodedImages(opened, 32, "resize", len(opened)).decode(range(len(opened)))
            ends.add("images")
        except InputError as error:
            ends.add("one line" if "\n" not in str(error) else str(error))
    assert ends == {"images", "one line"}


def test_a_bomb_in_a_zip_is_refused(tmp_path, monkeypatch):
    """A member that unpacks beyond the limit is refused by name before it is unpacked."""
    packed = small_encoded.zip_folder(fill(tmp_path / "a"), tmp_path / "a.zip", 8)
    monkeypatch.setattr("pctool.picture_files.MAX_FILE", 100)
    with pytest.raises(InputError, match=r"0.png in .*a.zip unpacks to more than 100 bytes"):
        catalog.load(str(packed), resolution=64, workers=0)


def test_the_resolution_must_be_given_and_known(tmp_path):
    """A folder has no resolution of its own; the message lists those there are networks for."""
    folder = str(fill(tmp_path / "a"))
    with pytest.raises(InputError, match="add --resolution: 32, 48, 64, 128, 256"):
        catalog.load(folder)
    with pytest.raises(InputError, match="no resolution 50: allowed are 32, 48, 64, 128, 256"):
        catalog.load(folder, resolution=50)
    with pytest.raises(InputError, match="fashion-mnist has no crop 'resize': its images are taken as they are"):
        catalog.load("fashion-mnist", crop="resize")
    with pytest.raises(InputError, match="stl10 has no crop 'centre': allowed are resize"):
        catalog.load("stl10", crop="centre")


def test_linked_folders_are_read_and_circles_end(tmp_path):
    """A link to a folder counts as the folder would, one to a folder above it adds nothing; one to nothing is named."""
    folder = fill(tmp_path / "a")
    copied = fill(tmp_path / "copied")
    shutil.copytree(folder / "b", copied / "c")
    (folder / "c").symlink_to(folder / "b")
    (folder / "b" / "up").symlink_to(folder)
    found, expected = open_path(folder), open_path(copied)
    assert (len(found), found.fingerprint) == (6, expected.fingerprint)
    (folder / "gone.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"a/gone.png is a link to what is not there; mend"):
        open_path(folder)


def test_what_cannot_be_read_ends_the_work(tmp_path, monkeypatch):
    """A subfolder that may not be listed, a path in a folder that may not be searched, a link to itself: one line."""
    folder = fill(tmp_path / "a")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match=r"cannot read .*circle: Too many levels of symbolic links"):
        catalog.load(str(tmp_path / "circle"), resolution=32)
    refused = PermissionError(errno.EACCES, "Permission denied", str(folder / "b"))
    whole = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: refuse(refused) if path == folder / "b/" else whole(path))
    with pytest.raises(InputError, match=r"cannot read .*a/b: Permission denied; its permissions must allow it"):
        open_path(folder)
    monkeypatch.setattr(os, "stat", lambda path, **options: refuse(refused))
    with pytest.raises(InputError, match=r"cannot read .*a: Permission denied; its permissions must allow it"):
        open_path(folder)


def refuse(error):
    raise error


def test_a_file_changed_under_its_old_time_is_read_again(tmp_path):
    """Another content of the same size, with the time of the last change of content set back, is another identity."""
    folder = fill(tmp_path / "a")
    first = open_path(folder).fingerprint
    path = folder / "0.png"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of file systems is coarse
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert open_path(folder).fingerprint != first


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_in_a_zip_are_refused(tmp_path):
    """Only the last of them could be read, and it would count twice."""
    packed = small_encoded.zip_folder(fill(tmp_path / "a"), tmp_path / "a.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("a/0.png", b"")
    with pytest.raises(InputError, match=r"a.zip holds a/0.png twice"):
        open_path(packed)


def test_a_zip_entry_without_a_name_is_no_image(tmp_path):
    """As other programs write it for what they cannot name."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("\0x.png"), b"x")
    with pytest.raises(InputError, match="holds no images"):
        open_path(path)


def test_a_file_beyond_any_image_is_refused(tmp_path):
    """By its size, before it is read: it would take all memory."""
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", picture_files.MAX_FILE + 1)
    with pytest.raises(InputError, match=r"a\.png has more than 1,073,741,824 bytes; leave it out"):
        open_path(tmp_path)
    with pytest.raises(InputError, match="has more than"):
        picture_files.read_file(tmp_path / "a.png")
