"""The cache of reference statistics: what it holds, what it is keyed by, and what becomes of damage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pctool.errors import WriteError
from pctool.evaluation.features import Extractor
from pctool.evaluation.images import ImageArray
from pctool.evaluation.reference import reference

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), np.uint8)


class Counting:
    """A network that flattens its input and counts the images it sees."""

    def __init__(self):
        self.seen = 0

    def __call__(self, x):
        self.seen += len(x)
        return x.flatten(1), None


@pytest.fixture
def extractor(tmp_path, monkeypatch):
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path))
    return Extractor("flat", "0" * 64, 1, 4, "none", False, torch.device("cpu"), Counting())


def of(extractor, **options):
    settings = {"n_real": 40, "with_features": True, "batch_size": 7, "advance": lambda n: None, **options}
    return reference(ImageArray(IMAGES, settings.pop("real_sha256", "a")), extractor, **settings)


def test_moments_and_features_of_all(extractor):
    """All images: features in their order, and numpy's mean and covariance of them."""
    flat = IMAGES.reshape(40, -1).astype(np.float64)
    found = of(extractor)
    np.testing.assert_array_equal(found.features, flat)
    np.testing.assert_allclose(found.statistics.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.statistics.cov, np.cov(flat, rowvar=False), rtol=1e-10, atol=1e-9)


def test_the_second_time_is_from_the_cache(extractor):
    """Nothing is computed again, the answer is the same, and progress still counts every image."""
    first, counted = of(extractor), []
    second = of(extractor, advance=counted.append)
    assert extractor.network.seen == 40
    assert sum(counted) == 40
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_allclose(first.statistics.cov, second.statistics.cov, rtol=1e-14)


def test_a_subset_is_random_and_always_the_same(extractor):
    """Fewer than all are a fixed sample without repetition that reaches beyond the first images."""
    rows = {tuple(row) for row in of(extractor, n_real=10).features}
    assert len(rows) == 10
    everything = [tuple(row) for row in IMAGES.reshape(40, -1).astype(np.float32)]
    assert max(everything.index(row) for row in rows) > 20
    again = of(extractor, n_real=10, real_sha256="other cache entry")
    assert rows == {tuple(row) for row in again.features}


@pytest.mark.parametrize(
    "change",
    [
        lambda e: (e, {"real_sha256": "b"}),
        lambda e: (e, {"n_real": 39}),
        lambda e: (e, {"split": "test"}),
        lambda e: (replace(e, sha256="1" * 64), {}),
        lambda e: (replace(e, name="other"), {}),
        lambda e: (replace(e, resizer="clean", channels=3), {}),
    ],
    ids=["images", "count", "split", "weights", "network", "resizer"],
)
def test_the_key_has_everything_that_matters(extractor, change):
    """Other images, another count, other weights, another network or resizer are computed anew."""
    of(extractor)
    other, options = change(extractor)
    of(other, **options)
    assert extractor.network.seen >= 79


def test_moments_alone_hold_no_features(extractor):
    """Without KID no features are kept, in the cache or in memory."""
    assert of(extractor, with_features=False).features is None
    assert of(extractor, with_features=False).features is None
    assert extractor.network.seen == 40


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "other arrays", "nan", "features flip", "features gone"])
def test_damage_is_computed_anew(extractor, tmp_path, damage):
    """A cache file cut short, with a flipped bit, of another kind or with NaN is replaced by a good one."""
    expected = of(extractor)
    [path] = tmp_path.glob("reference/*.npz")
    whole = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    elif damage == "text":
        path.write_text("text")
    elif damage == "other arrays":
        np.savez(path, mu=np.zeros(3), sigma=np.zeros((2, 2)))
    elif damage == "nan":
        np.savez(path, mu=np.full(16, np.nan), sigma=np.eye(16))
    elif damage == "features flip":
        features = bytearray(path.with_suffix(".features.npy").read_bytes())
        features[-5] ^= 1
        path.with_suffix(".features.npy").write_bytes(features)
    else:
        path.with_suffix(".features.npy").unlink()
    for count in (80, 80):
        np.testing.assert_allclose(of(extractor).statistics.cov, expected.statistics.cov, rtol=1e-12)
        assert extractor.network.seen == count


def test_a_cache_that_cannot_be_written_costs_no_score(extractor, tmp_path, monkeypatch):
    """The same moments as elsewhere, and a note that names the place; features have no other place, and it says so."""
    kept = of(extractor)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "file"))
    found = of(extractor, with_features=False)
    np.testing.assert_array_equal(found.statistics.cov, kept.statistics.cov)
    assert kept.notes == ()
    assert f"not kept, so that the next score computes them again: cannot write {tmp_path / 'file'}" in found.notes[0]
    with pytest.raises(WriteError, match="choose another place by PCTOOL_CACHE_DIR"):
        of(extractor)
