"""Small data sets in the real formats: STL-10's binaries, LSUN's LMDB of JPEGs, folders and ZIPs of images."""

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from pctool.data import catalog
from pctool.data.landed import FilePin

STL_COUNTS = {"unlabeled": 6, "train": 3, "test": 2}
LSUN_IMAGES = 5


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3] that JPEG keeps nearly as it is: a gradient of its own colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [(rng.integers(40, 200) + rng.uniform(-0.2, 0.2) * y + rng.uniform(-0.2, 0.2) * x) for _ in range(3)]
    return np.stack(planes, 2).clip(0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def stl_images(seed: int = 0) -> dict[str, np.ndarray]:
    """uint8 [N, row, column, channel] of each split."""
    rng = np.random.default_rng(seed)
    return {split: rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8) for split, n in STL_COUNTS.items()}


def stl_files(images: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The official form: red, green and blue planes an image, each column by column."""
    return {f"{split}_X.bin": array.transpose(0, 3, 2, 1).tobytes() for split, array in images.items()}


def install_stl(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """Puts the small files' sizes and sums where those of the real STL-10 are; the checks stay as they are."""
    about = catalog.DATASETS["stl10"]
    splits = {name: replace(split, images=STL_COUNTS.get(name, 11)) for name, split in about.splits.items()}
    pins = {name: FilePin(len(data), hashlib.md5(data).hexdigest()) for name, data in files.items()}
    monkeypatch.setitem(catalog.DATASETS, "stl10", replace(about, splits=splits, files=pins))


def stl_targz(files: dict[str, bytes]) -> bytes:
    """The archive, with the labels beside the images as in the official one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, data in {**files, "train_y.bin": b"\1\2\3", "class_names.txt": b"airplane\n"}.items():
            info = tarfile.TarInfo(f"stl10_binary/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_lmdb(folder: Path, values: list[bytes]) -> dict[bytes, bytes]:
    """A class as LSUN ships it, `folder`/data.mdb and lock.mdb; returns its entries."""
    entries = {hashlib.sha1(str(i).encode()).hexdigest().encode(): value for i, value in enumerate(values)}
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return entries


def lsun_values(n: int = LSUN_IMAGES) -> list[bytes]:
    """JPEG images whose short side is 256, alternately high and wide."""
    sizes = [(256, 300) if i % 2 else (341, 256) for i in range(n)]
    return [encoded(smooth(height, width, seed=i), "JPEG") for i, (height, width) in enumerate(sizes)]


def install_lsun(monkeypatch: pytest.MonkeyPatch, name: str = "lsun-tower", images: int = LSUN_IMAGES) -> None:
    """Puts the small number of images where that of the real class is."""
    about = catalog.DATASETS[name]
    splits = {"train": replace(about.splits["train"], images=images)}
    monkeypatch.setitem(catalog.DATASETS, name, replace(about, splits=splits))


def zip_folder(folder: Path, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """A ZIP of a folder, under the folder's name."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
    return path
