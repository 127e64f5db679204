"""The images inside the package."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import pctool.data
from pctool.data import builtin, catalog
from pctool.errors import InputError

ABOUT = catalog.DATASETS["fashion-mnist"]
ASSETS = Path(pctool.data.__file__).parent / "assets"
# SHA-256 of the official t10k-images-idx3-ubyte, as independent projects publish it (docs/data.md).
IDX_SHA256 = "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"


@pytest.fixture(scope="module")
def maker():
    """tools/make_fashion_mnist_asset.py as a module."""
    path = Path(__file__).parents[2] / "tools" / "make_fashion_mnist_asset.py"
    spec = importlib.util.spec_from_file_location("make_fashion_mnist_asset", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_built_in_images_are_the_official_ones():
    """Header and unpadded pixels hash to the published sum of the official IDX file; the padding is zeros."""
    images = builtin.read_fashion_mnist(ABOUT.asset, ABOUT.shape("test"), ABOUT.splits["test"].sha256)
    assert images.shape == (10_000, 1, 32, 32)
    assert images.dtype == np.uint8
    assert not images.flags.writeable
    inner = images[:, 0, 2:30, 2:30]
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (10_000, 28, 28))
    assert hashlib.sha256(header + inner.tobytes()).hexdigest() == IDX_SHA256
    assert int(images.sum()) == int(inner.sum())


def test_the_asset_is_small_and_its_licence_is_beside_it():
    """The asset stays under 5 MB, and the MIT licence text with Zalando's copyright lies beside it."""
    assert (ASSETS / ABOUT.asset).stat().st_size < 5_000_000
    licence = (ASSETS / "LICENSE.fashion-mnist").read_text(encoding="utf-8")
    assert "Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence


@pytest.mark.parametrize("kind", ["cut", "text", "other pixels"])
def test_damaged_asset_is_refused(kind, monkeypatch, tmp_path, maker):
    """An asset that is cut, is another file, or holds other pixels is refused in one line with the remedy."""
    good = maker.compress(np.zeros((10_000, 28, 28), np.uint8))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "x.xz").write_bytes({"cut": good[:-20], "text": b"hello", "other pixels": good}[kind])
    monkeypatch.setattr(builtin.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=r"x.xz is damaged.*install pctool again"):
        builtin.read_fashion_mnist("x.xz", ABOUT.shape("test"), ABOUT.splits["test"].sha256)


def test_the_script_and_the_reader_are_inverses(monkeypatch, tmp_path, maker):
    """What the asset script compresses, the reader gives back, padded."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    padded = np.zeros((6, 1, 32, 32), np.uint8)
    padded[:, 0, 2:30, 2:30] = pixels
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "x.xz").write_bytes(maker.compress(pixels))
    monkeypatch.setattr(builtin.importlib.resources, "files", lambda package: tmp_path)
    expected = hashlib.sha256(padded.tobytes()).hexdigest()
    np.testing.assert_array_equal(builtin.read_fashion_mnist("x.xz", padded.shape, expected), padded)


def test_the_script_takes_only_the_official_file(tmp_path, maker):
    """Another IDX file of the same size is refused, its sum named."""
    path = tmp_path / "t10k"
    path.write_bytes(maker.IDX_HEADER + bytes(7_840_000))
    with pytest.raises(ValueError, match=IDX_SHA256):
        maker.read_idx(path)
