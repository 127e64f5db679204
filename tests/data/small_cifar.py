"""A CIFAR-10 of 4 images a batch, in every form the real one is handed around in."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pctool.data import catalog

COUNT = 4
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
LABELS = bytes([6, 9, 0, 4])


@dataclass(frozen=True)
class SmallCifar:
    """The images uint8 [6, 4, 3, 32, 32], the test batch last."""

    images: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return self.images[:5].reshape(-1, 3, 32, 32)

    @property
    def test(self) -> np.ndarray:
        return self.images[5]

    def files(self, form: str) -> dict[str, bytes]:
        """The six files in one form: "binary", "python" or "pages"."""
        suffix, encode = {
            "binary": (".bin", binary_batch),
            "python": ("", python_batch),
            "pages": (".png", png_page),
        }[form]
        return {name + suffix: encode(images) for name, images in zip(BATCHES, self.images, strict=True)}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> catalog.DataSet:
        """Puts its counts and sums where those of the real CIFAR-10 are; the checks stay as they are."""
        splits = {
            name: catalog.Split(len(images), hashlib.sha256(images.tobytes()).hexdigest())
            for name, images in (("train", self.train), ("test", self.test))
        }
        about = replace(catalog.DATASETS["cifar10"], splits=splits)
        monkeypatch.setitem(catalog.DATASETS, "cifar10", about)
        return about


def make(seed: int = 0) -> SmallCifar:
    """Random pixels."""
    return SmallCifar(np.random.default_rng(seed).integers(0, 256, (6, COUNT, 3, 32, 32), dtype=np.uint8))


def binary_batch(images: np.ndarray) -> bytes:
    """The official binary form: a label and 3072 planar bytes an image."""
    return b"".join(
        bytes([label]) + image.tobytes() for label, image in zip(LABELS * len(images), images, strict=False)
    )


def python_batch(images: np.ndarray) -> bytes:
    """The official Python form, opcode by opcode as Python 2's protocol 2 wrote it: the pixels are a BINSTRING."""
    pixels = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
        b"(K\x01K" + bytes([len(images)]) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    labels = b"](" + b"".join(bytes([ord("K"), label]) for label in LABELS) + b"e"
    names = b"](" + b"".join(b"U\x09img_%d.png" % i for i in range(len(images))) + b"e"
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04"
        + labels
        + b"U\x04data"
        + array
        + b"U\x09filenames"
        + names
        + b"u."
    )


def png_page(images: np.ndarray) -> bytes:
    """A page: RGB, 1024 pixels wide, a row an image."""
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 3, 1024).transpose(0, 2, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """The files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def tar_bytes(files: dict[str, bytes], folder: str = "cifar-10-batches-bin/") -> bytes:
    """A tar archive of the files, with others beside them as the official ones have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in {"batches.meta.txt": b"airplane\n", **files, "readme.html": b"<html>"}.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def targz(files: dict[str, bytes]) -> bytes:
    """The same, gzipped."""
    return gzip.compress(tar_bytes(files), compresslevel=1, mtime=0)
