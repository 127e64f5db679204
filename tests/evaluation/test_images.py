"""Reading images: folders, ZIPs, arrays, and what is refused."""

import io
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from pctool.errors import InputError
from pctool.evaluation.images import ImageArray, array_sha256, open_images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (7, 3, 5, 6), np.uint8)
GREY = COLOUR[:, :1]


def write_folder(folder, images):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        below = folder / "ab"[i % 2]
        below.mkdir(exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(below / f"{i:02d}.png")
    (folder / "readme.txt").write_text("not an image")
    return folder


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


def everything(path, batch_size=3, n=None):
    return np.concatenate(list(open_images(path).batches(batch_size, None if n is None else range(n))))


@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
def test_folder_zip_and_npz_are_the_same_images(images, tmp_path):
    """A folder with subfolders, a ZIP of it and an .npz give the same bytes, in the order of the names."""
    folder = write_folder(tmp_path / "images", images)
    order = [0, 2, 4, 6, 1, 3, 5]  # a/00, a/02, ..., b/01, ...
    np.savez(tmp_path / "images.npz", images[order].transpose(0, 2, 3, 1))
    for path in (folder, zipped(folder), tmp_path / "images.npz"):
        opened = open_images(path)
        assert (len(opened), opened.shape) == (7, images.shape[1:])
        np.testing.assert_array_equal(everything(path), images[order])
        np.testing.assert_array_equal(everything(path, n=4), images[order][:4])


def test_other_files_are_refused(tmp_path):
    """An empty folder, nothing at all, a ZIP that is none and an .npz without arr_0 or of another form."""
    (tmp_path / "empty").mkdir()
    for name in ("text.zip", "text.npz"):
        (tmp_path / name).write_text("text")
    np.savez(tmp_path / "named.npz", images=COLOUR)
    np.savez(tmp_path / "chw.npz", COLOUR)
    np.savez(tmp_path / "float.npz", COLOUR.transpose(0, 2, 3, 1) / 255)
    np.savez(tmp_path / "object.npz", np.array([{}], object))
    with (tmp_path / "npy.npz").open("wb") as file:
        np.save(file, COLOUR)
    for name, match in (
        ("empty", "holds no images"),
        ("absent", "does not exist: give a folder of images, a .zip or a .npz"),
        ("text.zip", "not a readable ZIP"),
        ("text.npz", "arr_0"),
        ("named.npz", "arr_0"),
        ("chw.npz", "uint8"),
        ("float.npz", "uint8"),
        ("object.npz", "arr_0"),
        ("npy.npz", "arr_0"),
    ):
        with pytest.raises(InputError, match=match):
            open_images(tmp_path / name)


def test_sizes_may_differ(tmp_path):
    """Files of another size are counted in a note, and come in batches of their own; every image comes once."""
    folder = write_folder(tmp_path / "images", COLOUR)
    Image.new("RGB", (9, 8)).save(folder / "a" / "01.png")
    opened = open_images(folder)
    assert opened.shape == (3, 5, 6)
    assert set(opened.shapes) == {(3, 5, 6), (3, 8, 9)}
    assert opened.notes == (f"1 of 8 images in {folder} are of another size than the rest",)
    batches = list(opened.batches(4))
    assert [batch.shape for batch in batches] == [(3, 3, 5, 6), (1, 3, 8, 9), (4, 3, 5, 6)]
    np.testing.assert_array_equal(np.concatenate([batches[0], batches[2]]), everything_of_colour())


def everything_of_colour():
    return COLOUR[[0, 2, 4, 6, 1, 3, 5]]


def test_grey_among_colour_becomes_colour(tmp_path):
    """Grey files among colour ones give three equal channels and are counted."""
    folder = write_folder(tmp_path / "images", COLOUR)
    Image.fromarray(GREY[0, 0]).save(folder / "z.png")
    opened = open_images(folder)
    assert opened.notes == (f"1 of 8 images in {folder} are grey and became colour",)
    np.testing.assert_array_equal(everything(folder)[-1], GREY[0].repeat(3, 0))


def test_transparency_is_dropped_and_counted(tmp_path):
    """RGBA and grey with alpha lose the alpha channel, as with clean-fid, and a note counts them."""
    folder = tmp_path / "images"
    folder.mkdir()
    alpha = np.full((5, 6, 1), 7, np.uint8)
    Image.fromarray(np.concatenate([COLOUR[0].transpose(1, 2, 0), alpha], 2)).save(folder / "a.png")
    Image.fromarray(COLOUR[1].transpose(1, 2, 0)).save(folder / "b.png")
    opened = open_images(folder)
    assert opened.notes == (f"1 of 2 images in {folder} have transparency, which was dropped",)
    np.testing.assert_array_equal(everything(folder), COLOUR[:2])
    grey = tmp_path / "grey"
    grey.mkdir()
    Image.fromarray(np.stack([GREY[0, 0], alpha[..., 0]], 2), "LA").save(grey / "a.png")
    np.testing.assert_array_equal(everything(grey), GREY[:1])


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_unreadable_files_are_skipped_and_counted(as_zip, tmp_path):
    """A PNG cut short, text called .png and 16-bit images are left out, counted, and the first is named."""
    folder = write_folder(tmp_path / "images", COLOUR)
    whole = (folder / "a" / "00.png").read_bytes()
    (folder / "a" / "01.png").write_bytes(whole[: len(whole) // 2])
    (folder / "y.png").write_text("text")
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(folder / "z.png")
    (folder / "z.ppm").write_bytes(b"P6 6 5 65535\n" + bytes(180))  # colour, of which Pillow would drop the lower bits
    path = zipped(folder) if as_zip else folder
    opened = open_images(path)
    assert len(opened) == 7
    [skipped] = opened.skipped
    assert skipped.startswith(f"4 of 11 files in {path}: the first, a/01.png, is not a readable image")
    np.testing.assert_array_equal(everything(path), everything_of_colour())


@pytest.mark.parametrize("as_zip", [False, True])
def test_hidden_files_are_no_images(as_zip, tmp_path):
    """What macOS and viewers leave beside images is neither scored nor counted as unreadable."""
    folder = write_folder(tmp_path / "images", COLOUR)
    for name in ("._x.png", ".thumbs/0.png", "__MACOSX/._0.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")
    opened = open_images(zipped(folder) if as_zip else folder)
    assert (len(opened), opened.skipped) == (len(COLOUR), ())


def test_a_colour_that_is_transparent_is_counted(tmp_path):
    """Transparency without an alpha channel, of RGB, grey and palettes, is dropped and counted as well."""
    colour = Image.fromarray(COLOUR[0].transpose(1, 2, 0))
    for i, (picture, clear) in enumerate(((colour, (1, 2, 3)), (colour.convert("L"), 3), (colour.convert("P"), b"\1"))):
        picture.save(tmp_path / f"{i}.png", transparency=clear)
    opened = open_images(tmp_path)
    assert opened.notes[0] == f"3 of 3 images in {tmp_path} have transparency, which was dropped"
    np.testing.assert_array_equal(everything(tmp_path)[0], COLOUR[0])


def test_linked_folders_are_read_and_circles_end(tmp_path):
    """A link to a folder counts as the folder would, as with clean-fid; one to a folder above it adds nothing."""
    folder = write_folder(tmp_path / "images", COLOUR)
    (folder / "c").symlink_to(folder / "a")
    (folder / "a" / "up").symlink_to(folder)
    assert len(open_images(folder)) == 11
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match=r"cannot read .*circle: Too many levels of symbolic links"):
        open_images(tmp_path / "circle")


def test_names_that_are_not_utf8(tmp_path):
    """They count in the hash; what is said of them can be printed and written as JSON."""
    folder = write_folder(tmp_path / "\udcff", COLOUR)
    (folder / "\udcfe.png").write_text("text")
    opened = open_images(folder)
    assert opened.sha256 == open_images(write_folder(tmp_path / "plain", COLOUR)).sha256
    [skipped] = opened.skipped
    assert skipped.encode().startswith(rf"1 of 8 files in {tmp_path}/\udcff: the first, \udcfe.png".encode())
    (folder / "a" / "00.png").rename(folder / "a" / "\udcfd.png")
    assert open_images(folder).sha256 != opened.sha256


def test_damage_that_pillow_and_zipfile_say_in_other_words(tmp_path):
    """An empty chunk behind a PNG's pixels (IndexError), a damaged LZMA stream: left out, with one line."""
    folder = write_folder(tmp_path / "images", COLOUR)
    whole = (folder / "a" / "00.png").read_bytes()
    (folder / "a" / "00.png").write_bytes(whole[:-12] + b"\0\0\0\0iCCP" + zlib.crc32(b"iCCP").to_bytes(4) + whole[-12:])
    assert "the first, a/00.png, is not a readable image" in open_images(folder).skipped[0]
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("0.png", whole)
        archive.writestr("1.png", whole)
    data = bytearray(path.read_bytes())
    data[30 + len("0.png") + 4] = 255  # LZMA's properties of the first
    path.write_bytes(data)
    assert "the first, 0.png, cannot be read" in open_images(path).skipped[0]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_not_what_they_seem(tmp_path, monkeypatch):
    """Two files of one name are refused; a file that unpacks beyond the limit is left out before it is unpacked."""
    packed = zipped(write_folder(tmp_path / "images", COLOUR))
    monkeypatch.setattr("pctool.picture_files.MAX_FILE", 170)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("z.png", bytes(171))
    assert "the first, z.png, unpacks to more than 170 bytes" in open_images(packed).skipped[0]
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("a/00.png", b"")
    with pytest.raises(InputError, match=r"images.zip holds a/00.png twice"):
        open_images(packed)


def test_nothing_readable(tmp_path):
    """Where no file can be read the first is named in an InputError."""
    (tmp_path / "z.png").write_text("text")
    with pytest.raises(InputError, match=r"no readable image: z.png is not a readable image: none of PNG, JPEG"):
        open_images(tmp_path)


def test_a_file_that_changes_under_way(tmp_path):
    """A file that goes bad after the first look is an InputError, not a crash."""
    folder = write_folder(tmp_path / "images", COLOUR)
    opened = open_images(folder)
    (folder / "b" / "01.png").write_text("text")
    with pytest.raises(InputError, match=r"b/01.png changed while it was scored"):
        list(opened.batches(3))


def test_chosen_images_of_every_source(tmp_path):
    """A rising choice of numbers gives these images, from a folder, an array and a packed or plain .npz."""
    ordered = everything_of_colour()
    np.savez(tmp_path / "plain.npz", ordered.transpose(0, 2, 3, 1))
    np.savez_compressed(tmp_path / "packed.npz", ordered.transpose(0, 2, 3, 1))
    folder = write_folder(tmp_path / "images", COLOUR)
    for images in (
        *(open_images(path) for path in (folder, tmp_path / "plain.npz", tmp_path / "packed.npz")),
        ImageArray(ordered),
    ):
        np.testing.assert_array_equal(np.concatenate(list(images.batches(2, [1, 2, 5]))), ordered[[1, 2, 5]])


def test_damaged_npz(tmp_path):
    """An .npz whose pixels were changed is an InputError when they are read."""
    path = tmp_path / "i.npz"
    np.savez(path, COLOUR.transpose(0, 2, 3, 1))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="CRC"):
        list(open_images(path).batches(3))


def test_npz_that_claims_more_than_it_holds(tmp_path):
    """A header that claims a trillion images in a few bytes is an InputError, before anything is allocated."""
    path = tmp_path / "i.npz"
    header = io.BytesIO()
    shape = (10**12, 4, 4, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(96))
    with pytest.raises(InputError, match="is damaged: arr_0 claims"):
        open_images(path)


def test_sha256_is_of_contents(tmp_path):
    """The hash of a folder or an .npz changes with a pixel, and not with the place."""
    first, second = (write_folder(tmp_path / name, COLOUR) for name in ("one", "two"))
    assert open_images(first).sha256 == open_images(second).sha256
    Image.fromarray(COLOUR[1].transpose(1, 2, 0)).save(second / "a" / "00.png")
    assert open_images(first).sha256 != open_images(second).sha256
    np.savez(tmp_path / "a.npz", COLOUR.transpose(0, 2, 3, 1))
    np.savez(tmp_path / "b.npz", COLOUR[::-1].transpose(0, 2, 3, 1))
    assert open_images(tmp_path / "a.npz").sha256 != open_images(tmp_path / "b.npz").sha256


def test_palettes_become_colour(tmp_path):
    """A palette image is read as the RGB it stands for."""
    picture = Image.fromarray(COLOUR[0].transpose(1, 2, 0)).convert("P")
    tmp_path.joinpath("p").mkdir()
    picture.save(tmp_path / "p" / "p.png")
    np.testing.assert_array_equal(everything(tmp_path / "p")[0], np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def test_hash_is_of_shape_and_pixels():
    """The hash changes with a pixel and with the shape, and not with the memory layout."""
    assert array_sha256(COLOUR) == array_sha256(np.asfortranarray(COLOUR))
    assert array_sha256(COLOUR) != array_sha256(COLOUR.reshape(7, 3, 6, 5))
    changed = COLOUR.copy()
    changed[-1, -1, -1, -1] ^= 1
    assert array_sha256(COLOUR) != array_sha256(changed)
