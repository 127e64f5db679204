"""Runs on images that are decoded: where they lie and what decodes them changes no bit."""

import numpy as np
import pytest
from PIL import Image

from pctool.cli.main import run
from pctool.core import checkpoint as checkpoints
from pctool.data import acquire
from pctool.training import images
from pctool.training.config import resolve
from tests.data import small_cifar, small_encoded

SMALL = ["--width-g", "8", "--width-d", "8", "--batch-size", "4", "--sample-every", "0", "--spectrum-every", "0"]


@pytest.fixture
def folder(tmp_path):
    """Ten images of 40 x 50."""
    (tmp_path / "faces").mkdir()
    for i in range(10):
        Image.fromarray(small_encoded.smooth(40, 50, i)).save(tmp_path / "faces" / f"{i}.png")
    return tmp_path / "faces"


def weights(path):
    return checkpoints.newest(path)[1]["G"]


def test_a_run_on_a_folder_is_the_same_cached_streamed_interrupted_and_moved(folder, tmp_path):
    """Cached, decoded here or by a worker, stopped and continued, the folder moved meanwhile: the same weights."""
    base = ["train", *SMALL, "--resolution", "32"]
    places = {"cached": [], "here": ["--cache-limit", "0", "--data-workers", "0"]}
    places["worker"] = ["--cache-limit", "0", "--data-workers", "1"]
    for name, extra in places.items():
        arguments = [*base, *extra, "--dataset", str(folder), "--out", str(tmp_path / name)]
        assert run([*arguments, "--steps", "6"]) == 0
    parts = [*base, "--decay-from", "1000", "--out", str(tmp_path / "parts")]
    assert (
        run([*base, "--decay-from", "1000", "--dataset", str(folder), "--out", str(tmp_path / "w"), "--steps", "6"])
        == 0
    )
    assert run([*parts, "--dataset", str(folder), "--steps", "3"]) == 0
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "faces")
    assert run([*parts, "--dataset", str(moved), "--steps", "6", "--cache-limit", "0", "--data-workers", "0"]) == 0
    for one, other in (("cached", "here"), ("cached", "worker"), ("w", "parts")):
        left, right = weights(tmp_path / one), weights(tmp_path / other)
        assert [name for name in left if not left[name].equal(right[name])] == []


def test_a_run_on_stl10_takes_the_split_asked_for(monkeypatch, tmp_path):
    """--split and --resolution reach the data; scores are against the whole of the same."""
    files = small_encoded.stl_files(small_encoded.stl_images())
    small_encoded.install_stl(monkeypatch, files)
    acquire.import_files("stl10", small_cifar.write_folder(tmp_path / "stl10_binary", files))
    arguments = ["train", *SMALL, "--dataset", "stl10", "--steps", "2", "--data-workers", "0"]
    assert run([*arguments, "--split", "all", "--out", str(tmp_path / "r")]) == 0
    saved = checkpoints.config(checkpoints.newest(tmp_path / "r")[1])
    assert (saved["split"], saved["resolution"], saved["crop"], saved["channels"]) == ("all", 48, "resize", 3)
    config = resolve({"dataset": "stl10", "split": "all", "max_images": 4, "data_workers": 0})
    assert len(images.load(config).images) == 4
    whole = images.load(config, whole=True).images
    assert whole.shape == (11, 3, 48, 48)
    np.testing.assert_array_equal(images.load(config).images, whole[:4])
