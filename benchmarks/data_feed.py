"""Images a second that reach training, cached and streamed: python benchmarks/data_feed.py --resolution 256 --json

Makes JPEG images of LSUN's size (short side 256, quality 75) of random blobs, and times the feeds of `pctool.data.feed`
one after the other, in several rounds; medians. Real photographs compress worse, and decode more slowly.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pctool.data import feed
from pctool.data.decoding import EncodedImages
from pctool.data.folders import open_path
from pctool.data.sampler import SampleOrder


def make_images(path: Path, count: int) -> None:
    """A ZIP of `count` JPEG images of 341 x 256."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            blobs = Image.fromarray(rng.integers(0, 256, (32, 43, 3), dtype=np.uint8))
            buffer = BytesIO()
            blobs.resize((341, 256), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=75)
            archive.writestr(f"{i:06d}.jpg", buffer.getvalue())


def speed(source: feed.Feed, batch_size: int, batches: int) -> float:
    """Images a second over `batches` batches, after as many to start up."""
    stream = source.batches(SampleOrder(len(source), 0).batches(0, batch_size))
    for _ in itertools.islice(stream, batches):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(stream, batches):
        pass
    elapsed = time.perf_counter() - start
    stream.close()
    return batch_size * batches / elapsed


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.zip"
        make_images(path, arguments.images)
        encoded = EncodedImages(open_path(path), arguments.resolution, "centre", arguments.images)
        cpu = torch.device("cpu")
        cached = Path(folder) / "a.npy"
        np.save(cached, encoded[:])
        sources: dict[str, feed.Feed] = {"mapped": feed.MappedFeed(np.load(cached, mmap_mode="r"), cpu)}
        sources |= {f"streamed, {n} workers": feed.StreamedFeed(encoded, cpu, n) for n in arguments.workers}
        found: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(arguments.rounds):
            for name, source in sources.items():
                found[name].append(speed(source, arguments.batch_size, arguments.batches))
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    if arguments.json:
        print(json.dumps({"resolution": arguments.resolution, "images_per_second": medians}))
        return
    for name, value in medians.items():
        print(f"{name}: {value:,.0f} images/s at {arguments.resolution} px")


if __name__ == "__main__":
    main()
