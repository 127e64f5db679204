"""Makes the built-in Fashion-MNIST asset from the official IDX file of its 10,000 test images.

    python tools/make_fashion_mnist_asset.py t10k-images-idx3-ubyte.gz

The asset is the 7,840,000 pixels with each image's columns first (`[10000, x, y]`), as one xz stream. Columns
first and four bits of literal context are what makes it smallest: 3.61 MB, against 3.78 MB for rows first,
3.89 MB for the best PNG layout and 4.24 MB for zlib. The same input and the same liblzma give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import sys
from pathlib import Path

import numpy as np

# SHA-256 of the official t10k-images-idx3-ubyte, unpacked (docs/data.md lists who else publishes it).
IDX_SHA256 = "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
IDX_HEADER = bytes.fromhex("00000803 00002710 0000001c 0000001c")  # uint8, 3 axes: 10000 x 28 x 28
GZIP_MAGIC = b"\x1f\x8b"
ASSET = Path(__file__).resolve().parents[1] / "pctool" / "data" / "assets" / "fashion-mnist-test.xz"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]


def read_idx(path: Path) -> np.ndarray:
    """The test images, uint8 [10000, 28, 28], from the IDX file, gzipped or not. Raises ValueError for another file."""
    data = path.read_bytes()
    if data.startswith(GZIP_MAGIC):
        data = gzip.decompress(data)
    found = hashlib.sha256(data).hexdigest()
    if found != IDX_SHA256 or not data.startswith(IDX_HEADER):
        raise ValueError(f"{path} has SHA-256 {found}; the official t10k-images-idx3-ubyte has {IDX_SHA256}")
    return np.frombuffer(data, np.uint8, offset=len(IDX_HEADER)).reshape(10_000, 28, 28)


def compress(images: np.ndarray) -> bytes:
    """The asset of uint8 images [N, y, x]."""
    return lzma.compress(images.transpose(0, 2, 1).tobytes(), format=lzma.FORMAT_XZ, filters=FILTERS)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes the built-in Fashion-MNIST asset.")
    parser.add_argument("idx", type=Path, help="t10k-images-idx3-ubyte, or its .gz")
    parser.add_argument("--out", type=Path, default=ASSET, help="the asset to write (default: %(default)s)")
    options = parser.parse_args()
    try:
        asset = compress(read_idx(options.idx))
        options.out.write_bytes(asset)
    except (OSError, EOFError, ValueError) as error:
        print(f"make_fashion_mnist_asset: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {len(asset):,} bytes, SHA-256 {hashlib.sha256(asset).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
