"""Reading images: folders, ZIPs, arrays, and what is refused."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from pctool.errors import InputError
from pctool.evaluation.images import array_sha256, open_images

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
    return np.concatenate(list(open_images(path).batches(batch_size, n)))


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
        ("absent", "is not there"),
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


def test_sizes_and_kinds_are_not_mixed(tmp_path):
    """A file of another size, or grey among colour, is an InputError that names both."""
    folder = write_folder(tmp_path / "images", COLOUR)
    Image.new("RGB", (9, 9)).save(folder / "z.png")
    with pytest.raises(InputError, match=r"z.png is 9x9 colour, a/00.png is 6x5 colour"):
        everything(folder)
    Image.new("L", (6, 5)).save(folder / "z.png")
    with pytest.raises(InputError, match=r"z.png is 6x5 grey"):
        everything(folder)


def test_broken_and_transparent_files(tmp_path):
    """A PNG cut short and one with an alpha channel are InputErrors that name the file."""
    folder = write_folder(tmp_path / "images", COLOUR)
    whole = (folder / "a" / "00.png").read_bytes()
    (folder / "z.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"z.png is not a readable image"):
        everything(folder)
    Image.new("RGBA", (6, 5)).save(folder / "z.png")
    with pytest.raises(InputError, match=r"z.png is of mode RGBA"):
        everything(folder)


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
