"""Precision and recall against their definition, pair by pair."""

import numpy as np
import pytest

from pctool.evaluation import precision_recall as module
from pctool.evaluation.precision_recall import precision_recall


def by_loops(real, fake, k):
    """Both shares from sorted distances, without blocks."""

    def covered(queries, x):
        radii = [sorted(np.linalg.norm(a - b) for b in x)[k] for a in x]
        return np.mean([any(np.linalg.norm(q - a) <= r for a, r in zip(x, radii, strict=True)) for q in queries])

    return covered(fake, real), covered(real, fake)


@pytest.mark.parametrize("block", [5, 16, 1000])
@pytest.mark.parametrize("k", [1, 3])
def test_equals_the_loops_in_blocks_of_any_size(block, k, monkeypatch):
    """For unequal counts and any block size it is the share of vectors inside the other set's balls."""
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((43, 4)) + 100, 0.7 * rng.standard_normal((31, 4)) + 100.4
    found = precision_recall(real.astype(np.float32), fake.astype(np.float32), k)
    assert found == pytest.approx(by_loops(real, fake, k), abs=1e-12)
    assert 0 < found[0] < 1
    assert 0 < found[1] < 1


def test_extremes():
    """A set against itself has both 1, a distant one both 0, one collapsed to a point of the other recall near 0."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 3))
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 1000) == (0.0, 0.0)
    precision, recall = precision_recall(x, np.repeat(x[:1], 40, 0))
    assert precision == 1
    assert recall == pytest.approx(1 / 50)


def test_equal_vectors_are_at_distance_0_in_blocks_too(monkeypatch):
    """Where every vector occurs four times balls have the radius 0, and a set covers itself whatever the blocks."""
    monkeypatch.setattr(module, "BLOCK", 64)
    rng = np.random.default_rng(2)
    real = np.repeat(rng.standard_normal((60, 96)).astype(np.float32), 4, 0)
    assert precision_recall(rng.permutation(real), rng.permutation(real)) == (1.0, 1.0)
    assert precision_recall(real, real + np.float32(1e-4)) == (0.0, 0.0)


def test_too_few():
    """No more vectors than neighbours is a ValueError."""
    with pytest.raises(ValueError, match="3 neighbours take more than 3"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
