"""Feeds: what the training loop gets, wherever the images are."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from pctool.data import catalog, feed
from pctool.data.decoding import EncodedImages
from pctool.data.folders import open_path
from pctool.data.sampler import SampleOrder

from .test_folders import fill

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return str(fill(tmp_path / "a", 6))


def test_every_feed_gives_the_images_of_the_order(folder, monkeypatch):
    """Resident, mapped, mapped with reading ahead, streamed: the same batches, those of (seed, epoch)."""
    cached = catalog.load(folder, resolution=32, workers=0)
    encoded = EncodedImages(open_path(Path(folder)), 32, "resize", 6)
    assert isinstance(feed.open_feed(cached, CPU), feed.MappedFeed)
    feeds = {
        "resident": feed.ResidentFeed(torch.tensor(cached.images)),
        "mapped": feed.open_feed(cached, CPU),
        "streamed": feed.StreamedFeed(encoded, CPU, 0),
        "workers": feed.StreamedFeed(encoded, CPU, 1),
    }
    expected = [cached.images[SampleOrder(6, 3).indices(8 + 4 * i, 4).numpy()] for i in range(5)]
    for small in (feed.SMALL, 0):
        monkeypatch.setattr(feed, "SMALL", small)
        for name, source in feeds.items():
            assert len(source) == 6
            batches = source.batches(SampleOrder(6, 3).batches(8, 4))
            found = list(itertools.islice(batches, 5))
            batches.close()
            for batch, images in zip(found, expected, strict=True):
                assert batch.dtype == torch.uint8
                np.testing.assert_array_equal(batch.numpy(), images, err_msg=name)


def test_a_set_beyond_the_limit_is_streamed(folder):
    """What `load` leaves encoded gets the feed that decodes."""
    streamed = catalog.load(folder, resolution=32, cache_limit=0)
    assert isinstance(feed.open_feed(streamed, CPU), feed.StreamedFeed)


def test_builtin_images_are_fed_without_a_copy():
    """The built-in array is read in place: batches are writable copies, the whole is not copied."""
    dataset = catalog.load("fashion-mnist", max_images=20)
    source = feed.open_feed(dataset, CPU)
    batches = source.batches([torch.tensor([3, 3, 19])])
    np.testing.assert_array_equal(next(batches).numpy(), dataset.images[[3, 3, 19]])
    assert source.images is dataset.images
